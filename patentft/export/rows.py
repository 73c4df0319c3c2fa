"""The rows of an export: a part of a table, joined with its labels and its side of the split."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported: a type checker sees none of them)

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from patentft import schema
from patentft.config import ConfigError
from patentft.store import StageFolder

IDS = {"texts": "text_id", "qa": "qa_id", "preferences": "preference_id", "views": "text_id"}
"""Table that can be exported -> its id column."""
TEXT_COLUMNS = {
    "texts": ("text",),
    "qa": ("context", "question", "answer"),
    "preferences": ("context", "question", "chosen", "rejected"),
    "views": ("text",),
}
"""What is counted in tokens where there are no messages."""


def columns_of(table: str, labels: bool) -> list[str]:
    """The columns of a joined row."""
    names = list(schema.TABLES[table].names)
    return names + [name for name in schema.LABELS.names if name not in names] if labels else names


class Aligned:
    """A table in the order of another one, read by row range: its parts may be cut elsewhere."""

    def __init__(self, folder: StageFolder, table: str) -> None:
        self._folder, self.table = folder, table
        self._entries = folder.parts(table)
        self._stops = list(accumulate(entry.rows or 0 for entry in self._entries))
        self._held: tuple[int, pa.Table] | None = None  # the last part read: the next range often begins in it

    @property
    def rows(self) -> int:
        return self._stops[-1]

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows start ... stop - 1."""
        pieces = []
        for index, end in enumerate(self._stops):
            begin = end - (self._entries[index].rows or 0)
            if end <= start or begin >= stop:
                continue
            if self._held is None or self._held[0] != index:
                self._held = index, self._folder.read_part(self._entries[index])
            low, high = max(start, begin) - begin, min(stop, end) - begin
            pieces.append(self._held[1].slice(low, high - low))
        return pa.concat_tables(pieces) if pieces else schema.TABLES[self.table].empty_table()


def with_labels(part: pa.Table, labels: pa.Table, names: Sequence[str] | None, where: str) -> pa.Table:
    """`part` (a part of texts) with the columns of LABELS; `labels` as names when they are known.

    Raises ConfigError when the two are not the same texts in the same order.
    """
    if not part["text_id"].combine_chunks().equals(labels["text_id"].combine_chunks()):
        raise ConfigError(f"{where}: its rows are not those of the texts, in their order; are both of the same run?")
    for name in schema.LABELS.names:
        if name == "text_id":
            continue
        column: Any = labels[name]
        if name == "labels" and names is not None:
            listed = [[names[index] for index in indices] for indices in column.to_pylist()]
            column = pa.array(listed, pa.list_(pa.string()))
        part = part.append_column(name, column)
    return part


def label_names(folder: StageFolder) -> list[str] | None:
    """labels.json of a labels stage: a list of names, or a mapping that has it under "labels"; None without."""
    assert folder.manifest is not None
    if not any(entry.path == "labels.json" for entry in folder.manifest.files):
        return None
    found = json.loads(folder.read_file("labels.json"))
    if isinstance(found, dict):
        found = found.get("labels", found.get("codes"))
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"stage {folder.name!r}: labels.json holds no list of label names")
    return found


class Roles:
    """Which side of the split each id is on."""

    def __init__(self, folder: StageFolder) -> None:
        table = folder.read("text_roles")
        self._ids = table["id"].combine_chunks()
        self._roles = table["role"].combine_chunks()
        if pc.count_distinct(self._ids).as_py() != len(self._ids):
            raise ConfigError(f"stage {folder.name!r}: text_roles gives some id two roles")

    def of(self, ids: pa.ChunkedArray) -> list[str | None]:
        """The role of each id, None for one without."""
        places = pc.index_in(ids, value_set=self._ids)
        return self._roles.take(places.combine_chunks() if isinstance(places, pa.ChunkedArray) else places).to_pylist()
