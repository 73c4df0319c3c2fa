"""The score stage on Ray with a decoder that is asked yes or no."""

from __future__ import annotations

from pathlib import Path

import pytest

from patentft import pipeline
from patentft.location import Location
from patentft.progress import Progress
from patentft.store import finished_stage
from tests.tiny import save_tiny_bert, save_tiny_chat, small_pipeline


@pytest.mark.ray
def test_a_pipeline_scores_with_a_decoder(ray_cluster: None, tmp_path: Path) -> None:
    prompt = {"max_tokens": 250, "patent_tokens": 60, "answer_tokens": "first"}
    stages = small_pipeline(tmp_path / "run", save_tiny_bert(tmp_path / "encoder"), search={"top_k": 5})
    del stages["pairs"], stages["scorer"], stages["scores"]["max_tokens"], stages["scores"]["patent_tokens"]
    stages["scores"] |= {
        "model": save_tiny_chat(tmp_path / "decoder"),
        "engine": {"kind": "torch", "prompt": prompt},
        "pairs_per_shard": 16,
        "swaps": 8,
    }
    pipeline.run(pipeline.parse(stages), Progress(quiet=True))
    folder = finished_stage(Location(tmp_path / "run" / "scores"))
    scores, logits = folder.read("scores"), folder.read("logits")
    assert (
        scores.num_rows
        == logits.num_rows
        == finished_stage(Location(tmp_path / "run" / "search")).read("candidates").num_rows
    )
    assert scores["log_odds"].to_pylist() == logits["cross_logit"].to_pylist()
    assert len(folder.parts("logits")) > 1
    assert folder.read("swaps").num_rows == 8
