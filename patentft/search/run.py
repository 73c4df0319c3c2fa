"""The Ray side of search: stages `embed` (Ray Data actors, a part each) and `search` (tasks over ranges of part
files).
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported: a type checker sees none of them)

from __future__ import annotations

import itertools
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    missing = [
        i for i in range(len(entries)) if not (folder.has_part("embeddings", i) and folder.has_file(_counts_file(i)))
    ]
    if missing:
        context.progress.say(f"  {len(missing)} of {len(entries)} parts of {config.table} to embed with {config.model}")
        threads, cpus = _resources(config.workers, config.cpus_per_worker, context.progress)
        rows = _map_parts(
            missing,
            _EmbedActor,
            {
                "config": config,
                "model": context.model(config.model),
                "source": source,
                "folder": folder,
                "threads": threads,
            },
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
            counts[name] = value if name in _SETTINGS else counts.get(name, 0) + value
    return counts


_SETTINGS = ("dimension", "max_tokens", "pooling", "normalized")


def _counts_file(index: int) -> str:
    return f"counts/part-{index:05d}.json"


class _EmbedActor:
    """One encoder on one device: reads a part, writes its embeddings and counts, returns only the part's index.

    A ConfigError is returned as text: Ray Data would wrap it in its own exceptions and lose what it says to set.
    """

    def __init__(self, config: EmbedConfig, model: str, source: StageFolder, folder: StageFolder, threads: int) -> None:
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # the tokenizer's threads
        torch.set_num_threads(threads)
        self.config, self.source, self.folder = config, source, folder
        self.entries = source.parts(config.table)
        self.encoder: Encoder | None = None
        self.problem = ""
        try:
            self.encoder = load_encoder(model, self._device(), config.dtype, config.pooling)
        except ConfigError as error:
            self.problem = str(error)

    def _device(self) -> str:
        gpus = self.config.gpus_per_worker
        if gpus > 0 and not torch.cuda.is_available():
            raise ConfigError(f"gpus_per_worker is {gpus:g}, but the worker sees no CUDA GPU; set it to 0")
        return "cuda" if gpus > 0 else "cpu"

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """batch: {"id": part indices}. Returns them with a "problem" each, empty when the part was written."""
        for index in map(int, batch["id"]):
            try:
                self._write(index)
            except ConfigError as error:
                self.problem = str(error)
        return {"id": batch["id"], "problem": np.asarray([self.problem] * len(batch["id"]), dtype=object)}

    def _write(self, index: int) -> None:
        if self.encoder is None:
            return
        source = self.source.read_part(self.entries[index], source_columns(self.config))
        part, counts = embed_part(self.encoder, self.config, source)
        settings = {
            "dimension": self.encoder.hidden_size,
            "max_tokens": self.config.max_tokens or self.encoder.max_tokens,
            "pooling": self.encoder.pooling,
            "normalized": self.encoder.normalize,
        }
        # the counts first: a part that is done has its counts
        self.folder.write_file(_counts_file(index), json.dumps(counts | settings).encode())
        self.folder.write_part("embeddings", index, part)


def _map_parts(
    indices: Sequence[int], actor: type, arguments: Mapping[str, Any], *, workers: int, cpus: float, gpus: float
) -> Iterator[Any]:
    """Run `actor` over part indices in a pool of Ray Data actors; yields a row per finished part, in any order.

    Ray restarts an actor that dies and gives its part to another; a part that raises ends the run with its error, a
    "problem" with a ConfigError.
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
    for row in dataset.iter_rows():
        if row["problem"]:
            raise ConfigError(row["problem"])
        yield row


SPARE_CPUS = 0.5
"""Left to Ray Data's own tasks: actors that hold every CPU starve them and the job hangs (ray#44687)."""


def _resources(workers: int, cpus_per_worker: float, progress: Progress) -> tuple[int, float]:
    """(threads per worker, CPUs to ask Ray for per worker).

    All workers together ask for less than the cluster has. Asking for less does not change what is computed, nor with
    how many threads; it only tells Ray to place them.
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
class Pool:
    """Which patents of which part files are searched. Cheap to send to a task, which opens the files itself."""

    config: SearchConfig
    patents: StageFolder
    data: StageFolder
    allowed: pa.Array | None  # ids of the role's patents; None: all

    def parts(self, low: int, high: int) -> Iterator[Part]:
        """Parts low..high of the embeddings, without the patents that a role or filter leaves out."""
        entries = self.patents.parts("embeddings")
        sources = self.data.parts("patents") if self.config.filters else []
        for index in range(low, high):
            items = Items.from_table(self.patents.read_part(entries[index], ["id", "chunk", "vector"]))
            in_role = keep = np.ones(len(items), dtype=bool)
            if self.allowed is not None:
                in_role = keep = np.asarray(pc.is_in(items.ids, value_set=self.allowed))
            if self.config.filters:
                keep = in_role & self._passes(items, sources, index)
            positions = (index << PART_SHIFT) + np.arange(len(items), dtype=np.int64)
            filtered_out = items.ids.filter(pa.array(in_role & ~keep))
            if not keep.all():
                which = np.flatnonzero(keep)
                items, positions = items.take(which), positions[which]
            yield Part(items, positions, filtered_out)

    def _passes(self, items: Items, sources: list[Entry], index: int) -> np.ndarray:
        """Embedding part i was made of part i of the patents: the codes are read in step, none is held for all."""
        if index < len(sources):
            patents = self.data.read_part(sources[index], ["patent_id", "codes", "year"])
            row = pc.index_in(items.ids, value_set=patents.column("patent_id").combine_chunks())
            if not row.null_count:
                return passes(patents, self.config)[np.asarray(row)]
        raise ConfigError(
            f"part {index} of stage {self.patents.name!r} holds patents that part {index} of stage {self.data.name!r} "
            f"lacks: to filter by code or year, set data to the stage that was embedded: "
            f"{self.patents.config.get('data')!r}"
        )


@dataclass(frozen=True)
class _Found:
    """What one pass over some parts says about the ids it was asked for."""

    items: Items  # the asked-for patents that are searched
    filtered_out: pa.Array  # the asked-for patents that the code or year filter removed
    num_in_role: int


def _set_threads(threads: int) -> None:
    import faiss

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)


def _search_parts(low: int, high: int, pool: Pool, queries: Queries, targets: Targets, threads: int) -> Hits:
    _set_threads(threads)
    return prefilter(lambda: pool.parts(low, high), queries, pool.config.top_k, targets)


def _find_patents(low: int, high: int, pool: Pool, wanted: pa.Array) -> _Found:
    found, lost, num_in_role = [], [], 0
    for part in pool.parts(low, high):
        found.append(part.items.take(np.flatnonzero(np.asarray(pc.is_in(part.items.ids, value_set=wanted)))))
        assert part.filtered_out is not None
        lost.append(part.filtered_out.filter(pc.is_in(part.filtered_out, value_set=wanted)))
        num_in_role += len(part.items) + len(part.filtered_out)
    return _Found(Items.concat(found), pa.concat_arrays(lost), num_in_role)


class _Tasks:
    """Runs a function over ranges of part files as Ray tasks, `workers` at a time, results in the order of the
    parts.
    """

    def __init__(self, config: SearchConfig, num_parts: int, progress: Progress) -> None:
        self.workers, self.progress = config.workers, progress
        self.threads, self.cpus = _resources(config.workers, config.cpus_per_worker, progress)
        num_ranges = min(num_parts, 4 * config.workers)  # so that a slow node does less, and progress shows
        bounds = [i * num_parts // num_ranges for i in range(num_ranges + 1)]
        self.ranges = list(itertools.pairwise(bounds))

    def map(self, function: Callable[..., Any], *shared: Any, label: str) -> list[Any]:
        """function(low, high, *shared) per range of parts. A ConfigError raised inside comes out as it is."""
        remote: Any = ray.remote(num_cpus=self.cpus)(function)
        sent = [ray.put(each) for each in shared]
        results: dict[int, Any] = {}

        def finished() -> Iterator[int]:
            waiting = list(enumerate(self.ranges))
            running: dict[Any, int] = {}
            while waiting or running:
                while waiting and len(running) < self.workers:
                    number, (low, high) = waiting.pop(0)
                    running[remote.remote(low, high, *sent)] = number
                done, _ = ray.wait(list(running))
                number = running.pop(done[0])
                try:
                    results[number] = ray.get(done[0])
                except ray.exceptions.RayTaskError as error:
                    raise (error.cause if isinstance(error.cause, ConfigError) else error) from None
                yield number

        for _ in self.progress.bar(finished(), total=len(self.ranges), label=label):
            pass
        return [results[number] for number in range(len(self.ranges))]


def run_search(config: SearchConfig, context: Context) -> dict[str, Any]:
    """Write CANDIDATES and RANKS, role by role; a role that is written whole is not searched again.

    Returns pairs_possible, pairs_kept and, per role: techniques, patents, patents filtered out and recall
    (`summarize`).
    """
    folder, techniques = context.folder, Items.from_table(context.input(config.techniques).read("embeddings"))
    sides = _sides(config, context, techniques)
    tasks = _Tasks(config, len(context.input(config.patents).parts("embeddings")), context.progress)
    counts: dict[str, Any] = {"pairs_possible": 0, "pairs_kept": 0, "roles": {}}
    next_part = 0
    for number, side in enumerate(sides):
        parts = list(range(next_part, next_part + -(-len(side.techniques) // TECHNIQUES_PER_PART)))
        next_part += len(parts)
        file = f"counts/{side.role}.json"
        done = folder.has_file(file) and folder.has_part("ranks", number)
        if not (done and all(folder.has_part("candidates", part) for part in parts)):
            hits, ranks, role_counts = _search_side(side, config, context, tasks)
            folder.write_file(file, json.dumps(role_counts).encode())
            for at, part in enumerate(parts):
                some = slice(at * TECHNIQUES_PER_PART, (at + 1) * TECHNIQUES_PER_PART)
                folder.write_part("candidates", part, _candidates(side, hits, some))
            folder.write_part("ranks", number, ranks)
        role_counts = json.loads((folder.location / file).read_bytes())
        counts["roles"][side.role] = role_counts
        counts["pairs_possible"] += role_counts["pairs_possible"]
        counts["pairs_kept"] += role_counts["pairs_kept"]
    return counts


@dataclass(frozen=True)
class _Side:
    """One side of the split: the techniques to search for, and the patents among which."""

    role: str
    techniques: Items
    allowed: pa.Array | None


def _sides(config: SearchConfig, context: Context, techniques: Items) -> list[_Side]:
    if config.roles is None:
        return [_Side("all", techniques, None)]
    split = context.input(config.roles)
    technique_roles, patent_roles = split.read("technique_roles"), split.read("patent_roles")
    sides = []
    for role in config.evaluate:
        wanted = technique_roles.filter(pc.equal(technique_roles["role"], role)).column("id").combine_chunks()
        row = pc.index_in(wanted, value_set=techniques.ids)
        _refuse_absent(wanted.filter(pc.is_null(row)), "technique", role, config.roles, config.techniques)
        pool_roles = pa.array([role, "unused"])
        allowed = patent_roles.filter(pc.is_in(patent_roles["role"], value_set=pool_roles)).column("id")
        # in the order of the embeddings: candidates do not depend on how a split orders its rows
        which = np.sort(np.asarray(row).astype(np.int64))
        sides.append(_Side(role, techniques.take(which), pc.unique(allowed)))
    return sides


def _refuse_absent(absent: pa.Array, what: str, role: str, split: str, stage: str) -> None:
    if len(absent):
        names = ", ".join(repr(each) for each in absent[:3].to_pylist())
        raise ConfigError(
            f"{len(absent)} {what}s have role {role!r} in stage {split!r} but no embedding in stage {stage!r} "
            f"({names}): embed the data that was split"
        )


def _search_side(
    side: _Side, config: SearchConfig, context: Context, tasks: _Tasks
) -> tuple[Hits, pa.Table, dict[str, Any]]:
    patents = context.input(config.patents)
    _check_dimensions(side, config, context)
    pool = Pool(config, patents, context.input(config.data), side.allowed)
    queries = Queries(side.techniques, config.aggregate)
    matches = context.input(config.data).read("matches")
    technique = pc.index_in(matches["technique_id"], value_set=side.techniques.ids)
    matches = pc.drop_null(matches.append_column("row", technique)).combine_chunks()
    wanted = pc.unique(matches["patent_id"])
    found = _Found(Items.concat([]), pa.array([], pa.string()), 0)
    if len(wanted) or side.allowed is not None:
        several = tasks.map(_find_patents, pool, wanted, label=f"{side.role}: find the known matches")
        found = _Found(
            Items.concat([each.items for each in several]),
            pa.concat_arrays([each.filtered_out for each in several]),
            sum(each.num_in_role for each in several),
        )
        if side.allowed is not None and found.num_in_role < len(side.allowed):
            _refuse_absent(
                _absent(side.allowed, patents), "patent", f"{side.role} or unused", str(config.roles), config.patents
            )
    lost = matches.filter(pc.is_in(matches["patent_id"], value_set=found.filtered_out))
    patent = pc.index_in(matches["patent_id"], value_set=found.items.ids)
    matches = pc.drop_null(matches.append_column("patent_row", patent)).combine_chunks()
    rows = (np.asarray(matches[name]).astype(np.int64) for name in ("row", "patent_row"))
    scored = score_matches(queries, found.items, *rows)
    several = tasks.map(_search_parts, pool, queries, scored.targets, tasks.threads, label=f"{side.role}: search")
    hits = merge(several, config.top_k)
    ranks = pa.table(
        {
            "technique_id": matches["technique_id"],
            "patent_id": matches["patent_id"],
            "role": pa.array([side.role] * len(matches), pa.string()),
            "cosine": scored.targets.score,
            "rank_in_technique": mean_rank(hits.greater, hits.equal),
            "num_patents": np.full(len(matches), hits.num_patents, np.int64),
            "rank_in_patent": scored.rank_in_patent,
            "num_techniques": np.full(len(matches), len(queries), np.int64),
        }
    ).cast(schema.RANKS)
    counts = {
        "techniques": len(queries),
        "patents": hits.num_patents,
        "patents_filtered_out": hits.num_filtered_out,
        "pairs_possible": len(queries) * hits.num_patents,
        "pairs_kept": int((hits.positions >= 0).sum()),
        "recall": summarize(
            ranks, list(zip(*(lost[name].to_pylist() for name in ("technique_id", "patent_id")), strict=True))
        ),
    }
    return hits, ranks, counts


def _check_dimensions(side: _Side, config: SearchConfig, context: Context) -> None:
    """Compares the first patent vectors with the techniques' before anything is computed."""
    patents, techniques = context.input(config.patents), context.input(config.techniques)
    first = Items.from_table(patents.read_part(patents.parts("embeddings")[0], ["id", "chunk", "vector"]))
    models = str(patents.config.get("model")), str(techniques.config.get("model"))
    check_same_space(first, side.techniques, (config.patents, config.techniques), models)


def _absent(ids: pa.Array, embedded: StageFolder) -> pa.Array:
    """Those of `ids` that the embeddings lack."""
    for part in embedded.iter_parts("embeddings", ["id"]):
        ids = ids.filter(pc.invert(pc.is_in(ids, value_set=part.column("id").combine_chunks())))
    return ids


def _candidates(side: _Side, hits: Hits, some: slice) -> pa.Table:
    """Candidates of the techniques `some`: by technique, then by rank."""
    positions = hits.positions[some]
    technique, rank = np.nonzero(positions >= 0)
    return pa.table(
        {
            "technique_id": side.techniques.ids[some].take(pa.array(technique)),
            "patent_id": hits.patent_ids(positions[technique, rank]),
            "role": pa.array([side.role] * len(technique), pa.string()),
            "rank": rank.astype(np.int32),
            "cosine": hits.scores[some][technique, rank],
            "chunk": hits.chunks[some][technique, rank],
        }
    ).cast(schema.CANDIDATES)


SEARCH = Stage("search", SearchConfig, run_search)
