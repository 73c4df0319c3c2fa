"""Which side each text is on: train, valid, test, unused or duplicate. Pure; ids, hashes and dates only.

Texts that belong together (one family, one patent, one group of near-duplicates, and chains of those) form a unit, and
a unit is never divided. By hash, a unit's side follows from a hash of the seed and the smallest key among its members,
so neither the order of the rows nor other units matter. By date, a unit goes where its latest text goes.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import Field, model_validator

from patentft.config import Config, ConfigError
from patentft.stage import StageRef

Side = Literal["train", "valid", "test"]
SIDES: tuple[Side, ...] = ("train", "valid", "test")
UNUSED, DUPLICATE = "unused", "duplicate"


class BalanceConfig(Config):
    """A subset with as many green as other texts."""

    train: int = Field(default=40_000, ge=0)
    """Texts of this side, half of them green."""
    valid: int = Field(default=5_000, ge=0)
    test: int = Field(default=5_000, ge=0)

    @model_validator(mode="after")
    def _even(self) -> BalanceConfig:
        odd = [side for side in SIDES if getattr(self, side) % 2]
        if odd:
            raise ValueError(f"{odd[0]} is {getattr(self, odd[0])}: half of a side is green, so give an even number")
        return self


class DivideConfig(Config):
    """Sides of texts."""

    data: StageRef
    """A stage with the table texts."""
    labels: StageRef | None = None
    """Its labels stage: for `balance`, and for the prevalence in the counts."""
    near_duplicates: StageRef | None = None
    """Its near_duplicates stage. unset: near-duplicates are not looked at, and may stand on two sides."""
    duplicates: Literal["together", "first"] = "together"
    """Near-duplicates of one text: all kept, on one side; or only the first of each group, the others as
    "duplicate"."""
    by: Literal["family", "patent", "text"] = "family"
    """What is never divided. Where a text has no family its patent counts, and where it has none the text itself."""
    fractions: dict[Side, float] = {"train": 0.8, "valid": 0.1, "test": 0.1}
    """Shares of the units, by hash. Not used with dates."""
    valid_from: datetime.date | None = None
    """With `test_from`: split by date. Texts from this day on, and before `test_from`, are valid; earlier ones
    train."""
    test_from: datetime.date | None = None
    split: StageRef | None = None
    """A split stage: each text is on the side of its technique or patent there (text_id, else patent_id), in place of
    fractions and dates. A side of its test or unused rows is that here too."""
    balance: BalanceConfig | None = None
    """Choose a balanced subset of each side; the other texts become "unused"."""
    seed: int = 0

    @model_validator(mode="after")
    def _coherent(self) -> DivideConfig:
        if set(self.fractions) != set(SIDES) or abs(sum(self.fractions.values()) - 1) > 1e-6:
            raise ValueError(f"fractions must name train, valid and test and sum to 1; got {self.fractions}")
        if min(self.fractions.values()) < 0:
            raise ValueError(f"fractions must not be negative; got {self.fractions}")
        if self.split and (self.valid_from or self.near_duplicates or "fractions" in self.model_fields_set):
            raise ValueError("split says which side a text is on: leave out fractions, dates and near_duplicates")
        if (self.valid_from is None) != (self.test_from is None):
            raise ValueError("valid_from and test_from go together: set both, or neither to split by hash")
        if self.valid_from and self.test_from and self.valid_from >= self.test_from:
            raise ValueError(f"valid_from {self.valid_from} must lie before test_from {self.test_from}")
        if self.balance and self.labels is None:
            raise ValueError("balance needs labels: the name of a labels stage")
        if self.duplicates == "first" and self.near_duplicates is None:
            raise ValueError("duplicates: first needs near_duplicates: the name of that stage")
        return self


def hashes(keys: list[str], seed: int) -> NDArray[np.uint64]:
    """64-bit hashes of texts under a seed: independent for different seeds."""
    return np.fromiter((xxhash.xxh3_64_intdigest(key.encode(), seed) for key in keys), np.uint64, len(keys))


def units(owner: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) a unit's number for every text: texts of one owner are together, and so are the two texts of each pair.

    owner: (N,) ints. pairs: (P, 2) indices of texts.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    num_owners = int(owner.max()) + 1 if len(owner) else 0
    joined = coo_array(
        (np.ones(len(pairs), np.int8), (owner[pairs[:, 0]], owner[pairs[:, 1]])), shape=(num_owners, num_owners)
    )
    return connected_components(joined, directed=False)[1][owner].astype(np.int64)


def by_hash(unit: NDArray[np.int64], key: NDArray[np.uint64], fractions: dict[Side, float]) -> NDArray[np.int8]:
    """(N,) index into SIDES. key: (N,) a hash of each text's owner; a unit is drawn by its smallest."""
    smallest = np.full(int(unit.max()) + 1 if len(unit) else 0, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, unit, key)
    # the smallest of many hashes is not uniform: it is hashed once more
    draw = _mix(smallest).astype(np.float64) / 2.0**64
    bounds = np.cumsum([fractions[side] for side in SIDES])[:-1]
    return np.searchsorted(bounds, draw, side="right").astype(np.int8)[unit]


def by_split(
    text_ids: list[str], patent_ids: list[str | None], roles: Mapping[str, str], source: str
) -> NDArray[np.int8]:
    """(N,) index into SIDES; -1 for what the split does not use. roles: id of a technique or patent -> its side.

    Raises ConfigError for a text whose text_id and patent_id the split lacks.
    """
    owners = zip(text_ids, patent_ids, strict=True)
    found = [roles.get(text_id) or roles.get(patent_id or "") for text_id, patent_id in owners]
    if None in found:
        index = found.index(None)
        raise ConfigError(
            f"{source!r} has no technique or patent {text_ids[index]!r}: give a split stage of the data that the texts "
            f"are of"
        )
    number = {name: index for index, name in enumerate(SIDES)}
    return np.array([number.get(str(role), -1) for role in found], np.int8)


def by_date(
    unit: NDArray[np.int64], day: NDArray[np.int64], valid_from: datetime.date, test_from: datetime.date
) -> NDArray[np.int8]:
    """(N,) index into SIDES; -1 for a unit with no date. day: (N,) days since 1970, the least int64 where none."""
    latest = np.full(int(unit.max()) + 1 if len(unit) else 0, np.iinfo(np.int64).min)
    np.maximum.at(latest, unit, day)
    cuts = np.asarray([valid_from, test_from], "datetime64[D]").astype(np.int64)
    sides = np.searchsorted(cuts, latest, side="right").astype(np.int8)
    sides[latest == np.iinfo(np.int64).min] = -1
    return sides[unit]


def balanced(
    side: NDArray[np.int8], green: NDArray[np.bool_], key: NDArray[np.uint64], wanted: BalanceConfig
) -> NDArray[np.bool_]:
    """(N,) whether each text is chosen: of each side and class those with the smallest `key`.

    Raises ConfigError when a side has too few.
    """
    chosen = np.zeros(len(side), bool)
    for index, name in enumerate(SIDES):
        half = getattr(wanted, name) // 2
        for is_green in (True, False):
            there = np.flatnonzero((side == index) & (green == is_green))
            if len(there) < half:
                raise ConfigError(
                    f"balance.{name} wants {half:,} {'green' if is_green else 'other'} texts, but the side has "
                    f"{len(there):,}; lower it, raise fractions.{name}, or give more texts"
                )
            chosen[there[np.argsort(key[there], kind="stable")[:half]]] = True
    return chosen


def counts_of(
    side: NDArray[np.int8], green: NDArray[np.bool_] | None, grouped: NDArray[np.bool_], dropped: NDArray[np.bool_]
) -> dict[str, Any]:
    """Rows per side with their prevalence, what is unused, and how many near-duplicates were kept together or
    dropped."""
    found: dict[str, Any] = {}
    for index, name in enumerate(SIDES):
        there = side == index
        found[name] = {"rows": int(there.sum()), "near_duplicates": int((there & grouped).sum())}
        if green is not None:
            found[name]["prevalence"] = round(float(green[there].mean()), 6) if there.any() else None
    found["unused"] = int((side == -1).sum() - dropped.sum())
    found["duplicates"] = int(dropped.sum())
    return found


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finalizer."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
