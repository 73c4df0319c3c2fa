"""A cascade on a tiny world: two searches united, scored, cut down to a budget, scored again by another model."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from patentft import pipeline
from patentft.progress import Progress
from tests.tiny import save_tiny_bert, small_pipeline


@pytest.mark.ray
@pytest.mark.slow
def test_cascade(ray_cluster: None, tmp_path: Path) -> None:
    for name, seed in (("encoder", 0), ("small", 1), ("large", 2)):
        (tmp_path / name).mkdir()
        save_tiny_bert(tmp_path / name, seed=seed)
        if name != "encoder":
            head = AutoModelForSequenceClassification.from_pretrained(tmp_path / name, num_labels=1)
            head.save_pretrained(tmp_path / name)
    values = small_pipeline(tmp_path / "run", str(tmp_path / "encoder"))
    train = {"pairs", "scorer"}
    stages = {name: body for name, body in values.items() if name not in train}
    both = {"data": "corpus", "techniques": "techniques", "patents": "patents"}
    scores = {**stages.pop("scores"), "cosine_weight": 1.0}
    stages["words"] = {"kind": "lexical", "data": "corpus", "roles": "split", "top_k": 20}
    stages["both"] = {"kind": "union", "routes": ["search", "words"], "top_k": 30, **both}
    stages["first"] = {**scores, "candidates": "both", "model": str(tmp_path / "small")}
    stages["best"] = {"kind": "shortlist", "scores": "first", "data": "corpus", "pairs": 120}
    stages["second"] = {**scores, "candidates": "best", "model": str(tmp_path / "large")}
    folders = pipeline.run(pipeline.parse(stages), Progress(quiet=True))
    tables = {name: folders[name].read(table).to_pylist() for name, table in (
        ("search", "candidates"), ("both", "candidates"), ("first", "scores"), ("best", "candidates"),
        ("second", "scores"),
    )}  # fmt: skip
    dense = {(row["technique_id"], row["patent_id"]): row for row in tables["search"]}
    found = [(row, dense.get((row["technique_id"], row["patent_id"]))) for row in tables["both"]]
    assert any(old is None for _, old in found)  # the words brought some
    for row, old in found:
        if old is not None:  # the cosine is the one that the search gave
            assert row["cosine"] == pytest.approx(old["cosine"], abs=1e-5)
            assert (row["chunk"], row["role"]) == (old["chunk"], old["role"])
    names = ("technique_id", "patent_id", "role", "cosine", "chunk")
    for before, after in (("both", "first"), ("best", "second")):
        assert [[row[n] for n in names] for row in tables[before]] == [[row[n] for n in names] for row in tables[after]]
    manifest = folders["best"].manifest
    assert manifest is not None
    assert manifest.counts["pairs_out"] == len(tables["best"]) <= 120 < manifest.counts["pairs_in"]
    k = manifest.counts["k"]
    for technique in {row["technique_id"] for row in tables["first"]}:
        own = [row for row in tables["first"] if row["technique_id"] == technique]
        own.sort(key=lambda row: (-row["log_odds"], row["patent_id"]))
        kept = [row["patent_id"] for row in tables["best"] if row["technique_id"] == technique]
        assert kept == [row["patent_id"] for row in own[:k]]
