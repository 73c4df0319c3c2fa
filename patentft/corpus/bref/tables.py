"""SECTIONS and CITATIONS rows: from the tree of a PDF, or from tables of sections and texts that exist already."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pydantic import Field

from patentft import schema
from patentft.config import Config, ConfigError, nearest
from patentft.corpus.bref.citations import find_citations
from patentft.corpus.bref.tree import Tree
from patentft.corpus.read import BadRow, columns_of, list_files, rows_of, undecodable
from patentft.corpus.tables import Rejected, SourceConfig, Tally, read_table
from patentft.stage import FileRef

SEPARATOR = ":::"
_NUMBER = re.compile(r"\d+(?:\.\d+)*")
SHOWN = 50
"""Unresolved citations that the manifest lists in full; all are rows of CITATIONS."""


class TreeConfig(Config):
    """A table of the sections of documents: their ids, titles and, where it has them, parents."""

    files: FileRef
    """A file, a folder or a glob: Parquet, JSONL, CSV or TSV."""
    columns: dict[str, str] = Field(default={})
    """Our column (section_id, document, parent, title) -> the file's column, for those whose names differ."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """CSV delimiter, one character; unset: the most frequent of , ; tab | in the header line."""


class TablesConfig(Config):
    """Sections from tables instead of PDFs. Ids have the form DOCUMENT:::NUMBER ("CER:::4.1.2")."""

    texts: SourceConfig
    """technique_id, title and text of the sections that have a text."""
    sections: TreeConfig | None = None
    """The whole tree; unset: only the sections that `texts` has."""


@dataclass
class Document:
    """One document's rows, and what is to be said of them."""

    code: str
    sections: list[dict[str, Any]]
    citations: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)


def from_tree(code: str, tree: Tree) -> Document:
    ids: dict[str, str] = {}  # number -> section_id
    seen: Counter[str] = Counter()
    rows = []
    for section in tree.sections:
        name = section.number or section.title
        seen[name] += 1
        section_id = f"{code}{SEPARATOR}{name}" + (f" ({seen[name]})" if seen[name] > 1 else "")
        if section.number:
            ids[section.number] = section_id
        rows.append(
            {
                "section_id": section_id,
                "document": code,
                "parent": nearest_ancestor(section.number, ids),
                "number": section.number,
                "level": section.level,
                "title": section.title,
                "text": section.text,
                "page": section.page,
            }
        )
    return _with_citations(Document(code, rows, counts=dict(tree.counts)))


def nearest_ancestor(number: str | None, ids: dict[str, str]) -> str | None:
    """The id of "4.1" for "4.1.2"; of "4" when there is no 4.1; None for a chapter."""
    while number and "." in number:
        number = number.rpartition(".")[0]
        if number in ids:
            return ids[number]
    return None


def _with_citations(document: Document) -> Document:
    ids = {row["number"]: row["section_id"] for row in document.sections if row["number"]}
    elsewhere = 0
    for row in document.sections:
        found = find_citations(row["text"], ids.keys())
        elsewhere += found.elsewhere
        document.citations += [
            {
                "section_id": row["section_id"],
                "cited_id": ids.get(citation.number),
                "words": citation.words,
                "start_char": citation.start_char,
            }
            for citation in found.citations
        ]
    unresolved = [row for row in document.citations if row["cited_id"] is None]
    document.counts |= {
        "sections": len(document.sections),
        "chapters": sum(row["parent"] is None for row in document.sections),
        "with_text": sum(bool(row["text"]) for row in document.sections),
        "characters": sum(len(row["text"]) for row in document.sections),
        "citations": len(document.citations),
        "citations_resolved": len(document.citations) - len(unresolved),
        "citations_unresolved": len(unresolved),
        "citations_of_other_documents": elsewhere,
        "unresolved": [f"{row['section_id']}: {row['words']}" for row in unresolved[:SHOWN]],
    }
    return document


def as_table(name: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema.TABLES[name])


# ---- from tables


def from_tables(config: TablesConfig, rejected: Rejected) -> list[Document]:
    """The documents in the order of their codes, their sections in the order of their numbers.

    Rows without an id of the right form, or with one seen before, go to `rejected`. Raises ConfigError when a file
    cannot be read or lacks a column, and when no row is good.
    """
    sections: dict[str, dict[str, Any]] = {}
    if config.sections:
        _read_tree(config.sections, sections, rejected)
    tally = Tally()

    def well_formed(row: dict[str, Any]) -> tuple[str, str] | None:
        code, separator, name = row["technique_id"].partition(SEPARATOR)
        good = code and separator and name
        return None if good else ("technique_id", f"wrong value: expected an id such as CER{SEPARATOR}4.1.2")

    for row in read_table("techniques", config.texts, rejected, tally, max_characters=None, accept=well_formed):
        known = sections.setdefault(row["technique_id"], _section(row["technique_id"], None, row["title"]))
        known["text"] = _without_title(row["text"], known["title"], row["title"])
    if not sections:
        raise ConfigError(f"{config.texts.files}: none of its {tally.read} rows is a good section; {tally.reasons}")
    documents: dict[str, list[dict[str, Any]]] = {}
    for row in sections.values():
        documents.setdefault(row["document"], []).append(row)
    found = []
    for code in sorted(documents):
        rows = sorted(documents[code], key=_natural)
        _link(rows, sections)
        found.append(_with_citations(Document(code, rows)))
    return found


def _section(section_id: str, parent: str | None, title: str) -> dict[str, Any]:
    code, _, name = section_id.partition(SEPARATOR)
    number = name if _NUMBER.fullmatch(name) else None
    return {
        "section_id": section_id,
        "document": code,
        "parent": parent,
        "number": number,
        "level": number.count(".") + 1 if number else 1,
        "title": title,
        "text": "",
        "page": None,
    }


def _without_title(text: str, *titles: str) -> str:
    """The text below its heading, where the table repeats the heading in it."""
    first, _, rest = text.partition("\n")
    heads = {" ".join(title.split()).casefold() for title in titles}
    return (rest if " ".join(first.split()).casefold() in heads else text).strip()


def _read_tree(config: TreeConfig, sections: dict[str, dict[str, Any]], rejected: Rejected) -> None:
    names = ("section_id", "document", "parent", "title")
    unknown = sorted(set(config.columns) - set(names))
    if unknown:
        raise ConfigError(f"sections.columns: {unknown[0]!r} is no column here{nearest(unknown[0], names)}")
    theirs = {name: config.columns.get(name, name) for name in names}
    for file in list_files(config.files):
        present = columns_of(file, config.delimiter)
        for name in ("section_id", "title", *config.columns):
            if present is not None and theirs[name] not in present:
                raise ConfigError(
                    f"{file}: no column {theirs[name]!r} for sections.{name}{nearest(theirs[name], present)}; "
                    f"the file has: {', '.join(present[:12])}; set sections.columns.{name} to the right one"
                )
        for item in rows_of(file, config.delimiter, set(theirs.values())):
            bad = item if isinstance(item, BadRow) else None
            if not isinstance(item, BadRow):
                values = {name: item.values.get(column) for name, column in theirs.items()}
                column, reason = _wrong(values, sections)
                if reason:
                    bad = BadRow(item.file, item.number, reason, str(values[column])[:200], column)
                else:
                    section_id, parent = str(values["section_id"]), values["parent"]
                    parent = parent if isinstance(parent, str) and parent else None
                    sections[section_id] = _section(section_id, parent, str(values["title"]).strip())
            if bad:
                rejected.add("sections", bad, Tally())


def _wrong(values: dict[str, Any], seen: Collection[str]) -> tuple[str, str]:
    """(column, reason) of what is wrong with a row of the tree; an empty reason when it is good."""
    for column in ("section_id", "title"):
        value = values[column]
        if not isinstance(value, str) or not value.strip():
            return column, "empty: a text is required"
        if "\x00" in value or undecodable(value):
            return column, "rubbish: the text holds NUL characters or is not valid Unicode"
    code, separator, name = values["section_id"].partition(SEPARATOR)
    if not (code and separator and name):
        return "section_id", f"wrong value: expected an id such as CER{SEPARATOR}4.1.2"
    if values["document"] not in (None, "", code):
        return "document", f"wrong value: the id says {code}"
    if values["section_id"] in seen:
        return "section_id", "duplicate id: the first row with it was kept"
    return "", ""


def _natural(row: dict[str, Any]) -> tuple[Any, ...]:
    """Numbered sections by number, the others behind them in the order of the file."""
    return (0, *map(int, row["number"].split("."))) if row["number"] else (1,)


def _link(rows: list[dict[str, Any]], sections: dict[str, dict[str, Any]]) -> None:
    """Parents that exist, for rows in order: the one given, else the nearest by number."""
    ids = {row["number"]: row["section_id"] for row in rows if row["number"]}
    for row in rows:
        given = row["parent"]
        known = given in sections and given != row["section_id"] and sections[given]["document"] == row["document"]
        row["parent"] = given if known else nearest_ancestor(row["number"], ids)
