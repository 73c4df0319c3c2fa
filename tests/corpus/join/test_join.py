"""The join against pandas.merge, its accounting, its resuming; one run on Ray with a worker killed."""

from __future__ import annotations

import csv
import datetime
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft import schema
from patentft.config import ConfigError, build, content
from patentft.corpus.join import run as ray_side
from patentft.corpus.join.bucket import as_date
from patentft.corpus.join.config import JoinConfig
from patentft.corpus.join.run import JOIN
from patentft.corpus.join.steps import deal_file, run_steps
from patentft.location import Location
from patentft.progress import Progress
from patentft.stage import Context
from patentft.store import DamagedFile, StageFolder, open_stage

PATENTS = ["patent_id", "patent_type", "patent_date", "patent_title"]
CLAIMS = ["patent_id", "claim_sequence", "claim_text", "dependent"]
CPC = ["patent_id", "cpc_sequence", "cpc_section", "cpc_group"]
Rows = Sequence[Sequence[Any]]


def tsv(path: Path, header: list[str], rows: Rows) -> str:
    """As PatentsView writes them: tabs, every text in quotes."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_NONNUMERIC).writerows([header, *rows])
    return str(path)


def inputs(folder: Path, patents: Rows, claims: Rows, cpc: Rows) -> dict[str, Any]:
    """Claims in two files."""
    folder.mkdir(exist_ok=True)
    half = len(claims) // 2
    tsv(folder / "g_claims_1.tsv", CLAIMS, claims[:half])
    tsv(folder / "g_claims_2.tsv", CLAIMS, claims[half:])
    return {
        "patents": {"files": tsv(folder / "g_patent.tsv", PATENTS, patents)},
        "claims": {"files": str(folder / "g_claims_*.tsv")},
        "cpc": {"files": tsv(folder / "g_cpc_current.tsv", CPC, cpc)},
        "buckets": 3,
        "shard_rows": 4,
    }


def serially(function: Any, items: list[Any], config: JoinConfig, folder: StageFolder) -> None:
    for item in items:
        function(item, config, folder)


def opened(folder: Path, values: dict[str, Any]) -> tuple[JoinConfig, StageFolder]:
    config = build(JoinConfig, values)
    return config, open_stage(Location(folder), "join", content(config), {})


def join(folder: Path, values: dict[str, Any]) -> StageFolder:
    config, stage = opened(folder, values)
    context = Context(stage, progress=Progress(quiet=True))
    stage.finish(run_steps(config, context, lambda f, items, label: serially(f, items, config, stage)))
    return stage


def rows(stage: StageFolder, table: str) -> list[dict[str, Any]]:
    return stage.read(table).to_pylist()


def counts(stage: StageFolder) -> dict[str, Any]:
    assert stage.manifest is not None
    return stage.manifest.counts


SMALL: tuple[Rows, Rows, Rows] = (
    [["10", "utility", "2015-03-02", "Filter"], ["7", "utility", "2016-01-05", "Fan"], ["8", "design", "", "Chair"]],
    [["7", 0, "A fan.", ""], ["10", 10, "Eleventh.", ""], ["10", 2, "Third.", ""], ["10", 0, "A\tfilter.\nIt", ""]],
    [["10", 1, "Y", "Y02C20/10"], ["10", 0, "B", "B01D53/56"], ["7", 0, "F", "F04D29/00"], ["7", 1, "F", "F04D29/00"]],
)


def test_a_row_per_claim(tmp_path: Path) -> None:
    stage = join(tmp_path / "run", inputs(tmp_path / "in", *SMALL))
    filter_ = {
        "patent_id": "10",
        "family_id": None,
        "date": datetime.date(2015, 3, 2),
        "codes": ["B01D53/56", "Y02C20/10"],
        "language": None,
    }
    fan = {**filter_, "patent_id": "7", "date": datetime.date(2016, 1, 5), "codes": ["F04D29/00"]}
    found = {row["text_id"]: row for row in rows(stage, "texts")}
    assert found == {
        "10-0": {"text_id": "10-0", "text": "A\tfilter.\nIt", **filter_},
        "10-2": {"text_id": "10-2", "text": "Third.", **filter_},
        "10-10": {"text_id": "10-10", "text": "Eleventh.", **filter_},
        "7-0": {"text_id": "7-0", "text": "A fan.", **fan},
    }
    of_ten = [row["text_id"] for row in rows(stage, "texts") if row["patent_id"] == "10"]
    assert of_ten == ["10-0", "10-2", "10-10"]  # 2 before 10
    assert counts(stage)["texts"] == 4
    assert counts(stage)["patents_without_text"] == 1
    assert counts(stage)["cpc"] == {
        "read": 4,
        "used": 3,
        "merged": 1,
        "quarantined": 0,
        "orphans_ignored": 0,
        "reasons": {},
    }
    assert [part.num_rows for part in stage.iter_parts("texts")] == [
        sum(row["patent_id"] in ids for row in rows(stage, "texts"))
        for ids in ([row["patent_id"] for row in part.to_pylist()] for part in stage.iter_parts("texts"))
    ]
    assert not (tmp_path / "run" / "shards").exists()


def test_a_row_per_patent(tmp_path: Path) -> None:
    abstracts = [["10", "A filter."], ["7", ""], ["9", "orphan"], ["10", "A filter."], ["10", "Another."]]
    values = inputs(tmp_path / "in", *SMALL) | {
        "unit": "patent",
        "fields": ["title", "abstract", "first_claim"],
        "abstracts": {"files": tsv(tmp_path / "abstracts.tsv", ["patent_id", "patent_abstract"], abstracts)},
    }
    stage = join(tmp_path / "run", values)
    texts = {row["text_id"]: row["text"] for row in rows(stage, "texts")}
    assert texts == {"10": "Filter. A filter. A\tfilter.\nIt", "7": "Fan. A fan.", "8": "Chair"}
    assert counts(stage)["abstracts"] == {
        "read": 5,
        "used": 1,
        "merged": 1,
        "quarantined": 3,
        "orphans_ignored": 0,
        "reasons": {"empty": 1, "orphan": 1, "duplicate id": 1},
    }


def test_what_is_bad_is_in_the_quarantine_and_the_count_closes(tmp_path: Path) -> None:
    patents = [
        *SMALL[0],
        ["7", "utility", "2001-01-01", "Again"],
        ["12", "x", "someday", "Bad date"],
        ["", "x", "", ""],
    ]
    claims = [*SMALL[1], ["99", 0, "Orphan.", ""], ["7", 0, "Twice.", ""], ["7", 1, "", ""], ["12", 0, "Of none.", ""]]
    cpc = [*SMALL[2], ["99", 0, "A", "A01B1/00"], ["7", 5, "F", ""]]
    values = inputs(tmp_path / "in", patents, claims, cpc)
    with open(tmp_path / "in" / "g_claims_2.tsv", "ab") as stream:
        stream.write(b'"7"\t3\t"caf\xe9"\t""\n"7"\t4\n')
    stage = join(tmp_path / "run", values)
    assert len(rows(stage, "texts")) == 4
    found = {
        (bad["table"], Path(bad["file"]).name, bad["row"], bad["reason"].split(":")[0])
        for bad in rows(stage, "quarantine")
    }
    assert found == {
        ("patents", "g_patent.tsv", 3, "duplicate id"),
        ("patents", "g_patent.tsv", 4, "wrong value"),
        ("patents", "g_patent.tsv", 5, "empty"),
        ("claims", "g_claims_2.tsv", 0, "orphan"),
        ("claims", "g_claims_2.tsv", 1, "duplicate id"),
        ("claims", "g_claims_2.tsv", 2, "empty"),
        ("claims", "g_claims_2.tsv", 3, "orphan"),
        ("claims", "g_claims_2.tsv", 4, "not valid UTF-8"),
        ("claims", "g_claims_2.tsv", 5, "wrong number of fields"),
        ("cpc", "g_cpc_current.tsv", 4, "orphan"),
        ("cpc", "g_cpc_current.tsv", 5, "empty"),
    }
    assert counts(stage)["claims"]["read"] == 10
    ignored = join(tmp_path / "counted", {**values, "orphans": "count"})
    assert counts(ignored)["claims"]["orphans_ignored"] == 2
    assert counts(ignored)["claims"]["reasons"] == {
        "duplicate id": 1,
        "empty": 1,
        "not valid UTF-8": 1,
        "wrong number of fields": 1,
    }


def test_parquet_jsonl_and_other_names(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"number": [1, 2], "filed": [datetime.date(2015, 3, 2), None], "family": ["F", None]}),
        tmp_path / "p.parquet",
    )
    (tmp_path / "c.jsonl").write_text('{"number": 1, "text": "One."}\n{"number": "1", "text": "Two."}\n{"number": 2}\n')
    values = {
        "patents": {
            "files": str(tmp_path / "p.parquet"),
            "columns": {"patent_id": "number", "date": "filed", "family_id": "family"},
        },
        "claims": {"files": str(tmp_path / "c.jsonl"), "columns": {"patent_id": "number", "text": "text"}},
        "buckets": 2,
    }
    stage = join(tmp_path / "run", values)
    found = [(row["text_id"], row["text"], row["family_id"], str(row["date"])) for row in rows(stage, "texts")]
    assert found == [("1-0", "One.", "F", "2015-03-02"), ("1-1", "Two.", "F", "2015-03-02")]
    assert counts(stage)["claims"]["reasons"] == {"empty": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"claims": None}, "claims is not set, but the texts are claims"),
        ({"patents": {"files": "x", "columns": {"titel": "x"}}}, r"patents\.columns: 'titel' .* did you mean 'title'"),
        ({"unit": "patent", "fields": ["title", "title"]}, "fields names one twice"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(JoinConfig, {"patents": {"files": "p"}, "claims": {"files": "c"}} | change)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    values = inputs(tmp_path / "in", *SMALL)
    values["cpc"]["columns"] = {"code": "cpc_grup"}
    with pytest.raises(
        ConfigError, match=r"g_cpc_current.tsv: no column 'cpc_grup' .* did you mean 'cpc_group'.*set cpc.co"
    ):
        join(tmp_path / "run", values)


@pytest.mark.parametrize("text", ["2015-03-02", "20150302", "2015-03-02 00:00:00", "2015-03-02T10:00"])
def test_dates(text: str) -> None:
    assert as_date(text) == datetime.date(2015, 3, 2)


@pytest.mark.parametrize("text", ["2015-13-02", "02.03.2015", "2015", "2015-03-02x", "２０１５0302"])
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(ValueError):
        as_date(text)


# Against pandas

_SKEWED = st.sampled_from(["1", "1", "1", "1", "2", "3", "44", "é5", "x y"])
_WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=5)


@settings(max_examples=20, deadline=None)
@given(
    patents=st.lists(st.tuples(_SKEWED, _WORDS), unique_by=lambda row: row[0], max_size=6),
    claims=st.lists(st.tuples(_SKEWED, st.integers(0, 12), _WORDS), unique_by=lambda row: row[:2], max_size=30),
    cpc=st.lists(st.tuples(_SKEWED, st.integers(0, 5), st.sampled_from(["A01B", "B01D53/56", "Y02E"])), max_size=20),
    buckets=st.integers(1, 5),
    shard_rows=st.integers(1, 9),
)
def test_equal_to_pandas_merge(
    tmp_path_factory: pytest.TempPathFactory, patents: Any, claims: Any, cpc: Any, buckets: int, shard_rows: int
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    values = inputs(
        folder / "in",
        [[name, "utility", "2015-03-02", title] for name, title in patents],
        [[name, place, text, ""] for name, place, text in claims],
        [[name, place, code[0], code] for name, place, code in cpc],
    )
    stage = join(folder / "run", values | {"buckets": buckets, "shard_rows": shard_rows})
    symbols = pd.DataFrame(cpc, columns=["patent_id", "place", "code"]).sort_values("place", kind="stable")
    listed = symbols.drop_duplicates(["patent_id", "code"]).groupby("patent_id")["code"].agg(list).rename("codes")
    merged = (
        pd.DataFrame(claims, columns=["patent_id", "sequence", "text"])
        .merge(pd.DataFrame(patents, columns=["patent_id", "title"]), on="patent_id")
        .merge(listed, on="patent_id", how="left")
    )
    wanted = {
        (f"{row.patent_id}-{row.sequence}", row.text, tuple(row.codes if isinstance(row.codes, list) else ()))
        for row in merged.itertuples()
    }
    found = rows(stage, "texts")
    assert {(row["text_id"], row["text"], tuple(row["codes"])) for row in found} == wanted
    assert len(found) == len(wanted)
    said = counts(stage)
    for name, given_rows in (("patents", patents), ("claims", claims), ("cpc", cpc)):
        tally = said[name]
        assert tally["read"] == len(given_rows) == tally["used"] + tally["merged"] + tally["quarantined"]
    known = {name for name, _ in patents}
    assert said["claims"]["quarantined"] == sum(name not in known for name, *_ in claims)


# Doing it again


def test_a_run_stopped_anywhere_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = inputs(tmp_path / "in", *SMALL)
    whole = join(tmp_path / "whole", values)
    original = StageFolder._commit
    stop_after = 0
    done = False
    while not done:
        left = stop_after

        class Stop(BaseException):
            pass

        def commit(self: StageFolder, *arguments: Any, stop: type[BaseException] = Stop) -> Any:
            nonlocal left
            if left == 0:
                raise stop
            left -= 1
            return original(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(StageFolder, "_commit", commit)
            try:
                join(tmp_path / f"stopped-{stop_after}", values)
                done = True
            except Stop:
                pass
        again = join(tmp_path / f"stopped-{stop_after}", values)
        assert whole.manifest is not None
        assert again.manifest is not None
        assert again.manifest.id == whole.manifest.id
        assert again.manifest.counts == whole.manifest.counts
        assert not (tmp_path / f"stopped-{stop_after}" / "shards").exists()
        stop_after += 1
    assert stop_after > 15


def test_only_what_is_missing_is_dealt_out_again(tmp_path: Path) -> None:
    values = inputs(tmp_path / "in", *SMALL)
    config, stage = opened(tmp_path / "run", values)
    dealt: list[str] = []

    def stop_at_buckets(function: Any, items: list[Any], label: str) -> None:
        if function is not deal_file:
            raise KeyboardInterrupt
        dealt.extend(item.done_file for item in items)
        serially(function, items, config, stage)

    for expected in (4, 4):
        with pytest.raises(KeyboardInterrupt):
            run_steps(config, Context(stage, progress=Progress(quiet=True)), stop_at_buckets)
        assert len(dealt) == expected


def test_a_damaged_shard_is_noticed(tmp_path: Path) -> None:
    """Page checksums: a shard is read in pieces, so the store's checksum of the whole is not."""
    values = inputs(tmp_path / "in", *SMALL)
    config, stage = opened(tmp_path / "run", values)

    def damage(function: Any, items: list[Any], label: str) -> None:
        if function is not deal_file:
            shard = tmp_path / "run" / "shards" / "claims-0000-00000.parquet"
            data = bytearray(shard.read_bytes())
            data[60] ^= 255
            shard.write_bytes(data)
        serially(function, items, config, stage)

    with pytest.raises(
        DamagedFile, match=r"(?s)claims-0000-00000.parquet is damaged .*; delete it and run the stage again"
    ):
        run_steps(config, Context(stage, progress=Progress(quiet=True)), damage)
    (tmp_path / "run" / "shards" / "claims-0000-00000.parquet").unlink()
    assert len(rows(join(tmp_path / "run", values), "texts")) == 4


def _dies_once(task: Any, config: JoinConfig, folder: StageFolder) -> None:
    """Dealing out a file, in a process that is killed the first time, as on a node that is taken away."""
    marker = Path(folder.location.path).parent / "killed"
    if not marker.exists():
        marker.write_text("killed")
        os.kill(os.getpid(), signal.SIGKILL)
    deal_file(task, config, folder)


@pytest.mark.ray
def test_on_ray_with_a_worker_killed(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = inputs(tmp_path / "in", *SMALL)
    whole = join(tmp_path / "whole", values)
    from patentft.corpus.join import steps

    monkeypatch.setattr(steps, "deal_file", _dies_once)
    config, stage = opened(tmp_path / "run", values)
    stage.finish(JOIN.run(config, Context(stage, progress=Progress(quiet=True))))
    assert (tmp_path / "killed").exists()
    assert stage.manifest is not None
    assert whole.manifest is not None
    assert [entry.sha256 for entry in stage.manifest.files] == [entry.sha256 for entry in whole.manifest.files]
    assert stage.manifest.counts == whole.manifest.counts
    monkeypatch.undo()
    values["cpc"]["columns"] = {"code": "none"}
    config, stage = opened(tmp_path / "wrong", values)
    with pytest.raises(ConfigError, match=r"no column 'none' for cpc\.code"):
        JOIN.run(config, Context(stage, progress=Progress(quiet=True)))
    assert ray_side.JOIN.uses_ray
    assert set(schema.TEXTS.names) == set(whole.read("texts").column_names)
