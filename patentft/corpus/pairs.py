"""Training pairs (technique, patent): the known matches, and negatives that are safe to call negatives.

An unlabelled pair is unknown, not No. A patent is taken as a negative of technique t only if it is on the same side of
the split, has known matches of its own there, and none of all its matches is t or too like t (SIMILAR). Of those, some
are drawn at random and some from the near misses: the ones that the prefilter ranks highest for t.

One group per known match: the match and its negatives, all of the same technique, learned and ranked together. Cost:
one product of (techniques of the side) x (patents of the side), a technique at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field

from patentft.config import Config, ConfigError
from patentft.stage import StageRef

SIDES = ("train", "valid")


class PairsConfig(Config):
    """How many negatives, and of which kind."""

    data: StageRef
    """The stage with the tables techniques, patents and matches."""
    roles: StageRef
    """A split stage."""
    patents: StageRef
    """An embed stage of the patents: gives the cosines and the near misses."""
    techniques: StageRef
    """An embed stage of the techniques, by the same encoder."""
    negatives_random: int = Field(default=4, ge=0)
    """Negatives per match drawn evenly from all that are allowed."""
    negatives_near: int = Field(default=4, ge=0)
    """Negatives per match drawn from the near misses."""
    near_pool: int = Field(default=50, ge=1)
    """The near misses: the allowed patents with the highest cosines, this many."""
    max_groups: int | None = Field(default=None, ge=1)
    """At most this many matches of the train side, drawn evenly; null: all. Negatives still come from all patents."""
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Vectors:
    """Embeddings by id; a text that was cut has several rows."""

    ids: list[str]  # (rows,)
    vectors: npt.NDArray[np.float32]  # (rows, dim), unit length unless the encoder compares by raw inner product


@dataclass(frozen=True)
class Pair:
    group: int
    technique_id: str
    patent_id: str
    label: int
    cosine: float
    chunk: int
    role: str


def training_pairs(
    matches: Sequence[tuple[str, str]],
    technique_roles: Mapping[str, str],
    patent_roles: Mapping[str, str],
    similar: Mapping[str, set[str]],
    patents: Vectors,
    techniques: Vectors,
    config: PairsConfig,
) -> Iterator[Pair]:
    """Pairs in the order of (side, technique, match), a pure function of its arguments.

    matches: (technique_id, patent_id). similar: technique_id -> the techniques too like it. Raises ConfigError when a
    side has no match, or a technique has no allowed negative at all.
    """
    # of all sides: a valid patent may also match a train technique, and may then be a match of the techniques like it
    own: dict[str, set[str]] = {}
    for technique_id, patent_id in matches:
        own.setdefault(patent_id, set()).add(technique_id)
    group = 0
    for side in SIDES:
        known = [(t, p) for t, p in matches if technique_roles.get(t) == side and patent_roles.get(p) == side]
        if not known:
            raise ConfigError(
                f"no match has both its technique and its patent on the {side} side; give the split more matches, "
                f"another seed or fewer folds (and it must be a split of the same data)"
            )
        pool = sorted({patent_id for _, patent_id in known})
        position = {patent_id: index for index, patent_id in enumerate(pool)}
        rows = _rows_of(patents, pool)
        chunks = _rows_of(techniques, sorted({t for t, _ in known}))
        matched: dict[str, list[str]] = {}
        for technique_id, patent_id in known:
            matched.setdefault(technique_id, []).append(patent_id)
        kept = _kept(known, config) if side == "train" else set(known)
        for technique_id in sorted(matched):
            if not any((technique_id, patent_id) in kept for patent_id in matched[technique_id]):
                continue
            cosines, best_chunk = _cosines(techniques.vectors[chunks[technique_id]], patents.vectors, rows, pool)
            near_to_it = similar.get(technique_id, set()) | {technique_id}
            allowed = np.array([not (own[patent_id] & near_to_it) for patent_id in pool])
            candidates = np.flatnonzero(allowed)
            if len(candidates) == 0:
                raise ConfigError(
                    f"technique {technique_id!r}: none of the {len(pool)} {side} patents may be its negative; "
                    f"raise similar_cosine of the split or give more matches"
                )
            near = candidates[np.argsort(-cosines[candidates], kind="stable")][: config.near_pool]
            for patent_id in sorted(matched[technique_id]):
                if (technique_id, patent_id) not in kept:
                    continue
                rng = np.random.default_rng([config.seed, group])
                chosen = _draw(rng, near, config.negatives_near, exclude=set())
                chosen += _draw(rng, candidates, config.negatives_random, exclude=set(chosen))
                for index, label in [(position[patent_id], 1), *((negative, 0) for negative in chosen)]:
                    yield Pair(
                        group, technique_id, pool[index], label, float(cosines[index]), int(best_chunk[index]), side
                    )
                group += 1


def _kept(known: list[tuple[str, str]], config: PairsConfig) -> set[tuple[str, str]]:
    if config.max_groups is None or len(known) <= config.max_groups:
        return set(known)
    ordered = sorted(known)
    rng = np.random.default_rng([config.seed, len(ordered)])
    return {ordered[index] for index in rng.choice(len(ordered), config.max_groups, replace=False)}


def _draw(rng: np.random.Generator, options: npt.NDArray[np.int64], count: int, exclude: set[int]) -> list[int]:
    left = [int(option) for option in options if int(option) not in exclude]
    return [left[index] for index in rng.choice(len(left), size=min(count, len(left)), replace=False)] if left else []


def _rows_of(embedded: Vectors, wanted: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    found: dict[str, list[int]] = {name: [] for name in wanted}
    for row, name in enumerate(embedded.ids):
        if name in found:
            found[name].append(row)
    missing = [name for name, rows in found.items() if not rows]
    if missing:
        raise ConfigError(
            f"{missing[0]!r} (and {len(missing) - 1} more) has no embedding: are the embeddings of other data?"
        )
    return {name: np.array(rows) for name, rows in found.items()}


def _cosines(
    chunks: npt.NDArray[np.float32],
    vectors: npt.NDArray[np.float32],
    rows: Mapping[str, npt.NDArray[np.int64]],
    pool: list[str],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Best cosine of each patent over the technique's chunks (and the patent's), and the technique's best chunk."""
    order = np.concatenate([rows[patent_id] for patent_id in pool])
    starts = np.concatenate([[0], np.cumsum([len(rows[patent_id]) for patent_id in pool])[:-1]])
    scores = chunks @ vectors[order].T  # (chunks, rows of the pool)
    per_patent = np.maximum.reduceat(scores, starts, axis=1)  # (chunks, patents)
    return per_patent.max(axis=0), per_patent.argmax(axis=0)
