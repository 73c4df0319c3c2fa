"""What an objective says of its model, so that an adapter knows how to wrap it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Task:
    """kind: what the transformers model ends in. heads: submodules that are new, so always trained, and saved whole."""

    kind: Literal["causal_lm", "masked_lm", "classifier", "encoder"]
    heads: tuple[str, ...] = ()
