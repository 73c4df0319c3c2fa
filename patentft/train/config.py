"""What a training run is: data x objective x adapter, the optimizer, and where it runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from patentft.config import Config, runtime
from patentft.models.adapt import FullConfig, LoraConfig
from patentft.objectives.causal import CausalConfig
from patentft.objectives.classify import ClassifyConfig
from patentft.objectives.contrastive import ContrastiveConfig
from patentft.objectives.table import OBJECTIVES
from patentft.stage import ModelRef, StageRef


class OptimizerConfig(Config):
    """AdamW, with a warm-up and a decay."""

    lr: float = 2e-5
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate goes down after the warm-up, to zero at the last step."""
    warmup_fraction: float = 0.1


INPUTS = {"pairs": ("data", "roles", "pairs", "techniques"), "packed": ("packed", "packed_valid")}
"""An objective's INPUT -> the keys that name it."""


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
    packed: StageRef | None = None
    """For objectives on packed tokens (causal): a pack stage, made with this model's tokenizer, to learn from."""
    packed_valid: StageRef | None = None
    """For the same: a pack stage of texts that `packed` has none of; it chooses the checkpoint."""
    model: ModelRef
    """What the training starts from."""
    text: list[Literal["title", "abstract", "claims", "first_claim"]] = ["title", "abstract"]
    """The patent's text."""
    objective: Annotated[CausalConfig | ClassifyConfig | ContrastiveConfig, Field(discriminator="kind")]
    adapter: Annotated[FullConfig | LoraConfig, Field(discriminator="kind")] = FullConfig()
    dropout: float | None = None
    """Every dropout rate of the model; unset: its own. On a CPU, dropout costs as much as the layers around it."""
    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: int = Field(default=3, ge=1)
    units_per_step: int = Field(default=16, ge=1)
    """Units (a match with its negatives; for contrastive a block of matches; for causal a row of packed tokens) per
    optimizer step, over all workers."""
    keep: Literal["best", "last"] = "best"
    """Which weights are exported: the best on the valid side, or the last."""
    blend: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the trained weights in the export, the rest the start's (Wortsman et al. 2022, arXiv:2109.01903)."""
    evaluations_per_epoch: int = Field(default=1, ge=1)
    """How often the valid side is scored (and, with keep: best, the weights compared)."""
    seed: int = 0
    checkpoint_seconds: float = runtime(60.0)
    """A resume checkpoint is written at the first step after this many seconds, and at every evaluation."""
    workers: int = runtime(1, ge=1)
    cpus_per_worker: float = runtime(1.0)
    gpus_per_worker: float = runtime(0.0)
    micro_batch_tokens: int = runtime(2048, ge=1)
    """Padded tokens of a forward pass (a GPU wants many more); a unit larger than this is a pass of its own."""
    max_failures: int = runtime(3)
    """How many times a dead worker is replaced and the run goes on from its last checkpoint."""

    @model_validator(mode="after")
    def _inputs_of_the_objective(self) -> TrainConfig:
        wanted = INPUTS[OBJECTIVES[self.objective.kind].INPUT]
        missing = [name for name in wanted if getattr(self, name) is None]
        others = [name for names in INPUTS.values() for name in names if name not in wanted and getattr(self, name)]
        learns = f"objective {self.objective.kind} learns from {', '.join(wanted)}"
        if missing:
            raise ValueError(f"{learns}; set {', '.join(missing)}")
        if others:
            raise ValueError(f"{learns}, not from {', '.join(others)}; leave that out")
        return self
