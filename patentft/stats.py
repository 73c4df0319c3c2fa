"""Exact metrics, intervals and bounds, as pure functions of NumPy arrays.

Every figure a report prints comes from here. Scores are "higher is more likely yes"; labels are 0/1 or bool; `groups`
are ids of any dtype, one per row (technique, patent, code), and results per group follow the order of `np.unique`.
Arithmetic is float64. Ranking functions accept infinite scores, NaN is refused everywhere. What the data cannot answer
(one class only, no groups) is a ValueError, never a quiet 0 or .5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.stats
import sklearn.metrics
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Seed = int | np.random.Generator


# ---- input checks


def as_scores(values: ArrayLike, name: str = "scores", finite: bool = False, length: int | None = None) -> Floats:
    """A checked float64 vector (n,); ValueError if empty, not 1-D, NaN, infinite (if `finite`) or not `length` long."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty vector, got shape {array.shape}: pass one value per row")
    if length is not None and array.size != length:
        raise ValueError(f"{name} has {array.size} rows, expected {length}: pass columns of the same table")
    if np.isnan(array).any() or (finite and np.isinf(array).any()):
        bad = int((~np.isfinite(array)).sum() if finite else np.isnan(array).sum())
        raise ValueError(f"{name} has {bad} {'NaN or infinite' if finite else 'NaN'} values: drop or quarantine them")
    return array


def as_labels(values: ArrayLike, length: int, name: str = "labels") -> NDArray[np.bool_]:
    """A checked bool vector (length,); ValueError for other lengths and values other than 0 and 1."""
    array = as_scores(values, name, length=length)
    if not ((array == 0) | (array == 1)).all():
        raise ValueError(f"{name} must be 0 or 1, got {np.unique(array)[:5]}: threshold or drop the undecided rows")
    return array == 1


def _both_classes(scores: ArrayLike, labels: ArrayLike, finite: bool = True) -> tuple[Floats, NDArray[np.bool_]]:
    x = as_scores(scores, finite=finite)
    y = as_labels(labels, x.size)
    if y.all() or not y.any():
        raise ValueError(f"all {y.size} labels are {int(y[0])}: the metric needs both classes, add rows of the other")
    return x, y


def _probabilities(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    p = as_scores(probabilities, "probabilities")
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"probabilities span [{p.min():.3g}, {p.max():.3g}], expected [0, 1]: calibrate first")
    return p, as_labels(labels, p.size)


def _codes(groups: ArrayLike, length: int) -> tuple[NDArray[Any], NDArray[np.intp]]:
    array = np.asarray(groups)
    if array.shape != (length,):
        raise ValueError(f"groups have shape {array.shape}, expected ({length},): pass one id per row")
    unique, codes = np.unique(array, return_inverse=True)
    return unique, codes


def _fraction(value: float, name: str) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}, expected strictly between 0 and 1 (.95, not 95)")
    return value


# ---- ranking


def _auc_by_group(x: Floats, y: NDArray[np.bool_], codes: NDArray[np.intp], num: int, weights: Floats | None) -> Floats:
    """AUC per code (num,), NaN where a class has no weight. Unit weights: exact up to 2^52 pairs; no loop."""
    order = np.argsort(x)
    order = order[np.argsort(codes.astype(np.min_scalar_type(num))[order], kind="stable")]  # radix sort up to 16 bits
    x, codes, y = x[order], codes[order], y[order]
    w = np.ones(x.size) if weights is None else weights[order]
    new_run = np.concatenate(([True], (x[1:] != x[:-1]) | (codes[1:] != codes[:-1])))  # a run: same group, same score
    starts = np.flatnonzero(new_run)
    pos, neg = np.add.reduceat(np.where(y, w, 0.0), starts), np.add.reduceat(np.where(y, 0.0, w), starts)
    code = codes[starts]
    group_pos, group_neg = np.bincount(code, pos, num), np.bincount(code, neg, num)
    below = np.cumsum(neg) - neg - (np.cumsum(group_neg) - group_neg)[code]  # negatives of the group scored lower
    wins, pairs = np.bincount(code, pos * (below + neg / 2), num), group_pos * group_neg
    return np.divide(wins, pairs, out=np.full(num, np.nan), where=pairs > 0)


def auc(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the ROC curve: P(score of a positive > of a negative), ties count half. Exact, O(n log n).

    scores, labels, weights (n,), weights >= 0. ValueError unless both classes have weight. Hanley & McNeil 1982.
    """
    x, y = _both_classes(scores, labels, finite=False)
    w = None if weights is None else as_scores(weights, "weights", finite=True, length=x.size)
    if w is not None and (w.min() < 0 or not w[y].sum() > 0 or not w[~y].sum() > 0):
        raise ValueError("weights must be >= 0 and each class needs some: clip them, or drop the rows")
    return float(_auc_by_group(x, y, np.zeros(x.size, np.intp), 1, w)[0])


@dataclass(frozen=True)
class GroupedAUC:
    """AUC within each group: `groups` (G,), `auc` (G,) with NaN for skipped ones, their mean and how many count."""

    groups: NDArray[Any]
    auc: Floats
    mean: float
    num_used: int
    num_skipped: int


def grouped_auc(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> GroupedAUC:
    """AUC within each group (technique, patent) and the unweighted mean over groups which have both classes.

    All (n,). O(n log n), no loop over groups. ValueError when no group has both classes.
    """
    x = as_scores(scores)
    y = as_labels(labels, x.size)
    unique, codes = _codes(groups, x.size)
    values = _auc_by_group(x, y, codes, unique.size, None)
    used = ~np.isnan(values)
    if not used.any():
        raise ValueError(f"none of {unique.size} groups has both classes: label negatives beside positives in a group")
    return GroupedAUC(unique, values, float(values[used].mean()), int(used.sum()), int((~used).sum()))


def average_precision(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Average precision, sum of (R_i - R_{i-1}) P_i over distinct thresholds (scikit-learn's): ties exact.

    Finite scores (n,), labels (n,) with both classes, weights (n,) or None. ValueError otherwise.
    """
    x, y = _both_classes(scores, labels)
    w = None if weights is None else as_scores(weights, "weights", finite=True, length=x.size)
    return float(sklearn.metrics.average_precision_score(y, x, sample_weight=w))


def precision_recall_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """(precision (T+1,), recall (T+1,), thresholds (T,) rising) of scikit-learn; yes is score >= threshold."""
    x, y = _both_classes(scores, labels)
    return sklearn.metrics.precision_recall_curve(y, x)


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """(false positive rate (T,), true positive rate (T,), thresholds (T,)) of scikit-learn; the first is inf."""
    x, y = _both_classes(scores, labels)
    return sklearn.metrics.roc_curve(y, x)


def ranks_within(scores: ArrayLike, groups: ArrayLike, tie_break: ArrayLike) -> NDArray[np.int64]:
    """0-based rank (n,) int64 of each row in its group, best score first; equal scores go by `tie_break`, rising.

    scores, groups, tie_break (n,). Pass the item id as tie_break, never the row number of a file which lists positives
    first: ties would then favour them. Rows equal in both keep row order.
    """
    x = as_scores(scores)
    (unique, codes), (_, second) = _codes(groups, x.size), _codes(tie_break, x.size)
    order = np.lexsort((second, -x, codes))
    sizes = np.bincount(codes, minlength=unique.size)
    ranks = np.empty(x.size, np.int64)
    ranks[order] = np.arange(x.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks


def _checked_ranks(ranks: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(ranks)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu" or array.astype(np.int64).min() < -1:
        raise ValueError("ranks must be a non-empty integer vector: 0 is best, -1 means not retrieved")
    return array.astype(np.int64)


class Recall(NamedTuple):
    """`per_query` (Q, K); `macro` (K,) its mean over queries; `micro` (K,) pooled over relevant pairs."""

    per_query: Floats
    macro: Floats
    micro: Floats


def recall_at_k(ranks: ArrayLike, queries: ArrayLike, ks: Sequence[int]) -> Recall:
    """Share of relevant pairs found in the first k, for every k of `ks`.

    One row per *relevant* pair: its 0-based rank in its query (int, -1 = not retrieved) and its query id, both (n,).
    """
    r = _checked_ranks(ranks)
    unique, codes = _codes(queries, r.size)
    if len(ks) == 0 or min(ks) < 1:
        raise ValueError(f"ks are {list(ks)}: give one or more cut-offs >= 1")
    hit = (r[:, None] >= 0) & (r[:, None] < np.asarray(ks))  # (n, K)
    relevant = np.bincount(codes, minlength=unique.size)
    found = np.stack([np.bincount(codes, column, unique.size) for column in hit.T], axis=1)
    per_query = found / relevant[:, None]
    return Recall(per_query, per_query.mean(axis=0), hit.mean(axis=0))


def reciprocal_rank(ranks: ArrayLike, queries: ArrayLike) -> Floats:
    """1 / (1 + best rank) per query (Q,), 0 where nothing relevant was retrieved; its mean is the MRR.

    Input as for `recall_at_k`; bootstrap it with `bootstrap_mean`.
    """
    r = _checked_ranks(ranks)
    unique, codes = _codes(queries, r.size)
    best = np.zeros(unique.size)
    np.maximum.at(best, codes, np.where(r >= 0, 1.0 / (1.0 + np.maximum(r, 0)), 0.0))
    return best


# ---- decisions


def _confusion(predictions: ArrayLike, labels: ArrayLike) -> tuple[int, int, int, int]:
    p = as_labels(predictions, np.size(predictions), "predictions")
    y = as_labels(labels, p.size)
    return int((p & y).sum()), int((p & ~y).sum()), int((~p & y).sum()), int((~p & ~y).sum())  # tp, fp, fn, tn


def f1(predictions: ArrayLike, labels: ArrayLike) -> float:
    """F1 of 0/1 predictions (n,) against labels (n,); 0 when nothing is true or predicted, as in scikit-learn."""
    tp, fp, fn, _ = _confusion(predictions, labels)
    return 2 * tp / max(1, 2 * tp + fp + fn)


def mcc(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Matthews correlation of 0/1 predictions (n,) and labels (n,); 0 when either is constant. Matthews 1975."""
    tp, fp, fn, tn = _confusion(predictions, labels)
    return (tp * tn - fp * fn) / math.sqrt(max(1, (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


def always_yes_f1(prevalence: float) -> float:
    """F1 of answering yes to everything at this share of positives, 2p / (1 + p): the floor to print beside any F1."""
    if not 0 <= prevalence <= 1:
        raise ValueError(f"prevalence is {prevalence}, expected in [0, 1]")
    return 2 * prevalence / (1 + prevalence)


def best_f1_threshold(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """(threshold, F1): the cut with the highest F1, yes being score >= threshold; the higher cut where two are equal.

    Finite scores (n,), labels (n,). Optimistic on the rows it was chosen on: choose on validation, report on test.
    """
    precision, recall, thresholds = precision_recall_curve(scores, labels)
    total = precision + recall
    values = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)[:-1]
    best = np.flatnonzero(values >= values.max() * (1 - 1e-12))[-1]
    return float(thresholds[best]), float(values[best])


def cohen_kappa(a: ArrayLike, b: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Agreement of two annotators beyond chance; a, b (n,) categories of any dtype. Cohen 1960.

    weights (n,): how many rows each stands for, where rows were drawn with different shares.

    ValueError when both gave one and the same label to all rows: chance agreement is 1, kappa is 0/0.
    """
    x, y = np.asarray(a), np.asarray(b)
    if x.ndim != 1 or x.size == 0 or x.shape != y.shape:
        raise ValueError(f"annotators have shapes {x.shape} and {y.shape}: pass the labels of the same rows")
    if (x == x[0]).all() and (y == x[0]).all():
        raise ValueError(f"both annotators always said {x[0]!r}: kappa is undefined, add rows of another class")
    counts = np.ones(x.size) if weights is None else as_scores(weights, "weights", finite=True, length=x.size)
    labels, codes = np.unique(np.concatenate([x, y]), return_inverse=True)
    pairs = codes[: x.size] * labels.size + codes[x.size :]
    shares = np.bincount(pairs, counts, labels.size**2).reshape(labels.size, labels.size) / counts.sum()
    chance = float(shares.sum(axis=0) @ shares.sum(axis=1))
    return (float(np.trace(shares)) - chance) / (1 - chance)


class McNemar(NamedTuple):
    """Rows only the first / only the second model got right, and the exact two-sided p."""

    only_a: int
    only_b: int
    p_value: float


def mcnemar(predictions_a: ArrayLike, predictions_b: ArrayLike, labels: ArrayLike) -> McNemar:
    """Exact (binomial) McNemar test of two classifiers on the same rows, all (n,) 0/1. p is 1 if they never differ."""
    y = as_labels(labels, np.size(labels))
    right_a = as_labels(predictions_a, y.size, "predictions_a") == y
    right_b = as_labels(predictions_b, y.size, "predictions_b") == y
    a, b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return McNemar(a, b, float(scipy.stats.binomtest(a, a + b).pvalue) if a + b else 1.0)


# ---- probabilities


def brier(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean squared error of P(yes) (n,) against labels (n,). Brier 1950."""
    p, y = _probabilities(probabilities, labels)
    return float(np.mean((p - y) ** 2))


def nll(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean negative log-likelihood in nats of P(yes) (n,); a certain wrong answer counts 36.04 (clipped at 2^-52)."""
    p, y = _probabilities(probabilities, labels)
    return float(-np.log(np.maximum(np.where(y, p, 1 - p), np.finfo(np.float64).eps)).mean())


@dataclass(frozen=True)
class ReliabilityBins:
    """Per bin (B,): edges (lower, upper], count, mean P(yes), fraction positive, its Wilson interval; NaN if empty."""

    lower: Floats
    upper: Floats
    count: NDArray[np.int64]
    mean_probability: Floats
    fraction_positive: Floats
    low: Floats
    high: Floats


def reliability_bins(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 15, level: float = 0.95
) -> ReliabilityBins:
    """What a reliability diagram draws: equal-width bins of P(yes) (n,) against the share of yes labels (n,)."""
    p, y = _probabilities(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins is {bins}, expected 1 or more (15 is usual)")
    edges = np.linspace(0, 1, bins + 1)
    index = np.searchsorted(edges[1:-1], p, side="left")  # p on an edge belongs to the bin below it
    count = np.bincount(index, minlength=bins)
    positive = np.bincount(index, y, bins)
    with np.errstate(invalid="ignore"):
        mean, fraction = np.bincount(index, p, bins) / count, positive / count
    low, high = wilson_interval(positive, count, level)
    return ReliabilityBins(edges[:-1], edges[1:], count, mean, fraction, low, high)


def ece(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error: mean |mean P(yes) - fraction positive| over equal-width bins, weighted by count.

    Guo et al. 2017 §2 define it on the confidence of the predicted class; for yes/no search P(yes) itself is used.
    """
    r = reliability_bins(probabilities, labels, bins)
    full = r.count > 0
    gap = np.abs(r.mean_probability - r.fraction_positive)[full]
    return float(np.average(gap, weights=r.count[full]))


# ---- exact bounds


def wilson_interval(successes: ArrayLike, n: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Wilson score interval of proportions, elementwise float64; NaN where n = 0. Wilson 1927."""
    k, m = np.asarray(successes, np.float64), np.asarray(n, np.float64)
    z = scipy.stats.norm.ppf((1 + _fraction(level, "level")) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = k / m
        centre, half = p + z**2 / (2 * m), z * np.sqrt(p * (1 - p) / m + z**2 / (4 * m**2))
        low, high = (centre - half) / (1 + z**2 / m), (centre + half) / (1 + z**2 / m)
    return np.clip(low, 0, None), np.clip(high, None, 1)


def clopper_pearson(
    successes: int, n: int, level: float = 0.95, side: Literal["two-sided", "lower", "upper"] = "two-sided"
) -> tuple[float, float]:
    """Exact (low, high) of a binomial proportion; a one-sided bound has 0 or 1 at the other end. Biometrika 1934."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: expected n >= 1 and 0 <= successes <= n")
    if side not in ("two-sided", "lower", "upper"):
        raise ValueError(f"side is {side!r}, expected 'two-sided', 'lower' or 'upper'")
    tail = (1 - _fraction(level, "level")) / (2 if side == "two-sided" else 1)
    low = 0.0 if successes == 0 or side == "upper" else float(scipy.stats.beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n or side == "lower" else float(scipy.stats.beta.isf(tail, successes + 1, n - successes))
    return low, high


def recall_lower_bound(found: int, relevant: int, confidence: float = 0.95) -> float:
    """One-sided exact lower bound on recall from relevant pairs drawn independently, *without* the prefilter."""
    return clopper_pearson(found, relevant, confidence, "lower")[0]


def pairs_to_certify(recall: float = 0.99, confidence: float = 0.95, misses: int = 0) -> int:
    """Fewest relevant pairs that certify `recall` at `confidence` when `misses` of them are missed (299, 473, 628)."""
    _fraction(recall, "recall")
    _fraction(confidence, "confidence")
    if misses < 0:
        raise ValueError(f"misses is {misses}, expected 0 or more")

    def certifies(n: int) -> bool:  # P(at most this many misses | recall just too low) <= 1 - confidence, falls with n
        return bool(scipy.stats.binom.cdf(misses, n, 1 - recall) <= 1 - confidence)

    high = misses + 1
    while not certifies(high):
        high *= 2
    low = high // 2  # does not certify, or is below the first size tried
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if certifies(middle) else (middle, high)
    return high


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Adjusted p-values (n,): reject where <= q to hold the false discovery rate at q. Benjamini & Hochberg 1995."""
    values = as_scores(p, "p-values")
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"p-values span [{values.min():.3g}, {values.max():.3g}], expected [0, 1]")
    return scipy.stats.false_discovery_control(values, method="bh")


# ---- bootstrap


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap percentile interval; `n` counts the resampled units (groups, or rows)."""

    estimate: float
    low: float
    high: float
    level: float
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """a - b with its percentile interval, the two-sided bootstrap p of no difference, and the resampled units."""

    difference: float
    low: float
    high: float
    level: float
    p_value: float
    n: int


Statistic = Callable[..., float]
_MOST_UNDEFINED = 0.05  # share of resamples without a value (one class drawn) beyond which an interval says nothing


def _unit_codes(groups: ArrayLike | None, length: int, num_resamples: int) -> tuple[NDArray[np.intp], int]:
    codes = np.arange(length) if groups is None else _codes(groups, length)[1]
    num = int(codes.max()) + 1
    if num < 2 or num_resamples < 1:
        raise ValueError(f"{num} groups, {num_resamples} resamples: a bootstrap needs 2 or more groups and 1 resample")
    return codes, num


def _draw_means(values: Floats, codes: NDArray[np.intp], num: int, num_resamples: int, seed: Seed) -> Floats:
    rng = np.random.default_rng(seed)
    sums, sizes = np.bincount(codes, values, num), np.bincount(codes, minlength=num)
    out, chunk = np.empty(num_resamples), max(1, 4_000_000 // num)  # 32 MB of draws at a time
    for start in range(0, num_resamples, chunk):
        draw = rng.integers(num, size=(min(chunk, num_resamples - start), num))
        out[start : start + chunk] = sums[draw].sum(axis=1) / sizes[draw].sum(axis=1)
    return out


def _draw_statistics(
    fn: Statistic, arrays: Sequence[NDArray[Any]], codes: NDArray[np.intp], num: int, num_resamples: int, seed: Seed
) -> Floats:
    rng = np.random.default_rng(seed)
    order, sizes = np.argsort(codes, kind="stable"), np.bincount(codes, minlength=num)
    starts, out = np.cumsum(sizes) - sizes, np.full(num_resamples, np.nan)
    for i in range(num_resamples):
        draw = rng.integers(num, size=num)
        ends = np.cumsum(sizes[draw])
        rows = order[np.arange(ends[-1]) + np.repeat(starts[draw] - ends + sizes[draw], sizes[draw])]
        try:
            out[i] = fn(*(array[rows] for array in arrays))
        except ValueError:  # undefined on this resample, such as one class only; counted below, never ignored
            continue
    defined = out[~np.isnan(out)]
    if defined.size < (1 - _MOST_UNDEFINED) * num_resamples:
        raise ValueError(
            f"the statistic is undefined on {num_resamples - defined.size} of {num_resamples} resamples of {num} "
            "groups: too few groups hold a positive (or negative); add groups, or resample rows (groups=None)"
        )
    return defined


def _interval(draws: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_mean(
    values: ArrayLike, groups: ArrayLike | None = None, num_resamples: int = 2000, seed: Seed = 0, level: float = 0.95
) -> Interval:
    """Mean of values (n,) with a percentile interval; whole groups are resampled when `groups` (n,) is given.

    Vectorised; for per-group values (within-technique AUC, recall per query) leave groups None. Draws groups x
    resamples integers. ValueError for fewer than 2 groups. Efron & Tibshirani 1993, §13.3.
    """
    x = as_scores(values, "values", finite=True)
    codes, num = _unit_codes(groups, x.size, num_resamples)
    draws = _draw_means(x, codes, num, num_resamples, seed)
    return Interval(float(x.mean()), *_interval(draws, _fraction(level, "level")), level, num)


def bootstrap_statistic(
    fn: Statistic,
    arrays: Sequence[ArrayLike],
    groups: ArrayLike | None = None,
    num_resamples: int = 2000,
    seed: Seed = 0,
    level: float = 0.95,
) -> Interval:
    """`fn(*arrays)` with a percentile interval: whole groups are drawn with replacement and their rows concatenated.

    arrays of n rows each, groups (n,) or None for single rows. A resample on which fn raises ValueError or gives NaN is
    left out; ValueError when these exceed 5 %. Cost: num_resamples calls of fn. Efron & Tibshirani 1993, §8.
    """
    columns = [np.asarray(array) for array in arrays]
    if not columns or any(c.ndim == 0 or len(c) != len(columns[0]) for c in columns):
        raise ValueError("arrays must be one or more columns of equal length")
    codes, num = _unit_codes(groups, len(columns[0]), num_resamples)
    estimate = float(fn(*columns))
    draws = _draw_statistics(fn, columns, codes, num, num_resamples, seed)
    return Interval(estimate, *_interval(draws, _fraction(level, "level")), level, num)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    statistic: Statistic | None = None,
    shared: Sequence[ArrayLike] = (),
    num_resamples: int = 2000,
    seed: Seed = 0,
    level: float = 0.95,
) -> PairedDifference:
    """Is a better than b on the same rows? The mean of a - b, or statistic(a, *shared) - statistic(b, *shared).

    a, b (n,): per-row values (0/1 correct, per-query recall), or scores with `statistic=auc, shared=(labels,)`. Groups
    as in `bootstrap_statistic`. p = 2 (1 + min(#d* <= 0, #d* >= 0)) / (1 + resamples), at most 1: it agrees with the
    interval and is never 0. Davison & Hinkley 1997, §4.4 for the added 1.
    """
    x = as_scores(a, "a", finite=True)
    y = as_scores(b, "b", finite=True, length=x.size)
    codes, num = _unit_codes(groups, x.size, num_resamples)
    if statistic is None:
        estimate = float((x - y).mean())
        draws = _draw_means(x - y, codes, num, num_resamples, seed)
    else:
        columns = [x, y, *(np.asarray(column) for column in shared)]
        if any(c.ndim == 0 or len(c) != x.size for c in columns):
            raise ValueError(f"shared columns must have {x.size} rows, as a and b do")

        def difference(first: Floats, second: Floats, *rest: NDArray[Any]) -> float:
            return statistic(first, *rest) - statistic(second, *rest)

        estimate = float(difference(*columns))
        draws = _draw_statistics(difference, columns, codes, num, num_resamples, seed)
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p_value = min(1.0, 2 * (1 + tail) / (1 + draws.size))
    return PairedDifference(estimate, *_interval(draws, _fraction(level, "level")), level, p_value, num)


# ---- does the scorer read the section?


class SectionSwap(NamedTuple):
    """Mean |change|, Spearman correlation (NaN if a side is constant), share of scores that did not move, rows."""

    mean_absolute: float
    spearman: float
    share_unchanged: float
    n: int


def section_swap(original: ArrayLike, swapped: ArrayLike, tolerance: float = 1e-3) -> SectionSwap:
    """How far scores (n,) move when each pair's section text is swapped for another's; log-odds recommended.

    A scorer which ignores the section gives 0, 1 and 1. Unchanged means |change| <= tolerance. Methods §1.
    """
    a = as_scores(original, "original", finite=True)
    b = as_scores(swapped, "swapped", finite=True, length=a.size)
    change = np.abs(a - b)
    constant = np.ptp(a) == 0 or np.ptp(b) == 0
    spearman = math.nan if constant else float(np.corrcoef(scipy.stats.rankdata(a), scipy.stats.rankdata(b))[0, 1])
    return SectionSwap(float(change.mean()), spearman, float((change <= tolerance).mean()), a.size)


def distinct_share(scores: ArrayLike) -> float:
    """Distinct values / rows of scores (n,): low shares betray a 16-bit or saturated score."""
    x = as_scores(scores)
    return np.unique(x).size / x.size
