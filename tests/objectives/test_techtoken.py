"""Codes as tokens: they are drawn, masked and ranked as they should be, and nothing but them moves in the matrix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from patentft import schema
from patentft.config import ConfigError, build
from patentft.location import Location
from patentft.models.adapters.state import fold, load_trainable_state
from patentft.models.backbone import Loading
from patentft.models.load import load_encoder
from patentft.models.vocabulary import GrownEmbedding, NewTokens, grow, join
from patentft.objectives import techtoken
from patentft.objectives.encoded import SpecialTokens
from patentft.objectives.techtoken import TechTokenConfig
from patentft.objectives.texts import CodedTexts
from patentft.store import open_stage
from patentft.train import tokenizer as tokenizers
from patentft.train import worker
from patentft.train.config import TrainConfig
from patentft.train.data import LOADERS
from patentft.train.place import Place
from tests.objectives.test_masked import final
from tests.tiny import save_tiny_bert, save_tiny_mpnet

WORDS = ["catalyst", "dust", "water", "gas", "filter", "sludge", "furnace", "acid", "bed", "lime", "membrane", "steam"]
SYMBOLS = [f"{section}0{digit}K{digit}/0{digit}" for section in "ABC" for digit in (1, 2, 3, 4)]
CONFIG = TechTokenConfig()


def coded(count: int) -> CodedTexts:
    """Texts of a word, with its code and the next one's; every fifth text has none."""
    texts, codes = [], []
    for number in range(count):
        kind = number % len(WORDS)
        texts.append(f"a {WORDS[kind]} device with {WORDS[kind]} " * (1 + number % 3))
        codes.append([] if number % 5 == 4 else [SYMBOLS[kind], SYMBOLS[(kind + 1) % len(WORDS)], "Y02"])
    return CodedTexts([f"T{number}" for number in range(count)], texts, codes)


TEXTS = coded(60)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    untied = tmp_path_factory.mktemp("untied")
    found = {
        "bert": save_tiny_bert(tmp_path_factory.mktemp("bert")),
        "mpnet": save_tiny_mpnet(tmp_path_factory.mktemp("mpnet")),
        "untied": save_tiny_bert(untied),
    }
    torch.manual_seed(3)  # with heads of their own, so that outputs can be compared
    for name, folder in found.items():
        model = AutoModelForMaskedLM.from_pretrained(folder, tie_word_embeddings=name != "untied")
        if name == "untied":
            torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.02)  # type: ignore[union-attr]
        torch.nn.init.normal_(model.get_output_embeddings().bias, std=0.02)  # type: ignore[union-attr]
        model.save_pretrained(folder)
    return found


@pytest.fixture(scope="module")
def grown(bases: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folders of tokenizers with codes."""
    folders = {}
    for name, folder in bases.items():
        folders[name] = str(tmp_path_factory.mktemp(f"grown-{name}"))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        techtoken.prepare_tokenizer(tokenizer, TEXTS, CONFIG).save_pretrained(folders[name])
    return folders


def tokens_of(folder: str) -> SpecialTokens:
    return SpecialTokens.of(AutoTokenizer.from_pretrained(folder))


# The tokens


def test_codes_at_every_level() -> None:
    given = ["B01D53/56", "B01D53/62", "B01D", "Y02"]
    wanted = {
        "section": ["B", "Y"],
        "class": ["B01", "Y02"],
        "subclass": ["B01D"],
        "main_group": ["B01D53/00"],
        "group": ["B01D53/56", "B01D53/62"],
    }
    assert {level: techtoken.cut(given, level) for level in wanted} == wanted


def test_frequent_codes_of_the_train_side_become_tokens(bases: dict[str, str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bases["bert"])
    before = len(tokenizer)
    plain = tokenizer("a catalyst of A01K, H01M and B")["input_ids"]
    techtoken.prepare_tokenizer(tokenizer, TEXTS, CONFIG)
    codes = techtoken.code_tokens(tokenizer)
    assert list(codes) == sorted({symbol[:-3] + "/00" for symbol in SYMBOLS})
    assert list(codes.values()) == list(range(before, before + 12))
    assert tokenizer("a catalyst of A01K, H01M and B")["input_ids"] == plain  # texts are read as before
    techtoken.prepare_tokenizer(tokenizer, TEXTS, CONFIG)
    assert len(tokenizer) == before + 12
    rare = AutoTokenizer.from_pretrained(bases["bert"])
    some = CodedTexts(["1", "2"], ["a", "b"], [["A01K1/01"], ["A01K1/02", "B01D3/00"]])
    assert list(techtoken.code_tokens(techtoken.prepare_tokenizer(rare, some, TechTokenConfig(min_texts=2)))) == [
        "A01K1/00"
    ]
    with pytest.raises(ConfigError, match=r"no code at objective\.level group has objective\.min_texts 9"):
        techtoken.prepare_tokenizer(rare, TEXTS, TechTokenConfig(level="group", min_texts=9, max_codes=2))


def test_texts_without_codes_and_unknown_codes_are_counted(grown: dict[str, str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(grown["bert"])
    valid = CodedTexts(
        ["1", "2", "3", "4"], ["dust " * 40] * 4, [["A01K1/01", "H99Z1/00"], [], ["H99Z1/00"], ["B01K1/02"]]
    )
    encoded, counts = techtoken.encode(valid, tokenizer, TechTokenConfig(max_tokens=20))
    assert counts == {"texts": 2, "texts_without_codes": 2, "texts_cut": 2, "unknown_codes": 2}
    assert encoded.lengths("words").tolist() == [16, 16]
    with pytest.raises(ConfigError, match="none of 1 texts has a code"):
        techtoken.encode(CodedTexts(["1"], ["dust"], [["H99Z1/00"]]), tokenizer, CONFIG)


@pytest.mark.parametrize("model", ["bert", "mpnet"])
@pytest.mark.parametrize("place", ["first", "last"])
def test_the_form_of_a_text(grown: dict[str, str], model: str, place: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(grown[model])
    config = TechTokenConfig(place=place, max_codes=3)  # type: ignore[arg-type]
    many = CodedTexts(["1"], ["a dust filter"], [SYMBOLS])
    encoded, _ = techtoken.encode(many, tokenizer, config)
    seen = []
    for epoch in range(12):
        (unit,) = techtoken.units(encoded, config, epoch, 0)
        batch = techtoken.collate(encoded, [unit], SpecialTokens.of(tokenizer))
        names = tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())
        codes = [name for name in names if name.startswith("<cpc:")]
        text = ["a", "dust", "filter"]
        whole = [*codes, "[SEP]", *text] if place == "first" else [*text, "[SEP]", *codes]
        assert names == ["[CLS]", *whole, "[SEP]"]
        assert batch["is_code"][0].tolist() == [name in codes for name in names]
        assert len(names) == unit.tokens
        seen.append(tuple(codes))
    assert {len(codes) for codes in seen} == {3}
    assert len(set(seen)) > 8  # another draw and another order in each epoch
    assert set().union(*seen) == {f"<cpc:{code}>" for code in techtoken.code_tokens(tokenizer)}


# The masks


def test_what_is_masked_and_what_it_becomes(grown: dict[str, str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(grown["bert"])
    tokens, config = SpecialTokens.of(tokenizer), TechTokenConfig(share=0.5, share_words=0.3, max_codes=12)
    texts = CodedTexts([str(n) for n in range(300)], ["a dust filter with lime and steam"] * 300, [SYMBOLS] * 300)
    encoded, _ = techtoken.encode(texts, tokenizer, config)
    units = techtoken.units(encoded, config, 0, 1)
    batch = techtoken.collate(encoded, units, tokens)
    there = techtoken.chosen(batch, config)
    codes, words = there & batch["is_code"], there & batch["is_word"]
    assert (codes.sum(dim=1) == 6).all()
    assert (words.sum(dim=1) == 2).all()
    assert not (there & ~batch["is_code"] & ~batch["is_word"]).any()
    first, number = batch["known_codes"].tolist()
    became, before = batch["becomes"][codes], batch["input_ids"][codes]
    error = 4 * (0.16 / 1800) ** 0.5
    assert abs(float((became == tokens.mask).float().mean()) - 0.8) < error
    assert abs(float((became == before).float().mean()) - (0.1 + 0.1 / 12)) < error
    others = became[became != tokens.mask]
    assert int(others.min()) >= first
    assert int(others.max()) < first + number
    random = batch["becomes"][words]
    assert not ((random >= first) & (random < first + number)).any()
    only = techtoken.chosen(batch, TechTokenConfig(share=0.5, max_codes=12))
    assert torch.equal(only, codes)
    assert techtoken.weight(batch, config) == 300 * 8
    alone = techtoken.collate(encoded, units[7:8], tokens)  # whatever the batch
    assert torch.equal(alone["becomes"][0], batch["becomes"][7])
    assert torch.equal(techtoken.chosen(alone, config)[0], there[7])


def test_ranks_share_ties() -> None:
    parts = [
        {
            "higher": np.array([0, 2, 0]),
            "equal": np.array([1, 1, 10]),
            "loss": np.array([6.0]),
            "weight": np.array([3.0]),
        }
    ]
    found = techtoken.metrics(parts, CONFIG)
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 5.5) / 3)
    assert found["accuracy_at_1"] == pytest.approx((1 + 0 + 0.1) / 3)
    assert found["accuracy_at_5"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert found["loss"] == 2.0


def test_metrics_by_hand(bases: dict[str, str], grown: dict[str, str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(grown["bert"])
    module = techtoken.wrap(techtoken.build(bases["bert"], CONFIG, Loading(tokenizer=grown["bert"])), CONFIG).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("rows"):
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    encoded, _ = techtoken.encode(TEXTS, tokenizer, CONFIG)
    units = techtoken.units(encoded, CONFIG, 0, 0)[:9]
    batch = techtoken.collate(encoded, units, SpecialTokens.of(tokenizer))
    part = techtoken.predict(module, batch, CONFIG)
    there = techtoken.chosen(batch, CONFIG)
    ids = torch.where(there, tokenizer.mask_token_id, batch["input_ids"])
    with torch.inference_mode():
        logits = techtoken.backbone(module)(input_ids=ids, attention_mask=batch["attention_mask"]).logits
    first = len(tokenizer) - 12
    ranks, loss = [], 0.0
    for row, place in torch.nonzero(there).tolist():
        own = int(batch["input_ids"][row, place])
        order = logits[row, place, first:].argsort(descending=True).tolist()
        ranks.append(order.index(own - first))
        loss -= float(logits[row, place].log_softmax(-1)[own])
    assert part["higher"].tolist() == ranks
    assert (part["equal"] == 1).all()
    assert float(part["loss"][0]) == pytest.approx(loss, rel=1e-5)


# The matrix

IDS = torch.tensor([[2, 40, 41, 4, 43, 3]])


@torch.inference_mode()
def logits_of(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize("train_rows", ["new", "all"])
@pytest.mark.parametrize(("name", "start"), [("bert", "symbol"), ("mpnet", "mean"), ("untied", "mean")])
def test_a_grown_model_is_the_old_one_and_more(
    name: str, start: str, train_rows: str, bases: dict[str, str], grown: dict[str, str], tmp_path: Path
) -> None:
    config = TechTokenConfig(train_rows=train_rows, start=start)  # type: ignore[arg-type]
    old = AutoModelForMaskedLM.from_pretrained(bases[name])
    size = old.config.vocab_size
    before = old.get_input_embeddings().weight.detach().clone()
    model: Any = techtoken.build(bases[name], config, Loading(tokenizer=grown[name]))
    assert isinstance(model.get_input_embeddings(), GrownEmbedding) == (train_rows == "new")
    ours = logits_of(model)
    assert ours.shape[-1] == size + 12
    torch.testing.assert_close(ours[..., :size], logits_of(old), atol=1e-6, rtol=1e-5)
    codes = torch.tensor([[2, size, size + 11, 4, 43, 3]])
    with_codes = logits_of(model, codes)
    techtoken.finish(model)
    torch.testing.assert_close(logits_of(model, codes), with_codes, atol=1e-6, rtol=1e-5)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(loaded, codes), with_codes, atol=1e-6, rtol=1e-5)
    matrix = loaded.get_input_embeddings().weight.detach()
    assert torch.equal(matrix[:size], before)
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == (name != "untied")
    tokenizer = AutoTokenizer.from_pretrained(bases[name])
    pieces = tokenizer("A01K1/00", add_special_tokens=False)["input_ids"]
    wanted = before.mean(dim=0) if start == "mean" else before[pieces].mean(dim=0)
    torch.testing.assert_close(matrix[size], wanted)


def test_spare_rows_and_known_tokens(bases: dict[str, str]) -> None:
    """A matrix with more rows than the tokenizer has tokens, and a token that had its row before."""
    for separate in (True, False):
        model: Any = AutoModelForMaskedLM.from_pretrained(bases["bert"])
        size = model.config.vocab_size
        before = model.get_input_embeddings().weight.detach().clone()
        grow(model, NewTokens(size - 5, size - 3, [[], [], [7], []]), separate=separate)
        assert logits_of(model).shape[-1] == size
        join(model)
        after = model.get_input_embeddings().weight.detach()
        assert torch.equal(after[: size - 3], before[: size - 3])
        assert torch.equal(after[size - 1], before[size - 1])
        assert torch.equal(after[size - 3], before[7])
        torch.testing.assert_close(after[size - 2], before[: size - 3].mean(dim=0))


def test_a_gradient_of_separate_rows_is_that_of_the_whole_matrix(bases: dict[str, str], grown: dict[str, str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(grown["bert"])
    gradients = {}
    for train_rows in ("new", "all"):
        config = TechTokenConfig(train_rows=train_rows)  # type: ignore[arg-type]
        encoded, _ = techtoken.encode(TEXTS, tokenizer, config)
        model: Any = techtoken.build(bases["bert"], config, Loading(tokenizer=grown["bert"]))
        module = techtoken.wrap(model, config).eval()
        units = techtoken.units(encoded, config, 0, 0)[:8]
        total, _, _ = techtoken.loss(module, techtoken.collate(encoded, units, SpecialTokens.of(tokenizer)), config)
        total.backward()
        embedding = model.get_input_embeddings()
        if train_rows == "new":
            assert embedding.old.weight.grad is None
            gradients[train_rows] = embedding.rows.grad
        else:
            gradients[train_rows] = embedding.weight.grad[-12:]
    torch.testing.assert_close(gradients["new"], gradients["all"], atol=1e-6, rtol=1e-4)


# The loop


def run(folder: Path, base: str, changes: dict[str, Any]) -> tuple[TrainConfig, str, list[dict[str, Any]]]:
    """Train a copy of the base whose tokenizer has codes; returns its folder and the history."""
    torch.set_num_threads(1)
    shutil.copytree(base, folder / "base")
    tokenizer = techtoken.prepare_tokenizer(AutoTokenizer.from_pretrained(base), TEXTS, CONFIG)
    tokenizer.save_pretrained(folder / "base")
    values = {
        "texts": "t", "text_roles": "r", "model": "m", "epochs": 4, "units_per_step": 8, "checkpoint_seconds": 1e9,
        "optimizer": {"lr": 1e-2, "weight_decay": 0.1},
    }  # fmt: skip
    config = build(TrainConfig, {**values, **changes})
    train, valid = [techtoken.encode(coded(count), tokenizer, config.objective)[0] for count in (60, 24)]  # type: ignore[arg-type]
    (folder / "steps").mkdir()

    def report(metrics: dict[str, Any], checkpoint: Path) -> None:
        shutil.move(checkpoint, folder / "steps" / f"{metrics['step']:04d}")

    hooks = worker.Hooks(Place(0, 1, torch.device("cpu")), report, None, lambda line: None)
    worker.train(config, str(folder / "base"), worker.Data(train, valid, SpecialTokens.of(tokenizer)), hooks)
    history = json.loads((max((folder / "steps").iterdir()) / "progress.json").read_text())["history"]
    return config, str(folder / "base"), history


@pytest.mark.parametrize("adapter", [{"kind": "full"}, {"kind": "lora", "rank": 4}], ids=["full", "lora"])
@pytest.mark.parametrize(("name", "train_rows"), [("bert", "new"), ("untied", "new"), ("mpnet", "all")])
def test_it_learns_and_frozen_rows_stay_bit_for_bit(
    name: str, train_rows: str, adapter: dict[str, Any], bases: dict[str, str], tmp_path: Path
) -> None:
    objective = {"kind": "techtoken", "train_rows": train_rows}
    config, folder, history = run(tmp_path, bases[name], {"objective": objective, "adapter": adapter})
    assert history[-1]["loss"] < history[0]["loss"]
    module = worker.build(config, folder)
    load_trainable_state(module, final(tmp_path / "steps"))
    inside = techtoken.backbone(module.eval())
    plain: Any = fold(inside) if adapter["kind"] == "lora" else inside
    ours = logits_of(plain)
    techtoken.finish(plain)
    plain.save_pretrained(tmp_path / "out")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "out")
    loaded: Any = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(loaded), ours, atol=1e-5, rtol=1e-4)
    old: Any = AutoModelForMaskedLM.from_pretrained(bases[name])
    size = old.config.vocab_size
    for matrix, before in (
        (loaded.get_input_embeddings().weight, old.get_input_embeddings().weight),
        (loaded.get_output_embeddings().weight, old.get_output_embeddings().weight),
        (loaded.get_output_embeddings().bias, old.get_output_embeddings().bias),
    ):
        assert torch.equal(matrix[:size], before) == (train_rows == "new")
        start = NewTokens(size, size, [[]] * 12).rows(before)
        assert bool(((matrix[size:] - start).abs() > 1e-4).any())
    encoder = load_encoder(str(tmp_path / "out"))
    assert encoder.tokenizer("<cpc:A01K1/00>")["input_ids"] == [2, size, 3]
    assert AutoModel.from_pretrained(tmp_path / "out").get_input_embeddings().num_embeddings == size + 12


def test_a_lora_trains_the_codes_rows_too(bases: dict[str, str], tmp_path: Path) -> None:
    tokenizer = techtoken.prepare_tokenizer(AutoTokenizer.from_pretrained(bases["bert"]), TEXTS, CONFIG)
    shutil.copytree(bases["bert"], tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    values = {
        "texts": "t",
        "text_roles": "r",
        "model": "m",
        "objective": {"kind": "techtoken"},
        "adapter": {"kind": "lora"},
    }
    module = worker.build(build(TrainConfig, values), str(tmp_path / "base"))
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    others = [name for name in names if "lora_" not in name]
    assert [name.rsplit(".", 1)[1] for name in others] == ["rows", "new_bias"]


# The data


def test_the_loader_gives_a_side_with_its_codes(tmp_path: Path) -> None:
    texts = open_stage(Location(tmp_path / "texts"), "texts", {}, {})
    roles = open_stage(Location(tmp_path / "roles"), "divide", {}, {})
    for part in range(2):
        ids = [f"T{part}{number}" for number in range(4)]
        codes = [["H01M10/05"], None, [], ["A01B", "Y02E10/50"]]
        columns = {name: [None] * 4 for name in ("patent_id", "family_id", "date", "language")}
        rows = {"text_id": ids, "text": [f"text {id}" for id in ids], "codes": codes, **columns}
        texts.write_part("texts", part, pa.table(rows, schema=schema.TEXTS))
        sides = ["train", "train", "valid", "test"] if part == 0 else ["valid", "unused", "train", "train"]
        roles.write_part("text_roles", part, pa.table({"id": ids, "role": sides}, schema=schema.ROLES))
    texts.finish({})
    roles.finish({})
    values = {"texts": "texts", "text_roles": "roles", "model": "m", "objective": {"kind": "techtoken"}}
    config = build(TrainConfig, values)
    found = LOADERS["coded"](config, {"texts": texts, "roles": roles}, "train")
    assert found.text_ids == ["T00", "T01", "T12", "T13"]
    assert found.texts == ["text T00", "text T01", "text T12", "text T13"]
    assert [list(codes) for codes in found.codes] == [["H01M10/05"], [], [], ["A01B", "Y02E10/50"]]
    assert LOADERS["coded"](config, {"texts": texts, "roles": roles}, "valid").text_ids == ["T02", "T10"]


def test_the_run_s_own_tokenizer_is_saved_and_fetched(grown: dict[str, str], tmp_path: Path) -> None:
    folder = open_stage(Location(tmp_path / "run"), "train", {}, {})
    assert tokenizers.fetch(folder.location, tmp_path) is None
    tokenizer = AutoTokenizer.from_pretrained(grown["mpnet"])
    tokenizers.write(tokenizer, folder)
    own = tokenizers.fetch(folder.location, tmp_path)
    assert own is not None
    again = AutoTokenizer.from_pretrained(own)
    assert techtoken.code_tokens(again) == techtoken.code_tokens(tokenizer)
    assert again("a dust filter")["input_ids"] == tokenizer("a dust filter")["input_ids"]
    assert tokens_of(own) == SpecialTokens.of(tokenizer)


def test_a_tokenizer_without_codes_is_refused(bases: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="no codes as tokens"):
        techtoken.build(bases["bert"], CONFIG, Loading())
