"""A teacher's pairs from their tables: of the side's own, with the chunk that the teacher read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from patentft import schema
from patentft.config import ConfigError, build
from patentft.location import Location
from patentft.objectives.texts import DistilledTexts
from patentft.store import StageFolder, open_stage
from patentft.train.config import TrainConfig
from patentft.train.data import LOADERS

SIDES = ("train", "valid", "test", "unused")


def stage(folder: Path, **tables: list[dict[str, Any]]) -> StageFolder:
    written = open_stage(Location(folder), "any", {}, {})
    for table, rows in tables.items():
        written.write_part(table, 0, pa.Table.from_pylist(rows, schema=schema.TABLES[table]))
    written.finish({})
    return open_stage(Location(folder), "any", {}, {})


def pair(technique: str, patent: str, **more: Any) -> dict[str, Any]:
    return {"technique_id": f"T-{technique}", "patent_id": f"P-{patent}", **more}


def load(folder: Path, side: str, candidates: int = 16, pairs: bool = True) -> DistilledTexts:
    """A technique and a patent of each role; the teacher has scored every pair, the log-odds count them."""
    every = [(technique, patent) for technique in SIDES for patent in SIDES]
    scores = [
        pair(*names, role="all", cosine=0.5, chunk=0, cross_logit=0.0, log_odds=float(number))
        for number, names in enumerate(every)
    ]
    found = [pair(*names, role="all", rank=0, cosine=0.5, chunk=number % 2) for number, names in enumerate(every)]
    spans = [
        {"id": f"T-{name}", "chunk": chunk, "num_tokens": 3, "start_char": start, "end_char": stop, "vector": [1.0]}
        for name in SIDES
        for chunk, start, stop in ((0, 0, 11), (1, 12, 17))
    ]
    known = {"weight": 1.0, "cosine": 0.5, "chunk": 0, "role": "train", "group": 0}
    stages = {
        "data": stage(
            folder / "data",
            patents=[{"patent_id": f"P-{name}", "title": f"a {name}", "abstract": ""} for name in SIDES],
            techniques=[{"technique_id": f"T-{name}", "title": "gas", "text": "gas filters water"} for name in SIDES],
            matches=[pair("train", "train"), pair("valid", "valid")],
        ),
        "roles": stage(
            folder / "roles",
            technique_roles=[{"id": f"T-{name}", "role": name} for name in SIDES],
            patent_roles=[{"id": f"P-{name}", "role": name} for name in SIDES],
        ),
        "techniques": stage(folder / "techniques", embeddings=spans),
        "teacher": stage(folder / "teacher", scores=scores),
        "candidates": stage(folder / "candidates", candidates=found[:candidates]),
        # the pairs stage may call a match of another technique like it a negative: a known match stays one
        "pairs": stage(
            folder / "pairs", pairs=[pair("train", patent, label=0, **known) for patent in ("unused", "train")]
        ),
    }
    names = {name: name for name in stages if pairs or name != "pairs"}
    config = build(TrainConfig, {**names, "model": "m", "objective": {"kind": "distill"}})
    return LOADERS["distilled"](config, stages, side)


def test_a_side_holds_its_own_pairs_with_what_is_known_of_them(tmp_path: Path) -> None:
    texts = load(tmp_path / "train", "train")
    assert list(zip(texts.technique_ids, texts.patent_ids, strict=True)) == [
        ("T-train", "P-train"),
        ("T-train", "P-unused"),
    ]
    assert texts.log_odds == [0.0, 3.0]
    assert texts.label == [1, 0]
    assert texts.sections == ["gas filters", "gas. water"]  # chunks 0 and 1, as the teacher read them
    assert texts.patents == ["a train", "a unused"]
    texts = load(tmp_path / "valid", "valid")
    assert texts.patent_ids == ["P-valid", "P-unused"]
    assert texts.log_odds == [5.0, 7.0]
    assert texts.label == [1, None]
    assert load(tmp_path / "alone", "train", pairs=False).label == [1, None]


def test_what_does_not_belong_together_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lacks 1 pairs that 'teacher' scored, such as \('T-train', 'P-unused'\)"):
        load(tmp_path / "one", "train", candidates=3)
    with pytest.raises(ConfigError, match=r"has scored no pair of the train side .*set evaluate: \[train, valid"):
        stages_without_train(tmp_path / "two")


def stages_without_train(folder: Path) -> None:
    load(folder / "made", "train")
    inputs = {
        name: open_stage(Location(folder / "made" / name), "any", {}, {})
        for name in ("data", "roles", "techniques", "candidates")
    }
    rows = [pair("test", "test", role="test", cosine=0.5, chunk=0, cross_logit=0.0, log_odds=1.0)]
    inputs["teacher"] = stage(folder / "teacher", scores=rows)
    names = {name: name for name in inputs}
    config = build(TrainConfig, {**names, "model": "m", "objective": {"kind": "distill"}})
    LOADERS["distilled"](config, inputs, "train")
