"""A small run of every objective: data that it can learn, on any of the tiny models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertForPreTraining

from patentft.config import build
from patentft.corpus.texts.pack import packed_table
from patentft.objectives.classify import GREEN
from patentft.objectives.encoded import SpecialTokens
from patentft.objectives.packed import ArrayRows
from patentft.objectives.table import OBJECTIVES
from patentft.objectives.texts import CodedTexts, DistilledTexts, LabelledTexts, PairTexts, PreferenceTexts, QaTexts
from patentft.train import worker
from patentft.train.config import INPUTS, TrainConfig
from patentft.train.place import Place
from tests.tiny import save_tiny_llama, save_tiny_mpnet, tiny_tokenizer

WORDS = ["catalyst", "dust", "water", "gas", "filter", "sludge", "furnace", "acid"]
RATES = {"ia3": 2e-2, "prefix": 2e-2, "prompt": 2e-2, "full": 3e-3, "last_layers": 5e-3, "bottleneck": 3e-3}
"""Learning rates of the adapters; the others have 1e-2."""
STEPS = 10


def save_models(folder: Path) -> dict[str, str]:
    """The tiny models by family, each with the heads that its published relatives have."""
    for name in ("bert", "mpnet", "llama"):
        (folder / name).mkdir()
    vocabulary = tiny_tokenizer(folder / "bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=256, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertForPreTraining(config).save_pretrained(folder / "bert")
    save_tiny_mpnet(folder / "mpnet")
    save_tiny_llama(folder / "llama")
    return {name: str(folder / name) for name in ("bert", "mpnet", "llama")}


def config_of(objective: dict[str, Any], adapter: dict[str, Any], strategy: dict[str, Any]) -> TrainConfig:
    """A step holds all of the data, so that the losses of steps can be compared."""
    kind = objective["kind"]
    extra: dict[str, dict[str, Any]] = {
        "instruct": {"prompt": {"template": "plain"}, "max_tokens": 64, "patent_tokens": 24},
        "dpo": {"prompt": {"template": "plain"}, "max_tokens": 64},
        "reward": {"prompt": {"template": "plain"}, "max_tokens": 64, "patent_tokens": 24},
        "distill": {"max_tokens": 64, "patent_tokens": 32},
        "rank": {"max_tokens": 64, "patent_tokens": 32},
        "classify": {"bootstrap": 0},
    }
    source = {"instruct": "qa", "reward": "preferences"}.get(kind, OBJECTIVES[kind].INPUTS[0])
    small = {"prefix": {"tokens": 4}, "prompt": {"tokens": 4}, "last_layers": {"blocks": 1}}
    values = {
        **dict.fromkeys(INPUTS[source].required, "x"), "model": "m", "objective": {**extra.get(kind, {}), **objective},
        "adapter": {**adapter, **(small.get(adapter["kind"], {}))}, "strategy": strategy, "dropout": 0.0,
        "optimizer": {"lr": RATES.get(adapter["kind"], 1e-2), "schedule": "constant", "warmup_fraction": 0.0},
        "epochs": STEPS, "units_per_step": 64, "micro_batch_tokens": 400, "keep": "last", "checkpoint_seconds": 1e9,
    }  # fmt: skip
    return build(TrainConfig, values)


def texts_of(source: str) -> Any:
    numbers = range(12)
    word = [WORDS[n % len(WORDS)] for n in numbers]
    other = [WORDS[(n + 3) % len(WORDS)] for n in numbers]
    # a word gives every label away: a few steps must be enough for any adapter
    told = [f"{('old dust', 'clean water')[n % 2]} and {w} " for n, w in zip(numbers, word, strict=True)]
    long = [each * (1 + n % 3) for n, each in enumerate(told)]
    ids = [str(n) for n in numbers]
    if source == "labelled":
        return LabelledTexts(ids, long, [[n % 2] for n in numbers], [1.0] * 12, GREEN)
    if source == "coded":
        codes = [[f"B01D{10 * (n % 4) + 10}/00", f"C02F{n % 3 + 1}/00"] for n in numbers]
        return CodedTexts(ids, long, codes)
    if source == "qa":
        return QaTexts(ids, [None if n % 3 else long[n] for n in numbers], [f"what removes {w}" for w in word], other)
    if source == "preferences":
        asked = [f"what removes {w}" for w in word]
        return PreferenceTexts(ids, [None] * 12, asked, [f"a {w} filter" for w in word], [f"a {w} boat" for w in other])
    if source == "distilled":
        odds = [(-3.0, 3.0)[n % 2] for n in numbers]
        return DistilledTexts(long, word, [f"T{n}" for n in numbers], [f"P{n}" for n in numbers], odds, [None] * 12)
    pairs = [(n, n, 1) for n in numbers] + [(n, (n + 3) % 12, 0) for n in numbers]
    return PairTexts(
        sections=[long[a] for a, _, _ in pairs],
        patents=[f"{'clean water' if label else 'old dust'} and {word[b]}" for _, b, label in pairs],
        technique_ids=[f"T{a}" for a, _, _ in pairs],
        patent_ids=[f"P{b}" for _, b, _ in pairs],
        label=[label for _, _, label in pairs],
        group=[a for a, _, _ in pairs],
        weight=[1.0] * len(pairs),
        cosine=[0.5] * len(pairs),
        similar=frozenset(),
    )


def data_of(config: TrainConfig, model: str, scratch: Path) -> tuple[TrainConfig, worker.Data]:
    """Encoded as the driver does it; the config may be settled by what was found."""
    objective: Any = OBJECTIVES[config.objective.kind]
    tokenizer = AutoTokenizer.from_pretrained(model)
    if config.input == "packed":
        tokens = SpecialTokens.of(tokenizer, getattr(config.objective, "mask_token", None))
        ids = [np.array(tokenizer(text)["input_ids"], np.int32) for text in texts_of("labelled").texts]
        table = packed_table([ids[n : n + 3] for n in range(0, 12, 3)], 64, tokens.pad)
        rows = ArrayRows(
            *(np.stack(table[name].to_numpy()).astype(np.int32) for name in ("input_ids", "segment_ids"))
        )
        return config, worker.Data(rows, rows, tokens)
    texts, own = texts_of(config.input), None
    if hasattr(objective, "prepare_tokenizer"):
        tokenizer = objective.prepare_tokenizer(tokenizer, texts, config.objective)
        own = str(scratch / "tokenizer")
        tokenizer.save_pretrained(own)
    encoded, counts = objective.encode(texts, tokenizer, config.objective)
    if hasattr(objective, "settled"):
        config = config.model_copy(update={"objective": objective.settled(config.objective, counts)})
    return config, worker.Data(encoded, encoded, SpecialTokens.of(tokenizer), own)


def run(rank: int, world: int, cell: tuple[dict, dict, dict], model: str, folder: str) -> None:
    """Train the cell; rank 0 leaves losses.txt, of the valid side after each step, and what was trained."""
    scratch = Path(folder) / f"scratch-{rank}"
    scratch.mkdir()
    config, data = data_of(config_of(*cell), model, scratch)
    losses: list[float] = []

    class Losses:
        def log(self, step: int, values: Any) -> None:
            known = [values[name] for name in ("valid/loss", "valid/log_likelihood") if name in values]
            losses.append(known[0] if "valid/loss" in values else -known[0])

        def commit(self) -> None:
            pass

        def close(self, *, failed: bool) -> None:
            pass

    def report(metrics: dict[str, Any], written: Path) -> None:
        if rank == 0 and metrics["step"] == metrics["num_steps"]:
            shutil.copyfile(written / "trained.safetensors", Path(folder) / "trained.safetensors")
        shutil.rmtree(written)

    hooks = worker.Hooks(
        Place(rank, world, torch.device("cpu")), report, None, lambda line: None, lambda first: [Losses()]
    )
    worker.train(config, model, data, hooks)
    if rank == 0:
        (Path(folder) / "losses.txt").write_text("\n".join(map(str, losses)))
