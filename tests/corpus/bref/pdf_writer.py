"""A small writer of PDFs: lines of text at given places in Helvetica or Helvetica-Bold, and bookmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Put:
    x: float
    y: float
    text: str
    size: float = 11
    bold: bool = False
    turn: int = 0  # quarters, counter-clockwise


MATRICES = ("1 0 0 1", "0 1 -1 0", "-1 0 0 -1", "0 -1 1 0")


def write_pdf(
    pages: Sequence[Sequence[Put]],
    *,
    outline: Sequence[str] = (),
    encrypted: bool = False,
    width: int = 595,
    height: int = 842,
    rotate: int = 0,
) -> bytes:
    first_page = 5 + len(outline)
    kids = " ".join(f"{first_page + 2 * n} 0 R" for n in range(len(pages)))
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /{} /Encoding /WinAnsiEncoding >>"
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {'/Outlines 5 0 R' if outline else ''} >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        font.format("Helvetica"),
        font.format("Helvetica-Bold"),
    ]
    if outline:
        first_page += 1
        objects[1] = objects[1].replace(
            kids, " ".join(f"{first_page + 2 * n} 0 R" for n in range(len(pages))) or "null"
        )
        last = 5 + len(outline)
        objects.append(f"<< /Type /Outlines /First 6 0 R /Last {last} 0 R /Count {len(outline)} >>")
        for n, title in enumerate(outline):
            around = f"/Prev {5 + n} 0 R " * (n > 0) + f"/Next {7 + n} 0 R " * (n + 1 < len(outline))
            objects.append(f"<< /Title ({_escaped(title)}) /Parent 5 0 R {around}/Dest [{first_page} 0 R /Fit] >>")
    for n, puts in enumerate(pages):
        stream = "\n".join(
            f"BT /{'B' if put.bold else 'R'} {put.size} Tf {MATRICES[put.turn]} {put.x} {put.y} Tm "
            f"({_escaped(put.text)}) Tj ET"
            for put in puts
        )
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width} {height}] /Rotate {rotate} "
            f"/Resources << /Font << /R 3 0 R /B 4 0 R >> >> /Contents {first_page + 2 * n + 1} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream.encode('cp1252'))} >>\nstream\n{stream}\nendstream")
    data = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode("cp1252")
    start = len(data)
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    secret = f"/ID [<{'00' * 16}> <{'00' * 16}>] " + (
        f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{'11' * 32}> /U <{'22' * 32}> /P -4 >>" if encrypted else ""
    )
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R {secret} >>\nstartxref\n{start}\n%%EOF\n"
    return data + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{trailer}".encode()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")


def column(
    lines: Sequence[str], *, x: float = 70, top: float = 760, leading: float = 13, size: float = 11
) -> list[Put]:
    """Lines below each other; an empty one is a gap, one that begins with * is bold."""
    return [
        Put(x, top - leading * n, line.removeprefix("*"), size, line.startswith("*"))
        for n, line in enumerate(lines)
        if line
    ]
