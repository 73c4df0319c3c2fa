"""What an objective says of its model, so that an adapter knows how to wrap it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TaskKind = Literal["causal_lm", "masked_lm", "classifier", "encoder"]
Layout = Literal["packed", "padded"]
"""packed: rows of several texts, with a mask (B, 1, T, T). padded: a text a row, with a mask (B, T), padded right."""


@dataclass(frozen=True)
class Task:
    """kind: what the transformers model ends in. heads: submodules that are new, so always trained, and saved whole."""

    kind: TaskKind
    heads: tuple[str, ...] = ()
