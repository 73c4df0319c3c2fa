"""SECTIONS and CITATIONS of one document -> the texts that the four views cut into windows.

    document    every section in its order, as one text
    chapter     each chapter's sections, as one text
    enriched    each section, then the sections it cites, then those that cite it
    pair        a citing section, then the section it cites

A section stands in a text as "4.1.2 Recovery of excess heat", a blank line, and its own text. A chapter that is cited
brings its own words, not those of the sections below it. Of a long section (an executive summary cites dozens) only a
passage is taken where it stands beside another: about the citation when it cites, from its beginning when it is cited.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from patentft.corpus.bref.windows import passage

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


def sources(
    view: View, sections: Sequence[Row], citations: Iterable[Row], related_characters: int | None = None
) -> Iterator[Source]:
    """The texts of one view of one document.

    sections: its SECTIONS rows in order. citations: its CITATIONS rows; unresolved ones, and those of a section by
    itself, are no links. related_characters: at most so many of a section beside another (enriched, pair); None: all.
    """
    if view == "document":
        yield from _joined(view, str(sections[0]["document"]) if sections else "", sections)
    elif view == "chapter":
        for chapter in _chapters(sections):
            yield from _joined(view, chapter[0]["section_id"], chapter)
    else:
        yield from _linked(view, sections, citations, related_characters)


def _linked(view: View, sections: Sequence[Row], citations: Iterable[Row], limit: int | None) -> Iterator[Source]:
    by_id = {row["section_id"]: row for row in sections}
    links: dict[tuple[str, str], int] = {}  # (citing, cited) -> where it is cited first
    for row in citations:
        citing, cited = row["section_id"], row["cited_id"]
        if citing in by_id and cited in by_id and citing != cited:
            links.setdefault((citing, cited), row["start_char"])

    def part(name: str, around: int) -> Row:
        row = by_id[name]
        return row if limit is None else {**row, "text": passage(row["text"], around, limit)}

    if view == "pair":
        for (citing, cited), at in links.items():
            if by_id[cited]["text"]:  # a chapter's bare title adds nothing
                yield from _joined(view, f"{citing}>{cited}", [part(citing, at), part(cited, 0)])
        return
    around: dict[str, dict[str, Row]] = {}
    for citing, cited in links:
        around.setdefault(citing, {})[cited] = part(cited, 0)
    for (citing, cited), at in links.items():
        around.setdefault(cited, {}).setdefault(citing, part(citing, at))
    for row in sections:
        if row["text"]:
            others = around.get(row["section_id"], {}).values()
            yield from _joined(view, row["section_id"], [row, *(other for other in others if other["text"])])


def _chapters(sections: Sequence[Row]) -> Iterator[list[Row]]:
    """Each section without a parent, with those below it."""
    root_of: dict[str, str] = {}
    chapters: dict[str, list[Row]] = {}
    for row in sections:
        name, parent = str(row["section_id"]), row["parent"]
        root = root_of.get(parent, str(parent)) if parent else name
        root_of[name] = root
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
