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
MIN_SHARE = 0.2
"""Of the pages of one size, that have a header at one height. Sub-headings that open several pages are fewer."""
_ROMAN = r"[ivxlcdm]+"
_PAGE_NUMBER = re.compile(
    rf"(?<![\w.])(?:\d+|{_ROMAN})(?!\w|\.\d)", re.IGNORECASE
)  # no part of "4.1.2": those are no headers
_LEADERS = re.compile(rf"^(?P<title>.*?)\s*(?:(?:\.\s?){{3,}}|…+|_{{4,}})\s*(?P<page>\d+|{_ROMAN})$", re.IGNORECASE)
NUMBERED = re.compile(r"^(?P<number>\d{1,2}(?:\.\d{1,3}){0,7})\.?\s+(?P<title>\S.*)$")
_LISTED = re.compile(r"^(?:figure|table|box|plate|map|photo)\s+[A-Z]?\d", re.IGNORECASE)
_CUT_WORD = re.compile(r"[^\W\d_]-$")
_BULLET = re.compile(r"^(?:[•▪◦‣●■□○–—-]|o|\(?(?:[a-z]|[ivx]{1,4}|\d{1,2})[).])\s+\S")


@dataclass(frozen=True)
class Entry:
    """A line of the table of contents."""

    number: str | None
    title: str


# ---- headers and footers


def without_furniture(pages: Sequence[Page]) -> tuple[list[Page], int]:
    """The pages without running headers, footers and page numbers, and the number of lines taken away."""
    by_size: dict[tuple[int, int], list[Page]] = defaultdict(list)
    for page in pages:
        by_size[round(page.width), round(page.height)].append(page)
    gone: set[int] = set()
    known: set[tuple[str, tuple[str, float, bool]]] = set()
    for alike in by_size.values():
        for line in _furniture(alike):
            gone.add(id(line))
            if re.search(r"[^\W\d_]{3}", line.text):
                known.add((_pattern(line.text), line.style))
    for page in pages:  # the header of an upright page whose table is set sideways is at its left or right edge
        gone |= {id(ln) for ln in page.lines if (_pattern(ln.text), ln.style) in known and _at_an_edge(ln, page)}
    kept = [replace(page, lines=[line for line in page.lines if id(line) not in gone]) for page in pages]
    return kept, len(gone)


def _furniture(pages: Sequence[Page]) -> Iterable[Line]:
    """Headers and footers of pages of one size: lines at a height where many pages have a line that is repeated."""
    edge_lines = [line for page in pages for line in _edge_lines(page)]
    repeated = Counter((_height(line), _pattern(line.text)) for line in edge_lines)
    slots: Counter[int] = Counter()
    styles: dict[int, Counter] = defaultdict(Counter)
    for line in edge_lines:
        height = _height(line)
        for near in (height - 1, height, height + 1):
            if sum(repeated[other, _pattern(line.text)] for other in (height - 1, height, height + 1)) >= MIN_REPEATS:
                slots[near] += 1
                styles[near][line.style] += 1
    enough = max(MIN_REPEATS, MIN_SHARE * len(pages))
    for line in edge_lines:
        height = _height(line)
        # in the type of its neighbours: a header of a page or two ("Preface"), where the others have theirs
        if slots[height] >= enough and (
            repeated[height, _pattern(line.text)] >= MIN_REPEATS or line.style in styles[height]
        ):
            yield line


def _height(line: Line) -> int:
    return round(line.y / 2)


def _pattern(text: str) -> str:
    return _PAGE_NUMBER.sub("#", text).casefold()


def _edge_lines(page: Page) -> list[Line]:
    return [line for line in page.lines if not EDGE * page.height < line.y < (1 - EDGE) * page.height]


def _at_an_edge(line: Line, page: Page) -> bool:
    across = min(line.x0, page.width - line.x1) < EDGE * page.width
    return across or not EDGE * page.height < line.y < (1 - EDGE) * page.height


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
        ends = {page.number: self._line_ends(page.lines) for page in pages}
        whole: Counter[int] = sum(ends.values(), Counter())
        # odd and even pages have margins of their own, and so has a page set across
        self._common = sorted(3.0 * end for end, count in whole.items() if count >= 0.05 * whole.total())
        self._margins: dict[int, float] = {}
        num_at_margin = 0
        for number, counts in ends.items():
            end, _ = counts.most_common(1)[0] if counts else (0, 0)
            near = sum(counts[other] for other in (end - 1, end, end + 1))
            num_at_margin += near
            if near >= 3:
                self._margins[number] = end * 3.0
        self._justified = num_at_margin > 0.6 * whole.total() > 0

    def _line_ends(self, lines: Sequence[Line]) -> Counter[int]:
        """Where long lines in the type of the text end, in thirds of their points."""
        return Counter(round(line.x1 / 3) for line in lines if line.style == self.body_style and len(line.text) > 40)

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
        if same and _CUT_WORD.search(last.text) and line.text[0].islower() and not line.gaps:
            return " "
        if last.page != line.page:
            ended = last.text.endswith((".", "!", "?", ":", ";", "].")) or self._is_short(last, line)
            return " " if same and not ended and last.bold == line.bold else "\n\n"
        same = same and not line.gaps  # a row of a table, an entry of a glossary
        drop = last.y - line.y
        if drop < -0.3 * line.size or drop > 1.6 * max(last.size, line.size):
            return "\n\n"
        return " " if same and not self._is_short(last, line) else "\n"

    def _is_short(self, last: Line, line: Line) -> bool:
        """Whether `last` ends before the margin although the next line's first word had room."""
        margin = self._margins.get(last.page)
        if margin is None or last.x1 > margin + 6:
            margin = next((common for common in self._common if common >= last.x1 - 6), last.x1)
        room = margin - last.x1
        word = line.text.split(" ", 1)[0]
        needed = 0.5 * line.size * (len(word) + 1)
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
