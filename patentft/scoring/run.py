"""Score the candidates in Ray actors, shard by shard, then combine and calibrate.

    CANDIDATES -> shards of fixed rows, each with its own texts (shards.py)
      -> actors: an engine's logits, one committed part of LOGITS per shard
      -> weights (trained, or fitted on the valid side) -> calibration on the valid side -> SCORES

An actor that dies is replaced and its shard scored again; a driver that dies finds the committed shards. Either way the
same rows come out, since a shard's batches depend on its pairs alone. A shard that fails again and again is set aside
with its error while the others go on; then the run ends with `Incomplete`, which names it.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported: a type checker sees none of them)

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from pydantic import Field, model_validator
from ray.exceptions import RayError, RayTaskError

from patentft import schema, stats
from patentft.cluster import require
from patentft.config import Config, ConfigError, runtime
from patentft.corpus.lookup import match_list, patent_texts
from patentft.corpus.text import technique_text
from patentft.models.load import local_folder
from patentft.progress import duration
from patentft.scoring import calibrate
from patentft.scoring.combine import Features, fit_weights, log_odds
from patentft.scoring.engines import ENGINES, CrossEncoderConfig, Engine, EngineConfig, Settings
from patentft.scoring.partition import whole_techniques
from patentft.scoring.plan import RowShards
from patentft.scoring.shards import Candidates, Shards, chosen_swaps
from patentft.search.lexical import load as load_lexical
from patentft.stage import Context, Incomplete, ModelRef, Stage, StageRef
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
    """How often a shard whose actor died is given to another, before it is set aside."""

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


def run(config: ScoreConfig, context: Context, engines: Mapping[str, Any] = ENGINES) -> dict[str, Any]:
    """Tables logits, scores, swaps. Counts: pairs, what was cut, weights, calibration before and after, threshold.

    engines: what runs the model, by the kind that the config names. Raises Incomplete, when all that can be done is
    done, for shards that failed.
    """
    require(
        config.workers * config.cpus_per_worker,
        config.workers * config.gpus_per_worker,
        f"stage {context.folder.name}",
        "workers, cpus_per_worker or gpus_per_worker",
    )
    pairs, num_shards = _score(config, context, engines[config.engine.kind])
    return {"pairs_scored": pairs, "shards": num_shards, **_finish(config, context, num_shards)}


def _score(config: ScoreConfig, context: Context, engine: Any) -> tuple[int, int]:
    """Commit LOGITS and SWAPS; (pairs, shards). What the driver holds for it is released when it ends."""
    candidates = Candidates(context.input(config.candidates))
    rows = RowShards(len(candidates), candidates.section if engine.GROUPED else None, config.pairs_per_shard)
    data, embedded = context.input(config.data), context.input(config.techniques)
    matches = data.read("matches", ["technique_id", "patent_id"])
    swaps = chosen_swaps(candidates, matches, config.swaps, config.seed)
    missing = context.folder.missing_parts("logits", len(rows))
    if swaps and not context.folder.has_part("swaps", 0):
        missing.append(SWAPS)
    if missing:
        shards = Shards.open(candidates, rows, data, embedded, config.text)
        try:
            _Job(config, context, engine, shards, swaps).run(missing)
        finally:
            shards.close()
    if not swaps:
        context.folder.write_part("swaps", 0, schema.SWAPS.empty_table())
    return len(candidates), len(rows)


SWAPS = -1
"""Stands for the section-swap test among the numbers of shards."""
TRIES = 2
"""Of a shard that raises: the second by whichever actor is free."""
HOPELESS = 10
"""So many different shards that raise, and none scored between them, end the run."""
SHOWN = 10
"""Of the shards that were set aside, in the last message."""
FAILED = "failed"
"""Folder in the stage's: what each shard that was set aside died of. Not in the ledger."""


def shard_name(index: int) -> str:
    return "swaps" if index == SWAPS else f"shard-{index:05d}"


class _Job:
    """Shards that are missing -> actors, one shard each at a time -> committed, or set aside with an error.

    A shard whose actor dies goes to the next free one, up to `max_restarts` times, and another actor is started. One
    that raises is tried twice. A ConfigError, and a model that cannot be loaded, end the run at once.
    """

    def __init__(
        self, config: ScoreConfig, context: Context, engine: Any, shards: Shards, swaps: list[tuple[int, str]]
    ) -> None:
        self.config, self.context, self.shards, self.swaps = config, context, shards, swaps
        options: dict[str, Any] = {"num_cpus": config.cpus_per_worker}
        if config.gpus_per_worker:
            options["num_gpus"] = config.gpus_per_worker
        actor_class: Any = ray.remote(ShardScorer)
        self._new_actor = lambda: actor_class.options(**options).remote(
            config, context.model(config.model), engine, context.folder
        )
        self.errors = context.folder.location / FAILED
        self.actors: list[Any] = []
        self.running: dict[Any, tuple[Any, int | None]] = {}  # index None: the actor loads the model
        self.waiting: list[int] = []  # the next one last
        self.kills: Counter[int | None] = Counter()
        self.raised: Counter[int] = Counter()
        self.aside: dict[int, str] = {}
        self.raising: dict[int, tuple[str, str]] = {}  # since the last success: the reason, and the whole error
        self.counts: Counter[str] = Counter()
        self.scored = 0  # pairs
        self.started = 0.0

    def run(self, missing: list[int]) -> None:
        """Raises Incomplete for shards that were set aside, once there is no other left."""
        self.errors.remove_tree()  # an earlier run's: all that is missing is tried again
        self.waiting = missing[::-1]
        self.num_actors = max(1, min(self.config.workers, len(missing)))
        pairs = sum(map(self._pairs, missing))
        self.started = time.monotonic()

        def pace() -> str:
            left = pairs - self.scored - sum(map(self._pairs, self.aside))
            rate = self._rate()
            failed = f", {len(self.aside)} set aside" if self.aside else ""
            return f"{rate:,.1f} pairs/s, " + (f"{duration(left / rate)} left" if rate else "no end known") + failed

        try:
            for index in self.context.progress.bar(self._ended(), len(missing), "shards scored", pace):
                if index in self.aside:
                    self.context.progress.warn(f"{shard_name(index)} is set aside: {self.aside[index]}")
        finally:
            for actor in self.actors:
                ray.kill(actor)
        self.context.progress.say(f"  {self.scored:,} pairs at {self._rate():,.1f} pairs/s by {self.num_actors} actors")
        self.context.progress.say("  " + ", ".join(f"{name} {count:,}" for name, count in self.counts.items() if count))
        if self.aside:
            raise Incomplete(self._message(len(missing)))

    def _rate(self) -> float:
        return self.scored / max(time.monotonic() - self.started, 1e-9)

    def _pairs(self, index: int) -> int:
        return len(self.swaps) if index == SWAPS else self.shards.rows.size(index)

    def _ended(self) -> Iterator[int]:
        """Every shard once, when it is committed or set aside."""
        self._fill()
        while self.running and len(self.raising) < HOPELESS:
            (ready,), _ = ray.wait(list(self.running), num_returns=1)
            actor, index = self.running.pop(ready)
            try:
                ended = self._done(index, ray.get(ready))
            except RayTaskError as error:
                ended = self._raised(index, error)
            except RayError as error:  # the actor, its node or what it was sent is lost
                self.actors.remove(actor)
                ray.kill(actor)
                ended = self._killed(index, error)
            self._fill()
            if ended:
                assert index is not None
                yield index

    def _fill(self) -> None:
        """Give every free actor a shard, and start actors for what is left."""
        busy = [actor for actor, _ in self.running.values()]
        for actor in self.actors:
            if self.waiting and not any(actor is other for other in busy):
                index = self.waiting.pop()
                self.running[self._send(actor, index)] = (actor, index)
        loading = sum(index is None for _, index in self.running.values())
        while len(self.actors) < self.num_actors and loading < len(self.waiting):
            actor = self._new_actor()
            self.actors.append(actor)
            self.running[actor.load.remote()] = (actor, None)
            loading += 1

    def _send(self, actor: Any, index: int) -> Any:
        if index == SWAPS:
            return actor.swap.remote(self.shards.swap_table(self.swaps))
        return actor.score.remote(index, self.shards.table(index))

    # each returns whether the shard has come to its end

    def _done(self, index: int | None, counts: Mapping[str, int]) -> bool:
        if index is None:
            self.kills[None] = 0
            return False
        self.raising.clear()
        self.counts.update(counts)
        self.scored += self._pairs(index)
        return True

    def _killed(self, index: int | None, error: RayError) -> bool:
        self.kills[index] += 1
        times = self.config.max_restarts + 1
        if self.kills[index] < times:
            self.waiting += [] if index is None else [index]
            return False
        if index is None:
            raise RuntimeError(
                f"the actors of stage {self.context.folder.name} died {times} times while they loaded the model (out "
                f"of memory? fewer workers have more each); finished shards are kept, run again to go on"
            ) from error
        reason = f"killed its actor {times} times (out of memory? fewer workers have more each)"
        self._set_aside(index, reason, str(error))
        return True

    def _raised(self, index: int | None, error: RayTaskError) -> bool:
        cause = error.cause
        if isinstance(cause, ConfigError):
            raise cause from None
        if index is None:
            raise error
        self.raised[index] += 1
        self.raising[index] = (f"{type(cause).__name__}: {cause}".splitlines()[0][:200], str(error))
        if len(self.raising) == HOPELESS:
            for each, (reason, whole) in self.raising.items():
                self._set_aside(each, reason, whole)
        elif self.raised[index] < TRIES:
            self.waiting.insert(0, index)
            return False
        else:
            self._set_aside(index, *self.raising[index])
        return True

    def _set_aside(self, index: int, reason: str, whole: str) -> None:
        self.aside[index] = reason
        (self.errors / f"{shard_name(index)}.txt").commit(f"{reason}\n\n{whole}\n".encode())

    def _message(self, missing: int) -> str:
        shown = [f"  {shard_name(index)}: {reason}" for index, reason in sorted(self.aside.items())]
        if len(shown) > SHOWN:
            shown[SHOWN:] = [f"  and {len(shown) - SHOWN} more"]
        if len(self.raising) == HOPELESS:
            others = f"{HOPELESS} different ones raised in a row, so the rest was not tried; finished ones are kept"
        else:
            others = f"the other {missing - len(self.aside):,} are done and kept"
        return (
            f"stage {self.context.folder.name}: {len(self.aside)} of {missing:,} shards were set aside; {others}:\n"
            + "\n".join(shown)
            + f"\nTheir whole errors are in {self.errors}. Run the same command again to try these shards again."
        )


class ShardScorer:
    """Holds the model; scores one shard a call and commits it itself."""

    def __init__(self, config: ScoreConfig, model: str, engine_class: Any, folder: StageFolder) -> None:
        """engine_class: as in `engines.ENGINES`."""
        self.config, self.model, self.engine_class, self.folder = config, model, engine_class, folder
        self.engine: Engine | None = None

    def load(self) -> None:
        """Not in __init__: an error there would only say that the actor died."""
        config = self.config
        device = torch.device("cuda" if config.gpus_per_worker else "cpu")
        if device.type == "cpu":
            torch.set_num_threads(max(1, int(config.cpus_per_worker)))
        name = f"{self.folder.name}.engine"
        settings = Settings(config.max_tokens, config.patent_tokens, config.tokens_per_batch, name)
        self.engine = self.engine_class.load(config.engine, self.model, device, settings)

    def score(self, index: int, pairs: pa.Table) -> dict[str, int]:
        """Commit part `index` of LOGITS; returns the engine's counts. pairs: of `shards.Shards.table`."""
        columns = {name: pairs[name] for name in ("technique_id", "patent_id", "role", "cosine", "chunk")}
        logits, counts = self._logits(pairs, "section")
        columns["cross_logit"] = pa.array(logits)
        self.folder.write_part("logits", index, pa.table(columns, schema=schema.LOGITS))
        return counts

    def swap(self, pairs: pa.Table) -> dict[str, int]:
        """Commit SWAPS: the same patents with their own section and with another technique's first chunk."""
        own, _ = self._logits(pairs, "section")
        swapped, _ = self._logits(pairs, "other")
        columns = {name: pairs[name] for name in ("technique_id", "patent_id", "other_id")}
        columns |= {"cross_logit": pa.array(own), "swapped_logit": pa.array(swapped)}
        self.folder.write_part("swaps", 0, pa.table(columns, schema=schema.SWAPS))
        return {}

    def _logits(self, pairs: pa.Table, section: str) -> tuple[np.ndarray, dict[str, int]]:
        if self.engine is None:  # one that Ray started again by itself
            self.load()
        assert self.engine is not None
        return self.engine.logits(pairs[section].to_pylist(), pairs["patent"].to_pylist())


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
