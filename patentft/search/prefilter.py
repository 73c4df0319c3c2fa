"""Exact top-k patents per technique by inner product, and the exact ranks of known matches, streamed over part files.

The way of the data, for T techniques, N patents, dimension D:

1. the techniques' vectors are held in memory as one matrix, padded to whole tiles: T x D;
2. patents come part by part; each block of a part is copied into a fixed, zero-padded buffer and multiplied: 2 T B D
   FLOP;
3. where a technique or a patent has several chunks, the block of scores is reduced to one score per pair (maximum; a
   mean of inner products is the inner product of the means, so means are taken of the vectors beforehand);
4. FAISS heaps keep the k best per technique across blocks; their thresholds carry over, so few scores enter.

Memory: two parts; per thread a block of scores (at most 64 MiB) and T x k results with their ids. Nothing grows with N.

Exactness. Every pair is scored in fp32, nothing is skipped. Tiles are padded, so that a pair's score does not depend on
where in a part it stands, nor on how parts are shared among workers. Equal scores keep the patent that comes first in
the table. Scores from other BLAS builds differ by rounding (1e-7 at unit length), as they do in brute force.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from patentft.config import Config, ConfigError, runtime
from patentft.stage import StageRef

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported: a type checker sees none of them)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Aggregate = Literal["max", "mean"]

TILE = 64
"""Rows are padded to a multiple of this: a multiple of every GEMM micro-kernel's edge."""
BLOCK_SCORES = 1 << 24
"""Most scores of one block (64 MiB in fp32)."""
BLOCK_ROWS = 2048
"""Most patents of one block. Measured: above 1,024 the product runs at full speed."""
PART_SHIFT = 32
"""A patent's position is (part << 32) + row in part: positions order patents as the table does."""
TIE = 1e-6
"""Scores closer than TIE x the two norms count as equal in a rank: fp32 products of 384 terms are not surer than
that.
"""


class SearchConfig(Config):
    patents: StageRef
    """Embed stage of the patents."""
    techniques: StageRef
    """Embed stage of the techniques."""
    data: StageRef
    """Stage with the tables matches and patents (codes, year)."""
    roles: StageRef | None = None
    """Split stage (patent_roles, technique_roles). null: every technique against every patent, as role "all"."""
    evaluate: list[Literal["train", "valid", "test"]] = Field(default_factory=lambda: ["valid", "test"])
    """With roles: the sides to search. Techniques of a role are searched among its patents and the unused ones."""
    top_k: int = Field(default=200, ge=1)
    """Patents kept per technique."""
    aggregate: Aggregate = "max"
    """Score of a pair whose texts have several chunks: the best pair of chunks, or the mean over all."""
    codes: list[str] = Field(default_factory=list)
    """Keep only patents with a code that begins with one of these ("B01D53"); [] keeps all."""
    year_from: int | None = None
    """Keep only patents of this year or later; a patent without a year is left out."""
    year_to: int | None = None
    """Keep only patents of this year or earlier; a patent without a year is left out."""
    workers: int = runtime(1, ge=1)
    """Tasks that search at the same time, each through its own part files."""
    cpus_per_worker: float = runtime(1.0, gt=0)
    """CPUs of each task; it computes with as many threads (rounded up)."""

    @model_validator(mode="after")
    def _coherent(self) -> SearchConfig:
        if self.roles is not None and (not self.evaluate or len(set(self.evaluate)) < len(self.evaluate)):
            raise ValueError(f"evaluate must name one or more roles, each once; got {self.evaluate}")
        if self.year_from is not None and self.year_to is not None and self.year_from > self.year_to:
            raise ValueError(f"year_from {self.year_from} is after year_to {self.year_to}")
        if any(not code.strip() for code in self.codes):
            raise ValueError("codes holds an empty prefix, which every code begins with; use [] to keep all patents")
        return self

    @property
    def filters(self) -> bool:
        return bool(self.codes) or self.year_from is not None or self.year_to is not None


# ---- vectors of texts


@dataclass(frozen=True)
class Items:
    """N texts with one or more vectors each, in the order of their table."""

    ids: pa.Array  # (N,) string
    starts: Ints  # (N + 1,): rows starts[i] .. starts[i + 1] of `vectors` are text i's chunks
    vectors: Floats  # (M, D)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def num_chunks(self) -> Ints:
        return np.diff(self.starts)

    @property
    def chunked(self) -> bool:
        return len(self.vectors) > len(self)

    @classmethod
    def from_table(cls, table: pa.Table) -> Items:
        """From (a part of) an EMBEDDINGS table, columns id, chunk, vector. The vectors are not copied."""
        starts = np.flatnonzero(table.column("chunk").to_numpy() == 0)
        ids = table.column("id").combine_chunks()
        if isinstance(ids, pa.ChunkedArray):  # no chunk at all
            ids = pa.array([], pa.string())
        return cls(ids.take(pa.array(starts)), np.append(starts, table.num_rows), vectors_of(table.column("vector")))

    @classmethod
    def concat(cls, several: Sequence[Items]) -> Items:
        if not several:
            return cls(pa.array([], pa.string()), np.zeros(1, np.int64), np.zeros((0, 0), np.float32))
        counts = np.concatenate([items.num_chunks for items in several])
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        return cls(
            pa.concat_arrays([items.ids for items in several]),
            starts,
            np.concatenate([items.vectors for items in several if len(items)] or [several[0].vectors]),
        )

    def rows(self, which: Ints) -> Ints:
        """Rows of `vectors` of the texts `which`, text after text."""
        counts = self.num_chunks[which]
        ends = np.cumsum(counts)
        return np.repeat(self.starts[which] - ends + counts, counts) + np.arange(ends[-1] if len(ends) else 0)

    def take(self, which: Ints) -> Items:
        """The texts `which` (indices), with their vectors copied."""
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.num_chunks[which])])
        return Items(self.ids.take(pa.array(which)), starts, self.vectors[self.rows(which)])

    def slice(self, low: int, high: int) -> Items:
        """Texts low..high, as views."""
        starts = self.starts[low : high + 1]
        vectors = self.vectors[starts[0] : starts[-1]] if len(starts) > 1 else self.vectors[:0]
        return Items(self.ids[low:high], starts - starts[0] if len(starts) else np.zeros(1, np.int64), vectors)

    def averaged(self) -> Items:
        """One vector per text: the mean of its chunks'. Itself when no text has several."""
        if not self.chunked:
            return self
        sums = np.add.reduceat(self.vectors.astype(np.float64), self.starts[:-1], axis=0)
        means = (sums / self.num_chunks[:, None]).astype(np.float32)
        return Items(self.ids, np.arange(len(self) + 1), means)

    @cached_property
    def norms(self) -> Floats:
        """(N,) the largest norm among each text's chunks."""
        if not len(self):
            return np.zeros(0, np.float32)
        return np.maximum.reduceat(np.linalg.norm(self.vectors, axis=1), self.starts[:-1])


def vectors_of(column: pa.ChunkedArray | pa.Array) -> Floats:
    """A list<float32> column as (M, D), without a copy when it is in one piece. Raises ValueError for unequal
    lengths.
    """
    pieces = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    arrays = []
    for piece in (piece for piece in pieces if len(piece)):
        offsets = piece.offsets.to_numpy()
        dim = int(offsets[1] - offsets[0])
        if (np.diff(offsets) != dim).any():
            raise ValueError("vectors of one column differ in length: not an embeddings table of one model")
        arrays.append(piece.flatten().to_numpy(zero_copy_only=True).reshape(-1, dim))
    if not arrays:
        return np.zeros((0, 0), np.float32)
    if len({array.shape[1] for array in arrays}) > 1:
        raise ValueError("vectors of one column differ in length: not an embeddings table of one model")
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


@dataclass(frozen=True)
class Part:
    """The searched patents of one part file."""

    items: Items
    positions: Ints  # (N,) ascending: (part << PART_SHIFT) + the patent's row among the part's patents
    filtered_out: pa.Array | None = None  # ids of the role's patents that the code or year filter removed


Parts = Callable[[], Iterable[Part]]
"""Opens the parts anew: they are read more than once when best chunks are wanted."""


class Queries:
    """Techniques as a matrix to multiply with: those with most chunks first, and all first chunks before all second
    ones.

    So laid out, the maximum over chunks is taken over whole slices of the scores. Results are in the order given.
    """

    def __init__(self, techniques: Items, aggregate: Aggregate) -> None:
        self.items = techniques  # with all chunks, whatever the aggregate
        self.aggregate: Aggregate = aggregate
        searched = techniques.averaged() if aggregate == "mean" else techniques
        self.order = np.argsort(-searched.num_chunks, kind="stable")  # order[i]: the technique in row i
        self.row_of = np.argsort(self.order, kind="stable")  # row_of[technique]
        sorted_counts = searched.num_chunks[self.order]
        longest = int(sorted_counts[0]) if len(sorted_counts) else 0
        self.slices = [int((sorted_counts > c).sum()) for c in range(longest)]  # rows of chunk 0, 1, ...: falling
        rows = [searched.starts[self.order[:count]] + c for c, count in enumerate(self.slices)]
        picked = searched.vectors[np.concatenate(rows)] if rows else searched.vectors
        self.norms = searched.norms
        self.matrix = torch.zeros(_round_up(len(picked)), searched.vectors.shape[1])
        self.matrix[: len(picked)] = torch.from_numpy(picked)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def dim(self) -> int:
        return self.matrix.shape[1]


def _round_up(count: int, multiple: int = TILE) -> int:
    return max(multiple, -(-count // multiple) * multiple)


class Scorer:
    """Blocks of scores, one per (technique, patent) pair: the product and, with several chunks, the maximum over
    them.
    """

    def __init__(self, queries: Queries) -> None:
        self.queries = queries
        rows = BLOCK_SCORES // len(queries.matrix) // TILE * TILE
        self._allocate(min(BLOCK_ROWS, max(TILE, rows)))

    def _allocate(self, block: int) -> None:
        self.block = block  # rows (patent chunks) per product
        self._patents = torch.zeros(block, self.queries.dim)
        self._scores = torch.empty(len(self.queries.matrix), block)
        self._reduced: torch.Tensor | None = None

    def blocks(self, items: Items) -> Iterator[tuple[int, int, torch.Tensor]]:
        """(first, end, scores): scores (T, block) fp32 contiguous, row = Queries row, column j = patent first + j.

        Columns beyond end - first are -inf. The tensor is overwritten by the next block.
        """
        if len(items) and items.num_chunks.max() > self.block:  # a patent is never divided between blocks
            self._allocate(_round_up(int(items.num_chunks.max())))
        first = 0
        while first < len(items):
            end = int(np.searchsorted(items.starts, items.starts[first] + self.block, side="right")) - 1
            yield first, end, self._block(items, first, end)
            first = end

    def _block(self, items: Items, first: int, end: int) -> torch.Tensor:
        low, high = int(items.starts[first]), int(items.starts[end])
        self._patents.numpy()[: high - low] = items.vectors[low:high]
        self._patents[high - low :] = 0
        torch.mm(self.queries.matrix, self._patents.T, out=self._scores)
        sizes = self.queries.slices
        scores = self._scores[: sizes[0]]
        offset = sizes[0]
        for size in sizes[1:]:
            torch.maximum(scores[:size], self._scores[offset : offset + size], out=scores[:size])
            offset += size
        if high - low > end - first:
            scores = self._best_of_patent(scores, items.starts[first:end] - low, items.num_chunks[first:end])
        scores[:, end - first :] = -torch.inf
        return scores

    def _best_of_patent(self, scores: torch.Tensor, starts: Ints, counts: Ints) -> torch.Tensor:
        """scores (T, block) with a column per chunk -> (T, block) with a column per patent, left-aligned."""
        if self._reduced is None:
            self._reduced = torch.empty(len(scores), self.block)
        reduced = self._reduced
        reduced[:, : len(starts)] = scores[:, torch.from_numpy(starts)]
        for chunk in range(1, int(counts.max())):
            which = np.flatnonzero(counts > chunk)
            columns = torch.from_numpy(which)
            reduced[:, columns] = torch.maximum(reduced[:, columns], scores[:, torch.from_numpy(starts[which] + chunk)])
        return reduced


# ---- the k best


@dataclass
class Hits:
    """The k best patents of each of T techniques (in the techniques' order), from all parts or some of them."""

    scores: Floats  # (T, k) falling; -inf where fewer than k were found
    positions: Ints  # (T, k); -1 where none
    chunks: NDArray[np.int32]  # (T, k) the technique's best-matching chunk
    known: Ints  # positions whose id is in `ids`, ascending
    ids: pa.Array
    num_patents: int
    num_filtered_out: int = 0
    greater: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # (R,) per target: patents scored higher
    equal: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # (R,) within a tie, itself included

    def patent_ids(self, positions: Ints) -> pa.Array:
        return self.ids.take(pa.array(np.searchsorted(self.known, positions)))


@dataclass(frozen=True)
class Targets:
    """Known matches whose rank is wanted: R pairs."""

    technique: Ints  # (R,) index into the techniques
    score: Floats  # (R,)
    tie: Floats  # (R,) half-width of what counts as equal

    @classmethod
    def none(cls) -> Targets:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32))


class _TopK:
    """FAISS heaps over T rows that keep their thresholds from block to block.

    A heap evicts the least (score, id) first and admits only scores strictly above its least, so ids are negated
    positions: among equal scores the patent that came first stays.
    """

    def __init__(self, rows: int, k: int) -> None:
        import faiss

        self._faiss: Any = faiss
        self._heap = faiss.ResultHeap(rows, k, keep_max=True)

    def add(self, scores: torch.Tensor, positions: Ints) -> None:
        """scores: (rows, B) contiguous fp32. positions: (B,), above all positions added before."""
        swig_ptr = self._faiss.swig_ptr
        values, ids = scores.numpy(), -positions - 2  # named: FAISS gets bare pointers, which keep nothing alive
        self._heap.heaps.addn_with_ids(values.shape[1], swig_ptr(values), swig_ptr(ids), 0, 0, len(values))

    def positions(self) -> Ints:
        """(rows, k), unsorted, -1 where empty."""
        return np.where(self._heap.I == -1, -1, -self._heap.I - 2)

    def scores(self) -> Floats:
        return np.where(self._heap.I == -1, -np.inf, self._heap.D).astype(np.float32)


class _Ids:
    """Ids of the patents that are among the k best somewhere, by position: pruned as the heaps move on."""

    def __init__(self, most: int) -> None:
        self.most = most  # rows to hold before pruning
        self._positions: list[Ints] = []
        self._ids: list[pa.Array] = []
        self._held = 0

    def add(self, positions: Ints, ids: pa.Array, kept: Callable[[], Ints]) -> None:
        self._positions.append(positions)
        self._ids.append(ids)
        self._held += len(positions)
        if self._held > self.most:
            self._prune(kept())

    def _prune(self, kept: Ints) -> None:
        held, ids = np.concatenate(self._positions), pa.concat_arrays(self._ids)
        wanted = np.flatnonzero(np.isin(held, kept))
        self._positions, self._ids = [held[wanted]], [ids.take(pa.array(wanted))]
        self._held = len(wanted)

    def of(self, kept: Ints) -> tuple[Ints, pa.Array]:
        if not self._positions:
            return np.zeros(0, np.int64), pa.array([], pa.string())
        self._prune(kept)
        return self._positions[0], self._ids[0]


def prefilter(parts: Parts, queries: Queries, k: int, targets: Targets | None = None) -> Hits:
    """The k best patents of every technique over all parts, exactly, and how many outscore each target.

    parts: opened once, and once more when techniques have several chunks (to name the best one); positions ascend.
    Ties go to the lower position. torch's threads take slices of the parts in turn, each with heaps of its own: nothing
    waits at barriers, and a part is read while others are searched. Memory per thread: one block of scores, T x k.
    Raises ValueError for vectors of another dimension than the queries'.
    """
    threads = torch.get_num_threads()
    searches = [_Search(queries, k, targets or Targets.none()) for _ in range(threads)]
    stream, lock = _slices(_read_ahead(parts()), queries), threading.Lock()

    def work(search: _Search) -> None:
        import faiss

        faiss.omp_set_num_threads(1)  # counts for the calling thread
        while True:
            with lock:
                part = next(stream, None)
            if part is None:
                return
            search.add(part)

    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, searches))
    finally:
        torch.set_num_threads(threads)
    hits = merge([search.hits() for search in searches if search.used] or [searches[0].hits()], k)
    return replace(hits, chunks=best_chunks(parts, queries, hits.positions))


SLICE_PATENTS = 4 * BLOCK_ROWS
"""Patents that a thread takes at a time."""


def _read_ahead(parts: Iterable[Part]) -> Iterator[Part]:
    """The same parts; each next one is read in a thread of its own while its forerunner is searched."""
    parts = iter(parts)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, parts, None)
        while (part := coming.result()) is not None:
            coming = reader.submit(next, parts, None)
            yield part


def _slices(parts: Iterable[Part], queries: Queries) -> Iterator[Part]:
    """Parts in slices without copies; one vector per patent where chunks are averaged."""
    for part in parts:
        items = part.items.averaged() if queries.aggregate == "mean" else part.items
        if len(items) and items.vectors.shape[1] != queries.dim:
            raise ValueError(f"patent vectors have dimension {items.vectors.shape[1]}, technique vectors {queries.dim}")
        filtered_out = part.filtered_out
        for low in range(0, max(len(items), 1), SLICE_PATENTS):
            some = slice(low, low + SLICE_PATENTS)
            yield Part(items.slice(low, low + SLICE_PATENTS), part.positions[some], filtered_out)
            filtered_out = None  # counted once


class _Search:
    """One thread's heaps and counts over the slices that it was given, in the order of their positions."""

    def __init__(self, queries: Queries, k: int, targets: Targets) -> None:
        self.queries, self.k, self.targets = queries, k, targets
        self.used = False
        self.num_patents = self.num_filtered_out = 0
        self.greater, self.equal = (np.zeros(len(targets.score), np.int64) for _ in range(2))
        self.heaps = _TopK(len(queries), k)
        self.ids = _Ids(most=2 * len(queries) * k + (1 << 16))

    @cached_property
    def scorer(self) -> Scorer:  # made at the first slice: a thread that gets none allocates no block
        return Scorer(self.queries)

    def add(self, part: Part) -> None:
        self.used = True
        self.num_filtered_out += 0 if part.filtered_out is None else len(part.filtered_out)
        if not len(part.items):
            return
        self.num_patents += len(part.items)
        for first, end, scores in self.scorer.blocks(part.items):
            positions = np.full(self.scorer.block, part.positions[end - 1])  # of the -inf columns: never admitted
            positions[: end - first] = part.positions[first:end]
            self.heaps.add(scores, positions)
            _count_above(scores, self.queries, self.targets, self.greater, self.equal)
        self.ids.add(part.positions, part.items.ids, lambda: np.unique(self.heaps.positions()))

    def hits(self) -> Hits:
        """What was found so far; the best chunks are not known yet (0)."""
        row_of = self.queries.row_of
        scores, positions = _sorted(self.heaps.scores()[row_of], self.heaps.positions()[row_of])
        kept = np.unique(positions)
        known, ids = self.ids.of(kept[kept >= 0])
        chunks, counts = np.zeros(positions.shape, np.int32), (self.num_patents, self.num_filtered_out)
        return Hits(scores, positions, chunks, known, ids, *counts, self.greater, self.equal)


def _sorted(scores: Floats, positions: Ints) -> tuple[Floats, Ints]:
    """Rows by falling score, then rising position; empty places last."""
    order = np.lexsort((np.where(positions < 0, np.iinfo(np.int64).max, positions), -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(positions, order, axis=1)


def _count_above(scores: torch.Tensor, queries: Queries, targets: Targets, greater: Ints, equal: Ints) -> None:
    for start in range(0, len(targets.score), 256):  # 256 x block scores at a time: 2 MiB
        some = slice(start, start + 256)
        rows = scores[torch.from_numpy(queries.row_of[targets.technique[some]])]
        middle, tie = (torch.tensor(column[some])[:, None] for column in (targets.score, targets.tie))
        above = (rows > middle + tie).sum(dim=1).numpy()
        greater[some] += above
        equal[some] += (rows >= middle - tie).sum(dim=1).numpy() - above


def best_chunks(parts: Parts, queries: Queries, positions: Ints) -> NDArray[np.int32]:
    """(T, k) the technique's chunk that scores highest with each patent of `positions`; the first one at a tie.

    Reads the parts once more, unless every technique has one chunk. Under "mean" a patent is the mean of its chunks
    here too.
    """
    best = np.zeros(positions.shape, dtype=np.int32)
    several = np.flatnonzero(queries.items.num_chunks > 1)
    if not len(several):
        return best
    for part in parts():
        items = part.items.averaged() if queries.aggregate == "mean" else part.items
        if not len(items):
            continue
        wanted = positions[several]
        at = np.searchsorted(part.positions, wanted).clip(max=len(items) - 1)
        here = part.positions[at] == wanted
        for row in np.flatnonzero(here.any(axis=1)):
            technique, columns = several[row], np.flatnonzero(here[row])
            which = at[row, columns]
            low, high = queries.items.starts[technique : technique + 2]
            products = queries.items.vectors[low:high] @ items.vectors[items.rows(which)].T  # (chunks, patent chunks)
            firsts = np.cumsum(items.num_chunks[which]) - items.num_chunks[which]
            best[technique, columns] = np.maximum.reduceat(products, firsts, axis=1).argmax(axis=0)
    return best


def merge(several: Sequence[Hits], k: int) -> Hits:
    """The k best over disjoint sets of parts. The same as searching them at once."""
    scores = np.concatenate([hits.scores for hits in several], axis=1)
    positions = np.concatenate([hits.positions for hits in several], axis=1)
    chunks = np.concatenate([hits.chunks for hits in several], axis=1)
    last = np.where(positions < 0, np.iinfo(np.int64).max, positions)
    order = np.lexsort((last, -scores), axis=1)[:, :k]
    known = np.concatenate([hits.known for hits in several])
    ids = pa.concat_arrays([hits.ids for hits in several])
    by_position = np.argsort(known, kind="stable")
    return Hits(
        np.take_along_axis(scores, order, axis=1),
        np.take_along_axis(positions, order, axis=1),
        np.take_along_axis(chunks, order, axis=1),
        known[by_position],
        ids.take(pa.array(by_position)),
        sum(hits.num_patents for hits in several),
        sum(hits.num_filtered_out for hits in several),
        np.sum([hits.greater for hits in several], axis=0),
        np.sum([hits.equal for hits in several], axis=0),
    )


# ---- ranks of known matches


@dataclass(frozen=True)
class MatchScores:
    """R known matches, scored: `targets`, and each one's 0-based rank among the techniques of its patent."""

    targets: Targets
    rank_in_patent: NDArray[np.float64]


def score_matches(queries: Queries, patents: Items, technique: Ints, patent: Ints) -> MatchScores:
    """Score known matches: pairs (technique[i], patent[i]) of indices into the techniques and into `patents`.

    Memory: one block of scores. Pairs within TIE of each other share their mean rank.
    """
    count = len(technique)
    score, rank = np.zeros(count, np.float32), np.zeros(count, np.float64)
    items = patents.averaged() if queries.aggregate == "mean" else patents
    tie = (TIE * queries.norms[technique] * items.norms[patent]).astype(np.float32)
    by_patent = np.argsort(patent, kind="stable")
    sorted_patents = patent[by_patent]
    for first, end, scores in Scorer(queries).blocks(items) if count else ():
        some = by_patent[slice(*np.searchsorted(sorted_patents, [first, end]))]
        for start in range(0, len(some), 256):
            pairs = some[start : start + 256]
            columns = scores[:, torch.from_numpy(patent[pairs] - first)].numpy()  # (T, pairs)
            mine = columns[queries.row_of[technique[pairs]], np.arange(len(pairs))]
            above = (columns > mine + tie[pairs]).sum(axis=0)
            within = (columns >= mine - tie[pairs]).sum(axis=0) - above
            score[pairs], rank[pairs] = mine, mean_rank(above, within)
    return MatchScores(Targets(technique, score, tie), rank)


def mean_rank(greater: NDArray[Any], equal: NDArray[Any]) -> NDArray[np.float64]:
    """0-based rank: how many are greater, plus half of the others that are equal (`equal` includes itself)."""
    return greater + (equal - 1) / 2


# ---- which patents are searched


def passes(patents: pa.Table, config: SearchConfig) -> NDArray[np.bool_]:
    """(N,) whether each row of a patents table (columns codes, year) has a wanted code and year."""
    keep = np.ones(patents.num_rows, dtype=bool)
    if config.codes:
        keep &= _has_code(patents.column("codes"), [code.replace(" ", "") for code in config.codes])
    year = patents.column("year")
    if config.year_from is not None:
        keep &= np.asarray(pc.fill_null(pc.greater_equal(year, config.year_from), False))
    if config.year_to is not None:
        keep &= np.asarray(pc.fill_null(pc.less_equal(year, config.year_to), False))
    return keep


def _has_code(codes: pa.ChunkedArray, prefixes: Sequence[str]) -> NDArray[np.bool_]:
    column = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
    found = np.zeros(len(column), dtype=bool)
    flat = pc.replace_substring(pc.list_flatten(column), " ", "")
    owner = np.asarray(pc.list_parent_indices(column))
    for prefix in prefixes:
        found[owner[np.asarray(pc.fill_null(pc.starts_with(flat, prefix), False))]] = True
    return found


def check_same_space(patents: Items, techniques: Items, names: tuple[str, str], models: tuple[str, str]) -> None:
    """Raises ConfigError when the two embed stages' vectors differ in dimension. names, models: (patents',
    techniques').
    """
    dims = patents.vectors.shape[1], techniques.vectors.shape[1]
    if len(patents) and len(techniques) and dims[0] != dims[1]:
        raise ConfigError(
            f"patents are embedded in {dims[0]} dimensions (stage {names[0]!r}, model {models[0]!r}), "
            f"techniques in {dims[1]} (stage {names[1]!r}, model {models[1]!r}): embed both with one model"
        )
