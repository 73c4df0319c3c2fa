"""Hugging Face datasets from local folders, as `datasets` writes them; the hub's part with its two calls replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from patentft.config import ConfigError
from patentft.corpus import hub
from patentft.corpus.read import RawRow, columns_of, list_files, rows_of
from patentft.corpus.run import CORPUS
from patentft.location import Location
from tests.corpus.test_corpus_run import raw, run

ROWS = [{"patent_id": f"P{n}", "title": "t", "abstract": "Größe", "codes": ["A01B"], "n": n} for n in range(7)]


def read(pattern: str) -> list[dict[str, Any]]:
    return [row.values for file in list_files(pattern) for row in rows_of(file) if isinstance(row, RawRow)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and a dataset of two splits, saved by `datasets` itself, several files each."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("saved")
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(folder / "one", num_shards=3)
    chosen = one.select([5, 3, 1])  # an indices mapping, which saving resolves
    datasets.DatasetDict({"train": one, "test": chosen}).save_to_disk(
        folder / "two", num_shards={"train": 2, "test": 1}
    )
    return folder


def test_a_saved_dataset(saved: Path) -> None:
    assert read(f"hf:{saved / 'one'}") == ROWS
    assert len(list_files(f"hf:{saved / 'one'}")) == 3
    assert columns_of(list_files(f"hf:{saved / 'one'}")[0]) == list(ROWS[0])


def test_its_splits(saved: Path) -> None:
    two = f"hf:{saved / 'two'}"
    assert read(f"{two}:train") == ROWS
    assert read(f"{two}:test") == [ROWS[5], ROWS[3], ROWS[1]]
    assert len(read(two)) == 10
    with pytest.raises(ConfigError, match=r"two has no split 'tset'; did you mean 'test'"):
        list_files(f"{two}:tset")


def test_it_is_a_source_like_any_other(saved: Path, tmp_path: Path) -> None:
    folder = run(CORPUS, tmp_path / "run", raw(tmp_path, 0) | {"patents": {"files": f"hf:{saved / 'two'}:train"}})
    assert folder.read("patents")["patent_id"].to_pylist() == [f"P{n}" for n in range(7)]
    assert folder.read("patents")["codes"].to_pylist() == [["A01B"]] * 7


@pytest.mark.parametrize("keep", [0, 5, 0.3, 0.7, -1, -8])
def test_a_cut_arrow_file_is_named(saved: Path, keep: float, tmp_path: Path) -> None:
    data = (saved / "one" / "data-00000-of-00003.arrow").read_bytes()
    (tmp_path / "x.arrow").write_bytes(data[: int(keep * len(data)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(ConfigError, match=r"x\.arrow is not a readable Arrow file"):
        list(rows_of(Location(tmp_path / "x.arrow")))


def test_a_damaged_arrow_file_is_an_error_and_no_crash(saved: Path, tmp_path: Path) -> None:
    data = (saved / "one" / "data-00000-of-00003.arrow").read_bytes()
    for at in range(8, len(data) - 8, 7):
        damaged = bytearray(data)
        damaged[at : at + 4] = b"\xff\xff\xff\x7f"
        (tmp_path / "x.arrow").write_bytes(damaged)
        try:
            rows = list(rows_of(Location(tmp_path / "x.arrow")))
        except ConfigError as error:
            assert "x.arrow" in str(error)  # noqa: PT017
        else:
            assert len(rows) <= 100


def test_the_file_format_of_arrow(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    assert read(str(tmp_path / "x.arrow")) == ROWS
    (row, *_) = rows_of(Location(tmp_path / "x.arrow"), columns={"n", "absent"})
    assert isinstance(row, RawRow)
    assert row.values == {"n": 0}


def layout(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pq.write_table(pa.table({"n": [number]}), folder / name)
        else:
            (folder / name).write_text(json.dumps({"n": number}) + "\n")
    return folder


def test_files_laid_out_by_split(tmp_path: Path) -> None:
    folder = layout(
        tmp_path / "training-set",  # the name of the folder itself says nothing
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/validation.jsonl",
        "test/part.jsonl",
        "README.md",
        ".cache/train.jsonl",
        "trainer.jsonl",
    )
    assert [row["n"] for row in read(f"hf:{folder}:train")] == [0, 1]
    assert [row["n"] for row in read(f"hf:{folder}:validation")] == [2]
    assert [row["n"] for row in read(f"hf:{folder}:dev")] == [2]
    assert [row["n"] for row in read(f"hf:{folder}:test")] == [3]
    assert [row["n"] for row in read(f"hf:{folder}")] == [0, 1, 2, 3, 6]
    with pytest.raises(ConfigError, match=r"has no file of split 'gold'; it has: data/train-00000"):
        list_files(f"hf:{folder}:gold")


def test_configurations_in_folders(tmp_path: Path) -> None:
    folder = layout(tmp_path / "x", "a/train.jsonl", "a/test.jsonl", "b/train.jsonl")
    assert [row["n"] for row in read(f"hf:{folder}:a/train")] == [0]
    assert [row["n"] for row in read(f"hf:{folder}:b/train")] == [2]
    assert [row["n"] for row in read(f"hf:{folder}:train")] == [0, 2]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"_data_files": [{"filename": "../../secret.arrow"}]}, "does not list data files of its folder"),
        ({"_data_files": []}, "does not list data files of its folder"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, r"gone\.arrow is listed in state.json but is not there"),
        ([], "must hold a JSON object, not a list"),
    ],
)
def test_a_state_that_lies_is_refused(state: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "secret.arrow").touch()
    (tmp_path / "x" / "state.json").write_text(json.dumps(state))
    with pytest.raises(ConfigError, match=message):
        list_files(f"hf:{tmp_path / 'x'}")


def test_what_is_neither_folder_nor_id(tmp_path: Path) -> None:
    for pattern in (f"hf:{tmp_path}/absent", "hf:./absent", "hf:", "hf:a/b/c", "hf:a b"):
        with pytest.raises(ConfigError, match="no folder is there, and it is no id of a dataset on the hub"):
            list_files(pattern)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "load.py").touch()
    with pytest.raises(ConfigError, match=r"holds no data file that can be read \(a loading script is never run\)"):
        list_files(f"hf:{tmp_path / 'empty'}")


# The hub, its client replaced


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub of one dataset, and what it was asked for."""
    folder = layout(tmp_path / "hub", "data/train-00000.parquet", "data/test[1].parquet", "load.py")
    asked: dict[str, Any] = {"infos": 0}

    class Api:
        def dataset_info(self, name: str, revision: str | None) -> Any:
            asked["infos"] += 1
            if name != "owner/set":
                raise RuntimeError("401 Client Error for token hf_secret\nmore")
            return type("Info", (), {"sha": f"commit-of-{revision}"})

        def list_repo_files(self, name: str, repo_type: str, revision: str) -> list[str]:
            assert repo_type == "dataset"
            return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]

    def download(name: str, **options: Any) -> str:
        asked.update(options)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub._of_hub.cache_clear()
    return asked


def test_only_the_files_of_the_split_are_fetched_at_one_commit(client: dict[str, Any]) -> None:
    assert [row["n"] for row in read("hf:owner/set:test")] == [1]
    assert client["allow_patterns"] == ["data/test[[]1].parquet"]
    assert client["revision"] == "commit-of-None"
    read("hf:owner/set:test")
    assert client["infos"] == 1
    assert [row["n"] for row in read("hf:owner/set@v1.0:train")] == [0]
    assert client["revision"] == "commit-of-v1.0"


def test_what_the_hub_refuses_is_said_without_the_token(client: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"dataset 'owner/other' cannot be fetched .*HF_TOKEN") as caught:
        list_files("hf:owner/other")
    assert "hf_secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_offline_means_the_cache_alone(client: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert [row["n"] for row in read("hf:owner/set:train")] == [0]
    assert client["local_files_only"] is True
    assert client["infos"] == 0
