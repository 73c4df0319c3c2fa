"""From the tables that a run names to one side of its data, as the texts that an objective encodes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from patentft.config import ConfigError
from patentft.corpus.cpc import Y02
from patentft.corpus.lookup import match_list, patent_texts, roles_of, section_texts
from patentft.objectives.classify import GREEN, ClassifyConfig
from patentft.objectives.texts import (
    CodedTexts,
    DistilledTexts,
    LabelledTexts,
    PairTexts,
    PlainTexts,
    PreferenceTexts,
    QaTexts,
)
from patentft.store import StageFolder
from patentft.train.config import TrainConfig


def pair_texts(config: TrainConfig, inputs: Mapping[str, StageFolder], side: str) -> PairTexts:
    """The pairs of `side` (train, valid) with their texts, in the table's order. Raises ConfigError without any."""
    assert config.pairs is not None  # the config's own check
    assert config.data is not None
    assert config.techniques is not None
    assert config.roles is not None
    rows = [row for row in inputs[config.pairs].read("pairs").to_pylist() if row["role"] == side]
    if not rows:
        raise ConfigError(
            f"stage {config.pairs!r} has no pairs for the {side} side; give more matches or change the split"
        )
    patents = patent_texts(inputs[config.data], config.text, {row["patent_id"] for row in rows})
    sections = section_texts(inputs[config.data], inputs[config.techniques], {row["technique_id"] for row in rows})
    similar = inputs[config.roles].read("similar", ["technique_id", "other_id"])
    return PairTexts(
        sections=[sections[row["technique_id"], row["chunk"]] for row in rows],
        patents=[patents[row["patent_id"]] for row in rows],
        technique_ids=[row["technique_id"] for row in rows],
        patent_ids=[row["patent_id"] for row in rows],
        label=[row["label"] for row in rows],
        group=[row["group"] for row in rows],
        weight=[row["weight"] for row in rows],
        cosine=[row["cosine"] for row in rows],
        similar=frozenset(zip(similar["technique_id"].to_pylist(), similar["other_id"].to_pylist(), strict=True)),
    )


def distilled_texts(config: TrainConfig, inputs: Mapping[str, StageFolder], side: str) -> DistilledTexts:
    """The teacher's pairs of `side` (train, valid) with their texts, in the table's order.

    Of the side are pairs of one of its techniques with a patent that is on this side or on none. Raises ConfigError
    without any, and when `candidates` lacks one of them.
    """
    assert config.teacher is not None  # the config's own check
    assert config.candidates is not None
    assert config.data is not None
    assert config.techniques is not None
    assert config.roles is not None
    of_technique, of_patent = (roles_of(inputs[config.roles], f"{what}_roles") for what in ("technique", "patent"))
    names = ["technique_id", "patent_id"]
    scored = inputs[config.teacher].read("scores", [*names, "log_odds"]).to_pylist()
    rows = [
        row
        for row in scored
        if of_technique.get(row["technique_id"]) == side and of_patent.get(row["patent_id"]) in (side, "unused")
    ]
    if not rows:
        raise ConfigError(
            f"stage {config.teacher!r} has scored no pair of the {side} side of {config.roles!r}: set "
            f"evaluate: [train, valid, ...] in the search stage {config.candidates!r}"
        )
    pairs = [(row["technique_id"], row["patent_id"]) for row in rows]
    found = inputs[config.candidates].read("candidates", [*names, "chunk"]).to_pylist()
    chunks = {(row["technique_id"], row["patent_id"]): row["chunk"] for row in found}
    missing = [pair for pair in pairs if pair not in chunks]
    if missing:
        raise ConfigError(
            f"candidates {config.candidates!r} lacks {len(missing):,} pairs that {config.teacher!r} scored, such as "
            f"{missing[0]}: name the search stage that it scored"
        )
    labels = _known_labels(config, inputs)
    patents = patent_texts(inputs[config.data], config.text, {patent for _, patent in pairs})
    sections = section_texts(inputs[config.data], inputs[config.techniques], {technique for technique, _ in pairs})
    return DistilledTexts(
        sections=[sections[technique, chunks[technique, patent]] for technique, patent in pairs],
        patents=[patents[patent] for _, patent in pairs],
        technique_ids=[technique for technique, _ in pairs],
        patent_ids=[patent for _, patent in pairs],
        log_odds=[row["log_odds"] for row in rows],
        label=[labels.get(pair) for pair in pairs],
    )


def _known_labels(config: TrainConfig, inputs: Mapping[str, StageFolder]) -> dict[tuple[str, str], int]:
    """(technique_id, patent_id) -> 1 for a known match, 0 for what the pairs stage takes as a negative."""
    assert config.data is not None
    labels: dict[tuple[str, str], int] = {}
    if config.pairs is not None:
        for row in inputs[config.pairs].read("pairs", ["technique_id", "patent_id", "label"]).to_pylist():
            labels[row["technique_id"], row["patent_id"]] = row["label"]
    return labels | dict.fromkeys(match_list(inputs[config.data]), 1)


def qa_texts(config: TrainConfig, inputs: Mapping[str, StageFolder], side: str) -> QaTexts:
    """The questions of `side` with their answers, in the table's order. Raises ConfigError as `_rows_apart` does."""
    assert config.qa is not None  # the config's own check
    assert config.qa_valid is not None
    rows = _rows_apart("qa", {"train": config.qa, "valid": config.qa_valid}, inputs, side)
    return QaTexts(*([row[name] for row in rows] for name in ("qa_id", "context", "question", "answer")))


def preference_texts(config: TrainConfig, inputs: Mapping[str, StageFolder], side: str) -> PreferenceTexts:
    """The preferences of `side`, in the table's order. Raises ConfigError as `_rows_apart` does."""
    assert config.preferences is not None  # the config's own check
    assert config.preferences_valid is not None
    stages = {"train": config.preferences, "valid": config.preferences_valid}
    rows = _rows_apart("preferences", stages, inputs, side)
    names = ("preference_id", "context", "question", "chosen", "rejected")
    return PreferenceTexts(*([row[name] for row in rows] for name in names))


def _rows_apart(
    table: str, stages: Mapping[str, str], inputs: Mapping[str, StageFolder], side: str
) -> list[dict[str, Any]]:
    """The rows of one side. stages: by side.

    Raises ConfigError when the side is empty, or when a question (with its context) is on both sides.
    """
    rows = inputs[stages[side]].read(table).to_pylist()
    if not rows:
        raise ConfigError(f"stage {stages[side]!r} has no rows of {table} for the {side} side")
    (other,) = stages.keys() - {side}
    asked = inputs[stages[other]].read(table, ["context", "question"])
    known = set(zip(asked["context"].to_pylist(), asked["question"].to_pylist(), strict=True))
    both = {(row["context"], row["question"]) for row in rows} & known
    if both:
        one = next(row for row in rows if (row["context"], row["question"]) in both)
        raise ConfigError(
            f"{len(both):,} questions are on both sides, in stage {stages['train']!r} and in stage "
            f"{stages['valid']!r}, such as {one['question'][:100]!r} of row {next(iter(one.values()))!r}: a model "
            f"would be judged by what it has seen; give {table}_valid questions that {table} has none of"
        )
    return rows


def coded_texts(config: TrainConfig, inputs: Mapping[str, StageFolder], side: str) -> CodedTexts:
    """The texts of `side` (train, valid) with their CPC symbols, in the table's order. Raises ConfigError without."""
    assert config.texts is not None  # the config's own check
    assert config.text_roles is not None
    roles = inputs[config.text_roles].read("text_roles")
    wanted = roles.filter(pc.equal(roles["role"], side))["id"]  # pyright: ignore[reportAttributeAccessIssue]
    texts = inputs[config.texts].read("texts", ["text_id", "text", "codes"])
    texts = texts.filter(
        pc.is_in(texts["text_id"], value_set=wanted.combine_chunks())  # pyright: ignore[reportAttributeAccessIssue]
    )
    if not len(texts):
        raise ConfigError(f"stage {config.text_roles!r} has no texts of {config.texts!r} on the {side} side")
    codes = [each or () for each in texts["codes"].to_pylist()]
    return CodedTexts(texts["text_id"].to_pylist(), texts["text"].to_pylist(), codes)


def plain_texts(config: TrainConfig, inputs: Mapping[str, StageFolder], side: str) -> PlainTexts:
    """The texts of `side` (train, valid), in the table's order. Raises ConfigError without any."""
    ids: list[str] = []
    texts: list[str] = []
    for part, chosen in _parts_of_side(config, inputs, side):
        taken = part.filter(pa.array(chosen))
        ids += taken["text_id"].to_pylist()
        texts += taken["text"].to_pylist()
    if not ids:
        raise ConfigError(f"stage {config.text_roles!r} has no text on the {side} side; change its fractions")
    return PlainTexts(ids, texts)


def _parts_of_side(
    config: TrainConfig, inputs: Mapping[str, StageFolder], side: str
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Each part of the texts (text_id, text), and which of its rows are on the side (N,) bool."""
    assert config.texts is not None  # the config's own check
    assert config.text_roles is not None
    divided = inputs[config.text_roles].iter_parts("text_roles")
    for part, roles in zip(inputs[config.texts].iter_parts("texts", ["text_id", "text"]), divided, strict=True):
        if not roles["id"].equals(part["text_id"]):
            raise ConfigError(f"{config.text_roles!r} is not a divide stage of {config.texts!r}")
        yield part, np.array([role == side for role in roles["role"].to_pylist()], dtype=bool)


def labelled_texts(config: TrainConfig, inputs: Mapping[str, StageFolder], side: str) -> LabelledTexts:
    """The texts of `side` with the labels of the objective's target; those that `gold` has are as it says, and weigh
    objective.gold_weight. Raises ConfigError without any text, and for stages that do not belong together."""
    assert config.labels is not None  # the config's own check
    assert isinstance(config.objective, ClassifyConfig)
    names = _names_of(config.objective.target, inputs[config.labels])
    gold = _gold_labels(config, inputs, names)
    ids: list[str] = []
    texts: list[str] = []
    labels: list[list[int]] = []
    labelled = inputs[config.labels].iter_parts("labels")
    for (part, chosen), own in zip(_parts_of_side(config, inputs, side), labelled, strict=True):
        if not own["text_id"].equals(part["text_id"]):
            raise ConfigError(f"{config.labels!r} is not a labels stage of {config.texts!r}")
        taken = part.filter(pa.array(chosen))
        part_ids = taken["text_id"].to_pylist()
        given = _indices_of(config.objective.target, own.filter(pa.array(chosen)))
        ids += part_ids
        texts += taken["text"].to_pylist()
        labels += [gold.get(text_id, indices) for text_id, indices in zip(part_ids, given, strict=True)]
    if not ids:
        raise ConfigError(f"stage {config.text_roles!r} has no text on the {side} side; change its fractions")
    weights = [config.objective.gold_weight if text_id in gold else 1.0 for text_id in ids]
    return LabelledTexts(ids, texts, labels, weights, names)


def _names_of(target: str, labels: StageFolder) -> list[str]:
    if target == "all":
        return json.loads(labels.read_file("labels.json"))["labels"]
    return list(GREEN if target == "green" else Y02)


def _indices_of(target: str, labels: pa.Table) -> list[list[int]]:
    """Of each row of LABELS, the indices of its labels, rising."""
    if target == "all":
        return labels["labels"].to_pylist()
    if target == "green":
        return [[value] for value in labels["green"].to_pylist()]
    columns = np.stack([labels[name.lower()].to_numpy() for name in Y02], axis=1)
    return [np.flatnonzero(row).tolist() for row in columns]


def _gold_labels(config: TrainConfig, inputs: Mapping[str, StageFolder], names: list[str]) -> dict[str, list[int]]:
    """text_id -> its labels in the gold stage, as indices into `names`."""
    if config.gold is None:
        return {}
    assert config.texts is not None
    assert isinstance(config.objective, ClassifyConfig)
    stage, target = inputs[config.gold], config.objective.target
    own = _names_of(target, stage)
    strange = sorted(set(own) - set(names))
    if strange:
        raise ConfigError(
            f"gold stage {config.gold!r} has labels that {config.labels!r} lacks, such as {strange[0]!r}: make both at "
            f"one level, and with a min_count that keeps them"
        )
    index_of = {name: index for index, name in enumerate(names)}
    place = [index_of[name] for name in own]
    found = {
        text_id: sorted(place[index] for index in indices)
        for part in stage.iter_parts("labels")
        for text_id, indices in zip(part["text_id"].to_pylist(), _indices_of(target, part), strict=True)
    }
    known = any(
        text_id in found
        for part in inputs[config.texts].iter_parts("texts", ["text_id"])
        for text_id in part["text_id"].to_pylist()
    )
    if not known:
        raise ConfigError(f"gold stage {config.gold!r} has no text of {config.texts!r}: it replaces labels by text_id")
    return found


LOADERS: dict[str, Any] = {
    "pairs": pair_texts,
    "distilled": distilled_texts,
    "plain": plain_texts,
    "labelled": labelled_texts,
    "coded": coded_texts,
    "qa": qa_texts,
    "preferences": preference_texts,
}
"""A key of INPUTS -> what reads one side of it; packed rows are mapped, see `train.packed`."""
