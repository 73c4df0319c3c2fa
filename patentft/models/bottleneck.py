"""Bottleneck adapters: a small two-layer network after a block's attention, its feed-forward layer, or both.

    h = base(x);  h + up(f(down(h)))     down: hidden -> hidden / reduction, up: back, starting at zero

After both is Houlsby et al. 2019 (arXiv:1902.00751); after the feed-forward layer alone is the place that Pfeiffer et
al. 2020 (arXiv:2005.00247) found to be enough. Each stands on the last linear layer of its sublayer, so before the
residual sum. PEFT has none of them, and they cannot be merged: `load_bottleneck` puts them back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from patentft.config import ConfigError
from patentft.models.blocks import find_blocks

SETTINGS, WEIGHTS = "bottleneck.json", "bottleneck.safetensors"
Place = Literal["attention", "feed_forward"]
Nonlinearity = Literal["relu", "gelu", "silu", "tanh"]
NONLINEARITIES = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}

_BERT = {"attention": "attention.output.dense", "feed_forward": "output.dense"}
_LLAMA = {"attention": "self_attn.o_proj", "feed_forward": "mlp.down_proj"}
PLACES: dict[str, dict[str, str]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "mpnet": {"attention": "attention.attn.o", "feed_forward": "output.dense"},
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
"""Model type -> the last linear layer of each sublayer of a block."""


@dataclass(frozen=True)
class Shape:
    """What the adapters of a model are; written beside their weights."""

    reduction: int
    nonlinearity: Nonlinearity
    after: tuple[Place, ...]


class Bottleneck(nn.Module):
    """(..., hidden) -> (..., hidden) in the input's dtype: what is added to it."""

    def __init__(self, hidden: int, width: int, nonlinearity: Nonlinearity) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, width)
        self.activation = NONLINEARITIES[nonlinearity]()
        self.up = nn.Linear(width, hidden)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)  # at the start the model is its base
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        wide = hidden.to(self.down.weight.dtype)  # trained in fp32, whatever the base is held in
        return self.up(self.activation(self.down(wide))).to(hidden.dtype)


class Followed(nn.Module):
    """A linear layer and the adapter on its output."""

    def __init__(self, base: nn.Module, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.base = base
        self.bottleneck = bottleneck

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.base(inputs)
        return hidden + self.bottleneck(hidden)


def insert(model: nn.Module, shape: Shape) -> None:
    """Put new adapters into every block of `model`, in place.

    Raises ConfigError for a family that is not in PLACES and a width below 1.
    """
    config: Any = model.config
    if config.model_type not in PLACES:
        raise ConfigError(
            f"adapter bottleneck does not know the blocks of {config.model_type} (it knows {', '.join(PLACES)}); "
            f"choose lora"
        )
    hidden = int(config.hidden_size)
    width = hidden // shape.reduction
    if width < 1:
        raise ConfigError(f"adapter.reduction is {shape.reduction}; the model's hidden size is {hidden}: set it lower")
    _, blocks = find_blocks(model)
    for block in blocks:
        for place in shape.after:
            parent, _, name = PLACES[config.model_type][place].rpartition(".")
            holder = block.get_submodule(parent)
            base = getattr(holder, name)
            bottleneck = Bottleneck(hidden, width, shape.nonlinearity).to(base.weight.device)
            setattr(holder, name, Followed(base, bottleneck))
    model.bottleneck = shape  # type: ignore[assignment]  # read again by save_bottleneck


def has_bottlenecks(model: nn.Module) -> bool:
    """Whether `insert` was called on the model."""
    return isinstance(getattr(model, "bottleneck", None), Shape)


def save_bottleneck(model: nn.Module, folder: Path, base: str) -> None:
    """Write all that is trained, heads included, as safetensors, and what is needed to build it again as JSON.

    base: the reference of the model under the adapters, as `load.resolve` gives it.
    """
    shape, config = model.bottleneck, model.config  # type: ignore[union-attr]
    assert isinstance(shape, Shape)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    settings = {
        "base_model_name_or_path": base,
        "model_type": config.model_type,  # type: ignore[union-attr]
        "model_class": type(model).__name__,
        **asdict(shape),
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2))


def load_bottleneck(model: nn.Module, folder: str | Path) -> nn.Module:
    """`model`, the plain base, with the adapters and heads of `folder` in it, in place.

    The base is loaded with the transformers class that was trained: AutoModelForSequenceClassification for a
    classifier (num_labels as trained), AutoModel for an encoder. Raises ConfigError when it is another one.
    """
    path = Path(folder)
    if not (path / SETTINGS).is_file():
        raise ConfigError(f"{path} holds no {SETTINGS}: not a folder of bottleneck adapters")
    settings = json.loads((path / SETTINGS).read_text())
    kind = model.config.model_type  # type: ignore[union-attr]
    if kind != settings["model_type"] or type(model).__name__ != settings["model_class"]:
        raise ConfigError(
            f"{path} was trained on a {settings['model_class']} ({settings['model_type']}), not on a "
            f"{type(model).__name__} ({kind}): load {settings['base_model_name_or_path']} with its own class first"
        )
    insert(model, Shape(settings["reduction"], settings["nonlinearity"], tuple(settings["after"])))
    state = load_file(path / WEIGHTS)
    own = dict(model.named_parameters())
    odd = _differing(own, state)
    if odd:
        raise ConfigError(f"{path}: {len(odd)} weights do not fit the model, such as {odd[0]} (num_labels?)")
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
    return model


def _differing(own: dict[str, nn.Parameter], state: dict[str, torch.Tensor]) -> Sequence[str]:
    missing = [name for name in own if ".bottleneck." in name and name not in state]
    return missing + [name for name, value in state.items() if name not in own or own[name].shape != value.shape]
