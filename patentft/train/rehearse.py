"""What a forward and backward pass would allocate, found by running it on tensors that have a shape and no memory.

    config.json -> the run's own module on the meta device (`worker.build`) -> the same with torch's fake CPU tensors
      -> one micro-batch forward and backward, each allocation and release counted -> the moment at which most is held

Nothing of a model's family is written here: what autograd keeps is what the model makes it keep, so adapters,
activation checkpointing and autocast are counted as they are. Only attention is replaced where the run will be on a
GPU: it keeps other things there than on a CPU. Cost: seconds, also for 8 billion parameters; no weights are read.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from patentft.models import text_attention
from patentft.models.blocks import find_blocks
from patentft.objectives.table import OBJECTIVES
from patentft.train import worker
from patentft.train.config import TrainConfig

Where = Literal["cpu", "gpu"]
KINDS = ("activations", "logits", "weight_copies", "gradients", "working")
"""What a pass allocates: kept by the forward pass for the backward pass; over the vocabulary; weights in another dtype
than they are held in; of trained parameters; everything else that the backward pass makes."""


@dataclass(frozen=True)
class Weights:
    """Of the module that is trained, by `count`. Numbers of parameters and bytes."""

    total: int
    trainable: int
    nbytes: int
    """Of all weights and buffers, as the run holds them in memory: frozen ones quantized or in bfloat16."""
    trainable_nbytes: int
    matrix: int
    """Parameters of linear layers in the blocks: each multiplies once for a token."""
    matrix_trainable: int
    block: int
    """Parameters of the largest block, and `blocks` of their number."""
    blocks: int
    outside: int
    """Parameters outside of the blocks: embeddings, head."""
    head: int
    """Parameters of the layer that makes logits over the vocabulary; 0 without one."""
    hidden: int
    vocabulary: int
    largest: int
    """Parameters of the largest single trained tensor."""


@dataclass(frozen=True)
class Pass:
    """Bytes by KINDS at the moment of a micro-batch at which most is held; weights and moments are not in it."""

    held: dict[str, int]

    @property
    def nbytes(self) -> int:
        return sum(self.held.values())


@dataclass
class Rehearsal:
    """A run's module without memory. Make it with `prepare`."""

    config: TrainConfig
    folder: str
    module: nn.Module
    backbone: Any
    weights: Weights
    mode: FakeTensorMode = field(repr=False)

    def run(self, rows: int, row_tokens: int, predicted: int, where: Where, *, keep_gradients: bool) -> Pass:
        """One micro-batch.

        rows, row_tokens: (B, T) of it, padding included. predicted: tokens of it with logits over the vocabulary.
        where: gpu replaces attention by what its memory-efficient kernel keeps. keep_gradients: those of earlier
        micro-batches of the step are there; False: gradients appear, and stay, as the backward pass makes them.
        """
        for parameter in self.module.parameters():
            parameter.grad = None
        count = _Count(self.module)
        with self.mode, ExitStack() as stack:
            if keep_gradients:
                for parameter in self.module.parameters():
                    if parameter.requires_grad:
                        parameter.grad = torch.zeros_like(parameter)
            stack.enter_context(count)
            stack.enter_context(_gradients_counted(self.module, count, keep_gradients))
            if where == "gpu":
                stack.enter_context(_gpu_attention())
            settings = self.backbone.config
            texts = self._is_packed and text_attention.is_for(settings, where)
            if texts:
                stack.callback(setattr, settings, "_attn_implementation", settings._attn_implementation)
                text_attention.switch_on(settings)
            loss = self._forward(rows, row_tokens, predicted, count, texts=texts)
            count.phase = "working"
            loss.backward()
        for parameter in self.module.parameters():
            parameter.grad = None
        return Pass({kind: count.peak[kind] for kind in KINDS})

    @property
    def _is_packed(self) -> bool:
        return getattr(self.config.objective, "layout", "packed") == "packed" and self.config.input == "packed"

    def _forward(self, rows: int, row_tokens: int, predicted: int, count: _Count, *, texts: bool) -> torch.Tensor:
        objective: Any = OBJECTIVES[self.config.objective.kind]
        task = objective.task(_base(self.backbone), self.config.objective).kind
        ids = torch.zeros(rows, row_tokens, dtype=torch.int64)
        inputs: dict[str, Any] = {"input_ids": ids}
        if self._is_packed:
            inputs["attention_mask"] = torch.ones(rows, 1, row_tokens, row_tokens, dtype=torch.bool)
            inputs["position_ids"] = torch.zeros_like(ids)
            if texts:  # one in each row: what is kept does not depend on how many
                inputs["segments"] = text_attention.Segments([[(row_tokens, True)]] * rows, causal=True)
        else:
            inputs["attention_mask"] = torch.ones_like(ids)
        if getattr(self.backbone.config, "use_cache", None) is not None:
            inputs["use_cache"] = False
        with ExitStack() as stack:
            if self.config.precision == "bf16" and self.config.strategy.kind != "fsdp":
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            if task not in ("causal_lm", "masked_lm"):
                output = self.backbone(**inputs)
                states = output.logits if task == "classifier" else output.last_hidden_state
                return states.float().sum() if task == "classifier" else states.float().mean(dim=1).sum()
            thinned = predicted < rows * row_tokens
            stack.enter_context(_head_counted(self.backbone, count, predicted if thinned else None))
            logits = self.backbone(**inputs).logits.flatten(0, 1).float()
            return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64), reduction="sum")


def prepare(config: TrainConfig, folder: str) -> Rehearsal:
    """folder: the resolved model (see `config_folder`); only its config.json (and tokenizer) is read.

    Raises ConfigError as the run would, for an adapter or objective that does not fit the model.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers renames activation checkpointing
        with torch.device("meta"):
            module = worker.build(config, folder, torch.device("meta"))
        backbone: Any = OBJECTIVES[config.objective.kind].backbone(module)
        weights = count_weights(config, module, backbone)
        if config.precision == "bf16" and config.strategy.kind == "fsdp":
            module.bfloat16()  # FSDP gathers every weight in it, and casts what goes in
        mode = FakeTensorMode()
        _give_shapes_only(module, mode)
        if config.activation_checkpointing:  # again: the state of a random generator cannot be kept without memory
            again = {"use_reentrant": False, "preserve_rng_state": False}
            _base(backbone).gradient_checkpointing_enable(gradient_checkpointing_kwargs=again)
    module.train()
    return Rehearsal(config, folder, module, backbone, weights, mode)


# Weights


NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a weight: 4 bits, an 8-bit scale for 64 of them, an fp32 scale for 256 of those (arXiv:2305.14314, section 3)."""
NF4_SINGLE_BYTES = 0.5 + 4 / 64
"""With an fp32 scale for 64 weights."""


def count_weights(config: TrainConfig, module: nn.Module, backbone: Any) -> Weights:
    """Of the module on any device, the meta device included; shared parameters count once."""
    parameters = list(module.parameters())
    head = _head(backbone)
    per_weight = _quantized_bytes(config)
    quantized = {id(p) for p in _quantizable(module)} if per_weight else set()
    nbytes = sum(
        int(p.numel() * per_weight) if per_weight and id(p) in quantized else p.numel() * p.element_size()
        for p in parameters
    )
    _, blocks = find_blocks(module)
    in_blocks = [sum(p.numel() for p in block.parameters()) for block in blocks]
    matrices = [
        p
        for block in blocks
        for inner in block.modules()
        for p in inner.parameters(recurse=False)
        if p.ndim == 2 and not isinstance(inner, nn.Embedding)
    ]
    trained = [p for p in parameters if p.requires_grad]
    total = sum(p.numel() for p in parameters)
    sizes = _base(backbone).config.get_text_config()
    return Weights(
        total=total,
        trainable=sum(p.numel() for p in trained),
        nbytes=nbytes + sum(b.numel() * b.element_size() for b in module.buffers()),
        trainable_nbytes=sum(p.numel() * p.element_size() for p in trained),
        matrix=sum(p.numel() for p in matrices),
        matrix_trainable=sum(p.numel() for p in matrices if p.requires_grad),
        block=max(in_blocks, default=0),
        blocks=len(blocks),
        outside=total - sum(in_blocks),
        head=head.weight.numel() if head is not None else 0,
        hidden=int(sizes.hidden_size),
        vocabulary=int(sizes.vocab_size),
        largest=max((p.numel() for p in trained), default=0),
    )


def _quantized_bytes(config: TrainConfig) -> float | None:
    """Bytes of a quantized weight; None without quantization."""
    adapter: Any = config.adapter
    if adapter.kind != "qlora":
        return None
    if getattr(adapter, "base", "nf4") == "int8":
        return 1.0
    return NF4_SINGLE_BYTES if getattr(adapter, "double_quantization", None) is False else NF4_BYTES


def _quantizable(module: nn.Module) -> list[torch.Tensor]:
    """The frozen weights of linear layers inside the blocks: transformers leaves heads and embeddings as they are."""
    return [
        inner.weight
        for block in find_blocks(module)[1]
        for inner in block.modules()
        if isinstance(inner, nn.Linear) and not inner.weight.requires_grad
    ]


def _base(backbone: Any) -> Any:
    """The transformers model, out of whatever wrapper an adapter put around it."""
    return backbone.get_base_model() if hasattr(backbone, "get_base_model") else backbone


def _head(backbone: Any) -> Any:
    """The layer that makes logits over the vocabulary, None without one."""
    base = _base(backbone)
    return base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None


def _give_shapes_only(module: nn.Module, mode: FakeTensorMode) -> None:
    """Fake CPU tensors in the place of the module's, which are on the meta device; what was shared stays shared."""
    made: dict[int, torch.Tensor] = {}
    for inner in module.modules():
        for table in (inner._parameters, inner._buffers):
            for name, given in table.items():
                if given is None:
                    continue
                if id(given) not in made:
                    with mode:
                        fake = torch.empty_strided(given.shape, given.stride(), dtype=given.dtype, device="cpu")
                    trained = isinstance(given, nn.Parameter)
                    made[id(given)] = nn.Parameter(fake, given.requires_grad) if trained else fake
                table[name] = made[id(given)]  # type: ignore[assignment]


# Counting


class _Count(TorchDispatchMode):
    """Bytes of the storages that exist, by kind, and those at the moment at which their sum was the largest."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.phase = "activations"
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._weights = {p.untyped_storage()._cdata for p in [*module.parameters(), *module.buffers()]}
        self._kind: dict[int, str] = {}  # by storage

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = self.phase
        if func is torch.ops.aten._to_copy.default and args[0].untyped_storage()._cdata in self._weights:
            kind = "weight_copies"
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor, kind)
        return out

    def _see(self, tensor: torch.Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._weights or key in self._kind:
            return
        self._kind[key] = kind
        self.live[kind] += storage.nbytes()
        weakref.finalize(storage, self._released, key, storage.nbytes())
        if sum(self.live.values()) > sum(self.peak.values()):
            self.peak = Counter(self.live)

    def _released(self, key: int, nbytes: int) -> None:
        self.live[self._kind.pop(key)] -= nbytes

    def move(self, tensor: torch.Tensor, kind: str) -> None:
        """Count the tensor's storage under `kind` from now on."""
        storage = tensor.untyped_storage()
        self._see(tensor, kind)
        key = storage._cdata
        if key in self._kind and self._kind[key] != kind:
            self.live[self._kind[key]] -= storage.nbytes()
            self.live[kind] += storage.nbytes()
            self._kind[key] = kind


@contextmanager
def _gradients_counted(module: nn.Module, count: _Count, kept: bool) -> Iterator[None]:
    """Gradients are of their own kind; those that the step has already are in `estimate`'s sum and not counted."""

    def accumulated(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        if kept:
            return
        count.move(parameter.grad, "gradients")

    trained = [p for p in module.parameters() if p.requires_grad]
    count._weights |= {p.grad.untyped_storage()._cdata for p in trained if p.grad is not None}
    handles = [p.register_post_accumulate_grad_hook(accumulated) for p in trained]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _head_counted(backbone: Any, count: _Count, predicted: int | None) -> Iterator[None]:
    """What follows the head is of kind "logits". predicted: the head sees so many states only, None for all."""
    head = _head(backbone)

    def before(layer: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        count.phase = "logits"
        if predicted is None:
            return arguments
        states = arguments[0].flatten(0, 1)
        # indexed as by a mask: a copy. Those objectives run the head outside of autocast
        chosen = states[torch.zeros(predicted, dtype=torch.int64)][None]
        torch.set_autocast_enabled("cpu", False)
        return (chosen.to(layer.weight.dtype),)

    handle = head.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


class _Attend(torch.autograd.Function):
    """Keeps what the GPU's memory-efficient attention keeps: q, k, v, the mask in their dtype, out, log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any) -> torch.Tensor:
        batch, heads, length, _ = query.shape
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype)
        out = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        normalizer = query.new_empty(batch, heads, -(-length // 32) * 32, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, mask, out, normalizer)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        query, key, value, _, out, _ = ctx.saved_tensors
        delta = out.new_empty(out.shape[:-1], dtype=torch.float32)
        del delta
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


@contextmanager
def _gpu_attention() -> Iterator[None]:
    """Inside, `_Attend` is what torch calls attention. (A TorchFunctionMode would not see a block computed again.)"""
    own = functional.scaled_dot_product_attention

    def attend(query: Any, key: Any, value: Any, attn_mask: Any = None, **options: Any) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            query, key, value = (each.to(torch.bfloat16) for each in (query, key, value))
        return _Attend.apply(query, key, value, attn_mask)  # type: ignore[return-value]

    functional.scaled_dot_product_attention = attend  # type: ignore[assignment]
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = own
