"""Finished stages' tables as the plain values that other stages work with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from patentft.config import ConfigError
from patentft.corpus.pairs import Vectors
from patentft.corpus.text import patent_text, technique_text
from patentft.store import StageFolder


def match_list(data: StageFolder) -> list[tuple[str, str]]:
    """(technique_id, patent_id) of every known match, in file order."""
    table = data.read("matches")
    return list(zip(table["technique_id"].to_pylist(), table["patent_id"].to_pylist(), strict=True))


def roles_of(split: StageFolder, table: str) -> dict[str, str]:
    rows = split.read(table)
    return dict(zip(rows["id"].to_pylist(), rows["role"].to_pylist(), strict=True))


def vectors_of(embedded: StageFolder, wanted: Iterable[str] | None = None) -> Vectors:
    """The embeddings of the ids `wanted` (all when None), chunks of an id in order. Memory: those, and one part."""
    keep = None if wanted is None else pa.array(sorted(set(wanted)), pa.string())
    ids: list[str] = []
    vectors: list[np.ndarray] = []
    for part in embedded.iter_parts("embeddings", ["id", "chunk", "vector"]):
        if keep is not None:
            part = part.filter(pc.is_in(part["id"], value_set=keep))  # pyright: ignore[reportAttributeAccessIssue]
        if not part.num_rows:
            continue
        part = part.sort_by([("id", "ascending"), ("chunk", "ascending")])
        ids += part["id"].to_pylist()
        flat = np.concatenate([chunk.flatten().to_numpy() for chunk in part["vector"].chunks])
        vectors.append(flat.reshape(part.num_rows, -1))
    if not vectors:
        return Vectors([], np.zeros((0, 0), np.float32))
    return Vectors(ids, np.concatenate(vectors))


def patent_texts(data: StageFolder, fields: Sequence, wanted: Iterable[str]) -> dict[str, str]:
    """patent_id -> text, for the wanted ids, one part in memory at a time."""
    left = set(wanted)
    found: dict[str, str] = {}
    for part in data.iter_parts("patents"):
        ids = part["patent_id"].to_pylist()
        keep = [index for index, patent_id in enumerate(ids) if patent_id in left]
        if keep:
            found |= dict(zip([ids[index] for index in keep], patent_text(part.take(keep), fields), strict=True))
    missing = left - found.keys()
    if missing:
        raise ConfigError(f"stage {data.name!r} has no patent {min(missing)!r} (and {len(missing) - 1} more)")
    return found


def section_texts(data: StageFolder, embedded: StageFolder, wanted: Iterable[str]) -> dict[tuple[str, int], str]:
    """(technique_id, chunk) -> the section's title and the chunk's text, by the spans that EMBEDDINGS holds."""
    left = set(wanted)
    table = data.read("techniques")
    whole = dict(zip(table["technique_id"].to_pylist(), technique_text(table), strict=True))
    titles = dict(zip(table["technique_id"].to_pylist(), table["title"].to_pylist(), strict=True))
    spans = embedded.read("embeddings", ["id", "chunk", "start_char", "end_char"]).to_pylist()
    found: dict[tuple[str, int], str] = {}
    for span in spans:
        technique_id = span["id"]
        if technique_id in left:
            text = whole[technique_id][span["start_char"] : span["end_char"]].strip()
            title = titles[technique_id]
            found[technique_id, span["chunk"]] = text if text.startswith(title) else f"{title}. {text}"
    return found
