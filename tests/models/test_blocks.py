"""Where the blocks are must be found whatever is around the model, and however many lists of layers it has."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from patentft.config import ConfigError
from patentft.models.blocks import find_blocks


class Experts(nn.Module):
    """2 blocks of 4 experts each: the longest list of layers is not that of the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=2, model_type="experts")
        self.layers = nn.ModuleList(
            nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(2, 2) for _ in range(4))}) for _ in range(2)
        )


class Around(nn.Module):
    """As an objective, or PEFT, whose own `config` may be no model's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.config = {"model_type": "custom"}


def test_blocks_are_found_inside_what_is_around_the_model() -> None:
    model = Experts()
    assert find_blocks(model) == ("layers", model.layers)
    assert find_blocks(Around(Around(model))) == ("model.model.layers", model.layers)


def test_what_holds_no_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear has no transformers model inside"):
        find_blocks(nn.Linear(2, 2))
