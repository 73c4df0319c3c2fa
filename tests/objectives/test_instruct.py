"""Instruction tuning against transformers' own loss, one example at a time."""

from __future__ import annotations

import math

import numpy as np
import peft
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from patentft import stats
from patentft.config import ConfigError, build
from patentft.models.adapters.table import adapt
from patentft.models.backbone import Loading
from patentft.objectives import instruct
from patentft.objectives.answers import AnswerModel, answer_logits
from patentft.objectives.encoded import SpecialTokens
from patentft.objectives.instruct import InstructConfig
from patentft.objectives.packed import IGNORED
from patentft.objectives.texts import PairTexts, QaTexts
from patentft.train.config import TrainConfig
from tests.objectives.loop import history
from tests.tiny import save_tiny_chat, save_tiny_llama

WORDS = ["catalyst", "dust", "water", "gas", "filter", "sludge", "furnace", "acid", "bed", "lime", "membrane", "steam"]
CONFIG = InstructConfig(max_tokens=120, patent_tokens=30)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.set_num_threads(1)
    return save_tiny_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return AutoTokenizer.from_pretrained(tiny)


def questions(count: int = 12) -> QaTexts:
    """The answer is a word of the context; lengths differ."""
    word = [WORDS[n % len(WORDS)] for n in range(count)]
    return QaTexts(
        qa_ids=[f"Q{n}" for n in range(count)],
        contexts=[None if n % 5 == 4 else f"a {word[n]} device " * (1 + n % 4) for n in range(count)],
        questions=[f"Which {WORDS[(n * 5) % len(WORDS)]}?" for n in range(count)],
        answers=[f"the {word[n]}" * (1 + n % 2) for n in range(count)],
    )


def pairs(groups: int = 8) -> PairTexts:
    """A match repeats a word of the section, its two negatives do not."""
    rows = []
    for group in range(groups):
        for step in (0, 1, 3):
            word, other = WORDS[group % len(WORDS)], WORDS[(group + step) % len(WORDS)]
            rows.append((f"{word} " * (1 + group % 3), f"a {other} device", group, int(step == 0)))
    return PairTexts(
        sections=[row[0] for row in rows],
        patents=[row[1] for row in rows],
        technique_ids=[f"T{row[2]}" for row in rows],
        patent_ids=[f"P{n}" for n in range(len(rows))],
        label=[row[3] for row in rows],
        group=[row[2] for row in rows],
        weight=[1.0 + n % 2 for n in range(len(rows))],
        cosine=[0.5] * len(rows),
        similar=frozenset(),
    )


def batch_of(texts, tokenizer, config=CONFIG, rows=None):
    encoded, _ = instruct.encode(texts, tokenizer, config)
    units = instruct.units(encoded, config, 0, 0)
    chosen = units if rows is None else [units[row] for row in rows]
    return encoded, instruct.collate(encoded, chosen, SpecialTokens.of(tokenizer))


def module_of(tiny, config=CONFIG):
    return instruct.wrap(instruct.build(tiny, config, Loading()), config).eval()


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_the_loss_is_that_of_each_example_alone_by_transformers(tiny, tokenizer, template):
    config = build(InstructConfig, {"max_tokens": 120, "patent_tokens": 30, "prompt": {"template": template}})
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    for texts in (questions(), pairs()):
        encoded, batch = batch_of(texts, tokenizer, config)
        with torch.no_grad():
            total, weight, _ = instruct.loss(module_of(tiny, config), batch, config)
        wanted = weights = 0.0
        for row in range(len(encoded["prompt_tokens"])):
            ids = torch.from_numpy(encoded.row("input_ids", row).astype(np.int64))[None]
            labels = ids.clone()
            labels[0, : encoded["prompt_tokens"][row]] = IGNORED
            size = float((labels != IGNORED).sum() * encoded["weight"][row])
            with torch.no_grad():
                wanted += float(model(input_ids=ids, labels=labels).loss) * size
            weights += size
        assert float(total) == pytest.approx(wanted, rel=1e-5)
        assert float(weight) == weights == instruct.weight(batch, config)


def test_what_is_learned_is_the_answer_and_its_end(tokenizer):
    encoded, batch = batch_of(questions(), tokenizer)
    for row, answer in enumerate(questions().answers):
        learned = batch["labels"][row]
        assert tokenizer.decode(learned[learned != IGNORED]) == f"{answer}<|im_end|>"
    encoded, batch = batch_of(pairs(), tokenizer)
    for row, label in enumerate(pairs().label):
        learned = batch["labels"][row]
        assert tokenizer.decode(learned[learned != IGNORED]) == ("Yes" if label else "No") + "<|im_end|>"
        prompt = tokenizer.decode(encoded.row("input_ids", row)[: encoded["prompt_tokens"][row]])
        assert "Answer only Yes or No." in prompt
        assert f"Technique: {pairs().sections[row].strip()}" in prompt
        assert f"Patent: {pairs().patents[row]}<|im_end|>" in prompt


def test_padding_moves_neither_loss_nor_gradient(tiny, tokenizer):
    found = []
    for batches in ([None], [[0, 7], [1, 2, 3, 4], [5], [6, 8, 9, 10, 11]]):
        module = module_of(tiny)
        total = sum(
            instruct.loss(module, batch_of(questions(), tokenizer, rows=rows)[1], CONFIG)[0] for rows in batches
        )
        total.backward()
        found.append((float(total.detach()), {name: p.grad for name, p in module.named_parameters()}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-4, rtol=1e-3)


def adapters():
    common = {"task_type": "CAUSAL_LM"}
    yield "none", None
    yield "lora", peft.LoraConfig(**common, r=4, target_modules="all-linear", init_lora_weights=False)
    yield "lora on the head", peft.LoraConfig(**common, target_modules=["lm_head"], init_lora_weights=False)
    yield "ia3", peft.IA3Config(**common)
    yield "prompt", peft.PromptTuningConfig(**common, num_virtual_tokens=5)
    yield "prefix", peft.PrefixTuningConfig(**common, num_virtual_tokens=5)


@pytest.mark.parametrize("adapter", [each for _, each in adapters()], ids=[name for name, _ in adapters()])
def test_logits_at_the_answers_are_those_of_the_whole_model(tiny, tokenizer, adapter):
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    if adapter is not None:
        model = peft.get_peft_model(model, adapter).eval()
    _, batch = batch_of(questions(), tokenizer)
    with torch.no_grad():
        whole = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        whole = whole[:, whole.shape[1] - batch["input_ids"].shape[1] :]
        found = answer_logits(model, batch)
    wanted = batch["labels"] != IGNORED
    assert found.shape == (int(wanted.sum()), whole.shape[2])
    torch.testing.assert_close(found, whole[wanted], atol=1e-5, rtol=1e-4)
    again = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert again.shape[:2] == (len(wanted), again.shape[1])  # the model is as it was


def test_logits_are_not_rounded_by_autocast(tiny, tokenizer):
    module = module_of(tiny)
    _, batch = batch_of(questions(), tokenizer)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = module(batch)
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert module.model(input_ids=batch["input_ids"]).logits.dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_metrics_are_those_of_each_example_alone(tiny, tokenizer):
    module = module_of(tiny)
    encoded, _ = batch_of(pairs(), tokenizer)
    units = instruct.units(encoded, CONFIG, 0, 0)
    tokens = SpecialTokens.of(tokenizer)
    order = [units[row] for row in np.random.default_rng(0).permutation(len(units))]
    parts = [
        instruct.predict(module, instruct.collate(encoded, order[start : start + 5], tokens), CONFIG)
        for start in range(0, len(order), 5)
    ]
    found = instruct.metrics(parts, CONFIG)
    odds, likelihood, right, exact, count = [], 0.0, 0, 0, 0
    yes, no = (tokenizer(word)["input_ids"][0] for word in ("Yes", "No"))
    for row in range(len(units)):
        ids, start = torch.from_numpy(encoded.row("input_ids", row).astype(np.int64)), encoded["prompt_tokens"][row]
        with torch.no_grad():
            scores = functional.log_softmax(module.model(input_ids=ids[None]).logits[0], dim=-1)
        odds.append(float(scores[start - 1, yes] - scores[start - 1, no]))
        hits = [int(scores[place - 1].argmax() == ids[place]) for place in range(start, len(ids))]
        likelihood += sum(float(scores[place - 1, ids[place]]) for place in range(start, len(ids)))
        right, exact, count = right + sum(hits), exact + all(hits), count + len(hits)
    assert found["log_likelihood"] == pytest.approx(likelihood / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(-likelihood / count), rel=1e-5)
    assert found["accuracy"] == right / count
    assert found["exact_match"] == exact / len(units)
    assert found["auc"] == found["choice"] == pytest.approx(stats.auc(odds, np.array(pairs().label) > 0))
    _, batch = batch_of(questions(), tokenizer)
    found = instruct.metrics([instruct.predict(module, batch, CONFIG)], CONFIG)
    assert found["choice"] == found["log_likelihood"]


def test_log_odds_are_taken_where_the_answers_differ(tiny, tokenizer):
    config = InstructConfig(max_tokens=120, patent_tokens=30, yes="the filter is", no="the filter is not")
    encoded, batch = batch_of(pairs(), tokenizer, config)
    yes, no = (tokenizer(f"{answer}<|im_end|>")["input_ids"] for answer in (config.yes, config.no))
    place = len(yes) - 1
    assert encoded["odds"].tolist() == [[yes[place], no[place], place]] * len(pairs().label)
    module = module_of(tiny, config)
    found = instruct.predict(module, batch, config)["log_odds"]
    for row, start in enumerate(encoded["prompt_tokens"]):
        ids = torch.tensor([*encoded.row("input_ids", row)[:start], *yes[:place]])
        with torch.no_grad():
            last = module.model(input_ids=ids[None]).logits[0, -1]
        assert found[row] == pytest.approx(float(last[yes[place]] - last[no[place]]), abs=1e-5)


def test_the_patent_is_kept_whole_and_the_section_is_cut(tokenizer):
    texts = pairs(1)
    long = PairTexts(**{**vars(texts), "sections": ["dust " * 300] * 3, "patents": ["gas " * 60, "lime", "acid bed"]})
    encoded, counts = instruct.encode(long, tokenizer, CONFIG)
    assert (counts["pairs"], counts["patents_cut"], counts["contexts_cut"], counts["answers_cut"]) == (3, 1, 3, 0)
    assert (encoded.lengths("input_ids") <= 120).all()
    assert (encoded.lengths("input_ids") > 110).all()
    assert "Patent: acid bed<|im_end|>" in tokenizer.decode(encoded.row("input_ids", 2))
    kept = tokenizer.decode(encoded.row("input_ids", 0)).split("Patent: ")[1].split("<|im_end|>")[0]
    assert len(tokenizer(kept)["input_ids"]) <= 30
    assert ("gas " * 60).startswith(kept)


def test_an_example_without_any_answer_is_an_error(tokenizer):
    with pytest.raises(ConfigError, match=r"question Q0: its prompt has \d+ tokens .* objective\.max_tokens = 20"):
        instruct.encode(questions(), tokenizer, InstructConfig(max_tokens=20, patent_tokens=3))
    with pytest.raises(ConfigError, match=r"pair T0, P0: its prompt has \d+ tokens"):
        instruct.encode(pairs(), tokenizer, InstructConfig(max_tokens=20, patent_tokens=3))
    words = {"patent_tokens": 30, "yes": "a device", "no": "a filter"}
    bare = PairTexts(**{**vars(pairs(1)), "sections": [""] * 3})
    fits = instruct.encode(bare, tokenizer, InstructConfig(max_tokens=200, **words))[0]["prompt_tokens"][0]
    with pytest.raises(ConfigError, match=r"'a device' and 'a filter' are the same tokens: raise it"):
        instruct.encode(pairs(1), tokenizer, InstructConfig(max_tokens=int(fits) + 1, **words))
    with pytest.raises(ConfigError, match=r"every pair has the label 1"):
        instruct.encode(PairTexts(**{**vars(pairs()), "label": [1] * 24}), tokenizer, CONFIG)


def test_what_cannot_be_is_refused(tiny):
    for given, message in (
        ({"yes": "No"}, "yes and no are both 'No'"),
        ({"yes": True}, "yes: YAML reads Yes, No, On and Off as true and false, here as True: put quotes around it"),
        ({"patent_tokens": 64, "max_tokens": 64}, "patent_tokens 64 leaves no room"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(InstructConfig, given)
    with pytest.raises(ConfigError, match=r"max_tokens is 1,024, but the model has 256 positions"):
        instruct.build(tiny, InstructConfig(), Loading())
    with pytest.raises(ConfigError, match=r"objective\.kind ppo: there is no reinforcement learning here"):
        settings(objective={"kind": "ppo"})


# The loop


def settings(**changes) -> TrainConfig:
    values = {
        "qa": "q", "qa_valid": "v", "model": "m", "optimizer": {"lr": 1e-2}, "epochs": 4, "units_per_step": 6,
        "objective": {"kind": "instruct", "max_tokens": 120, "patent_tokens": 30},
    }  # fmt: skip
    return build(TrainConfig, {**values, **changes})


@pytest.mark.parametrize("adapter", [{"kind": "full"}, {"kind": "lora", "rank": 4}])
def test_it_learns_answers(tiny, tokenizer, adapter):
    config = settings(adapter=adapter)
    encoded, _ = instruct.encode(questions(24), tokenizer, config.objective)
    found = history(config, tiny, encoded, encoded)
    assert found[-1]["log_likelihood"] > found[0]["log_likelihood"]
    assert found[-1]["accuracy"] > 0.2


def test_it_learns_pairs(tmp_path):
    tiny = save_tiny_llama(tmp_path)
    keys = {"data": "d", "roles": "r", "pairs": "p", "techniques": "t", "qa": None, "qa_valid": None}
    objective = {"kind": "instruct", "max_tokens": 120, "patent_tokens": 30, "prompt": {"template": "plain"}}
    config = settings(**keys, objective=objective, epochs=8, optimizer={"lr": 1e-2, "schedule": "constant"})
    texts = pairs(12)
    patents = [("steam " if label else "sludge ") * 8 for label in texts.label]
    texts = PairTexts(**{**vars(texts), "patents": patents})
    encoded, _ = instruct.encode(texts, AutoTokenizer.from_pretrained(tiny), config.objective)
    found = history(config, tiny, encoded, encoded)
    assert found[-1]["log_likelihood"] > found[0]["log_likelihood"]
    assert found[-1]["auc"] > 0.9
    assert found[-1]["exact_match"] > 0.9
    assert found[-1]["choice"] == found[-1]["auc"]


def test_lora_around_a_model(tiny, tokenizer):
    config = settings(adapter={"kind": "lora", "rank": 4})
    backbone = instruct.build(tiny, CONFIG, Loading())
    module = instruct.wrap(adapt(backbone, config.adapter, instruct.task(backbone, CONFIG)), CONFIG)
    assert isinstance(module, AnswerModel)
    _, batch = batch_of(questions(), tokenizer)
    with torch.no_grad():
        plain, mine = (instruct.loss(each, batch, CONFIG)[0] for each in (module_of(tiny), module))
    assert float(mine) == pytest.approx(float(plain), rel=1e-6)
