"""The next level's candidates out of a finished score stage: the best k of each technique, and what that loses.

    SCORES, a part at a time --rank within technique--> k, chosen or given --> CANDIDATES, a part for each part

A cascade is score, shortlist, score, ...: each level reads fewer pairs with a dearer model. k is given, or it is the
least that keeps a wanted share of the known matches of the valid side, or the most that a budget of pairs allows.

Memory: a part, the number of pairs of each technique, and the known matches.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported: a type checker sees none of them)

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from patentft import schema, stats
from patentft.config import Config, ConfigError
from patentft.corpus.lookup import match_list
from patentft.search.recall import KS
from patentft.stage import Context, Stage, StageRef

Ints = npt.NDArray[np.int64]


class ShortlistConfig(Config):
    """How many of each technique's best pairs go on. One of top_k, recall and pairs."""

    scores: StageRef
    """A score stage."""
    data: StageRef
    """The stage with the table matches."""
    top_k: int | None = Field(default=None, ge=1)
    """So many of each technique."""
    recall: float | None = Field(default=None, gt=0, le=1)
    """The least k that keeps this share of the valid side's known matches that were scored."""
    certified: bool = True
    """With recall: the lower bound of the share reaches it, not only the share itself."""
    pairs: int | None = Field(default=None, ge=1)
    """The largest k with which no more pairs than this go on, all techniques together."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Of the bounds."""

    @model_validator(mode="after")
    def _one_way(self) -> ShortlistConfig:
        given = [name for name in ("top_k", "recall", "pairs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"set one of top_k, recall and pairs; got {' and '.join(given) or 'none'}")
        if self.certified and self.recall == 1:
            raise ValueError("no number of matches certifies a recall of 1: lower it, or set certified: false")
        return self


# ---- pure: which k


def least_k(ranks: Ints, recall: float, confidence: float | None) -> int:
    """The least k that keeps a share `recall` of the relevant pairs, whose 0-based ranks (n,) are given.

    confidence: the exact one-sided lower bound of the share reaches it (pairs taken as independent); None: the share
    itself. That k is chosen on the same pairs costs no confidence: what is kept grows with k, so a k that is too small
    is chosen only where the bound fails for the largest k that is too small, and that is one bound.
    Raises ConfigError when no k does.
    """
    if not len(ranks):
        raise ConfigError("no known match of the side that k is chosen on was scored: give top_k or pairs instead")

    def share(kept: int) -> float:
        return kept / len(ranks) if confidence is None else stats.recall_lower_bound(kept, len(ranks), confidence)

    # both rise with what is kept
    least = bisect.bisect_left(range(1, len(ranks) + 1), recall, key=share)  # one less than what must be kept
    if least == len(ranks):
        needed = stats.pairs_to_certify(recall, confidence or 0.95)
        raise ConfigError(
            f"{len(ranks):,} known matches cannot certify a recall of {recall:g} at {confidence:.0%} confidence, even "
            f"with none lost: {needed:,} can; add matches, lower recall or confidence, or set certified: false"
        )
    return int(np.sort(ranks)[least]) + 1


def largest_k(sizes: Ints, pairs: int) -> int:
    """The largest k with sum(min(k, size)) <= pairs; sizes (techniques,): their numbers of pairs, 1 or more.

    Raises ConfigError when not even the best pair of each technique is in the budget.
    """
    if pairs < len(sizes):
        raise ConfigError(f"pairs is {pairs:,}, less than one for each of {len(sizes):,} techniques: raise it")
    ordered = np.sort(sizes)
    below = np.concatenate([[0], np.cumsum(ordered)[:-1]])  # pairs of the smaller ones, which are kept whole
    left = len(ordered) - np.arange(len(ordered))
    # up to the i-th smallest size, one more k is `left[i]` more pairs
    fitting = (pairs - below) // left
    stops = np.flatnonzero(fitting < ordered)
    return int(fitting[stops[0]]) if len(stops) else int(ordered[-1])


def kept_at(ranks: Ints, k: int, confidence: float) -> dict[str, Any]:
    """What keeping the first k does to the relevant pairs of these 0-based ranks (n,)."""
    found = int((ranks < k).sum())
    return {
        "relevant": len(ranks),
        "kept": found,
        "lost": len(ranks) - found,
        "recall": found / len(ranks),
        "lower_bound": stats.recall_lower_bound(found, len(ranks), confidence),
    }


# ---- the stage


@dataclass(frozen=True)
class _Survey:
    """One pass over SCORES."""

    sizes: dict[str, Ints]  # role -> pairs of each technique
    ranks: dict[str, Ints]  # role -> 0-based ranks of the known matches that were scored


def run(config: ShortlistConfig, context: Context) -> dict[str, Any]:
    """Table candidates, a part for each part of SCORES. Counts: k, pairs in and out, and for each role the known
    matches kept and lost at this level, with the bound, and the recall at other k.
    """
    source, folder = context.input(config.scores), context.folder
    entries = source.parts("scores")
    if "chunk" not in source.read_part(entries[0]).column_names:
        raise ConfigError(f"stage {config.scores!r} was made by a version that kept no chunk: run it again (--redo)")

    def parts() -> Iterator[pa.Table]:
        for entry in entries:
            yield source.read_part(entry, COLUMNS)

    survey = _survey(parts(), match_list(context.input(config.data)))
    k, side = _choose(config, survey)
    for index in folder.missing_parts("candidates", len(entries)):
        folder.write_part("candidates", index, best_of(source.read_part(entries[index], COLUMNS), k))
    sizes = np.concatenate(list(survey.sizes.values()))
    return {
        "k": k,
        "k_chosen_on": side,
        "techniques": len(sizes),
        "pairs_in": int(sizes.sum()),
        "pairs_out": int(np.minimum(sizes, k).sum()),
        "confidence": config.confidence,
        "matches": {
            role: {**kept_at(ranks, k, config.confidence), "recall_at": _curve(ranks, survey.sizes[role])}
            for role, ranks in survey.ranks.items()
            if len(ranks)
        },
    }


COLUMNS = ("technique_id", "patent_id", "role", "cosine", "chunk", "log_odds")


def best_of(scores: pa.Table, k: int) -> pa.Table:
    """The first k of each technique as CANDIDATES: techniques in their order, each by falling log-odds, equal ones by
    patent.
    """
    codes = scores["technique_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    ranks = ranks_of(scores)
    order = np.lexsort((ranks, codes))
    order = order[ranks[order] < k]
    kept = scores.take(pa.array(order)).combine_chunks()
    columns = {name: kept[name] for name in schema.CANDIDATES.names if name != "rank"}
    columns["rank"] = pa.array(ranks[order], pa.int32())
    return pa.table({name: columns[name] for name in schema.CANDIDATES.names}, schema=schema.CANDIDATES)


def ranks_of(scores: pa.Table) -> Ints:
    """(n,) 0-based rank of each pair in its technique, by falling log-odds, equal ones by patent."""
    groups, patents = (np.asarray(scores[name].to_pylist(), dtype=object) for name in ("technique_id", "patent_id"))
    return stats.ranks_within(scores["log_odds"].to_numpy(), groups, patents)


def _survey(parts: Iterator[pa.Table], matches: Sequence[tuple[str, str]]) -> _Survey:
    known = pa.array([f"{technique}\0{patent}" for technique, patent in matches], pa.string())
    sizes: dict[str, list[Ints]] = {}
    ranks: dict[str, list[Ints]] = {}
    for part in parts:
        if not part.num_rows:
            continue
        own = ranks_of(part)
        names = pc.binary_join_element_wise(part["technique_id"], part["patent_id"], "\0")
        matched = np.asarray(pc.is_in(names, value_set=known))
        roles = np.asarray(part["role"].to_pylist(), dtype=object)
        for role in dict.fromkeys(roles.tolist()):
            mine = roles == role
            counts = pc.value_counts(part["technique_id"].filter(pa.array(mine))).field("counts").to_numpy()
            sizes.setdefault(role, []).append(counts.astype(np.int64))
            ranks.setdefault(role, []).append(own[mine & matched])
    if not sizes:
        raise ConfigError("the score stage has no pair")
    return _Survey(
        {role: np.concatenate(found) for role, found in sizes.items()},
        {role: np.concatenate(found) for role, found in ranks.items()},
    )


def _choose(config: ShortlistConfig, survey: _Survey) -> tuple[int, str | None]:
    """(k, the role on whose known matches it was chosen)."""
    if config.top_k is not None:
        return config.top_k, None
    if config.pairs is not None:
        return largest_k(np.concatenate(list(survey.sizes.values())), config.pairs), None
    assert config.recall is not None
    side = "valid" if "valid" in survey.ranks else "all"
    ranks = survey.ranks.get(side, np.zeros(0, np.int64))
    return least_k(ranks, config.recall, config.confidence if config.certified else None), side


def _curve(ranks: Ints, sizes: Ints) -> Mapping[str, float]:
    """Recall at the usual k up to the largest technique's."""
    return {str(k): float((ranks < k).mean()) for k in KS if k <= sizes.max()}


SHORTLIST = Stage("shortlist", ShortlistConfig, run, uses_ray=False)
