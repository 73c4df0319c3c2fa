"""Which actor gets which shard, and what becomes of those that fail: the driver's loop on actors played here."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from patentft.config import ConfigError, build
from patentft.location import Location
from patentft.progress import Progress
from patentft.scoring import run as scoring
from patentft.scoring.run import HOPELESS, SWAPS, ScoreConfig
from patentft.stage import Context, Incomplete
from patentft.store import open_stage

STAGES = {"data": "corpus", "candidates": "search", "techniques": "techniques", "model": "m"}


class Cluster:
    """Stands for the module ray. behave(actor's number, index or None for loading): raises what a call ends with."""

    def __init__(self, behave: Callable[[int, int | None], None]) -> None:
        self.behave, self.rng = behave, random.Random(0)
        self.hired, self.dead = 0, set[int]()
        self.committed: Counter[int] = Counter()

    def remote(self, _: Any) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._hire))

    def _hire(self, *_: Any) -> Any:
        self.hired += 1
        number = self.hired

        def method(index_of: Callable[..., int | None]) -> Any:
            return SimpleNamespace(remote=lambda *given: (number, index_of(*given), object()))

        return SimpleNamespace(
            number=number, load=method(lambda: None), score=method(lambda index, _: index), swap=method(lambda _: SWAPS)
        )

    def wait(self, running: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        numbers = [number for number, _, _ in running]
        assert len(set(numbers)) == len(numbers), "an actor has two calls"
        assert not self.dead.intersection(numbers), "a dead actor was called"
        return [self.rng.choice(running)], []

    def get(self, call: Any) -> dict[str, int]:
        number, index, _ = call
        try:
            self.behave(number, index)
        except ActorDiedError:
            self.dead.add(number)
            raise
        except Exception as error:
            raise RayTaskError("score", "a traceback", error) from error
        if index is None:
            return {}
        self.committed[index] += 1
        return {"pairs": 1}

    def kill(self, actor: Any) -> None:
        self.dead.add(actor.number)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cluster]:
    folder = open_stage(Location(tmp_path / "scores"), "score", {}, {})

    def play(shards: int, behave: Callable[[int, int | None], None], **settings: Any) -> Cluster:
        cluster = Cluster(behave)
        monkeypatch.setattr(scoring, "ray", cluster)
        config = build(ScoreConfig, {**STAGES, **settings})
        context = Context(folder, models={"m": "m"}, progress=Progress(quiet=True))
        given: Any = SimpleNamespace(
            rows=SimpleNamespace(size=lambda _: 1), table=lambda index: index, swap_table=lambda swaps: swaps
        )
        play.cluster = cluster  # type: ignore[attr-defined]
        scoring._Job(config, context, None, given, [(0, "T")]).run([*range(shards), SWAPS])
        return cluster

    return play


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_shard_once(job: Any, workers: int) -> None:
    cluster = job(20, lambda actor, index: None, workers=workers)
    assert cluster.committed == Counter([*range(20), SWAPS])
    assert cluster.hired == workers
    assert len(cluster.dead) == workers  # given back


@pytest.mark.parametrize("workers", [1, 3])
def test_actors_that_die_now_and_then_are_replaced_for_as_long_as_it_takes(job: Any, workers: int) -> None:
    rng = random.Random(1)

    def behave(actor: int, index: int | None) -> None:
        if rng.random() < 0.3:
            raise ActorDiedError

    cluster = job(200, behave, workers=workers, max_restarts=12)
    assert cluster.committed == Counter([*range(200), SWAPS])
    assert cluster.hired > 50


def test_what_fails_is_set_aside_and_named(job: Any, tmp_path: Path) -> None:
    tries: Counter[int | None] = Counter()

    def behave(actor: int, index: int | None) -> None:
        tries[index] += 1
        if index == 4:
            raise ActorDiedError
        if index in (7, SWAPS) or (index == 9 and tries[9] == 1):
            raise OSError("no room\nat all")

    with pytest.raises(Incomplete) as ended:
        job(20, behave, workers=2, max_restarts=2)
    assert job.cluster.committed == Counter(set(range(20)) - {4, 7})
    assert (tries[4], tries[7], tries[9], tries[SWAPS]) == (3, 2, 2, 2)
    lines = str(ended.value).splitlines()
    assert lines[0] == "stage scores: 3 of 21 shards were set aside; the other 18 are done and kept:"
    assert lines[1] == "  swaps: OSError: no room"
    assert lines[2].startswith("  shard-00004: killed its actor 3 times")
    assert lines[3] == "  shard-00007: OSError: no room"
    assert sorted(path.name for path in (tmp_path / "scores" / "failed").iterdir()) == [
        "shard-00004.txt",
        "shard-00007.txt",
        "swaps.txt",
    ]
    job(20, lambda actor, index: None)
    assert not (tmp_path / "scores" / "failed").exists()


def test_a_full_disk_does_not_wear_out_the_queue(job: Any, tmp_path: Path) -> None:
    tries: Counter[int | None] = Counter()

    def behave(actor: int, index: int | None) -> None:
        tries[index] += 1
        if index is not None and index >= 5:
            raise OSError("no room")

    with pytest.raises(Incomplete, match=f"{HOPELESS} different ones raised in a row, so the rest was not tried"):
        job(500, behave, workers=2)
    assert len(tries) < 5 * HOPELESS
    assert sum(name.startswith("shard") for name in (Location(tmp_path) / "scores" / "failed").names()) == HOPELESS


def test_what_no_other_shard_would_escape_ends_the_run(job: Any) -> None:
    def refuse(actor: int, index: int | None) -> None:
        if index == 3:
            raise ConfigError("set this")

    with pytest.raises(ConfigError, match="set this"):
        job(20, refuse)

    def unloadable(actor: int, index: int | None) -> None:
        raise ValueError("damaged")

    with pytest.raises(RayTaskError):
        job(20, unloadable)

    def too_large(actor: int, index: int | None) -> None:
        raise ActorDiedError

    with pytest.raises(RuntimeError, match="died 3 times while they loaded the model"):
        job(20, too_large, max_restarts=2)
    assert job.cluster.hired == 3
