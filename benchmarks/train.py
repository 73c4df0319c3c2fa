"""Training speed: our loop against transformers' Trainer and a bare loop; packed rows against padded ones.

One tiny Llama with LoRA, the same weights, rows and optimizer on every side, on CPU processes. Rows are packed from texts
with the lengths of the public claims (5 % below 37 words, half below 142, 5 % above 338, 1 % above 463).

    python benchmarks/train.py [--quick] [--rounds 3] [--out FILE]

Each measurement is a process (or group of two) of its own; its rate is that of its median step after a warm-up.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

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
            model, settings, data_collator=collate, train_dataset=list(range(rows.num_rows)), callbacks=[Times()]  # type: ignore[arg-type]
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


def bare(folder: Path, steps: int, batches: Iterator[dict[str, Any]] | None = None) -> list[float]:
    """The loop one would write: model, batches, AdamW, clip, step."""
    import torch
    from torch.nn import functional

    from patentft.objectives import causal
    from patentft.objectives.encoded import SpecialTokens, Unit
    from patentft.objectives.packed import LanguageModel

    rows = rows_of(folder, steps * ROWS_PER_STEP)
    module = LanguageModel(lora_model(folder), causal=True)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    order = torch.randperm(rows.num_rows).tolist()
    found = []
    for step in range(steps):
        start = time.perf_counter()
        if batches is None:
            chosen = order[step * ROWS_PER_STEP : (step + 1) * ROWS_PER_STEP]
            batch = causal.collate(rows, [Unit((row,), TOKENS_PER_ROW) for row in chosen], SpecialTokens())
        else:
            batch = next(batches)
        logits = module(batch)
        labels = batch["labels"]
        loss = functional.cross_entropy(logits.flatten(0, -2), labels[labels != -100] if logits.ndim == 2 else labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(time.perf_counter() - start)
    return found
