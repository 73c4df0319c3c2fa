"""The only `ray.init`: connect to a running cluster or start a local one, and say what was asked and what there is."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from patentft.config import Config, ConfigError
from patentft.progress import Progress

TOKEN_FILE = Path("~/.ray/auth_token")


class ClusterConfig(Config):
    """Where the work runs. Nothing here can change a row."""

    address: str | None = None
    """Address of a running Ray cluster ("auto", "host:6379", "ray://host:10001"). Unset: RAY_ADDRESS when that is set
    (inside `ray job submit` it is), else a local cluster sized to this machine. "local" always starts one."""
    num_cpus: int | None = None
    """Size of a local cluster; unset: the cores this process may use."""
    object_store_gib: float | None = None
    """Shared memory of a local cluster; unset: Ray's own choice, which is 30 % of the memory."""


@contextmanager
def connection(config: ClusterConfig, progress: Progress):
    """Connected to Ray inside the block; a local cluster that was started here ends with it.

    Raises ConfigError when the cluster cannot be reached or refuses the token, naming the address and the remedy.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # keep CUDA_VISIBLE_DEVICES for 0-GPU tasks
    import ray
    from ray.exceptions import AuthenticationError

    if ray.is_initialized():  # the caller (a test, a notebook, a Tune trial) owns the connection
        yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    _prepare_token(address)
    common = {"logging_level": logging.ERROR, "log_to_driver": not progress.quiet}
    try:
        if address == "local":
            # sched_getaffinity knows the cores this process may use; macOS has none
            cores = config.num_cpus or (
                len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            )
            store = int(config.object_store_gib * 2**30) if config.object_store_gib else None
            ray.init(address="local", num_cpus=cores, object_store_memory=store, include_dashboard=True, **common)
        else:
            ray.init(address=address, **common)
    except (ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
        raise ConfigError(_remedy(address, error)) from error
    try:
        progress.say(f"Ray {ray.__version__} at {'a local cluster' if address == 'local' else address}: {resources()}")
        yield
    finally:
        ray.shutdown()


def _prepare_token(address: str) -> None:
    """Choose Ray's token mode before its first import of the setting.

    A cluster that was started with a token answers only clients in token mode; Ray switches the mode on by itself for
    address "auto" but not for an explicit one, and then fails with an error that names neither file nor variable.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    has_token = (
        "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ or TOKEN_FILE.expanduser().exists()
    )
    if has_token and address != "local":
        os.environ["RAY_AUTH_MODE"] = "token"


def _remedy(address: str, error: Exception) -> str:
    return (
        f"cannot connect to Ray at {address}: {(str(error).strip() or repr(error)).splitlines()[0]}\n"
        f"  set cluster.address (or RAY_ADDRESS) to a running cluster, or cluster.address=local to start one here;\n"
        f"  a cluster with token auth needs RAY_AUTH_MODE=token and the token in {TOKEN_FILE} or RAY_AUTH_TOKEN_PATH"
    )


def resources() -> str:
    """What the connected cluster has, for people: "2 CPU, 1 GPU, 23.0 GiB on 1 node"."""
    import ray

    total = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    gpus = f", {total['GPU']:.0f} GPU" if total.get("GPU") else ""
    memory = total.get("memory", 0) / 2**30
    return f"{total.get('CPU', 0):.0f} CPU{gpus}, {memory:.1f} GiB on {nodes} node{'s' * (nodes > 1)}"


def require(cpus: float, gpus: float, what: str, setting: str) -> None:
    """Raise ConfigError when the cluster can never hold what a stage asks for (one that autoscales may still grow)."""
    import ray

    total = ray.cluster_resources()
    short = [
        f"{asked:g} {name} but the cluster has {total.get(name, 0):g}"
        for name, asked in (("CPU", cpus), ("GPU", gpus))
        if asked > total.get(name, 0)
    ]
    if short and not os.environ.get("PATENTFT_AUTOSCALING"):
        raise ConfigError(
            f"{what} asks for {' and '.join(short)}; lower {setting}, or use a larger cluster "
            f"(with an autoscaler that will add nodes, set PATENTFT_AUTOSCALING=1)"
        )


class PartWorker(Protocol):
    """Writes one part of a stage at a time; made once per process, where its constructor loads what is expensive."""

    def write(self, index: int) -> None: ...


SPARE_CPUS = 0.5
"""Left to Ray Data's own tasks: actors that hold every CPU starve them and the job hangs (ray#44687)."""


def share_cpus(
    workers: int, cpus_per_worker: float, say: Callable[[str], None] = lambda text: None
) -> tuple[int, float]:
    """(threads per worker, CPUs to ask Ray for per worker).

    All workers together ask for less than the cluster has. Asking for less does not change what is computed, nor with
    how many threads; it only tells Ray to place them.
    """
    import ray

    total = float(ray.cluster_resources().get("CPU", 1.0))
    fitting = max(0.01, (total - SPARE_CPUS) / workers)
    asked = min(cpus_per_worker, math.floor(fitting * 100) / 100)
    if asked < cpus_per_worker:
        say(f"  {workers} workers x {cpus_per_worker:g} CPUs of {total:g}: each is scheduled as {asked:g}")
    return math.ceil(cpus_per_worker), asked


class _PartActor:
    """A PartWorker in a Ray Data actor. A ConfigError is returned as text: Ray Data would wrap it and lose its
    remedy."""

    def __init__(self, worker: Callable[..., PartWorker], arguments: Mapping[str, Any]) -> None:
        self.problem, self.worker = "", None
        try:
            self.worker = worker(**arguments)
        except ConfigError as error:
            self.problem = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for index in map(int, batch["id"]):
            try:
                if self.worker is not None:
                    self.worker.write(index)
            except ConfigError as error:
                self.problem = str(error)
        return {"id": batch["id"], "problem": np.asarray([self.problem] * len(batch["id"]), dtype=object)}


def map_parts(
    indices: Sequence[int],
    worker: Callable[..., PartWorker],
    arguments: Mapping[str, Any],
    *,
    workers: int,
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> Iterator[int]:
    """Write parts in a pool of Ray Data actors; yields the index of each finished part, in any order.

    Ray restarts an actor that dies and gives its part to another; a part that raises ends the run with its error, a
    ConfigError as itself.
    """
    import ray.data

    if not indices:
        return
    ray.data.DataContext.get_current().enable_progress_bars = False  # the stage shows its own
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    items = [{"id": index} for index in indices]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _PartActor,
        batch_size=1,
        # all are asked for at once: grown from one, the others would start only when the first is seen to be busy
        compute=ray.data.ActorPoolStrategy(
            min_size=1,
            initial_size=min(workers, len(items)),
            max_size=min(workers, len(items)),
            max_tasks_in_flight_per_actor=2,
        ),
        fn_constructor_kwargs={"worker": worker, "arguments": dict(arguments)},
        num_cpus=cpus,
        num_gpus=gpus,
    )
    for row in dataset.iter_rows():
        if row["problem"]:
            raise ConfigError(row["problem"])
        yield int(row["id"])
