"""A label must count as its weight says, whatever it is padded with, and the metrics must be the known ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics
import torch

from patentft import schema, stats
from patentft.config import ConfigError, build
from patentft.corpus.cpc import Y02
from patentft.location import Location
from patentft.models.adapters.full import FullConfig
from patentft.models.adapters.lora import LoraConfig
from patentft.models.adapters.table import adapt
from patentft.models.backbone import Loading
from patentft.objectives import classify
from patentft.objectives.classify import ClassifyConfig
from patentft.objectives.encoded import SpecialTokens
from patentft.objectives.texts import LabelledTexts
from patentft.store import StageFolder, open_stage
from patentft.train.config import TrainConfig
from patentft.train.data import labelled_texts, plain_texts
from tests.tiny import save_tiny_bert, save_tiny_llama, save_tiny_mpnet

GREEN = ClassifyConfig()
SEVERAL = ClassifyConfig(target="all", names=["A", "B", "C"])
ONE = ClassifyConfig(target="all", single=True, names=["A", "B", "C"])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # of matrices this small, more only wait for each other


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_bert(tmp_path_factory.mktemp("tiny"))


def tokenizer_of(folder: str):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


WORDS = ["catalyst", "dust", "water", "gas", "filter", "sludge", "furnace"]


def texts_of(labels: list[list[int]], names: tuple[str, ...] = ("A", "B", "C"), weights=None) -> LabelledTexts:
    """A text says its labels; lengths differ."""
    texts = [" ".join([*(WORDS[k] for k in found), "device"] * (1 + n % 3)) for n, found in enumerate(labels)]
    return LabelledTexts([f"T{n}" for n in range(len(labels))], texts, labels, weights or [1.0] * len(labels), names)


def green_texts(weights=None) -> LabelledTexts:
    return texts_of([[n % 2] for n in range(8)], classify.GREEN, weights)


def several_texts(weights=None) -> LabelledTexts:
    return texts_of([[0], [], [0, 2], [1, 2], [2], [0, 1, 2], [], [1]], weights=weights)


def one_texts(weights=None) -> LabelledTexts:
    return texts_of([[n % 3] for n in range(8)], weights=weights)


KINDS = {"green": (GREEN, green_texts), "several": (SEVERAL, several_texts), "one": (ONE, one_texts)}


def batch_of(texts: LabelledTexts, folder: str, config: ClassifyConfig, rows=None) -> dict[str, torch.Tensor]:
    encoded, _ = classify.encode(texts, tokenizer_of(folder), config)
    units = classify.units(encoded, config, 0, 0)
    return classify.collate(encoded, [units[row] for row in rows or range(len(units))], SpecialTokens())


def model_of(folder: str, config: ClassifyConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return classify.wrap(classify.build(folder, config, Loading(0.0)), config)


def slow_loss(logits, labels, weight, class_weight, config):
    """The definition, one text and one label at a time."""
    total = 0.0
    for row, found, own in zip(logits, labels, weight, strict=True):
        if config.softmax:
            probability = [math.exp(value) / sum(math.exp(other) for other in row) for value in row]
            (k,) = [k for k in range(len(row)) if found[k]]
            total -= own * class_weight[1][k] * math.log(probability[k])
        else:
            for k, value in enumerate(row):
                yes = 1 / (1 + math.exp(-value))
                total -= own * class_weight[int(found[k])][k] * math.log(yes if found[k] else 1 - yes) / len(row)
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_loss_equals_the_slow_reference(tiny: str, kind: str, class_weights: str) -> None:
    config, texts = KINDS[kind]
    config = config.model_copy(update={"class_weights": class_weights})
    batch = batch_of(texts([1.0, 1.0, 5.0, 1.0, 2.0, 1.0, 1.0, 0.5]), tiny, config)
    logits = torch.randn(batch["labels"].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = [batch[name].double() for name in ("labels", "weight", "class_weight")]
    found = classify.label_loss(logits, *given, config)
    wanted = slow_loss(logits.tolist(), *(each.tolist() for each in given), config)
    assert float(found) == pytest.approx(wanted, rel=1e-9)
    assert classify.weight(batch, config) == 12.5


def test_balanced_classes_weigh_alike(tiny: str) -> None:
    """scikit-learn's "balanced", with the texts' weights."""
    from sklearn.utils.class_weight import compute_class_weight

    config = ClassifyConfig(class_weights="balanced")
    labels = [0] * 6 + [1] * 2
    batch = batch_of(texts_of([[label] for label in labels], classify.GREEN), tiny, config)
    wanted = compute_class_weight("balanced", classes=np.array([0, 1]), y=np.array(labels))
    assert batch["class_weight"][1].tolist() == pytest.approx(wanted.tolist())
    several = batch_of(several_texts(), tiny, SEVERAL.model_copy(update={"class_weights": "balanced"}))
    sums = [
        (several["labels"] == side).float().mul(several["class_weight"][side]).sum(dim=0).tolist() for side in (0, 1)
    ]
    assert sums[0] == pytest.approx([4.0] * 3)
    assert sums[1] == pytest.approx([4.0] * 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_a_text_of_weight_five_is_the_text_five_times(tiny: str, kind: str, class_weights: str) -> None:
    config, texts = KINDS[kind]
    config = config.model_copy(update={"class_weights": class_weights})
    heavy = texts([1.0, 1.0, 5.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    rows = [0, 1, *[2] * 5, 3, 4, 5, 6, 7]
    columns = ([values[row] for row in rows] for values in (heavy.text_ids, heavy.texts, heavy.labels))
    repeated = LabelledTexts(*columns, [1.0] * 12, heavy.names)
    found = []
    for each in (heavy, repeated):
        module, batch = model_of(tiny, config), batch_of(each, tiny, config)
        total, weight, _ = classify.loss(module, batch, config)
        assert float(weight) == classify.weight(batch, config) == 12.0
        (total / weight).backward()
        found.append((float(total.detach()), {name: p.grad for name, p in module.named_parameters()}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("save", [save_tiny_bert, save_tiny_mpnet, save_tiny_llama])
def test_padding_does_not_move_a_logit_and_the_names_are_exported(save, tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    module = model_of(folder, SEVERAL).eval()
    encoded, _ = classify.encode(several_texts(), tokenizer_of(folder), SEVERAL)
    units = classify.units(encoded, SEVERAL, 0, 0)
    tokens = SpecialTokens.of(tokenizer_of(folder))
    batch = classify.collate(encoded, units, tokens)
    assert not batch["attention_mask"].all()
    together = module(batch)
    alone = torch.cat([module(classify.collate(encoded, [unit], tokens)) for unit in units])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert float((together[0] - together[3]).detach().abs().max()) > 5e-5
    inside = classify.backbone(module)
    inside.save_pretrained(tmp_path / "export")  # type: ignore[operator]
    written = json.loads((tmp_path / "export" / "config.json").read_text())
    assert written["id2label"] == {"0": "A", "1": "B", "2": "C"}
    assert written["problem_type"] == "multi_label_classification"
    assert written["pad_token_id"] == tokens.pad
    assert classify.task(inside, SEVERAL).heads[0] in dict(inside.named_children())


@pytest.mark.parametrize("save", [save_tiny_bert, save_tiny_mpnet, save_tiny_llama])
@pytest.mark.parametrize("adapter", [FullConfig(), LoraConfig(rank=2)], ids=["full", "lora"])
def test_every_trained_parameter_gets_a_gradient_and_the_head_is_one(save, adapter, tmp_path: Path) -> None:
    folder = save(tmp_path)
    plain = classify.build(folder, SEVERAL, Loading(0.0))
    (head,) = classify.task(plain, SEVERAL).heads
    module = classify.wrap(adapt(plain, adapter, classify.task(plain, SEVERAL)), SEVERAL)
    total, _, _ = classify.loss(module, batch_of(several_texts(), folder, SEVERAL), SEVERAL)
    total.backward()
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in module.named_parameters() if p.grad is not None}
    assert any(f".{head}." in name for name in trained)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(tiny: str, kind: str) -> None:
    config, texts = KINDS[kind]
    module, batch = model_of(tiny, config), batch_of(texts(), tiny, config)
    optimizer = torch.optim.AdamW(classify.parameter_groups(module, 1e-2, 0.0, config))
    losses = []
    for _ in range(20):
        total, weight, _ = classify.loss(module, batch, config)
        (total / weight).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach() / weight))
    assert losses[-1] < 0.8 * losses[0]


def test_texts_that_cannot_be_learned_from_are_named(tiny: str) -> None:
    tokenizer = tokenizer_of(tiny)
    with pytest.raises(ConfigError, match=r"text 'T1' has 0 labels \(none\); objective.single wants exactly one"):
        classify.encode(several_texts(), tokenizer, ONE)
    with pytest.raises(ConfigError, match=r"text 'T1' has 2 labels \(A, C\)"):
        classify.encode(texts_of([[0], [0, 2]]), tokenizer, ONE)
    with pytest.raises(ConfigError, match=r"nothing to tell apart in 3 texts \(other 3, green 0\)"):
        classify.encode(texts_of([[0]] * 3, classify.GREEN), tokenizer, GREEN)
    with pytest.raises(ConfigError, match=r"has no label 'Bb'; did you mean"):
        classify.encode(several_texts(), tokenizer, ClassifyConfig(target="all", names=["A", "Bb"]))
    with pytest.raises(ConfigError, match=r"leave out single and names"):
        build(ClassifyConfig, {"single": True})
    with pytest.raises(ConfigError, match=r"objective.names is not set"):
        model_of(tiny, ClassifyConfig(target="all"))


def test_names_choose_labels_and_are_settled_by_the_data(tiny: str) -> None:
    config = ClassifyConfig(target="all")
    encoded, counts = classify.encode(several_texts(), tokenizer_of(tiny), config)
    assert classify.settled(config, counts).names == ["A", "B", "C"]
    assert counts["texts_of_label"] == {"A": 3, "B": 3, "C": 4}
    chosen = ClassifyConfig(target="all", names=["C", "A"])
    encoded, counts = classify.encode(several_texts(), tokenizer_of(tiny), chosen)
    assert classify.settled(chosen, counts) == chosen
    assert [encoded.row("labels", row).tolist() for row in range(8)] == [[1], [], [0, 1], [0], [0], [0, 1], [], []]
    assert classify.settled(GREEN, {}) == GREEN
    assert len(classify.label_names(ClassifyConfig(target="y02"))) == 8


def test_what_is_cut_is_counted(tiny: str) -> None:
    config = ClassifyConfig(max_tokens=5)
    encoded, counts = classify.encode(green_texts(), tokenizer_of(tiny), config)
    lengths = [len(tokenizer_of(tiny)(text)["input_ids"]) for text in green_texts().texts]
    assert encoded.lengths("input_ids").tolist() == [min(length, 5) for length in lengths]
    assert counts["texts_cut"] == sum(length > 5 for length in lengths) > 0


# The valid side


def parts_of(logits: np.ndarray, labels: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Two batches of predictions."""
    return [
        {
            "logits": logits[rows].astype(np.float32),
            "labels": labels[rows].astype(np.uint8),
            "loss": np.array([float(len(logits[rows]))]),
            "weight": np.array([float(len(logits[rows]))]),
        }
        for rows in (slice(0, 13), slice(13, None))
    ]


def test_metrics_of_two_classes() -> None:
    rng = np.random.default_rng(0)
    green = rng.random(80) < 0.4
    logits = rng.normal(size=(80, 2)) + np.stack([~green, green], axis=1)
    found = classify.metrics(parts_of(logits, np.stack([~green, green], axis=1)), GREEN)
    score = (logits[:, 1] - logits[:, 0]).astype(np.float32)
    assert found["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(green, score))
    assert found["average_precision"] == pytest.approx(sklearn.metrics.average_precision_score(green, score))
    assert found["f1"] == pytest.approx(sklearn.metrics.f1_score(green, score > 0))
    assert found["mcc"] == pytest.approx(sklearn.metrics.matthews_corrcoef(green, score > 0))
    for name in ("auc", "average_precision", "f1"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    interval = stats.bootstrap_statistic(stats.f1, [score > 0, green], num_resamples=200)
    assert (found["f1_low"], found["f1_high"]) == (interval.low, interval.high)
    table = sklearn.metrics.confusion_matrix(green, score > 0)
    assert [[found[f"confusion.{i}.{j}"] for j in (0, 1)] for i in (0, 1)] == table.tolist()
    assert "auc_low" not in classify.metrics(
        parts_of(logits, np.stack([~green, green], axis=1)), ClassifyConfig(bootstrap=0)
    )


def test_metrics_of_several_labels() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random((60, 3)) < [0.5, 0.2, 0.0]
    logits = rng.normal(size=(60, 3)) + labels
    found = classify.metrics(parts_of(logits, labels), SEVERAL)
    given = logits.astype(np.float32)
    precision = [sklearn.metrics.average_precision_score(labels[:, k], given[:, k]) for k in range(2)]
    assert found["average_precision"] == pytest.approx(np.mean(precision))
    f1 = [sklearn.metrics.f1_score(labels[:, k], given[:, k] > 0) for k in range(2)]
    assert found["f1_macro"] == pytest.approx(np.mean(f1))
    assert found["f1_micro"] == pytest.approx(sklearn.metrics.f1_score(labels, given > 0, average="micro"))
    assert (found["labels_scored"], found["texts.C"]) == (2.0, 0.0)  # nobody has C: it is in no mean
    assert (found["f1.A"], found["average_precision.B"]) == (pytest.approx(f1[0]), pytest.approx(precision[1]))
    assert "f1.C" not in found
    table = sklearn.metrics.multilabel_confusion_matrix(labels, given > 0)
    assert [[found[f"confusion.B.{i}.{j}"] for j in (0, 1)] for i in (0, 1)] == table[1].tolist()
    recall = sklearn.metrics.recall_score(labels[:, 0], given[:, 0] > 0)
    assert found["recall.A"] == pytest.approx(recall)
    with pytest.raises(ConfigError, match=r"valid side has no label"):
        classify.metrics(parts_of(logits, np.zeros_like(labels)), SEVERAL)


def test_metrics_of_one_of_three() -> None:
    rng = np.random.default_rng(2)
    true = rng.integers(0, 3, 60)
    labels = np.eye(3)[true]
    logits = rng.normal(size=(60, 3)) + labels
    found = classify.metrics(parts_of(logits, labels), ONE)
    given = logits.astype(np.float32)
    said = given.argmax(axis=1)
    odds = np.exp(given) / np.exp(given).sum(axis=1, keepdims=True)
    wanted = np.mean([sklearn.metrics.average_precision_score(true == k, odds[:, k]) for k in range(3)])
    assert found["average_precision"] == pytest.approx(wanted)
    assert found["f1_micro"] == pytest.approx(np.mean(true == said))
    assert found["f1_macro"] == pytest.approx(sklearn.metrics.f1_score(true, said, average="macro"))
    table = sklearn.metrics.confusion_matrix(true, said)
    assert [[found[f"confusion.{i}.{j}"] for j in "ABC"] for i in "ABC"] == table.tolist()


# The tables


CODES = {
    "T0": ["Y02E10/50"], "T1": ["B01D53/56"], "T2": ["Y02E10/50", "Y02P"], "T3": ["H01M"], "T4": ["Y02P"], "T5": [],
}  # fmt: skip


def stages(folder: Path, gold_of: dict[str, list[str]] | None = None) -> dict[str, StageFolder]:
    """A texts stage of two parts with its roles and labels, and a gold stage, as the corpus writes them."""
    from patentft.corpus.texts import labels as making

    found = {}
    by_stage = {"texts": CODES} | ({"gold": gold_of} if gold_of else {})
    for stage, codes in by_stage.items():
        config = making.LabelsConfig(data=stage, level="subclass")
        names, _ = making.vocabulary([pa.array(list(codes.values()), pa.list_(pa.string()))], config)
        index_of = {name: index for index, name in enumerate(names)}
        texts, roles, labels = (
            open_stage(Location(folder / f"{stage}-{kind}"), kind, {}, {}) for kind in ("texts", "divide", "labels")
        )
        labels.write_file("labels.json", json.dumps({"labels": names}).encode())
        for part, ids in enumerate([list(codes)[:4], list(codes)[4:]]):
            if not ids:
                continue
            rows = [{"text_id": each, "text": f"text of {each}", "codes": codes[each]} for each in ids]
            table = pa.Table.from_pylist(
                [{name: row.get(name) for name in schema.TEXTS.names} for row in rows], schema=schema.TEXTS
            )
            texts.write_part("texts", part, table)
            sides = [{"id": each, "role": "valid" if each in ("T1", "T4") else "train"} for each in ids]
            roles.write_part("text_roles", part, pa.Table.from_pylist(sides, schema=schema.ROLES))
            labels.write_part("labels", part, making.label_part(table.select(["text_id", "codes"]), index_of, config))
        for each, name in ((texts, "texts"), (roles, "roles"), (labels, "labels")):
            each.finish({})
            found[f"{stage}_{name}"] = each
    return {
        "t": found["texts_texts"], "r": found["texts_roles"], "l": found["texts_labels"],
        **({"g": found["gold_labels"]} if gold_of else {}),
    }  # fmt: skip


def config_of(**objective) -> TrainConfig:
    gold = objective.pop("gold", None)
    values = {"texts": "t", "text_roles": "r", "labels": "l", "gold": gold, "model": "m"}
    return build(TrainConfig, {**values, "objective": {"kind": "classify", **objective}})


def test_labels_of_the_tables(tmp_path: Path) -> None:
    inputs = stages(tmp_path)
    green = labelled_texts(config_of(), inputs, "train")
    assert (green.text_ids, green.labels) == (["T0", "T2", "T3", "T5"], [[1], [1], [0], [0]])
    assert green.texts[1] == "text of T2"
    assert green.weights == [1.0] * 4
    y02 = labelled_texts(config_of(target="y02"), inputs, "valid")
    assert [[y02.names[k] for k in found] for found in y02.labels] == [[], ["Y02P"]]
    assert tuple(y02.names) == Y02
    every = labelled_texts(config_of(target="all"), inputs, "train")
    assert [[every.names[k] for k in found] for found in every.labels] == [["Y02E"], ["Y02E", "Y02P"], ["H01M"], []]
    plain = build(TrainConfig, {"texts": "t", "text_roles": "r", "model": "m", "objective": {"kind": "contrastive"}})
    assert plain_texts(plain, inputs, "valid").text_ids == ["T1", "T4"]


def test_gold_labels_replace_and_weigh(tmp_path: Path) -> None:
    inputs = stages(tmp_path, {"T2": ["H01M"], "T5": ["Y02P"], "T1": ["B01D53/56"]})
    green = labelled_texts(config_of(gold="g", gold_weight=3.0), inputs, "train")
    assert (green.labels, green.weights) == ([[1], [0], [0], [1]], [1.0, 3.0, 1.0, 3.0])
    every = labelled_texts(config_of(gold="g", target="all"), inputs, "train")
    assert [[every.names[k] for k in found] for found in every.labels] == [["Y02E"], ["H01M"], ["H01M"], ["Y02P"]]
    assert every.weights == [1.0, 5.0, 1.0, 5.0]


def test_stages_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    inputs = stages(tmp_path, {"X1": ["H01M"], "X2": ["A01B"]})
    with pytest.raises(ConfigError, match=r"gold stage 'g' has no text of 't'"):
        labelled_texts(config_of(gold="g"), inputs, "train")
    with pytest.raises(ConfigError, match=r"gold stage 'g' has labels that 'l' lacks, such as 'A01B'"):
        labelled_texts(config_of(gold="g", target="all"), inputs, "train")
    with pytest.raises(ConfigError, match=r"no text on the test side"):
        labelled_texts(config_of(), inputs, "test")
    other = stages(tmp_path / "other", {"T0": ["H01M"], "T9": ["Y02E"]})
    with pytest.raises(ConfigError, match=r"'l' is not a labels stage of 't'"):
        labelled_texts(config_of(), {**inputs, "l": other["g"]} | {"t": inputs["t"]}, "train")
