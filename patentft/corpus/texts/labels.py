"""TEXTS' codes -> LABELS: green or not, each Y02 subclass, and a multi-label vector over a vocabulary of codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from patentft import schema
from patentft.config import Config, ConfigError
from patentft.corpus import cpc
from patentft.stage import StageRef


class LabelsConfig(Config):
    """Labels from codes."""

    data: StageRef
    """A stage with the table texts."""
    level: cpc.Level = "subclass"
    """The codes are cut to this level to become labels."""
    min_count: int = Field(default=1, ge=1)
    """A code with fewer texts than this is rare."""
    rare: Literal["drop", "parent"] = "drop"
    """Rare codes are no label ("drop"), or their texts get the code one level up instead ("parent": Y02E10/50 -> Y02E),
    again and again until it is not rare."""


def vocabulary(parts: Iterable[pa.ChunkedArray | pa.Array], config: LabelsConfig) -> tuple[list[str], dict[str, int]]:
    """(labels in alphabetical order, every code at `level` -> texts that have it). `parts`: the codes columns, in turn.

    Raises ConfigError when no code is frequent enough.
    """
    counts: Counter[str] = Counter()
    for column in parts:
        for codes in column.to_pylist():
            counts.update(cpc.at_level(codes or (), config.level))
    kept = {code for code, count in counts.items() if count >= config.min_count}
    if config.rare == "parent":
        # a parent counts each text once only, so it is counted anew over its rare children by their sum: an upper bound
        rare = {code: count for code, count in counts.items() if code not in kept}
        for level in reversed(cpc.LEVELS[: cpc.LEVELS.index(config.level)]):
            parents: Counter[str] = Counter()
            for code, count in rare.items():
                parents[cpc.parse(code).at(level) or code] += count
            kept |= {parent for parent, count in parents.items() if count >= config.min_count}
            rare = {parent: count for parent, count in parents.items() if parent not in kept}
    if not kept:
        most = ", ".join(f"{code} ({count})" for code, count in counts.most_common(3)) or "none"
        raise ConfigError(
            f"no code at level {config.level!r} has {config.min_count} texts (most: {most}); lower min_count, or map "
            f"the codes in the texts stage (columns.codes or indicator_columns)"
        )
    return sorted(kept), dict(sorted(counts.items()))


def label_part(texts: pa.Table, index_of: Mapping[str, int], config: LabelsConfig) -> pa.Table:
    """LABELS for a part of TEXTS (columns text_id, codes), row by row."""
    columns: dict[str, list[Any]] = {name: [] for name in schema.LABELS.names if name != "text_id"}
    for codes in texts.column("codes").to_pylist():
        codes = codes or ()
        y02 = cpc.y02_subclasses(codes)
        columns["green"].append(int(cpc.is_green(codes)))
        for subclass in cpc.Y02:
            columns[subclass.lower()].append(int(subclass in y02))
        columns["labels"].append(_labels(codes, index_of, config))
    return pa.table({"text_id": texts.column("text_id"), **columns}).cast(schema.LABELS)


def _labels(codes: Iterable[str], index_of: Mapping[str, int], config: LabelsConfig) -> list[int]:
    found = set()
    for code in cpc.at_level(codes, config.level):
        cut: str | None = code
        level = cpc.LEVELS.index(config.level)
        while cut is not None and cut not in index_of and config.rare == "parent" and level > 0:
            level -= 1
            cut = cpc.parse(code).at(cpc.LEVELS[level])
        if cut is not None and cut in index_of:
            found.add(index_of[cut])
    return sorted(found)


def multi_hot(labels: pa.ChunkedArray | pa.Array, num_labels: int) -> np.ndarray:
    """LABELS.labels as (N, num_labels) uint8."""
    column = labels.combine_chunks() if isinstance(labels, pa.ChunkedArray) else labels
    lengths = np.diff(column.offsets.to_numpy())
    matrix = np.zeros((len(column), num_labels), np.uint8)
    matrix[np.repeat(np.arange(len(column)), lengths), column.flatten().to_numpy()] = 1
    return matrix
