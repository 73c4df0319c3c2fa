"""Every strategy, at two ranks, must learn what one process learns, and go on from its checkpoint exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from patentft.config import ConfigError, build
from patentft.corpus.texts.pack import packed_table
from patentft.objectives.encoded import SpecialTokens
from patentft.objectives.packed import ArrayRows
from patentft.train import checkpoint, worker
from patentft.train.config import TrainConfig
from patentft.train.place import Place
from tests.group import Group
from tests.tiny import save_tiny_llama

TEXTS = [np.random.default_rng(n).integers(5, 90, 3 + 7 * n % 23).astype(np.int32) for n in range(22)]
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "fsdp kept": {"kind": "fsdp", "reshard_after_forward": False},
    "zero 1": {"kind": "deepspeed", "zero": 1},
    "zero 2": {"kind": "deepspeed", "zero": 2},
    "zero 3": {"kind": "deepspeed", "zero": 3},
}


def rows() -> ArrayRows:
    table = packed_table([[TEXTS[2 * n], TEXTS[2 * n + 1]] for n in range(11)], 64, 0)
    return ArrayRows(*(np.stack(table[name].to_numpy()).astype(np.int32) for name in ("input_ids", "segment_ids")))


def settings(**changes) -> TrainConfig:
    values = {
        "packed": "p", "packed_valid": "v", "model": "m", "objective": {"kind": "causal"}, "epochs": 2,
        "optimizer": {"lr": 3e-3, "epsilon": 1e-4, "clip_norm": 0.5},
        # 5 rows a step and 2 a micro-batch: the ranks have 3 and 2, so 2 micro-batches and 1
        "units_per_step": 5, "micro_batch_tokens": 128, "checkpoint_seconds": 1e9,
    }  # fmt: skip
    return build(TrainConfig, {**values, **changes})


def run(rank: int, world: int, folder: str, tiny: str, config: TrainConfig, latest: str | None) -> None:
    """Every checkpoint becomes <folder>/<step>, the files of all ranks in one folder."""

    def report(metrics, mine):
        shutil.copytree(mine, Path(folder) / f"{metrics['step']:04d}", dirs_exist_ok=True)
        shutil.rmtree(mine)
        if world > 1:
            dist.barrier()

    place = Place(rank, world, torch.device("cpu"))
    hooks = worker.Hooks(place, report, Path(latest) if latest else None, lambda line: None)
    worker.train(config, tiny, worker.Data(rows(), rows(), SpecialTokens()), hooks)


def trained(group: Group | None, folder: Path, tiny: str, config: TrainConfig, latest: Path | None = None) -> Path:
    """Run it in the group, or here; the folder of the last checkpoint."""
    folder.mkdir()
    arguments = (str(folder), tiny, config, str(latest) if latest else None)
    if group is None:
        run(0, 1, *arguments)
    else:
        group.run(run, *arguments)
    return max(folder.iterdir())


@pytest.fixture
def group_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """FSDP and DeepSpeed want a process group even for one."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def difference(one: Path, two: Path) -> float:
    a, b = (load_file(folder / "trained.safetensors") for folder in (one, two))
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def alone(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(None, tmp_path_factory.mktemp("alone") / "run", tiny, settings())


@pytest.mark.parametrize("name", STRATEGIES)
def test_two_ranks_learn_what_one_learns_and_go_on_exactly(
    name: str, group: Group, tiny: str, alone: Path, tmp_path: Path
) -> None:
    config = settings(strategy=STRATEGIES[name])
    last = trained(group, tmp_path / "whole", tiny, config)
    assert difference(last, alone) < 2e-5
    first = min((tmp_path / "whole").iterdir())
    assert first != last
    again = trained(group, tmp_path / "again", tiny, config, first)
    assert difference(last, again) == 0
    histories = [json.loads((folder / "progress.json").read_text())["history"] for folder in (last, again)]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("kind", ["adamw_8bit", "paged_adamw_8bit"])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_zero_divides_moments_of_8_bits(group: Group, tiny: str, tmp_path: Path, zero: int, kind: str) -> None:
    config = settings(strategy={"kind": "deepspeed", "zero": zero}, optimizer={"kind": kind, "lr": 3e-3})
    last = trained(group, tmp_path / "whole", tiny, config)
    again = trained(group, tmp_path / "again", tiny, config, min((tmp_path / "whole").iterdir()))
    assert difference(last, again) == 0
    histories = [json.loads((folder / "progress.json").read_text())["history"] for folder in (last, again)]
    assert histories[0] == histories[1]
    assert histories[0][-1]["log_likelihood"] > histories[0][0]["log_likelihood"]


def test_shards_go_to_another_world_size(group: Group, group_of_one: None, tiny: str, tmp_path: Path) -> None:
    config = settings(strategy={"kind": "fsdp"})
    last = trained(group, tmp_path / "whole", tiny, config)
    again = trained(None, tmp_path / "again", tiny, config, min((tmp_path / "whole").iterdir()))
    assert difference(last, again) < 2e-5


def test_zero_refuses_another_world_size(group: Group, group_of_one: None, tiny: str, tmp_path: Path) -> None:
    config = settings(strategy={"kind": "deepspeed", "zero": 2}, epochs=1)
    last = trained(group, tmp_path / "whole", tiny, config)
    with pytest.raises(
        ConfigError, match=r"written by 2 workers and DeepSpeed cannot divide it among 1: set workers: 2"
    ):
        trained(None, tmp_path / "again", tiny, config, last)


def test_a_damaged_checkpoint_is_not_opened(alone: Path, tmp_path: Path) -> None:
    for spoil in ("changed", "missing", "foreign", "unlisted", "a rank missing"):
        folder = tmp_path / spoil
        shutil.copytree(alone, folder)
        checkpoint.verify(folder)
        file = folder / "optimizer.safetensors"
        if spoil == "changed":
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(bytes(data))
        elif spoil == "missing":
            file.unlink()
        elif spoil == "foreign":
            (folder / "extra.pt").write_bytes(b"\x80\x04.")
        elif spoil == "a rank missing":
            progress = json.loads((folder / "progress.json").read_text())
            (folder / "progress.json").write_text(json.dumps({**progress, "world_size": 2}))
            (folder / "checksums-00000.json").unlink()
            checkpoint.seal(folder, 0)
        else:
            (folder / "checksums-00000.json").unlink()
        with pytest.raises(ConfigError, match="is damaged"):
            checkpoint.verify(folder)
