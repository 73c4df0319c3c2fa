"""Calibration against scikit-learn, brute force and data whose true probabilities are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from patentft import stats
from patentft.scoring import calibrate

KINDS: tuple[calibrate.Kind, ...] = ("temperature", "platt", "isotonic")


def sample(n=3000, temperature=2.5, shift=0.0, seed=0):
    """Over-confident log-odds: the truth is sigmoid(z / temperature + shift)."""
    rng = np.random.default_rng(seed)
    z = 4 * rng.standard_normal(n)
    return z, rng.random(n) < expit(z / temperature + shift), rng.integers(0, 60, n)


def nll(z, y):
    return float(np.mean(np.logaddexp(0, z) - y * z))


def test_temperature_is_the_minimum_of_nll_and_near_the_truth():
    z, y, _ = sample()
    t = float(np.asarray(calibrate.fit("temperature", z, y).parameters["temperature"]))
    assert t == pytest.approx(2.5, rel=0.1)
    grid = np.exp(np.linspace(-3, 3, 2001))
    assert nll(z / t, y) <= min(nll(z / g, y) for g in grid)
    assert nll(z / t, y) < min(nll(z / (t * 1.001), y), nll(z / (t / 1.001), y))


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_temperature_keeps_the_ranking_exactly(seed, scale):
    z, y, _ = sample(200, seed=seed)
    z = np.round(z, 1)  # ties as well
    calibrator = calibrate.fit("temperature", z * scale, y)
    assert stats.auc(calibrator.apply(z * scale), y) == stats.auc(z, y)
    assert stats.auc(calibrator.log_odds(z * scale), y) == stats.auc(z, y)
    reference = calibrate.fit("temperature", z, y)
    np.testing.assert_allclose(calibrator.apply(z * scale), reference.apply(z), rtol=1e-7)  # units do not matter


def test_platt_equals_logistic_regression_on_smoothed_targets():
    z, y, _ = sample(400, shift=-1.5)
    z = z * 30 + 500  # badly scaled log-odds
    got = calibrate.fit("platt", z, y).parameters
    pos, neg = y.sum(), (~y).sum()
    target = np.where(y, (pos + 1) / (pos + 2), 1 / (neg + 2))
    x = (z - 500) / 30
    weights = np.concatenate([target, 1 - target])
    both = np.r_[np.ones(y.size), np.zeros(y.size)]
    model = LogisticRegression(C=math.inf, tol=1e-10, max_iter=1000).fit(np.r_[x, x][:, None], both, weights)
    slope = model.coef_[0, 0] / 30
    assert got["slope"] == pytest.approx(slope, rel=1e-4)
    assert got["intercept"] == pytest.approx(model.intercept_[0] - slope * 500, rel=1e-4)


def test_platt_is_finite_on_separated_labels():
    got = calibrate.fit("platt", [-3, -2, 2, 3], [0, 0, 1, 1])
    p = got.apply([-3.0, 3.0])
    assert 0.1 < p[0] < 0.5 < p[1] < 0.9


def test_isotonic_equals_scikit_learn_but_never_certain():
    z, y, _ = sample(2000)
    calibrator = calibrate.fit("isotonic", z, y)
    new = np.linspace(-20, 20, 501)
    want = np.clip(IsotonicRegression().fit_transform(z, y), 1 / 2002, 1 - 1 / 2002)
    np.testing.assert_allclose(calibrator.apply(z), want, rtol=1e-9)
    assert (np.diff(calibrator.apply(new)) >= 0).all()
    assert np.isfinite(calibrator.log_odds(new)).all()


def test_isotonic_is_refused_on_few_labels_unless_asked():
    z, y, groups = sample(900)
    with pytest.raises(ValueError, match=r"900 labels .* choose 'platt' or 'temperature', or lower min_isotonic"):
        calibrate.fit("isotonic", z, y)
    with pytest.raises(ValueError, match="choose 'platt'"):
        calibrate.cross_fit("isotonic", z, y, groups)
    assert calibrate.fit("isotonic", z, y, min_isotonic=500).num_labels == 900


@pytest.mark.parametrize("kind", KINDS)
def test_a_calibrator_survives_json(kind):
    z, y, _ = sample(1200)
    calibrator = calibrate.fit(kind, z.astype(np.float32), y)
    again = calibrate.Calibrator.from_dict(json.loads(json.dumps(calibrator.to_dict())))
    assert again == calibrator
    p = again.apply(z.astype(np.float32))
    assert p.dtype == np.float64
    np.testing.assert_array_equal(p, calibrator.apply(z.astype(np.float32)))
    assert p.min() > 0
    assert p.max() < 1


@pytest.mark.parametrize("kind", KINDS)
def test_cross_fit_improves_over_confident_scores_out_of_fold(kind):
    z, y, groups = sample(5000)
    got = calibrate.cross_fit(kind, z, y, groups, seed=3)
    for name in ("ece", "brier", "nll"):
        assert got.after[name] < got.before[name]
    assert got.after["ece"] < 0.03
    assert got.after["nll"] == pytest.approx(stats.nll(got.probabilities, y))
    assert got.before["nll"] == pytest.approx(stats.nll(expit(z), y), rel=1e-6)


def test_cross_fit_never_shares_a_group_and_never_sees_the_held_out_labels():
    z, y, groups = sample(800)
    names = np.char.add("t", groups.astype(str))
    got = calibrate.cross_fit("platt", z, y, names, folds=4, seed=1)
    assert all(len(set(got.fold[names == name])) == 1 for name in set(names))
    assert sorted(set(got.fold)) == [0, 1, 2, 3]
    for k, calibrator in enumerate(got.calibrators):
        held = got.fold == k
        assert calibrator == calibrate.fit("platt", z[~held], y[~held])
        np.testing.assert_array_equal(got.probabilities[held], calibrator.apply(z[held]))
    again = calibrate.cross_fit("platt", z, y, names, folds=4, seed=1)
    np.testing.assert_array_equal(again.fold, got.fold)


def test_cross_fit_spreads_few_positives_over_the_folds():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 20)
    y = np.zeros(1000, bool)
    y[np.arange(10) * 100] = True  # one positive in each of 10 groups
    z = rng.standard_normal(1000) + 2 * y
    got = calibrate.cross_fit("platt", z, y, groups)
    assert np.bincount(got.fold[y], minlength=5).tolist() == [2] * 5


def test_shift_prior_undoes_balanced_training():
    rng = np.random.default_rng(0)
    n, prevalence = 200_000, 0.02
    y = rng.random(n) < prevalence
    z = 2 * rng.standard_normal(n) + np.where(y, 2.0, -2.0)  # log-odds of balanced classes: 2 * 2 * z / 4 = z
    shifted = expit(calibrate.shift_prior(z, 0.5, prevalence))
    assert shifted.mean() == pytest.approx(prevalence, rel=0.05)
    assert stats.ece(shifted, y) < 0.003
    assert stats.ece(expit(z), y) > 0.1
    np.testing.assert_allclose(calibrate.shift_prior([0.0], 0.5, prevalence), logit(prevalence))
    np.testing.assert_allclose(calibrate.shift_prior(calibrate.shift_prior([1.5], 0.3, 0.01), 0.01, 0.3), 1.5)


Z, Y = [-1.0, 2.0, -3.0, 1.0], [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: calibrate.fit("platt", Z, [1, 1, 1, 1]), "both"),
        (lambda: calibrate.fit("platt", [math.nan, *Z[1:]], Y), "NaN"),
        (lambda: calibrate.fit("platt", Z, Y[:3]), "3 rows, expected 4"),
        (lambda: calibrate.fit("platt", [0.0] * 4, Y), "not be positive"),
        (lambda: calibrate.fit("platt", Z, [1, 0, 1, 1]), "yes and no tokens"),
        (lambda: calibrate.fit("temperature", Z, [1, 0, 1, 1]), "yes and no tokens"),
        (lambda: calibrate.fit("temperature", Z, [0, 1, 0, 1]), "separated"),
        (lambda: calibrate.fit("beta", Z, Y), "expected one of temperature, platt, isotonic"),  # pyright: ignore
        (lambda: calibrate.cross_fit("platt", Z, Y, [1, 2, 3]), "one technique id"),
        (lambda: calibrate.cross_fit("platt", Z, Y, [1, 2, 3, 4]), "1 positives"),
        (lambda: calibrate.cross_fit("platt", Z, Y, [1, 2, 3, 4], folds=1), "2 or more"),
        (lambda: calibrate.cross_fit("platt", Z * 2, Y * 2, [1, 2, 3, 4] * 2, folds=2), "fold"),
        (lambda: calibrate.shift_prior(Z, 0.0, 0.5), "train_prevalence"),
        (lambda: calibrate.Calibrator("temperature", {"temperature": -1.0}, 5), "rising map"),
        (lambda: calibrate.Calibrator("platt", {"slope": 1.0}, 5), "intercept"),
        (lambda: calibrate.Calibrator("isotonic", {"log_odds": [0.0, 0.0], "probability": [0.1, 0.2]}, 5), "rising"),
        (lambda: calibrate.Calibrator.from_dict({"kind": "platt"}), "num_labels"),
        (lambda: calibrate.fit("temperature", [0.5, 3.0, 1.0], [0, 1, 0]).apply([math.inf]), "infinite"),
    ],
)
def test_user_errors_say_what_to_do(call, match):
    with pytest.raises(ValueError, match=match):
        call()
