"""kill -9 of a scoring actor, a training worker, the driver: the rerun completes, SCORES are the undisturbed ones.

Every kill is at a chosen place, by the process itself or by one that knows it is there: nothing waits and hopes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from patentft import pipeline, store
from patentft.config import ConfigError
from patentft.location import Location
from patentft.progress import Progress
from patentft.stage import Incomplete
from tests.e2e.dying import sample
from tests.tiny import small_pipeline

pytestmark = pytest.mark.ray
QUIET = Progress(quiet=True)
BEFORE_TRAINING = ("corpus", "techniques", "patents", "split", "search", "pairs")


def begun(whole: tuple[Path, str], out: Path, keep: tuple[str, ...]) -> dict:
    """A run folder that has the stages of `keep` already; returns its pipeline mapping."""
    for name in keep:
        shutil.copytree(whole[0] / name, out / name)
    return small_pipeline(out, whole[1])


def rows(out: Path, table: str = "scores") -> list[dict]:
    found = store.finished_stage(Location(out / "scores")).read(table).to_pylist()
    assert len({(row["technique_id"], row["patent_id"], row["role"]) for row in found}) == len(found)
    return found


def weights(out: Path) -> bytes:
    return (out / "scorer" / "export" / "model.safetensors").read_bytes()


def trajectory(out: Path) -> list[dict]:
    """Every step of the scorer's training, once, without its time."""
    lines = (out / "scorer" / "steps.jsonl").read_text().splitlines()
    found = [{name: v for name, v in json.loads(line).items() if name != "seconds"} for line in lines]
    assert [line["step"] for line in found] == list(range(1, len(found) + 1))
    return found


def test_the_run_is_whole(whole):
    out, _ = whole
    candidates = store.finished_stage(Location(out / "search")).read("candidates").num_rows
    assert len(rows(out)) == candidates
    again = pipeline.run(pipeline.parse(small_pipeline(*whole)), QUIET)
    assert all(folder.done for folder in again.values())


@pytest.mark.parametrize("after_part", [False, True])
def test_a_killed_scoring_actor(whole, tmp_path, monkeypatch, after_part):
    from patentft.scoring import run as scoring

    values = begun(whole, tmp_path, (*BEFORE_TRAINING, "scorer"))
    marker = str(tmp_path / "killed")
    original = scoring.ShardScorer

    class Dying(original):  # type: ignore[misc,valid-type]
        def score(self, index, pairs):
            if index == 1 and not os.path.exists(marker):
                Path(marker).touch()
                if after_part:  # the part is there, the answer never comes: it is scored and written twice
                    super().score(index, pairs)
                os.kill(os.getpid(), signal.SIGKILL)
            return super().score(index, pairs)

    monkeypatch.setattr(scoring, "ShardScorer", Dying)
    pipeline.run(pipeline.parse(values), QUIET)
    assert os.path.exists(marker)
    assert rows(tmp_path) == rows(whole[0])


def test_shards_that_always_fail_are_set_aside_and_the_others_scored(whole, tmp_path, monkeypatch):
    """One kills its actor each time, one raises each time, one raises once: only two are left to be tried again."""
    from patentft.scoring import run as scoring

    values = begun(whole, tmp_path, (*BEFORE_TRAINING, "scorer"))
    values["scores"]["max_restarts"] = 1
    original, marker = scoring.ShardScorer, str(tmp_path / "raised")

    class Poisoned(original):  # type: ignore[misc,valid-type]
        def score(self, index, pairs):
            if index == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            if index == 1 or (index == 0 and not os.path.exists(marker)):
                Path(marker).touch()
                raise ArithmeticError(f"no number for shard {index}")
            return super().score(index, pairs)

    monkeypatch.setattr(scoring, "ShardScorer", Poisoned)
    with pytest.raises(Incomplete) as ended:
        pipeline.run(pipeline.parse(values), QUIET)
    message = str(ended.value)
    assert "shard-00001: ArithmeticError: no number for shard 1\n" in message
    assert "shard-00002: killed its actor 2 times" in message
    for words in ("2 of ", "are done and kept", "Run the same command again"):
        assert words in message
    assert sorted(path.name for path in (tmp_path / "scores" / "failed").iterdir()) == [
        "shard-00001.txt",
        "shard-00002.txt",
    ]
    assert "raise ArithmeticError" in (tmp_path / "scores" / "failed" / "shard-00001.txt").read_text()
    monkeypatch.setattr(scoring, "ShardScorer", original)
    parts = sorted((tmp_path / "scores" / "logits").iterdir())
    assert len(parts) == len(list((whole[0] / "scores" / "logits").iterdir())) - 2
    kept = {path: path.stat().st_mtime_ns for path in parts}
    pipeline.run(pipeline.parse(values), QUIET)
    assert {path: path.stat().st_mtime_ns for path in parts} == kept
    assert rows(tmp_path) == rows(whole[0])
    assert not (tmp_path / "scores" / "failed").exists()


def test_a_model_that_no_engine_can_load_ends_the_run_at_once(whole, tmp_path, monkeypatch):
    from patentft.scoring import run as scoring

    values = begun(whole, tmp_path, (*BEFORE_TRAINING, "scorer"))

    class Unloadable(scoring.ShardScorer):
        def load(self):
            raise ConfigError("the model has no such answer: set engine.prompt.yes")

    monkeypatch.setattr(scoring, "ShardScorer", Unloadable)
    with pytest.raises(ConfigError, match=r"set engine\.prompt\.yes"):
        pipeline.run(pipeline.parse(values), QUIET)
    assert not (tmp_path / "scores" / "failed").exists()


def kill_at_fourth_step(training, tmp_path, monkeypatch, ranks: tuple[int, ...]) -> None:
    """The workers of these ranks kill themselves, once."""
    original, folder = training._worker_main, str(tmp_path)

    def dying(given):
        from patentft.train import worker

        step = worker._optimizer_step
        steps = []

        def counted(*arguments):
            steps.append(1)
            rank = arguments[-1].rank
            marker = f"{folder}/killed-{rank}"
            if len(steps) == 4 and rank in ranks and not os.path.exists(marker):
                Path(marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments)

        worker._optimizer_step = counted
        try:
            original(given)
        finally:
            worker._optimizer_step = step

    monkeypatch.setattr(training, "_worker_main", dying)


def test_a_killed_training_worker(whole, tmp_path, monkeypatch):
    from patentft.train import run as training

    values = begun(whole, tmp_path, BEFORE_TRAINING)
    values["scorer"]["checkpoint_seconds"] = 0.0  # a checkpoint at every step
    kill_at_fourth_step(training, tmp_path, monkeypatch, (0,))
    pipeline.run(pipeline.parse(values), QUIET)
    assert (tmp_path / "killed-0").exists()
    assert weights(tmp_path) == weights(whole[0])
    assert trajectory(tmp_path) == trajectory(whole[0])
    assert rows(tmp_path) == rows(whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [{"kind": "ddp"}, {"kind": "fsdp"}, {"kind": "deepspeed", "zero": 2}])
def test_one_and_all_of_two_training_workers_killed(whole, tmp_path, monkeypatch, strategy):
    from patentft.train import run as training

    keys = {"workers": 2, "cpus_per_worker": 0.9, "checkpoint_seconds": 0.0, "strategy": strategy}
    for name, ranks in (("none", ()), ("one", (1,)), ("all", (0, 1))):
        out = tmp_path / name
        values = begun(whole, out, BEFORE_TRAINING)
        values["scorer"] |= keys
        with monkeypatch.context() as patch:
            kill_at_fourth_step(training, out, patch, ranks)
            pipeline.run(pipeline.parse({name: values[name] for name in ("out", *BEFORE_TRAINING, "scorer")}), QUIET)
        assert len(list(out.glob("killed-*"))) == len(ranks)
        assert weights(out) == weights(tmp_path / "none")
        assert trajectory(out) == trajectory(tmp_path / "none")


DRIVER = """
    import os, signal, sys
    from patentft import pipeline, store
    from patentft.progress import Progress

    config, place = sys.argv[1:]

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    if place == "between stages":           # the scorer's manifest is written, the next stage is not begun
        finish = store.StageFolder.finish
        def dying(self, *arguments):
            manifest = finish(self, *arguments)
            if self.name == "scorer":
                die()
            return manifest
        store.StageFolder.finish = dying
    elif place == "inside scoring":         # all shards are committed, SCORES is not
        write = store.StageFolder.write_part
        def dying(self, table, *arguments):
            if table == "scores":
                die()
            return write(self, table, *arguments)
        store.StageFolder.write_part = dying
    elif place == "in the middle of a write":  # the temporary file of SCORES is written, but not yet renamed
        replace = os.replace
        def dying(source, target):
            if "/scores/scores/part-00000" in str(target):
                die()
            return replace(source, target)
        os.replace = dying
    elif place == "inside training":        # by a worker, after its second checkpoint
        from patentft.train import run as training
        original, driver = training._worker_main, os.getpid()
        def killing(given):
            import ray.train
            report, reported = ray.train.report, []
            def counted(*arguments, **options):
                report(*arguments, **options)
                reported.append(1)
                if len(reported) == 2:
                    os.kill(driver, signal.SIGKILL)
            ray.train.report = counted
            original(given)
        training._worker_main = killing

    pipeline.run(pipeline.load(config), Progress(quiet=True))
"""


DRIVER_PLACES = ("between stages", "inside scoring", "in the middle of a write", "inside training")


@pytest.mark.parametrize("place", sample(DRIVER_PLACES, "in the middle of a write"))
def test_a_killed_driver(whole, tmp_path, place):
    out = tmp_path / "run"
    keep = (*BEFORE_TRAINING, "scorer") if "scoring" in place or "write" in place else BEFORE_TRAINING
    values = begun(whole, out, keep)
    values["scorer"]["checkpoint_seconds"] = 0.0
    config, script = tmp_path / "config.yaml", tmp_path / "driver.py"
    config.write_text(yaml.safe_dump({**values, "cluster": {"address": "local"}}, sort_keys=False))
    script.write_text(textwrap.dedent(DRIVER))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    environment.pop("RAY_ADDRESS", None)
    killed = subprocess.run(
        [sys.executable, script, config, place], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    if place == "inside training":
        assert list((out / "scorer" / "ray_train").glob("*/checkpoint_*"))
    pipeline.run(pipeline.parse(values), QUIET)
    assert weights(out) == weights(whole[0])
    assert trajectory(out) == trajectory(whole[0])
    assert rows(out) == rows(whole[0])
    assert not [path for path in out.rglob("*.tmp")]
