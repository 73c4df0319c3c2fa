"""A small made-up run with known structure: stage folders of every kind that the report reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import rankdata

from patentft import schema
from patentft.config import build as build_config
from patentft.location import Location
from patentft.progress import Progress
from patentft.report.run import ReportConfig
from patentft.stage import Context
from patentft.store import StageFolder, open_stage


@dataclass(frozen=True)
class World:
    """What varies between tests; the truth is a quality per (technique, patent), each system adds less noise."""

    root: Path
    num_folds: int = 3
    num_techniques: int = 20  # per fold, all of them test
    num_patents: int = 200  # the pool
    top_k: int = 40
    noise: Mapping[str, float] = field(
        default_factory=lambda: dict(lexical=0.5, untrained=1.2, encoder=0.7, scorer=0.35)
    )
    matches_per_technique: int = 3
    ties: bool = False  # round cosines, so that many are equal
    with_encoder: bool = True
    with_lexical: bool = True  # the comparison with TF-IDF alone
    lexical_feature: bool = True  # TF-IDF in the score, weights of every subset
    calibrated: bool = True
    threshold: bool = True
    swaps: bool = True
    matches_among_candidates: bool = True
    text: str = "A scrubber removes sulphur dioxide from the flue gas with a slurry of limestone. "
    title: str = "Report of a test"
    reads_section: bool = True
    leak: bool = False
    role: str = "test"


@dataclass
class Matrices:
    """A fold as whole matrices (T, P): what brute force starts from."""

    techniques: list[str]
    patents: list[str]
    label: np.ndarray
    cosine: dict[str, np.ndarray]
    cross: np.ndarray
    log_odds: np.ndarray
    scored: np.ndarray  # which pairs are candidates


def weights(fold: int) -> dict[str, dict[str, float]]:
    """Of every subset of the parts of a fold's score, "combined" among them."""
    return {
        "cross": {"cross": 1.5},
        "cosine": {"cosine": 7.0},
        "lexical": {"lexical": 6.0},
        "cross+cosine": {"cross": 1.2 + 0.1 * fold, "cosine": 3.0},
        "cosine+lexical": {"cosine": 5.0, "lexical": 4.0 + fold},
        "cross+lexical": {"cross": 0.9, "lexical": 2.0},
        "combined": {"cross": 1.0, "cosine": 1.0 + 0.5 * fold, "lexical": 2.0},
    }


def matrices(world: World, fold: int) -> Matrices:
    rng = np.random.default_rng(1000 + fold)
    shape = world.num_techniques, world.num_patents
    quality = rng.normal(size=shape)
    label = np.zeros(shape, bool)
    for t in range(shape[0]):
        # the last technique has no match at all, one has a single match
        many = 0 if t == shape[0] - 1 else 1 if t == 0 else world.matches_per_technique
        own = rng.choice(shape[1], many, replace=False)
        label[t, own] = True
    quality = quality + 2.0 * label
    cosine = {}
    for system in ("untrained", "encoder", "lexical"):
        values = 0.5 + 0.1 * (quality + world.noise[system] * 3 * rng.normal(size=shape))
        cosine[system] = (np.round(values, 1) if world.ties else values).astype(np.float32)
    last = cosine["encoder" if world.with_encoder else "untrained"]
    if not world.matches_among_candidates:
        last[label] = -1.0
    cross = (2 * (quality + world.noise["scorer"] * 3 * rng.normal(size=shape)) - 4).astype(np.float32)
    own = weights(fold)["combined"] if world.lexical_feature else {"cross": 1.0, "cosine": 1.0}
    parts = {"cross": cross, "cosine": last, "lexical": cosine["lexical"]}
    log_odds = sum(w * parts[name].astype(np.float64) for name, w in own.items()).astype(np.float32)  # type: ignore
    if world.ties:
        log_odds = np.round(log_odds)
    order = np.argsort(-last, axis=1, kind="stable")
    scored = np.zeros(shape, bool)
    np.put_along_axis(scored, order[:, : world.top_k], True, axis=1)
    techniques = [f"T{fold}-{t:03d}" for t in range(shape[0])]
    return Matrices(techniques, [f"P{p:04d}" for p in range(shape[1])], label, cosine, cross, log_odds, scored)


def ranks_of(scores: np.ndarray, axis: int) -> np.ndarray:
    """0-based mean ranks along an axis, greatest first."""
    return rankdata(-scores, axis=axis) - 1


def build(world: World) -> tuple[ReportConfig, Context]:
    """Write every stage and return what `run_report` is given."""
    folds = [matrices(world, i) for i in range(world.num_folds)]
    names = {"roles": [], "lexical": [], "baseline": [], "encoder": [], "scores": []}
    stages = {"corpus": _corpus(world, folds)}
    for i, fold in enumerate(folds):
        for kind, made in (
            ("roles", _roles(world, i, fold)),
            ("lexical", _search(world, i, fold, "lexical") if world.with_lexical else None),
            ("baseline", _search(world, i, fold, "untrained")),
            ("encoder", _search(world, i, fold, "encoder") if world.with_encoder else None),
            ("scores", _scores(world, i, fold)),
        ):
            if made is not None:
                names[kind].append(made.name)
                stages[made.name] = made
    config = build_config(ReportConfig, {"data": "corpus", "title": world.title, "bootstrap_resamples": 100, **names})
    folder = open_stage(Location(world.root / "report"), "report", {}, {})
    return config, Context(folder, inputs=stages, progress=Progress(quiet=True))


def _stage(
    world: World, name: str, kind: str, tables: Mapping[str, list[dict]], counts: Mapping[str, Any]
) -> StageFolder:
    folder = open_stage(Location(world.root / name), kind, {"seed": 1, "name": name}, {})
    for table, rows in tables.items():
        folder.write_part(table, 0, pa.Table.from_pylist(rows, schema=schema.TABLES[table]))
    folder.finish(counts)
    assert folder.manifest is not None
    folder.manifest = replace(folder.manifest, seconds=1.5 + 40 * len(stages_seen(world.root)))
    return folder


def stages_seen(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())


def _corpus(world: World, folds: list[Matrices]) -> StageFolder:
    patents = [
        {
            "patent_id": p,
            "title": f"{world.title} {p}",
            "abstract": world.text * 4,
            "claims": None,
            "year": 1990 + i % 30,
        }
        | {"codes": ["B01D53/50"]}
        for i, p in enumerate(folds[0].patents)
    ]
    techniques = [
        {
            "technique_id": t,
            "document": "LCP",
            "section": "4.3.1",
            "title": f"Wet scrubbing {t}",
            "text": world.text * 20,
        }
        for fold in folds
        for t in fold.techniques
    ]
    matches = [
        {"technique_id": fold.techniques[t], "patent_id": fold.patents[p]}
        for fold in folds
        for t, p in zip(*np.nonzero(fold.label), strict=True)
    ]
    counts = {
        "patents": {
            "read": len(patents) + 7,
            "kept": len(patents),
            "duplicates": {"id": 3, "text": 2},
            "quarantined": 2,
        },
        "languages": ["en", "de"],
        "table": [{"reason": world.title, "rows": 2}],
    }
    return _stage(world, "corpus", "corpus", {"patents": patents, "techniques": techniques, "matches": matches}, counts)


def _roles(world: World, i: int, fold: Matrices) -> StageFolder:
    side = "train" if world.leak else "test"
    rows = {
        "technique_roles": [{"id": t, "role": side} for t in fold.techniques],
        "patent_roles": [{"id": p, "role": side} for p in fold.patents],
    }
    return _stage(world, f"split{i}", "split", rows, {"techniques": {"test": len(fold.techniques)}})


def _search(world: World, i: int, fold: Matrices, system: str) -> StageFolder:
    cosine = fold.cosine[system]
    in_technique, in_patent = ranks_of(cosine, 1), ranks_of(cosine, 0)
    ranks = [
        {
            "technique_id": fold.techniques[t],
            "patent_id": fold.patents[p],
            "role": world.role,
            "cosine": cosine[t, p],
            "rank_in_technique": in_technique[t, p],
            "num_patents": cosine.shape[1],
            "rank_in_patent": in_patent[t, p],
            "num_techniques": cosine.shape[0],
        }
        for t, p in zip(*np.nonzero(fold.label), strict=True)
    ]
    candidates = [
        {"technique_id": fold.techniques[t], "patent_id": fold.patents[p], "role": world.role, "rank": rank}
        | {"cosine": cosine[t, p], "chunk": 0}
        for t in range(cosine.shape[0])
        for rank, p in enumerate(np.argsort(-cosine[t], kind="stable")[: world.top_k])
    ]
    rng = np.random.default_rng(i)
    # rows come in any order; a row of another side must not count
    tables = {"ranks": [ranks[j] for j in rng.permutation(len(ranks))], "candidates": candidates}
    if tables["ranks"] and world.role == "test":
        tables["ranks"].append({**ranks[0], "role": "valid", "technique_id": "other", "rank_in_technique": 190.0})
    name, kind = f"{system}{i}", "lexical" if system == "lexical" else "search"
    return _stage(world, name, kind, tables, {"pairs_possible": int(cosine.size), "precision": "fp32"})


def _scores(world: World, i: int, fold: Matrices) -> StageFolder:
    cosine = fold.cosine["encoder" if world.with_encoder else "untrained"]
    rows, swaps = [], []
    for t, p in zip(*np.nonzero(fold.scored), strict=True):
        z = float(fold.log_odds[t, p])
        row = {
            "technique_id": fold.techniques[t],
            "patent_id": fold.patents[p],
            "role": world.role,
            "cosine": cosine[t, p],
            "chunk": 0,
            "lexical": fold.cosine["lexical"][t, p] if world.lexical_feature else None,
            "cross_logit": fold.cross[t, p],
            "log_odds": z,
            "probability": 1 / (1 + np.exp(-z / 2)) if world.calibrated else None,
        }
        rows.append(row)
        if p % 4 == 0:
            other = fold.cross[(t + 1) % len(fold.techniques), p] if world.reads_section else fold.cross[t, p]
            swaps.append(
                {"technique_id": fold.techniques[t], "patent_id": fold.patents[p], "cross_logit": fold.cross[t, p]}
                | {"other_id": fold.techniques[(t + 1) % len(fold.techniques)], "swapped_logit": other}
            )
    rng = np.random.default_rng(i)
    tables = {"scores": [rows[j] for j in rng.permutation(len(rows))]}
    if world.swaps:
        tables["swaps"] = swaps
    counts: dict[str, Any] = {"pairs_scored": len(rows), "calibration": {"kind": "temperature", "temperature": 2.0}}
    if world.threshold:
        counts["threshold"] = 0.4
    counts["weights"] = {"cross": 1.0, "cosine": 1.0}
    if world.lexical_feature:
        counts["ablation_weights"] = weights(i)
        counts["weights"] = counts["ablation_weights"].pop("combined")
    return _stage(world, f"score{i}", "score", tables, counts)
