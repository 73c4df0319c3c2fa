"""New tokens for a transformers model with a head over its vocabulary: with its old rows frozen, or all trained.

`grow` with separate rows puts a second, small matrix beside the old one, for the input and for the head; the old matrix
is frozen as it is, so neither a gradient, nor weight decay, nor an optimizer's state can touch it. Where the model ties
its head to its embeddings, both hold the same new rows. `join` writes the rows into one matrix: a plain model again.

New tokens have consecutive ids. A row may have been there before, of an earlier growth or where a matrix has more rows
than the tokenizer has tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class NewTokens:
    """Tokens first, first + 1, ..., and for each the old tokens whose mean its row starts at: none for all of them."""

    first: int
    known: int
    """Ids below this had a meaning in the old matrix: means are of these, and of a new token its own row is kept."""
    pieces: Sequence[Sequence[int]]

    @property
    def stop(self) -> int:
        return self.first + len(self.pieces)

    def rows(self, matrix: torch.Tensor) -> torch.Tensor:
        """(N, ...) where the rows of the new tokens start, from the old ones (V, ...)."""
        matrix = matrix.detach()
        mean = matrix[: self.known].mean(dim=0)
        starts = []
        for token, pieces in enumerate(self.pieces, start=self.first):
            if token < self.known:
                starts.append(matrix[token])
            else:
                starts.append(matrix[list(pieces)].mean(dim=0) if len(pieces) else mean)
        return torch.stack(starts)


class GrownEmbedding(nn.Module):
    """An embedding that is frozen, and rows that are not."""

    def __init__(self, old: nn.Embedding, first: int, rows: nn.Parameter) -> None:
        super().__init__()
        self.old = old.requires_grad_(False)
        self.first = first
        self.rows = rows

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(...) int64 -> (..., D)."""
        stop = self.first + len(self.rows)
        new = (ids >= self.first) & (ids < stop)
        old = self.old(ids.masked_fill(new, 0))
        rows = functional.embedding((ids - self.first).clamp(0, len(self.rows) - 1), self.rows)
        return torch.where(new[..., None], rows.to(old.dtype), old)


class GrownHead(nn.Module):
    """A linear layer over the vocabulary that is frozen, and rows that are not.

    It holds the layer's tensors, not the layer: an adapter of all linear layers would find that.
    """

    def __init__(self, old: nn.Linear, first: int, rows: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        old.requires_grad_(False)
        self.weight, self.bias = old.weight, old.bias
        self.first = first
        self.rows = rows
        self.new_bias = bias

    def plain(self) -> nn.Linear:
        """The layer without the new rows."""
        layer = nn.Linear(self.weight.shape[1], self.weight.shape[0], bias=self.bias is not None, device="meta")
        layer.weight, layer.bias = self.weight, self.bias
        return layer

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., vocabulary)."""
        old = functional.linear(hidden, self.weight, self.bias)
        bias = None if self.new_bias is None else self.new_bias.to(hidden.dtype)
        new = functional.linear(hidden, self.rows.to(hidden.dtype), bias)
        return torch.cat([old[..., : self.first], new, old[..., self.first + len(self.rows) :]], dim=-1)


def grow(model: nn.Module, tokens: NewTokens, *, separate: bool) -> None:
    """Give a transformers model rows for `tokens`, in place. separate: as rows of their own, the old ones frozen."""
    plain: Any = model
    embedding, head = plain.get_input_embeddings(), plain.get_output_embeddings()
    tied = head.weight is embedding.weight
    rows, head_rows = tokens.rows(embedding.weight), tokens.rows(head.weight)
    bias = None if head.bias is None else tokens.rows(head.bias)
    if not separate:
        _resize(plain, tokens.stop)
        _write(plain, tokens.first, rows, None if tied else head_rows, bias)
        return
    own = nn.Parameter(rows)
    head_name = next(name for name, module in plain.named_modules() if module is head)
    plain.set_input_embeddings(GrownEmbedding(embedding, tokens.first, own))
    grown = GrownHead(
        head, tokens.first, own if tied else nn.Parameter(head_rows), None if bias is None else nn.Parameter(bias)
    )
    plain.set_submodule(head_name, grown)


def join(model: nn.Module) -> None:
    """Write separate rows into the model's own matrices, in place; nothing to do where there are none."""
    plain: Any = model
    embedding, head = plain.get_input_embeddings(), plain.get_output_embeddings()
    if not isinstance(embedding, GrownEmbedding):
        return
    assert isinstance(head, GrownHead)
    head_name = next(name for name, module in plain.named_modules() if module is head)
    tied = head.rows is embedding.rows
    plain.set_input_embeddings(embedding.old)
    plain.set_submodule(head_name, head.plain())
    _resize(plain, embedding.first + len(embedding.rows))
    _write(plain, embedding.first, embedding.rows, None if tied else head.rows, head.new_bias)


def trained_rows(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that hold the rows of new tokens: separate ones, or whole matrices."""
    plain: Any = model
    embedding, head = plain.get_input_embeddings(), plain.get_output_embeddings()
    if isinstance(embedding, GrownEmbedding):
        assert isinstance(head, GrownHead)
        found = [embedding.rows, head.rows, head.new_bias]
    else:
        found = [embedding.weight, head.weight, head.bias]
    return list(dict.fromkeys(parameter for parameter in found if parameter is not None))


def _resize(model: Any, size: int) -> None:
    """At least `size` rows in every matrix and vector over the vocabulary; tied ones are tied again."""
    rows = model.get_input_embeddings().num_embeddings
    if size > rows:
        model.resize_token_embeddings(size, mean_resizing=False)


@torch.no_grad()
def _write(
    model: Any, first: int, rows: torch.Tensor, head_rows: torch.Tensor | None, bias: torch.Tensor | None
) -> None:
    stop = first + len(rows)
    head = model.get_output_embeddings()
    model.get_input_embeddings().weight[first:stop] = rows
    if head_rows is not None:
        head.weight[first:stop] = head_rows
        if head.bias is not None:
            # resizing shares BERT's bias with a parameter that an untied model does not read; of two that share, only
            # one is saved, and it would be the wrong one
            head.bias = nn.Parameter(head.bias.clone(), requires_grad=head.bias.requires_grad)
    if bias is not None:
        assert head.bias is not None
        head.bias[first:stop] = bias
