"""What every test shares: no network, few threads, one Ray cluster per session, real data where there are any."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from patentft.location import Location

if TYPE_CHECKING:
    from tests.group import Group

# Before anything imports torch or transformers, and inherited by Ray's workers and the tests' own child processes.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "2")

REPOSITORY = Path(__file__).resolve().parent.parent
S3_BUCKET = "patentft-test"


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
def s3_server() -> Iterator[str]:
    """A real S3 server on loopback; s3fs finds it the way it finds any other: by AWS_ENDPOINT_URL and the AWS keys."""
    pytest.importorskip("s3fs", reason="no s3fs: the object store tests need the extra `s3`")
    server_module = pytest.importorskip("moto.server", reason="no moto: the object store tests need the extra `dev`")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        Location(f"s3://{S3_BUCKET}").filesystem.mkdir(S3_BUCKET)
        yield f"s3://{S3_BUCKET}"
    server.stop()


@pytest.fixture(params=["local", "s3", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty place for a run, of each kind."""
    name = uuid.uuid4().hex[:8]
    if request.param == "local":
        return Location(tmp_path / name)
    if request.param == "s3":
        return Location(f"{request.getfixturevalue('s3_server')}/{name}")
    return Location(f"memory://runs/{name}")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data (PATENTFT_DATA, or ../shared/data beside the repository)."""
    given = os.environ.get("PATENTFT_DATA")
    root = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"no real data: {root} is no folder (set PATENTFT_DATA)")
    return root
