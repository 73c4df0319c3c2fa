"""The driver's part of a training run: what ends it at once, and what is left behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from patentft.config import ConfigError, build
from patentft.location import Location
from patentft.progress import Progress
from patentft.train import checkpoint
from patentft.train.config import TrainConfig
from patentft.train.scratch import scratch_folder


def context(folder: Path) -> Any:
    stage = SimpleNamespace(location=Location(folder), name="model", kind="train", config_hash="0" * 16)
    stage.has_file = lambda path: (folder / path).is_file()
    return SimpleNamespace(folder=stage, progress=Progress(quiet=True))


def config(**changes: Any) -> TrainConfig:
    return build(
        TrainConfig, {"packed": "p", "packed_valid": "v", "model": "m", "objective": {"kind": "causal"}, **changes}
    )


@pytest.mark.ray
@pytest.mark.parametrize(
    ("error", "attempts", "raised", "words"),
    [
        (FloatingPointError("the loss is nan: lower optimizer.lr"), 1, ConfigError, "stage model: the loss is nan"),
        (ConfigError("adapter.freeze: no such name"), 1, ConfigError, "stage model: adapter.freeze: no such name"),
        (RuntimeError("connection reset"), 2, RuntimeError, "after 1 restarts at most"),
    ],
    ids=["a loss that is no number", "a setting", "an accident"],
)
def test_only_an_accident_is_tried_again(
    ray_cluster: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    attempts: int,
    raised: type[Exception],
    words: str,
) -> None:
    from patentft.train import run as training

    began = str(tmp_path / "began")

    def failing(given: dict[str, Any]) -> None:
        with open(began, "a") as stream:
            stream.write("x")
        raise error

    monkeypatch.setattr(training, "_worker_main", failing)
    with pytest.raises(raised, match=words):
        training._fit(config(max_failures=1), context(tmp_path / "model"), "m")
    assert (tmp_path / "began").read_text() == "x" * attempts


@pytest.mark.slow
@pytest.mark.ray
def test_a_slow_store_holds_one_checkpoint_on_the_workers_disk(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five checkpoints as fast as they can be written, and a store that takes .3 s for each."""
    from patentft.train import run as training

    def reporting(given: dict[str, Any]) -> None:
        import time
        from pathlib import Path

        from ray.train.v2._internal.execution.storage import StorageContext

        from patentft.train import run
        from patentft.train.scratch import scratch_folder

        persist = StorageContext.persist_current_checkpoint

        def slow(self: Any, *arguments: Any) -> Any:
            time.sleep(0.3)
            return persist(self, *arguments)

        StorageContext.persist_current_checkpoint = slow
        counts = []
        with scratch_folder(Path(given["stage"])) as scratch:
            uploads = run._Uploads(scratch)
            for step in range(5):
                folder = uploads.folder()
                counts.append(len(list(scratch.glob("checkpoint-*"))))
                (folder / "state").write_text(str(step))
                uploads.report({"step": step}, folder)
                counts.append(int(uploads.busy()))
            uploads.wait()
            counts.append(len(list(scratch.glob("checkpoint-*"))))
        Path(f"{given['stage']}/counts.json").write_text(str(counts))

    monkeypatch.setattr(training, "_worker_main", reporting)
    seen = tmp_path / "model"
    result = training._fit(config(), context(seen), "m")
    assert json.loads((seen / "counts.json").read_text()) == [1] * 10 + [0]
    with result.checkpoint.as_directory() as last:
        assert (Path(last) / "state").read_text() == "4"


def test_a_run_that_was_exported_but_not_finished_leaves_no_working_folders(tmp_path: Path) -> None:
    """A driver that was killed after training.json and before the folders were removed."""
    from patentft.train import run as training

    for path in ("export/README.md", "ray_train/x/checkpoint_1/state", "steps/000000001.jsonl"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("x")
    (tmp_path / "training.json").write_text('{"best_step": 3}')
    assert training.run(config(), context(tmp_path)) == {"best_step": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "training.json"]


HOLDS = """
import sys, time
from pathlib import Path
from patentft.train.scratch import scratch_folder

with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "checkpoint-x").mkdir()
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_worker_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        killed, living = (Path(str(worker.stdout and worker.stdout.readline()).strip()) for worker in workers)
        os.kill(workers[0].pid, signal.SIGKILL)
        workers[0].wait()
        assert killed.is_dir()
        with scratch_folder(tmp_path) as own:
            assert not killed.exists()
            assert (living / "checkpoint-x").is_dir()
            assert list(own.iterdir()) == [own / "lock"]
        assert not own.exists()
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied", "/store/x"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),  # torch.save
    ],
)
def test_a_full_disk_is_named_with_the_remedy(error: Exception) -> None:
    refused = pytest.raises(ConfigError, match=r"cannot write into /store \(.*\): free space there")
    with refused, checkpoint.explained("cannot write into /store", "free space there"):
        raise error


def test_another_error_is_not_called_a_full_disk() -> None:
    with pytest.raises(ConnectionResetError), checkpoint.explained("cannot write into /store", "free space there"):
        raise ConnectionResetError("peer")
