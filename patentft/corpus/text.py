"""What an encoder or a scorer reads of a patent or a technique: the chosen fields as one string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

PatentField = Literal["title", "abstract", "claims", "first_claim"]
COLUMNS: dict[str, str] = {"title": "title", "abstract": "abstract", "claims": "claims", "first_claim": "claims"}
"""Field -> the column of the patents table it is read from."""

_SENTENCE_ENDS = (".", "!", "?", ";", ":")


def join(pieces: Sequence[str]) -> str:
    """ "title. abstract": pieces stripped, empty ones left out, a full stop between two unless one is there already."""
    joined = ""
    for piece in pieces:
        piece = piece.strip()
        if piece:
            gap = "" if not joined else " " if joined.endswith(_SENTENCE_ENDS) else ". "
            joined += gap + piece
    return joined


def patent_text(patents: pa.Table | pa.RecordBatch, fields: Sequence[PatentField]) -> list[str]:
    """One string per row of a patents table, from `fields` in the given order; a null or empty field adds nothing.

    "claims" is every claim, "first_claim" the first that is not empty. Raises ValueError for no field,
    a repeated or an unknown one.
    """
    unknown = [field for field in fields if field not in COLUMNS]
    if not fields or unknown or len(set(fields)) < len(fields):
        raise ValueError(
            f"patent text fields are {list(fields)}: choose one or more of {', '.join(COLUMNS)}, each once"
        )
    columns = [[_pieces(field, value) for value in patents.column(COLUMNS[field]).to_pylist()] for field in fields]
    return [join([piece for pieces in row for piece in pieces]) for row in zip(*columns, strict=True)]


def _pieces(field: str, value: str | list[str | None] | None) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    claims = [claim for claim in value if claim and claim.strip()]
    return claims[:1] if field == "first_claim" else claims


def technique_text(techniques: pa.Table | pa.RecordBatch) -> list[str]:
    """ "title. text" per row of a techniques table; the text alone when it begins with the title already."""
    titles, texts = techniques.column("title").to_pylist(), techniques.column("text").to_pylist()
    return [
        text.strip() if _begins_with(text, title) else join([title, text])
        for title, text in zip(titles, texts, strict=True)
    ]


def _begins_with(text: str, title: str) -> bool:
    """Whether `text` starts with the whole of `title` ("Bag filters ..."), not with a longer word ("Bag
    filtersystem").
    """
    head, start = title.strip().casefold(), text.strip().casefold()
    return bool(head) and start.startswith(head) and not start[len(head) : len(head) + 1].isalnum()
