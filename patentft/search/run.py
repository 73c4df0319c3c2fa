"""The Ray side of search: stages `embed` (Ray Data actors, a part each) and `search` (tasks over ranges of part files)."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported: a type checker sees none of them)

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import torch

from patentft import schema
from patentft.config import ConfigError
from patentft.models.load import Encoder, load_encoder
from patentft.progress import Progress
from patentft.search.embed import EmbedConfig, embed_part, source_columns
from patentft.search.prefilter import (
    PART_SHIFT,
    Hits,
    Items,
    Part,
    Queries,
    SearchConfig,
    Targets,
    check_same_space,
    mean_rank,
    merge,
    passes,
    prefilter,
    score_matches,
)
from patentft.search.recall import summarize
from patentft.stage import Context, Stage
from patentft.store import Entry, StageFolder

# ---- embed


def run_embed(config: EmbedConfig, context: Context) -> dict[str, Any]:
    """Embed every part of the source table that is not done yet. Output part i is made of source part i alone.

    Returns the counts of `cut_texts` summed over all parts, with the encoder's dimension, limit and pooling.
    """
    source, folder = context.input(config.data), context.folder
    entries = source.parts(config.table)
    missing = [i for i in range(len(entries)) if not (folder.has_part("embeddings", i) and folder.has_file(_counts_file(i)))]
    if missing:
        context.progress.say(f"  {len(missing)} of {len(entries)} parts of {config.table} to embed with {config.model}")
        threads, cpus = _resources(config.workers, config.cpus_per_worker, context.progress)
        rows = _map_parts(
            missing,
            _EmbedActor,
            {"config": config, "model": context.model(config.model), "source": source, "folder": folder, "threads": threads},
            workers=min(config.workers, len(missing)),
            cpus=cpus,
            gpus=config.gpus_per_worker,
        )
        for _ in context.progress.bar(rows, total=len(missing), label=f"embed {config.table}"):
            pass
    counts: dict[str, Any] = {}
    for index in range(len(entries)):
        part = json.loads((folder.location / _counts_file(index)).read_bytes())
        for name, value in part.items():
            counts[name] = counts.get(name, 0) + value if isinstance(value, int) and name not in _SETTINGS else value
    return counts


_SETTINGS = ("dimension", "max_tokens", "pooling", "normalized")


def _counts_file(index: int) -> str:
    return f"counts/part-{index:05d}.json"


class _EmbedActor:
    """One encoder on one device: reads a part, writes its embeddings and counts, returns only the part's index."""

    def __init__(
        self, config: EmbedConfig, model: str, source: StageFolder, folder: StageFolder, threads: int
    ) -> None:
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # the tokenizer's threads
        torch.set_num_threads(threads)
        device = "cuda" if config.gpus_per_worker > 0 else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"gpus_per_worker is {config.gpus_per_worker}, but the worker sees no CUDA GPU; set it to 0")
        self.config, self.source, self.folder = config, source, folder
        self.entries = source.parts(config.table)
        self.encoder: Encoder = load_encoder(model, device, config.dtype, config.pooling)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for index in map(int, batch["id"]):
            part, counts = embed_part(
                self.encoder, self.config, self.source.read_part(self.entries[index], source_columns(self.config))
            )
            settings = {
                "dimension": self.encoder.hidden_size,
                "max_tokens": self.config.max_tokens or self.encoder.max_tokens,
                "pooling": self.encoder.pooling,
                "normalized": self.encoder.normalize,
            }
            # the counts first: a part that is done has its counts
            self.folder.write_file(_counts_file(index), json.dumps(counts | settings).encode())
            self.folder.write_part("embeddings", index, part)
        return batch


def _map_parts(
    indices: Sequence[int], actor: type, arguments: Mapping[str, Any], *, workers: int, cpus: float, gpus: float
) -> Iterator[Any]:
    """Run `actor` over part indices in a pool of Ray Data actors; yields a row per finished part, in any order.

    Ray restarts an actor that dies and gives its part to another; a part that raises ends the run with its error.
    """
    data_context = ray.data.DataContext.get_current()
    data_context.enable_progress_bars = False  # the stage shows its own
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    items = [{"id": index} for index in indices]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        actor,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, max_tasks_in_flight_per_actor=2),
        fn_constructor_kwargs=dict(arguments),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    yield from dataset.iter_rows()


SPARE_CPUS = 0.5
"""Left to Ray Data's own tasks: actors that hold every CPU starve them and the job hangs (ray#44687)."""


def _resources(workers: int, cpus_per_worker: float, progress: Progress) -> tuple[int, float]:
    """(threads per worker, CPUs to ask Ray for per worker).

    All workers together ask for less than the cluster has. Asking for less does not change what is computed, nor with how
    many threads; it only tells Ray to place them.
    """
    total = float(ray.cluster_resources().get("CPU", 1.0))
    fitting = max(0.01, (total - SPARE_CPUS) / workers)
    asked = min(cpus_per_worker, math.floor(fitting * 100) / 100)
    if asked < cpus_per_worker:
        progress.say(f"  {workers} workers x {cpus_per_worker:g} CPUs of {total:g}: each is scheduled as {asked:g}")
    return math.ceil(cpus_per_worker), asked


EMBED = Stage("embed", EmbedConfig, run_embed)


# ---- search

TECHNIQUES_PER_PART = 512
"""Techniques whose candidates make one output part."""


@dataclass(frozen=True)
class _Pool:
    """Which patents of which part files a task searches. Cheap to send: it opens the files itself."""

    config: SearchConfig
    patents: StageFolder
    data: StageFolder
    allowed: pa.Array | None  # ids of the role's patents; None: all

    def entries(self) -> list[Entry]:
        return self.patents.parts("embeddings")

    def parts(self, low: int, high: int) -> Iterator[Part]:
        """Parts low..high of the embeddings, without patents that a role or filter leaves out."""
        entries = self.entries()
        sources = self.data.parts("patents") if self.config.filters else []
        for index in range(low, high):
            items = Items.from_table(self.patents.read_part(entries[index], ["id", "chunk", "vector"]))
            keep = self._in_role(items)
            if self.config.filters:
                keep &= self._passes(items, sources, index)
            positions = (index << PART_SHIFT) + np.arange(len(items), dtype=np.int64)
            if not keep.all():
                which = np.flatnonzero(keep)
                items, positions = items.take(which), positions[which]
            yield Part(items, positions)

    def _in_role(self, items: Items) -> np.ndarray:
        if self.allowed is None:
            return np.ones(len(items), dtype=bool)
        return np.asarray(pc.is_in(items.ids, value_set=self.allowed))

    def _passes(self, items: Items, sources: list[Entry], index: int) -> np.ndarray:
        """Embedding part i was made of part i of the patents: the codes are read in step, none is held for all."""
        place = self.data.name
        missing = len(items) > 0 and index >= len(sources)
        if not missing:
            patents = self.data.read_part(sources[index], ["patent_id", "codes", "year"])
            row = pc.index_in(items.ids, value_set=patents.column("patent_id"))
            missing = row.null_count > 0
        if missing:
            raise ConfigError(
                f"part {index} of stage {self.patents.name!r} holds patents that part {index} of stage {place!r} does not: "
                f"to filter by codes or year, set search.data to the stage that was embedded "
                f"({self.patents.config.get('data')!r})"
            )
        return passes(patents, self.config)[np.asarray(row)]


@ray.remote
def _search_parts(pool: _Pool, queries: Queries, targets: Targets, low: int, high: int, threads: int) -> Hits:
    _set_threads(threads)
    return prefilter(lambda: pool.parts(low, high), queries, pool.config.top_k, targets)


@ray.remote
def _find_patents(pool: _Pool, wanted: pa.Array, low: int, high: int, threads: int) -> tuple[Items, int, pa.Array]:
    """The searched patents among the ids `wanted`, how many patents are searched, and those of `wanted` embedded at all."""
    _set_threads(threads)
    found, searched, embedded = [], 0, []
    everything = _Pool(pool.config.model_copy(update={"codes": [], "year_from": None, "year_to": None}), *_rest(pool))
    for low_part in range(low, high):
        for part in everything.parts(low_part, low_part + 1):
            embedded.append(part.items.ids)
        for part in pool.parts(low_part, low_part + 1):
            searched += len(part.items)
            found.append(part.items.take(np.flatnonzero(np.asarray(pc.is_in(part.items.ids, value_set=wanted)))))
    return Items.concat(found), searched, pa.concat_arrays(embedded)
