"""A PDF file -> lines of text with position and style, read in a process of its own (extract.py)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

MAX_MEMORY_BYTES = 4 << 30
LETTERS_PER_PAGE = 20
"""A document with fewer letters a page than this, on average, is taken for scanned pages without a text layer."""


class BadPdf(Exception):
    """The file cannot be read as a document; the message is the reason."""


@dataclass(frozen=True)
class Line:
    page: int  # 1-based
    x0: float  # points from the left
    x1: float
    y: float  # of the base line, points from the bottom
    size: float  # of the font, points
    bold: bool
    font: str
    gaps: int  # wide spaces in it: the borders of a table's cells
    text: str

    @property
    def style(self) -> tuple[str, float, bool]:
        return self.font, round(self.size * 2) / 2, self.bold


@dataclass(frozen=True)
class Page:
    number: int  # 1-based
    width: float
    height: float
    lines: list[Line]  # in the order of the file's content


@dataclass(frozen=True)
class Pdf:
    pages: list[Page]
    outline: list[tuple[int, str]]  # bookmarks: level from 1, title


def read_pdf(data: bytes, *, max_pages: int = 5000, seconds: float = 600) -> Pdf:
    """The pages of a PDF. Raises BadPdf: no PDF, cut off, damaged, encrypted, no text layer, over a limit."""
    if b"%PDF-" not in data[:1024]:
        raise BadPdf("not a PDF: it does not begin with %PDF-")
    if b"%%EOF" not in data[-4096:]:  # PDFium mends such a file as well as it can, and whole chapters may be gone
        raise BadPdf("cut off: the end of a PDF (%%EOF) is not there; fetch it again, or open and save it")
    script = Path(__file__).with_name("extract.py")
    command = [sys.executable, "-P", str(script), str(max_pages), str(MAX_MEMORY_BYTES)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise BadPdf(f"took more than {seconds:g} s to read; raise seconds_per_document if it is sound") from None
    if done.returncode:
        told = done.stderr.decode("utf-8", "replace").strip().splitlines()
        if any("ModuleNotFoundError" in line for line in told[-1:]):
            raise RuntimeError(f"the PDF reader did not start: {told[-1]}")  # the installation's fault, not the file's
        code = done.returncode
        how = told[-1] if told else f"signal {-code}: out of memory, or a crash" if code < 0 else f"exit {code}"
        raise BadPdf(f"the PDF reader failed on it ({how}); open it in a viewer and save it again")
    found = json.loads(done.stdout)
    if "error" in found:
        raise BadPdf(found["error"])
    pages = [
        Page(n, page["width"], page["height"], _joined([Line(n, *line) for line in page["lines"]]))
        for n, page in enumerate(found["pages"], 1)
    ]
    letters = sum(char.isalpha() for page in pages for line in page.lines for char in line.text)
    if letters < LETTERS_PER_PAGE * len(pages) or not pages:
        raise BadPdf(f"no text layer: {letters} letters on {len(pages)} pages; scanned pages need OCR first")
    return Pdf(pages, [(level, title) for level, title in found["outline"]])


_CHARACTERS = {ord(bad): good for bad, good in zip("\u00a0\u2007\u202f\t\uf0b7\uf0a7\uf0d8", "    •••", strict=True)}
_CHARACTERS |= {
    ord(char): text for char, text in zip("ﬀﬁﬂﬃﬄﬅﬆ", ("ff", "fi", "fl", "ffi", "ffl", "ft", "st"), strict=True)
}
_CHARACTERS |= {0xAD: "-"}  # a soft hyphen that is shown stands at a line's end


def _joined(lines: list[Line]) -> list[Line]:
    """Neighbours on one base line as one line: a heading's number and title, the cells of a row."""
    joined: list[Line] = []
    for line in lines:
        text = " ".join(line.text.translate(_CHARACTERS).split())
        if not text:
            continue
        line = replace(line, text=text)
        last = joined[-1] if joined else None
        if last and abs(last.y - line.y) <= 0.2 * line.size and line.x0 >= last.x1 - 1:
            wide = line if len(line.text) > len(last.text) else last
            bold = last.bold and line.bold
            gaps = last.gaps + line.gaps + (line.x0 - last.x1 > 1.5 * line.size)
            joined[-1] = replace(wide, x0=last.x0, x1=line.x1, bold=bold, gaps=gaps, text=f"{last.text} {line.text}")
        else:
            joined.append(line)
    return [replace(line, text=re.sub(r"(?<=\w) (?=[,;)])", "", line.text)) for line in joined]
