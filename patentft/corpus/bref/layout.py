"""Pages -> what belongs to the text: running headers and footers off, contents pages read and off, lines to paragraphs.

Nothing here knows one document. A header or footer is what stands at the edge of many pages at one height and is the
same there but for its numbers; a contents page is one where many lines end in dots and a page number; a paragraph ends
where the gap to the next line is wide or the line stops short of the margin.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from patentft.corpus.bref.pdf import Line, Page

EDGE = 0.12
"""Headers and footers are looked for in this part of the page's height, at the top and at the bottom."""
MIN_REPEATS = 3
_ROMAN = r"[ivxlcdm]+"
_PAGE_NUMBER = re.compile(rf"(?<![\w.])(?:\d+|{_ROMAN})(?!\w|\.\d)", re.IGNORECASE)  # no part of "4.1.2": those are no headers
_LEADERS = re.compile(rf"^(?P<title>.*?)\s*(?:(?:\.\s?){{4,}}|…+|_{{4,}})\s*(?P<page>\d+|{_ROMAN})$", re.IGNORECASE)
NUMBERED = re.compile(r"^(?P<number>\d{1,2}(?:\.\d{1,3}){0,7})\.?\s+(?P<title>\S.*)$")
_LISTED = re.compile(r"^(?:figure|table|box|plate|map|photo)\s+[A-Z]?\d", re.IGNORECASE)
_BULLET = re.compile(r"^(?:[•▪◦‣●■□○–—-]|o|\(?(?:[a-z]|[ivx]{1,4}|\d{1,2})[).])\s+\S")


@dataclass(frozen=True)
class Entry:
    """A line of the table of contents."""

    number: str | None
    title: str


# ---- headers and footers


def without_furniture(pages: Sequence[Page]) -> tuple[list[Page], int]:
    """The pages without running headers, footers and page numbers, and the number of lines taken away."""
    repeated: Counter[tuple[str, int, str]] = Counter()
    for page in pages:
        repeated.update({(edge, round(line.y / 3), _pattern(line.text)) for edge, line in _edge_lines(page)})
    slots: dict[str, Counter[int]] = defaultdict(Counter)  # edge -> height (in thirds of a point) -> pages
    for (edge, height, _), count in repeated.items():
        if count >= MIN_REPEATS:
            slots[edge][height] += count
    kept, num_removed = [], 0
    for page in pages:
        gone = {id(line) for edge, line in _edge_lines(page) if _is_furniture(edge, line, repeated, slots, len(pages))}
        kept.append(replace(page, lines=[line for line in page.lines if id(line) not in gone]))
        num_removed += len(gone)
    return kept, num_removed


def _pattern(text: str) -> str:
    return _PAGE_NUMBER.sub("#", text).casefold()


def _edge_lines(page: Page) -> list[tuple[str, Line]]:
    """Lines near the top and the bottom that have no text beyond them but other such lines."""
    found: list[tuple[str, Line]] = []
    by_height = sorted(page.lines, key=lambda line: -line.y)
    for edge, lines in (("top", by_height[:4]), ("bottom", by_height[:-5:-1])):
        for line in lines:
            beyond = page.height - line.y if edge == "top" else line.y
            if beyond > EDGE * page.height:
                break
            found.append((edge, line))
    return found


def _is_furniture(
    edge: str, line: Line, repeated: Counter[tuple[str, int, str]], slots: dict[str, Counter[int]], num_pages: int
) -> bool:
    height, pattern = round(line.y / 3), _pattern(line.text)
    around = (height - 1, height, height + 1)
    if sum(repeated[edge, near, pattern] for near in around) >= MIN_REPEATS and (
        len(pattern) <= 120 and (pattern != "#" or sum(slots[edge][near] for near in around) >= num_pages / 10)
    ):
        return True
    # a header of its own on a page or two ("Preface"), where the others have theirs
    return sum(slots[edge][near] for near in around) >= max(MIN_REPEATS, num_pages / 4) and len(line.text) <= 120


# ---- contents


def split_contents(pages: Sequence[Page]) -> tuple[list[Page], list[Entry]]:
    """The pages that are no contents, and what the contents list, figures and tables left out."""
    kept: list[Page] = []
    listed: list[Line] = []
    previous = False
    for page in pages:
        leaders = sum(1 for line in page.lines if _LEADERS.match(line.text))
        previous = leaders >= (1 if previous else 3) and leaders >= 0.3 * len(page.lines)
        if previous:
            listed += page.lines
        else:
            kept.append(page)
    return kept, list(_entries(listed))


def _entries(lines: Iterable[Line]) -> Iterable[Entry]:
    waiting: list[Line] = []
    for line in lines:
        match = _LEADERS.match(line.text)
        start = match["title"] if match else line.text
        if NUMBERED.match(start) or _LISTED.match(start) or (waiting and waiting[-1].style != line.style):
            waiting = []  # what waited was no beginning of this entry: the title of the page, say
        if match is None:
            waiting = [*waiting, line][-3:]
            continue
        title = " ".join([*(before.text for before in waiting), start]).strip()
        waiting = []
        if title and not _LISTED.match(title):
            yield entry_of(title)


def entry_of(title: str) -> Entry:
    numbered = NUMBERED.match(title)
    return Entry(numbered["number"], numbered["title"].strip()) if numbered else Entry(None, title)


# ---- paragraphs


class Paragraphs:
    """Joins lines to text. Learns from the whole document which words it hyphenates and where its lines end."""

    def __init__(self, pages: Sequence[Page]) -> None:
        lines = [line for page in pages for line in page.lines]
        self._words: Counter[str] = Counter()
        for line in lines:
            self._words.update(re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*(?!-$)", line.text.casefold()))
        characters: Counter[tuple[str, float, bool]] = Counter()
        for line in lines:
            characters[line.style] += len(line.text)
        self.body_style = characters.most_common(1)[0][0] if characters else ("", 10.0, False)
        ends = Counter(round(line.x1 / 3) for line in lines if line.style == self.body_style and len(line.text) > 40)
        common, count = ends.most_common(1)[0] if ends else (0, 0)
        self._margin = common * 3.0
        near = sum(ends[end] for end in (common - 1, common, common + 1))
        self._justified = count > 0 and near > 0.5 * sum(ends.values())
        self._page_margin = {page.number: max((line.x1 for line in page.lines), default=0.0) for page in pages}

    def text(self, lines: Sequence[Line]) -> str:
        """Paragraphs a blank line apart; items of a list and rows of a table on lines of their own."""
        text = ""
        last: Line | None = None
        for line in lines:
            if last is None:
                text = line.text
            else:
                gap = self._gap(last, line)
                text = self._continued(text, line.text) if gap == " " else f"{text}{gap}{line.text}"
            last = line
        return text

    def _gap(self, last: Line, line: Line) -> str:
        """What stands between two neighbouring lines: a space within a paragraph."""
        same = abs(last.size - line.size) <= 0.6 and not _BULLET.match(line.text)
        if last.page != line.page:
            ended = last.text.endswith((".", "!", "?", ":", ";", "].")) or self._is_short(last, line)
            return " " if same and not ended and last.bold == line.bold else "\n\n"
        drop = last.y - line.y
        if drop < -0.3 * line.size or drop > 1.6 * max(last.size, line.size):
            return "\n\n"
        return " " if same and not self._is_short(last, line) else "\n"

    def _is_short(self, last: Line, line: Line) -> bool:
        """Whether `last` ends before the margin although the next line's first word had room."""
        margin = self._margin if last.x1 <= self._margin + 6 else self._page_margin[last.page]
        room = margin - last.x1
        word = line.text.split(" ", 1)[0]
        needed = (line.x1 - line.x0) * (len(word) + 1) / max(len(line.text), 1)
        return room > (min(6.0, needed) if self._justified and last.size >= self.body_style[1] else needed)

    def _continued(self, text: str, more: str) -> str:
        """`text` and the next line: a word cut at the line's end is one word again."""
        head = re.search(r"([^\W\d_]+(?:-[^\W\d_]+)*)-$", text[-80:])  # the end alone: texts are long
        tail = re.match(r"[^\W\d_]+", more)
        if head is None or tail is None or not more[0].islower():
            return text + more if re.search(r"\w[-/]$", text[-2:]) else f"{text} {more}"
        whole, hyphened = (head[1] + tail[0]).casefold(), f"{head[1]}-{tail[0]}".casefold()
        if tail[0] in ("and", "or", "to"):  # "table- and ornamentalware"
            return f"{text} {more}"
        if self._words[whole] != self._words[hyphened]:
            keep = self._words[hyphened] > self._words[whole]
        else:  # neither is elsewhere: "flue-gas" is of two words, "tech-nique" is not
            keep = self._words[head[1].casefold()] > 0 and self._words[tail[0].casefold()] > 0
        return text + more if keep else text[:-1] + more
