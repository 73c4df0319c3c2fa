from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft.scoring.partition import whole_techniques


def tables(sizes: list[int], cuts: list[int]) -> list[pa.Table]:
    """Technique i has sizes[i] rows; the table of all is cut at `cuts`."""
    names = [f"T{index}" for index, size in enumerate(sizes) for _ in range(size)]
    whole = pa.table({"technique_id": pa.array(names, pa.string()), "row": pa.array(range(len(names)), pa.int64())})
    places = sorted({0, len(names), *(cut % (len(names) + 1) for cut in cuts)})
    return [whole.slice(low, high - low) for low, high in pairwise(places)]


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=30), st.lists(st.integers(0, 400), max_size=8), st.integers(1, 40)
)
def test_every_row_once_in_order_and_no_technique_in_two_parts(sizes, cuts, rows_per_part):
    parts = list(whole_techniques(tables(sizes, cuts), rows_per_part))
    assert [row for part in parts for row in part["row"].to_pylist()] == list(range(sum(sizes)))
    owners = [set(part["technique_id"].to_pylist()) for part in parts]
    assert sum(map(len, owners)) == len(sizes)
    assert all(part.num_rows >= rows_per_part for part in parts[:-1])


def test_memory_is_a_part_and_a_table():
    parts = whole_techniques(iter(tables([5] * 100, list(range(0, 500, 5)))), 20)
    assert max(part.num_rows for part in parts) == 20


def test_a_technique_that_comes_back_is_an_error():
    scattered = pa.table({"technique_id": ["a"] * 4 + ["b"] * 4 + ["a"]})
    for tables_ in ([scattered.slice(0, 8), scattered.slice(8)], [scattered]):
        with pytest.raises(ValueError, match="'a' do not stand together"):
            list(whole_techniques(tables_, 2))
