"""From which score on a pair is a yes: for a wanted precision or recall, or the best F1; and what that choice is worth.

A threshold looks better on the pairs it was chosen on than on others. `cross_fitted` therefore chooses it on some
techniques, decides about the pairs of the others, and estimates from those decisions. The threshold to use is then
chosen on all. Pure.

Where the labelled pairs hold another share of matches than the pairs to be scored, give that share as `prevalence`:
matches and others are then weighted to it, which is exact when the two look alike and only their shares differ (the
same assumption as `calibrate.shift_prior`, which moves log-odds; methods §1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patentft import stats
from patentft.scoring.calibrate import grouped_folds

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Goal:
    """What the threshold is chosen for. precision: the most recall with at least `value`. recall: the most precision
    with at least `value`. f1: the best F1, no value.
    """

    kind: Literal["precision", "recall", "f1"]
    value: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("precision", "recall", "f1"):
            raise ValueError(f"kind is {self.kind!r}, expected precision, recall or f1")
        if (self.value is None) != (self.kind == "f1") or (self.value is not None and not 0 < self.value <= 1):
            raise ValueError(f"goal {self.kind} has value {self.value}: precision and recall want (0, 1], f1 none")


@dataclass(frozen=True)
class Decision:
    """A threshold, chosen on all pairs (yes is score >= threshold), with what it does on pairs it has not seen."""

    threshold: float
    precision: stats.Interval
    recall: stats.Interval
    f1: stats.Interval
    share_yes: float


def choose(goal: Goal, scores: ArrayLike, labels: ArrayLike, prevalence: float | None = None) -> float:
    """The threshold for the goal on these pairs; scores, labels (n,). Only scores that occur are thresholds.

    ValueError for one class, and where no threshold has the wanted precision.
    """
    x = stats.as_scores(scores, finite=True)
    y = stats.as_labels(labels, x.size)
    precision, recall, cuts = _curve(x, y, _weights(y, prevalence))
    if goal.kind == "f1":
        total = precision + recall
        f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
        return float(cuts[np.argmax(f1 >= f1.max() * (1 - 1e-12))])  # the highest of equal ones
    assert goal.value is not None
    enough = (precision if goal.kind == "precision" else recall) >= goal.value * (1 - 1e-12)
    if not enough.any():
        raise ValueError(
            f"no threshold has a precision of {goal.value:g}: the best is {precision.max():.3f}; lower it, or train a "
            f"better scorer"
        )
    # falling cuts: recall rises. The last good precision has most recall; the first good recall, of fewest pairs
    places = np.flatnonzero(enough)
    return float(cuts[places[-1] if goal.kind == "precision" else places[0]])


def cross_fitted(
    goal: Goal,
    scores: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    prevalence: float | None = None,
    folds: int = 5,
    seed: int = 0,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> Decision:
    """The threshold chosen on all pairs, and precision, recall and F1 of thresholds chosen without a pair's group.

    scores, labels, groups (n,): groups are techniques (or patents); none is in two folds, and intervals are bootstraps
    over them. ValueError as in `choose`, naming the fold.
    """
    x = stats.as_scores(scores, finite=True)
    y = stats.as_labels(labels, x.size)
    ids = np.asarray(groups)
    if ids.shape != x.shape:
        raise ValueError(f"groups have shape {ids.shape}, expected {x.shape}: pass one technique id per label")
    threshold = choose(goal, x, y, prevalence)
    fold = grouped_folds(y, np.unique(ids, return_inverse=True)[1], folds, seed)
    yes = np.zeros(x.size, bool)
    for k in range(folds):
        try:
            yes[fold == k] = x[fold == k] >= choose(goal, x[fold != k], y[fold != k], prevalence)
        except ValueError as error:
            raise ValueError(f"fold {k} of {folds}: {error}") from error
    weights = _weights(y, prevalence)
    found = {
        name: stats.bootstrap_statistic(measure, (yes, y, weights), ids, num_resamples, seed, level)
        for name, measure in (("precision", _precision), ("recall", _recall), ("f1", _f1))
    }
    return Decision(threshold, **found, share_yes=float(np.average(yes, weights=weights)))


def _weights(y: NDArray[np.bool_], prevalence: float | None) -> Floats:
    """(n,) of mean 1: matches then have the share `prevalence`."""
    share = float(y.mean())
    if not 0 < share < 1:
        raise ValueError(f"all {y.size} labels are {int(y[0])}: a threshold needs both, add labels of the other class")
    if prevalence is None:
        return np.ones(y.size)
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence is {prevalence}, expected strictly between 0 and 1")
    return np.where(y, prevalence / share, (1 - prevalence) / (1 - share))


def _curve(x: Floats, y: NDArray[np.bool_], weights: Floats) -> tuple[Floats, Floats, Floats]:
    """(precision, recall, cut) of every distinct score as threshold, falling."""
    order = np.argsort(-x, kind="stable")
    last = np.append(np.flatnonzero(np.diff(x[order])), x.size - 1)  # of each run of equal scores
    matched = np.cumsum(weights[order] * y[order])[last]
    said = np.cumsum(weights[order])[last]
    return matched / said, matched / matched[-1], x[order][last]


def _precision(yes: NDArray[np.bool_], y: NDArray[np.bool_], weights: Floats) -> float:
    said = float(weights[yes].sum())
    if not said:
        raise ValueError("nothing is a yes: precision is undefined")
    return float(weights[yes & y].sum()) / said


def _recall(yes: NDArray[np.bool_], y: NDArray[np.bool_], weights: Floats) -> float:
    matched = float(weights[y].sum())
    if not matched:
        raise ValueError("nothing is a match: recall is undefined")
    return float(weights[yes & y].sum()) / matched


def _f1(yes: NDArray[np.bool_], y: NDArray[np.bool_], weights: Floats) -> float:
    total = float(weights[yes].sum() + weights[y].sum())
    if not total:
        raise ValueError("nothing is a yes and nothing a match: F1 is undefined")
    return 2 * float(weights[yes & y].sum()) / total
