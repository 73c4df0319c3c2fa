import numpy as np
import pytest
from scipy.special import logsumexp

from patentft.config import ConfigError
from patentft.scoring.combine import fit_weights, log_odds
from patentft.scoring.plan import shard_bounds, swap_pairs
from patentft.scoring.scorer import padded_batches


def world(seed: int = 0, groups: int = 200, size: int = 12):
    """A match per group, drawn by a softmax of known weights over two features of different scale; a third is noise."""
    rng = np.random.default_rng(seed)
    cross, cosine, noise = rng.normal(size=(3, groups, size)).astype(np.float32)
    cosine = 0.05 * cosine
    odds = 1.5 * cross + 20.0 * cosine
    chosen = [rng.choice(size, p=np.exp(row - logsumexp(row))) for row in odds]
    labels = np.zeros((groups, size), dtype=bool)
    labels[np.arange(groups), chosen] = True
    features = {"cross": cross.ravel(), "cosine": cosine.ravel(), "noise": noise.ravel()}
    return features, labels.ravel(), np.repeat(np.arange(groups), size)


def test_the_weights_that_made_the_choice_are_found():
    weights = fit_weights(*world(groups=1500))
    assert weights["cross"] == pytest.approx(1.5, rel=0.1)
    assert weights["cosine"] == pytest.approx(20.0, rel=0.1)
    assert weights["noise"] < 0.08


def test_a_feature_that_misleads_gets_weight_zero():
    features, labels, groups = world()
    weights = fit_weights({**features, "noise": -features["cross"]}, labels, groups)
    assert weights["noise"] < 1e-3 * weights["cross"]


def test_without_a_group_to_learn_from_there_is_an_error():
    features, labels, groups = world(groups=3)
    with pytest.raises(ConfigError, match="no technique of the valid side"):
        fit_weights(features, np.zeros_like(labels), groups)


def test_log_odds_is_the_weighted_sum_and_the_bias():
    features = {"cross": np.array([1.0, 2.0], np.float32), "cosine": np.array([0.5, 0.1], np.float32)}
    assert log_odds(features, {"cross": 2.0, "cosine": 10.0, "bias": -1.0}).tolist() == pytest.approx([6.0, 4.0])
    assert log_odds(features, {"cosine": 10.0}).dtype == np.float32


def test_shards_cover_every_row_once():
    bounds = shard_bounds(1003, 250)
    assert [row for low, high in bounds for row in range(low, high)] == list(range(1003))
    assert shard_bounds(0, 10) == []


def test_a_swap_never_gives_back_its_own_section_and_takes_matches_first():
    techniques = np.arange(100) % 5 + 3
    matched = np.arange(100) < 6
    swaps = swap_pairs(techniques, matched, 40, seed=1)
    assert len({row for row, _ in swaps}) == len(swaps) == 40
    assert all(techniques[row] != other and other in techniques for row, other in swaps)
    assert sum(matched[row] for row, _ in swaps) == 6
    assert swaps == swap_pairs(techniques, matched, 40, seed=1)
    assert swap_pairs(np.array([1]), np.array([False]), 5, seed=0) == []
    assert sorted(row for row, _ in swap_pairs(techniques, ~matched, 500, seed=1)) == list(range(100))


def test_batches_hold_their_budget():
    lengths = [5, 7, 7, 30, 31, 200]
    batches = padded_batches(range(6), lengths, 62)
    assert batches == [[0, 1, 2], [3, 4], [5]]
