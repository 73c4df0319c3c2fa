"""A second opinion on a sample of the scored pairs, and what it says of all of them. Pure.

1. pairs are put into strata: the scorer's yes or no, by quantiles of its log-odds;
2. of each stratum some pairs are drawn, or all;
3. a pair stands for N/n pairs of its stratum (Horvitz & Thompson 1952), so agreement, kappa and the scorer's precision
   and recall are those of all pairs, not of the sample. The second opinion is taken for the truth.

Intervals are bootstraps over techniques: pairs of one technique are alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from patentft import stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def quantile_edges(log_odds: NDArray[np.floating], bins: int) -> Floats:
    """(bins - 1 or fewer,) log-odds that cut all pairs into bins of like size."""
    return np.unique(np.quantile(log_odds.astype(np.float64), np.linspace(0, 1, bins + 1)[1:-1]))


def strata_of(log_odds: NDArray[np.floating], yes: Bools, edges: Floats) -> Ints:
    """(n,) stratum: twice the quantile's number, and one more where the scorer says yes."""
    return 2 * np.searchsorted(edges, log_odds, side="right") + yes


def draw(parts: Iterable[pa.Table], per_stratum: int, every_yes: bool, seed: int) -> tuple[pa.Table, dict[int, int]]:
    """(the drawn rows, {stratum: how many pairs it has}); parts: tables with a column stratum (int32).

    Each part's draws depend on its number and the seed alone. Memory: a part, and what is drawn.
    """
    held: pa.Table | None = None
    sizes: dict[int, int] = {}
    for number, part in enumerate(parts):
        strata, counts = np.unique(part["stratum"].to_numpy(), return_counts=True)
        for stratum, count in zip(strata.tolist(), counts.tolist(), strict=True):
            sizes[stratum] = sizes.get(stratum, 0) + count
        keys = np.random.default_rng([seed, number]).random(part.num_rows)
        both = part.append_column("key", pa.array(keys))
        both = both if held is None else pa.concat_tables([held, both])
        stratum = both["stratum"].to_numpy()
        order = np.lexsort((both["key"].to_numpy(), stratum))
        starts = np.searchsorted(stratum[order], stratum[order])
        kept = np.arange(len(order)) - starts < per_stratum
        if every_yes:
            kept |= stratum[order] % 2 == 1
        held = both.take(pa.array(np.sort(order[kept]))).combine_chunks()
    assert held is not None
    return held.drop_columns(["key"]), sizes


def weights_of(stratum: Ints, answered: Bools, sizes: dict[int, int]) -> tuple[Floats, int]:
    """((n,) how many pairs each answered row stands for, 0 where there is no answer; pairs that no row stands for)."""
    counts = {value: int((answered & (stratum == value)).sum()) for value in sizes}
    per_row = {value: sizes[value] / counts[value] if counts[value] else 0.0 for value in sizes}
    weights = np.array([per_row[value] for value in stratum.tolist()])
    return np.where(answered, weights, 0.0), sum(sizes[value] for value in sizes if not counts[value])


def estimates(
    yes: Bools, judged: Bools, weights: Floats, groups: NDArray[Any], *, num_resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """agreement, kappa, precision and recall of the scorer's yes: {estimate, low, high} or {not_defined}.

    yes, judged (n,): the scorer's and the second answer of the answered rows; weights (n,) above 0; groups (n,).
    """
    found: dict[str, dict[str, Any]] = {}
    for name, measure in MEASURES.items():
        try:
            interval = stats.bootstrap_statistic(measure, (yes, judged, weights), groups, num_resamples, seed)
            found[name] = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
        except ValueError as error:
            found[name] = {"not_defined": str(error)}
    return found


def _agreement(yes: Bools, judged: Bools, weights: Floats) -> float:
    return float(np.average(yes == judged, weights=weights))


def _share(of: Bools, judged: Bools, weights: Floats) -> float:
    if not of.any():
        raise ValueError("no pair is a yes")
    return float(np.average(judged[of], weights=weights[of]))


def _precision(yes: Bools, judged: Bools, weights: Floats) -> float:
    return _share(yes, judged, weights)


def _recall(yes: Bools, judged: Bools, weights: Floats) -> float:
    return _share(judged, yes, weights)


MEASURES = {"agreement": _agreement, "kappa": stats.cohen_kappa, "precision": _precision, "recall": _recall}
