"""Run folders on a local disk, in memory and on an S3 server: what is done, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from patentft import schema, store
from patentft.config import Config, ConfigError, content, runtime
from patentft.location import Location
from patentft.store import DamagedFile, StageConflict, StageFolder, finished_stage, open_stage, remove_stage
from tests.conftest import S3_BUCKET

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = {"top_k": 50, "encoder": {"pooling": "mean"}}
INPUTS = {"corpus": "abc"}


@pytest.fixture(params=["local", "s3"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty place that other processes see too."""
    name = uuid.uuid4().hex[:8]
    if request.param == "local":
        return Location(tmp_path / name)
    return Location(f"{request.getfixturevalue('s3_server')}/{name}")


def rows(part: int, count: int = 3) -> pa.Table:
    pairs = [{"technique_id": f"T{part}", "patent_id": f"P{part}-{row}"} for row in range(count)]
    return pa.Table.from_pylist(pairs, schema=schema.MATCHES)


def opened(place: Location, config: dict[str, Any] | None = None, inputs: dict[str, str] | None = None) -> StageFolder:
    return open_stage(place / "search", "search", config or CONFIG, inputs or INPUTS)


def completed(place: Location, num_parts: int = 3) -> StageFolder:
    """What every stage does: the missing parts, then the manifest."""
    folder = opened(place)
    if not folder.done:
        for index in folder.missing_parts("matches", num_parts):
            folder.write_part("matches", index, rows(index))
        folder.finish({"seen": num_parts})
    return folder


# Part, ledger, manifest


def test_a_finished_stage_reads_back_and_is_done_when_opened_again(place: Location) -> None:
    folder = completed(place)
    folder = opened(place)
    assert folder.done
    assert folder.manifest is not None
    assert folder.manifest.tables["matches"]["rows"] == 9
    assert folder.manifest.tables["matches"]["parts"] == 3
    assert folder.manifest.counts == {"seen": 3}
    assert folder.manifest.inputs == INPUTS
    assert folder.manifest.versions["pyarrow"] == pa.__version__
    assert folder.read("matches").equals(pa.concat_tables([rows(0), rows(1), rows(2)]))
    assert folder.read("matches", ["patent_id"]).column_names == ["patent_id"]
    assert [part.num_rows for part in folder.iter_parts("matches")] == [3, 3, 3]
    assert (place / "search").names() == ["ledger", "manifest.json", "matches", "stage.json"]
    assert (place / "search" / "matches").names() == [f"part-0000{index}.parquet" for index in range(3)]
    assert finished_stage(place / "search").read("matches").num_rows == 9


def test_only_the_missing_parts_of_a_half_finished_stage_are_left(place: Location) -> None:
    opened(place).write_part("matches", 1, rows(1))
    again = opened(place)
    assert not again.done
    assert again.missing_parts("matches", 3) == [0, 2]
    with pytest.raises(ConfigError, match="is not finished"):
        again.read("matches")
    with pytest.raises(ConfigError, match="is not a finished stage"):
        finished_stage(place / "search")


def test_the_same_rows_give_the_same_content_id_wherever_and_in_whatever_order(place: Location, tmp_path: Path) -> None:
    first = completed(place)
    other = opened(Location(tmp_path / "elsewhere"))
    for index in (2, 0, 1):
        other.write_part("matches", index, rows(index))
    assert other.finish().id == (first.manifest and first.manifest.id)
    third = opened(Location(tmp_path / "third"))
    third.write_part("matches", 0, rows(7))
    assert third.finish().id != (first.manifest and first.manifest.id)


def test_files_that_are_no_tables(place: Location) -> None:
    folder = opened(place)
    folder.write_file("export/deep/model.bin", b"weights")
    folder.write_file("index.html", b"")
    assert folder.has_file("export/deep/model.bin")
    assert not folder.has_file("export/other")
    folder.finish()
    assert folder.read_file("export/deep/model.bin") == b"weights"
    assert folder.read_file("index.html") == b""
    with pytest.raises(ConfigError, match="has no file 'nothing'"):
        folder.read_file("nothing")
    with pytest.raises(ConfigError, match="has no table 'matches'; it has: none"):
        folder.read("matches")
    assert opened(place).done


def test_a_stage_folder_travels_to_a_worker_and_back(place: Location) -> None:
    folder = opened(place)
    worker = pickle.loads(pickle.dumps(folder))
    worker.write_part("matches", 0, rows(0))
    assert folder.has_part("matches", 0)
    assert folder.finish().tables["matches"]["rows"] == 3


def test_a_table_of_another_schema_is_our_own_mistake(place: Location) -> None:
    with pytest.raises(AssertionError, match="expected schema"):
        opened(place).write_part("matches", 0, rows(0).select(["patent_id", "technique_id"]))
    null = pa.table([pa.array(["T", None]), pa.array(["P", "Q"])], schema=schema.MATCHES)
    with pytest.raises(AssertionError, match=r"matches\.technique_id must not be null"):
        opened(place).write_part("matches", 0, null)


# Another configuration


def test_another_configuration_is_a_conflict_that_shows_the_keys_and_the_way_out(place: Location) -> None:
    completed(place)
    with pytest.raises(StageConflict) as caught:
        opened(place, {"top_k": 20, "encoder": {"pooling": "cls"}, "new": None})
    message = str(caught.value)
    assert "top_k: 50 -> 20" in message
    assert "encoder.pooling: 'mean' -> 'cls'" in message
    assert "new: '(not set)' -> None" in message
    assert "--redo search" in message
    assert "out=..." in message
    assert "corpus" not in message  # what did not change is not shown
    assert opened(place).done  # and nothing was touched


def test_a_half_finished_stage_conflicts_too(place: Location) -> None:
    opened(place).write_part("matches", 0, rows(0))
    with pytest.raises(StageConflict, match="top_k"):
        opened(place, {**CONFIG, "top_k": 1})


def test_a_stage_that_failed_before_its_first_part_takes_the_mended_configuration(place: Location) -> None:
    opened(place)
    folder = opened(place, {**CONFIG, "top_k": 1})
    folder.write_part("matches", 0, rows(0))
    folder.finish()
    assert opened(place, {**CONFIG, "top_k": 1}).done
    with pytest.raises(StageConflict):
        opened(place)


def test_another_input_is_a_conflict_that_names_it(place: Location) -> None:
    completed(place)
    with pytest.raises(StageConflict, match="content of corpus: 'abc' -> 'xyz'"):
        opened(place, inputs={"corpus": "xyz"})
    with pytest.raises(StageConflict, match=r"content of more: '\(not set\)' -> 'new'"):
        opened(place, inputs={**INPUTS, "more": "new"})


def test_another_kind_or_table_version_is_a_conflict(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    completed(place)
    with pytest.raises(StageConflict, match=r"\(kind\): 'search' -> 'embed'"):
        open_stage(place / "search", "embed", CONFIG, INPUTS)
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    with pytest.raises(StageConflict, match=r"\(table version\)"):
        opened(place)


def test_a_change_of_runtime_fields_is_no_conflict(place: Location) -> None:
    class SearchConfig(Config):
        top_k: int = 50
        workers: int = runtime(1)

    folder = open_stage(place / "search", "search", content(SearchConfig()), INPUTS)
    folder.write_part("matches", 0, rows(0))
    folder.finish()
    assert open_stage(place / "search", "search", content(SearchConfig(workers=64)), INPUTS).done


def test_other_versions_warn_and_change_nothing(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    completed(place)
    newer = {**store.versions(), "torch": "99.0"}
    monkeypatch.setattr(store, "versions", lambda: newer)
    warnings: list[str] = []
    folder = open_stage(place / "search", "search", CONFIG, INPUTS, warn=warnings.append)
    assert folder.done
    assert len(warnings) == 1
    assert "-> 99.0" in warnings[0]


# Damage


def test_a_part_cut_after_the_stage_was_finished_is_made_again_and_only_it(place: Location) -> None:
    before = completed(place).manifest
    where = place / "search" / "matches" / "part-00001.parquet"
    where.commit(where.read_bytes()[:-1])
    warnings: list[str] = []
    folder = open_stage(place / "search", "search", CONFIG, INPUTS, warn=warnings.append)
    assert not folder.done
    assert "matches/part-00001.parquet" in warnings[0]
    assert folder.missing_parts("matches", 3) == [1]
    folder.write_part("matches", 1, rows(1))
    assert before is not None
    assert folder.finish().id == before.id


def test_a_part_that_is_gone_is_made_again(place: Location) -> None:
    completed(place)
    (place / "search" / "matches" / "part-00002.parquet").remove_tree()
    assert opened(place).missing_parts("matches", 3) == [2]
    assert completed(place).read("matches").num_rows == 9


def test_a_flipped_byte_is_found_when_the_part_is_read_and_the_remedy_works(place: Location) -> None:
    completed(place)
    where = place / "search" / "matches" / "part-00001.parquet"
    whole = where.read_bytes()
    where.commit(whole[:10] + bytes([whole[10] ^ 1]) + whole[11:])
    folder = opened(place)
    assert folder.done  # a size costs one listing, a checksum a read of everything
    with pytest.raises(DamagedFile, match=r"matches/part-00001\.parquet is damaged.*delete it and run the stage again"):
        folder.read("matches")
    where.remove_tree()
    assert completed(place).read("matches").num_rows == 9


def test_a_stage_is_not_finished_over_a_part_that_is_gone(place: Location) -> None:
    folder = opened(place)
    folder.write_part("matches", 0, rows(0))
    (place / "search" / "matches" / "part-00000.parquet").remove_tree()
    with pytest.raises(DamagedFile, match="the ledger lists"):
        folder.finish()


@pytest.mark.parametrize("name", ["manifest.json", "stage.json", "ledger/matches-00000.json"])
@pytest.mark.parametrize("text", [b"{", b"[]", b"{}"])
def test_files_that_are_not_ours_are_named(tmp_path: Path, name: str, text: bytes) -> None:
    folder = completed(Location(tmp_path))
    if name.startswith("ledger"):
        (folder.location / "manifest.json").remove_tree()
    (folder.location / name).commit(text)
    with pytest.raises(DamagedFile) as caught:
        opened(Location(tmp_path)).has_part("matches", 0)
    assert name in str(caught.value)


# Deleting


def test_a_removed_stage_begins_anew(place: Location) -> None:
    completed(place)
    remove_stage(place / "search")
    assert (place / "search").names() == []
    assert opened(place, {**CONFIG, "top_k": 1}).missing_parts("matches", 3) == [0, 1, 2]
    remove_stage(place / "never there")


def test_what_is_no_stage_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="is not a stage's folder"):
        remove_stage(Location(tmp_path / "search"))
    assert (tmp_path / "search" / "thesis.tex").exists()


def test_a_deletion_cut_short_leaves_no_parts_without_their_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut after each step: what is left either conflicts with another configuration or holds no part at all."""
    steps = 0
    while True:
        place = Location(tmp_path / str(steps))
        completed(place)
        left = steps

        def cut(self: Location, original: Any = Location.remove_tree) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            original(self)

        with monkeypatch.context() as patch:
            patch.setattr(Location, "remove_tree", cut)
            try:
                remove_stage(place / "search")
                break
            except KeyboardInterrupt:
                pass
        try:
            other = opened(place, {**CONFIG, "top_k": 1})
            assert other.missing_parts("matches", 3) == [0, 1, 2]
        except StageConflict:
            assert completed(place).read("matches").num_rows == 9
        steps += 1
    assert steps >= 4


# Locations


def test_names_sizes_and_contents_of_a_folder(place: Location) -> None:
    assert place.names() == []
    assert place.sizes() == {}
    assert place.read_all() == {}
    (place / "b").commit(b"bb")
    (place / "a").commit(b"a")
    (place / "sub" / "c").commit(b"")
    assert place.names() == ["a", "b", "sub"]
    assert place.sizes() == {"a": 1, "b": 2, "sub/c": 0}
    assert (place / "sub").read_all() == {"c": b""}
    assert ((place / "a").size(), (place / "absent").size()) == (1, None)
    assert ((place / "a").is_file(), place.is_file(), (place / "absent").is_file()) == (True, False, False)
    assert (place / "a").names() == []  # a file is no folder
    with pytest.raises(FileNotFoundError):
        (place / "absent").read_bytes()
    (place / "a").remove_tree()
    (place / "absent").remove_tree()
    assert place.names() == ["b", "sub"]
    place.remove_tree()
    assert not place.exists()


def test_temporary_files_are_never_listed(tmp_path: Path) -> None:
    (tmp_path / ".part-00000.parquet.0a1b2c3d.tmp").write_bytes(b"half")
    (tmp_path / "real").write_bytes(b"whole")
    place = Location(tmp_path)
    assert place.names() == ["real"]
    assert place.sizes() == {"real": 5}
    assert place.read_all() == {"real": b"whole"}
    assert place.remove_leftovers() == 1
    assert os.listdir(tmp_path) == ["real"]


def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Location(tmp_path / "x")
    place.commit(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"cannot write .*/x: No space left on device"):
        place.commit(b"new")
    assert os.listdir(tmp_path) == ["x"]
    assert place.read_bytes() == b"old"


def test_a_place_below_a_file_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"cannot write .*/file/search/stage\.json: "):
        open_stage(Location(tmp_path / "file" / "search"), "search", CONFIG, INPUTS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match=r"cannot write .*stage\.json: Permission denied"):
            opened(Location(tmp_path))
    finally:
        tmp_path.chmod(0o700)


def test_a_bucket_that_is_not_there_is_named(s3_server: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot write s3://no-such-bucket/run/x: no such bucket"):
        Location("s3://no-such-bucket/run/x").commit(b"x")
    assert Location("s3://no-such-bucket/run").names() == []


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot open gopher://x/run"):
        Location("gopher://x/run").names()
    with pytest.raises(ConfigError, match="is not a local path"):
        _ = Location("s3://bucket/x").path


# Other processes

CHILD = """
import os, sys
sys.path.insert(0, {repository!r})
from tests.test_store import *

place = Location({url!r})

def stop_here():
    print("here", flush=True)
    sys.stdin.readline()

{body}
"""


@contextmanager
def child(place: Location, body: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process at work on `place`; `stop_here()` in its body says so and waits."""
    code = CHILD.format(repository=str(REPOSITORY), url=place.url, body=body)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"


def release(process: subprocess.Popen[str]) -> None:
    process.communicate("\n")
    assert process.returncode == 0


# Stops just before a file gets its final name, its bytes being on the disk under the temporary one
STOP_BEFORE_RENAME = """
original = os.replace
def replace(source, target):
    if str(target).endswith({name!r}):
        stop_here()
    original(source, target)
os.replace = replace
"""

STOP_BEFORE_COMMIT = """
original = Location.commit
def commit(self, data):
    if self.name == {name!r}:
        stop_here()
    original(self, data)
Location.commit = commit
"""


@pytest.mark.parametrize(
    ("name", "missing", "left"),
    [
        ("part-00001.parquet", [1, 2], "matches"),
        ("matches-00001.json", [1, 2], "ledger"),  # the part is there, but not listed: not done
        ("manifest.json", [], "."),
    ],
)
def test_a_writer_killed_before_a_rename_leaves_no_part_and_the_rerun_completes(
    tmp_path: Path, name: str, missing: list[int], left: str
) -> None:
    place = Location(tmp_path)
    with child(place, STOP_BEFORE_RENAME.format(name=name) + "completed(place)") as process:
        wait(process)
        process.kill()  # SIGKILL
        process.wait()
    leftovers = [file for file in os.listdir(tmp_path / "search" / left) if file.endswith(".tmp")]
    assert len(leftovers) == 1
    folder = opened(place)
    assert not folder.done
    assert folder.missing_parts("matches", 3) == missing
    folder = completed(place)
    assert folder.read("matches").equals(pa.concat_tables([rows(0), rows(1), rows(2)]))
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    assert opened(place).done


# Sends the first 5 MiB of an upload in parts, then stops. (_pipe_file's own defaults are 50 MiB and 10 at a time.)
STOP_IN_UPLOAD = """
import s3fs
s3fs.S3FileSystem._pipe_file.__defaults__ = (5 << 20, 1, "overwrite")
original = s3fs.S3FileSystem._call_s3
async def call(self, method, *args, **kwargs):
    if method == "upload_part" and kwargs["PartNumber"] == 2:
        stop_here()
    return await original(self, method, *args, **kwargs)
s3fs.S3FileSystem._call_s3 = call
"""


def test_a_writer_killed_in_mid_upload_leaves_no_part_and_the_rerun_completes(
    s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    place = Location(f"{s3_server}/{uuid.uuid4().hex[:8]}")
    body = 'folder = opened(place); folder.write_file("export/model.bin", bytes(11 << 20))'
    with child(place, STOP_IN_UPLOAD + body) as process:
        wait(process)
        process.kill()
        process.wait()
    pending = place.filesystem.list_multipart_uploads(S3_BUCKET)
    assert [upload["Key"] for upload in pending if upload["Key"].endswith("search/export/model.bin")]  # it had begun
    folder = opened(place)
    where = place / "search" / "export" / "model.bin"
    assert (where.exists(), where.size(), (place / "search" / "export").names()) == (False, None, [])
    assert not folder.has_file("export/model.bin")
    # the rerun sends it in parts as well, to the end
    monkeypatch.setattr(s3fs.S3FileSystem._pipe_file, "__defaults__", (5 << 20, None, "overwrite"))
    folder.write_file("export/model.bin", bytes(11 << 20))
    folder.finish()
    assert opened(place).read_file("export/model.bin") == bytes(11 << 20)


def test_two_writers_of_one_part_write_the_same_whole_part(shared: Location) -> None:
    """Both hold their bytes ready before either commits; in a local folder, under temporary names."""
    stop = STOP_BEFORE_RENAME if shared.is_local else STOP_BEFORE_COMMIT
    body = stop.format(name="part-00000.parquet") + "opened(place).write_part('matches', 0, rows(0, 1000))"
    with child(shared, body) as one, child(shared, body) as other:
        wait(one)
        wait(other)
        release(one)
        first = (shared / "search" / "matches" / "part-00000.parquet").read_bytes()
        release(other)
    folder = opened(shared)
    assert (folder.location / "matches" / "part-00000.parquet").read_bytes() == first
    assert (folder.location / "matches").names() == ["part-00000.parquet"]
    folder.finish()
    assert folder.read("matches").equals(rows(0, 1000))


def test_a_straggler_does_not_fail_when_the_stage_was_finished_without_it(tmp_path: Path) -> None:
    """Another writer of its part was faster, and `finish` swept its temporary file away."""
    place = Location(tmp_path)
    body = STOP_BEFORE_RENAME.format(name="part-00000.parquet") + "opened(place).write_part('matches', 0, rows(0))"
    with child(place, body) as straggler:
        wait(straggler)
        folder = completed(place, num_parts=1)
        assert os.listdir(tmp_path / "search" / "matches") == ["part-00000.parquet"]
        release(straggler)
    assert opened(place).done
    assert folder.read("matches").equals(rows(0))


def test_what_another_process_commits_is_seen_at_once(shared: Location) -> None:
    folder = opened(shared)
    assert folder.missing_parts("matches", 2) == [0, 1]  # whatever listing a client keeps, it has now
    assert (folder.location / "matches").names() == []
    assert folder.location.names() == ["stage.json"]
    assert folder.location.sizes().keys() == {"stage.json"}
    with child(shared, "opened(place).write_part('matches', 1, rows(1)); stop_here()") as process:
        wait(process)
        assert folder.has_part("matches", 1)
        assert folder.missing_parts("matches", 2) == [0]
        assert (folder.location / "matches").names() == ["part-00001.parquet"]
        assert folder.location.names() == ["ledger", "matches", "stage.json"]
        assert "matches/part-00001.parquet" in folder.location.sizes()
        release(process)
    assert json.loads((folder.location / "ledger" / "matches-00001.json").read_bytes())["rows"] == 3
