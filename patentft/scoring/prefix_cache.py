"""The keys and values of a beginning, computed once and read, not copied, by every text that continues it.

    prefixes   [system text] <- [technique A], [technique B]      keys and values of every layer; a prefix may stand
    a call     | patent 1 of A | patent 2 of A | patent 1 of B |  on another. Segments in one row, without padding

A token attends to its own segment, causally, and to each prefix below it, whole. The parts are computed one by one and
merged by their log-sum-exps: o = sum_s exp(lse_s - lse) o_s with lse = logsumexp_s(lse_s) (Juravsky et al. 2024,
Hydragen, arXiv:2402.05099, section 3.1). All queries on a prefix are one product with its keys, however many texts they
belong to.

The model's code stays as it is: an attention function and a mask function are registered with transformers under the
name ATTENTION, and switched on for the length of a call, which hands them its `Segments` through the model's keyword
arguments. The attention function sees keys that are rotated already, so that is what a `Prefix` keeps. Whatever would
make another attention than this one (a window that is too short, a soft cap, sinks, padding) is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import Any

import torch
from torch import nn

from patentft.config import ConfigError
from patentft.models.load import position_limit
from patentft.models.virtual import VirtualTokens

ATTENTION = "patentft_prefix"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text")
"""Model types of which a test compares every part with the plain forward."""
ROPE = ("default", "linear", "llama3", "yarn")
"""Rotations that depend on a token's position alone; others (dynamic, longrope) depend on the text's length too."""
HARMLESS = {"position_ids", "use_cache", "is_causal"}
"""Keyword arguments that an attention function is given and need not heed here."""


@dataclass(frozen=True)
class Prefix:
    """What texts may stand on. keys, values: of each layer, (1, key-value heads, tokens, head size)."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    tokens: int
    parent: Prefix | None = None

    @property
    def end(self) -> int:
        """The position of the first token after it."""
        return self.tokens + (self.parent.end if self.parent else 0)

    @property
    def chain(self) -> list[Prefix]:
        """It and what it stands on, the longest-shared first."""
        return [*(self.parent.chain if self.parent else []), self]


@dataclass
class Segments:
    """What the attention function is told of a call: its T tokens are segments, each on prefixes of its own."""

    lengths: list[int]
    levels: list[list[tuple[int, Prefix]]]
    """From the root up: (segments, the prefix they stand on), in order; every level covers all segments."""
    last_layer: int
    only_last: bool
    """Of the last layer, only the segments' last tokens are wanted."""
    last: torch.Tensor
    """(segments,) int64: where in the row each segment ends."""
    reach: int
    """Tokens of the longest text, its prefixes included."""
    kept: list[Prefix] | None = None
    """Where set, every layer's keys and values of each segment are added to its prefix here."""


# ---- the attention and mask functions that transformers calls


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segments: Segments | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """query (1, heads, T, D), key and value (1, key-value heads, T, D), rotated -> (1, T, heads, D)."""
    assert segments is not None, f"attention {ATTENTION} is for calls of PrefixDecoder"
    refused = sorted(name for name, given in others.items() if given is not None and name not in HARMLESS)
    if refused or attention_mask is not None or dropout:
        what = ", ".join([*refused, *["a mask"] * (attention_mask is not None), *["dropout"] * bool(dropout)])
        raise ConfigError(f"{type(module).__name__} asks for {what}, which shared prefixes do not compute: {_REMEDY}")
    if sliding_window is not None and segments.reach > sliding_window:
        raise ConfigError(
            f"a prompt has {segments.reach:,} tokens, but {type(module).__name__} sees {sliding_window:,} back: "
            f"shorten the prompts to that, or {_REMEDY}"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    own = (key.split(segments.lengths, dim=2), value.split(segments.lengths, dim=2))
    if segments.kept is not None:
        for prefix, each_key, each_value in zip(segments.kept, *own, strict=True):
            prefix.keys.append(each_key.contiguous())
            prefix.values.append(each_value.contiguous())
    if not (segments.only_last and module.layer_idx == segments.last_layer):
        return _attend(query, segments.lengths, own, segments, layer=module.layer_idx, causal=True, scale=scale), None
    ones = [1] * len(segments.lengths)
    rows = _attend(query[:, :, segments.last], ones, own, segments, layer=module.layer_idx, causal=False, scale=scale)
    output = rows.new_zeros(1, query.shape[2], *rows.shape[2:])
    output[:, segments.last] = rows
    return output, None


def _attend(
    query: torch.Tensor,
    lengths: Sequence[int],
    own: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]],
    segments: Segments,
    *,
    layer: Any,
    causal: bool,
    scale: float,
) -> torch.Tensor:
    """(1, Q, heads, D): `lengths` of the Q queries go to each segment; own: the segments' keys and values."""
    output, lse = _parts(query, lengths, *own, causal=causal, scale=scale)
    output = output.float()
    for level in segments.levels:
        counts, prefixes = zip(*level, strict=True)
        ends = [0, *accumulate(counts)]
        shares = [sum(lengths[start:end]) for start, end in pairwise(ends)]
        keys, values = [prefix.keys[layer] for prefix in prefixes], [prefix.values[layer] for prefix in prefixes]
        more, more_lse = _parts(query, shares, keys, values, causal=False, scale=scale)
        share = torch.sigmoid(more_lse - lse)  # exp(more_lse) / (exp(more_lse) + exp(lse))
        output.lerp_(more.float(), share.transpose(1, 2)[..., None])
        lse = torch.logaddexp(lse, more_lse)
    return output.to(query.dtype)


def _parts(
    query: torch.Tensor,
    lengths: Sequence[int],
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    *,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of consecutive queries, `lengths` of them to each of `keys`: (1, Q, heads, D) and its log-sum-exp
    (1, heads, Q) float32. causal: as many keys as queries, and a query sees none after its own.
    """
    if query.device.type == "cpu":
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        found = [
            kernel(part, key, value, 0.0, causal, scale=scale)
            for part, key, value in zip(query.split(list(lengths), dim=2), keys, values, strict=True)
        ]
        outputs = [output.transpose(1, 2) for output, _ in found]
        if len(found) == 1:
            return outputs[0], found[0][1]
        return torch.cat(outputs, dim=1), torch.cat([lse for _, lse in found], dim=2)
    return _parts_on_gpu(query, lengths, keys, values, causal=causal, scale=scale)


def _parts_on_gpu(
    query: torch.Tensor,
    lengths: Sequence[int],
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    *,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_parts`, by torch's flash attention over ragged rows. NOT TESTED: written without a GPU at hand."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    key_lengths = [key.shape[2] for key in keys]
    output, lse = varlen_attn(
        query[0].transpose(0, 1).contiguous(),  # (Q, heads, D)
        torch.cat([key[0] for key in keys], dim=1).transpose(0, 1).contiguous(),
        torch.cat([value[0] for value in values], dim=1).transpose(0, 1).contiguous(),
        _cumulated(lengths, query.device),
        _cumulated(key_lengths, query.device),
        max(lengths),
        max(key_lengths),
        return_aux=AuxRequest(lse=True),
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=True,
    )
    return output[None], lse[None]  # lse (heads, Q): so says the kernel's shape function, its docstring has (Q, heads)


def _cumulated(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _mask(*, attention_mask: torch.Tensor | None = None, use_vmap: bool = False, **_: Any) -> None:
    """No mask: segments are kept apart by the attention function. Windows are checked there."""
    if attention_mask is not None or use_vmap:  # use_vmap: transformers' sign of a mask function of the model's own
        what = "padding" if attention_mask is not None else "a mask of its own"
        raise ConfigError(f"the model asks for {what}, which shared prefixes do not compute: {_REMEDY}")


_REMEDY = "choose another model, or set share_prefix: false"


# ---- the decoder


class PrefixDecoder:
    """A decoder of transformers, with or without an adapter of PEFT, that reads segments on top of prefixes.

    whole_last_layer: also compute what of the last layer nobody reads (for tests; the numbers are the same).
    Raises ConfigError for a model that would need another attention.
    """

    def __init__(self, model: Any, *, whole_last_layer: bool = False) -> None:
        model = unwrapped(model)
        check(model.config)
        self.model, self.decoder, self.config = model, model.get_decoder(), model.config
        self.limit = position_limit(model.config)
        self.whole_last_layer = whole_last_layer
        self.device: torch.device = self.decoder.get_input_embeddings().weight.device
        if self.device.type != "cpu" and model.dtype == torch.float32:
            raise ConfigError(
                "on a GPU the model must be held in 16 bits (dtype: bfloat16): flash attention has no fp32"
            )

    @torch.inference_mode()
    def prefixes(self, texts: Sequence[Sequence[int]], parents: Sequence[Prefix | None]) -> list[Prefix]:
        """The keys and values of token ids, each on top of its parent, in one call."""
        segments = self._segments(texts, parents)
        segments.kept = [Prefix([], [], len(text), parent) for text, parent in zip(texts, parents, strict=True)]
        self._run(texts, parents, segments)
        return segments.kept

    @torch.inference_mode()
    def last_states(self, texts: Sequence[Sequence[int]], prefixes: Sequence[Prefix | None]) -> torch.Tensor:
        """(texts, hidden size): the state, after the final norm, of each text's last token; in one call."""
        segments = self._segments(texts, prefixes)
        return self._run(texts, prefixes, segments)[segments.last]

    def _segments(self, texts: Sequence[Sequence[int]], prefixes: Sequence[Prefix | None]) -> Segments:
        chains = [prefix.chain if prefix else [] for prefix in prefixes]
        assert len({len(chain) for chain in chains}) == 1, "the texts of a call stand on equally many prefixes"
        assert all(texts), "a text has one token at least"
        levels = [
            [(len(same), same[0]) for same in (list(run) for _, run in groupby(level, key=id))]
            for level in zip(*chains, strict=True)
        ]
        lengths = [len(text) for text in texts]
        reach = max(length + (prefix.end if prefix else 0) for length, prefix in zip(lengths, prefixes, strict=True))
        if self.limit is not None and reach > self.limit:
            raise ConfigError(f"a prompt has {reach:,} tokens, but the model has {self.limit:,} positions: shorten it")
        last = torch.tensor(list(accumulate(lengths)), device=self.device) - 1
        return Segments(lengths, levels, len(self.decoder.layers) - 1, not self.whole_last_layer, last, reach)

    def _run(
        self, texts: Sequence[Sequence[int]], prefixes: Sequence[Prefix | None], segments: Segments
    ) -> torch.Tensor:
        """(T, hidden size)"""
        starts = [prefix.end if prefix else 0 for prefix in prefixes]
        ids = [token for text in texts for token in text]
        positions = [start + place for start, text in zip(starts, texts, strict=True) for place in range(len(text))]
        with ExitStack() as stack:
            stack.enter_context(_switched_on(self.config))
            if segments.only_last:
                stack.enter_context(_thinned(self.decoder.layers[-1], segments.last))
            output = self.decoder(
                input_ids=torch.tensor([ids], device=self.device),
                position_ids=torch.tensor([positions], device=self.device),
                use_cache=False,
                segments=segments,
            )
        return output.last_hidden_state[0]


def check(config: Any) -> None:
    """Raises ConfigError, naming it, for what of a transformers configuration shared prefixes do not compute."""
    reason = _obstacle(config)
    if reason:
        raise ConfigError(f"a model of type {config.model_type!r} cannot share prefixes: {reason}; {_REMEDY}")


def _obstacle(config: Any) -> str | None:
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "it caps the logits of its attention (attn_logit_softcapping)"
    if config.model_type not in FAMILIES:
        return f"it is proven for {', '.join(FAMILIES)} only"
    if not getattr(config, "is_causal", True) or getattr(config, "use_bidirectional_attention", False):
        return "it is bidirectional, so a prefix is not the same before every text"
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {each.get("rope_type", "default") for each in [rope, *rope.values()] if isinstance(each, dict)}
    if kinds - set(ROPE):
        found = ", ".join(sorted(kinds - set(ROPE)))
        return f"its rotation ({found}) depends on the whole text's length; handled are {', '.join(ROPE)}"
    return None


def unwrapped(model: Any) -> Any:
    """The transformers model in whose layers PEFT has put its own."""
    if isinstance(model, VirtualTokens) or getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", 0):
        raise ConfigError("virtual tokens (prompt and prefix tuning) cannot be scored: choose another adapter (lora)")
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def _switched_on(config: Any) -> Iterator[None]:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, _mask)
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


@contextmanager
def _thinned(layer: Any, rows: torch.Tensor) -> Iterator[None]:
    """Inside, queries, output projection and feed-forward of the layer see only `rows` of their T tokens, and give
    zeros for the others. After the last layer's keys and values, a token's row does not depend on the others.
    """
    total = 0

    def before(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        nonlocal total
        total = arguments[0].shape[1]
        return (arguments[0][:, rows], *arguments[1:])

    def after(module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        whole = output.new_zeros(1, total, output.shape[-1])
        whole[:, rows] = output
        return whole

    with ExitStack() as stack:
        for module in (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp):
            stack.callback(module.register_forward_pre_hook(before).remove)
            stack.callback(module.register_forward_hook(after).remove)
        yield
