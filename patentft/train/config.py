"""What a training run is: data x objective x adapter, the optimizer, and where it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from patentft.config import Config, runtime
from patentft.models.adapters.full import FullConfig
from patentft.models.adapters.table import ADAPTERS, AdapterConfig
from patentft.objectives.table import OBJECTIVES, ObjectiveConfig
from patentft.stage import ModelRef, StageRef
from patentft.train.optimizer import OptimizerConfig
from patentft.train.strategies.ddp import DdpConfig
from patentft.train.strategies.table import StrategyConfig
from patentft.train.tracking import Service


@dataclass(frozen=True)
class Input:
    """The keys of a TrainConfig that name one kind of data."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


INPUTS = {
    "pairs": Input(("data", "roles", "pairs", "techniques"), ("text",)),
    "distilled": Input(("data", "roles", "techniques", "teacher", "candidates"), ("pairs", "text")),
    "packed": Input(("packed", "packed_valid")),
    "labelled": Input(("texts", "text_roles", "labels"), ("gold",)),
    "coded": Input(("texts", "text_roles")),
    "plain": Input(("texts", "text_roles")),
    "qa": Input(("qa", "qa_valid")),
    "preferences": Input(("preferences", "preferences_valid")),
}
"""What an objective may learn from -> the keys that name it."""


class TrainConfig(Config):
    """One training run."""

    data: StageRef | None = None
    """For objectives on pairs: the stage with the tables patents and techniques."""
    roles: StageRef | None = None
    """For objectives on pairs: the split stage; its SIMILAR table masks false negatives."""
    pairs: StageRef | None = None
    """For objectives on pairs: the pairs stage; its train side is learned from, its valid side chooses the
    checkpoint."""
    techniques: StageRef | None = None
    """For objectives on pairs: the embed stage of the techniques whose chunks PAIRS names."""
    teacher: StageRef | None = None
    """For distill: a score stage, whose log-odds are learned; the sides of `roles` part them, and `pairs` may give
    negatives that are known."""
    candidates: StageRef | None = None
    """For distill: the search stage whose candidates `teacher` scored, which says what chunk of a technique it read."""
    packed: StageRef | None = None
    """For objectives on packed tokens (causal): a pack stage, made with this model's tokenizer, to learn from."""
    packed_valid: StageRef | None = None
    """For the same: a pack stage of texts that `packed` has none of; it chooses the checkpoint."""
    texts: StageRef | None = None
    """For objectives on single texts: a texts stage."""
    text_roles: StageRef | None = None
    """For the same: a divide stage of `texts`; its sides train and valid are used."""
    labels: StageRef | None = None
    """For classify: a labels stage of `texts`."""
    gold: StageRef | None = None
    """For classify: a labels stage whose labels replace those of `labels`, with the weight objective.gold_weight."""
    qa: StageRef | None = None
    """For instruct: a qa stage with questions and answers to learn from."""
    qa_valid: StageRef | None = None
    """For the same: a qa stage of questions that `qa` has none of."""
    preferences: StageRef | None = None
    """For dpo and reward: a qa stage with chosen and rejected answers to learn from."""
    preferences_valid: StageRef | None = None
    """For the same: a qa stage of questions that `preferences` has none of."""
    model: ModelRef
    """What the training starts from."""
    text: list[Literal["title", "abstract", "claims", "first_claim"]] = ["title", "abstract"]
    """For objectives on pairs: the patent's text."""
    objective: ObjectiveConfig
    adapter: AdapterConfig = FullConfig()
    strategy: StrategyConfig = DdpConfig()
    """How the workers share the model."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16, frozen weights held in it; trained weights, moments and the loss in fp32."""
    dropout: float | None = None
    """Every dropout rate of the model; unset: its own. On a CPU, dropout costs as much as the layers around it."""
    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: int = Field(default=3, ge=1)
    units_per_step: int = Field(default=16, ge=1)
    """Units (a match with its negatives, a text; for causal a row of packed tokens) per optimizer step, over all
    workers. For contrastive the matches of a step are each other's negatives."""
    keep: Literal["best", "last"] = "best"
    """Which weights are exported: the best on the valid side, or the last."""
    blend: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the trained weights in the export, the rest the start's (Wortsman et al. 2022, arXiv:2109.01903)."""
    evaluations_per_epoch: int = Field(default=1, ge=1)
    """How often the valid side is scored (and, with keep: best, the weights compared)."""
    seed: int = Field(default=0, ge=0)
    activation_checkpointing: bool = runtime(False)
    """Compute each block's activations again in the backward pass instead of keeping them: a third more time, and only
    what lies between blocks is kept."""
    track: list[Service] = runtime(["tensorboard"])
    """Where steps are shown besides steps.jsonl: tensorboard (<stage>/tensorboard), mlflow, wandb."""
    checkpoints_kept: int = runtime(2, ge=1)
    """The last so many; the best weights so far are in each of them."""
    checkpoint_seconds: float = runtime(60.0)
    """A resume checkpoint is written at the first step after this many seconds, and at every evaluation."""
    workers: int = runtime(1, ge=1)
    cpus_per_worker: float = runtime(1.0)
    gpus_per_worker: float = runtime(0.0)
    micro_batch_tokens: int = runtime(2048, ge=1)
    """Padded tokens of a forward pass (a GPU wants many more); a unit larger than this is a pass of its own."""
    max_failures: int = runtime(3)
    """How many times a dead worker is replaced and the run goes on from its last checkpoint."""

    @model_validator(mode="before")
    @classmethod
    def _no_reinforcement_learning(cls, values: Any) -> Any:
        objective = values.get("objective") if isinstance(values, dict) else None
        kind = objective.get("kind") if isinstance(objective, dict) else None
        if kind in ("ppo", "grpo", "rloo", "rlhf"):
            raise ValueError(
                f"objective.kind {kind}: there is no reinforcement learning here, that is no loop in which the model "
                f"writes answers and is rewarded for them; learn from preferences with objective dpo, or train a "
                f"scorer of answers with objective reward"
            )
        return values

    @property
    def input(self) -> str:
        """The key of INPUTS that this run learns from."""
        given = [kind for kind in OBJECTIVES[self.objective.kind].INPUTS if self._names(kind)]
        assert len(given) == 1  # the config's own check
        return given[0]

    def _names(self, kind: str) -> list[str]:
        """The keys of this kind of data that are set."""
        return [key for key in INPUTS[kind].required if getattr(self, key) is not None]

    @model_validator(mode="after")
    def _units_meet(self) -> TrainConfig:
        if getattr(OBJECTIVES[self.objective.kind], "SCOPE", "unit") == "step" and self.units_per_step < 2:
            raise ValueError(
                f"units_per_step is 1: objective {self.objective.kind} compares the units of a step with each other; "
                f"set 2 or more (such as 32)"
            )
        return self

    @model_validator(mode="after")
    def _a_student_is_whole(self) -> TrainConfig:
        form = ADAPTERS[self.adapter.kind].EXPORT
        if getattr(self.objective, "quantize", None) and form == "beside":
            raise ValueError(
                f"objective.quantize: adapter {self.adapter.kind} is exported beside its base, and only a whole model "
                f"is quantized: set adapter.kind: full or lora, or leave quantize out"
            )
        if getattr(self.objective, "layers", None) is not None and form != "whole":
            raise ValueError(
                f"objective.layers: adapter {self.adapter.kind} is saved for its whole base, and would not fit again: "
                f"set adapter.kind: full or last_layers, or leave layers out"
            )
        return self

    @model_validator(mode="after")
    def _inputs_of_the_objective(self) -> TrainConfig:
        possible = OBJECTIVES[self.objective.kind].INPUTS
        learns = f"objective {self.objective.kind} learns from " + " or from ".join(
            ", ".join(INPUTS[kind].required) for kind in possible
        )
        given = [kind for kind in possible if self._names(kind)]
        if len(given) > 1:
            # kinds that share keys: the one that is given whole
            given = [kind for kind in given if len(self._names(kind)) == len(INPUTS[kind].required)] or given
        if len(given) != 1:
            raise ValueError(f"{learns}; set {'one of them' if given else ', '.join(INPUTS[possible[0]].required)}")
        wanted = INPUTS[given[0]]
        missing = [key for key in wanted.required if getattr(self, key) is None]
        if missing:
            raise ValueError(f"{learns}; set {', '.join(missing)}")
        every = {key for kind in INPUTS.values() for key in (*kind.required, *kind.optional)} - {"text"}
        others = sorted(key for key in every - {*wanted.required, *wanted.optional} if getattr(self, key) is not None)
        if others:
            raise ValueError(f"{learns}, not from {', '.join(others)}; leave that out")
        return self
