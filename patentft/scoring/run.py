"""Score the candidates in Ray actors, shard by shard, then combine and calibrate.

    CANDIDATES -> shards of fixed rows -> actors: an engine's logits, one committed part of LOGITS per shard
      -> weights (trained, or fitted on the valid side) -> calibration on the valid side -> SCORES

An actor that dies is started again and its shard scored again; a driver that dies finds the committed shards. Either
way the same rows come out, since a shard's batches depend on its pairs alone.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pyarrow as pa
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
    logits = pa.concat_tables(
        context.folder.read_part(context.folder.entry("logits", index)) for index in range(len(shards))
    )
    return {"pairs_scored": logits.num_rows, "shards": len(shards), **_finish(config, context, logits)}


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
        columns = {name: pairs[name] for name in ("technique_id", "patent_id", "role", "cosine")}
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


def _finish(config: ScoreConfig, context: Context, logits: pa.Table) -> dict[str, Any]:
    """Weights, calibration, SCORES; what the manifest says of them."""
    roles = np.array(logits["role"].to_pylist())
    technique_ids, patent_ids = logits["technique_id"].to_pylist(), logits["patent_id"].to_pylist()
    matched = set(match_list(context.input(config.data)))
    labels = np.array([pair in matched for pair in zip(technique_ids, patent_ids, strict=True)])
    features = {"cross": logits["cross_logit"].to_numpy(), "cosine": logits["cosine"].to_numpy()}
    if config.lexical is not None:
        features["lexical"] = _lexical(config, context, technique_ids, patent_ids)
    fitted = _fitted(config, context, features, np.array(technique_ids), labels, roles == "valid")
    odds = log_odds(features, fitted["weights"])
    calibrator = calibrate.Calibrator.from_dict(fitted["calibrator"]) if fitted["calibrator"] else None
    probability = calibrator.apply(odds).astype(np.float32) if calibrator else None
    context.folder.write_file("calibration.json", json.dumps(fitted, indent=1).encode())
    columns = {name: logits[name] for name in ("technique_id", "patent_id", "role", "cosine", "cross_logit")}
    nulls = pa.nulls(len(odds), pa.float32())
    columns["lexical"] = pa.array(features["lexical"]) if "lexical" in features else nulls
    columns["log_odds"] = pa.array(odds)
    columns["probability"] = nulls if probability is None else pa.array(probability)
    ordered = {name: columns[name] for name in schema.SCORES.names}
    context.folder.write_part("scores", 0, pa.table(ordered, schema=schema.SCORES))
    return fitted


def _lexical(config: ScoreConfig, context: Context, technique_ids: list[str], patent_ids: list[str]) -> np.ndarray:
    """(pairs,) float32: TF-IDF cosine of the whole section and the patent."""
    assert config.lexical is not None
    data = context.input(config.data)
    patents = patent_texts(data, config.text, patent_ids)
    table = data.read("techniques")
    sections = dict(zip(table["technique_id"].to_pylist(), technique_text(table), strict=True))
    return load_lexical(context.input(config.lexical)).pair_cosines(
        [sections[identity] for identity in technique_ids], [patents[identity] for identity in patent_ids]
    )


def _fitted(
    config: ScoreConfig,
    context: Context,
    features: Features,
    techniques: np.ndarray,
    labels: np.ndarray,
    valid: np.ndarray,
) -> dict[str, Any]:
    """{weights, calibrator, threshold, ...}: fitted on the valid side, or taken from `config.calibrator`."""
    if config.calibrator is not None:
        return json.loads(context.input(config.calibrator).read_file("calibration.json"))
    known = int(labels[valid].sum())
    if (config.weights == "fitted" or config.calibration != "none") and not known:
        raise ConfigError(
            f"stage {context.folder.name}: the candidates of the valid side hold no known match, so nothing "
            f"can be fitted; set calibration: none and weights: trained, or name a finished score stage in "
            f"`calibrator`, or raise top_k"
        )
    held_out = {name: values[valid] for name, values in features.items()}
    if config.weights == "fitted":
        weights = fit_weights(held_out, labels[valid], techniques[valid])
    else:
        weights = _trained_weights(config, context)
    fitted: dict[str, Any] = {"weights": weights, "calibrator": None, "threshold": None}
    if config.weights == "fitted":  # for the report: what each part adds, every subset fitted in the same way
        fitted["ablation_weights"] = {
            "+".join(subset): fit_weights({name: held_out[name] for name in subset}, labels[valid], techniques[valid])
            for size in range(1, len(features))
            for subset in combinations(features, size)
        }
    if config.calibration == "none":
        return fitted
    odds = log_odds(held_out, weights)
    try:
        checked = calibrate.cross_fit(config.calibration, odds, labels[valid], techniques[valid], seed=config.seed)
        calibrator = calibrate.fit(config.calibration, odds, labels[valid])
    except ValueError as error:
        raise ConfigError(f"stage {context.folder.name}: calibration {config.calibration!r}: {error}") from error
    threshold, f1 = stats.best_f1_threshold(checked.probabilities, labels[valid])
    return fitted | {
        "calibrator": calibrator.to_dict(),
        "threshold": float(threshold),
        "valid_f1": float(f1),
        "valid_pairs": int(valid.sum()),
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
