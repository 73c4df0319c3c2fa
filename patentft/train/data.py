"""From the tables that a run names to one side of its data, as the texts that an objective encodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc

from patentft.config import ConfigError
from patentft.corpus.lookup import patent_texts, section_texts
from patentft.objectives.texts import CodedTexts, PairTexts, PreferenceTexts, QaTexts
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


LOADERS: dict[str, Any] = {
    "pairs": pair_texts,
    "coded": coded_texts,
    "qa": qa_texts,
    "preferences": preference_texts,
}
"""A key of INPUTS -> what reads one side of it; packed rows are mapped, see `train.packed`."""
