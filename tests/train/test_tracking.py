"""What a run tells must hold every step once, whatever died in between."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from patentft.config import ConfigError
from patentft.location import Location
from patentft.train import tracking
from patentft.train.tracking import StepsFile, merged_steps


def lines(stage: Location) -> list[dict]:
    return [json.loads(line) for line in merged_steps(stage).splitlines()]


def test_every_step_stands_once_after_a_restart(tmp_path: Path) -> None:
    """A checkpoint after steps 2, 3 and 5; the one of step 5 is lost, and the run goes on after step 3."""
    stage = Location(tmp_path)
    first = StepsFile(stage, 0)
    for step in range(1, 6):
        first.log(step, {"loss": 1.0 / step})
        if step in (2, 3, 5):
            first.commit()
    second = StepsFile(stage, 3)
    for step in (4, 5, 6):
        second.log(step, {"loss": -1.0})
    second.commit()
    assert [line["step"] for line in lines(stage)] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in lines(stage)] == [1.0, 0.5, 1 / 3, -1.0, -1.0, -1.0]


def test_a_run_that_begins_anew_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    stage = Location(tmp_path)
    old = StepsFile(stage, 0)
    old.log(1, {"loss": 1.0})
    old.log(2, {"loss": 1.0})
    old.commit()
    new = StepsFile(stage, 0)
    new.log(1, {"loss": 2.0})
    new.commit()
    assert lines(stage) == [{"step": 1, "loss": 2.0}]


class Told:
    """What it was told at the end."""

    def __init__(self, fails: bool = False) -> None:
        self.ends: list[bool] = []
        self.fails = fails

    def log(self, step, values) -> None: ...
    def commit(self) -> None: ...

    def close(self, *, failed: bool) -> None:
        self.ends.append(failed)
        if self.fails:
            raise ConnectionError("no route to the server")


def test_all_are_closed_whatever_ends_the_run() -> None:
    good, bad = Told(), Told(fails=True)
    with tracking.closing([good]):
        pass
    with pytest.raises(FloatingPointError), tracking.closing([bad, good]):
        raise FloatingPointError("the loss is nan")
    assert (good.ends, bad.ends) == ([False, True], [True])


def test_the_steps_before_an_error_are_kept(tmp_path: Path) -> None:
    steps = StepsFile(Location(tmp_path), 0)
    with contextlib.suppress(FloatingPointError), tracking.closing([steps]):
        steps.log(1, {"loss": 30.0})
        raise FloatingPointError("the loss is nan")
    assert lines(Location(tmp_path)) == [{"step": 1, "loss": 30.0}]


def two_attempts(service: tracking.Service, stage: Path) -> None:
    """A run that ends by an error after two steps and goes on to the end."""
    for first in (0, 2):
        found = tracking.trackers([service], Location(stage), "train-0123", {"optimizer.lr": 1e-3}, first)
        with contextlib.suppress(ConfigError), tracking.closing(found):
            for step in (first + 1, first + 2):
                for tracker in found:
                    tracker.log(step, {"loss": 1.0 / step})
            for tracker in found:
                tracker.commit()
            if first == 0:
                raise ConfigError("the disk is full")


def test_tensorboard_shows_every_step(tmp_path: Path) -> None:
    two_attempts("tensorboard", tmp_path)
    data = b"".join(path.read_bytes() for path in sorted((tmp_path / "tensorboard").iterdir()))
    assert data.count(b"loss") >= 4


def test_mlflow_has_one_run_with_every_step_that_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "")  # as it was, afterwards
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    mlflow = pytest.importorskip("mlflow")
    two_attempts("mlflow", tmp_path)
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.001"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]


def test_wandb_keeps_a_run_offline_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = pytest.importorskip("wandb")
    two_attempts("wandb", tmp_path)
    assert wandb.run is None
    written = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(written) == 2  # `wandb sync` puts them together: they have one id
    assert {path.name for path in written} == {"run-train-0123.wandb"}
