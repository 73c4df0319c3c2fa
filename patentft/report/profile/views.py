"""Of a stage with views of documents: windows per view, their lengths, an example of each; the sections below them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from patentft.report.profile.count import Lengths
from patentft.store import StageFolder

EXAMPLE_CHARACTERS = 1500


@dataclass(frozen=True)
class Window:
    """An example: the longest of the first 50 of its view."""

    text_id: str
    document: str
    section_ids: Sequence[str]
    text: str
    num_tokens: int


@dataclass
class View:
    tokens: Lengths = field(default_factory=Lengths)
    characters: Lengths = field(default_factory=Lengths)
    example: Window | None = None


@dataclass(frozen=True)
class Views:
    views: dict[str, View]
    figures: dict[str, Any]


def read_views(folder: StageFolder) -> Views | None:
    """What the stage's tables views, sections and citations hold; None when it has none of them. One part at a time."""
    assert folder.manifest is not None
    tables = folder.manifest.tables
    if not {"views", "sections"} & tables.keys():
        return None
    figures: dict[str, Any] = {}
    views: dict[str, View] = {}
    if "views" in tables:
        for part in folder.iter_parts("views"):
            names = np.array(part["view"].to_pylist(), object)
            for name in dict.fromkeys(names.tolist()):
                _add(views.setdefault(name, View()), part.take(np.flatnonzero(names == name)).to_pylist())
    for name, view in views.items():
        figures[f"view.{name}.windows"] = view.tokens.count
        for unit, counted in (("tokens", view.tokens), ("characters", view.characters)):
            figures |= {f"view.{name}.{unit}.{statistic}": value for statistic, value in counted.summary().items()}
    if "sections" in tables:
        figures |= _sections(folder)
    if "citations" in tables:
        cited = [row for part in folder.iter_parts("citations", ["cited_id"]) for row in part["cited_id"].to_pylist()]
        figures |= {"citations.rows": len(cited), "citations.resolved": sum(name is not None for name in cited)}
    return Views(views, figures)


def _add(view: View, rows: Sequence[dict[str, Any]]) -> None:
    if view.example is None:
        row = max(rows[:50], key=lambda row: row["num_tokens"])
        text = row["text"][:EXAMPLE_CHARACTERS] + ("…" if len(row["text"]) > EXAMPLE_CHARACTERS else "")
        view.example = Window(row["text_id"], row["document"], row["section_ids"], text, row["num_tokens"])
    view.tokens.add(np.array([row["num_tokens"] for row in rows]))
    view.characters.add(np.array([len(row["text"]) for row in rows]))


def _sections(folder: StageFolder) -> dict[str, Any]:
    documents: set[str] = set()
    levels: Counter[int] = Counter()
    rows = empty = 0
    for part in folder.iter_parts("sections", ["document", "level", "text"]):
        documents.update(part["document"].to_pylist())
        levels.update(part["level"].to_pylist())
        rows += part.num_rows
        empty += sum(not text.strip() for text in part["text"].to_pylist())
    found = {"sections.rows": rows, "sections.documents": len(documents), "sections.without_text": empty}
    return found | {f"sections.level.{level}": count for level, count in sorted(levels.items())}
