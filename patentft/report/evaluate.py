"""From ranks and scores to every figure of the report: pure functions of tables, no files, no Ray, no matplotlib.

1. `Rows` puts a table of all folds side by side, ids as integer codes; `label` marks the known matches.
2. The same rows, every system: RANKS of a search (or of TF-IDF, which needs no training) say where every known match
   stands among *all* pairs, so recall@k, MRR and within-technique AUC of a cosine follow exactly. `rerank` derives the
   scorer's ranks from the same rows: what was scored stands first, by log-odds; the rest keeps the order of the search
   that chose the candidates.
3. The scored pairs alone: pooled and within-group AUC, precision, calibration, ablations, the section swap.

A metric that the data cannot answer is null with its reason beside it under `<key>.not_defined`; it is never left out.
Intervals are 95 % percentile intervals over techniques: pairs of one technique are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import expit

from patentft import stats
from patentft.config import ConfigError
from patentft.report.metrics import (
    ABLATION_STEPS,
    FEATURES,
    KEYS,
    LEXICAL_STEPS,
    PARTS,
    STEPS,
    SYSTEMS,
    Metrics,
    Value,
    describe,
)
from patentft.report.ranks import (
    PATENT_KS,
    TECHNIQUE_KS,
    Floats,
    Ids,
    Ints,
    PerQuery,
    Rows,
    leaks,
    mean_ranks,
    per_query,
    rerank,
)

__all__ = ["KEYS", "SYSTEMS", "Evaluation", "Fold", "describe", "evaluate", "leaks"]

MOVED = 1e-3
"""A swapped score has moved when it differs by more than this, in log-odds."""
BINS = 15


@dataclass(frozen=True)
class Fold:
    """One technique split: the tables of its stages, already restricted to the evaluated side of the split."""

    ranks: Mapping[str, pa.Table]
    """System (lexical, untrained, encoder) -> RANKS."""
    scores: pa.Table
    valid: pa.Table
    """SCORES of the valid side: a threshold is chosen here when the score stage names none."""
    swaps: pa.Table
    threshold: float | None
    """P(yes) from which the score stage says yes."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Part of the score (FEATURES) -> weight in the log-odds."""
    ablation_weights: Mapping[frozenset[str], Mapping[str, float]] = field(default_factory=dict)
    """Some of the parts -> their weights when fitted without the others."""


@dataclass
class Evaluation:
    """All metrics, and what the figures draw. A figure's data is None where it is not defined."""

    metrics: Metrics
    systems: list[str] = field(default_factory=list)
    recall_curves: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)  # system -> k, share of known matches
    roc: Band | None = None
    precision_recall: Band | None = None
    reliability: dict[str, stats.ReliabilityBins] = field(default_factory=dict)  # before, after
    swap_drop: Floats | None = None  # (n,) log-odds with the own section less those with another's
    swap_labels: NDArray[np.bool_] | None = None


def evaluate(
    folds: Sequence[Fold], matches: pa.Table, *, num_resamples: int, seed: int, top_k: int | None
) -> Evaluation:
    """Every figure from the folds' tables. `top_k`: candidates per technique, at which candidate recall is certified.

    Raises ConfigError when the systems of a fold did not rank the same known matches.
    """
    pair_tables = [t for fold in folds for t in (*fold.ranks.values(), fold.scores, fold.valid, fold.swaps)]
    ids = Ids.of(pair_tables)
    keys = ids.match_keys(matches)
    scored = Rows.of([fold.scores for fold in folds], ids, [*FEATURES.values(), "log_odds", "probability"])
    result = Evaluation(Metrics(num_folds=len(folds)))
    base = _systems(result, folds, ids, scored, num_resamples, seed)
    _candidate_recall(result, base, top_k)
    labels = scored.label(keys)
    _scored_pairs(result, scored, labels, num_resamples, seed)
    _decisions(result, folds, scored, labels, keys, num_resamples, seed)
    _calibration(result, scored, labels)
    _ablations(result, folds, scored, labels, num_resamples, seed)
    _section_swap(result, folds, ids, keys, num_resamples, seed)
    return result


# ---- the same rows, every system


def _systems(
    result: Evaluation, folds: Sequence[Fold], ids: Ids, scored: Rows, num_resamples: int, seed: int
) -> dict[str, Rows]:
    """Metrics and paired differences of all systems in both directions; returns the ranks of the searches."""
    m = result.metrics
    columns = ["cosine", "rank_in_technique", "num_patents", "rank_in_patent", "num_techniques"]
    searches = [name for name in SYSTEMS if all(name in fold.ranks for fold in folds)]
    base = {name: Rows.of([fold.ranks[name] for fold in folds], ids, columns) for name in searches}
    last = base[searches[-1]]  # the search whose candidates were scored
    for name in searches[:-1]:
        _check_same_rows(name, base[name], searches[-1], last)
    result.systems = [*searches, "scorer"]
    m["num_techniques"], m["num_patents"] = np.unique(last.by_technique).size, np.unique(last.by_patent).size
    m["num_matches"] = len(last)
    for side, pool in (("technique", "num_patents"), ("patent", "num_techniques")):
        name = f"pool_{pool.removeprefix('num_')}"
        m.put(name, lambda pool=pool: int(last[pool].min()) if len(last) else math.nan)
        table = None
        if len(last):
            table = {s: per_query(base[s], base[s][f"rank_in_{side}"], side) for s in searches}
            table["scorer"] = per_query(last, rerank(last, scored, side), side)
        _side(result, side, table, int(last[pool].min()) if len(last) else 0, len(folds), num_resamples, seed)
    return base


def _check_same_rows(name: str, a: Rows, other: str, b: Rows) -> None:
    only_a, only_b = np.setdiff1d(a.key, b.key).size, np.setdiff1d(b.key, a.key).size
    if only_a or only_b or len(a) != len(b):
        raise ConfigError(
            f"{SYSTEMS[name]} and {SYSTEMS[other]} ranked different known matches ({only_a} only in the first, "
            f"{only_b} only in the second): give both stages the same corpus, roles and sides of the split"
        )
    for pool in ("num_patents", "num_techniques"):
        if not np.array_equal(a[pool], b[pool]):
            raise ConfigError(f"{SYSTEMS[name]} and {SYSTEMS[other]} differ in {pool}: search the same pool with both")


def _side(
    result: Evaluation,
    side: str,
    table: Mapping[str, PerQuery] | None,
    pool: int,
    num_folds: int,
    resamples: int,
    seed: int,
) -> None:
    m = result.metrics
    ks = TECHNIQUE_KS if side == "technique" else PATENT_KS
    names = [f"recall_at_{k}" for k in ks] + ["mrr"] + ["auc"] * (side == "technique")
    trivial = {f"recall_at_{k}" for k in ks if k >= pool}
    steps = [(a, b) for a, b in (*STEPS, *LEXICAL_STEPS) if a in result.systems and b in result.systems]
    for name in names:
        reason = None
        if table is None:
            reason = "no known match of an evaluated technique lies in the searched pool"
        elif name in trivial:
            pooled = "patents" if side == "technique" else "techniques"
            reason = f"the pool holds only {pool} {pooled}: recall is 1 by construction"
        if reason or table is None:
            keys = [f"{side}.{system}.{name}" for system in result.systems]
            keys += [f"difference.{a}_minus_{b}.{side}.{name}" for a, b in steps]
            for key in keys:
                m.undefined(key, reason or "")
            continue
        any_query = table[result.systems[0]]
        used = np.isfinite(any_query.values[name])  # an AUC is undefined for the same techniques in every system
        cluster, fold = any_query.cluster[used], any_query.fold[used]
        value = {system: table[system].values[name][used] for system in result.systems}
        for system, x in value.items():
            _mean(m, f"{side}.{system}.{name}", x, cluster, resamples, seed)
            for i in range(num_folds):
                m.put(f"fold{i}.{side}.{system}.{name}", lambda x=x[fold == i]: _point(x))
        for a, b in steps:
            _paired(m, f"difference.{a}_minus_{b}.{side}.{name}", value[a], value[b], cluster, resamples, seed)


def _point(values: Floats) -> float:
    if not values.size:
        raise ValueError("no query of this kind has a known match in the pool")
    return float(values.mean())


def _mean(m: Metrics, key: str, values: Floats, groups: Ints, resamples: int, seed: int) -> None:
    m.interval(key, lambda: stats.bootstrap_mean(values, groups, resamples, seed), lambda: _point(values))


def _paired(m: Metrics, key: str, a: Floats, b: Floats, groups: Ints, resamples: int, seed: int) -> None:
    def compute() -> stats.PairedDifference:
        return stats.paired_difference(a, b, groups, num_resamples=resamples, seed=seed)

    m.difference(key, compute, lambda: _point(a - b))


def _candidate_recall(result: Evaluation, base: Mapping[str, Rows], top_k: int | None) -> None:
    """Share of known matches within the first k, over all pairs: what a prefilter keeps, with its exact bound."""
    m = result.metrics
    m["candidates.top_k"] = top_k
    for system, rows in base.items():
        ranks, relevant = np.ceil(rows["rank_in_technique"]), len(rows)
        m[f"candidates.{system}.relevant"] = relevant
        pool = int(rows["num_patents"].max()) if relevant else 0
        for k in sorted({*TECHNIQUE_KS, *([top_k] if top_k else [])}):
            key = f"candidates.{system}.recall_at_{k}"
            m.put(key, lambda ranks=ranks, k=k: _point((ranks < k).astype(np.float64)))
            found = int((ranks < k).sum())
            m.put(
                f"candidates.{system}.lower_bound_at_{k}",
                lambda found=found, relevant=relevant: stats.recall_lower_bound(found, relevant),
            )
        if relevant:
            ks = np.unique(np.geomspace(1, pool, 80).round())
            result.recall_curves[system] = ks, np.searchsorted(np.sort(ranks), ks, "left") / relevant


# ---- the scored pairs


@dataclass(frozen=True)
class Band:
    """A curve on a grid with its pointwise 95 % bootstrap band: all (G,)."""

    x: Floats
    y: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class _Curve:
    """One fold's scored pairs, sorted once by falling score: a resample of techniques is then a weight per row."""

    label: Floats  # (n,) 0 or 1
    code: Ints  # (n,) the row's technique
    ends: Ints  # (T,) last row of each distinct score

    @classmethod
    def of(cls, scores: Floats, labels: NDArray[np.bool_], codes: Ints) -> _Curve:
        order = np.argsort(-scores, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        return cls(labels[order].astype(np.float64), codes[order], ends)

    def at(self, weights: Floats, grid: Floats) -> tuple[float, float, Floats, Floats] | None:
        """(AUC, average precision, TPR at each FPR of the grid, precision at each recall of the grid) or None."""
        w = weights[self.code]
        true = np.concatenate([[0.0], np.cumsum(w * self.label)[self.ends]])
        false = np.concatenate([[0.0], np.cumsum(w * (1 - self.label))[self.ends]])
        if true[-1] == 0 or false[-1] == 0:
            return None
        tpr, fpr = true / true[-1], false / false[-1]
        precision = true[1:] / np.maximum(true[1:] + false[1:], 1e-300)
        # np.interp takes the last of several equal x: the upper end of a vertical piece, as a ROC curve needs
        at_recall = np.minimum(np.searchsorted(tpr[1:], grid - 1e-12, "left"), precision.size - 1)
        area, average = float(np.trapezoid(tpr, fpr)), float(np.sum(np.diff(tpr) * precision))
        return area, average, np.interp(grid, fpr, tpr), precision[at_recall]


def bootstrap_curves(
    scores: Floats,
    labels: NDArray[np.bool_],
    folds: Ints,
    techniques: Ints,
    num_resamples: int,
    seed: int,
    grid: Floats,
) -> tuple[Floats, Floats | None]:
    """Mean over folds of (AUC, AP), the two curves on `grid`, and their draws over techniques.

    scores, labels, folds, techniques (n,). Returns the point (2 + 2G,) and draws (R, 2 + 2G), None when over 5 % of the
    resamples hold one class only; a row is AUC, AP, TPR at each FPR, precision at each recall. ValueError when no fold
    has both classes. `stats.bootstrap_statistic` would sort all rows anew for each resample; here one is a cumsum.
    """
    codes = np.unique(techniques, return_inverse=True)[1]
    num = int(codes.max(initial=-1)) + 1
    curves = [_Curve.of(scores[folds == f], labels[folds == f], codes[folds == f]) for f in np.unique(folds)]

    def mean(weights: Floats) -> Floats | None:
        found = [np.concatenate([[v[0], v[1]], v[2], v[3]]) for c in curves if (v := c.at(weights, grid)) is not None]
        return np.mean(found, axis=0) if found else None

    point = mean(np.ones(num))
    if point is None:
        raise ValueError(
            f"{int(labels.sum())} of {labels.size} scored pairs are known matches: no fold has both classes"
        )
    rng = np.random.default_rng(seed)
    draws = [
        mean(np.bincount(rng.integers(num, size=num), minlength=num).astype(np.float64)) for _ in range(num_resamples)
    ]
    kept = [draw for draw in draws if draw is not None]
    return point, np.array(kept) if num >= 2 and len(kept) >= 0.95 * num_resamples else None


def _scored_pairs(result: Evaluation, scored: Rows, labels: NDArray[np.bool_], resamples: int, seed: int) -> None:
    m = result.metrics
    score = scored["log_odds"]
    m["scored.num_pairs"], m["scored.num_positives"] = len(scored), int(labels.sum())
    m["scored.num_techniques"] = np.unique(scored.by_technique[labels]).size
    m.put("scored.prevalence", lambda: _share(labels))
    m.put("scored.always_yes_f1", lambda: stats.always_yes_f1(_share(labels)))
    m.put("scored.distinct_share", lambda: stats.distinct_share(score))
    grid = np.linspace(0, 1, 101)
    try:
        if not len(scored):
            raise ValueError("no pair was scored on the evaluated side")
        point, draws = bootstrap_curves(score, labels, scored.fold, scored.technique, resamples, seed, grid)
    except ValueError as error:
        m.undefined("scored.auc_pooled", str(error))
        m.undefined("scored.average_precision", str(error))
    else:
        low, high = np.full((2, point.size), np.nan) if draws is None else np.quantile(draws, [0.025, 0.975], axis=0)
        for i, key in enumerate(("scored.auc_pooled", "scored.average_precision")):
            m[key] = float(point[i])
            m[f"{key}.low"], m[f"{key}.high"] = (None, None) if draws is None else (float(low[i]), float(high[i]))
            if draws is None:
                m[f"{key}.not_defined"] = "no interval: too few techniques have a known match among the scored pairs"
        g = grid.size
        result.roc = Band(grid, point[2 : 2 + g], low[2 : 2 + g], high[2 : 2 + g])
        result.precision_recall = Band(grid, point[2 + g :], low[2 + g :], high[2 + g :])
    _within(m, "scored.auc_within_technique", scored, labels, scored.by_technique, resamples, seed)
    _within(m, "scored.auc_within_patent", scored, labels, scored.by_patent, resamples, seed)
    for i in range(int(m["num_folds"] or 0)):
        own = scored.fold == i
        x, y, groups = score[own], labels[own], scored.by_technique[own]
        m[f"fold{i}.scored.num_pairs"], m[f"fold{i}.scored.num_positives"] = int(own.sum()), int(y.sum())
        m.put(f"fold{i}.scored.auc_pooled", lambda x=x, y=y: stats.auc(x, y))
        m.put(f"fold{i}.scored.auc_within_technique", lambda x=x, y=y, g=groups: stats.grouped_auc(x, y, g).mean)
        m.put(f"fold{i}.scored.average_precision", lambda x=x, y=y: stats.average_precision(x, y))


def _share(labels: NDArray[np.bool_]) -> float:
    if not labels.size:
        raise ValueError("no pair was scored on the evaluated side")
    return float(labels.mean())


def _within(
    m: Metrics, key: str, scored: Rows, labels: NDArray[np.bool_], groups: Ints, resamples: int, seed: int
) -> None:
    """Mean AUC within `groups`; the bootstrap draws the techniques of the groups' known matches (first by id)."""
    try:
        found = stats.grouped_auc(scored["log_odds"], labels, groups)
    except ValueError as error:
        m.undefined(key, str(error))
        return
    used = ~np.isnan(found.auc)
    with_match, first = np.unique(groups[labels], return_index=True)
    cluster = scored.technique[labels][first][np.searchsorted(with_match, found.groups[used])]
    _mean(m, key, found.auc[used], cluster, resamples, seed)


def _decisions(
    result: Evaluation,
    folds: Sequence[Fold],
    scored: Rows,
    labels: NDArray[np.bool_],
    keys: Ints,
    resamples: int,
    seed: int,
) -> None:
    """F1, precision, recall and MCC at each fold's threshold, on the pooled pairs."""
    m = result.metrics
    names = ("f1", "precision", "recall", "mcc", "share_yes")
    yes = np.zeros(len(scored), np.bool_)
    problems = []
    for i, fold in enumerate(folds):
        own = scored.fold == i
        try:
            column, threshold = _threshold(fold, scored, own, keys)
        except ValueError as error:
            m.undefined(f"fold{i}.threshold", str(error))
            problems.append(f"fold {i}: {error}")
            continue
        m[f"fold{i}.threshold"], m[f"fold{i}.threshold_on"] = threshold, column
        yes[own] = scored[column][own] >= threshold
    if problems or not labels.any():
        reason = "; ".join(problems) or "no scored pair of the evaluated side is a known match"
        for name in names:
            m.undefined(f"scored.{name}", reason)
        return
    groups = np.unique(scored.by_technique, return_inverse=True)[1]
    # The counts of a technique decide: resampling them is resampling its rows
    true, false, missed = (np.bincount(groups, mask) for mask in (yes & labels, yes & ~labels, ~yes & labels))

    def f1(tp: Floats, fp: Floats, fn: Floats) -> float:
        return 2 * tp.sum() / (2 * tp.sum() + fp.sum() + fn.sum())

    m.interval(
        "scored.f1",
        lambda: stats.bootstrap_statistic(f1, [true, false, missed], None, resamples, seed),
        lambda: stats.f1(yes, labels),
    )
    if yes.any():
        m["scored.precision"] = float(true.sum() / yes.sum())
    else:
        m.undefined("scored.precision", "the threshold says yes to no pair")
    m["scored.recall"] = float(true.sum() / labels.sum())
    m.put("scored.mcc", lambda: stats.mcc(yes, labels))
    m["scored.share_yes"] = float(yes.mean())


def _threshold(fold: Fold, scored: Rows, own: NDArray[np.bool_], keys: Ints) -> tuple[str, float]:
    """(column, threshold): the score stage's on P(yes), or the best F1's on the log-odds of the valid rows."""
    if fold.threshold is not None and not np.isnan(scored["probability"][own]).any():
        return "probability", fold.threshold
    valid = Rows.of([fold.valid], scored.ids, ["log_odds"])
    if not len(valid):
        raise ValueError("the score stage names no threshold for P(yes), and it has no valid rows to choose one on")
    try:
        return "log_odds", stats.best_f1_threshold(valid["log_odds"], valid.label(keys))[0]
    except ValueError as error:
        raise ValueError(f"the score stage names no threshold, and its valid rows give none: {error}") from error


def _calibration(result: Evaluation, scored: Rows, labels: NDArray[np.bool_]) -> None:
    m = result.metrics
    for when, p in (("before", expit(scored["log_odds"])), ("after", scored["probability"])):
        reason = None
        if not len(scored):
            reason = "no pair was scored on the evaluated side"
        elif np.isnan(p).any():
            reason = (
                f"{int(np.isnan(p).sum())} of {p.size} scored pairs have no probability: no calibration was asked for"
            )
        if reason:
            m.undefined(f"scored.ece_{when}", reason)
            m.undefined(f"scored.brier_{when}", reason)
            continue
        m.put(f"scored.ece_{when}", lambda p=p: stats.ece(p, labels, BINS))
        m.put(f"scored.brier_{when}", lambda p=p: stats.brier(p, labels))
        result.reliability[when] = stats.reliability_bins(p, labels, BINS)


def _parts(folds: Sequence[Fold], scored: Rows) -> dict[str, Floats]:
    """Name in PARTS -> score (n,) by these parts alone, where every fold has it.

    A single part is its column: a weight, never negative, would not change the order. Two parts together have the
    weights that each fold fitted for these two.
    """
    found: dict[str, Floats] = {}
    for name, features in PARTS.items():
        columns = {feature: scored[FEATURES[feature]] for feature in features}
        if name == "combined":
            found[name] = scored["log_odds"]
        elif "lexical" in columns and (not len(scored) or np.isnan(columns["lexical"]).any()):
            continue  # the scorer does not use it
        elif len(features) == 1:
            found[name] = columns[features[0]]
        elif all(frozenset(features) in fold.ablation_weights for fold in folds):
            total = np.zeros(len(scored))
            for feature, column in columns.items():
                weight = np.array([fold.ablation_weights[frozenset(features)][feature] for fold in folds])
                total += weight[scored.fold] * column
            found[name] = total
    return found


def _ablations(
    result: Evaluation, folds: Sequence[Fold], scored: Rows, labels: NDArray[np.bool_], resamples: int, seed: int
) -> None:
    """Each part of the score, two together and combined, on the scored pairs of techniques with both classes there."""
    m = result.metrics
    for i, fold in enumerate(folds):
        for feature, weight in fold.weights.items():
            m[f"fold{i}.weight.{feature}"] = weight
    parts = _parts(folds, scored)
    steps = [(a, b) for a, b in ABLATION_STEPS if a in parts and b in parts]
    codes = np.unique(scored.by_technique, return_inverse=True)[1]
    positives, sizes = np.bincount(codes, labels), np.bincount(codes)
    used = ((positives > 0) & (positives < sizes))[codes] if len(scored) else np.zeros(0, np.bool_)
    if not used.any():
        reason = "no technique has both a known match and another pair among its scored pairs"
        for metric in ("auc", "mrr"):
            for name in parts:
                m.undefined(f"ablation.{name}.{metric}", reason)
            for a, b in steps:
                m.undefined(f"ablation.difference.{a}_minus_{b}.{metric}", reason)
        return
    groups, y = scored.by_technique[used], labels[used]
    first = np.unique(groups, return_index=True)[1]
    cluster = scored.technique[used][first]
    values: dict[tuple[str, str], Floats] = {}
    for name, score in parts.items():
        x = score[used]
        values[name, "auc"] = stats.grouped_auc(x, y, groups).auc
        ranks = np.ceil(mean_ranks(x, groups)).astype(np.int64)
        values[name, "mrr"] = stats.reciprocal_rank(ranks[y], groups[y])
    for metric in ("auc", "mrr"):
        for name in parts:
            _mean(m, f"ablation.{name}.{metric}", values[name, metric], cluster, resamples, seed)
        for a, b in steps:
            key = f"ablation.difference.{a}_minus_{b}.{metric}"
            _paired(m, key, values[a, metric], values[b, metric], cluster, resamples, seed)


def _section_swap(result: Evaluation, folds: Sequence[Fold], ids: Ids, keys: Ints, resamples: int, seed: int) -> None:
    m = result.metrics
    rows = Rows.of([fold.swaps for fold in folds], ids, ["cross_logit", "swapped_logit"])
    m["swap.num_pairs"] = len(rows)
    own, other = rows["cross_logit"], rows["swapped_logit"]
    names = (
        "swap.mean_absolute",
        "swap.share_moved",
        "swap.spearman",
        "swap.mean_drop_matches",
        "swap.mean_drop_others",
    )
    if not len(rows):
        for name in (*names, "swap.verdict"):
            m.undefined(name, "the score stage swapped no section")
        return
    found = stats.section_swap(own, other, MOVED)
    m["swap.mean_absolute"], m["swap.share_moved"] = found.mean_absolute, 1 - found.share_unchanged
    m.put("swap.spearman", lambda: found.spearman)
    drop, labels = own - other, rows.label(keys)
    for name, mask in (("matches", labels), ("others", ~labels)):
        _mean(m, f"swap.mean_drop_{name}", drop[mask], rows.technique[mask], resamples, seed)
    m["swap.verdict"] = _swap_verdict(1 - found.share_unchanged, m.get("swap.mean_drop_matches.low"))
    result.swap_drop, result.swap_labels = drop, labels


def _swap_verdict(share_moved: float, low: Value) -> str:
    if share_moved < 0.5:
        return f"the scorer hardly reads the section: {1 - share_moved:.0%} of the scores stay with another's text"
    if low is None:
        return "the scores move with the section; too few known matches were swapped to say whether in the right way"
    if isinstance(low, float) and low > 0:
        return "the scorer reads the section: known matches score lower with another technique's text"
    return (
        "the scores move with the section, but known matches do not clearly score lower with another technique's text"
    )
