"""Tables in a row -> parts that hold whole techniques: what is asked of one technique then lies in one file. Pure."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported: a type checker sees none of them)

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def whole_techniques(tables: Iterable[pa.Table], rows_per_part: int) -> Iterator[pa.Table]:
    """The rows in the order given, cut where the technique changes, once a part holds `rows_per_part` rows or more.

    Memory: a part and one table. tables: each technique's rows stand together, over any number of tables. Raises
    ValueError when a technique comes back after its part was closed.
    """
    held: list[pa.Table] = []
    closed: set[str] = set()
    for table in tables:
        if not table.num_rows:
            continue
        _refuse_back(table, closed)
        held.append(table)
        if sum(each.num_rows for each in held) > rows_per_part:
            joined = pa.concat_tables(held).combine_chunks()
            last = _start_of_last(joined["technique_id"])
            if last >= rows_per_part:
                part = joined.slice(0, last)
                closed.update(pc.unique(part["technique_id"]).to_pylist())
                yield part
                joined = joined.slice(last)
                _refuse_back(joined, closed)
            held = [joined]
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _refuse_back(table: pa.Table, closed: set[str]) -> None:
    back = closed.intersection(pc.unique(table["technique_id"]).to_pylist())
    if back:
        raise ValueError(f"the rows of technique {min(back)!r} do not stand together")


def _start_of_last(column: pa.ChunkedArray) -> int:
    """The row from which on the column has its last value."""
    codes = column.combine_chunks().dictionary_encode().indices.to_numpy()
    others = np.flatnonzero(codes != codes[-1])
    return int(others[-1]) + 1 if len(others) else 0
