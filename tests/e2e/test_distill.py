"""The shipped distillation, tiny: a teacher's scores -> a student of half its blocks, quantized, and its own scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from patentft import pipeline
from patentft.corpus.lookup import roles_of
from patentft.progress import Progress
from patentft.scoring.scorer import load_scorer
from tests.conftest import REPOSITORY
from tests.tiny import save_tiny_bert


@pytest.mark.ray
@pytest.mark.slow
def test_distill(ray_cluster: None, tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    tiny = save_tiny_bert(tmp_path / "bert", layers=4)
    both = ["teacher", "student"]
    overrides = [
        f"out={tmp_path / 'run'}",
        "corpus.patents=160",
        "corpus.techniques=24",
        "corpus.matches=90",
        "split.similar_cosine=1.0",  # a random encoder's cosines are all near 1
        *(f"{stage}.model={tiny}" for stage in ("techniques", "patents", *both)),
        *(f"{stage}.objective.max_tokens=96" for stage in both),
        *(f"{stage}.objective.patent_tokens=48" for stage in both),
        *(f"{stage}_scores.max_tokens=96" for stage in both),
        *(f"{stage}_scores.patent_tokens=48" for stage in both),
        "teacher.objective.cosine_weight=0",
        "teacher.optimizer.lr=0.003",
        "teacher.epochs=4",
        "student.objective.layers=[0, 3]",
        "student.epochs=6",
        "student.optimizer.lr=0.003",
    ]
    config = REPOSITORY / "ray_jobs" / "configs" / "train" / "distill.yaml"
    folders = pipeline.run(pipeline.load(config, overrides), Progress(quiet=True))
    manifest = folders["student"].manifest
    assert manifest is not None
    history = manifest.counts["history"]
    assert history[-1]["kl"] < history[0]["kl"]

    # every pair that was learned from is of the train side, or its patent of none
    technique, patent = (roles_of(folders["split"], f"{what}_roles") for what in ("technique", "patent"))
    scored = folders["teacher_scores"].read("scores").to_pylist()
    for side in ("train", "valid"):
        own = [
            row
            for row in scored
            if technique[row["technique_id"]] == side and patent[row["patent_id"]] in (side, "unused")
        ]
        assert manifest.counts[side]["pairs"] == len(own) > 0
        assert manifest.counts[side]["known_matches"] > 0
        assert manifest.counts[side]["known_negatives"] > 0

    export = Path(folders["student"].location.path) / "export"
    assert AutoModelForSequenceClassification.from_pretrained(export).config.num_hidden_layers == 2
    measured = manifest.counts["quantized"]
    assert measured["pairs"] == 64
    card = (export / "README.md").read_text()
    for kind in ("nf4", "int8"):
        assert 0 < measured[kind]["mean_difference"] < 0.5
        assert f"| {kind} (in `{kind}/`) |" in card
        scorer, weight = load_scorer(
            str(export / kind), device=torch.device("cpu"), max_tokens=96, patent_tokens=48, tokens_per_batch=256
        )
        assert weight == 0.0
        assert np.isfinite(scorer.logits(["gas filter"], ["a filter of gas"])[0]).all()

    columns = (folders[f"{name}_scores"].read("scores") for name in both)
    teacher, student = ({(r["technique_id"], r["patent_id"]): r["log_odds"] for r in c.to_pylist()} for c in columns)
    assert teacher.keys() == student.keys()
