"""The computed shuffle is a permutation, differs by epoch, and any position is found at once."""

from __future__ import annotations

import numpy as np
import pytest

from patentft.train.order import Order


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097])
def test_every_row_once(num_rows: int) -> None:
    for epoch in range(3):
        assert sorted(Order(num_rows, 7, epoch).rows(np.arange(num_rows)).tolist()) == list(range(num_rows))


def test_epochs_and_seeds_differ_and_nothing_else_matters() -> None:
    places = np.arange(5000)
    first = Order(5000, 0, 0).rows(places)
    assert np.array_equal(first, Order(5000, 0, 0).rows(places))
    assert np.array_equal(first[1234:1300], Order(5000, 0, 0).rows(places[1234:1300]))
    for other in (Order(5000, 0, 1), Order(5000, 1, 0)):
        assert np.mean(first == other.rows(places)) < 0.005
    # as a random permutation: neighbours are far apart (a third of n on average), and nothing leans on the position
    assert np.abs(np.diff(first)).mean() == pytest.approx(5000 / 3, rel=0.05)
    assert abs(np.corrcoef(places, first)[0, 1]) < 0.05


def test_a_billion_rows_cost_no_memory() -> None:
    order = Order(10**9, 3, 2)
    rows = order.rows(np.array([0, 999_999_999, 123_456_789]))
    assert len(set(rows.tolist())) == 3
    assert (rows < 10**9).all()
    with pytest.raises(IndexError, match="position 1000000000 of 1000000000 rows"):
        order.rows([10**9])
