"""The pipeline of docs/cascade.md is valid, and its middle runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from patentft import pipeline, schema
from patentft.location import Location
from patentft.stage import Context
from patentft.store import StageFolder, open_stage
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "cascade.md").read_text()
(TEXT,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_pipeline_is_valid_and_names_each_new_stage():
    parsed = pipeline.parse(yaml.safe_load(TEXT))
    kinds = {step.stage.kind for step in parsed.steps}
    assert {"union", "shortlist", "validate"} <= kinds
    steps = {step.name: step for step in parsed.steps}
    assert set(steps["both"].stage_inputs) == {"dense", "cleaning", "words", "patents", "techniques", "corpus"}
    assert steps["second"].stage_inputs == ("corpus", "best", "techniques")
    resolved = pipeline._resolved(parsed)
    assert pipeline.parse(yaml.safe_load(resolved)).steps == parsed.steps


def test_a_shortlist_of_a_united_search_can_be_scored_again(tmp_path: Path):
    """Through the real stages without Ray: lexical twice -> union -> (scores made here) -> shortlist."""
    parsed = {step.name: step for step in pipeline.parse(yaml.safe_load(TEXT)).steps}
    done: dict[str, StageFolder] = {}

    def run(name: str, stage: str, config) -> StageFolder:
        folder = open_stage(Location(tmp_path / name), stage, {"name": name}, {})
        folder.finish(dict(pipeline.kinds()[stage].run(config, Context(folder, done))))
        done[name] = folder
        return folder

    rng = np.random.default_rng(0)
    corpus = parsed["corpus"].config.model_copy(update={"patents": 60, "techniques": 12, "matches": 40})
    run("corpus", "synth", corpus)
    for table, key in (("techniques", "technique_id"), ("patents", "patent_id")):
        folder = open_stage(Location(tmp_path / table), "embed", {"table": table}, {})
        rows = [
            {"id": identity, "chunk": 0, "num_tokens": 1, "start_char": 0, "end_char": 1, "vector": rng.normal(size=4)}
            for identity in done["corpus"].read(table)[key].to_pylist()
        ]
        folder.write_part("embeddings", 0, pa.Table.from_pylist(rows, schema=schema.EMBEDDINGS))
        folder.finish({})
        done[table] = folder
    words = parsed["words"].config.model_copy(update={"roles": None, "top_k": 10})
    run("words", "lexical", words)
    run("dense", "lexical", words.model_copy(update={"ngrams": 1}))
    routes = {"routes": ["dense", "words"], "top_k": 12}
    united = run("both", "union", parsed["both"].config.model_copy(update=routes)).read("candidates")
    scores = open_stage(Location(tmp_path / "first"), "score", {}, {})
    columns = {name: united[name] for name in schema.LOGITS.names if name != "cross_logit"}
    logits = pa.array(rng.normal(size=united.num_rows), pa.float32())
    columns |= {"cross_logit": logits, "log_odds": logits}
    columns |= {name: pa.nulls(united.num_rows, pa.float32()) for name in ("lexical", "probability")}
    scores.write_part("scores", 0, pa.table({name: columns[name] for name in schema.SCORES.names}, schema.SCORES))
    scores.finish({})
    done["first"] = scores
    best = run("best", "shortlist", parsed["best"].config.model_copy(update={"recall": 0.5}))
    assert best.manifest is not None
    counts = best.manifest.counts
    assert counts["pairs_out"] < counts["pairs_in"] == united.num_rows
    assert counts["matches"]["all"]["lower_bound"] >= 0.5
