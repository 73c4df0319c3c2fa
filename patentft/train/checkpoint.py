"""Resume checkpoints: a folder that every rank adds its files to.

progress.json           the next step, the best metric, the history, the world size that wrote it    rank 0
best.safetensors        the trainable parameters of the best evaluation so far (with keep: best)      rank 0
trained.safetensors     those of the last step, whole; in the run's last checkpoint                   rank 0
checksums-00000.json    SHA-256 of every file that the rank wrote                                      every rank
and what the strategy writes: safetensors and JSON, but for DeepSpeed, whose files are pickles.

A checkpoint is read from the run's own storage only (no key of a config names one), and nothing in it is opened before
every checksum was found right: a damaged or foreign pickle is not loaded.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from patentft.config import ConfigError
from patentft.train.place import Place
from patentft.train.strategies.table import Strategy

REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""What a disk or a store says of room and rights: another try would be told the same."""
REFUSALS = (*map(os.strerror, REFUSED), "PytorchStreamWriter failed writing", "unexpected pos")
"""The same in errors of safetensors, which repeats the system's words, and of torch.save, which has its own."""


@contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Raises ConfigError "<what> (<the error>): <remedy>" where room or rights were refused; else the error itself."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) not in REFUSED and not any(words in str(error) for words in REFUSALS):
            raise
        raise ConfigError(f"{what} ({error}): {remedy}") from error


@dataclass
class Progress:
    """Where a run stands."""

    next_step: int = 0
    best_metric: float | None = None
    best_step: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    world_size: int = 1
    """Of the workers that wrote it."""


def read_progress(folder: Path) -> Progress:
    return Progress(**json.loads((folder / "progress.json").read_text()))


def save(
    folder: Path,
    strategy: Strategy,
    progress: Progress,
    best: dict[str, torch.Tensor] | None,
    place: Place,
    *,
    final: bool,
) -> None:
    """Write this rank's files into an empty `folder`. All ranks call it; the caller commits the folders as one."""
    strategy.save(folder)
    trained = strategy.trained() if final else None
    if place.rank == 0:
        if best is not None:
            save_file(best, folder / "best.safetensors")
        if trained is not None:
            save_file(trained, folder / "trained.safetensors")
        progress.world_size = place.world_size
        (folder / "progress.json").write_text(json.dumps(asdict(progress)))
    seal(folder, place.rank)


def seal(folder: Path, rank: int) -> None:
    """Write the checksums of this rank's files, which are all that is in the folder."""
    sums = {path.relative_to(folder).as_posix(): _sha256(path) for path in folder.rglob("*") if path.is_file()}
    (folder / f"checksums-{rank:05d}.json").write_text(json.dumps(sums))


def load(folder: Path, strategy: Strategy, place: Place) -> tuple[Progress, dict[str, torch.Tensor] | None]:
    """Put a checkpoint back into the strategy; returns the progress and the best parameters so far (on rank 0).

    Raises ConfigError for one that is damaged, or that another world size wrote and this strategy cannot divide anew.
    """
    verify(folder)
    progress = read_progress(folder)
    if progress.world_size != place.world_size and not strategy.any_world_size:
        raise ConfigError(
            f"the checkpoint was written by {progress.world_size} workers and DeepSpeed cannot divide it among "
            f"{place.world_size}: set workers: {progress.world_size}, or begin anew with --redo"
        )
    strategy.load(folder)
    best_file = folder / "best.safetensors"
    return progress, load_file(best_file) if best_file.exists() and place.rank == 0 else None


def verify(folder: Path) -> None:
    """Raises ConfigError unless every rank wrote its list, and every file is on one and as it was written."""
    listed: dict[str, str] = {}
    lists = sorted(folder.glob("checksums-*.json"))
    for path in lists:
        listed |= json.loads(path.read_text())
    there = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(("checksums-", "."))
    }
    odd = sorted(there ^ listed.keys()) or [name for name, sha in listed.items() if _sha256(folder / name) != sha]
    if not odd and "progress.json" in listed:
        wrote = read_progress(folder).world_size
        odd = [] if len(lists) == wrote else [f"{wrote} workers wrote it, {len(lists)} of their parts are there"]
    if odd or "progress.json" not in listed:
        raise ConfigError(
            f"checkpoint {folder} is damaged: {odd[0] if odd else 'its checksums are missing'}; nothing of it was "
            f"loaded. Delete this folder to go on from the checkpoint before it, or begin anew with --redo"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
