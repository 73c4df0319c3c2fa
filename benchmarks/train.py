"""Training speed: our loop against transformers' Trainer and a bare loop; packed rows against padded ones.

One tiny Llama with LoRA, the same weights, rows and optimizer on every side, on CPU processes. Rows are packed from
texts with the lengths of the public claims (5 % below 37 words, half below 142, 5 % above 338, 1 % above 463).

    python benchmarks/train.py [--quick] [--rounds 3] [--out FILE]

Each measurement is a process (or group of two) of its own; its rate is that of its median step after a warm-up.
"""

from __future__ import annotations

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

WARM_UP = 3
TOKENS_PER_ROW = 512
ROWS_PER_STEP = 8
TOKENS_PER_WORD = 1.35
QUANTILES = {0.0: 8, 0.05: 37, 0.5: 142, 0.95: 338, 0.99: 463, 1.0: 1500}
"""Words of a claim; between them the logarithm is interpolated over normal scores."""
VOCABULARY = 8192


def lengths(count: int, seed: int) -> np.ndarray:
    """Tokens of `count` claims."""
    scores = [statistics.NormalDist().inv_cdf(min(max(q, 1e-5), 1 - 1e-5)) for q in QUANTILES]
    drawn = np.clip(np.random.default_rng(seed).standard_normal(count), scores[0], scores[-1])
    words = np.exp(np.interp(drawn, scores, np.log(list(QUANTILES.values()))))
    return np.minimum((words * TOKENS_PER_WORD).round().astype(int), TOKENS_PER_ROW)


def prepare(folder: Path, num_texts: int) -> None:
    """The model and the packed rows, as a finished pack stage."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from patentft.corpus.texts.pack import packed_table
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
    sizes = lengths(num_texts, 0)
    rng = np.random.default_rng(1)
    texts = [rng.integers(5, VOCABULARY, size).astype(np.int32) for size in sizes]
    np.savez(folder / "texts.npz", flat=np.concatenate(texts), sizes=sizes)
    rows: list[list[np.ndarray]] = []
    rooms: list[int] = []
    for text in sorted(texts, key=len, reverse=True):  # best fit, decreasing
        fitting = [index for index, room in enumerate(rooms) if room >= len(text)]
        if fitting:
            index = min(fitting, key=rooms.__getitem__)
            rows[index].append(text)
            rooms[index] -= len(text)
        else:
            rows.append([text])
            rooms.append(TOKENS_PER_ROW - len(text))
    rows = [rows[index] for index in rng.permutation(len(rows))]
    stage = open_stage(Location(folder / "packed"), "pack", {}, {})
    stage.write_part("packed", 0, packed_table(rows, TOKENS_PER_ROW, 0))
    stage.finish({"rows": len(rows), "tokens": int(sizes.sum()), "texts": len(texts)})


def train_config(steps: int, **changes: Any) -> Any:
    from patentft.config import build
    from patentft.train.config import TrainConfig

    values: dict[str, Any] = {
        "packed": "p", "packed_valid": "v", "model": "m", "objective": {"kind": "causal"},
        "adapter": {"kind": "lora", "rank": 8}, "optimizer": {"lr": 1e-4, "schedule": "constant"}, "epochs": 1,
        "units_per_step": ROWS_PER_STEP, "micro_batch_tokens": ROWS_PER_STEP * TOKENS_PER_ROW, "keep": "last",
        "checkpoint_seconds": 1e9, "track": [],
    }  # fmt: skip
    return build(TrainConfig, {**values, **changes})


def rows_of(folder: Path, limit: int | None = None) -> Any:
    from patentft.location import Location
    from patentft.objectives.packed import ArrayRows
    from patentft.store import finished_stage

    table = finished_stage(Location(folder / "packed")).read("packed")
    columns = [np.stack(table[name].to_numpy()).astype(np.int32) for name in ("input_ids", "segment_ids")]
    return ArrayRows(*(column[:limit] for column in columns))


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

    place = Place(rank, world, torch.device("cpu"))
    hooks = worker.Hooks(
        place, lambda _, written: shutil.rmtree(written), None, lambda line: None, lambda first: [Times()]
    )
    data = worker.Data(rows_of(folder, steps * ROWS_PER_STEP), rows_of(folder, 2), SpecialTokens())
    worker.train(train_config(steps), str(folder / "model"), data, hooks)
    return found


def trainer(folder: Path, steps: int, rank: int, world: int) -> list[float]:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from patentft.objectives import causal
    from patentft.objectives.encoded import SpecialTokens, Unit
    from patentft.objectives.packed import IGNORED, attention_mask

    rows = rows_of(folder, steps * ROWS_PER_STEP)
    model = lora_model(folder)

    def collate(numbers: list[int]) -> dict[str, torch.Tensor]:
        batch = causal.collate(rows, [Unit((number,), TOKENS_PER_ROW) for number in numbers], SpecialTokens())
        labels = torch.full_like(batch["labels"], IGNORED)
        labels[:, 1:] = batch["labels"][:, :-1]  # transformers shifts them itself
        mask = attention_mask(batch["segment_ids"], causal=True)
        return {
            "input_ids": batch["input_ids"],
            "position_ids": batch["position_ids"],
            "attention_mask": mask,
            "labels": labels,
        }

    found: list[float] = []

    class Times(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.last = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            found.append(now - self.last)
            self.last = now

    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            output_dir=scratch, per_device_train_batch_size=ROWS_PER_STEP // world, max_steps=steps, learning_rate=1e-4,
            lr_scheduler_type="constant", use_cpu=True, ddp_backend="gloo" if world > 1 else None, report_to=[],
            save_strategy="no", logging_strategy="no", eval_strategy="no", remove_unused_columns=False,
            disable_tqdm=True, weight_decay=0.01, ddp_find_unused_parameters=False,
        )  # fmt: skip
        Trainer(
            model,
            settings,
            data_collator=collate,
            train_dataset=list(range(rows.num_rows)),
            callbacks=[Times()],  # type: ignore[arg-type]
        ).train()
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

    rows = rows_of(folder, steps * ROWS_PER_STEP)
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


def child(mode: str, folder: Path, steps: int, rank: int, world: int) -> None:
    import torch

    torch.set_num_threads(2 // world)
    if world > 1:
        import torch.distributed as dist

        dist.init_process_group("gloo", rank=rank, world_size=world)
    sides = {"ours": ours, "trainer": trainer}
    found = sides[mode](folder, steps, rank, world) if mode in sides else bare(folder, steps, mode)
    if rank == 0:
        print(json.dumps(found))


def measured(mode: str, folder: Path, steps: int, world: int = 1) -> list[float]:
    """Seconds of the steps after the warm-up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    repository = str(Path(__file__).resolve().parents[1])
    processes = []
    for rank in range(world):
        environment = {
            **os.environ, "PYTHONPATH": repository, "RANK": str(rank), "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "TOKENIZERS_PARALLELISM": "false",
        }  # fmt: skip
        if world == 1:
            for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
                del environment[name]
        command = [sys.executable, __file__, "--child", mode, str(folder), str(steps), str(rank), str(world)]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise SystemExit(f"{mode} failed:\n{errors[-3000:]}")
    return json.loads(outputs[0][0].splitlines()[-1])[WARM_UP:]


def rate(seconds: list[float], tokens_per_step: float) -> float:
    return tokens_per_step / statistics.median(seconds)


def main() -> int:
    if "--child" in sys.argv:
        _, _, mode, folder, steps, rank, world = sys.argv
        child(mode, Path(folder), int(steps), int(rank), int(world))
        return 0
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    options = parser.parse_args()
    steps = 10 if options.quick else 24
    claims: list[Claim] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, 60 * steps)
        tokens = ROWS_PER_STEP * TOKENS_PER_ROW
        for world in (1, 2):
            pairs = [(measured("ours", folder, steps, world), measured("trainer", folder, steps, world))
                     for _ in range(options.rounds)]  # fmt: skip
            mine, theirs = ([rate(pair[side], tokens) for pair in pairs] for side in (0, 1))
            claims.append(
                at_least(
                    f"LoRA of a tiny Llama, {world} process{'es' * (world > 1)}", statistics.median(mine), "tokens/s",
                    1.0, peer=f"transformers Trainer {statistics.median(theirs):,.0f}/s",
                    ratio=median_ratio(mine, theirs),
                )
            )  # fmt: skip
        runs = [(measured("ours", folder, steps), measured("packed", folder, steps)) for _ in range(options.rounds)]
        mine, theirs = ([statistics.median(pair[side]) for pair in runs] for side in (0, 1))
        claims.append(
            at_most(
                "seconds of a step of our loop, without Ray", statistics.median(mine), "s", 1.05,
                peer=f"bare loop {statistics.median(theirs):.3f} s", ratio=median_ratio(mine, theirs),
            )
        )  # fmt: skip
        claims += packing(folder, steps, options.rounds)
    return finish(claims, options.out, {"steps": steps, "rounds": options.rounds})


def packing(folder: Path, steps: int, rounds: int) -> list[Claim]:
    """Speed in real tokens of packed rows over padded ones, against what the number of tokens alone would give."""
    real: dict[str, float] = {}
    computed: dict[str, float] = {}
    for kind in ("packed", "random", "bucketed"):
        made = packed_batches(folder, steps) if kind == "packed" else padded_batches(folder, steps, kind)
        batches = list(made)[WARM_UP:]
        masks = [batch["segment_ids"] > 0 if kind == "packed" else batch["attention_mask"] for batch in batches]
        real[kind] = float(sum(int(mask.sum()) for mask in masks))
        computed[kind] = float(sum(mask.numel() for mask in masks))
    found = []
    speeds: dict[str, list[float]] = {"packed": [], "random": [], "bucketed": []}
    for _ in range(rounds):
        for kind, values in speeds.items():
            values.append(real[kind] / sum(measured(kind, folder, steps)))
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
