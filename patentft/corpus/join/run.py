"""The Ray side of stage `join`: a task per file, then a task per bucket, `workers` of them at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import RayTaskError

from patentft.cluster import require
from patentft.config import ConfigError
from patentft.corpus.join.config import JoinConfig
from patentft.corpus.join.steps import run_steps
from patentft.stage import Context, Stage
from patentft.store import StageFolder


def run_join(config: JoinConfig, context: Context) -> dict[str, Any]:
    """Tables texts and quarantine (`steps.run_steps`). A task whose worker dies is run again by Ray: its parts are the
    same bytes whoever writes them.
    """
    require(config.cpus_per_worker, 0, "a task of stage join", "cpus_per_worker")

    def run(function: Callable[[Any, JoinConfig, StageFolder], None], items: list[Any], label: str) -> None:
        for _ in context.progress.bar(_tasks(function, items, config, context.folder), len(items), label):
            pass

    return run_steps(config, context, run)


def _tasks(
    function: Callable[[Any, JoinConfig, StageFolder], None], items: list[Any], config: JoinConfig, folder: StageFolder
) -> Iterator[Any]:
    """Yields each item when it is done. A ConfigError raised inside comes out as it is."""
    remote: Any = ray.remote(num_cpus=config.cpus_per_worker, max_retries=3)(function)
    shared = [ray.put(config), ray.put(folder)]
    waiting, running = list(reversed(items)), {}
    while waiting or running:
        while waiting and len(running) < config.workers:
            item = waiting.pop()
            running[remote.remote(item, *shared)] = item
        done, _ = ray.wait(list(running))
        item = running.pop(done[0])
        try:
            ray.get(done[0])
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, ConfigError) else error) from None
        yield item


JOIN = Stage("join", JoinConfig, run_join)
