"""The report stage: reads the finished stages of all folds, writes report/index.html and report/metrics.json.

No Ray, no model. Memory: the SCORES of all folds; patents' texts are read part by part, and only those of
the examples are kept.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported: a type checker sees none of them)

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from patentft import schema
from patentft.config import Config, ConfigError, flatten
from patentft.report.evaluate import Evaluation, Fold, evaluate, leaks
from patentft.report.metrics import FEATURES, Metrics
from patentft.stage import Context, Stage, StageRef
from patentft.store import StageFolder

if TYPE_CHECKING:
    from patentft.report.page import Example, StageInfo

CANDIDATES_SHOWN = 5
EXCERPT_CHARACTERS = 2000


class ReportConfig(Config):
    """What the report compares: one corpus, and for each fold a split, searches and scores."""

    data: StageRef
    """Corpus stage: patents, techniques, matches."""
    roles: list[StageRef]
    """Split stages, one per fold: which side each patent and technique is on."""
    baseline: list[StageRef]
    """Search stages with the untrained encoder, one per fold."""
    lexical: list[StageRef] = Field(default_factory=list)
    """Lexical stages (TF-IDF, no training), one per fold; empty: no such comparison."""
    encoder: list[StageRef] = Field(default_factory=list)
    """Search stages with the fine-tuned encoder, one per fold; empty when no encoder was fine-tuned."""
    scores: list[StageRef]
    """Score stages, one per fold."""
    title: str = "Patents for pollution-abatement techniques"
    """Heading of the page."""
    labels_exhaustive: bool = False
    """Whether an unlabelled pair is a true negative. If not, AUC, precision and F1 are called lower bounds."""
    num_examples: int = Field(default=5, ge=0, le=100)
    """Techniques whose best patents are shown with their text."""
    bootstrap_resamples: int = Field(default=2000, ge=100)
    """Resamples of each interval."""
    seed: int = Field(default=0, ge=0)
    """Of the bootstrap and of the choice of examples."""

    @model_validator(mode="after")
    def _parallel(self) -> ReportConfig:
        names, optional = ("roles", "lexical", "baseline", "encoder", "scores"), ("lexical", "encoder")
        lengths = {name: len(getattr(self, name)) for name in names}
        wanted = lengths["scores"]
        wrong = [name for name, length in lengths.items() if length != wanted and (length or name not in optional)]
        if wrong or not wanted:
            found = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            raise ValueError(
                f"roles, baseline, encoder, lexical and scores must name one stage per fold each, at least one (got "
                f"{found}); only lexical and encoder may be empty"
            )
        return self


def run_report(config: ReportConfig, context: Context) -> dict[str, Any]:
    """Write index.html and metrics.json into the stage's folder; the counts are the headline figures.

    Raises ConfigError when matplotlib is absent, or when the stages of a fold do not belong together.
    """
    try:
        from patentft.report import page
    except ModuleNotFoundError as error:
        raise ConfigError(f"the report draws with matplotlib ({error}): pip install 'patentft[report]'") from error

    matches = context.input(config.data).read("matches")
    role, folds = _folds(config, context)
    top_k = _top_k(config, context, role)
    context.progress.say(f"report: {len(folds)} folds, {sum(fold.scores.num_rows for fold in folds):,} scored pairs")
    evaluation = evaluate(folds, matches, num_resamples=config.bootstrap_resamples, seed=config.seed, top_k=top_k)
    metrics = evaluation.metrics
    metrics["role"], metrics["labels_exhaustive"] = role, config.labels_exhaustive
    warnings = _leaks(config, context, folds, metrics)
    stages = _stages(context)
    _counts(config, context, stages, metrics)
    text = page.render(
        page.Page(
            title=config.title,
            labels_exhaustive=config.labels_exhaustive,
            evaluation=evaluation,
            examples=_examples(config, context, folds, matches),
            stages=stages,
            corpus=config.data,
            config=config.model_dump(mode="json"),
            warnings=warnings,
        )
    )
    for warning in warnings:
        context.progress.warn(warning)
    context.folder.write_file("index.html", text)
    context.folder.write_file("metrics.json", _json(metrics))
    context.progress.say(f"report: {context.folder.location / 'index.html'}")
    return _headline(evaluation, len(text))


def _json(metrics: Metrics) -> bytes:
    return (json.dumps(metrics, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _headline(evaluation: Evaluation, page_bytes: int) -> dict[str, Any]:
    metrics = evaluation.metrics
    shown = [f"technique.{system}.{name}" for system in evaluation.systems for name in ("mrr", "auc")]
    return {
        "metrics": len(metrics),
        "not_defined": sum(key.endswith(".not_defined") for key in metrics),
        "page_bytes": page_bytes,
        **{key: metrics[key] for key in shown},
    }


# ---- reading


def read_or_empty(folder: StageFolder, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The table, or one without rows when the stage wrote no part of it (nothing matched, nothing was swapped)."""
    if folder.manifest is not None and table not in folder.manifest.tables:
        empty = schema.TABLES[table].empty_table()
        return empty.select(list(columns)) if columns else empty
    return folder.read(table, columns)


def _side(table: pa.Table, role: str) -> pa.Table:
    return table.filter(pc.equal(table["role"], role))


def _folds(config: ReportConfig, context: Context) -> tuple[str, list[Fold]]:
    """The evaluated side (test, or all when no stage has a test row) and the tables of each fold on it."""
    searches = {"lexical": config.lexical, "untrained": config.baseline, "encoder": config.encoder}
    ranks = [
        {system: read_or_empty(context.input(names[i]), "ranks") for system, names in searches.items() if names}
        for i in range(len(config.scores))
    ]
    scores = [read_or_empty(context.input(name), "scores") for name in config.scores]
    roles = {
        role
        for t in [*scores, *(t for fold in ranks for t in fold.values())]
        for role in t["role"].unique().to_pylist()
    }
    role = "all" if "all" in roles and "test" not in roles else "test"
    folds = []
    for i, name in enumerate(config.scores):
        counts = _manifest(context.input(name)).counts
        threshold = float(counts["threshold"]) if _is_number(counts.get("threshold")) else None
        own = {system: _side(table, role) for system, table in ranks[i].items()}
        swaps = read_or_empty(context.input(name), "swaps")
        fitted = _weights(counts.get("weights")), _ablation_weights(counts.get("ablation_weights"))
        folds.append(Fold(own, _side(scores[i], role), _side(scores[i], "valid"), swaps, threshold, *fitted))
    return role, folds


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _weights(found: Any) -> dict[str, float]:
    """Part -> weight, of the parts that the report knows."""
    known = found if isinstance(found, Mapping) else {}
    return {name: float(known[name]) for name in FEATURES if _is_number(known.get(name))}


def _ablation_weights(found: Any) -> dict[frozenset[str], dict[str, float]]:
    """From {"cross+cosine": {"cross": weight, "cosine": weight}, ...}; a subset with an unknown part is left out."""
    known = found if isinstance(found, Mapping) else {}
    read = {frozenset(name.split("+")): _weights(weights) for name, weights in known.items()}
    return {parts: weights for parts, weights in read.items() if parts == set(weights)}


def _manifest(folder: StageFolder):
    if folder.manifest is None:
        raise ConfigError(f"stage {folder.name!r} at {folder.location} is not finished: run it first")
    return folder.manifest


def _top_k(config: ReportConfig, context: Context, role: str) -> int | None:
    """Candidates kept per technique by the searches whose candidates were scored; None when they kept none."""
    best = 0
    for name in config.encoder or config.baseline:
        candidates = read_or_empty(context.input(name), "candidates", ["role", "rank"])
        ranks = _side(candidates, role)["rank"]
        best = max(best, (pc.max(ranks).as_py() if len(ranks) else -1) + 1)
    return best or None


def _leaks(config: ReportConfig, context: Context, folds: Sequence[Fold], metrics: Metrics) -> list[str]:
    """Count evaluated techniques and patents on a training side; a warning for the top of the page if there are any."""
    total = {"techniques": 0, "patents": 0}
    for name, fold in zip(config.roles, folds, strict=True):
        tables = [*fold.ranks.values(), fold.scores]
        techniques = pa.concat_arrays(
            [c for t in tables for c in t["technique_id"].chunks] or [pa.array([], pa.string())]
        )
        patents = pa.concat_arrays([c for t in tables for c in t["patent_id"].chunks] or [pa.array([], pa.string())])
        split = context.input(name)
        roles = read_or_empty(split, "technique_roles"), read_or_empty(split, "patent_roles")
        for what, count in leaks(techniques, patents, *roles).items():
            total[what] += count
    metrics["leak.techniques"], metrics["leak.patents"] = total["techniques"], total["patents"]
    if not any(total.values()):
        return []
    return [
        f"Leak: {total['techniques']} evaluated techniques and {total['patents']} evaluated patents are on a training "
        "side of their split. The figures below are not those of unseen rows."
    ]


# ---- the run


def _stages(context: Context) -> list[StageInfo]:
    """Every finished stage of the pipeline (context.pipeline, else the inputs of this one), in order."""
    from patentft.report.page import StageInfo

    pipeline: Mapping[str, StageFolder] = getattr(context, "pipeline", None) or context.inputs
    found = []
    for name, folder in {**pipeline, **{k: v for k, v in context.inputs.items() if k not in pipeline}}.items():
        m = folder.manifest
        if m is not None:  # the report itself is among them when it runs, not yet finished
            found.append(
                StageInfo(name, m.kind, m.id, m.config_hash, m.seconds, m.tables, m.counts, m.config, m.versions)
            )
    return found


def _counts(config: ReportConfig, context: Context, stages: Sequence[StageInfo], metrics: Metrics) -> None:
    """The funnel from all pairs to scored pairs, seconds per stage, and every plain count of the manifests."""
    corpus = _manifest(context.input(config.data)).tables
    patents, techniques = (corpus.get(table, {}).get("rows", 0) for table in ("patents", "techniques"))
    metrics["funnel.patents"], metrics["funnel.techniques"] = patents, techniques
    metrics["funnel.pairs_possible"] = patents * techniques
    total: dict[str, int] = {}
    for i, (search, score) in enumerate(zip(config.encoder or config.baseline, config.scores, strict=True)):
        searched = _manifest(context.input(search))
        found = {
            "searched": searched.counts.get("pairs_possible"),
            "prefiltered": searched.tables.get("candidates", {}).get("rows", 0),
            "scored": _manifest(context.input(score)).tables.get("scores", {}).get("rows", 0),
        }
        for name, count in found.items():
            if isinstance(count, int):
                metrics[f"fold{i}.funnel.{name}"] = count
                total[name] = total.get(name, 0) + count
            else:
                metrics.undefined(f"fold{i}.funnel.{name}", f"stage {search!r} counted no pairs_possible")
    for name in ("searched", "prefiltered", "scored"):
        metrics[f"funnel.{name}"] = total.get(name)
    for stage in stages:
        metrics[f"seconds.{stage.name}"] = stage.seconds
        for path, value in flatten(stage.counts, f"counts.{stage.name}").items():
            plain = isinstance(value, bool | int | str) or (isinstance(value, float) and np.isfinite(value))
            if plain:
                metrics[path] = value


# ---- examples


def _examples(config: ReportConfig, context: Context, folds: Sequence[Fold], matches: pa.Table) -> list[Example]:
    """The best patents of a few evaluated techniques with a known match in the pool, drawn by the seed."""
    eligible = []
    for i, fold in enumerate(folds):
        ranked = list(fold.ranks.values())[-1]
        with_scores = set(fold.scores["technique_id"].unique().to_pylist())
        eligible += [(i, technique) for technique in sorted(set(ranked["technique_id"].to_pylist()) & with_scores)]
    if not eligible or not config.num_examples:
        return []
    rng = np.random.default_rng(config.seed)
    drawn = sorted(rng.choice(len(eligible), min(config.num_examples, len(eligible)), replace=False).tolist())
    best = [(i, technique, _best(folds[i].scores, technique)) for i, technique in (eligible[at] for at in drawn)]
    data = context.input(config.data)
    patents = _lookup(
        data, "patents", "patent_id", ["title", "abstract", "year"], {r["patent_id"] for *_, rs in best for r in rs}
    )
    columns = ["title", "text", "document", "section"]
    techniques = _lookup(data, "techniques", "technique_id", columns, {technique for _, technique, _ in best})
    shown = pc.is_in(matches["technique_id"], value_set=pa.array([technique for _, technique, _ in best], pa.string()))
    known = {(row["technique_id"], row["patent_id"]) for row in matches.filter(shown).to_pylist()}
    return [_example(i, technique, rows, techniques.get(technique, {}), patents, known) for i, technique, rows in best]


def _best(scores: pa.Table, technique: str) -> list[dict[str, Any]]:
    own = scores.filter(pc.equal(scores["technique_id"], technique))
    return own.sort_by([("log_odds", "descending"), ("patent_id", "ascending")]).slice(0, CANDIDATES_SHOWN).to_pylist()


def _lookup(
    folder: StageFolder, table: str, key: str, columns: Sequence[str], ids: set[str]
) -> dict[str, dict[str, Any]]:
    """id -> row for the wanted ids: the table is read part by part, so that memory holds one part."""
    wanted = pa.array(sorted(ids), pa.string())
    found: dict[str, dict[str, Any]] = {}
    for part in folder.iter_parts(table, [key, *columns]):
        found |= {row[key]: row for row in part.filter(pc.is_in(part[key], value_set=wanted)).to_pylist()}
    return found


def _excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT_CHARACTERS else text[:EXCERPT_CHARACTERS].rstrip() + " …"


def _example(
    fold: int,
    technique: str,
    rows: Sequence[Mapping[str, Any]],
    section: Mapping[str, Any],
    patents: Mapping[str, Mapping[str, Any]],
    known: set[tuple[str, str]],
) -> Example:
    from patentft.report.page import Candidate, Example

    candidates = []
    for row in rows:
        patent = patents.get(row["patent_id"], {"title": "(not in the corpus)", "abstract": "", "year": None})
        candidates.append(
            Candidate(
                patent_id=row["patent_id"],
                title=patent["title"],
                abstract=_excerpt(patent["abstract"]),
                year=patent["year"],
                probability=row["probability"],
                log_odds=row["log_odds"],
                cosine=row["cosine"],
                match=(technique, row["patent_id"]) in known,
            )
        )
    where = " ".join(part for part in (section.get("document"), section.get("section")) if part) or "no document named"
    return Example(
        fold, technique, section.get("title", technique), where, _excerpt(section.get("text", "")), candidates
    )


REPORT = Stage("report", ReportConfig, run_report, uses_ray=False)
