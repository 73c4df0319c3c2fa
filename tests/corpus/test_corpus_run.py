"""The corpus stages on real files and real folders: tables, quarantine, counts, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from patentft import schema
from patentft.config import Config, ConfigError, build, content
from patentft.corpus.lookup import match_list, roles_of, vectors_of
from patentft.corpus.run import CORPUS, PAIRS, SPLIT, SYNTH
from patentft.location import Location
from patentft.progress import Progress
from patentft.stage import Context, Stage
from patentft.store import StageConflict, StageFolder, finished_stage, open_stage

QUIET = Progress(quiet=True)


def run(
    stage: Stage, folder: Path, values: dict[str, Any], inputs: dict[str, StageFolder] | None = None
) -> StageFolder:
    """What the pipeline does with one stage."""
    config = build(stage.config, values)
    inputs = inputs or {}
    ids = {name: found.manifest.id for name, found in inputs.items() if found.manifest}
    opened = open_stage(Location(folder), stage.kind, content(config), ids)
    if not opened.done:
        opened.finish(stage.run(config, Context(opened, inputs, progress=QUIET)))
    return opened


def jsonl(path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"files": str(path)}


def raw(tmp_path: Path, count: int = 5) -> dict[str, Any]:
    """A corpus config over small raw files: patents P0.., techniques T0, T1, a match for each patent."""
    return {
        "patents": jsonl(
            tmp_path / "p.jsonl", [{"patent_id": f"P{n}", "title": "t", "abstract": "a"} for n in range(count)]
        ),
        "techniques": jsonl(
            tmp_path / "t.jsonl", [{"technique_id": f"T{n}", "title": f"t{n}", "text": "x"} for n in range(2)]
        ),
        "matches": jsonl(
            tmp_path / "m.jsonl", [{"technique_id": f"T{n % 2}", "patent_id": f"P{n}"} for n in range(count)]
        ),
    }


# corpus


def test_tables_and_counts(tmp_path: Path) -> None:
    folder = run(CORPUS, tmp_path / "run", raw(tmp_path))
    assert folder.read("patents")["patent_id"].to_pylist() == [f"P{n}" for n in range(5)]
    assert folder.read("techniques").num_rows == 2
    assert match_list(folder) == [(f"T{n % 2}", f"P{n}") for n in range(5)]
    assert folder.read("quarantine").num_rows == 0
    assert folder.manifest is not None
    assert folder.manifest.counts["patents"] == {"read": 5, "kept": 5, "merged": 0, "quarantined": 0, "reasons": {}}


def test_big_tables_are_written_in_parts_and_a_half_finished_stage_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {**raw(tmp_path), "rows_per_part": 2}
    whole = run(CORPUS, tmp_path / "whole", values)
    assert [part.num_rows for part in whole.iter_parts("patents")] == [2, 2, 1]

    class Stop(Exception):
        pass

    original = StageFolder.write_part

    def stop(self: StageFolder, table: str, index: int, data: Any) -> Any:
        if (table, index) == ("patents", 2):
            raise Stop
        return original(self, table, index, data)

    with monkeypatch.context() as patch:
        patch.setattr(StageFolder, "write_part", stop)
        with pytest.raises(Stop):
            run(CORPUS, tmp_path / "half", values)
    written: list[tuple[str, int]] = []

    def note(self: StageFolder, table: str, index: int, data: Any) -> Any:
        written.append((table, index))
        return original(self, table, index, data)

    monkeypatch.setattr(StageFolder, "write_part", note)
    half = run(CORPUS, tmp_path / "half", values)
    assert ("patents", 2) in written
    assert ("patents", 0) not in written
    assert half.manifest is not None
    assert whole.manifest is not None
    assert half.manifest.id == whole.manifest.id
    assert half.manifest.counts == whole.manifest.counts


def test_bad_rows_are_in_the_quarantine_with_file_row_column_and_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = raw(tmp_path)
    with open(values["patents"]["files"], "a") as stream:
        stream.write('{"patent_id": "P9", "title": ""}\n{"patent_id"\n')
    folder = run(CORPUS, tmp_path / "run", values)
    assert folder.read("patents").num_rows == 5
    assert folder.read("quarantine").to_pylist() == [
        {
            "table": "patents",
            "file": values["patents"]["files"],
            "row": 5,
            "column": "title",
            "reason": "empty: a text is required",
            "value": "",
        },
        {
            "table": "patents",
            "file": values["patents"]["files"],
            "row": 6,
            "column": None,
            "reason": "not JSON: Expecting ':' delimiter: line 2 column 1 (char 13)",
            "value": '{"patent_id"',
        },
    ]
    assert folder.manifest is not None
    assert folder.manifest.counts["patents"]["reasons"] == {"empty": 1, "not JSON": 1}
    warning = capsys.readouterr().err  # even under --quiet
    assert "2 rows are in" in warning
    assert str(tmp_path / "run" / "quarantine") in warning


def test_a_match_with_an_unknown_id_goes_to_quarantine_or_stops(tmp_path: Path) -> None:
    values = raw(tmp_path)
    with open(values["matches"]["files"], "a") as stream:
        stream.write('{"technique_id": "T7", "patent_id": "P1"}\n{"technique_id": "T1", "patent_id": "P77"}\n')
    folder = run(CORPUS, tmp_path / "run", values)
    assert len(match_list(folder)) == 5
    found = [(row["row"], row["column"], row["reason"], row["value"]) for row in folder.read("quarantine").to_pylist()]
    assert found == [
        (5, "technique_id", "unknown id: no such row in techniques", "T7"),
        (6, "patent_id", "unknown id: no such row in patents", "P77"),
    ]
    with pytest.raises(ConfigError, match=r"row 5: technique_id 'T7' is unknown \(2 such rows\); set unknown_ids to"):
        run(CORPUS, tmp_path / "strict", {**values, "unknown_ids": "refuse"})
    with pytest.raises(ConfigError, match="unknown_ids: Input should be 'quarantine' or 'refuse'"):
        run(CORPUS, tmp_path / "typo", {**values, "unknown_ids": "ignore"})


def test_matches_are_optional(tmp_path: Path) -> None:
    values = raw(tmp_path)
    del values["matches"]
    assert match_list(run(CORPUS, tmp_path / "run", values)) == []


def test_a_table_without_a_good_row_is_refused_with_the_reasons(tmp_path: Path) -> None:
    values = raw(tmp_path) | {"techniques": jsonl(tmp_path / "t.jsonl", [{"technique_id": "T1"}] * 3)}
    with pytest.raises(ConfigError, match=r"none of its 3 rows is a good techniques row; reasons: \{'empty': 3\}"):
        run(CORPUS, tmp_path / "run", values)
    (tmp_path / "p.csv").write_text("patent_id,title,abstract\n")
    with pytest.raises(ConfigError, match="none of its 0 rows is a good patents row"):
        run(CORPUS, tmp_path / "run2", raw(tmp_path) | {"patents": {"files": str(tmp_path / "p.csv")}})


def test_the_limit_of_characters_is_a_setting(tmp_path: Path) -> None:
    values = raw(tmp_path)
    with open(values["patents"]["files"], "a") as stream:
        stream.write(json.dumps({"patent_id": "P9", "title": "t", "abstract": "x" * 200_000}) + "\n")
    folder = run(CORPUS, tmp_path / "run", values)
    assert folder.read("patents").num_rows == 5
    assert folder.read("quarantine")["reason"].to_pylist() == [
        "too long: 200,000 characters, max_characters is 100,000"
    ]
    assert run(CORPUS, tmp_path / "long", {**values, "max_characters": None}).read("patents").num_rows == 6


def test_an_error_before_the_first_part_can_be_mended_in_place(tmp_path: Path) -> None:
    values = raw(tmp_path)
    wrong = {**values, "patents": {**values["patents"], "columns": {"titel": "title"}}}
    with pytest.raises(ConfigError, match="did you mean 'title'"):
        run(CORPUS, tmp_path / "run", wrong)
    run(CORPUS, tmp_path / "run", values)
    with pytest.raises(StageConflict):
        run(CORPUS, tmp_path / "run", wrong)


def test_the_real_bref_corpus(data_root: Path, tmp_path: Path) -> None:
    files = {
        name: {"files": str(data_root / "bref" / f"{name}.parquet")} for name in ("patents", "techniques", "matches")
    }
    folder = run(CORPUS, tmp_path / "run", files)
    assert folder.manifest is not None
    kept = {name: folder.manifest.counts[name]["kept"] for name in files}
    quarantined = {name: folder.manifest.counts[name]["quarantined"] for name in files}
    assert {name: kept[name] + quarantined[name] for name in files} == {
        "patents": 3239,
        "techniques": 827,
        "matches": 1885,
    }
    assert sum(quarantined.values()) == folder.read("quarantine").num_rows


def test_real_claims_with_a_mapping(data_root: Path, tmp_path: Path) -> None:
    """A file in which nothing is called what we call it: semicolons, byte order mark, fields of many lines."""
    source = {
        "files": str(data_root / "green" / "gold_100.csv"),
        "columns": {"patent_id": "doc_id", "title": "doc_id", "abstract": "text"},
        "duplicates": "merge",
    }
    folder = run(CORPUS, tmp_path / "run", raw(tmp_path) | {"patents": source, "matches": None})
    assert folder.manifest is not None
    counts = folder.manifest.counts["patents"]
    assert counts["read"] == 100
    assert counts["quarantined"] == 0


# synth


def test_synth_makes_only_the_missing_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"patents": 40, "techniques": 6, "matches": 12}
    folder = run(SYNTH, tmp_path / "one", values)
    assert {name: totals["rows"] for name, totals in folder.manifest.tables.items()} == {  # type: ignore[union-attr]
        "patents": 40,
        "techniques": 6,
        "matches": 12,
    }
    assert folder.manifest is not None
    (tmp_path / "one" / "patents" / "part-00001.parquet").unlink()
    made: list[int] = []
    original = StageFolder.write_part

    def note(self: StageFolder, table: str, index: int, data: Any) -> Any:
        made.append(index)
        return original(self, table, index, data)

    monkeypatch.setattr(StageFolder, "write_part", note)
    again = run(SYNTH, tmp_path / "one", values)
    assert made == [1]
    assert again.manifest is not None
    assert again.manifest.id == folder.manifest.id


@pytest.mark.parametrize("change", [{"patents": 0}, {"techniques": 10**6}, {"matches": 41}])
def test_synth_refuses_what_cannot_be_before_it_runs(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=rf"synth: {next(iter(change))}={next(iter(change.values()))}"):
        build(SYNTH.config, {"patents": 40, "techniques": 6, "matches": 12, **change})


# split and pairs


def embedded(folder: Path, data: StageFolder, table: str, column: str, dim: int = 8) -> StageFolder:
    """A finished embed stage of random vectors, two chunks for every third id, in two parts out of order."""

    class NoConfig(Config):
        pass

    rng = np.random.default_rng(0)
    rows = []
    for number, name in enumerate(data.read(table)[column].to_pylist()):
        for chunk in range(2 if number % 3 == 0 else 1):
            vector = rng.standard_normal(dim).astype(np.float32)
            row = {"id": name, "chunk": chunk, "num_tokens": 1, "start_char": 0, "end_char": 1}
            rows.append({**row, "vector": vector / np.linalg.norm(vector)})
    opened = open_stage(Location(folder), "embed", content(NoConfig()), {})
    middle = len(rows) // 2 + (rows[len(rows) // 2]["chunk"] == 1)  # an id's chunks are in one part
    for index, part in enumerate((rows[middle:][::-1], rows[:middle])):
        opened.write_part("embeddings", index, pa.Table.from_pylist(part, schema=schema.EMBEDDINGS))
    opened.finish()
    return opened


def split_and_pairs(tmp_path: Path) -> tuple[dict[str, StageFolder], StageFolder, StageFolder]:
    data = run(SYNTH, tmp_path / "data", {"patents": 200, "techniques": 24, "matches": 90})
    inputs = {
        "data": data,
        "tv": embedded(tmp_path / "tv", data, "techniques", "technique_id"),
        "pv": embedded(tmp_path / "pv", data, "patents", "patent_id"),
    }
    split = run(SPLIT, tmp_path / "split", {"data": "data", "techniques": "tv", "similar_cosine": 0.9}, inputs)
    inputs["split"] = split
    values = {"data": "data", "roles": "split", "patents": "pv", "techniques": "tv"}
    return inputs, split, run(PAIRS, tmp_path / "pairs", values, inputs)


def test_split_and_pairs_of_a_synthetic_corpus(tmp_path: Path) -> None:
    inputs, split, pairs = split_and_pairs(tmp_path)
    roles, patent_roles = roles_of(split, "technique_roles"), roles_of(split, "patent_roles")
    matches = match_list(inputs["data"])
    assert len(roles) == 24
    assert len(patent_roles) == 200
    assert split.manifest is not None
    assert sum(split.manifest.counts["techniques"].values()) == 24
    assert sum(split.manifest.counts["patents"].values()) == 200
    assert sum(split.manifest.counts["matches"].values()) == len(matches)  # a synthetic patent matches one technique
    table = pairs.read("pairs").to_pylist()
    assert {row["role"] for row in table} == {"train", "valid"}
    assert all(roles[row["technique_id"]] == patent_roles[row["patent_id"]] == row["role"] for row in table)
    assert {(row["technique_id"], row["patent_id"]) for row in table if row["label"]} == {
        (technique, patent) for technique, patent in matches if roles[technique] in ("train", "valid")
    }
    assert not {(row["technique_id"], row["patent_id"]) for row in table if not row["label"]} & set(matches)
    assert pairs.manifest is not None
    for side in ("train", "valid"):
        counts = pairs.manifest.counts[side]
        assert counts["groups"] == counts["positives"] == split.manifest.counts["matches"][side]
        assert counts["negatives"] == sum(1 for row in table if row["role"] == side and not row["label"])


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    _, split, pairs = split_and_pairs(tmp_path / "one")
    _, other_split, other_pairs = split_and_pairs(tmp_path / "other")
    assert [entry.sha256 for entry in split.parts("similar")] == [
        entry.sha256 for entry in other_split.parts("similar")
    ]
    assert [entry.sha256 for entry in pairs.parts("pairs")] == [entry.sha256 for entry in other_pairs.parts("pairs")]


def test_vectors_are_those_wanted_with_chunks_in_order(tmp_path: Path) -> None:
    data = run(SYNTH, tmp_path / "data", {"patents": 20, "techniques": 6, "matches": 6})
    folder = embedded(tmp_path / "tv", data, "techniques", "technique_id")
    expected = {(row["id"], row["chunk"]): row["vector"] for row in folder.read("embeddings").to_pylist()}
    everything = vectors_of(folder)
    assert everything.vectors.shape == (len(expected), 8)
    ids = data.read("techniques")["technique_id"].to_pylist()
    wanted = vectors_of(finished_stage(folder.location), [ids[0], ids[4], "absent"])
    for found in (everything, wanted):
        seen: dict[str, int] = {}
        for name, vector in zip(found.ids, found.vectors, strict=True):
            chunk = seen[name] = seen.get(name, -1) + 1
            assert vector.tolist() == expected[name, chunk]
    assert sorted(wanted.ids) == sorted([ids[0], ids[0], ids[4]])
    assert vectors_of(folder, []).ids == []
