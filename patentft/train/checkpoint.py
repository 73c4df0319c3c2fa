"""Resume checkpoints as safetensors and JSON: nothing in them can run code.

state.safetensors       the trainable parameters
best.safetensors        those of the best evaluation so far (with keep: best)
optimizer.safetensors   AdamW's two moments and step count, by parameter number
progress.json           the next step, the best metric, the history
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from patentft.models.adapters.state import load_trainable_state, trainable_state


@dataclass
class Progress:
    """Where a run stands."""

    next_step: int = 0
    best_metric: float | None = None
    best_step: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


def save(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    best: dict[str, torch.Tensor] | None,
) -> None:
    """Write a checkpoint into an empty `folder`; the caller commits the folder as a whole."""
    save_file(trainable_state(module), folder / "state.safetensors")
    if best is not None:
        save_file(best, folder / "best.safetensors")
    moments = {
        f"{index}.{name}": value.detach().cpu().contiguous().reshape(value.shape)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    save_file(moments, folder / "optimizer.safetensors")
    (folder / "progress.json").write_text(json.dumps(asdict(progress)))


def load(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, torch.Tensor] | None]:
    """Put a checkpoint back into `module` and `optimizer`; returns the progress and the best parameters so far."""
    load_trainable_state(module, load_file(folder / "state.safetensors"))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    whole = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
    progress = Progress(**json.loads((folder / "progress.json").read_text()))
    best_file = folder / "best.safetensors"
    return progress, load_file(best_file) if best_file.exists() else None
