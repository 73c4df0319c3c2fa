"""Memory of a GPU and time of a training run, before it begins. Pure arithmetic on plain values.

    memory while a micro-batch is computed   weights + gradients + moments + what a pass holds + the strategy's buffers
    memory while the optimizer steps         weights + gradients + moments + one more copy of the trained, in pieces

What a pass holds is not a formula: `train.rehearse` counts it on the run's own model. What the strategies hold is from
their sources: torch's DistributedDataParallel and fully_shard, DeepSpeed's ZeRO 1 to 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from patentft.models.gpus import Gpu
from patentft.train.config import TrainConfig
from patentft.train.rehearse import Weights
from patentft.train.strategies.deepspeed import DeepspeedConfig
from patentft.train.strategies.fsdp import FsdpConfig

GIB = 2**30
CONTEXT_BYTES = int(0.75 * GIB)
"""Of a GPU, for CUDA's context and the workspaces of its libraries. Assumed."""
COMMUNICATION_BYTES = int(0.5 * GIB)
"""Of a GPU, for NCCL where there are several. Assumed."""
MOMENT_BYTES = {"adamw": 8.0, "adamw_8bit": 2 + 8 / 256, "paged_adamw_8bit": 2 + 8 / 256}
"""Of a trained parameter: two moments in fp32, or in 8 bits with an fp32 scale for 256 of each."""
FP32 = 4
REDUCE_BUCKET = 500_000_000
"""Numbers in DeepSpeed's `reduce_bucket_size`: allocated whole by ZeRO 1 and 2, and twice on a GPU."""
MAX_LIVE = 1_000_000_000
"""Numbers that ZeRO 3 may hold gathered, `stage3_max_live_parameters`."""


# Memory


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU (on a CPU: of one worker), at the worst moment of a pass unless said otherwise."""

    weights: float
    gradients: float
    moments: float
    activations: float
    """Kept by the forward pass."""
    logits: float
    """Over the vocabulary, with their fp32 copy, and what the loss keeps."""
    working: float
    """What the backward pass has made and not yet released."""
    weight_copies: float
    """Autocast's bfloat16 copies of fp32 weights."""
    buffers: float
    """The strategy's: gathered blocks, buckets of gradients, its own fp32 weights."""
    step: float
    """What the optimizer's step needs besides weights, gradients and moments, when a pass's are released."""

    @property
    def in_pass(self) -> float:
        held = self.activations + self.logits + self.working + self.weight_copies
        return self.weights + self.gradients + self.moments + held + self.buffers

    @property
    def in_step(self) -> float:
        return self.weights + self.gradients_of_step + self.moments + self.step

    gradients_of_step: float = 0.0
    """All of them are there when the optimizer steps, though in a pass they may still be to come."""

    @property
    def peak(self) -> float:
        return max(self.in_pass, self.in_step)


def memory(
    weights: Weights, held: Mapping[str, float], config: TrainConfig, workers: int, *, gpu: bool, kept: bool
) -> Memory:
    """held: bytes by `rehearse.KINDS`, of a pass that begins with gradients if `kept`; see `keeps_gradients`."""
    moments = MOMENT_BYTES[config.optimizer.kind] * weights.trainable
    gradients = float(FP32 * weights.trainable)
    own = {
        "activations": held["activations"],
        "logits": held["logits"],
        "working": held["working"],
        "weight_copies": held["weight_copies"],
    }
    # AdamW on a GPU makes one more tensor for each trained one, all at once; on a CPU, and with 8 bits, one by one
    step = FP32 * (weights.trainable if gpu and config.optimizer.kind == "adamw" else weights.largest)
    element = 2 if config.precision == "bf16" else FP32
    strategy = config.strategy
    if isinstance(strategy, FsdpConfig):
        trained_share = weights.trainable / weights.total
        gathered = 2 * weights.block + weights.outside  # the block in use and the next, and what no block holds
        gathered = min(gathered, weights.total) if strategy.reshard_after_forward else weights.total
        # a block's gradients, whole, in the dtype of the products, and in fp32 to be reduced
        buffers = gathered * element + weights.block * trained_share * (element + FP32)
        there = 0 if strategy.offload else 1 / workers
        return Memory(
            weights.nbytes * there, gradients * there, moments * there, **own, buffers=buffers,
            step=step / workers * (not strategy.offload), gradients_of_step=gradients * there,
        )  # fmt: skip
    if isinstance(strategy, DeepspeedConfig):
        return _zero(strategy, weights, gradients, moments, own, step, element, workers, gpu)
    buckets = gradients if workers > 1 else 0.0  # DDP reduces copies of the gradients
    return Memory(
        weights.nbytes, gradients if kept else held["gradients"], moments, **own, buffers=buckets,
        step=step + buckets, gradients_of_step=gradients,
    )  # fmt: skip


def _zero(
    strategy: DeepspeedConfig,
    weights: Weights,
    gradients: float,
    moments: float,
    own: dict[str, float],
    step: float,
    element: int,
    workers: int,
    gpu: bool,
) -> Memory:
    """ZeRO holds the trained weights in fp32 once more, divided, and steps on these."""
    copy = FP32 * weights.trainable / workers
    there = 0 if strategy.offload_optimizer else 1
    bucket = REDUCE_BUCKET * FP32 * (2 if gpu else 1)
    if strategy.zero < 3:
        left = gradients / workers if strategy.zero == 2 else gradients
        return Memory(
            weights.nbytes, left, moments / workers * there, **own, buffers=bucket + copy * there,
            step=(step / workers + copy) * there, gradients_of_step=left,
        )  # fmt: skip
    gathered = min(weights.total, MAX_LIVE) * element
    kept = weights.nbytes / workers * (0 if strategy.offload_parameters else 1)
    return Memory(
        kept, gradients / workers * there, moments / workers * there, **own,
        buffers=gathered + REDUCE_BUCKET * FP32 + copy * there, step=(step / workers + copy) * there,
        gradients_of_step=gradients / workers * there,
    )  # fmt: skip


def keeps_gradients(config: TrainConfig, micro_batches: int) -> bool:
    """Whether a pass begins with gradients: those of the step's earlier passes, or of a strategy that divides them."""
    return micro_batches > 1 or config.strategy.kind != "ddp"


def largest_rows(peak_of: Callable[[int], float], limit: float, start: int, unit: int) -> int:
    """The most rows, a multiple of `unit`, whose peak in bytes is within `limit`; 0 when a unit is not.

    peak_of is nearly straight, bends upwards and is slow: it is asked a handful of times.
    """
    low, high = 0, 0  # within, and beyond
    known: dict[int, float] = {}

    def ask(rows: int) -> float:
        if rows not in known:
            known[rows] = peak_of(rows)
        return known[rows]

    guess = max(unit, start // unit * unit)
    for _ in range(6):
        if ask(guess) <= limit:
            low = max(low, guess)
        else:
            high = min(high or guess, guess)
        if high and high - low <= unit:
            break
        a, b = sorted(known)[:1] + sorted(known)[-1:]
        if a == b:
            guess = guess * 2 if low else max(unit, guess // 2 // unit * unit)
            continue
        straight = a + (limit - known[a]) * (b - a) / max(known[b] - known[a], 1.0)
        guess = min(int(straight) // unit * unit, 1 << 20)
        guess = max(guess, low + unit)
        if high:
            guess = min(guess, high - unit)
        if guess in known:
            break
    return low


# Time


def flop_per_token(weights: Weights, config: TrainConfig, row_tokens: int, predicted_share: float) -> float:
    """Multiplications and additions of a token, forward and backward, padding counted.

    A weight costs 2 in the forward pass, 2 for the gradient of what went in, and 2 for its own where it is trained;
    attention 4 x hidden x tokens of the row in the forward pass and twice that backward; what is computed again counts.
    """
    forward = 2 * weights.matrix + 4 * weights.blocks * weights.hidden * row_tokens
    backward = 2 * weights.matrix + 2 * weights.matrix_trainable + 8 * weights.blocks * weights.hidden * row_tokens
    again = forward if config.activation_checkpointing else 0
    full = config.adapter.kind == "full"
    return forward + backward + again + (6 if full else 4) * weights.head * predicted_share


def gpu_hours(flop: float, gpu: Gpu, precision: str) -> float:
    """At the utilization that the table assumes."""
    return gpu.hours(flop, bf16=precision == "bf16")
