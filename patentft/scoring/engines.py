"""What turns (section, patent) pairs into log-odds: one interface, a class for each kind of model.

    cross_encoder   a sequence classifier with one logit, which reads the pair as [CLS] section [SEP] patent [SEP]
    torch           a decoder that is asked yes or no; pairs of one section share all of their prompt up to the patent

An engine has

    load(config, resolved, device, settings) -> engine       once, in the process that scores
    logits(sections, patents) -> ((pairs,) float32, counts)   in the order given; what was read, and of it cut
    GROUPED                                                   whether shards should keep a section's pairs together
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field

from patentft.config import Config
from patentft.models.load import DType
from patentft.scoring.prompt import PairPrompter, PromptField, ScorePrompt
from patentft.scoring.scorer import load_scorer
from patentft.scoring.yes_no import Floats, YesNoScorer, load_yes_no


@dataclass(frozen=True)
class Settings:
    """What the score stage sets for all of its engines."""

    max_tokens: int
    patent_tokens: int
    tokens_per_batch: int
    setting: str
    """Where the user set the engine, for errors: "scores.engine"."""


class Engine(Protocol):
    """What `ENGINES[kind].load` gives."""

    def logits(self, sections: Sequence[str], patents: Sequence[str]) -> tuple[Floats, dict[str, int]]: ...


class CrossEncoderConfig(Config):
    """Lengths are those of the stage."""

    kind: Literal["cross_encoder"] = "cross_encoder"


class TorchConfig(Config):
    """A decoder in this process."""

    kind: Literal["torch"] = "torch"
    prompt: PromptField = ScorePrompt()
    """The question: a mapping, the name of a prompt of this package ("bref_expert"), or a YAML file. For a model that
    was tuned on pairs, the keys that its objective had."""
    share_prefix: bool = True
    """False: every prompt whole, by the model's own attention, for models of which prefixes cannot be shared."""
    dtype: DType = "float32"
    memory_limit_gib: float | None = Field(default=None, gt=0)
    """For everything but the weights: lowers tokens_per_batch where that would not fit. Unset: no limit, but a batch
    that does not fit is halved."""


class CrossEncoderEngine:
    """`scorer.CrossScorer`."""

    GROUPED = False

    @staticmethod
    def load(config: CrossEncoderConfig, resolved: str, device: torch.device, settings: Settings) -> Engine:
        return load_scorer(
            resolved,
            device=device,
            max_tokens=settings.max_tokens,
            patent_tokens=settings.patent_tokens,
            tokens_per_batch=settings.tokens_per_batch,
        )[0]


@dataclass
class TorchEngine:
    """`yes_no.YesNoScorer` with the prompts for it."""

    GROUPED = True
    scorer: YesNoScorer
    prompter: PairPrompter

    @classmethod
    def load(cls, config: TorchConfig, resolved: str, device: torch.device, settings: Settings) -> TorchEngine:
        scorer, prompter = load_yes_no(
            resolved,
            config.prompt,
            device=device,
            dtype=config.dtype,
            tokens_per_batch=settings.tokens_per_batch,
            memory_limit_gib=config.memory_limit_gib,
            share_prefix=config.share_prefix,
            setting=f"{settings.setting}.prompt",
        )
        return cls(scorer, prompter)

    def logits(self, sections: Sequence[str], patents: Sequence[str]) -> tuple[Floats, dict[str, int]]:
        """Pairs of one section need not stand together; sections are taken in the order of their text, so that those
        that begin alike are neighbours.
        """
        rows: dict[str, list[int]] = {}
        for row, section in enumerate(sections):
            rows.setdefault(section, []).append(row)
        before = self._counts()
        ordered = sorted(rows)
        groups = [
            self.prompter.group(f"section {section[:60]!r}", section, [patents[row] for row in rows[section]])
            for section in ordered
        ]
        found = np.empty(len(sections), dtype=np.float32)
        for section, odds in zip(ordered, self.scorer.log_odds(groups), strict=True):
            found[rows[section]] = odds
        return found, {name: count - before[name] for name, count in self._counts().items()}

    def _counts(self) -> dict[str, int]:
        return {**self.prompter.counts, **self.scorer.counts}


ENGINES: dict[str, Any] = {"cross_encoder": CrossEncoderEngine, "torch": TorchEngine}

EngineConfig = Annotated[CrossEncoderConfig | TorchConfig, Field(discriminator="kind")]
