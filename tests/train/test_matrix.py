"""Every combination that the table calls ok trains; its export loads; padding does not change what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from patentft.config import ConfigError
from patentft.models.load import load_trained
from patentft.train import check
from patentft.train.export import write_export
from tests.group import Group
from tests.train import cells

Cell = tuple[str, dict[str, Any], dict[str, Any], str, dict[str, Any]]
OK: list[Cell] = [cell[:5] for cell in check.cells() if cell[5] is None]


def name_of(cell: Cell) -> str:
    family, objective, adapter, column, _ = cell
    return "-".join([family, *map(str, objective.values()), adapter["kind"], column.replace(" ", "")])


def covering(chosen: list[Cell]) -> list[Cell]:
    """Few cells in which every possible pair of objective and family, adapter and family, adapter and strategy occurs.

    Greedy; `make test-slow` trains them all.
    """

    def pairs(cell: Cell) -> set[tuple[Any, ...]]:
        family, objective, adapter, column, _ = cell
        return {(json.dumps(objective), family), (adapter["kind"], family), (adapter["kind"], column)}

    missing = set().union(*(pairs(cell) for cell in chosen))
    found = []
    while missing:
        best = max(chosen, key=lambda cell: len(pairs(cell) & missing))
        found.append(best)
        missing -= pairs(best)
    return found


COVERING = [name_of(cell) for cell in covering(OK)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return cells.save_models(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize(
    "cell",
    [pytest.param(cell, id=name_of(cell), marks=[] if name_of(cell) in COVERING else pytest.mark.slow) for cell in OK],
)
def test_what_is_ok_learns_and_leaves(cell: Cell, models: dict[str, str], group: Group, tmp_path: Path) -> None:
    family, objective, adapter, _, strategy = cell
    group.run(cells.run, (objective, adapter, strategy), models[family], str(tmp_path))
    losses = [float(line) for line in (tmp_path / "losses.txt").read_text().split()]
    assert len(losses) == cells.STEPS
    assert sum(losses[-2:]) / 2 < losses[0]
    config, data = cells.data_of(cells.config_of(objective, adapter, strategy), models[family], tmp_path)
    out = tmp_path / "export"
    out.mkdir()
    trained = load_file(tmp_path / "trained.safetensors")
    card, use, _ = write_export(config, models[family], trained, out, data.tokenizer)
    assert use
    model: Any = load_trained(str(out), getattr(transformers, card.auto_class))
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    texts = ["the dust of a furnace", "the acid of a filter in the gas of a furnace and the water"]
    together = outputs(model, tokenizer, texts)
    for text, theirs in zip(texts, together, strict=True):
        torch.testing.assert_close(outputs(model, tokenizer, [text])[0], theirs, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def outputs(model: Any, tokenizer: Any, texts: list[str]) -> list[torch.Tensor]:
    """Of each text, at its own tokens."""
    tokenizer.padding_side = "right"
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]
    if found.ndim == 2:
        return list(found)
    found = found[:, found.shape[1] - batch["input_ids"].shape[1] :]  # virtual tokens come first
    return [row[mask.bool()] for row, mask in zip(found, batch["attention_mask"], strict=True)]


def test_every_refusal_says_what_works_instead() -> None:
    reasons = {cell[5] for cell in check.cells() if cell[5]}
    assert all("choose" in reason or "set" in reason for reason in reasons), reasons


def test_a_refused_run_names_its_stage() -> None:
    config = cells.config_of({"kind": "masked"}, {"kind": "lora"}, {"kind": "ddp"})
    with pytest.raises(ConfigError, match=r"stage model: objective masked trains an encoder, llama is a decoder"):
        check.check(config, "llama", "model")
