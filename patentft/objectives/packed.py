"""What language-model objectives share: rows of packed tokens, in which no text sees another.

A segment is a text, or a piece of one; segment 0 is padding. Two layouts give the same loss and the same gradient:

    packed   a unit is a row as it lies; a (T, T) attention mask built from the segments keeps texts apart, or, on a
             CPU, an attention that looks at each text by itself (`models.text_attention`)
    padded   a unit is a segment, right-padded in a row of its own under a plain mask: for adapters that put tokens or
             keys in front of a text (prompt and prefix tuning), and for texts longer than a sliding window
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from patentft.config import ConfigError
from patentft.models import text_attention
from patentft.models.load import first_position
from patentft.objectives.encoded import SpecialTokens, Unit

Layout = Literal["packed", "padded"]

PLAIN_MASK_ONLY = ("bloom", "deberta", "deberta-v2")
"""Model types that make more of the mask than a mask, such as distances, and take none with a row per token."""
IGNORED = -100
"""The label of a token that is not predicted."""


class Rows(Protocol):
    """Packed rows, wherever they lie."""

    @property
    def num_rows(self) -> int: ...

    @property
    def tokens_per_row(self) -> int: ...

    @property
    def num_tokens(self) -> npt.NDArray[np.int64]:
        """(N,) tokens of each row, padding left out."""
        ...

    @property
    def num_segments(self) -> npt.NDArray[np.int64]:
        """(N,)"""
        ...

    @property
    def segment_tokens(self) -> npt.NDArray[np.int64]:
        """(sum of num_segments,) tokens of each segment, row after row."""
        ...

    def row(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """(input_ids, segment_ids), each (tokens_per_row,)."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """Packed rows in memory: what tests use, and the reference for rows on disk."""

    input_ids: npt.NDArray[np.int32]  # (N, T)
    segment_ids: npt.NDArray[np.int32]

    @property
    def num_rows(self) -> int:
        return len(self.input_ids)

    @property
    def tokens_per_row(self) -> int:
        return self.input_ids.shape[1]

    @property
    def num_tokens(self) -> npt.NDArray[np.int64]:
        return (self.segment_ids > 0).sum(axis=1)

    @property
    def num_segments(self) -> npt.NDArray[np.int64]:
        return self.segment_ids.max(axis=1, initial=0).astype(np.int64)

    @property
    def segment_tokens(self) -> npt.NDArray[np.int64]:
        starts = np.cumsum(self.num_segments) - self.num_segments
        flat = (self.segment_ids + starts[:, None] - 1)[self.segment_ids > 0]
        return np.bincount(flat, minlength=int(self.num_segments.sum()))

    def row(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        return self.input_ids[index], self.segment_ids[index]


class Units(Sequence[Unit]):
    """Units made when they are asked for: of a billion segments only the numbers are held."""

    def __init__(
        self, places: tuple[npt.NDArray[np.int64], ...], tokens: npt.NDArray[np.int64], draw: tuple[int, ...]
    ) -> None:
        self.tokens = tokens
        """(N,) of every unit."""
        self._places = places  # a unit's rows are the entries at its number, each (N,)
        self._draw = draw

    def __len__(self) -> int:
        return len(self.tokens)

    @overload
    def __getitem__(self, index: int) -> Unit: ...

    @overload
    def __getitem__(self, index: slice) -> list[Unit]: ...

    def __getitem__(self, index: int | slice) -> Unit | list[Unit]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        rows = tuple(int(places[index]) for places in self._places)
        return Unit(rows, int(self.tokens[index]), (*self._draw, *rows) if self._draw else ())


def units(rows: Rows, layout: Layout = "packed", draw: tuple[int, ...] = ()) -> Units:
    """Every row (packed) or segment (padded) with a token that another of its text can predict; the plan shuffles.

    A unit's rows are (row,) or (row, segment); with a `draw`, such as (seed, epoch), its own is `draw` and those.
    """
    if layout == "packed":
        filled = np.flatnonzero(rows.num_tokens > rows.num_segments)
        return Units((filled,), np.full(len(filled), rows.tokens_per_row), draw)
    counts, lengths = rows.num_segments, rows.segment_tokens
    row_of = np.repeat(np.arange(len(counts)), counts)
    segment_of = np.arange(len(lengths)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    long = lengths > 1
    return Units((row_of[long], segment_of[long]), lengths[long], draw)


def stack(
    rows: Rows, chosen: Sequence[Unit], tokens: SpecialTokens
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(ids, segments) of the units, each (B, T) int64; T is the longest unit's where units are segments."""
    pairs = []
    for unit in chosen:
        ids, segments = rows.row(unit.rows[0])
        if len(unit.rows) > 1:
            ids = ids[segments == unit.rows[1]]
            segments = np.full(len(ids), unit.rows[1])
        pairs.append((ids, segments))
    shape = (len(pairs), max(len(ids) for ids, _ in pairs))
    all_ids, all_segments = np.full(shape, tokens.pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for index, (ids, segments) in enumerate(pairs):
        all_ids[index, : len(ids)], all_segments[index, : len(ids)] = ids, segments
    return all_ids, all_segments


def inputs(
    ids: npt.NDArray[np.int64], segments: npt.NDArray[np.int64], chosen: Sequence[Unit]
) -> dict[str, npt.NDArray[np.int64]]:
    """What a LanguageModel reads: input_ids, with segment_ids and position_ids or, of segments, attention_mask."""
    if len(chosen[0].rows) > 1:
        return {"input_ids": ids, "attention_mask": (segments > 0).astype(np.int64)}
    return {"input_ids": ids, "segment_ids": segments, "position_ids": positions(segments)}


def tensors(arrays: Mapping[str, npt.NDArray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def positions(segments: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(B, T) from 0 in each segment; 0 in the padding."""
    places = np.broadcast_to(np.arange(segments.shape[1]), segments.shape)
    begins = np.ones_like(segments, dtype=bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    start = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    return np.where(segments > 0, places - start, 0)


def attention_mask(segments: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """(B, 1, T, T) bool: whether a token (row) sees another (column): of its own segment and, if causal, not later.

    Padding sees padding: a row of the mask without any True would make softmax NaN.
    """
    same = segments[:, :, None] == segments[:, None, :]
    if causal:
        same = same & torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool, device=same.device).tril()
    return same[:, None]


class LanguageModel(nn.Module):
    """A transformers model with a head over the vocabulary, given packed rows or padded segments.

    causal: whether a token of a packed row sees only those before it. decoder: whether the model keeps keys and values
    (unset: as causal). labelled_only: logits are made only where there is a label, which spares most of the memory
    where few tokens are predicted; on packed rows of a causal model nearly all are, and nothing would be spared.
    """

    def __init__(
        self, model: nn.Module, *, causal: bool, decoder: bool | None = None, labelled_only: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.causal = causal
        self.decoder = causal if decoder is None else decoder
        self.labelled_only = labelled_only
        self._labelled: torch.Tensor | None = None
        if labelled_only:  # a hook at the head itself: whatever wraps the model, it holds
            model.get_output_embeddings().register_forward_pre_hook(self._only_labelled)  # type: ignore[operator]

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B, T, vocabulary) logits; with labelled_only (N, vocabulary), those of the N labels in order.

        Raises ConfigError for packed rows that the model cannot take.
        """
        given: dict[str, Any] = {"use_cache": False} if self.decoder else {}
        if "segment_ids" in batch:
            given |= self._packed(batch)
        else:
            given["attention_mask"] = batch["attention_mask"]
        self._labelled = batch["labels"] != IGNORED if self.labelled_only else None
        try:
            logits = self.model(input_ids=batch["input_ids"], **given).logits
        finally:
            self._labelled = None
        # the virtual tokens of prompt tuning come first
        return logits if self.labelled_only else logits[:, logits.shape[1] - batch["input_ids"].shape[1] :]

    def _packed(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The mask and positions of packed rows, in the form that the model's attention reads."""
        config: Any = self.model.config
        window = getattr(config, "sliding_window", None)
        if window is not None and batch["input_ids"].shape[1] > window:
            raise ConfigError(
                f"model of type {config.model_type}: it sees {window} tokens to a side, and rows of "
                f"{batch['input_ids'].shape[1]} packed tokens are longer; set objective.layout: padded, or pack rows "
                f"of at most {window}"
            )
        attention = config._attn_implementation
        if config.model_type in PLAIN_MASK_ONLY or attention not in ("sdpa", "eager", text_attention.ATTENTION):
            raise ConfigError(
                f"model of type {config.model_type}: its attention ({attention}) takes no mask of packed rows; set "
                f"objective.layout: padded"
            )
        mask = attention_mask(batch["segment_ids"], causal=self.causal)
        if attention == "eager":  # it adds the mask to the scores
            mask = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, torch.finfo(torch.float32).min)
        given: dict[str, Any] = {"attention_mask": mask, "position_ids": batch["position_ids"] + first_position(config)}
        if text_attention.is_for(config, mask.device.type):
            text_attention.switch_on(config)
            given["segments"] = text_attention.Segments.of(batch["segment_ids"], causal=self.causal)
        return given

    def _only_labelled(self, head: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor] | None:
        """Of (B, V + T, hidden), the (N, hidden) at labels; V virtual tokens of prompt tuning come first."""
        if self._labelled is None:
            return None
        hidden = given[0]
        return (hidden[:, hidden.shape[1] - self._labelled.shape[1] :][self._labelled],)


def parameter_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Norms and biases are not decayed."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def token_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """(summed cross-entropy in nats, tokens predicted, logs).

    logits: (B, T, V), or (N, V) for the N labels alone. labels: (B, T), IGNORED where there is none.
    """
    count = (labels != IGNORED).sum()
    logits, labels = _flat(logits, labels)
    total = functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    return total, count.float(), {}


def _flat(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both with one row per token."""
    if logits.ndim == 2:
        return logits, labels[labels != IGNORED]
    return logits.flatten(0, 1), labels.flatten()


def num_predicted(labels: torch.Tensor) -> float:
    """Tokens with a label."""
    return float((labels != IGNORED).sum())


def predicted(module: nn.Module, batch: Mapping[str, torch.Tensor]) -> dict[str, npt.NDArray]:
    """For `metrics`: the batch's summed loss, tokens predicted, and how many of them were the likeliest token."""
    logits = module(batch)
    total, count, _ = token_loss(logits, batch["labels"])
    logits, labels = _flat(logits, batch["labels"])
    right = (logits.argmax(dim=-1) == labels).sum()
    return {
        "loss": np.array([float(total)]),
        "weight": np.array([float(count)]),
        "right": np.array([float(right)]),
    }


def metrics(parts: Sequence[Mapping[str, npt.NDArray]]) -> dict[str, float]:
    """Over all predicted tokens: mean log-likelihood (nats), perplexity, share predicted right."""
    total, count, right = (float(sum(part[name][0] for part in parts)) for name in ("loss", "weight", "right"))
    mean = total / max(count, 1.0)
    return {"log_likelihood": -mean, "perplexity": float(np.exp(min(mean, 700.0))), "accuracy": right / max(count, 1.0)}
