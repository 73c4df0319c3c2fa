"""Where the profiled rows come from, a finished stage's table or raw files, and which column is what.

    files or table --first rows--> Layout --batches--> Batch(texts, ids, years, codes, other values, missing)

A batch is a few thousand rows at most, and no more characters than BATCH_CHARACTERS when they come row by row.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from patentft.config import ConfigError, nearest
from patentft.corpus.read import BadRow, RawRow, columns_of, format_of, list_files, printable, rows_of, undecodable
from patentft.location import Location
from patentft.store import StageFolder

BATCH_ROWS = 2048
BATCH_CHARACTERS = 32 << 20
PEEKED_ROWS = 1000
IDS = ("text_id", "qa_id", "preference_id", "section_id", "patent_id", "technique_id", "publication_number", "id")
DATES = ("date", "year", "publication_date", "grant_date", "patent_date", "filing_date", "application_date")
CODES = ("codes", "cpc", "cpc_codes", "cpcs", "cpc_ids", "ipc", "ipc_codes", "ipcs")
SUBCLASS = re.compile(r"[A-HY]\d{2}[A-Z]")
TABLES = ("texts", "patents", "views", "sections", "qa", "preferences", "techniques")
"""Tables of a stage that are worth a profile, the first that is there is taken."""
NOT_SET = frozenset(("", "0", "0.0", "false", "no"))


@dataclass(frozen=True)
class Row:
    """A raw row of a batch: values as they came, and where it stands."""

    file: str
    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """Which column is what. A column in none of the roles is counted by its values, if few of them differ."""

    columns: list[str]
    texts: list[str]
    id: str | None
    date: str | None
    codes: str | None
    indicators: list[str]  # 0/1 columns named by CPC subclasses
    values: list[str]


@dataclass
class Batch:
    """Some rows by column. texts: None where one is missing. years, codes: None where a row has none."""

    places: list[tuple[str, int]]  # (file, row number)
    texts: dict[str, list[str | None]]
    ids: list[str | None] | None
    years: list[int | None] | None
    codes: list[list[str]] | None
    values: dict[str, Counter[str]]
    missing: dict[str, int]
    not_unicode: dict[str, list[int]]  # column -> rows of the batch
    bad: list[BadRow] = field(default_factory=list)  # rows that could not be read: they are no rows of the batch

    def __len__(self) -> int:
        return len(self.places)

    def where(self, index: int) -> str:
        """How to name a row: its id, else its file and number."""
        name = self.ids[index] if self.ids else None
        return name or "{} row {}".format(*self.places[index])


@dataclass(frozen=True)
class Source:
    """name: for titles. columns: known ahead, None for JSONL. rows: None when only reading tells."""

    name: str
    columns: list[str] | None
    rows: int | None
    read: Callable[[], Iterator[Row | BadRow]]
    size: str  # "3 files", "12 parts"

    def peek(self) -> list[Row]:
        """The first PEEKED_ROWS good rows."""
        good = (row for row in self.read() if isinstance(row, Row))
        return list(itertools.islice(good, PEEKED_ROWS))


# ---- the two kinds of sources


def of_files(pattern: str, delimiter: str | None = None) -> Source:
    """Raw files. Raises ConfigError when there is none, or for one that cannot be read or has other columns."""
    files = list_files(pattern)
    columns: list[str] | None = None
    rows: int | None = 0
    for file in files:
        found = columns_of(file, delimiter)
        if found is not None:
            columns = list(dict.fromkeys([*(columns or []), *found]))
        rows = rows + _parquet_rows(file) if rows is not None and format_of(file) == "parquet" else None

    def read() -> Iterator[Row | BadRow]:
        for file in files:
            for item in rows_of(file, delimiter):
                yield item if isinstance(item, BadRow) else _row(item, file.name)

    size = f"{len(files)} file{'s' * (len(files) != 1)}"
    return Source(Location(pattern).name, columns, rows, read, size)


def _row(raw: RawRow, name: str) -> Row:
    return Row(name, raw.number, raw.values)


def _parquet_rows(file: Location) -> int:
    with pq.ParquetFile(file.path if file.is_local else file.filesystem.open(file.url, "rb")) as parquet:
        return parquet.metadata.num_rows


def of_stage(folder: StageFolder, table: str | None) -> Source:
    """A table of a finished stage. Raises ConfigError when it has no such table, or none with texts."""
    assert folder.manifest is not None
    present = list(folder.manifest.tables)
    if table is None:
        table = next((name for name in TABLES if name in present), None)
        if table is None:
            raise ConfigError(
                f"stage {folder.name!r} (kind {folder.kind}) has no table of texts; it has "
                f"{', '.join(present) or 'none'}: set table (--table) to one of them"
            )
    elif table not in present:
        raise ConfigError(f"stage {folder.name!r} has no table {table!r}{nearest(table, present)}")
    entries = folder.parts(table)
    columns = list(folder.read_part(entries[0]).schema.names)

    def read() -> Iterator[Row | BadRow]:
        for entry in entries:
            number = 0
            for batch in folder.read_part(entry).to_batches(max_chunksize=BATCH_ROWS):
                for values in batch.to_pylist():
                    yield Row(entry.path, number, values)
                    number += 1

    rows = sum(entry.rows or 0 for entry in entries)
    return Source(f"{folder.name}/{table}", columns, rows, read, f"{len(entries)} part{'s' * (len(entries) != 1)}")


# ---- which column is what


def layout_of(
    columns: Sequence[str] | None, peeked: Sequence[Row], texts: Sequence[str], id_column: str | None
) -> Layout:
    """Roles by the columns' names and first values. Raises ConfigError for a named column that is not there."""
    if columns is None:
        columns = list(dict.fromkeys(name for row in peeked for name in row.values))
    known = [str(name) for name in columns]
    for name in [*texts, *([id_column] if id_column else [])]:
        if name not in known:
            raise ConfigError(f"no column {name!r}{nearest(name, known)}; there are: {', '.join(known[:12])}")
    if id_column in texts:
        raise ConfigError(f"column {id_column!r} is named as id and as text: name another for one of them")
    indicators = [name for name in known if SUBCLASS.fullmatch(name) and name not in texts]
    if len(indicators) < 2:
        indicators = []
    others = [name for name in known if name not in set(indicators)]
    named_codes = next((name for name in CODES if name in others and name not in texts), None)
    date = next((name for name in DATES if name in others and name not in texts), None)
    first_id = id_column or next((name for name in IDS if name in others and name not in texts), None)
    taken = {named_codes, date, first_id}
    found = list(texts) or [
        name for name in others if name not in taken and _reads_like_text([row.values.get(name) for row in peeked])
    ]
    values = [name for name in others if name not in found and name not in taken]
    return Layout(known, found, first_id, date, named_codes, indicators, values)


def _reads_like_text(values: Iterable[Any]) -> bool:
    """Whether the typical value has four words and 25 characters."""
    texts = [text for value in values if (text := as_text(value)) and not text.lstrip().startswith("[{")]
    if not texts or all(isinstance(value, list) for value in values):
        return False
    return median(len(text) for text in texts) >= 25 and median(len(text.split()) for text in texts) >= 4


def as_text(value: Any) -> str | None:
    """A value as one text: a list of texts line by line, anything else as it is written; None for what is missing."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(item is None or isinstance(item, str) for item in value):
        return "\n".join(item for item in value if item)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


# ---- batches


def batches(source: Source, layout: Layout) -> Iterator[Batch]:
    """All rows of the source, in order."""
    rows: list[Row] = []
    bad: list[BadRow] = []
    characters = 0
    for item in source.read():
        if isinstance(item, BadRow):
            bad.append(item)
        else:
            rows.append(item)
            for name in layout.texts:
                value = item.values.get(name)
                characters += len(value) if isinstance(value, str) else 0
        if len(rows) + len(bad) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield _batch(rows, bad, layout)
            rows, bad, characters = [], [], 0
    if rows or bad:
        yield _batch(rows, bad, layout)


def _batch(rows: list[Row], bad: list[BadRow], layout: Layout) -> Batch:
    missing: dict[str, int] = {}
    not_unicode: dict[str, list[int]] = {}
    texts: dict[str, list[str | None]] = {}
    for name in layout.texts:
        found = [as_text(row.values.get(name)) for row in rows]
        wrong = [index for index, text in enumerate(found) if text is not None and undecodable(text)]
        for index in wrong:
            found[index] = printable(found[index] or "", 1 << 30)
        if wrong:
            not_unicode[name] = wrong
        texts[name] = [text if text and not text.isspace() else None for text in found]
        missing[name] = sum(text is None for text in texts[name])
    ids = years = None
    if layout.id:
        ids = [_short(row.values.get(layout.id)) for row in rows]
        missing[layout.id] = sum(value is None for value in ids)
    if layout.date:
        years = [year_of(row.values.get(layout.date)) for row in rows]
        missing[layout.date] = sum(_short(row.values.get(layout.date)) is None for row in rows)
    codes = _codes(rows, layout, missing)
    values: dict[str, Counter[str]] = {}
    for name in layout.values:
        found = [_short(row.values.get(name)) for row in rows]
        missing[name] = sum(value is None for value in found)
        values[name] = Counter(value for value in found if value is not None)
    places = [(row.file, row.number) for row in rows]
    return Batch(places, texts, ids, years, codes, values, missing, not_unicode, bad)


def _codes(rows: list[Row], layout: Layout, missing: dict[str, int]) -> list[list[str]] | None:
    if layout.codes is None and not layout.indicators:
        return None
    found: list[list[str]] = [[] for _ in rows]
    if layout.codes is not None:
        found = [code_list(row.values.get(layout.codes)) for row in rows]
        missing[layout.codes] = sum(not codes for codes in found)
    for name in layout.indicators:
        column = [row.values.get(name) for row in rows]
        lacking = 0
        for index, value in enumerate(column):
            if value == "0" or value == 0:  # nearly all of them
                continue
            if value is None or value == "":
                lacking += 1
            elif str(value).strip().lower() not in NOT_SET:
                found[index].append(name)
        if lacking:
            missing[name] = lacking
    return found


def _short(value: Any) -> str | None:
    """A value as a text of at most 80 characters, None for what is missing."""
    text = as_text(value)
    if text is None or not text or text.isspace():
        return None
    return printable(text, 80)


def code_list(value: Any) -> list[str]:
    """CPC or IPC symbols from a list, a JSON list in a text, or a text with ; , or | between them."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                value = json.loads(value.replace("'", '"'))
            except ValueError:
                value = value.strip("[] ").split(",")
        else:
            value = re.split(r"[;,|]", value)
    if not isinstance(value, list):
        return []
    return [text for item in value if item is not None and (text := str(item).strip())]


_YEAR = re.compile(r"\s*(1[789]\d\d|2[01]\d\d)(?!\d)|\s*(1[789]\d\d|2[01]\d\d)(?:\d{4})(?!\d)")


def year_of(value: Any) -> int | None:
    """1700 ... 2199 from a number, "2015", "2015-03-02", "20150302", a date; None when it is none of them."""
    if value is None:
        return None
    match = _YEAR.match(str(value))
    return int(match[1] or match[2]) if match else None
