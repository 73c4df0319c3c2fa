"""What a run tells while it goes: a line for every step in steps.jsonl, and TensorBoard, MLflow or W&B.

steps/000000120.jsonl holds the steps from 120 to the next checkpoint, committed just before it; a run that goes on
after step s first removes the files of later steps. So every step stands there once, whatever died in between.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from patentft.config import ConfigError
from patentft.location import Location

Service = Literal["tensorboard", "mlflow", "wandb"]


class Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def commit(self) -> None:
        """Just before a checkpoint: what was logged must outlive this process."""
        ...

    def close(self, *, failed: bool) -> None:
        """Once, at the end: everything that was logged must be shown, and whether the run ended by an error."""
        ...


@contextmanager
def closing(trackers: Sequence[Tracker]) -> Iterator[None]:
    """Close them at the end, whatever ends it."""
    try:
        yield
    except BaseException:
        for tracker in trackers:
            with suppress(Exception):  # the error that ended the run is the one to be shown
                tracker.close(failed=True)
        raise
    for tracker in trackers:
        tracker.close(failed=False)


class StepsFile:
    """Lines of JSON in the stage's folder."""

    def __init__(self, stage: Location, steps_done: int) -> None:
        self._folder, self._lines = stage / "steps", []
        self._lines: list[str]
        self._first: int | None = None
        for name in self._folder.names():
            if name.endswith(".jsonl") and int(name.removesuffix(".jsonl")) > steps_done:
                (self._folder / name).remove_tree()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._first = step if self._first is None else self._first
        self._lines.append(json.dumps({"step": step, **values}))

    def commit(self) -> None:
        if self._lines:
            (self._folder / f"{self._first:09d}.jsonl").commit("".join(f"{line}\n" for line in self._lines).encode())
        self._lines, self._first = [], None

    def close(self, *, failed: bool) -> None:
        self.commit()  # after an error too: the last steps before it say most


def merged_steps(stage: Location) -> bytes:
    """All lines of a run in the order of its steps."""
    folder = stage / "steps"
    lines = [
        json.loads(line)
        for name in sorted(folder.names())
        for line in (folder / name).read_bytes().splitlines()
        if line
    ]
    by_step = {line["step"]: line for line in lines}
    return "".join(f"{json.dumps(by_step[step])}\n" for step in sorted(by_step)).encode()


class TensorBoard:
    """Event files in <stage>/tensorboard: `tensorboard --logdir` shows them."""

    def __init__(self, stage: Location, steps_done: int) -> None:
        from tensorboardX import SummaryWriter

        self._target = stage / "tensorboard"
        self._scratch: Any = None
        if stage.is_local:
            folder = self._target.path
        else:  # event files are appended to, which an object store cannot: written here, copied at every checkpoint
            self._scratch = tempfile.TemporaryDirectory()
            folder = self._scratch.name
        # purge_step: TensorBoard hides what a dead predecessor logged from there on; the first step is 1. The suffix: a
        # file is named by host and second, and one of that name would be overwritten
        purge_step = steps_done + 1 if steps_done else None
        self._writer = SummaryWriter(folder, purge_step=purge_step, filename_suffix=f".{steps_done}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def commit(self) -> None:
        self._writer.flush()
        if self._scratch is not None:
            for path in Path(self._scratch.name).iterdir():
                (self._target / path.name).commit(path.read_bytes())

    def close(self, *, failed: bool) -> None:
        self._writer.close()
        if self._scratch is not None:
            self.commit()
            self._scratch.cleanup()


class Mlflow:
    """MLflow, at MLFLOW_TRACKING_URI or in the folder <stage>/mlruns.

    A folder, though MLflow wants to be asked for one: for a database mlflow-skinny lacks the driver.
    """

    def __init__(self, stage: Location, run_name: str, config: Mapping[str, Any]) -> None:
        try:
            import mlflow
        except ImportError:
            raise ConfigError("track: mlflow is not installed: pip install patentft[track]") from None
        import os

        if not os.environ.get("MLFLOW_TRACKING_URI"):
            if not stage.is_local:
                raise ConfigError("track: mlflow needs MLFLOW_TRACKING_URI when the run is on an object store")
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
            mlflow.set_tracking_uri(Path(stage.path, "mlruns").as_uri())
        self._mlflow = mlflow
        mlflow.set_experiment("patentft")
        found = mlflow.search_runs(filter_string=f"tags.patentft_run = '{run_name}'", output_format="list")
        if found:  # a run that goes on
            mlflow.start_run(run_id=found[0].info.run_id)
        else:
            mlflow.start_run(run_name=run_name, tags={"patentft_run": run_name})
            mlflow.log_params({name: str(value)[:500] for name, value in config.items()})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def commit(self) -> None:
        pass  # each call was sent

    def close(self, *, failed: bool) -> None:
        self._mlflow.end_run("FAILED" if failed else "FINISHED")


class Wandb:
    """Weights & Biases; WANDB_API_KEY and WANDB_MODE are its own. Without a key it is kept offline in the stage."""

    def __init__(self, stage: Location, run_name: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise ConfigError("track: wandb is not installed: pip install patentft[track]") from None
        import os

        if not stage.is_local and "WANDB_DIR" not in os.environ:
            raise ConfigError("track: wandb needs WANDB_DIR, a local folder, when the run is on an object store")
        folder = os.environ.get("WANDB_DIR", stage.path)
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        self._run = wandb.init(
            project="patentft", id=run_name, name=run_name, resume="allow", dir=folder, mode=mode, config=dict(config)
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def commit(self) -> None:
        pass  # its own process sends

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))  # waits until all is sent, or written


def trackers(
    services: list[Service], stage: Location, run_name: str, config: Mapping[str, Any], steps_done: int
) -> list[Tracker]:
    """Of rank 0. steps.jsonl is always written. run_name: the same for a run that goes on. config: flat."""
    made: list[Tracker] = [StepsFile(stage, steps_done)]
    for service in services:
        if service == "tensorboard":
            made.append(TensorBoard(stage, steps_done))
        elif service == "mlflow":
            made.append(Mlflow(stage, run_name, config))
        else:
            made.append(Wandb(stage, run_name, config))
    return made
