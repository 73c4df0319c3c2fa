"""stats against slow references, scikit-learn, known numbers and properties."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft import stats

LABELLED = st.lists(st.tuples(st.integers(-6, 6), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40).filter(
    lambda rows: len({label for _, label, _ in rows}) == 2
)


def slow_auc(scores, labels, weights=None):
    """All pairs, O(n^2)."""
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    w = np.ones(len(scores)) if weights is None else np.asarray(weights, float)
    pos, neg = scores[labels][:, None], scores[~labels]
    pairs = w[labels][:, None] * w[~labels]
    return float((((pos > neg) + 0.5 * (pos == neg)) * pairs).sum() / pairs.sum())


def tied(n=500, levels=9, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.3
    return rng.integers(0, levels, n) + labels.astype(float), labels, rng.integers(0, 40, n)


# ---- ranking


@given(LABELLED)
def test_auc_equals_all_pairs(rows):
    scores, labels, _ = map(list, zip(*rows, strict=True))
    assert stats.auc(scores, labels) == pytest.approx(slow_auc(scores, labels), abs=1e-15)


@given(LABELLED)
def test_auc_is_invariant_to_a_rising_map_and_complements_under_reversal(rows):
    scores, labels, _ = (np.array(column) for column in zip(*rows, strict=True))
    value = stats.auc(scores, labels)
    assert stats.auc(np.exp(scores / 2) - 3, labels) == value
    assert stats.auc(-scores, labels) == pytest.approx(1 - value, abs=1e-15)
    assert stats.auc(scores, ~labels) == pytest.approx(1 - value, abs=1e-15)


@given(LABELLED)
def test_integer_weights_equal_repeated_rows(rows):
    scores, labels, weights = (np.array(column) for column in zip(*rows, strict=True))
    if weights[labels].sum() == 0 or weights[~labels].sum() == 0:
        with pytest.raises(ValueError, match="each class needs some"):
            stats.auc(scores, labels, weights)
    else:
        repeated = stats.auc(np.repeat(scores, weights), np.repeat(labels, weights))
        assert stats.auc(scores, labels, weights) == pytest.approx(repeated, abs=1e-15)


def test_auc_and_curves_equal_scikit_learn():
    scores, labels, _ = tied()
    weights = np.random.default_rng(1).random(labels.size)
    assert stats.auc(scores, labels) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores), abs=1e-13)
    assert stats.auc(scores, labels, weights) == pytest.approx(slow_auc(scores, labels, weights), abs=1e-13)
    fpr, tpr, thresholds = stats.roc_curve(scores, labels)
    assert np.trapezoid(tpr, fpr) == pytest.approx(stats.auc(scores, labels), abs=1e-13)
    assert thresholds[0] == math.inf
    precision, recall, _ = stats.precision_recall_curve(scores, labels)
    area = float(-(np.diff(recall) * precision[:-1]).sum())
    assert stats.average_precision(scores, labels) == pytest.approx(area, abs=1e-13)


def test_known_auc_values():
    assert stats.auc([1, 2, 3, 4], [0, 0, 1, 1]) == 1.0
    assert stats.auc([5, 5, 5, 5], [0, 1, 0, 1]) == 0.5
    assert stats.auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert stats.auc([-math.inf, 0.0, math.inf], [0, 1, 1]) == 1.0


def test_average_precision_with_everything_tied_is_the_prevalence():
    assert stats.average_precision([1, 1, 1, 1, 1], [1, 0, 0, 0, 0]) == pytest.approx(0.2)


@given(LABELLED)
def test_grouped_auc_equals_a_loop_over_groups(rows):
    scores, labels, groups = (np.array(column) for column in zip(*rows, strict=True))
    want = {}
    for group in np.unique(groups):
        here = groups == group
        want[group] = slow_auc(scores[here], labels[here]) if len(set(labels[here])) == 2 else math.nan
    used = [value for value in want.values() if not math.isnan(value)]
    if not used:
        with pytest.raises(ValueError, match="has both classes"):
            stats.grouped_auc(scores, labels, groups)
        return
    got = stats.grouped_auc(scores, labels, groups)
    np.testing.assert_allclose(got.auc, list(want.values()), atol=1e-14)
    assert list(got.groups) == list(want)
    assert got.mean == pytest.approx(np.mean(used), abs=1e-14)
    assert (got.num_used, got.num_skipped) == (len(used), len(want) - len(used))


def test_a_scorer_that_only_knows_the_group_has_pooled_auc_but_none_within():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 40)
    share = np.linspace(0.05, 0.95, 50)[groups]
    labels = rng.random(groups.size) < share
    assert stats.auc(share, labels) > 0.7
    assert stats.grouped_auc(share, labels, np.char.add("technique-", groups.astype(str))).mean == 0.5


def test_grouped_auc_takes_a_million_rows_in_seconds():
    rng = np.random.default_rng(0)
    n = 1_000_000
    start = time.perf_counter()
    got = stats.grouped_auc(rng.standard_normal(n), rng.random(n) < 0.01, rng.integers(0, 4200, n))
    assert time.perf_counter() - start < 10
    assert got.mean == pytest.approx(0.5, abs=0.02)


def test_ranks_within_breaks_ties_by_id_whatever_the_row_order():
    scores = np.array([1.0, 3, 3, 2, 5, 5])
    groups = np.array(["a", "a", "a", "a", "b", "b"])
    ids = np.array(["p1", "p9", "p2", "p3", "p8", "p7"])
    want = np.array([3, 1, 0, 2, 1, 0])
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(6)
        got = stats.ranks_within(scores[order], groups[order], ids[order])
        np.testing.assert_array_equal(got, want[order])


def test_recall_and_reciprocal_rank_by_hand():
    ranks, queries = [0, 4, -1, 2, -1], ["a", "a", "a", "b", "c"]
    got = stats.recall_at_k(ranks, queries, [1, 3, 5])
    np.testing.assert_allclose(got.per_query, [[1 / 3, 1 / 3, 2 / 3], [0, 1, 1], [0, 0, 0]])
    np.testing.assert_allclose(got.macro, [1 / 9, 4 / 9, 5 / 9])
    np.testing.assert_allclose(got.micro, [0.2, 0.4, 0.6])
    np.testing.assert_allclose(stats.reciprocal_rank(ranks, queries), [1, 1 / 3, 0])


# ---- decisions


def test_decisions_equal_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.2
    predictions = labels ^ (rng.random(300) < 0.15)
    assert stats.f1(predictions, labels) == pytest.approx(sklearn.metrics.f1_score(labels, predictions))
    assert stats.mcc(predictions, labels) == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, predictions))
    names = np.where(labels, "green", "other")
    want = sklearn.metrics.cohen_kappa_score(labels, predictions)
    assert stats.cohen_kappa(names, np.where(predictions, "green", "other")) == pytest.approx(want)
    assert stats.mcc(np.ones(300), labels) == 0.0
    assert stats.f1(np.zeros(300), np.zeros(300)) == 0.0


def test_cohen_kappa_textbook_value():
    a = [1] * 25 + [0] * 25  # 20 both yes, 5 only a, 10 only b, 15 both no: kappa .4
    b = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert stats.cohen_kappa(a, b) == pytest.approx(0.4)
    assert stats.cohen_kappa([1, 1, 0, 0], [1, 0, 1, 0], weights=[20, 5, 10, 15]) == pytest.approx(0.4)


@pytest.mark.parametrize("prevalence", [0.1, 0.25, 0.5])
def test_always_yes_f1(prevalence):
    labels = np.arange(100) < 100 * prevalence
    assert stats.always_yes_f1(prevalence) == pytest.approx(stats.f1(np.ones(100), labels))


@given(LABELLED)
def test_best_f1_threshold_equals_trying_every_cut(rows):
    scores, labels, _ = (np.array(column) for column in zip(*rows, strict=True))
    threshold, value = stats.best_f1_threshold(scores, labels)
    every = {cut: stats.f1(scores >= cut, labels) for cut in np.unique(scores)}
    assert value == pytest.approx(max(every.values()))
    assert threshold == max(cut for cut, f in every.items() if f > value - 1e-12)


def test_best_f1_threshold_takes_the_higher_of_two_equal_cuts():
    assert stats.best_f1_threshold([4, 3, 2, 1], [1, 0, 0, 1]) == (4.0, pytest.approx(2 / 3))


def test_mcnemar_is_the_binomial_on_discordant_rows():
    labels = np.ones(100)
    a, b = np.ones(100), np.ones(100)
    a[:2] = 0  # only b right on 2
    b[2:12] = 0  # only a right on 10
    got = stats.mcnemar(a, b, labels)
    assert (got.only_a, got.only_b) == (10, 2)
    assert got.p_value == pytest.approx(2 * sum(math.comb(12, k) for k in range(3)) / 2**12)
    assert stats.mcnemar(a, a, labels).p_value == 1.0


# ---- probabilities


def test_brier_and_nll_equal_scikit_learn():
    rng = np.random.default_rng(0)
    p = rng.random(400)
    labels = rng.random(400) < p
    assert stats.brier(p, labels) == pytest.approx(sklearn.metrics.brier_score_loss(labels, p))
    assert stats.nll(p, labels) == pytest.approx(sklearn.metrics.log_loss(labels, p))
    assert stats.nll([1.0, 0.0], [0, 0]) == pytest.approx(-math.log(2**-52) / 2)


def test_ece_by_hand_and_by_a_loop():
    assert stats.ece([0.9, 0.9, 0.9, 0.9], [1, 1, 0, 0]) == pytest.approx(0.4)
    rng = np.random.default_rng(0)
    p = np.concatenate([rng.random(1000), np.linspace(0, 1, 16)])  # edges as well
    labels = rng.random(p.size) < p**2
    edges, slow = np.linspace(0, 1, 16), 0.0
    for b in range(15):
        here = (p > edges[b]) & (p <= edges[b + 1]) | ((p == 0) & (b == 0))
        slow += abs(p[here].sum() - labels[here].sum()) / p.size
    assert stats.ece(p, labels) == pytest.approx(slow)


def test_ece_is_small_for_true_probabilities():
    rng = np.random.default_rng(0)
    p = rng.random(50_000)
    assert stats.ece(p, rng.random(p.size) < p) < 0.02


def test_reliability_bins_counts_every_row_and_marks_empty_bins():
    got = stats.reliability_bins([0.0, 0.1, 0.2, 1.0], [0, 0, 1, 1], bins=5)
    assert got.count.tolist() == [3, 0, 0, 0, 1]
    assert math.isnan(got.mean_probability[1])
    assert math.isnan(got.low[1])
    assert math.isnan(got.high[1])
    assert got.fraction_positive[0] == pytest.approx(1 / 3)


# ---- exact bounds


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (1, 247)])
def test_bounds_equal_scipy(k, n):
    test = scipy.stats.binomtest(k, n)
    wilson = test.proportion_ci(0.9, "wilson")
    np.testing.assert_allclose(stats.wilson_interval(k, n, 0.9), (wilson.low, wilson.high), atol=1e-12)
    exact = test.proportion_ci(0.9, "exact")
    np.testing.assert_allclose(stats.clopper_pearson(k, n, 0.9), (exact.low, exact.high), atol=1e-12)
    lower = scipy.stats.binomtest(k, n, alternative="greater").proportion_ci(0.95, "exact")
    assert stats.clopper_pearson(k, n, 0.95, "lower") == (pytest.approx(lower.low, abs=1e-12), 1.0)
    upper = scipy.stats.binomtest(k, n, alternative="less").proportion_ci(0.95, "exact")
    assert stats.clopper_pearson(k, n, 0.95, "upper") == (0.0, pytest.approx(upper.high, abs=1e-12))


@pytest.mark.parametrize(("misses", "pairs"), [(0, 299), (1, 473), (2, 628)])
def test_pairs_to_certify_99_percent_recall(misses, pairs):
    assert stats.pairs_to_certify(0.99, 0.95, misses) == pairs
    assert stats.recall_lower_bound(pairs - misses, pairs) >= 0.99
    assert stats.recall_lower_bound(pairs - 1 - misses, pairs - 1) < 0.99


@settings(max_examples=40)
@given(st.floats(0.05, 0.999), st.floats(0.5, 0.999), st.integers(0, 5))
def test_pairs_to_certify_agrees_with_the_lower_bound(recall, confidence, misses):
    n = stats.pairs_to_certify(recall, confidence, misses)
    assert stats.recall_lower_bound(n - misses, n, confidence) >= recall - 1e-9
    assert stats.recall_lower_bound(n - 1 - misses, n - 1, confidence) < recall + 1e-9 if n - 1 > misses else True


def test_benjamini_hochberg_by_hand():
    np.testing.assert_allclose(stats.benjamini_hochberg([0.04, 0.01, 0.03, 0.5]), [0.16 / 3, 0.04, 0.16 / 3, 0.5])


# ---- bootstrap


def test_bootstrap_mean_matches_the_normal_interval_and_repeats():
    x = np.random.default_rng(0).standard_normal(2000)
    got = stats.bootstrap_mean(x, seed=1)
    half = 1.96 * x.std() / math.sqrt(x.size)
    assert got == stats.bootstrap_mean(x, seed=np.random.default_rng(1))
    assert got.estimate == pytest.approx(x.mean())
    assert (got.low, got.high) == (pytest.approx(x.mean() - half, abs=0.006), pytest.approx(x.mean() + half, abs=0.006))
    assert (got.level, got.n) == (0.95, 2000)


def test_grouped_bootstrap_sees_the_clusters():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 25)
    x = rng.standard_normal(40)[groups] + 0.1 * rng.standard_normal(1000)
    rows, grouped = stats.bootstrap_mean(x), stats.bootstrap_mean(x, groups)
    assert grouped.n == 40
    assert grouped.high - grouped.low > 4 * (rows.high - rows.low)  # 25 copies: about 5 times as wide


def test_bootstrap_mean_and_statistic_draw_the_same_groups():
    rng = np.random.default_rng(0)
    x, groups = rng.standard_normal(200), rng.integers(0, 30, 200)  # unequal sizes
    mean = stats.bootstrap_mean(x, groups, num_resamples=300, seed=5)
    statistic = stats.bootstrap_statistic(np.mean, [x], groups, num_resamples=300, seed=5)
    assert (statistic.low, statistic.high) == (pytest.approx(mean.low), pytest.approx(mean.high))


def test_bootstrap_mean_covers():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        got = stats.bootstrap_mean(rng.exponential(size=60), num_resamples=400, seed=rng)
        hits += got.low <= 1 <= got.high
    assert 0.89 <= hits / 300 <= 0.98


def test_bootstrap_statistic_for_auc():
    scores, labels, groups = tied(1500)
    got = stats.bootstrap_statistic(stats.auc, [scores, labels], groups, num_resamples=300)
    assert got.estimate == stats.auc(scores, labels)
    assert got.low < got.estimate < got.high
    assert 0.02 < got.high - got.low < 0.12
    assert got.n == 40


def test_bootstrap_statistic_refuses_when_most_resamples_have_one_class():
    labels = np.arange(100) == 0
    with pytest.raises(ValueError, match="undefined on"):
        stats.bootstrap_statistic(stats.auc, [np.arange(100), labels], num_resamples=50)
    with pytest.raises(ValueError, match="both classes"):
        stats.bootstrap_statistic(stats.auc, [np.arange(100), np.zeros(100)])


def test_paired_difference_finds_a_real_one_and_not_an_absent_one():
    rng = np.random.default_rng(0)
    base = rng.standard_normal(300)
    real = stats.paired_difference(base + 0.2 + 0.5 * rng.standard_normal(300), base)
    assert real.low > 0
    assert real.p_value == pytest.approx(2 / 2001)
    same = stats.paired_difference(base, base)
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_paired_difference_p_is_near_uniform_under_no_difference():
    rng = np.random.default_rng(0)
    p = [
        stats.paired_difference(*rng.standard_normal((2, 80)), num_resamples=300, seed=rng).p_value for _ in range(300)
    ]
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.1
    assert 0.42 < np.mean(p) < 0.58


def test_paired_difference_of_two_aucs():
    rng = np.random.default_rng(0)
    labels = rng.random(600) < 0.4
    good, poor = labels + rng.standard_normal(600), 0.2 * labels + rng.standard_normal(600)
    got = stats.paired_difference(good, poor, statistic=stats.auc, shared=[labels], num_resamples=200)
    assert got.difference == pytest.approx(stats.auc(good, labels) - stats.auc(poor, labels))
    assert got.low > 0
    assert got.n == 600


# ---- does the scorer read the section?


def test_section_swap():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 400))
    deaf = stats.section_swap(a, a + 1e-5)
    assert (deaf.share_unchanged, deaf.n) == (1.0, 400)
    assert deaf.spearman > 0.999
    reads = stats.section_swap(a, b)
    assert reads.spearman == pytest.approx(scipy.stats.spearmanr(a, b)[0])
    assert reads.mean_absolute == pytest.approx(np.abs(a - b).mean())
    assert math.isnan(stats.section_swap(np.zeros(5), np.zeros(5)).spearman)
    assert stats.distinct_share([1, 1, 2, 2]) == 0.5


# ---- what a user can get wrong


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: stats.auc([1, math.nan], [0, 1]), "1 NaN values"),
        (lambda: stats.auc([1, 2, 3], [0, 1]), "2 rows, expected 3"),
        (lambda: stats.auc([1, 2], [1, 1]), "both classes"),
        (lambda: stats.auc([1, 2], [0, 2]), "must be 0 or 1"),
        (lambda: stats.auc([1, 2], [0, 1], [-1, 1]), "weights"),
        (lambda: stats.auc([], []), "non-empty"),
        (lambda: stats.average_precision([1, math.inf], [0, 1]), "infinite"),
        (lambda: stats.grouped_auc([1, 2], [0, 1], [1]), "one id per row"),
        (lambda: stats.recall_at_k([0.5], ["a"], [1]), "integer"),
        (lambda: stats.recall_at_k([-2], ["a"], [1]), "-1 means"),
        (lambda: stats.recall_at_k([0], ["a"], [0]), "cut-offs"),
        (lambda: stats.cohen_kappa([1, 1], [1, 1]), "undefined"),
        (lambda: stats.cohen_kappa([1, 1], [1]), "same rows"),
        (lambda: stats.brier([2.0], [1]), "calibrate"),
        (lambda: stats.ece([0.5], [1], bins=0), "bins"),
        (lambda: stats.clopper_pearson(3, 2), "successes"),
        (lambda: stats.clopper_pearson(1, 2, 95), r"\.95, not 95"),
        (lambda: stats.pairs_to_certify(1.0), "recall"),
        (lambda: stats.bootstrap_mean([1.0]), "2 or more groups"),
        (lambda: stats.paired_difference([1.0, 2], [1.0]), "b has 1 rows"),
        (lambda: stats.paired_difference([1.0, 2], [1, 2], statistic=stats.auc, shared=[[1]]), "shared"),
        (lambda: stats.bootstrap_statistic(np.mean, [[1, 2], [1]]), "equal length"),
        (lambda: stats.benjamini_hochberg([1.5]), "p-values"),
        (lambda: stats.always_yes_f1(1.5), "prevalence"),
        (lambda: stats.section_swap([1], [1, 2]), "swapped"),
    ],
)
def test_user_errors_say_what_to_do(call, match):
    with pytest.raises(ValueError, match=match):
        call()
