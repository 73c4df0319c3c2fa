"""Pages -> the tree of a document: numbered headings found by number and type, each with the text below it.

    pages -> without headers and footers -> contents set aside -> lines that may be headings -> the best chain of them

A line may be a heading when it begins with a section number and is bold or larger than the text. Many table rows and
list items are that too, so the chain that is kept is the heaviest one whose numbers rise, where a line that the table
of contents lists, under the same number and title, weighs most. Without contents, the PDF's bookmarks take their place.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

from patentft.corpus.bref.layout import NUMBERED, Entry, Paragraphs, entry_of, split_contents, without_furniture
from patentft.corpus.bref.pdf import Line, Page, Pdf

LISTED_WEIGHT = 20
"""What a heading that the contents list is worth in the chain; one that they do not list is worth 1."""
MAX_TITLE_LINES = 5


@dataclass
class Section:
    number: str | None
    title: str
    page: int
    level: int
    text: str = ""


@dataclass
class Tree:
    sections: list[Section]
    counts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Heading:
    first: int  # index of its first line
    last: int
    number: str | None
    title: str
    style: tuple[str, float, bool]
    listed: bool

    @property
    def key(self) -> tuple[int, ...]:
        assert self.number is not None
        return tuple(map(int, self.number.split(".")))


def build_tree(pdf: Pdf) -> Tree:
    """Sections in document order. counts: pages, headings that the contents list and were found, lines left out."""
    pages, num_furniture = without_furniture(pdf.pages)
    pages, contents = split_contents(pages)
    entries = contents or [entry_of(title) for _, title in pdf.outline]
    paragraphs = Paragraphs(pages)
    lines = [line for page in pages for line in page.lines]
    numbered = _heaviest_chain(_plausible(_candidates(lines, entries, paragraphs), bool(entries)))
    headings = _with_unnumbered(lines, numbered, entries, paragraphs, {page.number: page for page in pages})
    sections = []
    for heading, following in zip_longest(headings, headings[1:]):
        body = lines[heading.last + 1 : following.first if following else len(lines)]
        level = 1 if heading.number is None else heading.number.count(".") + 1
        page = lines[heading.first].page
        sections.append(Section(heading.number, heading.title, page, level, paragraphs.text(body)))
    listed = list(dict.fromkeys(entry.number for entry in entries if entry.number))
    found = {heading.number for heading in headings}
    counts = {
        "pages": len(pdf.pages),
        "contents_pages": len(pdf.pages) - len(pages),
        "contents": "contents pages" if contents else "bookmarks" if entries else "none",
        "listed": len(listed),
        "listed_and_found": sum(number in found for number in listed),
        "listed_but_not_found": [number for number in listed if number not in found],
        "found_but_not_listed": [h.number for h in headings if h.number and h.number not in listed] if entries else [],
        "header_and_footer_lines": num_furniture,
        "lines_before_the_first_heading": headings[0].first if headings else len(lines),
    }
    return Tree(sections, counts)


# ---- numbered headings


def _candidates(lines: Sequence[Line], entries: Iterable[Entry], paragraphs: Paragraphs) -> list[Heading]:
    titles: dict[str, str] = {}
    for entry in entries:
        if entry.number:
            titles.setdefault(entry.number, entry.title)
    found = []
    for index, line in enumerate(lines):
        match = NUMBERED.match(line.text)
        if match is None or not _stands_out(line, paragraphs) or not re.search(r"[^\W\d_]{2}", match["title"]):
            continue
        listed = titles.get(match["number"])
        last, title = _whole_title(lines, index, match["title"], listed)
        agrees = listed is not None and alike(title, listed)
        found.append(Heading(index, last, match["number"], title, line.style, agrees))
    return found


def _stands_out(line: Line, paragraphs: Paragraphs) -> bool:
    return line.bold or line.size >= paragraphs.body_style[1] + 0.7


def _whole_title(lines: Sequence[Line], index: int, title: str, listed: str | None) -> tuple[int, str]:
    """The title with the lines it goes on over, and the index of its last line.

    It goes on while type and spacing stay the same; a title that is as long as the contents say ends there.
    """
    first, last = lines[index], index
    while last + 1 < len(lines) and last - index + 1 < MAX_TITLE_LINES:
        line, above = lines[last + 1], lines[last]
        goes_on = (
            line.page == first.page
            and line.style == first.style
            and 0 < above.y - line.y <= 1.5 * line.size
            and not NUMBERED.match(line.text)
        )
        if not goes_on or (listed is not None and _letters(title) == _letters(listed)):
            break
        if listed is not None and alike(title, listed) and not alike(f"{title} {line.text}", listed):
            break
        title = title + line.text if title.endswith("-") else f"{title} {line.text}"
        last += 1
    return last, title


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()


def alike(one: str, other: str) -> bool:
    """Whether two titles are the same but for punctuation, case, a footnote sign or a slip."""
    a, b = _letters(one), _letters(other)
    return a == b or SequenceMatcher(None, a, b, autojunk=False).ratio() >= 0.9


def _plausible(candidates: list[Heading], has_contents: bool) -> list[Heading]:
    """Without those that neither the contents nor the type of the listed headings of their level vouch for."""
    styles: dict[int, Counter] = {}
    for heading in candidates:
        if heading.listed:
            styles.setdefault(len(heading.key), Counter())[heading.style] += 1
    deepest = max(styles, default=0)

    def vouched(heading: Heading) -> bool:
        level = len(heading.key)
        if heading.listed or not has_contents:
            return True
        # levels below the deepest that the contents show are set like it, or smaller
        return level > 1 and (heading.style in styles.get(level, ()) or level > deepest)

    return [heading for heading in candidates if vouched(heading)]


def _heaviest_chain(candidates: list[Heading]) -> list[Heading]:
    """The chain of candidates, in order, with rising numbers and the largest weight; of equals, the earliest."""
    best: list[int] = []
    previous: list[int] = []
    for index, heading in enumerate(candidates):
        before = [other for other in range(index) if candidates[other].key < heading.key]
        link = max(before, key=lambda other: (best[other], -other), default=-1)
        best.append((LISTED_WEIGHT if heading.listed else 1) + (best[link] if link >= 0 else 0))
        previous.append(link)
    chain = []
    at = max(range(len(best)), key=lambda index: (best[index], -index), default=-1)
    while at >= 0:
        chain.append(candidates[at])
        at = previous[at]
    return chain[::-1]


# ---- headings without a number


def _with_unnumbered(
    lines: Sequence[Line],
    numbered: list[Heading],
    entries: Iterable[Entry],
    paragraphs: Paragraphs,
    pages: dict[int, Page],
) -> list[Heading]:
    """The numbered headings and those of PREFACE, GLOSSARY, ANNEXES: listed, or set like a chapter's on a new page."""
    titles = {_letters(entry.title): entry.title for entry in entries if entry.number is None}
    chapters = {heading.style for heading in numbered if len(heading.key) == 1}
    taken = {index for heading in numbered for index in range(heading.first, heading.last + 1)}
    found: list[Heading] = []
    seen: set[str] = set()
    for index, line in enumerate(lines):
        if index in taken or not _stands_out(line, paragraphs):
            continue
        listed = next((titles[key] for key in titles if key.startswith(_letters(line.text)[:60])), None)
        last, title = _whole_title(lines, index, line.text, listed)
        is_listed = listed is not None and alike(title, listed)
        opens = pages[line.page].lines[0] is line and line.style in chapters and title == title.upper()
        if (is_listed or (opens and not titles)) and _letters(title) not in seen and len(_letters(title)) > 2:
            seen.add(_letters(title))
            found.append(Heading(index, last, None, title, line.style, is_listed))
    return sorted([*numbered, *found], key=lambda heading: heading.first)
