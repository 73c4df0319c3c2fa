"""Questions to a finished score stage, local and on an S3 server, against the same found row by row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from patentft import schema
from patentft.__main__ import app
from patentft.config import ConfigError
from patentft.location import Location
from patentft.scoring.query import open_scores
from patentft.store import DamagedFile, open_stage, remove_stage

TECHNIQUES, PATENTS, CANDIDATES = 7, 60, 12


def write_run(out: Location, probability: bool = True, seed: int = 0) -> list[dict]:
    """A corpus and a score stage; technique T6 and patent P59 have no scores. Returns the rows of SCORES."""
    rng = np.random.default_rng(seed)
    data = open_stage(out / "corpus", "corpus", {"seed": seed}, {})
    for part in range(3):
        rows = [
            {"patent_id": f"P{i}", "title": f"Device {i} for dust", "abstract": "a", "year": 2000 + i}
            for i in range(part * 20, part * 20 + 20)
        ]
        data.write_part("patents", part, pa.Table.from_pylist(rows, schema=schema.PATENTS))
    rows = [
        {"technique_id": f"T{i}", "document": "CER", "section": f"4.{i}", "title": f"Filter {i}", "text": "x"}
        for i in range(TECHNIQUES)
    ]
    data.write_part("techniques", 0, pa.Table.from_pylist(rows, schema=schema.TECHNIQUES))
    data.finish({})
    assert data.manifest is not None
    scores = open_stage(out / "scores", "score", {"data": "corpus"}, {"corpus": data.manifest.id})
    written = []
    for part in range(2):
        rows = []
        for technique in range(part * 3, part * 3 + 3):
            for patent in rng.choice(PATENTS - 1, CANDIDATES, replace=False):
                odds = float(np.float32(rng.integers(-4, 4)))  # with ties
                row = {"technique_id": f"T{technique}", "patent_id": f"P{patent}", "role": "test", "cosine": 0.5}
                row |= {"chunk": 0, "cross_logit": odds, "log_odds": odds}
                rows.append(row | {"probability": 1 / (1 + np.exp(-odds)) if probability else None})
        table = pa.Table.from_pylist(rows, schema=schema.SCORES)
        scores.write_part("scores", part, table, rows_per_group=10)
        written += table.to_pylist()
    scores.finish({})
    return written


def best(rows: list[dict], given: str, value: str, wanted: str) -> list[tuple[str, float]]:
    own = sorted((-row["log_odds"], row[wanted]) for row in rows if row[given] == value)
    return [(identity, -odds) for odds, identity in own]


def pairs(found: pa.Table, wanted: str) -> list[tuple[str, float]]:
    assert found["rank"].to_pylist() == list(range(1, found.num_rows + 1))
    return list(zip(found[wanted].to_pylist(), found["log_odds"].to_pylist(), strict=True))


def test_both_directions_are_what_a_search_row_by_row_finds(place: Location):
    rows = write_run(place)
    with open_scores(str(place)) as scores:
        for i in (0, 2, 3, 5):
            expected = best(rows, "technique_id", f"T{i}", "patent_id")
            assert pairs(scores.patents(f"T{i}", limit=5), "patent_id") == expected[:5]
            assert pairs(scores.patents(f"T{i}", limit=100), "patent_id") == expected
        for patent in sorted({row["patent_id"] for row in rows})[::6]:
            found = scores.techniques(patent)
            assert pairs(found, "technique_id") == best(rows, "patent_id", patent, "technique_id")
            assert found["title"].to_pylist() == [f"Filter {i[1:]}" for i in found["technique_id"].to_pylist()]
        found = scores.patents("T2")
        assert found["title"].to_pylist() == [f"Device {i[1:]} for dust" for i in found["patent_id"].to_pylist()]
        assert found["year"].to_pylist() == [2000 + int(i[1:]) for i in found["patent_id"].to_pylist()]
        likely = scores.patents("T2", limit=100, min_probability=0.5)
        assert 0 < likely.num_rows < CANDIDATES
        assert min(likely["probability"].to_pylist()) >= 0.5


def test_scores_without_probabilities(tmp_path: Path):
    rows = write_run(Location(tmp_path), probability=False)
    with open_scores(str(tmp_path / "scores")) as scores:
        assert pairs(scores.patents("T1"), "patent_id") == best(rows, "technique_id", "T1", "patent_id")
        with pytest.raises(ConfigError, match="no probabilities"):
            scores.patents("T1", min_probability=0.5)


def test_what_is_not_there_is_said(tmp_path: Path):
    run = Location(tmp_path / "run[1]")  # a name that a glob would read otherwise
    write_run(run)
    with open_scores(str(run)) as scores:
        for call, value, message in [
            (scores.patents, "T6", "has no scores"),
            (scores.patents, "filter 3", r"knows no technique 'filter 3'; like it: T3 \(Filter 3\)"),
            (scores.patents, "4.2", r"like it: T2"),
            (scores.patents, "nothing like it", "knows no technique 'nothing like it'$"),
            (scores.techniques, "P59", "has no scores"),
            (scores.techniques, "P5x", "knows no patent 'P5x'"),
            (scores.techniques, "' OR 1=1 --", "knows no patent"),
        ]:
            with pytest.raises(ConfigError, match=message):
                call(value)
        with pytest.raises(ConfigError, match="no score of technique 'T0' has a probability of 1 or more"):
            scores.patents("T0", min_probability=1)


def test_a_folder_that_cannot_be_asked(tmp_path: Path):
    with pytest.raises(ConfigError, match="no finished score stage"):
        open_scores(str(tmp_path))
    write_run(Location(tmp_path / "run"))
    with pytest.raises(ConfigError, match="'corpus'; give one of kind 'score'"):
        open_scores(str(tmp_path / "run" / "corpus"))
    with pytest.raises(ConfigError, match="not a finished stage"):
        open_scores(str(tmp_path / "run"), "scoers")
    part = tmp_path / "run" / "scores" / "scores" / "part-00001.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-5])
    with pytest.raises(DamagedFile, match=r"part-00001\.parquet is missing or cut"):
        open_scores(str(tmp_path / "run"))
    part.write_bytes(whole)
    remove_stage(Location(tmp_path / "run" / "corpus"))
    remove_stage(Location(tmp_path / "other" / "corpus"))
    write_run(Location(tmp_path / "other"), seed=1)
    (tmp_path / "other" / "corpus").rename(tmp_path / "run" / "corpus")
    with pytest.raises(ConfigError, match="was made anew"):
        open_scores(str(tmp_path / "run"))


def test_the_command(tmp_path: Path):
    rows = write_run(Location(tmp_path))
    expected = best(rows, "technique_id", "T4", "patent_id")
    run = CliRunner()
    asked = run.invoke(app, ["query", str(tmp_path), "--technique", "T4", "--top", "3", "--format", "json"])
    assert asked.exit_code == 0, asked.output
    assert [row["patent_id"] for row in json.loads(asked.stdout)] == [identity for identity, _ in expected[:3]]
    asked = run.invoke(app, ["query", str(tmp_path), "--technique", "T4", "--top", "3", "--format", "csv"])
    lines = asked.stdout.splitlines()
    assert lines[0].startswith('"rank","patent_id","title","year"')
    assert len(lines) == 4
    asked = run.invoke(app, ["query", str(tmp_path), "--patent", expected[0][0]])
    assert "Filter 4" in asked.stdout
    asked = run.invoke(app, ["query", str(tmp_path)])
    assert isinstance(asked.exception, ConfigError)
    assert "--technique" in str(asked.exception)
