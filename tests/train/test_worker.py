"""The loop without Ray: the result must not depend on packing, world size or an interruption."""

from __future__ import annotations

import contextlib
import errno
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from patentft.config import ConfigError, build
from patentft.objectives.encoded import SpecialTokens
from patentft.objectives.table import OBJECTIVES
from patentft.objectives.texts import PairTexts
from patentft.train import checkpoint, worker
from patentft.train.config import TrainConfig
from patentft.train.place import Place
from tests.tiny import save_tiny_bert
from tests.train.test_tracking import Told

WORDS = ["catalyst", "dust", "water", "gas", "filter", "sludge", "furnace", "acid", "bed", "lime", "membrane", "steam"]


def texts(groups: int) -> PairTexts:
    """Groups of one match and three negatives; the match repeats a word of the section. Lengths differ."""
    rows = []
    for group in range(groups):
        word = WORDS[group % len(WORDS)]
        section = f"{word} {WORDS[(group * 5 + 2) % len(WORDS)]} " * (1 + group % 4)
        rows.append((group, f"T{group % 12}", f"P{group}", section, f"a {word} device " * (1 + group % 3), 1))
        for step in (1, 3, 7):
            other = (group + step) % groups
            rows.append((group, f"T{group % 12}", f"P{other}", section, f"a {WORDS[other % len(WORDS)]} device", 0))
    return PairTexts(
        sections=[row[3] for row in rows],
        patents=[row[4] for row in rows],
        technique_ids=[row[1] for row in rows],
        patent_ids=[row[2] for row in rows],
        label=[row[5] for row in rows],
        group=[row[0] for row in rows],
        weight=[1.0] * len(rows),
        cosine=[0.1 * (row % 5) for row in range(len(rows))],
        similar=frozenset(),
    )


def config(objective: str = "rank", **changes) -> TrainConfig:
    values = {
        "data": "d", "roles": "r", "pairs": "p", "techniques": "t", "model": "m", "objective": {"kind": objective},
        "optimizer": {"lr": 2e-3}, "epochs": 2, "units_per_step": 5, "evaluations_per_epoch": 2,
        "checkpoint_seconds": 1e9,
    }  # fmt: skip
    return build(TrainConfig, {**values, **changes})


def run(
    out: str,
    tiny: str,
    settings: TrainConfig,
    rank: int = 0,
    world: int = 1,
    latest: str | None = None,
    **hooked,
) -> None:
    """Train and keep every checkpoint as <out>/<step>; hooked: of Hooks; runs in spawned processes too."""
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    objective = OBJECTIVES[settings.objective.kind]
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    train, _ = objective.encode(texts(22), tokenizer, settings.objective)
    valid, _ = objective.encode(texts(9), tokenizer, settings.objective)

    def report(metrics, checkpoint):
        shutil.copytree(checkpoint, Path(out) / f"{metrics['step']:04d}", dirs_exist_ok=True)
        shutil.rmtree(checkpoint)

    place = Path(latest) if latest else None
    hooks = worker.Hooks(Place(rank, world, torch.device("cpu")), report, place, lambda line: None, **hooked)
    worker.train(settings, tiny, worker.Data(train, valid, SpecialTokens.of(tokenizer)), hooks)


def run_in_group(rank: int, world: int, folder: str, tiny: str, settings: TrainConfig) -> None:
    run(folder, tiny, settings, rank, world)


def final(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(max(path for path in folder.iterdir() if path.is_dir()) / "state.safetensors")


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(str(folder), tiny, config())
    return folder


def test_training_learns(whole):
    import json

    history = json.loads((max(whole.iterdir()) / "progress.json").read_text())["history"]
    assert history[-1]["loss"] < history[0]["loss"]
    assert [entry["step"] for entry in history] == [2, 5, 7, 10]


def test_a_metric_that_is_no_number_is_never_the_best(tiny, tmp_path, monkeypatch):
    import json

    reached = iter([float("nan"), 0.2, float("nan"), 0.1])
    monkeypatch.setattr(OBJECTIVES["rank"], "metrics", lambda parts, config: {OBJECTIVES["rank"].METRIC: next(reached)})
    run(str(tmp_path), tiny, config())
    progress = json.loads((max(tmp_path.iterdir()) / "progress.json").read_text())
    assert (progress["best_metric"], progress["best_step"]) == (0.2, 5)
    kept = load_file(max(tmp_path.iterdir()) / "best.safetensors")
    assert largest_difference(kept, load_file(tmp_path / "0005" / "state.safetensors")) == 0


def test_micro_batches_do_not_move_the_result(tiny, whole, tmp_path):
    run(str(tmp_path), tiny, config(micro_batch_tokens=60))
    assert largest_difference(final(tmp_path), final(whole)) < 2e-5


@pytest.mark.parametrize("units_per_step", [5, 1])  # 1 unit a step: one of the two ranks has nothing to do
def test_world_size_does_not_move_the_result(group, tiny, tmp_path, units_per_step):
    settings = config(units_per_step=units_per_step, epochs=1)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    run(str(tmp_path / "one"), tiny, settings)
    group.run(run_in_group, str(tmp_path / "two"), tiny, settings)
    assert largest_difference(final(tmp_path / "one"), final(tmp_path / "two")) < 2e-5


@pytest.mark.parametrize("objective", ["rank", "contrastive"])
@pytest.mark.parametrize("adapter", [{"kind": "full", "freeze": ["embeddings"]}, {"kind": "lora", "rank": 4}])
def test_a_resumed_run_is_bit_equal(tiny, tmp_path, objective, adapter):
    settings = config(objective, adapter=adapter, dropout=0.1, micro_batch_tokens=100)
    (tmp_path / "one").mkdir()
    run(str(tmp_path / "one"), tiny, settings)
    steps = sorted(path.name for path in (tmp_path / "one").iterdir())
    (tmp_path / "two").mkdir()
    run(str(tmp_path / "two"), tiny, settings, latest=str(tmp_path / "one" / steps[1]))
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == steps[2:]
    for name in steps[2:]:
        for file in ("state", "best", "optimizer"):
            one, two = (load_file(tmp_path / side / name / f"{file}.safetensors") for side in ("one", "two"))
            assert largest_difference(one, two) == 0, (name, file)


def test_moments_of_8_bits_are_resumed_too(tiny, tmp_path):
    settings = config(optimizer={"kind": "adamw_8bit", "lr": 2e-3})
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    run(str(tmp_path / "one"), tiny, settings)
    first = min((tmp_path / "one").iterdir())
    moments = load_file(first / "optimizer.safetensors")
    assert any(value.dtype == torch.uint8 for name, value in moments.items() if name.endswith(".state1"))
    run(str(tmp_path / "two"), tiny, settings, latest=str(first))
    assert largest_difference(final(tmp_path / "one"), final(tmp_path / "two")) == 0


def test_a_checkpoint_is_written_when_the_machine_will_be_taken_away(tiny, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "PREEMPTION_SECONDS", -1.0)  # ask at every step
    asked = []

    def preempted() -> bool:
        asked.append(1)
        return len(asked) == 4

    run(str(tmp_path), tiny, config(), preempted=preempted)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["0002", "0004", "0005", "0007", "0010"]
    (tmp_path / "on").mkdir()
    run(str(tmp_path / "on"), tiny, config(), latest=str(tmp_path / "0004"))
    assert largest_difference(final(tmp_path / "on"), final(whole)) == 0


def test_lora_trains_the_adapter_and_the_head_only(tiny):
    module = worker.build(config(adapter={"kind": "lora", "rank": 4}), tiny)
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora_" in name or "modules_to_save" in name for name in names)


def test_a_wrong_freeze_or_target_is_named(tiny):
    with pytest.raises(ValueError, match=r"adapter.freeze: no parameter's name holds 'embedings'"):
        worker.build(config(adapter={"kind": "full", "freeze": ["embedings"]}), tiny)
    with pytest.raises(ValueError, match=r"adapter\.target_modules"):
        worker.build(config(adapter={"kind": "lora", "target_modules": ["no_such_layer"]}), tiny)


def test_a_loss_that_is_not_finite_stops_with_the_remedy(tiny, tmp_path):
    with pytest.raises(FloatingPointError, match=r"lower optimizer\.lr"):
        run(str(tmp_path), tiny, config(optimizer={"lr": 1e30, "clip_norm": 1e30}))


def test_trackers_are_told_how_the_run_ended(tiny, tmp_path):
    def ended(**changes) -> list[bool]:
        told = Told()
        with contextlib.suppress(FloatingPointError):
            run(str(tmp_path), tiny, config(epochs=1, **changes), trackers=lambda steps_done: [told])
        return told.ends

    assert ended() == [False]
    assert ended(optimizer={"lr": 1e30, "clip_norm": 1e30}) == [True]


def test_a_full_disk_is_an_error_that_says_where_and_what_to_do(tiny, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    (tmp_path / "disk").mkdir()
    with pytest.raises(ConfigError, match=rf"checkpoint into {tmp_path}/disk/x, .*No space left.* free space there"):
        run(str(tmp_path), tiny, config(), folder=lambda: made(tmp_path / "disk" / "x"))
    assert not list((tmp_path / "disk").iterdir())


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_checkpoint_that_can_wait_waits_while_another_is_copied(tiny, tmp_path):
    settings = config(checkpoint_seconds=0.0, epochs=1, evaluations_per_epoch=1)
    busy = iter([False, True, True, False])
    run(str(tmp_path), tiny, settings, busy=lambda: next(busy))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["0001", "0004", "0005"]
