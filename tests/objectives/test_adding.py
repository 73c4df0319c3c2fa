"""The objective of docs/adding-an-objective.md, as it stands on the page."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from patentft.config import build
from patentft.models.backbone import Loading
from patentft.objectives.encoded import SpecialTokens
from patentft.objectives.packed import ArrayRows
from patentft.objectives.table import OBJECTIVES
from patentft.train.config import TrainConfig
from tests.conftest import REPOSITORY
from tests.tiny import save_tiny_llama

PAGE = REPOSITORY / "docs" / "adding-an-objective.md"


@pytest.fixture
def objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The page's file, imported, and known as "continuation"."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file = tmp_path / "continuation.py"
    file.write_text(block)
    spec = importlib.util.spec_from_file_location("continuation", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "continuation", module)  # its annotations are texts: they are looked up there
    spec.loader.exec_module(module)
    monkeypatch.setitem(OBJECTIVES, "continuation", module)
    return module


def rows_of(num_rows: int = 24, tokens: int = 24) -> ArrayRows:
    """Two texts a row, of tokens that rise by one: the next token can be learned."""
    ids = np.zeros((num_rows, tokens), np.int32)
    segments = np.zeros_like(ids)
    draw = np.random.default_rng(0)
    for row in range(num_rows):
        cut = int(draw.integers(6, 16))
        for number, (first, last) in enumerate(((0, cut), (cut, tokens - 2)), start=1):
            ids[row, first:last] = 10 + (draw.integers(40) + np.arange(last - first)) % 40
            segments[row, first:last] = number
    return ArrayRows(ids, segments)


def test_loss(objective: ModuleType, tmp_path: Path) -> None:
    """It equals a slow reference, text by text, and two batches sum to one."""
    torch.manual_seed(0)
    (tmp_path / "llama").mkdir()
    config = objective.ContinuationConfig(given=0.5)
    folder = save_tiny_llama(tmp_path / "llama")
    module = objective.wrap(objective.build(folder, config, Loading()), config).eval()
    rows = rows_of(4)
    units = list(objective.units(rows, config, 0, 0))
    batch = objective.collate(rows, units, SpecialTokens())
    total, count, _ = objective.loss(module, batch, config)
    assert float(count) == objective.weight(batch, config)
    expected, learned = 0.0, 0
    for row in range(4):
        for number in (1, 2):
            ids = torch.tensor(rows.input_ids[row][rows.segment_ids[row] == number], dtype=torch.int64)
            scores = torch.log_softmax(objective.backbone(module)(input_ids=ids[None]).logits[0], -1)
            for place in range(len(ids) - 1):
                if place / len(ids) >= 0.5:
                    expected -= scores[place, ids[place + 1]].item()
                    learned += 1
    assert learned == float(count)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    halves = [objective.collate(rows, part, SpecialTokens()) for part in (units[:2], units[2:])]
    assert sum(objective.loss(module, half, config)[0].item() for half in halves) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("adapter", [{"kind": "full"}, {"kind": "lora", "rank": 8}])
def test_trains(objective: ModuleType, adapter: dict[str, Any], tmp_path: Path) -> None:
    """The loop takes it as it takes the others; the log-likelihood of the valid side rises."""
    from tests.objectives.loop import history

    (tmp_path / "llama").mkdir()
    folder = save_tiny_llama(tmp_path / "llama")
    values = {
        "packed": "a", "packed_valid": "b", "model": "m", "objective": {"kind": "causal"}, "adapter": adapter,
        "optimizer": {"lr": 1e-2}, "epochs": 6, "units_per_step": 8,
    }  # fmt: skip
    config = build(TrainConfig, values).model_copy(update={"objective": objective.ContinuationConfig()})
    found: Any = history(config, folder, rows_of(48), rows_of(8))  # pyright: ignore[reportArgumentType]
    assert found[-1]["log_likelihood"] > found[0]["log_likelihood"]
