"""LoRA on a Llama-3.1-8B shape: tokens per second, MFU and peak memory of our loop against transformers' `Trainer`.

Ours is `train.worker.train` as a run calls it: objective causal, strategy ddp, adapter lora in bf16 and, where
bitsandbytes is installed, qlora (NF4, double quantization). Only the reading of the base's weights is replaced: they
are drawn on the device, so nothing is downloaded. The peer is given a model and an optimizer made by the same
functions, and the same rows (several texts in a row of 2,048 tokens, kept apart) in the same order; the losses of all
steps are compared. The two take turns in one process, each time with a fresh model.

    peak FLOP/s    a bf16 matrix product at the shape of the feed-forward layer, measured in the same rounds
    model FLOPs    a token costs 4 for each weight of the frozen matrices (forward, and the gradient of the input), 6
                   for each of the adapter's, and 12 x heads x head size x layers for each token that it sees; what
                   activation checkpointing computes again is not counted, so MFU has a ceiling of 2/3 with it
    peak memory    torch.cuda.max_memory_allocated from the end of the first step to the last but one

Neither Ray nor FAISS is imported. Without a GPU it says so and ends with status 2; with --quick (`make bench`), where
other benchmarks are to follow, it says that it is skipped and ends with 0. --tiny runs anywhere: a small model in fp32,
which shows that both sides compute the same, and nothing about speed.

    python benchmarks/gpu_train.py [--quick | --tiny] [--rounds 3] [--steps 8] [--micro-batch-rows 2] [--out FILE]
                                   [--layers N] [--no-checkpointing] [--only lora|nf4]
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _claims import Claim, arguments, at_least, at_most, finish, median_ratio

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

GIB = 2**30
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False,
    "bos_token_id": 128000, "eos_token_id": 128001,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192},
}  # fmt: skip
"""meta-llama/Llama-3.1-8B, its config.json."""
TINY = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
VENDOR_TFLOPS = {"H200": 989.4, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.4, "A100": 312.0, "L40S": 362.0,
                 "L4": 121.0, "A10": 125.0, "4090": 165.2, "B200": 2250.0}  # fmt: skip
"""Dense bf16, from the vendor's data sheets, by a part of the device's name."""
WARM_UP_STEPS = 2
CASES = {"lora": {"kind": "lora", "rank": 16, "alpha": 32}, "nf4": {"kind": "qlora", "rank": 16, "alpha": 32}}


@dataclass(frozen=True)
class Shape:
    """What is trained, and on what."""

    model: dict[str, Any]
    tokens_per_row: int
    rows_per_micro_batch: int
    micro_batches: int
    """Of a step."""
    steps: int
    device: torch.device
    precision: str
    checkpointing: bool

    @property
    def tokens_per_step(self) -> int:
        return self.tokens_per_row * self.rows_per_micro_batch * self.micro_batches


@dataclass
class Run:
    """One side's training."""

    step_seconds: list[float] = field(default_factory=list)
    """Of the steps after the warm-up."""
    losses: list[float] = field(default_factory=list)
    peak_bytes: int = 0


class Watch:
    """Told of the end of every step, it takes times and the peak of memory; the last step is left out, since our loop
    scores the valid side in it."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self.run, self._step, self._before = shape, Run(), 0, 0.0

    def step_done(self, loss: float | None = None) -> None:
        cuda = self.shape.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize()
        now, self._step = time.perf_counter(), self._step + 1
        if loss is not None:
            self.run.losses.append(loss)
        if self._step == 1 and cuda:
            torch.cuda.reset_peak_memory_stats()
        if WARM_UP_STEPS < self._step < self.shape.steps:
            self.run.step_seconds.append(now - self._before)
            self.run.peak_bytes = torch.cuda.max_memory_allocated() if cuda else 0
        self._before = time.perf_counter()


def packed_rows(shape: Shape) -> Any:
    """Full rows of texts of random tokens; a text is as long as a patent's claim, 60 to 400 tokens."""
    from patentft.objectives.packed import ArrayRows

    rng = np.random.default_rng(0)
    size = (shape.rows_per_micro_batch * shape.micro_batches * shape.steps, shape.tokens_per_row)
    ids = rng.integers(3, shape.model["vocab_size"], size).astype(np.int32)
    segments = np.zeros(size, dtype=np.int32)
    for row in segments:
        ends = np.cumsum(rng.integers(60, 400, shape.tokens_per_row // 60))
        row[:] = np.searchsorted(ends, np.arange(shape.tokens_per_row), side="right") + 1
    return ArrayRows(ids, segments)


def random_backbone(folder: str, auto_class: Any, loading: Any) -> Any:
    """In the place of `models.backbone.load_backbone`: random weights, made where and as they are held.

    A quantized base is made layer by layer: at no time is more than one matrix there in bf16.
    """
    from transformers import AutoConfig, BitsAndBytesConfig

    config = AutoConfig.from_pretrained(folder)
    device = loading.device
    model: Any
    torch.manual_seed(1)
    if loading.quantization is None:
        with device:
            model = auto_class.from_config(config, dtype=loading.dtype)
    else:
        from bitsandbytes.nn import modules
        from transformers.integrations.bitsandbytes import replace_with_bnb_linear

        layers: Any = modules
        settings = BitsAndBytesConfig(**loading.quantization)
        with torch.device("meta"):
            model = auto_class.from_config(config, dtype=loading.dtype)
        model = replace_with_bnb_linear(model, settings.llm_int8_skip_modules, settings)
        for module in list(model.modules()):
            for name, parameter in list(module.named_parameters(recurse=False)):
                made: Any = torch.empty(parameter.shape, dtype=loading.dtype, device=device)
                made.fill_(1.0) if made.ndim == 1 else made.normal_(std=config.initializer_range)  # 1: a norm's
                if isinstance(module, layers.Linear4bit):
                    made = layers.Params4bit(
                        made,
                        requires_grad=False,
                        compress_statistics=settings.bnb_4bit_use_double_quant,
                        quant_type=settings.bnb_4bit_quant_type,
                        module=module,
                    ).to(device)
                else:
                    made = torch.nn.Parameter(made, requires_grad=False)
                setattr(module, name, made)
        with device:
            model.model.rotary_emb = type(model.model.rotary_emb)(config)
        model.is_loaded_in_4bit = True  # what PEFT asks for
    model.config.use_cache = False
    model.new_parameters = ()
    return model


def train_config(shape: Shape, adapter: Mapping[str, Any]) -> Any:
    from patentft.config import build
    from patentft.train.config import TrainConfig

    return build(
        TrainConfig,
        {
            "packed": "x", "packed_valid": "x", "model": "x", "objective": {"kind": "causal"}, "adapter": adapter,
            "precision": shape.precision, "activation_checkpointing": shape.checkpointing, "epochs": 1, "keep": "last",
            "units_per_step": shape.rows_per_micro_batch * shape.micro_batches,
            "micro_batch_tokens": shape.rows_per_micro_batch * shape.tokens_per_row, "checkpoint_seconds": 1e9,
            "optimizer": {"lr": 1e-4, "schedule": "constant", "warmup_fraction": 0.0, "clip_norm": 1.0},
        },
    )  # fmt: skip


def ours(shape: Shape, adapter: Mapping[str, Any], folder: str, rows: Any) -> Run:
    """`worker.train`, with a tracker that watches."""
    from patentft.objectives.encoded import SpecialTokens
    from patentft.objectives.packed import ArrayRows
    from patentft.train import worker
    from patentft.train.place import Place

    watch = Watch(shape)

    class Watching:
        def log(self, step: int, values: Mapping[str, float]) -> None:
            watch.step_done(values["loss"])

        def commit(self) -> None:
            pass

        def close(self, *, failed: bool) -> None:
            pass

    valid = ArrayRows(rows.input_ids[:1], rows.segment_ids[:1])
    data = worker.Data(rows, valid, SpecialTokens(vocabulary_size=shape.model["vocab_size"]))
    hooks = worker.Hooks(
        Place(0, 1, shape.device),
        lambda metrics, checkpoint: shutil.rmtree(checkpoint),
        say=lambda line: None,
        trackers=lambda steps_done: [Watching()],
    )
    worker.train(train_config(shape, adapter), folder, data, hooks)
    return watch.run


def theirs(shape: Shape, adapter: Mapping[str, Any], folder: str, rows: Any) -> Run:
    """`transformers.Trainer`. It tells packed texts apart by the positions that begin again."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
    from transformers.utils import logging as transformers_logging

    from patentft.objectives import causal
    from patentft.objectives.encoded import SpecialTokens
    from patentft.train import optimizer, worker
    from patentft.train.schedule import schedule_of

    transformers_logging.set_verbosity_error()
    config = train_config(shape, adapter)
    module = worker.build(config, folder, shape.device)
    model = causal.backbone(module).to(shape.device)
    schedule = schedule_of(causal, rows, config.objective, config.units_per_step, config.seed)
    units = [unit for step in range(shape.steps) for unit in schedule.units(step)]
    watch = Watch(shape)

    def collate(chosen: Sequence[Any]) -> dict[str, torch.Tensor]:
        batch = causal.collate(rows, chosen, SpecialTokens())
        labels = torch.full_like(batch["labels"], -100)
        labels[:, 1:] = batch["labels"][:, :-1]  # it shifts them itself
        return {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "labels": labels}

    class Watching(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step_done()

    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                per_device_train_batch_size=shape.rows_per_micro_batch,
                gradient_accumulation_steps=shape.micro_batches,
                max_steps=shape.steps,
                bf16=shape.precision == "bf16",
                use_cpu=shape.device.type == "cpu",
                lr_scheduler_type="constant",
                max_grad_norm=config.optimizer.clip_norm,
                train_sampling_strategy="sequential",
                remove_unused_columns=False,
                logging_strategy="steps",
                logging_steps=1,  # as ours does
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_num_workers=0,
            ),
            data_collator=collate,
            train_dataset=units,  # type: ignore[arg-type]
            optimizers=(optimizer.make(config.optimizer, worker.parameter_groups(config, module)), None),
            callbacks=[Watching()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        watch.run.losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return watch.run


def model_flop_per_step(shape: Shape, adapter: Mapping[str, Any], rows: Any) -> float:
    """See the head of this file; the mean over the steps."""
    model, rank = shape.model, int(adapter["rank"])
    hidden, inner, layers = (model[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    head = hidden // model["num_attention_heads"]
    keys = head * model["num_key_value_heads"]
    matrices = [(hidden, hidden)] * 2 + [(hidden, keys)] * 2 + [(hidden, inner)] * 3
    frozen = layers * sum(a * b for a, b in matrices) + hidden * model["vocab_size"]
    trained = layers * sum(rank * (a + b) for a, b in matrices)
    lengths = rows.segment_tokens.astype(float)
    seen = float((lengths * (lengths + 1) / 2).sum()) / shape.steps
    return shape.tokens_per_step * (4 * frozen + 6 * trained) + 12 * layers * hidden * seen


def measured_peak_flops(shape: Shape) -> float:
    """FLOP/s of a matrix product at the shape of the feed-forward layer, in the run's precision."""
    dtype = torch.bfloat16 if shape.precision == "bf16" else torch.float32
    count = max(shape.rows_per_micro_batch * shape.tokens_per_row, 4096 if shape.device.type == "cuda" else 1)
    hidden, inner = shape.model["hidden_size"], shape.model["intermediate_size"]
    a = torch.randn(count, hidden, dtype=dtype, device=shape.device)
    b = torch.randn(hidden, inner, dtype=dtype, device=shape.device)
    cuda, best = shape.device.type == "cuda", math.inf
    for _ in range(5):
        start, repeats = time.perf_counter(), 20 if cuda else 3
        for _ in range(repeats):
            torch.mm(a, b)
        if cuda:
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / repeats)
    return 2 * count * hidden * inner / best


def compare(name: str, shape: Shape, folder: str, rounds: int) -> tuple[list[Claim], dict[str, Any]]:
    """The claims of one adapter."""
    adapter, rows = CASES[name], packed_rows(shape)
    if name == "nf4" and shape.device.type == "cpu":
        adapter = {**adapter, "compute_dtype": "float32"}
    runs: dict[str, list[Run]] = {"ours": [], "Trainer": []}
    sides = {"ours": ours, "Trainer": theirs}
    for number in range(rounds):
        for side in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            runs[side].append(sides[side](shape, adapter, folder, rows))
            gc.collect()  # the model of this turn, before the next one's
            if shape.device.type == "cuda":
                torch.cuda.empty_cache()
            print(f"{name}, {side}: {statistics.median(runs[side][-1].step_seconds):.3f} s a step", file=sys.stderr)
    peak = measured_peak_flops(shape)
    seconds = {side: [statistics.median(run.step_seconds) for run in found] for side, found in runs.items()}
    rate = {side: shape.tokens_per_step / statistics.median(found) for side, found in seconds.items()}
    flops = model_flop_per_step(shape, adapter, rows) / statistics.median(seconds["ours"])
    both = [zip(one.losses, two.losses, strict=True) for one, two in zip(*runs.values(), strict=True)]
    apart = max(abs(a - b) / abs(b) for turn in both for a, b in turn)
    ratio = median_ratio(seconds["Trainer"], seconds["ours"])
    peer = f"Trainer {rate['Trainer']:,.0f} tokens/s"
    claims = [
        at_most(f"{name}: largest relative difference of a step's loss", apart, "", 1e-2, peer="Trainer"),
        at_least(f"{name}: tokens trained on", rate["ours"], "tokens/s", 1.0, peer=peer, ratio=ratio)
        if shape.device.type == "cuda"
        else Claim(f"{name}: tokens trained on", rate["ours"], "tokens/s", peer, ratio),
        Claim(f"{name}: MFU", flops / 1e12, "TFLOP/s", f"matrix product {peak / 1e12:.1f} TFLOP/s", flops / peak),
    ]
    if shape.device.type == "cuda":
        vendor = next((v for key, v in VENDOR_TFLOPS.items() if key in torch.cuda.get_device_name()), None)
        if vendor:
            claims.append(
                Claim(f"{name}: of the data sheet", flops / 1e12, "TFLOP/s", f"{vendor} TFLOP/s", flops / vendor / 1e12)
            )
        held = {side: statistics.median(run.peak_bytes for run in found) / GIB for side, found in runs.items()}
        claims.append(
            at_most(f"{name}: peak memory", held["ours"], "GiB", 1.02, peer=f"Trainer {held['Trainer']:.1f} GiB",
                    ratio=held["ours"] / held["Trainer"])
        )  # fmt: skip
    return claims, {side: [run.__dict__ for run in found] for side, found in runs.items()}


def options_of() -> argparse.Namespace:
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tiny", action="store_true", help="a small model in fp32, on a CPU too")
    parser.add_argument("--steps", type=int, help="of a turn, at least 5; the first 2 and the last are not timed")
    parser.add_argument("--layers", type=int, help="blocks of the model, 32")
    parser.add_argument("--micro-batch-rows", type=int, default=2, help="rows of a forward pass, half a step")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    parser.add_argument("--only", choices=list(CASES), help="one adapter")
    options = parser.parse_args()
    if options.steps is not None and options.steps < WARM_UP_STEPS + 3:
        parser.error(f"--steps {options.steps}: at least {WARM_UP_STEPS + 3}")
    return options


def skipped(options: argparse.Namespace) -> int:
    """There is no GPU: the exit status."""
    reason = f"no CUDA device (torch {torch.__version__})"
    if options.quick:
        print(f"skipped: {reason}. `python benchmarks/gpu_train.py --tiny` compares the two loops on a CPU.")
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({"skipped": reason, "claims": []}, indent=1) + "\n")
        return 0
    print(
        f"gpu_train.py needs a GPU: {reason}. Run it on one with 24 GB or more (--only nf4: 12 GB), or a small model "
        f"here: python benchmarks/gpu_train.py --tiny",
        file=sys.stderr,
    )
    return 2


def main() -> int:
    options = options_of()
    if not torch.cuda.is_available() and not options.tiny:
        return skipped(options)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    model = {**LLAMA_8B, **(TINY if options.tiny else {"num_hidden_layers": 8} if options.quick else {})}
    if options.layers:
        model["num_hidden_layers"] = options.layers
    shape = Shape(
        model=model,
        tokens_per_row=256 if options.tiny else 2048,
        rows_per_micro_batch=options.micro_batch_rows,
        micro_batches=2,
        steps=options.steps or (6 if options.quick or options.tiny else 10),
        device=device,
        precision="fp32" if options.tiny else "bf16",
        checkpointing=not options.no_checkpointing,
    )
    from patentft.objectives import causal

    causal.load_backbone = random_backbone  # the one thing that is not as in a run
    names = [name for name in CASES if options.only in (None, name)]
    if importlib.util.find_spec("bitsandbytes") is None:
        print("bitsandbytes is not installed: NF4 is left out", file=sys.stderr)
        names = [name for name in names if name != "nf4"]
    claims: list[Claim] = []
    details: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(model))
        for name in names:
            found, details[name] = compare(name, shape, folder, options.rounds)
            claims += found
    imported = {name.partition(".")[0] for name in sys.modules} & {"ray", "faiss"}
    assert not imported, imported
    about = {"model": model, "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    settings = {key: str(value) for key, value in shape.__dict__.items() if key != "model"}
    return finish(claims, options.out, {**about, **settings, "rounds": options.rounds, "runs": details})


if __name__ == "__main__":
    sys.exit(main())
