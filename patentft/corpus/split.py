"""Which side of a split each technique and patent is on, and which techniques are too alike to be negatives.

Techniques with the same title go together; groups are dealt to folds in the order of a hash, so folds are disjoint and
of equal size. Fold f is the test side; a share of the other groups is the valid side (checkpoint choice, calibration).
A patent follows its matches, test before valid before train: a patent that a test technique knows never occurs in
training. Techniques and patents without a match are "unused": never in training, not even as negatives.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from patentft.config import Config, ConfigError
from patentft.stage import StageRef

ORDER = ("test", "valid", "train")


class SplitConfig(Config):
    """How techniques and patents are divided."""

    data: StageRef
    """The stage with the tables techniques, patents and matches."""
    techniques: StageRef
    """An embed stage of the techniques, by an encoder that was not trained on these matches: for `similar_cosine`."""
    fold: int = Field(default=0, ge=0)
    """Which fold is the test side, counted from 0."""
    num_folds: int = Field(default=4, ge=2)
    """Test sides of different folds are disjoint."""
    valid_fraction: float = Field(default=0.15, gt=0, lt=1)
    """Share of the techniques outside the test fold that is held out for checkpoint choice and calibration."""
    similar_cosine: float = Field(default=0.7, ge=-1, le=1)
    """Techniques with a cosine above this are listed in SIMILAR: neither is a negative for the other's patents."""
    seed: int = 0

    @model_validator(mode="after")
    def _fold_exists(self) -> SplitConfig:
        if self.fold >= self.num_folds:
            raise ValueError(f"fold {self.fold} is none of num_folds={self.num_folds} folds, which are counted from 0")
        return self


def normalized_title(title: str) -> str:
    """Lower case, letters and digits only: "Ion exchange (IEX)" and "Ion Exchange  IEX" are one title."""
    return " ".join(re.findall(r"[^\W_]+", title.lower()))


def assign_techniques(titles: Mapping[str, str], matched: set[str], config: SplitConfig) -> dict[str, str]:
    """technique_id -> role. `titles`: technique_id -> title. Raises ConfigError when a side would be empty."""
    groups: dict[str, list[str]] = {}
    for technique_id, title in titles.items():
        if technique_id in matched:
            groups.setdefault(normalized_title(title) or technique_id, []).append(technique_id)
    ordered = sorted(groups, key=lambda group: _hash(config.seed, group))
    folds = [index % config.num_folds for index in range(len(ordered))]
    outside = [group for group, fold in zip(ordered, folds, strict=True) if fold != config.fold]
    # the valid side is drawn by a hash of its own: it must not depend on the dealing above
    by_draw = sorted(outside, key=lambda group: _hash(config.seed + 1, group))
    valid = set(by_draw[: round(config.valid_fraction * len(outside))])
    roles = dict.fromkeys(titles, "unused")
    for group, fold in zip(ordered, folds, strict=True):
        role = "test" if fold == config.fold else "valid" if group in valid else "train"
        roles.update(dict.fromkeys(groups[group], role))
    counts = {role: sum(1 for value in roles.values() if value == role) for role in ORDER}
    if not all(counts.values()):
        raise ConfigError(
            f"{len(groups)} titles with matches cannot be split into {config.num_folds} folds with valid_fraction "
            f"{config.valid_fraction}: {counts}; lower num_folds, change valid_fraction or give more matches"
        )
    return roles


def assign_patents(
    patent_ids: Sequence[str], matches: Sequence[tuple[str, str]], technique_roles: Mapping[str, str]
) -> dict[str, str]:
    """patent_id -> role. `matches`: (technique_id, patent_id), every one of a patent and a technique that are there."""
    roles = dict.fromkeys(patent_ids, "unused")
    for technique_id, patent_id in matches:
        role, held = technique_roles[technique_id], roles[patent_id]
        if held == "unused" or ORDER.index(role) < ORDER.index(held):
            roles[patent_id] = role
    return roles


def similar_techniques(
    ids: Sequence[str],
    titles: Sequence[str],
    vector_ids: Sequence[str],
    vectors: npt.NDArray[np.float32],
    threshold: float,
) -> list[tuple[str, str, str]]:
    """(technique, other, "title" | "cosine") for every pair of techniques too alike, both directions, sorted.

    vectors: (chunks, dim) float32 of any length, row i belonging to vector_ids[i]. A technique's vector is its first
    chunk, which holds the title and the description.
    """
    first: dict[str, int] = {}
    for row, technique_id in enumerate(vector_ids):
        first.setdefault(technique_id, row)
    missing = [technique_id for technique_id in ids if technique_id not in first]
    if missing:
        raise ConfigError(
            f"technique {missing[0]!r} (and {len(missing) - 1} more) has no embedding: is `techniques` of other data?"
        )
    names = [normalized_title(title) for title in titles]
    by_name: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        by_name.setdefault(name, []).append(index)
    matrix = vectors[[first[technique_id] for technique_id in ids]]
    matrix = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    found: list[tuple[str, str, str]] = []
    for index, technique_id in enumerate(ids):
        same = set(by_name[names[index]]) if names[index] else set()
        # each pair is computed once: the two directions could round to different sides of the threshold
        alike = index + 1 + np.flatnonzero(matrix[index + 1 :] @ matrix[index] > threshold)
        for other in sorted({name for name in same if name > index} | set(alike.tolist())):
            reason = "title" if other in same else "cosine"
            found += [(technique_id, ids[other], reason), (ids[other], technique_id, reason)]
    return sorted(found)


def _hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}\n{text}".encode()).hexdigest()
