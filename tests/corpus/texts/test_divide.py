from __future__ import annotations

import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft.config import ConfigError, build
from patentft.corpus.texts import divide
from patentft.corpus.texts.divide import BalanceConfig, DivideConfig

FRACTIONS: dict = {"train": 0.6, "valid": 0.2, "test": 0.2}


def sides(owners: list[str], pairs: list[tuple[int, int]], seed: int = 0) -> np.ndarray:
    names, owner = np.unique(owners, return_inverse=True)
    keys = divide.hashes(names.tolist(), seed)[owner]
    joined = np.array(pairs, np.int64).reshape(-1, 2)
    return divide.by_hash(divide.units(owner.astype(np.int64), joined), keys, FRACTIONS)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_units_are_not_divided_and_the_order_of_rows_does_not_matter(data):
    owners = data.draw(st.lists(st.sampled_from([f"f{i}" for i in range(12)]), min_size=1, max_size=30))
    places = st.integers(0, len(owners) - 1)
    pairs = data.draw(st.lists(st.tuples(places, places), max_size=6))
    found = sides(owners, pairs)
    assert all(found[i] == found[j] for i, j in pairs)
    assert all(found[i] == found[j] for i in range(len(owners)) for j in range(i) if owners[i] == owners[j])
    order = data.draw(st.permutations(range(len(owners))))
    place = {row: index for index, row in enumerate(order)}
    shuffled = sides([owners[row] for row in order], [(place[i], place[j]) for i, j in pairs])
    assert (shuffled == found[list(order)]).all()


def test_shares_are_those_asked_for_and_other_rows_do_not_matter():
    owners = [f"f{i}" for i in range(20_000)]
    found = sides(owners, [])
    assert np.allclose(np.bincount(found) / len(found), [0.6, 0.2, 0.2], atol=0.02)
    assert (sides(owners[:500], []) == found[:500]).all()
    assert (sides(owners, [], seed=1) != found).any()


def test_by_date_a_unit_goes_where_its_latest_text_goes():
    none = np.iinfo(np.int64).min
    dates = [datetime.date(year, 1, 1) for year in (2001, 2010, 2012, 2020)]
    day = np.array([(date - datetime.date(1970, 1, 1)).days for date in dates] + [none])
    unit = np.array([0, 1, 2, 0, 3])
    cuts = (datetime.date(2010, 1, 1), datetime.date(2012, 1, 2))
    assert divide.by_date(unit, day, *cuts).tolist() == [2, 1, 1, 2, -1]


def test_a_balanced_subset_has_the_sizes_asked_for():
    rng = np.random.default_rng(0)
    side, green = rng.integers(0, 3, 9000).astype(np.int8), rng.random(9000) < 0.2
    keys = divide.hashes([str(i) for i in range(9000)], 1)
    chosen = divide.balanced(side, green, keys, BalanceConfig(train=400, valid=100, test=60))
    for index, size in enumerate((400, 100, 60)):
        assert (chosen & (side == index)).sum() == size
        assert (chosen & (side == index) & green).sum() == size // 2
    with pytest.raises(ConfigError, match=r"balance.train wants 20,000 green texts, but the side has"):
        divide.balanced(side, green, keys, BalanceConfig())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fractions": {"train": 0.5, "valid": 0.1, "test": 0.1}}, "sum to 1"),
        ({"valid_from": "2010-01-01"}, "set both"),
        ({"valid_from": "2012-01-01", "test_from": "2010-01-01"}, "must lie before"),
        ({"balance": {}}, "balance needs labels"),
        ({"labels": "l", "balance": {"train": 3}}, "even number"),
        ({"duplicates": "first"}, "needs near_duplicates"),
    ],
)
def test_configurations_that_cannot_be(values, message):
    with pytest.raises(ConfigError, match=message):
        build(DivideConfig, {"data": "texts", **values})
