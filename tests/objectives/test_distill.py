import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from patentft.config import ConfigError, build
from patentft.location import Location
from patentft.models.backbone import Loading
from patentft.models.blocks import find_blocks
from patentft.objectives import distill
from patentft.objectives.distill import UNKNOWN, DistillConfig, kl, pair_losses
from patentft.objectives.encoded import Encoded, SpecialTokens
from patentft.objectives.texts import DistilledTexts
from patentft.scoring.scorer import load_scorer
from patentft.train import export
from patentft.train.checkpoint import seal
from patentft.train.config import TrainConfig
from tests.group import Group
from tests.objectives.loop import history
from tests.tiny import save_tiny_bert, save_tiny_llama, save_tiny_mpnet

WORDS = ["catalyst", "dust", "water", "gas", "filter", "sludge", "furnace", "acid", "bed", "lime", "membrane", "steam"]


def texts(techniques: int = 8, each: int = 6) -> DistilledTexts:
    """A teacher that likes patents with lime, and dislikes those with steam; one label in three is known."""
    rows = []
    for technique in range(techniques):
        for patent in range(each):
            second = WORDS[(technique * 5 + 2 * patent) % len(WORDS)]
            odds = 4.0 * (second == "lime") - 3.0 * (second == "steam") - 0.5
            label = [1 if odds > 0 else 0, None, None][(technique + patent) % 3]
            section = f"{WORDS[technique % len(WORDS)]} bed " * (1 + technique % 3)
            rows.append((section, f"a {second} device " * (1 + patent % 2), f"T{technique}", f"P{patent}", odds, label))
    columns = list(zip(*rows, strict=True))
    return DistilledTexts(*columns)


def settings(objective=None, **changes) -> TrainConfig:
    values = {
        "data": "d", "roles": "r", "techniques": "t", "teacher": "s", "candidates": "c", "model": "m",
        "objective": {"kind": "distill", "max_tokens": 64, "patent_tokens": 32, **(objective or {})},
        "optimizer": {"lr": 3e-3}, "epochs": 8, "units_per_step": 8, "checkpoint_seconds": 1e9,
    }  # fmt: skip
    return build(TrainConfig, {**values, **changes})


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)  # tiny models: more would only wait for each other


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return save_tiny_bert(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return AutoTokenizer.from_pretrained(tiny)


def slow_loss(student: float, teacher: float, label: int, config: DistillConfig) -> float:
    """The definition, with probabilities."""
    p, q = (1 / (1 + math.exp(-odds / config.temperature)) for odds in (teacher, student))
    soft = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    own = 1 / (1 + math.exp(-student))
    hard = {1: -math.log(own), 0: -math.log(1 - own), UNKNOWN: 0.0}[label]
    return config.alpha * config.temperature**2 * soft + (1 - config.alpha) * hard


def test_loss_equals_the_slow_reference():
    rng = np.random.default_rng(0)
    config = DistillConfig(alpha=0.6, temperature=1.7)
    student, teacher = rng.normal(size=(2, 30)) * 4
    label = rng.integers(-1, 2, 30)
    found = pair_losses(torch.tensor(student), torch.tensor(teacher), torch.tensor(label), config)
    expected = [slow_loss(*row, config) for row in zip(student, teacher, label.tolist(), strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_a_student_that_agrees_has_no_gradient_from_the_teacher():
    teacher = torch.tensor([-30.0, -3.0, 0.0, 2.0, 80.0])
    student = teacher.clone().requires_grad_(True)
    found = pair_losses(student, teacher, torch.full((5,), UNKNOWN), DistillConfig())
    found.sum().backward()
    assert student.grad is not None
    assert found.tolist() == [0.0] * 5
    assert float(student.grad.abs().max()) < 1e-6


def test_the_gradient_does_not_shrink_with_the_temperature():
    """At high temperatures it tends to (student - teacher) / 4, which is why T^2 stands before the KL."""
    teacher = torch.tensor([3.0, -1.0], dtype=torch.float64)
    student = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    config = DistillConfig(alpha=1.0, temperature=1000.0)
    pair_losses(student, teacher, torch.full((2,), UNKNOWN), config).sum().backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, -teacher / 4, rtol=1e-5, atol=0)


def test_log_odds_far_from_even_stay_finite():
    found = kl(torch.tensor([200.0, -200.0, 200.0]), torch.tensor([-200.0, 200.0, 200.0]))
    assert found.tolist() == pytest.approx([200.0, 200.0, 0.0])


def test_the_hard_label_is_learned_only_where_it_is_known():
    config = DistillConfig(alpha=0.0)
    student = torch.zeros(3, requires_grad=True)
    pair_losses(student, torch.ones(3), torch.tensor([1, 0, UNKNOWN]), config).sum().backward()
    assert student.grad is not None
    assert student.grad.tolist() == pytest.approx([-0.5, 0.5, 0.0])


@pytest.mark.parametrize("save", [save_tiny_bert, save_tiny_mpnet, save_tiny_llama])
def test_padding_does_not_move_a_logit(save, tmp_path: Path):
    folder = save(tmp_path)
    config = settings().objective
    assert isinstance(config, DistillConfig)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    module = distill.wrap(distill.build(folder, config, Loading(0.0)), config).eval()
    torch.nn.init.normal_(distill.head(distill.backbone(module)).get_parameter("weight"))
    encoded, counts = distill.encode(texts(), tokenizer, config)
    assert counts["pairs"] == 48
    units, tokens = distill.units(encoded, config, 0, 0), SpecialTokens.of(tokenizer)
    assert len({unit.tokens for unit in units}) > 1
    together = module(distill.collate(encoded, units, tokens))
    alone = torch.cat([module(distill.collate(encoded, [unit], tokens)) for unit in units])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_metrics_do_not_depend_on_batches():
    config = DistillConfig()
    rng = np.random.default_rng(3)
    whole = {
        "row": np.arange(60),
        "student": rng.normal(size=60).astype(np.float32).round(),  # with ties
        "teacher": rng.normal(size=60).astype(np.float32),
        "label": rng.integers(-1, 2, 60),
        "technique": np.repeat([0, 2, 5], 20),
        "loss": rng.random(60).astype(np.float32),
    }
    order = rng.permutation(60)
    parts = [{name: values[cut] for name, values in whole.items()} for cut in np.split(order, [7, 30])]
    found = distill.metrics([whole], config)
    assert distill.metrics(parts, config) == pytest.approx(found, rel=1e-6)
    assert found[distill.METRIC] == -found["kl"] < 0
    same = distill.metrics([{**whole, "student": whole["teacher"]}], config)
    assert same["top_tenth_overlap"] == same["correlation"] == pytest.approx(1.0)
    assert same["kl"] == same["mean_absolute_difference"] == 0.0
    assert same["student_auc"] == same["teacher_auc"]
    constant = distill.metrics([{**whole, "student": np.zeros(60, np.float32)}], config)
    assert constant["correlation"] == 0.0
    unlabelled = distill.metrics([{**whole, "label": np.full(60, UNKNOWN)}], config)
    assert "student_auc" not in unlabelled


def test_it_learns_what_the_teacher_says(tiny, tokenizer):
    config = settings(optimizer={"lr": 5e-3}, epochs=20)
    encoded, _ = distill.encode(texts(), tokenizer, config.objective)  # type: ignore[arg-type]
    found = history(config, tiny, encoded, encoded)
    assert found[-1]["correlation"] > 0.9
    assert found[-1]["correlation"] > found[0]["correlation"]
    assert found[-1]["kl"] < 0.3 * found[0]["kl"]


def run_in_group(rank: int, world_size: int, folder: str, tiny: str, config: TrainConfig) -> None:
    encoded, _ = distill.encode(texts(), AutoTokenizer.from_pretrained(tiny), config.objective)  # type: ignore[arg-type]
    found = history(config, tiny, encoded, encoded, rank, world_size)
    if rank == 0:
        (Path(folder) / "history.json").write_text(json.dumps(found))


def test_world_size_does_not_move_the_result(group: Group, tiny, tokenizer, tmp_path: Path):
    # 48 pairs: of the last step's one, a rank has none
    # an epsilon that AdamW notices: rounding must not decide the sign of a step
    optimizer = {"lr": 3e-3, "epsilon": 1e-4}
    config = settings(units_per_step=47, epochs=3, micro_batch_tokens=200, optimizer=optimizer)
    encoded, _ = distill.encode(texts(), tokenizer, config.objective)  # type: ignore[arg-type]
    alone = history(config, tiny, encoded, encoded)
    group.run(run_in_group, str(tmp_path), tiny, config)
    together = json.loads((tmp_path / "history.json").read_text())
    assert len(alone) == len(together) == 3
    for one, two in zip(alone, together, strict=True):
        del one["correlation"], two["correlation"]  # of log-odds that hardly differ yet: made of rounding
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)


def test_a_teacher_without_numbers_is_refused(tokenizer):
    given = texts(1, 3)
    odd = DistilledTexts(**{**vars(given), "log_odds": [0.1, float("nan"), float("inf")]})
    with pytest.raises(ConfigError, match=r"'T0' and patent 'P1' are nan \(and 1 more"):
        distill.encode(odd, tokenizer, DistillConfig())
    unknown = DistilledTexts(**{**vars(given), "label": [None] * 3})
    with pytest.raises(ConfigError, match=r"alpha is 0, and no pair has a known label"):
        distill.encode(unknown, tokenizer, DistillConfig(alpha=0))


def test_what_cannot_be_quantized_or_cut_is_refused_before_the_training():
    with pytest.raises(ConfigError, match=r"adapter prompt is exported beside its base.*set adapter\.kind: full"):
        settings({"quantize": ["nf4"]}, adapter={"kind": "prompt"})
    with pytest.raises(ConfigError, match=r"adapter lora is saved for its whole base"):
        settings({"layers": [0]}, adapter={"kind": "lora"})
    with pytest.raises(ConfigError, match=r"objective distill learns from .*teacher, candidates; set candidates"):
        settings(candidates=None)


@pytest.mark.parametrize("save", [save_tiny_bert, save_tiny_mpnet, save_tiny_llama])
def test_a_student_of_fewer_blocks_is_the_whole_one_with_the_others_left_out(save, tmp_path: Path):
    folder = save(tmp_path, layers=4)
    whole, cut = (
        distill.build(folder, DistillConfig(max_tokens=64, patent_tokens=32, layers=layers), Loading(0.0)).eval()
        for layers in (None, [0, 3])
    )
    _, blocks = find_blocks(whole)
    for index in (1, 2):  # a block that hands on what it is given
        blocks[index].forward = lambda hidden_states, *args, **kwargs: _as_given(folder, hidden_states)
    torch.nn.init.normal_(distill.head(whole).get_parameter("weight"))
    name = distill.head_name(whole)
    cut.get_submodule(name).load_state_dict(whole.get_submodule(name).state_dict())
    cut.save_pretrained(tmp_path / "again")  # type: ignore[operator]
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again").eval()
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        expected = whole(input_ids=ids).logits
        torch.testing.assert_close(cut(input_ids=ids).logits, expected)
        torch.testing.assert_close(again(input_ids=ids).logits, expected)
    with pytest.raises(ConfigError, match=r"the model has 4; give places from 0 to 3, rising"):
        distill.build(folder, DistillConfig(max_tokens=64, patent_tokens=32, layers=[1, 4]), Loading())


def _as_given(folder: str, hidden: torch.Tensor):
    kind = json.loads((Path(folder) / "config.json").read_text())["model_type"]
    return (hidden,) if kind == "mpnet" else hidden


@pytest.mark.parametrize("adapter", [{"kind": "full"}, {"kind": "lora", "rank": 4}])
@pytest.mark.parametrize("save", [save_tiny_bert, save_tiny_mpnet, save_tiny_llama])
def test_quantized_students_load_as_they_are_and_the_card_says_what_they_lose(save, adapter, tmp_path: Path):
    base = save(tmp_path)
    config = settings({"quantize": ["nf4", "int8"], "quantize_pairs": 30}, adapter=adapter, keep="last")
    tokenizer = AutoTokenizer.from_pretrained(base)
    given = texts()
    valid, _ = distill.encode(given, tokenizer, config.objective)  # type: ignore[arg-type]
    out, measured = exported(config, base, tmp_path, valid)
    numbers = measured["quantized"]
    assert numbers["pairs"] == 30
    exact = _scores(out, given)
    card = (out / "README.md").read_text()
    for kind in ("nf4", "int8"):
        model = AutoModelForSequenceClassification.from_pretrained(out / kind)
        assert model.config.quantization_config.quant_method.value == "bitsandbytes"
        assert AutoTokenizer.from_pretrained(out / kind).get_vocab() == tokenizer.get_vocab()
        difference = np.abs(_scores(out / kind, given) - exact)
        assert 0 < numbers[kind]["mean_difference"] <= numbers[kind]["max_difference"] <= difference.max() * 1.05 + 1e-4
        assert 0 < numbers[kind]["bytes"] < numbers["fp32"]["bytes"]
        assert {"kl", "student_auc", "teacher_auc"} <= numbers[kind].keys()
        assert f"| {kind} (in `{kind}/`) | log-odds differ by" in card
    assert numbers["int8"]["mean_difference"] < numbers["nf4"]["mean_difference"]


def _scores(folder: Path, given: DistilledTexts) -> np.ndarray:
    """As the scoring stage would: cosine_weight is carried by the quantized folder too."""
    scorer, weight = load_scorer(
        str(folder), device=torch.device("cpu"), max_tokens=64, patent_tokens=32, tokens_per_batch=256
    )
    assert weight == 0.0
    return scorer.logits(given.sections, given.patents)[0]


def exported(config: TrainConfig, base: str, folder: Path, valid: Encoded) -> tuple[Path, dict]:
    """The export of drawn weights."""
    module = export._build(config, base, Loading(config.dropout))
    generator = torch.Generator().manual_seed(3)
    state = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in export.trainable_state(module).items()
    }
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    save_file(state, checkpoint / "trained.safetensors")
    progress = {"next_step": 1, "best_metric": None, "best_step": None, "history": [{"step": 1}]}
    (checkpoint / "progress.json").write_text(json.dumps(progress))
    seal(checkpoint, 0)
    (folder / "stage" / "encoded").mkdir(parents=True)
    (folder / "stage" / "encoded" / "valid.safetensors").write_bytes(valid.to_bytes())

    class Stage:
        name, inputs, location = "student", {"teacher": "id"}, Location(folder / "stage")

    stage: object = Stage()
    _, measured = export.export_model(config, base, checkpoint, folder / "export", stage)  # type: ignore[arg-type]
    return folder / "export", measured
