"""Score the candidates in Ray actors, shard by shard, then combine and calibrate.

    CANDIDATES -> shards of fixed rows -> actors: an engine's logits, one committed part of LOGITS per shard
      -> weights (trained, or fitted on the valid side) -> calibration on the valid side -> SCORES

An actor that dies is started again and its shard scored again; a driver that dies finds the committed shards. Either
way the same rows come out, since a shard's batches depend on its pairs alone.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported: a type checker sees none of them)

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from pydantic import Field, model_validator
from ray.exceptions import RayActorError

from patentft import schema, stats
from patentft.cluster import require
from patentft.config import Config, ConfigError, runtime
from patentft.corpus.lookup import match_list, patent_texts, section_texts
from patentft.corpus.text import technique_text
from patentft.models.load import local_folder
from patentft.scoring import calibrate
from patentft.scoring.combine import Features, fit_weights, log_odds
from patentft.scoring.engines import ENGINES, CrossEncoderConfig, Engine, EngineConfig, Settings
from patentft.scoring.partition import whole_techniques
from patentft.scoring.plan import group_rows, shard_bounds, swap_pairs
from patentft.search.lexical import load as load_lexical
from patentft.stage import Context, ModelRef, Stage, StageRef
from patentft.store import StageFolder


class ScoreConfig(Config):
    """What is scored, by which model, and how the scores become probabilities."""

    data: StageRef
    """The stage with the tables patents, techniques and (for calibration) matches."""
    candidates: StageRef
    """A search stage."""
    techniques: StageRef
    """The embed stage of the techniques that the search used: it knows where each chunk begins and ends."""
    model: ModelRef
    """A train stage (objective rank; for engine torch, objective instruct), or any model that the engine can run."""
    engine: EngineConfig = CrossEncoderConfig()
    """What runs the model: cross_encoder, a sequence classifier with one logit; torch, a decoder that is asked."""
    text: list[Literal["title", "abstract", "claims", "first_claim"]] = ["title", "abstract"]
    max_tokens: int = 384
    """Of a pair. (Engine torch: engine.prompt.max_tokens.)"""
    patent_tokens: int = 224
    """(Engine torch: engine.prompt.patent_tokens.)"""
    cosine_weight: float | None = None
    """Weight of the cosine in the log-odds; unset: what the model's configuration carries (engine torch: none)."""
    lexical: StageRef | None = None
    """A lexical stage whose TF-IDF cosine of the pair becomes a third part of the log-odds; needs weights: fitted."""
    weights: Literal["trained", "fitted"] = "trained"
    """trained: logit + cosine_weight * cosine. fitted: a weight for each part, fitted listwise on the valid side."""
    calibration: Literal["none", "temperature", "platt", "isotonic"] = "platt"
    """Fitted on the candidates of the valid side, folds grouped by technique. none: no probabilities."""
    calibrator: StageRef | None = None
    """A finished score stage whose weights and calibration are used as they are: for data without known matches."""
    swaps: int = 200
    """Pairs of the section-swap test; 0: none."""
    pairs_per_shard: int = Field(default=500, ge=1)
    seed: int = 0
    workers: int = runtime(1, ge=1)
    cpus_per_worker: float = runtime(1.0)
    gpus_per_worker: float = runtime(0.0)
    tokens_per_batch: int = Field(default=1024, ge=1)
    """Padded tokens (engine torch: packed ones) of a forward pass: 1,024 stays in a CPU's cache, a GPU wants 65,536.
    Part of the hash: it moves the last bits of a score."""
    max_restarts: int = runtime(5)
    """How often a dead actor is started again."""

    @model_validator(mode="after")
    def _lexical_needs_a_weight(self) -> ScoreConfig:
        if self.lexical is not None and self.weights == "trained":
            raise ValueError("lexical has no trained weight: set weights: fitted, or leave lexical out")
        return self

    @model_validator(mode="after")
    def _lengths_in_one_place(self) -> ScoreConfig:
        for name in ("max_tokens", "patent_tokens"):
            if self.engine.kind == "torch" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"engine torch does not read {name}: set engine.prompt.{name} instead")
        return self


def run(config: ScoreConfig, context: Context) -> dict[str, Any]:
    """Tables logits, scores, swaps. Counts: pairs, what was cut, weights, calibration before and after, threshold."""
    require(
        config.workers * config.cpus_per_worker,
        config.workers * config.gpus_per_worker,
        f"stage {context.folder.name}",
        "workers, cpus_per_worker or gpus_per_worker",
    )
    candidates = context.input(config.candidates).read("candidates")
    if candidates.num_rows == 0:
        raise ConfigError(f"stage {config.candidates!r} found no candidates: nothing to score")
    shards = shard_rows(config, candidates)
    missing = context.folder.missing_parts("logits", len(shards))
    swaps = _swaps(config, context, candidates)
    if missing or (swaps and not context.folder.has_part("swaps", 0)):
        _score_shards(config, context, candidates, shards, missing, swaps)
    if not swaps:
        context.folder.write_part("swaps", 0, schema.SWAPS.empty_table())
    return {"pairs_scored": candidates.num_rows, "shards": len(shards), **_finish(config, context, len(shards))}


def shard_rows(config: ScoreConfig, candidates: pa.Table) -> list[np.ndarray]:
    """Rows of each shard: as the candidates come, or with the pairs of a section together where the engine gains."""
    if not ENGINES[config.engine.kind].GROUPED:
        return [np.arange(low, high) for low, high in shard_bounds(candidates.num_rows, config.pairs_per_shard)]
    sections = zip(candidates["technique_id"].to_pylist(), candidates["chunk"].to_pylist(), strict=True)
    return group_rows(list(sections), config.pairs_per_shard)


def _score_shards(
    config: ScoreConfig,
    context: Context,
    candidates: pa.Table,
    shards: list[np.ndarray],
    missing: list[int],
    swaps: list[tuple[int, str]],
) -> None:
    techniques = set(candidates["technique_id"].to_pylist())
    data = context.input(config.data)
    sections = section_texts(data, context.input(config.techniques), techniques)
    patents = patent_texts(data, list(config.text), candidates["patent_id"].to_pylist())
    shared = ray.put((sections, patents))  # one copy on each node
    options: dict[str, Any] = {
        "num_cpus": config.cpus_per_worker,
        "max_restarts": config.max_restarts,
        "max_task_retries": config.max_restarts,
    }
    if config.gpus_per_worker:
        options["num_gpus"] = config.gpus_per_worker
    num_workers = max(1, min(config.workers, len(missing)))
    actor_class: Any = ray.remote(ShardScorer)
    actors = [
        actor_class.options(**options).remote(config, context.model(config.model), shared, context.folder)
        for _ in range(num_workers)
    ]
    started = time.monotonic()
    waiting = list(reversed(missing))
    running: dict[Any, tuple[Any, int]] = {}

    def start(actor: Any) -> None:
        if waiting:
            index = waiting.pop()
            running[actor.score.remote(index, candidates.take(shards[index]).combine_chunks())] = (actor, index)

    try:
        for actor in actors:
            start(actor)
        total = sum(len(shards[index]) for index in missing)
        counts: Counter[str] = Counter()
        for _ in context.progress.bar(range(len(missing)), len(missing), "shards scored"):
            (ready,), _ = ray.wait(list(running), num_returns=1)
            actor, index = running.pop(ready)
            try:
                counts.update(ray.get(ready))
            except RayActorError as error:
                raise RuntimeError(
                    f"shard {index} killed its actor more than {config.max_restarts} times (out of memory? lower "
                    f"tokens_per_batch); finished shards are kept, run again to go on"
                ) from error
            start(actor)
        if missing:
            rate = total / max(time.monotonic() - started, 1e-9)
            context.progress.say(f"  {total:,} pairs at {rate:.1f} pairs/s by {num_workers} actors")
            context.progress.say("  " + ", ".join(f"{name} {count:,}" for name, count in counts.items() if count))
        if swaps and not context.folder.has_part("swaps", 0):
            rows = candidates.take([row for row, _ in swaps]).combine_chunks()
            ray.get(actors[0].swap.remote(rows, [other for _, other in swaps]))
    finally:
        for actor in actors:
            ray.kill(actor)


class ShardScorer:
    """Holds the model; scores one shard a call and commits it itself."""

    def __init__(self, config: ScoreConfig, model: str, texts: tuple[dict, dict], folder: StageFolder) -> None:
        device = torch.device("cuda" if config.gpus_per_worker else "cpu")
        if device.type == "cpu":
            torch.set_num_threads(max(1, int(config.cpus_per_worker)))
        self.sections, self.patents = texts
        self.folder = folder
        settings = Settings(config.max_tokens, config.patent_tokens, config.tokens_per_batch, f"{folder.name}.engine")
        self.engine: Engine = ENGINES[config.engine.kind].load(config.engine, model, device, settings)

    def score(self, index: int, pairs: pa.Table) -> dict[str, int]:
        """Commit part `index` of LOGITS; returns the engine's counts."""
        columns = {name: pairs[name] for name in ("technique_id", "patent_id", "role", "cosine", "chunk")}
        logits, counts = self._logits(pairs, pairs["technique_id"].to_pylist(), pairs["chunk"].to_pylist())
        columns["cross_logit"] = pa.array(logits)
        self.folder.write_part("logits", index, pa.table(columns, schema=schema.LOGITS))
        return counts

    def swap(self, pairs: pa.Table, others: list[str]) -> None:
        """Commit SWAPS: the same patents with their own section and with another technique's first chunk."""
        own, _ = self._logits(pairs, pairs["technique_id"].to_pylist(), pairs["chunk"].to_pylist())
        swapped, _ = self._logits(pairs, others, [0] * len(others))
        columns = {
            "technique_id": pairs["technique_id"],
            "patent_id": pairs["patent_id"],
            "other_id": pa.array(others),
            "cross_logit": pa.array(own),
            "swapped_logit": pa.array(swapped),
        }
        self.folder.write_part("swaps", 0, pa.table(columns, schema=schema.SWAPS))

    def _logits(self, pairs: pa.Table, techniques: list[str], chunks: list[int]) -> tuple[np.ndarray, dict[str, int]]:
        sections = [self.sections[technique, chunk] for technique, chunk in zip(techniques, chunks, strict=True)]
        patents = [self.patents[patent] for patent in pairs["patent_id"].to_pylist()]
        return self.engine.logits(sections, patents)


def _swaps(config: ScoreConfig, context: Context, candidates: pa.Table) -> list[tuple[int, str]]:
    roles = candidates["role"].to_pylist()
    side = "test" if "test" in roles else roles[0]
    rows = [row for row, role in enumerate(roles) if role == side]
    pairs = list(zip(candidates["technique_id"].to_pylist(), candidates["patent_id"].to_pylist(), strict=True))
    matched = set(match_list(context.input(config.data)))
    chosen = swap_pairs([pairs[row] for row in rows], matched, config.swaps, config.seed)
    return [(rows[index], other) for index, other in chosen]


ROWS_PER_PART = 100_000
"""Of SCORES, at least: a part ends where a technique does."""
ROWS_PER_GROUP = 10_000
"""Of SCORES: a reader of one technique skips the other groups by their statistics."""


def _finish(config: ScoreConfig, context: Context, num_shards: int) -> dict[str, Any]:
    """Weights, calibration, SCORES; what the manifest says of them. Memory: the valid side, and a part."""
    folder = context.folder

    def shards() -> Iterator[pa.Table]:
        for index in range(num_shards):
            yield folder.read_part(folder.entry("logits", index))

    features_of = _features(config, context)
    valid = pa.concat_tables(shard.filter(pc.equal(shard["role"], "valid")) for shard in shards())
    known = [f"{technique}\0{patent}" for technique, patent in match_list(context.input(config.data))]
    matched = pa.array(known, pa.string())
    labels = pc.is_in(pc.binary_join_element_wise(valid["technique_id"], valid["patent_id"], "\0"), value_set=matched)
    techniques = np.array(valid["technique_id"].to_pylist())
    fitted = _fitted(config, context, features_of(valid), techniques, labels.to_numpy())
    folder.write_file("calibration.json", json.dumps(fitted, indent=1).encode())
    calibrator = calibrate.Calibrator.from_dict(fitted["calibrator"]) if fitted["calibrator"] else None
    for index, table in enumerate(whole_techniques(shards(), ROWS_PER_PART)):
        features = features_of(table)
        odds = log_odds(features, fitted["weights"])
        nulls = pa.nulls(len(odds), pa.float32())
        columns = {
            **{name: table[name] for name in schema.LOGITS.names},
            "lexical": pa.array(features["lexical"]) if "lexical" in features else nulls,
            "log_odds": pa.array(odds),
            "probability": pa.array(calibrator.apply(odds).astype(np.float32)) if calibrator else nulls,
        }
        ordered = {name: columns[name] for name in schema.SCORES.names}
        folder.write_part("scores", index, pa.table(ordered, schema=schema.SCORES), rows_per_group=ROWS_PER_GROUP)
    return fitted


def _features(config: ScoreConfig, context: Context) -> Callable[[pa.Table], Features]:
    """LOGITS -> the parts of the log-odds."""
    if config.lexical is None:
        return lambda table: {"cross": table["cross_logit"].to_numpy(), "cosine": table["cosine"].to_numpy()}
    data, lexical = context.input(config.data), load_lexical(context.input(config.lexical))
    whole = data.read("techniques")
    sections = dict(zip(whole["technique_id"].to_pylist(), technique_text(whole), strict=True))

    def read(table: pa.Table) -> Features:
        patent_ids = table["patent_id"].to_pylist()
        patents = patent_texts(data, config.text, patent_ids)
        own_sections = [sections[identity] for identity in table["technique_id"].to_pylist()]
        cosines = lexical.pair_cosines(own_sections, [patents[identity] for identity in patent_ids])
        return {"cross": table["cross_logit"].to_numpy(), "cosine": table["cosine"].to_numpy(), "lexical": cosines}

    return read


def _fitted(
    config: ScoreConfig,
    context: Context,
    held_out: Features,
    techniques: np.ndarray,
    labels: np.ndarray,
) -> dict[str, Any]:
    """{weights, calibrator, threshold, ...}: fitted on the valid side's pairs, or taken from `config.calibrator`."""
    if config.calibrator is not None:
        return json.loads(context.input(config.calibrator).read_file("calibration.json"))
    known = int(labels.sum())
    if (config.weights == "fitted" or config.calibration != "none") and not known:
        raise ConfigError(
            f"stage {context.folder.name}: the candidates of the valid side hold no known match, so nothing "
            f"can be fitted; set calibration: none and weights: trained, or name a finished score stage in "
            f"`calibrator`, or raise top_k"
        )
    if config.weights == "fitted":
        weights = fit_weights(held_out, labels, techniques)
    else:
        weights = _trained_weights(config, context)
    fitted: dict[str, Any] = {"weights": weights, "calibrator": None, "threshold": None}
    if config.weights == "fitted":  # for the report: what each part adds, every subset fitted in the same way
        fitted["ablation_weights"] = {
            "+".join(subset): fit_weights({name: held_out[name] for name in subset}, labels, techniques)
            for size in range(1, len(held_out))
            for subset in combinations(held_out, size)
        }
    if config.calibration == "none":
        return fitted
    odds = log_odds(held_out, weights)
    try:
        checked = calibrate.cross_fit(config.calibration, odds, labels, techniques, seed=config.seed)
        calibrator = calibrate.fit(config.calibration, odds, labels)
    except ValueError as error:
        raise ConfigError(f"stage {context.folder.name}: calibration {config.calibration!r}: {error}") from error
    threshold, f1 = stats.best_f1_threshold(checked.probabilities, labels)
    return fitted | {
        "calibrator": calibrator.to_dict(),
        "threshold": float(threshold),
        "valid_f1": float(f1),
        "valid_pairs": len(labels),
        "valid_matches": known,
        "calibration_before": dict(checked.before),
        "calibration_after": dict(checked.after),
    }


def _trained_weights(config: ScoreConfig, context: Context) -> dict[str, float]:
    """logit + cosine_weight * (cosine - cosine_center), from the stage's config or from what the model carries."""
    if config.engine.kind == "torch":
        return {"cross": 1.0, "cosine": config.cosine_weight or 0.0}
    carried = json.loads((local_folder(context.model(config.model)) / "config.json").read_text()).get("patentft") or {}
    weight = carried.get("cosine_weight") if config.cosine_weight is None else config.cosine_weight
    if weight is None:
        raise ConfigError(
            f"model {config.model!r} carries no cosine weight: set {context.folder.name}.cosine_weight (0: none)"
        )
    return {"cross": 1.0, "cosine": weight, "bias": -weight * carried.get("cosine_center", 0.0)}


SCORE = Stage("score", ScoreConfig, run)
