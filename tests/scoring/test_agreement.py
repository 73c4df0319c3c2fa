"""What a drawn sample says of all pairs, against all pairs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics

from patentft.scoring.agreement import draw, estimates, quantile_edges, strata_of, weights_of


def everything(seed: int = 0, techniques: int = 100, size: int = 60):
    """(log-odds, the scorer's yes, the second opinion, technique) of all pairs; few are a yes, fewer are right."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(techniques), size)
    odds = (rng.normal(size=len(groups)) - 1.5 + rng.normal(scale=0.3, size=techniques)[groups]).astype(np.float32)
    return odds, odds >= 0, rng.random(len(groups)) < 1 / (1 + np.exp(1.5 - 1.5 * odds)), groups


def parts(odds, yes, groups, edges, num: int = 7) -> list[pa.Table]:
    stratum = strata_of(odds, yes, edges)
    columns = {"row": np.arange(len(odds)), "stratum": stratum.astype(np.int32), "technique_id": groups}
    whole = pa.table({name: pa.array(values) for name, values in columns.items()})
    ends = [len(odds) * i // num for i in range(num + 1)]
    return [whole.slice(low, high - low) for low, high in pairwise(ends)]


def test_strata_are_quantiles_cut_at_the_threshold():
    odds, yes, _, _ = everything()
    stratum = strata_of(odds, yes, quantile_edges(odds, 4))
    assert (stratum % 2 == yes).all()
    sizes = np.bincount(stratum // 2)
    assert sizes.max() - sizes.min() <= 1
    assert quantile_edges(np.zeros(9), 4).tolist() == [0.0]  # equal scores are one stratum


def test_draws_are_so_many_of_each_stratum_and_the_same_again():
    odds, yes, _, groups = everything()
    edges = quantile_edges(odds, 5)
    cut = parts(odds, yes, groups, edges)
    sample, sizes = draw(cut, 20, every_yes=False, seed=1)
    stratum = strata_of(odds, yes, edges)
    assert sizes == {int(value): int((stratum == value).sum()) for value in np.unique(stratum)}
    drawn = np.unique(sample["stratum"].to_numpy(), return_counts=True)[1]
    assert drawn.tolist() == [min(20, sizes[value]) for value in sorted(sizes)]
    rows = sample["row"].to_pylist()
    assert len(set(rows)) == len(rows)
    assert draw(cut, 20, every_yes=False, seed=1)[0].equals(sample)
    assert draw(cut, 20, every_yes=False, seed=2)[0]["row"].to_pylist() != rows
    whole, _ = draw(cut, 20, every_yes=True, seed=1)
    assert set(np.flatnonzero(yes)) <= set(whole["row"].to_pylist())


def test_every_row_of_a_stratum_is_as_likely():
    groups = np.zeros(30, int)
    cut = parts(np.zeros(30), np.zeros(30, bool), groups, np.array([]), num=4)
    times = np.zeros(30)
    for seed in range(600):
        times[draw(cut, 10, every_yes=False, seed=seed)[0]["row"].to_numpy()] += 1
    assert times == pytest.approx(200, abs=4 * np.sqrt(200 * 2 / 3))


def test_the_estimates_are_those_of_all_pairs():
    """Unbiased over draws, the intervals cover, and a sample taken as it is would be wrong."""
    odds, yes, judged, groups = everything()
    truth = {
        "agreement": (yes == judged).mean(),
        "kappa": sklearn.metrics.cohen_kappa_score(yes, judged),
        "precision": judged[yes].mean(),
        "recall": yes[judged].mean(),
    }
    edges = quantile_edges(odds, 5)
    cut = parts(odds, yes, groups, edges)
    found = {name: [] for name in truth}
    covered = dict.fromkeys(truth, 0)
    plain = []
    for seed in range(20):
        sample, sizes = draw(cut, 60, every_yes=False, seed=seed)
        rows = sample["row"].to_numpy()
        weights, missing = weights_of(sample["stratum"].to_numpy(), np.ones(len(rows), bool), sizes)
        assert missing == 0
        assert weights.sum() == pytest.approx(len(odds))
        said = estimates(yes[rows], judged[rows], weights, groups[rows], num_resamples=100)
        for name, value in truth.items():
            found[name].append(said[name]["estimate"])
            covered[name] += said[name]["low"] <= value <= said[name]["high"]
        plain.append((yes[rows] == judged[rows]).mean())
    for name, value in truth.items():
        assert np.mean(found[name]) == pytest.approx(value, abs=3 * np.std(found[name]) / np.sqrt(20) + 1e-3), name
        assert covered[name] >= 16, name
    assert abs(np.mean(plain) - truth["agreement"]) > 0.03


def test_asking_about_all_gives_the_figures_of_all():
    odds, yes, judged, groups = everything(techniques=20)
    said = estimates(yes, judged, np.ones(len(odds)), groups, num_resamples=50)
    assert said["precision"]["estimate"] == pytest.approx(judged[yes].mean())
    assert said["recall"]["estimate"] == pytest.approx(yes[judged].mean())
    assert said["kappa"]["estimate"] == pytest.approx(sklearn.metrics.cohen_kappa_score(yes, judged))


def test_a_row_without_an_answer_is_stood_for_by_the_others_of_its_stratum():
    stratum, answered = np.array([0, 0, 0, 1, 3]), np.array([True, False, True, True, False])
    weights, missing = weights_of(stratum, answered, {0: 30, 1: 4, 3: 7})
    assert weights.tolist() == [15, 0, 15, 4, 0]
    assert missing == 7


def test_what_is_not_defined_is_said():
    one = np.ones(4, bool)
    said = estimates(~one, one, np.ones(4), np.arange(4))
    assert "no pair is a yes" in said["precision"]["not_defined"]
    assert "2 or more groups" in estimates(one, ~one, np.ones(4), np.zeros(4))["agreement"]["not_defined"]
