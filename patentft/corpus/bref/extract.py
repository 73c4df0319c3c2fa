"""A PDF on standard input -> its lines as JSON on standard output. Run by path, in a process of its own, by pdf.py.

A PDF is untrusted input to a parser in C++: in its own process, with a limit on memory and (the parent's) on time, a
file that crashes, hangs or swells can spoil nothing but its own document. Nothing of patentft is imported: it starts at
once.

    {"pages": [{"width", "height", "lines": [[x0, x1, y, size, bold, font, gaps, text], ...]}],
     "outline": [[level, title], ...]}
    {"error": reason}        for a file that is no PDF, is damaged, is encrypted

Coordinates are points, from the lower left corner of the page as it is read (turned pages are turned back); y is that
of the base line; gaps are the places where cells of a table lie apart. Lines are in the order of the file's content.
"""

from __future__ import annotations

import ctypes
import json
import math
import sys
from collections import Counter
from itertools import pairwise
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

LINE_END_HYPHEN = 2  # what PDFium puts for a hyphen at the end of a line, before it goes on with the next line
REASONS = {
    pdfium.FPDF_ERR_FORMAT: "not a PDF, or damaged",
    pdfium.FPDF_ERR_PASSWORD: "encrypted: it needs a password; save it without one",
    pdfium.FPDF_ERR_SECURITY: "encrypted in a way that cannot be read; save it without encryption",
}
MAX_OUTLINE = 20_000

WIDE_GAP = 2.2
"""Characters that begin further apart than this many font sizes are in different cells."""

Line = tuple[float, float, float, float, bool, str, int, str]
Char = tuple[int, int, float, float]  # index on the page, code point, x and y of its origin


def extract(data: bytes, max_pages: int) -> dict[str, Any]:
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        return {"error": REASONS.get(error.err_code or 0, f"cannot be opened: {error}")}
    if len(document) > max_pages:
        return {"error": f"{len(document)} pages, max_pages is {max_pages}"}
    pages = []
    for number in range(len(document)):
        try:
            page = document[number]
            text = page.get_textpage()
        except pypdfium2.PdfiumError as error:
            return {"error": f"page {number + 1} is damaged: {error}"}
        width, height = page.get_size()  # as it is shown; the characters' coordinates know nothing of /Rotate
        if page.get_rotation() % 180:
            width, height = height, width
        width, height, lines = _page(text, width, height)
        pages.append({"width": width, "height": height, "lines": lines})
        text.close()
        page.close()
    return {"pages": pages, "outline": _outline(document)}


def _outline(document: pypdfium2.PdfDocument) -> list[tuple[int, str]]:
    """The bookmarks; those that can be read, when the outline is damaged."""
    found: list[tuple[int, str]] = []
    try:
        for bookmark in document.get_toc():
            found.append((bookmark.level + 1, bookmark.get_title()))
            if len(found) == MAX_OUTLINE:
                break
    except pypdfium2.PdfiumError:
        pass
    return found


def _page(text: pypdfium2.PdfTextPage, width: float, height: float) -> tuple[float, float, list[Line]]:
    lines = [(line, _quarters(text, line)) for line in _raw_lines(text)]
    # tables on a landscape sheet are often set sideways on an upright page
    turns = Counter(turn for line, turn in lines for _ in line)
    turn = turns.most_common(1)[0][0] if turns else 0
    if turn % 2:
        width, height = height, width
    lines = _sideways_joined(lines, turn)
    made = [_line(text, line, turn, width, height) for line in lines]
    if turn:  # PDFium's own order of a turned page may run from the bottom to the top
        made.sort(key=lambda line: (-round(line[2] / 2), line[0]))
    return width, height, made


def _quarters(text: pypdfium2.PdfTextPage, line: list[Char]) -> int:
    """How often the run is turned by 90 degrees, counter-clockwise: PDFium counts the other way round."""
    return -round(pdfium.FPDFText_GetCharAngle(text, line[0][0]) / (math.pi / 2)) % 4


def _sideways_joined(lines: list[tuple[list[Char], int]], main: int) -> list[list[Char]]:
    """The lines; those that run another way than the page's (the title of an axis), which PDFium cuts up, joined."""
    joined: list[list[Char]] = []
    before: int | None = None
    for line, turn in lines:
        along, across = (3, 2) if turn % 2 else (2, 3)
        if turn != main and turn == before and abs(joined[-1][-1][across] - line[0][across]) < 1:
            space = [(line[0][0], 32, *line[0][2:])] if abs(joined[-1][-1][along] - line[0][along]) > 12 else []
            joined[-1] += space + line
        else:
            joined.append(line)
        before = turn
    return joined


def _raw_lines(text: pypdfium2.PdfTextPage) -> Any:
    """Runs of characters that stand on one line, without the white space around them."""
    x, y = ctypes.c_double(), ctypes.c_double()
    line: list[Char] = []

    def trimmed() -> list[Char]:
        while line and chr(line[-1][1]).isspace():
            line.pop()
        return line

    for index in range(text.count_chars()):
        code = pdfium.FPDFText_GetUnicode(text, index)
        if code in (10, 13):
            if trimmed():
                yield line
            line = []
            continue
        if (code < 32 and code not in (9, LINE_END_HYPHEN)) or code in (0xFFFE, 0xFFFF) or 0xD800 <= code < 0xE000:
            continue
        if not line and chr(code).isspace():
            continue
        pdfium.FPDFText_GetCharOrigin(text, index, x, y)
        line.append((index, 45 if code == LINE_END_HYPHEN else code, x.value, y.value))
        if code == LINE_END_HYPHEN:
            yield line
            line = []
    if trimmed():
        yield line


def _line(text: pypdfium2.PdfTextPage, line: list[Char], turn: int, width: float, height: float) -> Line:
    """The line with its position and the style of its characters: bold only when its first, middle and last one are."""
    solid = [char for char in line if not chr(char[1]).isspace()]
    # not an index or exponent: those have a base line and a size of their own
    common = Counter(_turned(char[2], char[3], turn, width, height)[1] for char in solid).most_common(1)[0][0]
    level = [char for char in solid if _turned(char[2], char[3], turn, width, height)[1] == common]
    styles = [_style(text, char[0]) for char in (level[0], level[len(level) // 2], level[-1])]
    first, last = solid[0], solid[-1]
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    pdfium.FPDFText_GetCharBox(text, last[0], left, right, bottom, top)
    size, font, _ = styles[1]
    base = _turned(first[2], first[3], turn, width, height)
    corners = [(right.value, top.value), (left.value, bottom.value)]
    end = max(_turned(*corner, turn, width, height)[0] for corner in corners)
    content = "".join(chr(char[1]) for char in line)
    starts = [_turned(char[2], char[3], turn, width, height)[0] for char in solid]
    gaps = sum(after - before > WIDE_GAP * size for before, after in pairwise(starts))
    bold = all(style[2] for style in styles)
    return round(base[0], 1), round(end, 1), round(common, 1), round(size, 1), bold, font, gaps, content


def _turned(x: float, y: float, turn: int, width: float, height: float) -> tuple[float, float]:
    """A point of the page after the page was turned by `turn` quarters; width and height are those after."""
    return ((x, y), (y, height - x), (width - x, height - y), (width - y, x))[turn]


def _style(text: pypdfium2.PdfTextPage, index: int) -> tuple[float, str, bool]:
    """Size in points as seen, font name, and whether it is bold."""
    matrix = pdfium.FS_MATRIX()
    scale = math.hypot(matrix.b, matrix.d) if pdfium.FPDFText_GetMatrix(text, index, matrix) else 1.0
    name = ctypes.create_string_buffer(128)
    flags = ctypes.c_int()
    pdfium.FPDFText_GetFontInfo(text, index, name, 128, flags)
    font = name.value.decode("utf-8", "replace")
    bold = any(word in font.lower() for word in ("bold", "black", "heavy"))
    bold = bold or pdfium.FPDFText_GetFontWeight(text, index) >= 600 or bool(flags.value & 1 << 18)  # ForceBold
    return pdfium.FPDFText_GetFontSize(text, index) * (scale or 1.0), font.partition("+")[2] or font, bold


def _limit_memory(max_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = max_bytes if hard == resource.RLIM_INFINITY else min(max_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


if __name__ == "__main__":
    _limit_memory(int(sys.argv[2]))
    json.dump(extract(sys.stdin.buffer.read(), int(sys.argv[1])), sys.stdout, ensure_ascii=True)
