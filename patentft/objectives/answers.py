"""A decoder that gives logits only where a token of an answer is predicted.

Logits over the vocabulary are the largest tensor of a step (128,000 numbers for a token), and a prompt's are never
looked at. So the model runs as it is, inside whatever wrapper an adapter put around it, and the states are thinned out
on their way into its output layer: what the model does to logits after that layer (a scale, a soft cap) is done too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from patentft.objectives.packed import IGNORED


class AnswerModel(nn.Module):
    """A causal decoder (or a PEFT wrapper of one), given padded prompts with answers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(N, vocabulary) float32 logits of the batch's N answer tokens, row by row."""
        return answer_logits(self.model, batch)


def answer_logits(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(N, vocabulary) float32: at the places of `labels` (B, T) that are not IGNORED, row by row."""
    with _only_at(model, batch["labels"] != IGNORED):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    return logits.squeeze(0).float()


@contextmanager
def _only_at(model: Any, wanted: torch.Tensor) -> Iterator[None]:
    """Inside, the output layer is given the states at `wanted` (B, T) bool only, as (1, N, hidden).

    It runs outside of autocast, which would round logits to 8 bits: log-odds of Yes and No would be full of ties.
    """
    layer = model.get_output_embeddings()
    stack = ExitStack()

    def before(layer: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        (states,) = arguments
        stack.enter_context(torch.autocast(states.device.type, enabled=False))
        states = states[:, states.shape[1] - wanted.shape[1] :]  # virtual tokens of prompt tuning come first
        kept = states[wanted][None]
        return (kept.to(layer.weight.dtype),)

    handles = [
        layer.register_forward_pre_hook(before),
        layer.register_forward_hook(lambda *_: stack.close()),
    ]
    try:
        yield
    finally:
        stack.close()
        for handle in handles:
            handle.remove()


def answer_labels(batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(labels, rows), each (N,) int64: the answer tokens of the batch, and the row that each is of."""
    wanted = batch["labels"] != IGNORED
    return batch["labels"][wanted], wanted.nonzero()[:, 0]


def token_log_likelihoods(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(N,) natural logs of the labels' probabilities."""
    return -functional.cross_entropy(logits, labels, reduction="none")


def per_row(values: torch.Tensor, rows: torch.Tensor, num_rows: int) -> torch.Tensor:
    """(num_rows,) sums of `values` (N,) by row."""
    return values.new_zeros(num_rows).index_add(0, rows, values)


def answer_lengths(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(B,) answer tokens of each row, float32."""
    return (batch["labels"] != IGNORED).sum(dim=1).float()
