"""The driver of a training run: tokenize once, start Ray Train, export the best weights.

    PAIRS + texts -> encoded/{train,valid}.safetensors (committed) -> TorchTrainer(worker.train) -> checkpoints in
    <stage>/ray_train/<name> -> export/ (a Hugging Face folder, its card, the adapter), committed file by file

The run's name is made of the config hash: the same stage started again, by a new driver after a kill or by Ray after a
worker's death, goes on from its last checkpoint, and a changed config can never pick up another's.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import (
    CheckpointConfig,
    CheckpointUploadMode,
    FailureConfig,
    LoggingConfig,
    Result,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchTrainer, get_device

from patentft.cluster import require
from patentft.config import ConfigError, build, flatten
from patentft.location import Location
from patentft.models.load import local_folder, model_type, resolve
from patentft.objectives.encoded import Encoded, SpecialTokens
from patentft.objectives.table import OBJECTIVES
from patentft.stage import Context, Stage
from patentft.train import check, checkpoint, packed, tracking, worker
from patentft.train import tokenizer as run_tokenizer
from patentft.train.config import TrainConfig
from patentft.train.data import LOADERS
from patentft.train.export import export_model
from patentft.train.place import Place
from patentft.train.scratch import scratch_folder

FINAL = (ConfigError, FloatingPointError)
"""Errors of a worker that the next worker would meet too: the run ends at once."""


def run(config: TrainConfig, context: Context) -> dict[str, Any]:
    """Train and export. Returns the counts for the manifest: rows, what was cut, the history and the best metric."""
    if context.folder.has_file("export/README.md") and context.folder.has_file("training.json"):
        _remove_working_folders(context)
        return json.loads((context.folder.location / "training.json").read_bytes())  # all but the manifest was done
    require(
        config.workers * config.cpus_per_worker,
        config.workers * config.gpus_per_worker,
        f"stage {context.folder.name}",
        "workers, cpus_per_worker or gpus_per_worker",
    )
    base = context.model(config.model)
    check.check(config, model_type(base), context.folder.name)
    encoding = _encode(config, context, base)
    objective: Any = OBJECTIVES[config.objective.kind]
    if hasattr(objective, "settled"):
        config = config.model_copy(update={"objective": objective.settled(config.objective, encoding["train"])})
    result = _fit(config, context, base)
    if result.checkpoint is None:
        raise ConfigError(f"stage {context.folder.name}: training ended without a checkpoint; is the train side empty?")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        progress, measured = export_model(
            config,
            base,
            Path(result.checkpoint.to_directory(str(folder / "checkpoint"))),
            folder / "export",
            context.folder,
        )
        for path in sorted((folder / "export").rglob("*")):
            if path.is_file():
                context.folder.write_file(f"export/{path.relative_to(folder / 'export').as_posix()}", path.read_bytes())
    counts = {
        **encoding,
        "history": progress.history,
        "best_step": progress.best_step,
        "best_metric": progress.best_metric,
        **measured,
    }
    context.folder.write_file("steps.jsonl", tracking.merged_steps(context.folder.location))
    context.folder.write_file("training.json", json.dumps(counts).encode())
    _remove_working_folders(context)
    return counts


def _remove_working_folders(context: Context) -> None:
    """Optimizer moments, and what steps.jsonl now holds: the run is over."""
    for name in ("ray_train", "steps"):
        (context.folder.location / name).remove_tree()


def _encode(config: TrainConfig, context: Context, base: str) -> dict[str, Any]:
    from transformers import AutoTokenizer

    if context.folder.has_file("encoded/counts.json"):
        return json.loads((context.folder.location / "encoded/counts.json").read_bytes())
    objective: Any = OBJECTIVES[config.objective.kind]
    counts: dict[str, Any] = {}
    if config.input == "packed":
        counts = {side: _map_packed(name, side, context, base) for side, name in _packed_stages(config).items()}
    else:
        tokenizer = AutoTokenizer.from_pretrained(local_folder(base), trust_remote_code=False)
        texts = {side: LOADERS[config.input](config, context.inputs, side) for side in ("train", "valid")}
        if hasattr(objective, "prepare_tokenizer"):
            tokenizer = objective.prepare_tokenizer(tokenizer, texts["train"], config.objective)
            run_tokenizer.write(tokenizer, context.folder)
        for side in ("train", "valid"):
            encoded, counts[side] = objective.encode(texts.pop(side), tokenizer, config.objective)
            context.folder.write_file(f"encoded/{side}.safetensors", encoded.to_bytes())
    context.folder.write_file("encoded/counts.json", json.dumps(counts).encode())
    return counts


def _packed_stages(config: TrainConfig) -> dict[str, str]:
    assert config.packed is not None
    assert config.packed_valid is not None
    return {"train": config.packed, "valid": config.packed_valid}


def _map_packed(name: str, side: str, context: Context, base: str) -> dict[str, int]:
    """The packed rows as arrays that the workers can map; returns what the pack stage says of them."""
    from transformers import AutoConfig

    source = context.input(name)
    vocabulary_size = int(AutoConfig.from_pretrained(local_folder(base), trust_remote_code=False).vocab_size)
    for _ in context.progress.bar(
        packed.write(source, context.folder, side, vocabulary_size), len(source.parts("packed")), f"{side}: parts"
    ):
        pass
    assert source.manifest is not None
    return {key: source.manifest.counts[key] for key in ("rows", "tokens", "texts")}


class _EndAtOnce(UserCallback):
    """Ray's controller asks it before a restart, and ends the run by what is raised here."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if isinstance(error, FINAL):
                raise error


def _fit(config: TrainConfig, context: Context, base: str) -> Result:
    """Train. Raises ConfigError with the message of a worker's error that no restart would mend, at once."""
    try:
        return _trainer(config, context, base).fit()
    except TrainingFailedError as error:
        cause = getattr(error, "controller_failure", None)  # of a ControllerError
        if isinstance(cause, FINAL):
            raise ConfigError(f"stage {context.folder.name}: {cause}") from error
        raise RuntimeError(
            f"stage {context.folder.name}: training failed, after {config.max_failures} restarts at most; it goes on "
            f"from its last checkpoint when it is run again. The workers' error:\n{error}"
        ) from error


def _trainer(config: TrainConfig, context: Context, base: str) -> TorchTrainer:
    location = context.folder.location
    storage: dict[str, Any] = {"storage_path": (location / "ray_train").url}
    if not location.is_local:
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        storage = {
            "storage_path": (location / "ray_train").url.split("://", 1)[1],
            "storage_filesystem": PyFileSystem(FSSpecHandler(location.filesystem)),
        }
    resources: dict[str, float] = {"CPU": config.cpus_per_worker}
    if config.gpus_per_worker:
        resources["GPU"] = config.gpus_per_worker
    name = f"{context.folder.kind}-{context.folder.config_hash}"
    return TorchTrainer(
        _worker_main,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "model": base,
            "stage": location.url,
            "quiet": context.progress.quiet,
            "run_name": name,
        },
        scaling_config=ScalingConfig(
            num_workers=config.workers, use_gpu=config.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=name,
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=config.checkpoints_kept),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=[_EndAtOnce()],
            **storage,
        ),
    )


class _Uploads:
    """A rank's checkpoints on their way into the store: one at a time, so that a slow store never fills the worker's
    disk. The next steps run meanwhile."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._copied = threading.Event()
        self._copied.set()

    def busy(self) -> bool:
        return not self._copied.is_set()

    def wait(self) -> None:
        """Until the last one is in the store. Where that fails, Ray ends this process."""
        self._copied.wait()

    def folder(self) -> Path:
        self.wait()
        return Path(tempfile.mkdtemp(prefix="checkpoint-", dir=self._scratch))

    def report(self, metrics: dict[str, Any], folder: Path) -> None:
        copied = threading.Event()

        def upload(written: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
            store: Any = ray.train.get_context().get_storage()
            what = f"cannot write a checkpoint into {store.build_checkpoint_path_from_name(name)}"
            remedy = "free space there (checkpoints_kept: 1 needs least), or mend its rights, and run it again"
            with checkpoint.explained(what, remedy):
                kept = store.persist_current_checkpoint(written, name)
            shutil.rmtree(folder)
            copied.set()
            return kept

        self._copied = copied
        ray.train.report(
            metrics,
            ray.train.Checkpoint.from_directory(str(folder)),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=upload,
        )


def _worker_main(given: dict[str, Any]) -> None:
    """What each Ray Train worker runs: read the arrays, hand over to `worker.train`."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    config = build(TrainConfig, given["config"])
    stage = Location(given["stage"])
    device = get_device()
    assert isinstance(device, torch.device)
    workers = ray.train.get_context()
    place = Place(workers.get_world_rank(), workers.get_world_size(), device)
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(config.cpus_per_worker)))

    def say(line: str) -> None:
        if place.rank == 0 and not given["quiet"]:
            sys.stderr.write(line + "\n")  # not print: Ray Train patches it and shows every line twice
            sys.stderr.flush()

    def begin_tracking(steps_done: int) -> list[tracking.Tracker]:
        return tracking.trackers(config.track, stage, given["run_name"], flatten(given["config"]), steps_done)

    with scratch_folder() as scratch:
        data = _data(config, stage, scratch, given["model"])
        latest = ray.train.get_checkpoint()
        restored = Path(latest.to_directory(str(scratch / "latest"))) if latest else None
        uploads = _Uploads(scratch)
        hooks = worker.Hooks(
            place,
            uploads.report,
            restored,
            say,
            begin_tracking,
            lambda: ray.train.get_preemption_info() is not None,
            uploads.folder,
            uploads.busy,
        )
        try:
            worker.train(config, given["model"], data, hooks)
        except torch.cuda.OutOfMemoryError as error:
            raise RuntimeError(f"{error}\n{_advice(config, given['model'], data, place)}") from error
        uploads.wait()  # the last one is in the scratch folder


def _advice(config: TrainConfig, model: str, data: worker.Data, place: Place) -> str:
    """What would have needed less memory."""
    from patentft.train.sizing import advice

    units = OBJECTIVES[config.objective.kind].units(data.train, config.objective, 0, config.seed)
    longest = max(units, key=lambda unit: unit.tokens)
    torch.cuda.empty_cache()
    try:
        return advice(config, model, longest.tokens // len(longest.rows), place.world_size, len(longest.rows))
    except (ConfigError, RuntimeError, ValueError) as error:
        return f"lower micro_batch_tokens or set activation_checkpointing: true (no estimate: {error})"


def _data(config: TrainConfig, stage: Location, scratch: Path, base: str) -> worker.Data:
    from transformers import AutoTokenizer

    own = run_tokenizer.fetch(stage, scratch)
    tokenizer = AutoTokenizer.from_pretrained(own or local_folder(base), trust_remote_code=False)
    tokens = SpecialTokens.of(tokenizer, getattr(config.objective, "mask_token", None))
    sides: list[Any] = []
    for side in ("train", "valid"):
        if config.input == "packed":
            sides.append(packed.MappedRows(stage, side, scratch))
        else:
            sides.append(Encoded.from_bytes((stage / f"encoded/{side}.safetensors").read_bytes()))
    return worker.Data(*sides, tokens=tokens, tokenizer=own)


def check_stage(config: TrainConfig, name: str, start_of: Callable[[str], str | None]) -> None:
    """Refuse an impossible combination before Ray starts; see `train.check`."""
    start = start_of(config.model)
    if start is not None:
        check.check(config, model_type(resolve(start)), name)


TRAIN = Stage("train", TrainConfig, run, check=check_stage)
