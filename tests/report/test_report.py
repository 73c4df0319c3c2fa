"""The report against brute force on whole ranking matrices; its page: escaping, undefined figures, no outside help."""

from __future__ import annotations

import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from patentft import schema
from patentft.config import ConfigError, build
from patentft.report import figures
from patentft.report.evaluate import KEYS, Fold, describe, evaluate
from patentft.report.metrics import ABOVE, BELOW, UNCLEAR, verdict
from patentft.report.ranks import above, auc_from_ranks, mean_ranks
from patentft.report.run import REPORT, ReportConfig, _ablation_weights, run_report
from patentft.stage import references

from .world import Matrices, World, matrices, ranks_of, weights
from .world import build as build_world


def report(world: World) -> tuple[dict, str]:
    """The metrics and the page of a world; few resamples, for speed."""
    config, context = build_world(world)
    run_report(config, context)
    folder = context.folder.location
    return json.loads((folder / "metrics.json").read_bytes()), (folder / "index.html").read_bytes().decode()


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[World, dict, str]:
    world = World(tmp_path_factory.mktemp("plain"))
    return world, *report(world)


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Figures are built but not rendered: seconds saved where a test does not look at them."""
    monkeypatch.setattr(figures, "render", lambda figure, alt, name: f'<svg aria-label="{escape(alt)}"></svg>')


# ---- brute force


def whole_score(fold: Matrices) -> np.ndarray:
    """The scorer's order of a whole row or column: scored pairs by log-odds, above the others by cosine."""
    return np.where(fold.scored, 100 + fold.log_odds.astype(np.float64), fold.cosine["encoder"].astype(np.float64))


def brute(fold: Matrices, system: str) -> dict[str, list[float]]:
    """Recall and MRR per technique and per patent, AUC per technique, from the full matrix of scores."""
    score = whole_score(fold) if system == "scorer" else fold.cosine[system].astype(np.float64)
    found: dict[str, list[float]] = {}
    for side, axis in (("technique", 1), ("patent", 0)):
        rank = np.ceil(ranks_of(score, axis))
        rows = zip(score, rank, fold.label, strict=True) if axis else zip(score.T, rank.T, fold.label.T, strict=True)
        for x, r, y in rows:
            if not y.any():
                continue
            for k in (1, 5, 10, 20, 50, 100):
                found.setdefault(f"{side}.recall_at_{k}", []).append(float((r[y] < k).mean()))
            found.setdefault(f"{side}.mrr", []).append(float(1 / (1 + r[y].min())))
            if side == "technique":
                found.setdefault("technique.auc", []).append(float(roc_auc_score(y, x)))
    return found


def pooled(folds: list[dict[str, list[float]]], key: str) -> float:
    return float(np.mean([value for fold in folds for value in fold[key]]))


@pytest.mark.parametrize("ties", [False, True])
def test_ranks_equal_brute_force_on_whole_matrices(tmp_path, plain, undrawn, ties):
    world = World(tmp_path, num_folds=2, ties=True) if ties else plain[0]
    metrics = report(world)[0] if ties else plain[1]
    folds = [matrices(world, i) for i in range(world.num_folds)]
    for system in ("lexical", "untrained", "encoder", "scorer"):
        wanted = [brute(fold, system) for fold in folds]
        checked = 0
        for key in wanted[0]:
            side, metric = key.split(".")
            got = f"{side}.{system}.{metric}"
            if got not in metrics or metrics[got] is None:
                continue  # a k of the other direction, or a k beyond the pool
            assert metrics[got] == pytest.approx(pooled(wanted, key), abs=1e-12), got
            for i, w in enumerate(wanted):
                assert metrics[f"fold{i}.{got}"] == pytest.approx(np.mean(w[key]), abs=1e-12)
            checked += 1
        assert checked >= 9


def test_scored_pairs_equal_scikit_learn(plain):
    world, metrics, _ = plain
    folds = [matrices(world, i) for i in range(world.num_folds)]
    pairs = [(f.log_odds[f.scored], f.label[f.scored], 1 / (1 + np.exp(-f.log_odds[f.scored] / 2))) for f in folds]
    assert metrics["scored.auc_pooled"] == pytest.approx(np.mean([roc_auc_score(y, x) for x, y, _ in pairs]))
    assert metrics["scored.average_precision"] == pytest.approx(
        np.mean([average_precision_score(y, x) for x, y, _ in pairs])
    )
    y, p = np.concatenate([pair[1] for pair in pairs]), np.concatenate([pair[2] for pair in pairs])
    assert metrics["scored.f1"] == pytest.approx(f1_score(y, p >= 0.4))
    assert metrics["scored.always_yes_f1"] == pytest.approx(f1_score(y, np.ones_like(y)))
    assert metrics["scored.brier_after"] == pytest.approx(np.mean((p - y) ** 2), abs=1e-7)
    assert metrics["scored.num_positives"] == y.sum()
    for group, axis in (("technique", 1), ("patent", 0)):
        values = []
        for f in folds:
            for x, label, scored in zip(*((a if axis else a.T) for a in (f.log_odds, f.label, f.scored)), strict=True):
                if 0 < label[scored].sum() < scored.sum():
                    values.append(roc_auc_score(label[scored], x[scored]))
        assert metrics[f"scored.auc_within_{group}"] == pytest.approx(np.mean(values))


def test_intervals_hold_their_estimate_and_steps_are_differences_of_systems(plain):
    _, metrics, _ = plain
    for key in metrics:
        if key.endswith(".low") and metrics[key] is not None:
            base = key.removesuffix(".low")
            assert metrics[key] <= metrics[base] + 1e-9
            assert metrics[base] <= metrics[f"{base}.high"] + 1e-9
    for side, metric in (("technique", "mrr"), ("technique", "auc"), ("patent", "recall_at_5")):
        step = metrics[f"difference.scorer_minus_encoder.{side}.{metric}"]
        assert step == pytest.approx(metrics[f"{side}.scorer.{metric}"] - metrics[f"{side}.encoder.{metric}"])
        step = metrics[f"difference.encoder_minus_lexical.{side}.{metric}"]
        assert step == pytest.approx(metrics[f"{side}.encoder.{metric}"] - metrics[f"{side}.lexical.{metric}"])
    assert metrics["difference.scorer_minus_untrained.technique.mrr.verdict"] == ABOVE


def test_candidate_recall_counts_pairs_and_gives_the_exact_bound(plain):
    world, metrics, _ = plain
    folds = [matrices(world, i) for i in range(world.num_folds)]
    kept = np.concatenate([f.scored[f.label] for f in folds])
    assert metrics["candidates.top_k"] == world.top_k
    assert metrics["candidates.encoder.relevant"] == kept.size
    assert metrics[f"candidates.encoder.recall_at_{world.top_k}"] == pytest.approx(kept.mean())
    assert metrics[f"candidates.encoder.lower_bound_at_{world.top_k}"] < kept.mean()


def test_ablation_of_every_subset_on_the_candidate_rows(plain):
    world, metrics, _ = plain
    folds = [matrices(world, i) for i in range(world.num_folds)]
    keys = {
        "lexical": "lexical",
        "cosine": "cosine",
        "cross_encoder": "cross",
        "cosine_and_lexical": "cosine+lexical",
        "cross_encoder_and_lexical": "cross+lexical",
        "cross_encoder_and_cosine": "cross+cosine",
        "combined": "combined",
    }
    for name, subset in keys.items():
        mrr, auc = [], []
        for i, f in enumerate(folds):
            parts = {"cross": f.cross, "cosine": f.cosine["encoder"], "lexical": f.cosine["lexical"]}
            score = sum(w * parts[part].astype(np.float64) for part, w in weights(i)[subset].items())
            score = f.log_odds if subset == "combined" else np.asarray(score)
            for x, y, s in zip(score, f.label, f.scored, strict=True):
                if y[s].any():
                    mrr.append(1 / (1 + np.sort(ranks_of(x[s][None], 1)[0][y[s]])[0]))
                    auc.append(roc_auc_score(y[s], x[s]))
        assert metrics[f"ablation.{name}.mrr"] == pytest.approx(np.mean(mrr), abs=1e-12)
        assert metrics[f"ablation.{name}.auc"] == pytest.approx(np.mean(auc), abs=1e-12)
        if name != "combined":
            step = metrics["ablation.combined.auc"] - metrics[f"ablation.{name}.auc"]
            assert metrics[f"ablation.difference.combined_minus_{name}.auc"] == pytest.approx(step)
            assert metrics[f"ablation.difference.combined_minus_{name}.mrr.low"] is not None
    assert metrics["fold1.weight.cosine"] == weights(1)["combined"]["cosine"]


def test_auc_from_mean_ranks_with_ties():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, (30, 12)).astype(np.float64), rng.random((30, 12)) < 0.3
    y[:, 0], y[:, 1] = True, False
    groups = np.repeat(np.arange(30), 12).reshape(30, 12)
    got = auc_from_ranks(ranks_of(x, 1)[y], groups[y], np.full(int(y.sum()), 12.0))[1]
    np.testing.assert_allclose(got, [roc_auc_score(a, b) for a, b in zip(y, x, strict=True)])
    assert np.isnan(auc_from_ranks(np.arange(3.0), np.zeros(3, np.int64), np.full(3, 3.0))[1]).all()


def test_above_and_mean_ranks():
    rng = np.random.default_rng(1)
    groups, values = rng.integers(0, 5, 200), rng.integers(0, 6, 200).astype(np.float64)
    greater, equal = above(groups, values, groups, values)
    for i in range(200):
        own = values[groups == groups[i]]
        assert (greater[i], equal[i]) == ((own > values[i]).sum(), (own == values[i]).sum())
    for g in range(5):
        np.testing.assert_allclose(mean_ranks(values, groups)[groups == g], ranks_of(values[groups == g][None], 1)[0])
    assert above(np.array([9]), np.array([0.5]), groups, values)[0].item() == 0


# ---- keys


def test_every_key_is_documented(plain):
    assert [key for key in plain[1] if describe(key) is None] == []
    assert describe("technique.scorer.mrrr") is None
    assert describe("made.up") is None
    assert len(plain[1]) > 300
    assert all(value is None or isinstance(value, str | int | float | bool) for value in plain[1].values())


def test_every_documented_pattern_occurs(plain):
    seen = {describe(key) for key in plain[1]}
    assert [key for key, text in KEYS.items() if text not in seen] == []


@pytest.mark.parametrize(
    ("low", "high", "words"), [(0.1, 0.2, ABOVE), (-0.1, 0.2, UNCLEAR), (-0.2, -0.1, BELOW), (0, 0.1, UNCLEAR)]
)
def test_verdict(low, high, words):
    assert verdict(low, high) == words


# ---- the page


class Tags(HTMLParser):
    """All start tags with their attributes, and an error for tags left open."""

    void = frozenset(("meta", "br", "hr", "path", "use"))

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    return tags


def test_page_is_self_contained_and_accessible(plain):
    text = plain[2]
    tags = parsed(text).tags
    for _, attributes in tags:
        for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            assert not re.match(r"\s*(https?:)?//", attributes.get(name) or "")
    assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import", text)
    assert {tag for tag, _ in tags}.isdisjoint({"script", "link", "iframe", "img", "object"})
    figures = [attributes for tag, attributes in tags if tag == "svg"]
    assert len(figures) == 11
    assert all(len(figure["aria-label"]) > 20 and figure["role"] == "img" for figure in figures)
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for tag, a in tags if tag == "a"]
    assert set(targets) <= set(ids)
    used = {a["xlink:href"][1:] for tag, a in tags if tag == "use"} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert used <= set(ids)
    assert "width=device-width" in text
    assert "prefers-color-scheme" in text
    assert len(text.encode()) < 3_000_000
    assert "#0a0b" not in text  # every stand-in colour became a variable


def test_page_shows_what_it_must(plain):
    world, metrics, text = plain
    for words in (
        "lower bound",
        "always yes",
        "known match",
        "Quarantined rows",
        "duplicates",
        "Manifest id",
        "Did each step help?",
        "Section-swap test",
        "the scorer reads the section",
        "labels_exhaustive",
        "pyarrow",
        "Is it better than TF-IDF alone?",
        "Cosine + TF-IDF",
        "what the cross-encoder adds",
        "Weights of the parts",
    ):
        assert words in text, words
    assert f"{metrics['technique.scorer.mrr']:.3f}" in text
    _, context = build_world(world)  # the same folders, opened again
    stage = context.inputs["score0"].manifest
    assert stage is not None
    assert stage.id in text


@pytest.mark.usefixtures("undrawn")
def test_text_is_escaped(tmp_path):
    bad = "<script>alert('x')</script> & $x$ \"quoted\" </style>"
    _, text = report(World(tmp_path, num_folds=1, title=bad, text=bad * 3))
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)" in text
    parsed(text)


@pytest.mark.usefixtures("undrawn")
def test_bytes_do_not_depend_on_when_they_are_made(tmp_path):
    worlds = [World(tmp_path / name, num_folds=1) for name in ("a", "b")]
    for world in worlds:
        world.root.mkdir()
    first, second = (report(world) for world in worlds)
    assert first == second


def test_a_figure_is_the_same_each_time_and_takes_any_name():
    bad = "<b>$x_{$ & 'quoted'"
    first, second = (figures.bars({bad: 1.5, "b": 20}, "seconds", bad, "f") for _ in range(2))
    assert first == second
    assert "<b>" not in first
    parsed(first)
    assert 'id="f-' in first
    assert not re.search(r'id="(?!f-)', first)


# ---- what is missing or undefined


@pytest.mark.usefixtures("undrawn")
def test_no_encoder(tmp_path):
    metrics, text = report(World(tmp_path, num_folds=2, with_encoder=False))
    assert not any("encoder." in key and key.startswith(("technique", "patent")) for key in metrics)
    assert metrics["difference.scorer_minus_untrained.technique.mrr"] is not None
    assert text.count("no fine-tuned encoder") == 1
    fold = [matrices(World(tmp_path, with_encoder=False), i) for i in range(2)]
    for f in fold:
        f.cosine["encoder"] = f.cosine["untrained"]
    wanted = [brute(f, "scorer") for f in fold]
    assert metrics["technique.scorer.auc"] == pytest.approx(pooled(wanted, "technique.auc"))
    assert metrics["patent.scorer.mrr"] == pytest.approx(pooled(wanted, "patent.mrr"))


@pytest.mark.usefixtures("undrawn")
def test_no_tf_idf(tmp_path):
    metrics, text = report(World(tmp_path, num_folds=2, with_lexical=False, lexical_feature=False))
    assert not any("lexical" in key for key in metrics if not key.startswith(("counts", "seconds")))
    assert metrics["ablation.combined.mrr"] is not None
    assert metrics["ablation.difference.combined_minus_cosine.mrr"] is not None
    assert metrics["fold0.weight.cosine"] == 1
    assert "TF-IDF" not in text.partition('id="run"')[0]


@pytest.mark.usefixtures("undrawn")
def test_tf_idf_that_beats_the_encoder_is_told_at_the_top(tmp_path):
    noise = dict(lexical=0.02, untrained=1.5, encoder=1.0, scorer=3.0)
    metrics, text = report(World(tmp_path, num_folds=2, noise=noise, lexical_feature=False))
    top = text.partition("Did each step help?")[0]
    for system, name in (("scorer", "scorer"), ("encoder", "fine-tuned encoder")):
        assert metrics[f"difference.{system}_minus_lexical.technique.mrr.verdict"] == BELOW
        assert f"TF-IDF alone beats the {name}</strong>" in top
        assert f"({metrics['technique.lexical.mrr']:.3f} against {metrics[f'technique.{system}.mrr']:.3f})" in top
    assert "may come from the labels" in top
    noise = dict(lexical=2.0, untrained=1.5, encoder=0.7, scorer=0.3)
    (tmp_path / "b").mkdir()
    _, text = report(World(tmp_path / "b", num_folds=1, noise=noise))
    assert "TF-IDF alone beats" not in text
    assert "may come from the labels" not in text


def test_weights_that_are_not_known_are_left_out():
    read = _ablation_weights({"cross": {"cross": 2}, "cross+x": {"cross": 1, "x": 1}, "cosine+cross": {"cross": 1.0}})
    assert read == {frozenset(["cross"]): {"cross": 2.0}}
    assert _ablation_weights(None) == {}


@pytest.mark.usefixtures("undrawn")
def test_no_calibration_no_threshold_no_swaps(tmp_path):
    metrics, text = report(World(tmp_path, num_folds=1, calibrated=False, threshold=False, swaps=False))
    assert metrics["scored.ece_after"] is None
    assert "no calibration was asked for" in str(metrics["scored.ece_after.not_defined"])
    assert metrics["scored.ece_before"] is not None
    assert "names no threshold" in str(metrics["scored.f1.not_defined"])
    assert "swapped no section" in str(metrics["swap.verdict.not_defined"])
    assert "not defined" in text
    assert [key for key in metrics if describe(key) is None] == []


@pytest.mark.usefixtures("undrawn")
def test_no_match_among_the_candidates(tmp_path):
    metrics, text = report(World(tmp_path, num_folds=2, matches_among_candidates=False))
    for key in ("scored.auc_pooled", "scored.auc_within_technique", "scored.f1", "ablation.combined.mrr"):
        assert metrics[key] is None
        assert metrics[f"{key}.not_defined"]
    assert metrics["technique.scorer.mrr"] == metrics["technique.encoder.mrr"]
    assert "ROC curve: not defined" in text
    assert [key for key in metrics if describe(key) is None] == []


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("matches", [0, 1])
def test_hardly_any_match(tmp_path, matches):
    world = World(tmp_path, num_folds=1, num_techniques=1 + matches, num_patents=60, matches_per_technique=matches)
    metrics, text = report(world)
    assert metrics["num_matches"] == matches
    assert metrics["technique.scorer.mrr.not_defined"]
    assert (metrics["technique.scorer.mrr"] is None) == (matches == 0)
    assert metrics["difference.scorer_minus_encoder.technique.mrr.verdict"] is None
    assert metrics["technique.scorer.recall_at_100.not_defined"]
    assert [key for key in metrics if describe(key) is None] == []
    parsed(text)


@pytest.mark.usefixtures("undrawn")
def test_scorer_that_does_not_read_the_section(tmp_path):
    metrics, text = report(World(tmp_path, num_folds=1, reads_section=False))
    assert metrics["swap.share_moved"] == 0
    assert "hardly reads the section" in str(metrics["swap.verdict"])
    assert "hardly reads the section" in text


@pytest.mark.usefixtures("undrawn")
def test_leak_is_told_at_the_top(tmp_path, capsys):
    world = World(tmp_path, num_folds=1, leak=True)
    metrics, text = report(world)
    assert metrics["leak.techniques"] == world.num_techniques
    assert 0.9 * world.num_patents < metrics["leak.patents"] <= world.num_patents  # those that occur in a table
    assert 'class="warning"' in text
    assert "never trained on" not in text
    assert "Leak:" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_nothing_held_out(tmp_path):
    metrics, text = report(World(tmp_path, num_folds=1, role="all"))
    assert metrics["role"] == "all"
    assert metrics["technique.scorer.mrr"] is not None
    assert "nothing was held out" in text


@pytest.mark.usefixtures("undrawn")
def test_exhaustive_labels_are_not_called_bounds(tmp_path):
    config, context = build_world(World(tmp_path, num_folds=1))
    run_report(config.model_copy(update={"labels_exhaustive": True}), context)
    text = (context.folder.location / "index.html").read_bytes().decode()
    assert "The labels are exhaustive" in text
    assert "(lower bound)" not in text


def test_different_rows_are_refused(plain):
    world = plain[0]
    _, context = build_world(world)
    ranks = context.inputs["untrained0"].read("ranks")
    ranks = pa.Table.from_pylist([row for row in ranks.to_pylist() if row["role"] == "test"], schema=ranks.schema)
    empty = {name: schema.TABLES[name].empty_table() for name in ("scores", "swaps")}
    fold = Fold({"untrained": ranks, "encoder": ranks.slice(1)}, empty["scores"], empty["scores"], empty["swaps"], None)
    with pytest.raises(ConfigError, match="1 only in the first"):
        evaluate([fold], context.inputs["corpus"].read("matches"), num_resamples=100, seed=0, top_k=None)


@pytest.mark.parametrize(
    "changed",
    [
        {"scores": []},
        {"roles": ["a", "b"]},
        {"encoder": ["x", "y"]},
        {"baseline": []},
        {"scores": ["s", "t"]},
        {"lexical": ["l", "m"]},
    ],
)
def test_lists_must_be_parallel(changed):
    values = {"data": "corpus", "roles": ["r"], "baseline": ["b"], "encoder": ["e"], "scores": ["s"]}
    assert build(ReportConfig, values).encoder == ["e"]
    with pytest.raises(ConfigError, match="one stage per fold"):
        build(ReportConfig, {**values, **changed})


def test_stage_names_its_references():
    names = ("data", "roles", "lexical", "baseline", "encoder", "scores")
    assert references(REPORT.config) == dict.fromkeys(names, "stage")
    assert not REPORT.uses_ray


@pytest.mark.usefixtures("undrawn")
def test_pipeline_gives_time_of_every_stage(tmp_path):
    config, context = build_world(World(tmp_path, num_folds=1))
    context.pipeline = {**context.inputs, "train <b>": context.inputs["split0"]}
    run_report(config, context)
    metrics = json.loads((context.folder.location / "metrics.json").read_bytes())
    assert metrics["seconds.train <b>"] > 0
    assert describe("seconds.train <b>")
    assert "train <b>" not in Path(context.folder.location.path, "index.html").read_text()
