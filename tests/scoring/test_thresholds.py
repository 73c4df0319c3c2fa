"""Thresholds against trying every one, and their estimates against fresh data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from patentft import stats
from patentft.scoring import calibrate
from patentft.scoring.thresholds import Goal, choose, cross_fitted

ROWS = st.lists(st.tuples(st.integers(-4, 4), st.booleans(), st.integers(0, 5)), min_size=2, max_size=40)


def measures(cut: float, rows: list, weights: list[float]) -> tuple[float, float, float]:
    """(precision, recall, F1) of yes = score >= cut, pair by pair."""
    hit = sum(w for (x, y, _), w in zip(rows, weights, strict=True) if x >= cut and y)
    yes = sum(w for (x, _, _), w in zip(rows, weights, strict=True) if x >= cut)
    matches = sum(w for (_, y, _), w in zip(rows, weights, strict=True) if y)
    return hit / yes, hit / matches, 2 * hit / (yes + matches)


@settings(deadline=None)
@given(ROWS, st.sampled_from(["precision", "recall", "f1"]), st.floats(0.05, 1), st.sampled_from([None, 0.1, 0.7]))
def test_the_threshold_is_that_of_trying_all(rows, kind, value, prevalence):
    scores, labels = [x for x, _, _ in rows], [y for _, y, _ in rows]
    share = np.mean(labels)
    assume(0 < share < 1)
    weights = [1.0] * len(rows)
    if prevalence is not None:
        weights = [prevalence / share if y else (1 - prevalence) / (1 - share) for y in labels]
    tried = {cut: measures(cut, rows, weights) for cut in sorted(set(scores), reverse=True)}
    goal = Goal(kind, None if kind == "f1" else value)
    if kind == "f1":
        best = max(f1 for _, _, f1 in tried.values())
        expected = [cut for cut, (_, _, f1) in tried.items() if f1 >= best - 1e-9][:1]
    elif kind == "precision":
        expected = [cut for cut, (precision, _, _) in tried.items() if precision >= value - 1e-9][-1:]
    else:
        expected = [cut for cut, (_, recall, _) in tried.items() if recall >= value - 1e-9][:1]
    if expected:
        assert choose(goal, scores, labels, prevalence) == expected[0]
    else:
        with pytest.raises(ValueError, match="no threshold has a precision"):
            choose(goal, scores, labels, prevalence)


def drawn(groups: int, seed: int, prevalence: float = 0.3, size: int = 20):
    """Techniques whose pairs differ in level, log-odds that tell matches from others by 2."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(groups), size)
    y = rng.random(len(ids)) < prevalence
    return 2.0 * y + rng.normal(size=len(ids)) + rng.normal(scale=0.5, size=groups)[ids], y, ids


@pytest.mark.parametrize("goal", [Goal("f1"), Goal("precision", 0.8), Goal("recall", 0.9)])
def test_the_estimate_holds_on_fresh_techniques(goal):
    """The interval covers what the threshold does on 5,000 techniques that nobody has seen, nearly always."""
    x, y, _ = drawn(5000, seed=10_000)
    covered = {"precision": 0, "recall": 0, "f1": 0}
    for seed in range(20):
        found = cross_fitted(goal, *drawn(40, seed), num_resamples=200, seed=seed)
        yes = x >= found.threshold
        hit, said, matches = (yes & y).sum(), yes.sum(), y.sum()
        truth = {"precision": hit / said, "recall": hit / matches, "f1": 2 * hit / (said + matches)}
        for name, value in truth.items():
            interval = getattr(found, name)
            assert interval.n == 40
            covered[name] += interval.low <= value <= interval.high
    assert min(covered.values()) >= 15


def test_prevalence_moves_the_estimates_to_where_they_will_be_used():
    half = cross_fitted(Goal("precision", 0.7), *drawn(400, 1, 0.5), prevalence=0.05, num_resamples=50)
    x, y, _ = drawn(4000, 2, 0.05)
    yes = x >= half.threshold
    assert half.precision.estimate == pytest.approx((yes & y).sum() / yes.sum(), abs=0.06)
    assert half.recall.estimate == pytest.approx((yes & y).sum() / y.sum(), abs=0.05)
    assert half.share_yes == pytest.approx(yes.mean(), abs=0.01)


def test_intervals_of_the_calibration():
    x, y, ids = drawn(60, 3)
    found = calibrate.cross_fit("platt", x, y, ids)
    after = calibrate.intervals(found.log_odds, y, ids, num_resamples=200)
    assert {name: interval.estimate for name, interval in after.items()} == pytest.approx(found.after)
    assert all(after[name].low < after[name].estimate < after[name].high for name in ("brier", "nll"))
    assert after["ece"].low == 0  # platt is right here: there is nothing to find
    before = calibrate.intervals(x, y, ids, num_resamples=200)
    assert after["brier"].high < before["brier"].low


def test_the_interval_of_the_ece_covers_what_many_pairs_have():
    x, y, _ = drawn(5000, seed=10_000)
    truth = stats.ece(1 / (1 + np.exp(-x)), y)
    found = [calibrate.intervals(*drawn(40, seed), num_resamples=200)["ece"] for seed in range(20)]
    assert sum(interval.low <= truth <= interval.high for interval in found) >= 16


@pytest.mark.parametrize("values", [("precision", None), ("f1", 0.5), ("recall", 0.0), ("recall", 1.5), ("auc", 0.5)])
def test_a_goal_that_makes_no_sense(values):
    with pytest.raises(ValueError, match=r"goal|kind"):
        Goal(*values)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="all 3 labels are 1"):
        choose(Goal("f1"), [1, 2, 3], [1, 1, 1])
