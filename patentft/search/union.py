"""Candidates of several searches as one list for each technique: reciprocal rank fusion (Cormack et al. 2009).

    CANDIDATES of each route --sum of 1 / (constant + rank from 1)--> the best k of each technique
      --vectors of the embed stages--> cosine and chunk, of every pair in the same way --> CANDIDATES

A route is a search (with a code filter, if it is to look among some CPC codes only), lexical, shortlist or union stage.
Ranks are all that is taken from it: cosines of different encoders, or of words, do not compare. So the cosine of a pair
is computed here, whichever route brought it: the scorer may weigh it.

Memory: the routes' candidates as numbers, and one part of the patents' vectors. Ties go to the pair that stands highest
in any route, then by patent; the order in which the routes are given changes nothing.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported: a type checker sees none of them)

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from patentft import schema
from patentft.config import Config, ConfigError
from patentft.corpus.lookup import match_list
from patentft.search.prefilter import Aggregate, Items, check_same_space
from patentft.stage import Context, Stage, StageRef

Ints = npt.NDArray[np.int64]

TECHNIQUES_PER_PART = 512


class UnionConfig(Config):
    """Which searches become one."""

    routes: list[StageRef] = Field(min_length=2)
    """Stages of kind search, lexical, shortlist or union, over the same sides of one split."""
    patents: StageRef
    """Embed stage of the patents: for the cosine of each pair."""
    techniques: StageRef
    """Embed stage of the techniques, of the same model."""
    data: StageRef
    """The stage with the table matches: what each route alone brought is counted in known matches too."""
    top_k: int = Field(default=200, ge=1)
    """Patents kept per technique."""
    constant: float = Field(default=60.0, gt=0)
    """The larger it is, the less the first ranks weigh against the later ones."""
    aggregate: Aggregate = "max"
    """As in a search stage."""

    @model_validator(mode="after")
    def _each_once(self) -> UnionConfig:
        if len(set(self.routes)) < len(self.routes):
            raise ValueError(f"routes names a stage twice: {', '.join(self.routes)}")
        return self


# ---- pure


@dataclass(frozen=True)
class Fused:
    """Pairs, techniques one after the other, each by rank."""

    techniques: pa.Array  # (T,) ids
    roles: pa.Array  # (T,)
    patents: pa.Array  # (P,) ids, rising
    technique: Ints  # (n,) into `techniques`, rising
    patent: Ints  # (n,) into `patents`
    rank: Ints  # (n,) 0-based
    by_route: npt.NDArray[np.bool_]  # (n, routes): whether the route has the pair
    lost: int  # pairs of the routes beyond the first k


def fuse(routes: Mapping[str, pa.Table], top_k: int, constant: float) -> Fused:
    """The best k pairs of each technique of the routes' tables (columns technique_id, patent_id, role, rank).

    Raises ConfigError when a technique has two roles: then the routes are of different splits.
    """
    whole = pa.concat_tables([table.select(["technique_id", "patent_id", "role", "rank"]) for table in routes.values()])
    techniques, patents = (np.sort(pc.unique(whole[name]).to_numpy(False)) for name in ("technique_id", "patent_id"))
    names = pa.array(techniques, pa.string()), pa.array(patents, pa.string())
    technique, patent = (
        np.asarray(pc.index_in(whole[column], value_set=name)).astype(np.int64)
        for column, name in zip(("technique_id", "patent_id"), names, strict=True)
    )
    roles = _roles(whole, technique, len(techniques))
    ranks = whole["rank"].to_numpy().astype(np.int64)
    route = np.repeat(np.arange(len(routes)), [table.num_rows for table in routes.values()])
    keys, pair = np.unique(technique * len(patents) + patent, return_inverse=True)
    order = np.argsort(-ranks, kind="stable")  # the smallest terms first, in whatever order the routes are given
    score = np.bincount(pair[order], 1.0 / (constant + ranks[order] + 1.0), minlength=len(keys))
    best = np.full(len(keys), np.iinfo(np.int64).max)
    np.minimum.at(best, pair, ranks)
    by_route = np.zeros((len(keys), len(routes)), bool)
    by_route[pair, route] = True
    owner = keys // max(len(patents), 1)
    order = np.lexsort((keys, best, -score, owner))
    starts = np.searchsorted(owner[order], np.arange(len(techniques)))
    place = np.arange(len(keys)) - starts[owner[order]]
    order, place = order[place < top_k], place[place < top_k]
    return Fused(
        *(names[0], roles, names[1], owner[order], keys[order] % max(len(patents), 1), place, by_route[order]),
        lost=len(keys) - len(order),
    )


def _roles(whole: pa.Table, technique: Ints, num_techniques: int) -> pa.Array:
    names = pc.unique(whole["role"])
    codes = np.asarray(pc.index_in(whole["role"], value_set=names)).astype(np.int64)
    least, most = np.full(num_techniques, len(names)), np.full(num_techniques, -1)
    np.minimum.at(least, technique, codes)
    np.maximum.at(most, technique, codes)
    if (least != most).any():
        row = int(np.argmax(technique == np.argmax(least != most)))
        raise ConfigError(
            f"technique {whole['technique_id'][row].as_py()!r} has two roles in the routes: give them the same split"
        )
    return names.take(pa.array(least))


def cosines(
    fused: Fused, techniques: Items, parts: Iterable[Items], aggregate: Aggregate
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """(cosine (n,), the technique's best chunk (n,)) of each pair, as a search gives them up to fp32 rounding.

    Raises ConfigError for a technique or patent that has no vector.
    """
    place = pc.index_in(fused.techniques, value_set=techniques.ids)
    if place.null_count:
        raise ConfigError(f"technique {fused.techniques.filter(pc.is_null(place))[0].as_py()!r} has no embedding")
    row_of = np.asarray(place).astype(np.int64)
    means = techniques.averaged() if aggregate == "mean" else techniques
    value, chunk = np.full(len(fused.rank), np.nan, np.float32), np.zeros(len(fused.rank), np.int32)
    by_patent = np.argsort(fused.patent, kind="stable")
    ends = np.searchsorted(fused.patent[by_patent], np.arange(len(fused.patents) + 1))
    for items in parts:
        if aggregate == "mean":
            items = items.averaged()
        index = pc.index_in(items.ids, value_set=fused.patents)
        rows = np.flatnonzero(np.asarray(pc.is_valid(index)))
        own = np.asarray(index.take(pa.array(rows))).astype(np.int64)
        counts = ends[own + 1] - ends[own]
        pairs = by_patent[np.repeat(ends[own], counts) + _counting(counts)]
        which = np.repeat(rows, counts)
        order = np.argsort(fused.technique[pairs], kind="stable")
        pairs, which = pairs[order], which[order]
        for technique, low, high in _runs(fused.technique[pairs]):
            mine, at, row = pairs[low:high], which[low:high], row_of[technique]
            vectors = items.vectors[items.rows(at)]
            firsts = np.cumsum(items.num_chunks[at]) - items.num_chunks[at]
            own_vectors = techniques.vectors[techniques.starts[row] : techniques.starts[row + 1]]
            products = np.maximum.reduceat(own_vectors @ vectors.T, firsts, axis=1)  # (chunks, patents)
            chunk[mine] = products.argmax(axis=0)
            value[mine] = vectors @ means.vectors[row] if aggregate == "mean" else products.max(axis=0)
    if np.isnan(value).any():
        missing = fused.patents[int(fused.patent[np.argmax(np.isnan(value))])].as_py()
        raise ConfigError(f"patent {missing!r} has no embedding: name the embed stage of the data that was searched")
    return value, chunk


def _counting(counts: Ints) -> Ints:
    """0, 1, ... counts[0] - 1, 0, 1, ... counts[1] - 1, ..."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _runs(values: Ints) -> list[tuple[int, int, int]]:
    """(value, first place, end) of each run of equal values."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    return list(zip(values[starts].tolist(), starts.tolist(), [*starts[1:].tolist(), len(values)], strict=True))


# ---- the stage


def run(config: UnionConfig, context: Context) -> dict[str, Any]:
    """Table candidates, techniques by their ids. Counts: pairs kept and beyond k; of each route its pairs, those kept,
    those kept that no other route has, and the same of the known matches.
    """
    columns = ["technique_id", "patent_id", "role", "rank"]
    routes = {name: context.input(name).read("candidates", columns) for name in config.routes}
    if not any(table.num_rows for table in routes.values()):
        raise ConfigError("no route has a candidate")
    fused = fuse(routes, config.top_k, config.constant)
    folder, patents = context.folder, context.input(config.patents)
    num_parts = -(-len(fused.techniques) // TECHNIQUES_PER_PART)
    if missing := folder.missing_parts("candidates", num_parts):
        techniques = Items.from_table(context.input(config.techniques).read("embeddings"))
        vectors = map(Items.from_table, patents.iter_parts("embeddings", ["id", "chunk", "vector"]))
        first = Items.from_table(patents.read_part(patents.parts("embeddings")[0], ["id", "chunk", "vector"]))
        models = str(patents.config.get("model")), str(context.input(config.techniques).config.get("model"))
        check_same_space(first, techniques, (config.patents, config.techniques), models)
        value, chunk = cosines(fused, techniques, vectors, config.aggregate)
        table = pa.table(
            {
                "technique_id": fused.techniques.take(pa.array(fused.technique)),
                "patent_id": fused.patents.take(pa.array(fused.patent)),
                "role": fused.roles.take(pa.array(fused.technique)),
                "rank": fused.rank.astype(np.int32),
                "cosine": value,
                "chunk": chunk,
            }
        ).cast(schema.CANDIDATES)
        for part in missing:
            low, high = np.searchsorted(fused.technique, [part * TECHNIQUES_PER_PART, (part + 1) * TECHNIQUES_PER_PART])
            folder.write_part("candidates", part, table.slice(low, high - low))
    return _counts(fused, routes, match_list(context.input(config.data)))


def _counts(fused: Fused, routes: Mapping[str, pa.Table], matches: Sequence[tuple[str, str]]) -> dict[str, Any]:
    known = set(matches)
    names = fused.techniques.to_pylist(), fused.patents.to_pylist()
    pairs = zip(fused.technique.tolist(), fused.patent.tolist(), strict=True)
    matched = np.array([(names[0][technique], names[1][patent]) in known for technique, patent in pairs], bool)
    alone = fused.by_route.sum(axis=1) == 1
    counts: dict[str, Any] = {}
    for column, (name, table) in enumerate(routes.items()):
        own = fused.by_route[:, column]
        listed = zip(table["technique_id"].to_pylist(), table["patent_id"].to_pylist(), strict=True)
        counts[name] = {
            "pairs": table.num_rows,
            "kept": int(own.sum()),
            "kept_alone": int((own & alone).sum()),
            "matches": sum(pair in known for pair in listed),
            "matches_kept": int((own & matched).sum()),
            "matches_kept_alone": int((own & alone & matched).sum()),
        }
    return {
        "techniques": len(fused.techniques),
        "pairs_kept": len(fused.rank),
        "pairs_beyond_k": fused.lost,
        "matches_kept": int(matched.sum()),
        "routes": counts,
    }


UNION = Stage("union", UnionConfig, run, uses_ray=False)
