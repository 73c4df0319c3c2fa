"""DPO against its formula with two copies of the model, and a reference that is exactly the base."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from patentft.config import ConfigError, build
from patentft.models.adapters.table import adapt
from patentft.models.backbone import Loading
from patentft.objectives import dpo
from patentft.objectives.dpo import DpoConfig, PreferenceModel, margins, preference_loss
from patentft.objectives.encoded import Encoded, SpecialTokens
from patentft.objectives.texts import PreferenceTexts
from patentft.train import worker
from patentft.train.config import TrainConfig
from patentft.train.place import Place
from patentft.train.strategies.table import wrap
from tests.group import Group
from tests.objectives.loop import history
from tests.tiny import save_tiny_chat

WORDS = ["catalyst", "dust", "water", "gas", "filter", "sludge", "furnace", "acid", "bed", "lime", "membrane", "steam"]
LORA = {"kind": "lora", "rank": 4}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.set_num_threads(1)
    return save_tiny_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return AutoTokenizer.from_pretrained(tiny)


def preferences(count: int = 10) -> PreferenceTexts:
    """The chosen answer begins with "yes", the other with "no"; lengths differ."""
    word = [WORDS[n % len(WORDS)] for n in range(count)]
    return PreferenceTexts(
        preference_ids=[f"P{n}" for n in range(count)],
        contexts=[None if n % 4 == 3 else f"a {word[n]} " * (1 + n % 3) for n in range(count)],
        questions=[f"Is it {WORDS[(n * 5) % len(WORDS)]}?" for n in range(count)],
        chosen=[f"yes, {word[n]}" for n in range(count)],
        rejected=["no " * (1 + n % 4) for n in range(count)],
    )


def settings(**changes) -> TrainConfig:
    objective = {"kind": "dpo", "max_tokens": 100, **changes.pop("objective", {})}
    values = {
        "preferences": "p", "preferences_valid": "v", "model": "m", "objective": objective, "adapter": LORA,
        "optimizer": {"lr": 1e-2}, "epochs": 4, "units_per_step": 5,
    }  # fmt: skip
    return build(TrainConfig, {**values, **changes})


def parts(tiny, tokenizer, config: TrainConfig, shaken: float = 0.0) -> tuple[PreferenceModel, Encoded, list[Any]]:
    """The module (its trained weights moved by noise), the encoded data and its units."""
    torch.manual_seed(1)
    backbone = dpo.build(tiny, config.objective, Loading())
    adapted = adapt(backbone, config.adapter, dpo.task(backbone, config.objective))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += shaken * torch.randn_like(parameter)
    encoded, _ = dpo.encode(preferences(), tokenizer, config.objective)
    module = dpo.wrap(adapted, config.objective)
    assert isinstance(module, PreferenceModel)
    return module, encoded, dpo.units(encoded, config.objective, 0, 0)


def answer_score(model, encoded: Encoded, row: int) -> float:
    """log p(answer | prompt) of one row, token by token."""
    ids = torch.from_numpy(encoded.row("input_ids", row).astype(np.int64))
    with torch.no_grad():
        scores = functional.log_softmax(model(input_ids=ids[None]).logits[0], dim=-1)
    return sum(float(scores[place - 1, ids[place]]) for place in range(encoded["prompt_tokens"][row], len(ids)))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("normalised", [False, True])
def test_the_loss_is_the_formula_on_two_models(tiny, tokenizer, smoothing, normalised):
    objective = {"beta": 0.3, "label_smoothing": smoothing, "length_normalised": normalised}
    config = settings(objective=objective)
    module, encoded, units = parts(tiny, tokenizer, config, shaken=0.1)
    policy = copy.deepcopy(module.model).merge_and_unload().eval()  # type: ignore[operator]
    reference = AutoModelForCausalLM.from_pretrained(tiny).eval()
    wanted, right = 0.0, 0.0
    for row in range(0, len(encoded["prompt_tokens"]), 2):
        gain = []
        for answer in (row, row + 1):
            tokens = int(encoded.lengths("input_ids")[answer] - encoded["prompt_tokens"][answer])
            ratio = answer_score(policy, encoded, answer) - answer_score(reference, encoded, answer)
            gain.append(ratio / tokens if normalised else ratio)
        margin = 0.3 * (gain[0] - gain[1])
        wanted += (1 - smoothing) * math.log1p(math.exp(-margin)) + smoothing * math.log1p(math.exp(margin))
        right += margin > 0
    batch = dpo.collate(encoded, units, SpecialTokens.of(tokenizer))
    total, count, _ = dpo.loss(module.eval(), batch, config.objective)
    assert float(total.detach()) == pytest.approx(wanted, rel=1e-4)
    assert float(count) == dpo.weight(batch, config.objective) == 10
    # one preference at a time: padding and company do not matter
    alone = [
        dpo.predict(module, dpo.collate(encoded, [unit], SpecialTokens.of(tokenizer)), config.objective)
        for unit in units
    ]
    found = dpo.metrics(alone, config.objective)
    assert found["loss"] == pytest.approx(wanted / 10, rel=1e-4)
    assert found["preference_log_likelihood"] == -found["loss"]
    assert found["preference_accuracy"] == right / 10


def test_with_its_adapter_off_the_model_is_the_base_exactly(tiny, tokenizer):
    config = settings(dropout=0.1)
    module, encoded, units = parts(tiny, tokenizer, config, shaken=0.1)
    batch = dpo.collate(encoded, units, SpecialTokens.of(tokenizer))
    plain = PreferenceModel(AutoModelForCausalLM.from_pretrained(tiny).eval(), config.objective)
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    module.train()
    policy, reference = module(batch)
    assert torch.equal(reference, plain.log_likelihoods(batch))
    assert not torch.allclose(policy, reference)
    assert reference.grad_fn is None
    assert module.model.training
    assert [name for name, parameter in module.named_parameters() if parameter.requires_grad] == trained
    policy.sum().backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


def test_before_the_first_step_nothing_is_preferred(tiny, tokenizer):
    config = settings()
    module, encoded, units = parts(tiny, tokenizer, config)
    batch = dpo.collate(encoded, units, SpecialTokens.of(tokenizer))
    found = dpo.metrics([dpo.predict(module.eval(), batch, config.objective)], config.objective)
    assert found["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert (found["preference_accuracy"], found["reward_margin"]) == (0.5, 0.0)


def test_the_gradient_is_that_of_a_logistic_regression():
    config = DpoConfig(beta=0.25)
    policy = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    reference = torch.randn(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    preference_loss(margins(policy, reference, torch.ones(8), config), 0.0).sum().backward()
    gain = (policy - reference).detach().view(-1, 2)
    sigmoid = torch.sigmoid(-0.25 * (gain[:, 0] - gain[:, 1]))
    assert policy.grad is not None
    torch.testing.assert_close(policy.grad, torch.stack([-0.25 * sigmoid, 0.25 * sigmoid], dim=1).flatten())


def prepared(tiny, tokenizer, config: TrainConfig, shares: int) -> Encoded:
    """As `shares` ranks would, one after the other."""
    module, encoded, units = parts(tiny, tokenizer, config)
    tokens = SpecialTokens.of(tokenizer)
    collected: list[Any] = []

    def batches(rank):
        return lambda encoded: [dpo.collate(encoded, [unit], tokens) for unit in units[rank::shares]]

    for rank in range(shares - 1):  # what the others send

        def keep(mine):
            collected.extend(mine)
            raise StopIteration

        with pytest.raises(StopIteration):
            dpo.prepare(module, encoded, config.objective, batches(rank), keep)
    return dpo.prepare(module, encoded, config.objective, batches(shares - 1), lambda mine: collected + mine)


@pytest.mark.parametrize("adapter", [{"kind": "full"}, {"kind": "last_layers", "blocks": 1}])
def test_a_precomputed_reference_is_rounded_as_the_training_rounds(tiny, tokenizer, adapter):
    """Before the first step the two are the same, also where some weights are held in bfloat16 and others are not."""
    config = settings(
        objective={"reference": "precomputed"}, adapter=adapter, precision="bf16", micro_batch_tokens=10_000
    )
    encoded, _ = dpo.encode(preferences(), tokenizer, config.objective)
    place, tokens = Place(0, 1, torch.device("cpu")), SpecialTokens.of(tokenizer)
    module = worker.build(config, tiny, place.device)
    prepared = worker._prepared(config, dpo, module, worker.Data(encoded, encoded, tokens), place).train
    assert isinstance(prepared, Encoded)
    groups = worker.parameter_groups(config, module)
    strategy = wrap(config.strategy, module, groups, config.optimizer, place, config.precision)
    batch = dpo.collate(prepared, dpo.units(prepared, config.objective, 0, 0), tokens)
    strategy.model.eval()
    with torch.no_grad(), strategy.micro_batch(True):
        policy, reference = strategy.model(batch)
    torch.testing.assert_close(policy, reference, atol=1e-5, rtol=1e-5)


def test_a_precomputed_reference_is_the_one_with_the_adapter_off(tiny, tokenizer):
    config = settings(objective={"reference": "precomputed"})
    one, three = (prepared(tiny, tokenizer, config, shares) for shares in (1, 3))
    assert np.array_equal(one["reference"], three["reference"])
    module, encoded, units = parts(tiny, tokenizer, settings(), shaken=0.1)
    tokens = SpecialTokens.of(tokenizer)
    _, reference = module(dpo.collate(encoded, units, tokens))
    np.testing.assert_allclose(reference.numpy(), one["reference"], rtol=1e-5)
    batch = dpo.collate(one, [units[3], units[1]], tokens)
    assert batch["reference"].tolist() == one["reference"][[6, 7, 2, 3]].tolist()
    assert dpo.prepare(module, encoded, settings().objective, lambda _: [], lambda mine: mine) is encoded


@pytest.mark.parametrize("reference", ["adapter_off", "precomputed"])
def test_it_learns_what_is_preferred(tiny, tokenizer, reference):
    adapter = LORA if reference == "adapter_off" else {"kind": "full"}
    config = settings(objective={"reference": reference}, adapter=adapter)
    encoded, _ = dpo.encode(preferences(), tokenizer, config.objective)
    found = history(config, tiny, encoded, encoded)
    assert found[-1]["loss"] < found[0]["loss"] < math.log(2)
    assert found[-1]["preference_accuracy"] > 0.9


def run_in_group(rank: int, world_size: int, folder: str, tiny: str, config: TrainConfig) -> None:
    encoded, _ = dpo.encode(preferences(), AutoTokenizer.from_pretrained(tiny), config.objective)  # type: ignore[arg-type]
    found = history(config, tiny, encoded, encoded, rank, world_size)
    if rank == 0:
        (Path(folder) / "history.json").write_text(json.dumps(found))


@pytest.mark.parametrize("reference", ["adapter_off", "precomputed"])
def test_world_size_does_not_move_the_result(group: Group, tiny, tokenizer, tmp_path: Path, reference):
    # of the last step's one preference, a rank has none
    config = settings(units_per_step=3, epochs=2, objective={"reference": reference})
    encoded, _ = dpo.encode(preferences(), tokenizer, config.objective)
    alone = history(config, tiny, encoded, encoded)
    group.run(run_in_group, str(tmp_path), tiny, config)
    together = json.loads((tmp_path / "history.json").read_text())
    assert len(alone) == len(together) == 2
    for one, two in zip(alone, together, strict=True):
        assert two == pytest.approx(one, rel=1e-4)


def test_a_model_without_an_adapter_to_switch_off_is_refused(tiny, tokenizer):
    with pytest.raises(ConfigError, match=r"set adapter\.kind: lora, or objective\.reference: precomputed"):
        parts(tiny, tokenizer, settings(adapter={"kind": "full"}))
