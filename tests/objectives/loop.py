"""The training loop in this process, on data that is encoded already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from patentft.objectives.encoded import Encoded, SpecialTokens
from patentft.train import worker
from patentft.train.config import TrainConfig
from patentft.train.place import Place


def history(
    config: TrainConfig, model: str, train: Encoded, valid: Encoded, rank: int = 0, world_size: int = 1
) -> list[dict[str, Any]]:
    """What the evaluations of the run found, first to last; empty on other ranks than 0."""
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []

    def report(metrics: dict[str, Any], checkpoint: Path) -> None:
        if rank == 0:
            found[:] = json.loads((checkpoint / "progress.json").read_text())["history"]
        shutil.rmtree(checkpoint)

    hooks = worker.Hooks(Place(rank, world_size, torch.device("cpu")), report, None, lambda line: None)
    tokens = SpecialTokens.of(AutoTokenizer.from_pretrained(model))
    worker.train(config, model, worker.Data(train, valid, tokens), hooks)
    return found
