"""SECTIONS and CITATIONS of one document -> the texts that the four views cut into windows.

    document    every section in its order, as one text
    chapter     each chapter's sections, as one text
    enriched    each section, then the sections it cites, then those that cite it
    pair        a citing section, then the section it cites

A section stands in a text as "4.1.2 Recovery of excess heat", a blank line, and its own text. Sections that cite, or are
cited by, a whole chapter bring the chapter's own words, not those of the sections below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

View = Literal["document", "chapter", "enriched", "pair"]
VIEWS: tuple[View, ...] = ("document", "chapter", "enriched", "pair")


@dataclass(frozen=True)
class Source:
    """A text that is cut into windows, and where each of its sections begins."""

    view: View
    key: str  # unique in its document and view
    text: str
    parts: list[tuple[str, int]]  # (section_id, first character), in order; the first is at 0

    def sections_of(self, start: int, end: int) -> list[str]:
        """The sections that the half-open span touches, each once, in its order."""
        stops = [first for _, first in self.parts[1:]] + [len(self.text)]
        touched = (name for (name, first), stop in zip(self.parts, stops, strict=True) if first < end and start < stop)
        return list(dict.fromkeys(touched))


Row = Mapping[str, Any]


def sources(view: View, sections: Sequence[Row], citations: Iterable[Row]) -> Iterator[Source]:
    """The texts of one view of one document.

    sections: its SECTIONS rows in order. citations: its CITATIONS rows; unresolved ones and those of a section by itself
    are no links.
    """
    if view == "document":
        yield from _joined(view, str(sections[0]["document"]) if sections else "", sections)
    elif view == "chapter":
        for chapter in _chapters(sections):
            yield from _joined(view, chapter[0]["section_id"], chapter)
    else:
        yield from _linked(view, sections, citations)


def _linked(view: View, sections: Sequence[Row], citations: Iterable[Row]) -> Iterator[Source]:
    by_id = {row["section_id"]: row for row in sections}
    links = list(
        dict.fromkeys(
            (row["section_id"], row["cited_id"])
            for row in citations
            if row["cited_id"] in by_id and row["section_id"] in by_id and row["cited_id"] != row["section_id"]
        )
    )
    if view == "pair":
        for citing, cited in links:
            if by_id[cited]["text"]:  # a chapter's bare title adds nothing
                yield from _joined(view, f"{citing}>{cited}", [by_id[citing], by_id[cited]])
        return
    cites: dict[str, list[str]] = {}
    cited_by: dict[str, list[str]] = {}
    for citing, cited in links:
        cites.setdefault(citing, []).append(cited)
        cited_by.setdefault(cited, []).append(citing)
    for row in sections:
        name = row["section_id"]
        around = dict.fromkeys([*cites.get(name, ()), *cited_by.get(name, ())])
        if row["text"]:
            yield from _joined(view, name, [row, *(by_id[other] for other in around if by_id[other]["text"])])


def _chapters(sections: Sequence[Row]) -> Iterator[list[Row]]:
    """Each section without a parent, with those below it."""
    root_of: dict[str, str] = {}
    chapters: dict[str, list[Row]] = {}
    for row in sections:
        parent = row["parent"]
        root = root_of.get(parent, parent) if parent else row["section_id"]
        root_of[row["section_id"]] = root
        chapters.setdefault(root, []).append(row)
    yield from chapters.values()


def _joined(view: View, key: str, rows: Sequence[Row]) -> Iterator[Source]:
    """Nothing when none of the sections has words of its own."""
    if not any(row["text"] for row in rows):
        return
    text, parts = "", []
    for row in rows:
        text += "\n\n" if text else ""
        parts.append((row["section_id"], len(text) if text else 0))
        text += section_text(row)
    yield Source(view, key, text, parts)


def section_text(row: Row) -> str:
    heading = f"{row['number']} {row['title']}" if row["number"] else row["title"]
    return f"{heading}\n\n{row['text']}" if row["text"] else heading
