"""Training speed: our loop against transformers' Trainer, TRL's SFTTrainer and a bare loop; packed rows against padded.

One small Llama with LoRA, the same weights, rows and optimizer on every side, on CPU processes. Rows are packed from
texts with the lengths of the public claims (5 % below 37 words, half below 142, 5 % above 338, 1 % above 463).

    python benchmarks/train.py [--quick] [--rounds 3] [--out FILE]

A round measures every side once, each in a process (or group of two) of its own; a side's time is that of its median
step after a warm-up, and a ratio is the median over rounds. TRL is measured where it is installed (pip install trl).
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _claims import Claim, arguments, at_least, at_most, finish, median_ratio
from corpus import word_counts

WARM_UP = 3
TOKENS_PER_ROW = 512
ROWS_PER_STEP = 4
TOKENS_PER_WORD = 1.35
VOCABULARY = 8192
LEARNING_RATE = 1e-4


def prepare(folder: Path, num_texts: int, num_rows: int) -> None:
    """The model, the texts, and as many packed rows of them, as a finished pack stage."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from patentft.corpus.texts.pack import best_fit, packed_table
    from patentft.location import Location
    from patentft.store import open_stage

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=TOKENS_PER_ROW, pad_token_id=0, attention_dropout=0.0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    words = {f"w{index}": index for index in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0").save_pretrained(folder / "model")
    words_of_text = word_counts(num_texts, np.random.default_rng(0))
    sizes = np.minimum((words_of_text * TOKENS_PER_WORD).round().astype(int), TOKENS_PER_ROW)
    rng = np.random.default_rng(1)
    texts = [rng.integers(5, VOCABULARY, size).astype(np.int32) for size in sizes]
    np.savez(folder / "texts.npz", flat=np.concatenate(texts), sizes=sizes)
    rows = [[texts[index] for index in row] for row in best_fit([len(text) for text in texts], TOKENS_PER_ROW)]
    rows = [rows[index] for index in rng.permutation(len(rows))]
    if len(rows) < num_rows:
        raise SystemExit(f"{num_texts} texts make {len(rows)} rows, not {num_rows}")
    for name, chosen in (("packed", rows[:num_rows]), ("valid", rows[:1])):
        stage = open_stage(Location(folder / name), "pack", {}, {})
        stage.write_part("packed", 0, packed_table(chosen, TOKENS_PER_ROW, 0))
        tokens = sum(len(text) for row in chosen for text in row)
        stage.finish({"rows": len(chosen), "tokens": tokens, "texts": sum(map(len, chosen))})


def train_config(**changes: Any) -> Any:
    from patentft.config import build
    from patentft.train.config import TrainConfig

    values: dict[str, Any] = {
        "packed": "packed", "packed_valid": "valid", "model": "model", "objective": {"kind": "causal"},
        "adapter": {"kind": "lora", "rank": 8}, "optimizer": {"lr": LEARNING_RATE, "schedule": "constant"}, "epochs": 1,
        "units_per_step": ROWS_PER_STEP, "micro_batch_tokens": ROWS_PER_STEP * TOKENS_PER_ROW, "keep": "last",
        "checkpoint_seconds": 1e9, "track": [],
    }  # fmt: skip
    return build(TrainConfig, {**values, **changes})


def rows_of(folder: Path, name: str = "packed") -> Any:
    from patentft.location import Location
    from patentft.objectives.packed import ArrayRows
    from patentft.store import finished_stage

    table = finished_stage(Location(folder / name)).read("packed")
    return ArrayRows(*(np.stack(table[each].to_numpy()).astype(np.int32) for each in ("input_ids", "segment_ids")))


# ---- the sides: each prints the seconds of its steps as JSON


def ours(folder: Path, steps: int, rank: int, world: int) -> list[float]:
    import shutil

    import torch

    from patentft.objectives.encoded import SpecialTokens
    from patentft.train import worker
    from patentft.train.place import Place

    found: list[float] = []

    class Times:
        def log(self, step: int, values: Any) -> None:
            found.append(values["seconds"])

        def commit(self) -> None:
            pass

        def close(self, *, failed: bool) -> None:
            pass

    place = Place(rank, world, torch.device("cpu"))
    hooks = worker.Hooks(
        place, lambda _, written: shutil.rmtree(written), None, lambda line: None, lambda first: [Times()]
    )
    data = worker.Data(rows_of(folder), rows_of(folder, "valid"), SpecialTokens())
    worker.train(train_config(), str(folder / "model"), data, hooks)
    return found


def under_ray(folder: Path, steps: int, rank: int, world: int) -> list[float]:
    """The train stage as `patentft run` runs it: Ray Train, its worker, steps.jsonl."""
    from patentft.cluster import ClusterConfig, connection
    from patentft.location import Location
    from patentft.progress import Progress
    from patentft.stage import Context
    from patentft.store import finished_stage, open_stage
    from patentft.train.run import run

    stage = open_stage(Location(tempfile.mkdtemp(dir=folder)) / "train", "train", {}, {})
    progress = Progress(quiet=True)
    inputs = {name: finished_stage(Location(folder / name)) for name in ("packed", "valid")}
    context = Context(stage, inputs, {"model": str(folder / "model")}, progress)
    with connection(ClusterConfig(address="local", num_cpus=4), progress):
        run(train_config(cpus_per_worker=2), context)
    lines = (stage.location / "steps.jsonl").read_bytes().decode().splitlines()
    return [json.loads(line)["seconds"] for line in lines]


def peer(folder: Path, steps: int, rank: int, world: int, kind: str) -> list[float]:
    """transformers' Trainer, or TRL's on top of it, with the same rows, masks and labels."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from patentft.objectives import causal
    from patentft.objectives.encoded import SpecialTokens, Unit
    from patentft.objectives.packed import IGNORED, attention_mask

    rows = rows_of(folder)

    def collate(numbered: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        units = [Unit((each["row"],), TOKENS_PER_ROW) for each in numbered]
        batch = dict(causal.collate(rows, units, SpecialTokens()))
        labels = torch.full_like(batch["labels"], IGNORED)
        labels[:, 1:] = batch["labels"][:, :-1]  # transformers shifts them itself
        mask = attention_mask(batch.pop("segment_ids"), causal=True)
        return {**batch, "attention_mask": mask, "labels": labels}

    found: list[float] = []

    class Times(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.last = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            found.append(now - self.last)
            self.last = now

    settings: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(dir=folder), "per_device_train_batch_size": ROWS_PER_STEP // world,
        "max_steps": steps, "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant", "use_cpu": True,
        "ddp_backend": "gloo" if world > 1 else None, "report_to": [], "save_strategy": "no",
        "logging_strategy": "no", "eval_strategy": "no", "remove_unused_columns": False, "disable_tqdm": True,
        "weight_decay": 0.01, "ddp_find_unused_parameters": False,
    }  # fmt: skip
    import datasets

    numbers = datasets.Dataset.from_dict({"row": list(range(rows.num_rows))})
    what: dict[str, Any] = {"data_collator": collate, "train_dataset": numbers, "callbacks": [Times()]}
    if kind == "trainer":
        Trainer(lora_model(folder), TrainingArguments(**settings), **what).train()
    else:
        from transformers import AutoTokenizer
        from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

        # its own default saves memory by computing activations again: not what the others do
        settings |= {"gradient_checkpointing": False, "bf16": False, "dataset_kwargs": {"skip_prepare_dataset": True}}
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        SFTTrainer(lora_model(folder), SFTConfig(**settings), processing_class=tokenizer, **what).train()
    return found


def lora_model(folder: Path) -> Any:
    import peft
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    settings = peft.LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return peft.get_peft_model(model, settings)


def bare(folder: Path, steps: int, kind: str) -> list[float]:
    """The loop one would write: model, batches, AdamW, clip, step.

    kind: "packed"; "random" for padded texts in random order; "bucketed" for padded texts of like length together.
    """
    import torch
    from torch.nn import functional

    from patentft.objectives.packed import IGNORED, LanguageModel

    batches = list(packed_batches(folder, steps) if kind == "packed" else padded_batches(folder, steps, kind))
    module = LanguageModel(lora_model(folder), causal=True)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    found = []
    for batch in batches:
        start = time.perf_counter()
        logits, labels = module(batch).flatten(0, 1), batch["labels"].flatten()
        functional.cross_entropy(logits, labels, ignore_index=IGNORED).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(time.perf_counter() - start)
    return found


def packed_batches(folder: Path, steps: int) -> Iterator[dict[str, Any]]:
    from patentft.objectives import causal
    from patentft.objectives.encoded import SpecialTokens, Unit

    rows = rows_of(folder)
    order = np.random.default_rng(0).permutation(rows.num_rows)
    for step in range(steps):
        chosen = order[step * ROWS_PER_STEP : (step + 1) * ROWS_PER_STEP].tolist()
        yield causal.collate(rows, [Unit((row,), TOKENS_PER_ROW) for row in chosen], SpecialTokens())


def padded_batches(folder: Path, steps: int, kind: str) -> Iterator[dict[str, Any]]:
    """Batches of as many real tokens as a packed one has, less than a text."""
    import torch

    from patentft.objectives.encoded import pad
    from patentft.objectives.packed import IGNORED

    saved = np.load(folder / "texts.npz")
    texts = np.split(saved["flat"], np.cumsum(saved["sizes"])[:-1])
    order = np.random.default_rng(0).permutation(len(texts)).tolist()
    if kind == "bucketed":
        order.sort(key=lambda index: len(texts[index]))
    made: list[list[int]] = [[]]
    held = 0
    for index in order:
        if held + len(texts[index]) > ROWS_PER_STEP * TOKENS_PER_ROW:
            made.append([])
            held = 0
        made[-1].append(index)
        held += len(texts[index])
    # spread over all lengths, whatever the order
    chosen = [made[round(place)] for place in np.linspace(0, len(made) - 2, steps)]
    for numbers in chosen:
        batch = pad([texts[index] for index in numbers], 0)
        labels = torch.full_like(batch["input_ids"], IGNORED)
        follows = batch["attention_mask"][:, 1:].bool()
        labels[:, :-1][follows] = batch["input_ids"][:, 1:][follows]
        yield {**batch, "labels": labels}


# ---- measuring


def child(side: str, folder: Path, steps: int, rank: int, world: int) -> None:
    import torch

    torch.set_num_threads(2 // world)
    if world > 1:
        import torch.distributed as dist

        dist.init_process_group("gloo", rank=rank, world_size=world)
    if side in ("ours", "ray"):
        found = {"ours": ours, "ray": under_ray}[side](folder, steps, rank, world)
    elif side in ("trainer", "trl"):
        found = peer(folder, steps, rank, world, side)
    else:
        found = bare(folder, steps, side)
    if rank == 0:
        assert len(found) == steps, (side, len(found), steps)
        print(json.dumps(found))


def measured(side: str, folder: Path, steps: int, world: int = 1) -> list[float]:
    """Seconds of the steps after the warm-up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    repository = str(Path(__file__).resolve().parents[1])
    processes = []
    for rank in range(world):
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join([repository, os.environ.get("PYTHONPATH", "")]),
            "TOKENIZERS_PARALLELISM": "false",
            "RAY_worker_niceness": "0",  # Ray's workers would give way to anything else that runs; the peers do not
        }  # fmt: skip
        if world > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, __file__, "--child", side, str(folder), str(steps), str(rank), str(world)]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise SystemExit(f"{side} failed:\n{errors[-3000:]}")
    found = json.loads(outputs[0][0].splitlines()[-1])
    print(f"{side}, {world}: median step {statistics.median(found[WARM_UP:]):.3f} s", file=sys.stderr, flush=True)
    return found[WARM_UP:]


def main() -> int:
    if "--child" in sys.argv:
        _, _, side, folder, steps, rank, world = sys.argv
        child(side, Path(folder), int(steps), int(rank), int(world))
        return 0
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    options = parser.parse_args()
    steps, rounds = (8, 1) if options.quick else (24, options.rounds)
    peers = {"trainer": "transformers Trainer"}
    if importlib.util.find_spec("trl"):
        peers["trl"] = "TRL SFTTrainer"
    sides = [(side, 1) for side in ("ours", *peers, "packed", "ray", "random", "bucketed")]
    sides += [(side, 2) for side in ("ours", *peers)]
    seconds: dict[tuple[str, int], list[list[float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, 5 * ROWS_PER_STEP * steps, ROWS_PER_STEP * steps)
        for _ in range(rounds):
            for side, world in sides:
                seconds[side, world].append(measured(side, folder, steps, world))
        padding = packing(folder, steps, {side: seconds[side, 1] for side in ("packed", "random", "bucketed")})
    step = {side: [statistics.median(each) for each in found] for side, found in seconds.items()}
    tokens = ROWS_PER_STEP * TOKENS_PER_ROW
    claims: list[Claim] = []
    for world in (1, 2):
        mine = [tokens / each for each in step["ours", world]]
        for side, name in peers.items():
            theirs = [tokens / each for each in step[side, world]]
            claims.append(
                at_least(
                    f"LoRA of a small Llama, {world} process{'es' * (world > 1)}", statistics.median(mine), "tokens/s",
                    1.0, peer=f"{name} {statistics.median(theirs):,.0f}/s", ratio=median_ratio(mine, theirs),
                )
            )  # fmt: skip
    for side, name in (("ours", "a step of our loop"), ("ray", "a step of our loop under Ray Train")):
        claims.append(
            at_most(
                name, statistics.median(step[side, 1]), "s", 1.05,
                peer=f"bare loop {statistics.median(step['packed', 1]):.3f} s",
                ratio=median_ratio(step[side, 1], step["packed", 1]),
            )
        )  # fmt: skip
    return finish(claims + padding, options.out, {"steps": steps, "rounds": rounds})


def packing(folder: Path, steps: int, seconds: dict[str, list[list[float]]]) -> list[Claim]:
    """Speed in real tokens of packed rows over padded ones, against what the number of tokens alone would give."""
    real: dict[str, int] = {}
    computed: dict[str, int] = {}
    for kind in seconds:
        made = packed_batches(folder, steps) if kind == "packed" else padded_batches(folder, steps, kind)
        masks = [batch["segment_ids"] > 0 if kind == "packed" else batch["attention_mask"] for batch in made][WARM_UP:]
        real[kind] = sum(int(mask.sum()) for mask in masks)
        computed[kind] = sum(mask.numel() for mask in masks)
    speeds = {kind: [real[kind] / sum(each) for each in found] for kind, found in seconds.items()}
    found = []
    for kind in ("random", "bucketed"):
        tokens_alone = (computed[kind] / real[kind]) / (computed["packed"] / real["packed"])
        gained = median_ratio(speeds["packed"], speeds[kind])
        found.append(
            at_least(
                f"packed rows over padded texts, {kind}", gained, "times the real tokens/s", 0.9,
                peer=f"by the number of tokens alone {tokens_alone:.3f}", ratio=gained / tokens_alone,
            )
        )  # fmt: skip
    return found


if __name__ == "__main__":
    sys.exit(main())
