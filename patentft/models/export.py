"""A trained model as a folder that transformers, peft and sentence-transformers load as it is, and its model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

ENCODER_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")


def write_folder(
    folder: Path,
    backbone: nn.Module,
    adapter_model: nn.Module | None,
    tokenizer: Any,
    base_folder: str,
    extra: Mapping[str, Any],
) -> None:
    """Write weights (safetensors), configuration and tokenizer of the plain model, and the PEFT adapter beside them.

    backbone: the transformers model, adapters merged. adapter_model: the PEFT model, before merging, or None.
    extra: what the configuration must carry for us (`config.patentft`), such as the cosine's weight.
    """
    if adapter_model is not None:
        adapter_model.save_pretrained(folder / "adapter", safe_serialization=True)  # type: ignore[operator]
        (folder / "adapter" / "README.md").unlink(missing_ok=True)  # PEFT's template: ours stands one folder up
    known = getattr(backbone.config, "patentft", None) or {}  # type: ignore[union-attr]
    backbone.config.patentft = {**known, **extra}  # type: ignore[union-attr]
    backbone.save_pretrained(folder, safe_serialization=True)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)


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


@dataclass(frozen=True)
class Card:
    """What an objective says of its models."""

    intro: str
    use: str
    """How one is loaded and run, in Python."""
    library: str
    tags: tuple[str, ...]


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
