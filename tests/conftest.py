"""What every test shares: no network, few threads, one Ray cluster per session, real data where there are any."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.group import Group

# Before anything imports torch or transformers, and inherited by Ray's workers and the tests' own child processes.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "2")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A real local Ray cluster of two CPUs; `cluster.connection` uses it because it is initialized already."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def _groups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Group]]:
    from tests.group import Group

    made: list[Group] = []

    def living() -> Group:
        if not made or not made[-1].alive:  # a failed test's group is of no more use
            made.append(Group(tmp_path_factory.mktemp("group")))
        return made[-1]

    yield living
    for group in made:
        group.close()


@pytest.fixture
def group(_groups: Callable[[], Group]) -> Group:
    """Two gloo processes, started once for all tests."""
    return _groups()


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data (PATENTFT_DATA, or ../shared/data beside the repository)."""
    given = os.environ.get("PATENTFT_DATA")
    root = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"no real data: {root} is no folder (set PATENTFT_DATA)")
    return root
