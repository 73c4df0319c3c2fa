"""A trained model as a folder that transformers, peft and sentence-transformers load as it is, and its model card."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import nn

from patentft.models.bottleneck import has_bottlenecks, save_bottleneck
from patentft.models.virtual import VirtualTokens

ENCODER_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")


@dataclass(frozen=True)
class Card:
    """What an objective says of the model it trained: its `card(module, config)` gives one."""

    intro: str
    """What the model is, in a sentence or two."""
    auto_class: str
    """The class of transformers that loads it, such as AutoModelForCausalLM."""
    use: str
    """Lines of Python that use it, given `model` and `tokenizer`."""
    tags: tuple[str, ...]
    pooling: str | None = None
    """mean, cls or last for an encoder of texts: sentence-transformers' files are written, and `use` is not read."""
    max_tokens: int = 512
    """For an encoder of texts: how long they were in training, special tokens included."""
    carries: Mapping[str, Any] = field(default_factory=dict)
    """What config.json must hold for us under `patentft`, such as the cosine's weight."""


def write_model(folder: Path, model: nn.Module, tokenizer: Any, extra: Mapping[str, Any]) -> None:
    """Write weights (safetensors), configuration and tokenizer of a plain transformers model.

    extra: what the configuration carries for us (`config.patentft`).
    """
    known = getattr(model.config, "patentft", None) or {}  # type: ignore[union-attr]
    model.config.patentft = {**known, **extra}  # type: ignore[union-attr]
    model.save_pretrained(folder, safe_serialization=True)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)


def write_adapter(folder: Path, model: nn.Module, base: str) -> None:
    """Write the adapter alone, heads included: PEFT's as PEFT saves it, bottlenecks as `load_bottleneck` reads them.

    base: the reference of the model under it, as `load.resolve` gives it; the adapter's settings name it.
    """
    if has_bottlenecks(model):
        save_bottleneck(model, folder, base)
        return
    wrapped: Any = model.peft_model if isinstance(model, VirtualTokens) else model
    wrapped.peft_config["default"].base_model_name_or_path = base
    # the embeddings are not trained unless a head or a target names them; asking whether they were resized would ask
    # the hub
    wrapped.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template: ours is the export's


def write_beside(folder: Path, model: nn.Module, tokenizer: Any, base: str, extra: Mapping[str, Any]) -> None:
    """Write an adapter that cannot be merged, with the configuration and the tokenizer of its base."""
    write_adapter(folder, model, base)
    config: Any = copy.deepcopy(model.config)
    config.patentft = dict(extra)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def loading_lines(
    card: Card, kind: Literal["plain", "peft", "bottleneck"], base: str, num_labels: int
) -> str:
    """The lines of Python in the card that load the export and use it.

    kind: "plain" for all weights; for an adapter alone, "peft" or "bottleneck".
    """
    if card.pooling is not None:
        if kind == "plain":
            return (
                "from sentence_transformers import SentenceTransformer\n\n"
                "vectors = SentenceTransformer('.').encode(texts)"
            )
        return (
            "from patentft.models.load import load_encoder\n\nencoder = load_encoder('.')\n"
            "inputs = encoder.tokenizer(texts, padding=True, return_tensors='pt')\n"
            "vectors = encoder.forward(inputs['input_ids'], inputs['attention_mask'])"
        )
    labels = f", num_labels={num_labels}" if "Classification" in card.auto_class else ""
    tokenizer = "tokenizer = AutoTokenizer.from_pretrained('.')"
    transformers = f"from transformers import {card.auto_class}, AutoTokenizer"
    if kind == "plain":
        return f"{transformers}\n\nmodel = {card.auto_class}.from_pretrained('.')\n{tokenizer}\n{card.use}"
    loaded = f"base = {card.auto_class}.from_pretrained({base!r}{labels})"
    if kind == "peft":
        return (
            f"from peft import PeftModel\n{transformers}\n\n{loaded}\nmodel = PeftModel.from_pretrained(base, '.')\n"
            f"{tokenizer}\n{card.use}"
        )
    return (
        f"from patentft.models.bottleneck import load_bottleneck\n{transformers}\n\n{loaded}\n"
        f"model = load_bottleneck(base, '.').eval()\n{tokenizer}\n{card.use}"
    )


def write_sentence_transformers_files(folder: Path, base_folder: Path, pooling: str, max_tokens: int) -> None:
    """modules.json and what it names: the base's own where it has them, else Transformer, Pooling, Normalize."""
    if (base_folder / "modules.json").is_file():
        for name in ENCODER_FILES:
            if (base_folder / name).is_file():
                shutil.copyfile(base_folder / name, folder / name)
        for module in json.loads((base_folder / "modules.json").read_text()):
            if module["path"] and (base_folder / module["path"] / "config.json").is_file():
                (folder / module["path"]).mkdir(exist_ok=True)
                shutil.copyfile(base_folder / module["path"] / "config.json", folder / module["path"] / "config.json")
        return
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=2))
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": max_tokens, "do_lower_case": False})
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
    settings = {"word_embedding_dimension": json.loads((folder / "config.json").read_text())["hidden_size"]}
    settings |= {flag: mode == pooling for mode, flag in modes.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))


def blend(trained: dict[str, torch.Tensor], start: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """share * trained + (1 - share) * start, name by name; names only in `trained` (new heads) are kept as they are."""
    return {
        name: torch.lerp(start[name].to(value.dtype), value, share)
        if name in start and value.is_floating_point()
        else value
        for name, value in trained.items()
    }


def model_card(
    *,
    title: str,
    intro: str,
    use: str,
    facts: Mapping[str, Any],
    metrics: Mapping[str, Any],
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    tags: list[str],
    library: str,
) -> str:
    """The export's README.md: what it is, how to load it, on what it was trained, and what it reached."""
    front = yaml.safe_dump({"library_name": library, "tags": tags}, sort_keys=False)
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    reached = "\n".join(
        f"| {name} | {value:.4f} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in metrics.items()
    )
    data = "\n".join(f"- `{name}`: `{identity}`" for name, identity in inputs.items())
    return (
        f"---\n{front}---\n\n# {title}\n\n{intro}\n\n## Use\n\n```python\n{use}\n```\n\n"
        f"## Facts\n\n| | |\n|---|---|\n{rows}\n\n"
        f"## On the validation side\n\n| metric | value |\n|---|---|\n{reached}\n\n"
        f"## Trained on\n\nContent ids of the inputs (the manifests' `id`):\n\n{data}\n\n"
        f"## Configuration\n\n```yaml\n{yaml.safe_dump(dict(config), sort_keys=False)}```\n"
    )
