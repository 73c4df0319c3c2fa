"""Packed rows must learn and predict as their texts would alone, whatever the packing, the world size or a restart."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from patentft.config import ConfigError, build
from patentft.corpus.texts.pack import packed_table
from patentft.location import Location
from patentft.objectives import causal
from patentft.objectives.causal import CausalConfig
from patentft.objectives.encoded import SpecialTokens
from patentft.objectives.packed import IGNORED, ArrayRows, attention_mask, positions
from patentft.store import open_stage
from patentft.train import packed, worker
from patentft.train.config import TrainConfig
from patentft.train.place import Place
from tests.group import Group
from tests.tiny import save_tiny_llama

CONFIG = CausalConfig()
TEXTS = [np.random.default_rng(n).integers(5, 90, 3 + 7 * n % 23).astype(np.int32) for n in range(24)]


def rows_of(rows: list[list[int]], tokens_per_row: int) -> ArrayRows:
    """Packed rows of the texts with these numbers."""
    table = packed_table([[TEXTS[n] for n in row] for row in rows], tokens_per_row, 0)
    return ArrayRows(*(np.stack(table[name].to_numpy()).astype(np.int32) for name in ("input_ids", "segment_ids")))


def alone() -> ArrayRows:
    return rows_of([[n] for n in range(24)], 64)


def together() -> ArrayRows:
    return rows_of([[n, n + 8, n + 16] for n in range(8)], 80)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


def batch_of(rows: ArrayRows) -> dict[str, torch.Tensor]:
    return causal.collate(rows, causal.units(rows, CONFIG, 0, 0), SpecialTokens())


def test_logits_of_a_packed_text_are_those_of_the_text_alone(tiny: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    batch = batch_of(together())
    with torch.inference_mode():
        packed_logits = causal.wrap(model, CONFIG)(batch)
        for row in range(8):
            for segment, text in enumerate((row, row + 8, row + 16), start=1):
                own = model(input_ids=torch.from_numpy(TEXTS[text].astype(np.int64))[None]).logits[0]
                there = packed_logits[row][batch["segment_ids"][row] == segment]
                torch.testing.assert_close(there, own, atol=2e-5, rtol=1e-4)


def test_loss_and_gradient_are_those_of_padded_texts(tiny: str) -> None:
    found = []
    for rows in (alone(), together()):
        module = worker.build(settings(), tiny)
        total, count, _ = causal.loss(module, batch_of(rows), CONFIG)
        (total / count).backward()
        assert float(count) == causal.weight(batch_of(rows), CONFIG)
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        found.append((float(count), float(total.detach()), gradients))
    assert found[0][0] == found[1][0] == sum(len(text) - 1 for text in TEXTS)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)
    for name, gradient in found[0][2].items():
        torch.testing.assert_close(gradient, found[1][2][name], atol=1e-6, rtol=1e-3)


def test_no_label_crosses_a_border_and_padding_has_none() -> None:
    batch = batch_of(together())
    labels, ids, segments = batch["labels"], batch["input_ids"], batch["segment_ids"]
    for row in range(len(ids)):
        for place in range(ids.shape[1]):
            follows = place + 1 < ids.shape[1] and segments[row, place + 1] == segments[row, place] > 0
            assert labels[row, place] == (ids[row, place + 1] if follows else IGNORED)


def test_positions_and_mask() -> None:
    segments = np.array([[1, 1, 1, 2, 2, 0, 0]])
    assert positions(segments).tolist() == [[0, 1, 2, 0, 1, 0, 0]]
    mask = attention_mask(torch.from_numpy(segments), causal=True)[0, 0]
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1, 1],
    ]
    assert attention_mask(torch.from_numpy(segments), causal=False)[0, 0, 0].int().tolist() == [1, 1, 1, 0, 0, 0, 0]


def test_rows_of_padding_are_no_units() -> None:
    assert [unit.rows for unit in causal.units(rows_of([[0], [], [3]], 64), CONFIG, 0, 0)] == [(0,), (2,)]


def test_mapped_rows_are_the_packed_table(tmp_path: Path) -> None:
    source = open_stage(Location(tmp_path / "packed"), "pack", {}, {})
    for part in range(3):
        texts = [[TEXTS[4 * part + row]] for row in range(4)]
        source.write_part("packed", part, packed_table(texts, 32, 0))
    source.finish({})
    folder = open_stage(Location(tmp_path / "train"), "train", {}, {})
    assert list(packed.write(source, folder, "train", 90)) == [0, 1, 2]
    rows = packed.MappedRows(folder.location, "train", tmp_path)
    wanted = rows_of([[n] for n in range(12)], 32)
    assert (rows.num_rows, rows.tokens_per_row) == (12, 32)
    assert rows.num_tokens.tolist() == wanted.num_tokens.tolist()
    assert rows.num_segments.tolist() == wanted.num_segments.tolist()
    for index in range(12):
        for mine, other in zip(rows.row(index), wanted.row(index), strict=True):
            assert mine.tolist() == other.tolist()
    with pytest.raises(ConfigError, match=r"holds token \d+, the model knows 50: tokenize with the model's own"):
        list(packed.write(source, folder, "valid", 50))


# The loop


def settings(**changes) -> TrainConfig:
    values = {
        "packed": "p", "packed_valid": "v", "model": "m", "objective": {"kind": "causal"}, "optimizer": {"lr": 3e-3},
        "epochs": 2, "units_per_step": 4, "evaluations_per_epoch": 1, "checkpoint_seconds": 1e9,
    }  # fmt: skip
    return build(TrainConfig, {**values, **changes})


def run(folder: str, tiny: str, config: TrainConfig, rank: int = 0, world: int = 1, latest: str | None = None) -> None:
    torch.set_num_threads(1)

    def report(metrics, checkpoint):
        shutil.copytree(checkpoint, Path(folder) / f"{metrics['step']:04d}", dirs_exist_ok=True)
        shutil.rmtree(checkpoint)

    place = Place(rank, world, torch.device("cpu"))
    hooks = worker.Hooks(place, report, Path(latest) if latest else None, lambda line: None)
    worker.train(config, tiny, worker.Data(together(), alone(), SpecialTokens()), hooks)


def run_in_group(rank: int, world: int, folder: str, tiny: str, config: TrainConfig) -> None:
    run(folder, tiny, config, rank, world)


def final(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(max(path for path in folder.iterdir() if path.is_dir()) / "state.safetensors")


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_micro_batches_and_world_size_do_not_move_the_result_and_it_learns(
    group: Group, tiny: str, tmp_path: Path
) -> None:
    import json

    for name in ("one", "small", "two"):
        (tmp_path / name).mkdir()
    run(str(tmp_path / "one"), tiny, settings(optimizer={"lr": 3e-3, "epsilon": 1e-4}, micro_batch_tokens=400))
    run(str(tmp_path / "small"), tiny, settings(optimizer={"lr": 3e-3, "epsilon": 1e-4}, micro_batch_tokens=80))
    assert difference(final(tmp_path / "one"), final(tmp_path / "small")) < 2e-5
    group.run(run_in_group, str(tmp_path / "two"), tiny, settings(optimizer={"lr": 3e-3, "epsilon": 1e-4}))
    assert difference(final(tmp_path / "one"), final(tmp_path / "two")) < 2e-5
    history = json.loads((max((tmp_path / "one").iterdir()) / "progress.json").read_text())["history"]
    assert history[-1]["perplexity"] < history[0]["perplexity"]


def test_a_resumed_run_is_bit_equal(tiny: str, tmp_path: Path) -> None:
    config = settings(adapter={"kind": "lora", "rank": 4}, dropout=0.1)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    run(str(tmp_path / "one"), tiny, config)
    first, last = sorted(path.name for path in (tmp_path / "one").iterdir())
    run(str(tmp_path / "two"), tiny, config, latest=str(tmp_path / "one" / first))
    assert difference(final(tmp_path / "one"), load_file(tmp_path / "two" / last / "state.safetensors")) == 0


def test_what_an_objective_learns_from_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"objective causal learns from packed, packed_valid; set packed_valid"):
        settings(packed_valid=None)
    with pytest.raises(ConfigError, match=r"not from pairs; leave that out"):
        settings(pairs="p")
    with pytest.raises(ConfigError, match=r"learns from data, roles, pairs, techniques; set data, roles"):
        settings(objective={"kind": "rank"}, packed=None, packed_valid=None)
