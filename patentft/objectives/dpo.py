"""Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290): a decoder prefers the chosen answer more
than it did when the training began.

    margin = beta * ((log p(chosen) - log p_ref(chosen)) - (log p(rejected) - log p_ref(rejected)))
    loss   = -(1 - s) log sigmoid(margin) - s log sigmoid(-margin)

s is the share of preferences that are taken to be the wrong way round (`label_smoothing`; Mitchell 2023). The
reference is the model with its adapter switched off, at the cost of a second forward pass, or log-likelihoods that were
computed before the first step (`prepare`). It runs without dropout. Weight of a preference in the step: 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from patentft.config import Config, ConfigError
from patentft.models.adapters.task import Task
from patentft.models.backbone import Loading
from patentft.models.export import Card
from patentft.objectives import packed
from patentft.objectives.answers import answer_labels, answer_lengths, answer_logits, per_row, token_log_likelihoods
from patentft.objectives.encoded import Encoded, SpecialTokens, Unit
from patentft.objectives.prompts import PromptConfig, answer_batch, encode_preferences, load_decoder
from patentft.objectives.texts import PreferenceTexts

INPUTS = ("preferences",)
MODELS = "decoder"
TASK = "causal_lm"
METRIC = "preference_log_likelihood"
UNITS_PER_BATCH = None

Batch = Mapping[str, torch.Tensor]
Part = dict[str, npt.NDArray]


class DpoConfig(Config):
    """How strongly the answers are told apart, and from where."""

    kind: Literal["dpo"] = "dpo"
    prompt: PromptConfig = PromptConfig()
    max_tokens: int = Field(default=1024, ge=2)
    """Of prompt and answer together. The context is cut at its end so that the longer of the two answers fits."""
    beta: float = Field(default=0.1, gt=0.0)
    """The smaller, the further the model may move from the reference."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Share of the preferences that are taken to be the wrong way round."""
    length_normalised: bool = False
    """Whether an answer's log-likelihood is the mean over its tokens instead of the sum; beta then is to be larger."""
    reference: Literal["adapter_off", "precomputed"] = "adapter_off"
    """adapter_off: needs an adapter that can be switched off (not full). precomputed: by the starting model, once."""


def build(folder: str, config: DpoConfig, loading: Loading) -> nn.Module:
    return load_decoder(folder, config.max_tokens, loading)


def task(model: nn.Module, config: DpoConfig) -> Task:
    return Task("causal_lm")


def encode(texts: PreferenceTexts, tokenizer: Any, config: DpoConfig) -> tuple[Encoded, dict[str, int]]:
    """Rows 2i and 2i + 1 are the chosen and the rejected answer of preference i: input_ids (ragged), prompt_tokens."""
    return encode_preferences(texts, tokenizer, config.prompt, config.max_tokens)


def prepare(
    module: nn.Module,
    encoded: Encoded,
    config: DpoConfig,
    batches: Callable[[Encoded], Iterable[Batch]],
    gather: Callable[[list[Part]], list[Part]],
) -> Encoded:
    """Once for each side, before the first step and before a checkpoint is put back: `encoded` with the array
    `reference` (rows,) float32, the log-likelihood of each answer under the starting model. As it is for adapter_off.

    batches: this rank's share of the side, collated and on the device. gather: the parts of all ranks.
    """
    if config.reference == "adapter_off":
        return encoded
    assert isinstance(module, PreferenceModel)
    training = module.training
    module.eval()
    with torch.no_grad():
        mine = [
            {"row": batch["row"].cpu().numpy(), "reference": module.log_likelihoods(batch).cpu().numpy()}
            for batch in batches(encoded)
        ]
    module.train(training)
    reference = np.full(len(encoded["prompt_tokens"]), np.nan, dtype=np.float32)
    for part in gather(mine):
        reference[part["row"]] = part["reference"]
    assert not np.isnan(reference).any(), "a preference was in no rank's share"
    return Encoded({**encoded.arrays, "reference": reference})


def units(encoded: Encoded, config: DpoConfig, epoch: int, seed: int) -> list[Unit]:
    """A unit is a preference. The same in every epoch; the plan shuffles."""
    longest = encoded.lengths("input_ids").reshape(-1, 2).max(axis=1)
    return [Unit((2 * index, 2 * index + 1), 2 * length) for index, length in enumerate(longest.tolist())]


def collate(encoded: Encoded, chosen: Sequence[Unit], tokens: SpecialTokens) -> dict[str, torch.Tensor]:
    """Rows chosen, rejected, chosen, ...: input_ids, attention_mask, labels (2P, T) int64; row (2P,) int64; reference
    (2P,) float32 if it was precomputed.
    """
    rows = [row for unit in chosen for row in unit.rows]
    batch = answer_batch(encoded, rows, tokens.pad)
    batch["row"] = torch.tensor(rows)
    if "reference" in encoded.arrays:
        batch["reference"] = torch.from_numpy(encoded["reference"][rows])
    return batch


class PreferenceModel(nn.Module):
    """A causal decoder and what it said of the answers when the training began."""

    def __init__(self, model: nn.Module, config: DpoConfig) -> None:
        super().__init__()
        self.model = model
        self.adapter_off = config.reference == "adapter_off"

    def log_likelihoods(self, batch: Batch) -> torch.Tensor:
        """(2P,) float32: of each row's answer, summed over its tokens."""
        labels, rows = answer_labels(batch)
        values = token_log_likelihoods(answer_logits(self.model, batch), labels)
        return per_row(values, rows, len(batch["labels"]))

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(policy, reference), each (2P,) float32. Both in one call: a distributed wrapper counts calls."""
        reference = self._without_adapter(batch) if self.adapter_off else batch["reference"]
        return self.log_likelihoods(batch), reference

    @torch.no_grad()
    def _without_adapter(self, batch: Batch) -> torch.Tensor:
        training = self.model.training
        self.model.eval()
        with self.model.disable_adapter():  # type: ignore[operator]
            reference = self.log_likelihoods(batch)
        self.model.train(training)
        return reference


def wrap(backbone: nn.Module, config: DpoConfig) -> nn.Module:
    """Raises ConfigError when the reference is the model without its adapter, and it has none to switch off."""
    if config.reference == "adapter_off" and not hasattr(backbone, "disable_adapter"):
        raise ConfigError(
            "objective.reference is adapter_off, but this adapter cannot be switched off: set adapter.kind: lora, or "
            "objective.reference: precomputed"
        )
    return PreferenceModel(backbone, config)


def backbone(module: nn.Module) -> nn.Module:
    """The transformers (or PEFT) model inside."""
    assert isinstance(module, PreferenceModel)
    return module.model


def parameter_groups(module: nn.Module, lr: float, weight_decay: float, config: DpoConfig) -> list[dict[str, Any]]:
    return packed.parameter_groups(module, lr, weight_decay)


def weight(batch: Batch, config: DpoConfig) -> float:
    """A preference counts 1."""
    return len(batch["input_ids"]) / 2


def loss(module: nn.Module, batch: Batch, config: DpoConfig) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """(sum over preferences, number of preferences, logs)."""
    policy, reference = module(batch)
    found = margins(policy, reference, answer_lengths(batch), config)
    total = preference_loss(found, config.label_smoothing).sum()
    return total, total.new_tensor(float(len(found))), {"margin": float(found.detach().sum())}


def margins(policy: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor, config: DpoConfig) -> torch.Tensor:
    """(P,): by how much the chosen answer's implicit reward is above the rejected one's.

    policy, reference (2P,): log-likelihoods of chosen, rejected, chosen, ...; lengths (2P,): tokens of the answers.
    """
    ratio = policy - reference
    if config.length_normalised:
        ratio = ratio / lengths
    rewards = config.beta * ratio.view(-1, 2)
    return rewards[:, 0] - rewards[:, 1]


def preference_loss(margin: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """(P,) from margins (P,). Rafailov et al. 2023, equation 7; with smoothing, Mitchell 2023 ("conservative DPO")."""
    return -(1 - label_smoothing) * functional.logsigmoid(margin) - label_smoothing * functional.logsigmoid(-margin)


@torch.inference_mode()
def predict(module: nn.Module, batch: Batch, config: DpoConfig) -> Part:
    """For `metrics`, (P,) each: margin, loss, and the policy's log-likelihood and tokens of the chosen answer."""
    policy, reference = module(batch)
    lengths = answer_lengths(batch)
    margin = margins(policy, reference, lengths, config)
    found = {
        "margin": margin,
        "loss": preference_loss(margin, config.label_smoothing),
        "chosen": policy[::2],
        "tokens": lengths[::2],
    }
    return {name: values.cpu().numpy() for name, values in found.items()}


def metrics(parts: Sequence[Mapping[str, npt.NDArray]], config: DpoConfig) -> dict[str, float]:
    """On the valid side: minus the loss, the loss, the share of preferences that are the right way round (a margin of 0
    counts half), the mean margin, and the log-likelihood of a token of the chosen answers, which may fall while all
    others improve.
    """
    whole = {name: np.concatenate([part[name] for part in parts]).astype(np.float64) for name in parts[0]}
    mean = float(whole["loss"].mean())
    return {
        METRIC: -mean,
        "loss": mean,
        "preference_accuracy": float((whole["margin"] > 0).mean() + (whole["margin"] == 0).mean() / 2),
        "reward_margin": float(whole["margin"].mean()),
        "chosen_log_likelihood": float(whole["chosen"].sum() / whole["tokens"].sum()),
    }


def card(module: nn.Module, config: DpoConfig) -> Card:
    return Card(
        intro=(
            "A decoder that was taught which of two answers is the better. The prompt must be written as in training: "
            "with `objective.prompt` of the configuration below."
        ),
        auto_class="AutoModelForCausalLM",
        use=(
            "ids = model.generate(**tokenizer(prompt, return_tensors='pt'), max_new_tokens=100)\n"
            "print(tokenizer.decode(ids[0]))"
        ),
        tags=("patents", "text-generation", "dpo"),
    )
