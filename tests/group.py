"""Two processes that stay: a gloo group for tests, started once, since importing torch costs more than most tests."""

from __future__ import annotations

import os
import queue
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing


class Group:
    """`run(function, *arguments)` calls function(rank, world_size, *arguments) in every process and waits."""

    def __init__(self, folder: Path, world_size: int = 2) -> None:
        context = multiprocessing.get_context("spawn")
        self.world_size = world_size
        self._tasks = [context.Queue() for _ in range(world_size)]
        self._results = context.Queue()
        self._processes = [
            context.Process(target=_serve, args=(rank, world_size, str(folder), self._tasks[rank], self._results))
            for rank in range(world_size)
        ]
        for process in self._processes:
            process.daemon = True
            process.start()

    def run(self, function: Callable[..., None], *arguments: Any) -> None:
        """Raises RuntimeError with a traceback. Where one process failed and another waits for it, all are ended."""
        for tasks in self._tasks:
            tasks.put((function, arguments))
        failures: list[str] = []
        for _ in range(self.world_size):
            try:
                failures.append(self._results.get(timeout=20 if any(failures) else 300))
            except queue.Empty:
                self.close()
                failures.append("a process did not answer")
        if any(failures):
            raise RuntimeError(next(filter(None, failures)))

    @property
    def alive(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _serve(rank: int, world_size: int, folder: str, tasks: Any, results: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    while True:
        function, arguments = tasks.get()
        try:
            function(rank, world_size, *arguments)
            results.put("")
        except BaseException:
            results.put(traceback.format_exc())
