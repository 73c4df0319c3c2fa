"""A decoder on this machine as a `Generator`: prompts to ids, batched by length, one token a step for all rows.

1. every prompt is written by the template that the model was trained with, and its length is checked;
2. prompts are sorted by length and batched so that rows x (longest + max_new_tokens) <= tokens_per_batch;
3. a batch is padded on its left, its keys and values are kept, and rows that have ended leave it.

A row's tokens depend on its own prompt: positions count from its first real token, padding is masked, and its draws are
its own. What a batch can still move is the last bits of logits, and with them a token only where two are equal to
within rounding.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from patentft.config import ConfigError
from patentft.generate.interface import Completion, Prompt, Settings
from patentft.models.load import DType, is_causal, load_tokenizer_and_limit, load_trained_decoder
from patentft.models.template import Template
from patentft.models.virtual import VirtualTokens

TOKENS_PER_BATCH = {False: 4096, True: 65536}
"""On a CPU (False) and on a GPU (True)."""


@dataclass
class LocalModel:
    """A loaded decoder. `load_local` makes one."""

    model: Any
    tokenizer: Any
    template: Template
    limit: int | None
    """Tokens of prompt and answer together that the model takes."""
    identity: str
    device: torch.device
    tokens_per_batch: int

    def __post_init__(self) -> None:
        settings = getattr(self.model, "generation_config", None)
        ends = getattr(settings, "eos_token_id", None)
        listed = [] if ends is None else ends if isinstance(ends, list) else [ends]
        self.ends = self.template.ends | set(listed)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        return self.template.ids(self.template.text(prompt.messages, ask=True))

    def generate(self, prompts: Sequence[Prompt], settings: Settings) -> list[Completion]:
        """Raises ConfigError naming the prompt that leaves no room for max_new_tokens in the model's positions."""
        rows = [self.prompt_ids(prompt) for prompt in prompts]
        for prompt, ids in zip(prompts, rows, strict=True):
            if not ids:
                raise ConfigError(f"{prompt.name}: its prompt has no token")
            if self.limit is not None and len(ids) + settings.max_new_tokens > self.limit:
                raise ConfigError(
                    f"{prompt.name}: its prompt has {len(ids):,} tokens, and max_new_tokens is "
                    f"{settings.max_new_tokens:,}, but the model takes {self.limit:,} in all: lower prompt_tokens (the "
                    f"context is then cut) or max_new_tokens, or leave the row out"
                )
        found: list[Completion | None] = [None] * len(rows)
        for batch in _batches([len(ids) for ids in rows], settings.max_new_tokens, self.tokens_per_batch):
            draws = [_draws(prompts[row], settings) for row in batch]
            try:
                written, first = self._write([rows[row] for row in batch], draws, settings)
            except torch.OutOfMemoryError as error:
                raise ConfigError(
                    f"{len(batch)} prompts of up to {len(rows[batch[0]]):,} tokens with {settings.max_new_tokens:,} "
                    f"new ones do not fit into the device's memory: lower tokens_per_batch (now "
                    f"{self.tokens_per_batch:,}), or set dtype: bfloat16"
                ) from error
            for row, tokens, likely in zip(batch, written, first, strict=True):
                found[row] = self._completion(len(rows[row]), tokens, likely)
        return [completion for completion in found if completion is not None]

    def _completion(self, prompt_tokens: int, tokens: list[int], first: dict[str, float] | None) -> Completion:
        finished = tokens[-1] in self.ends
        text = self.tokenizer.decode(tokens[:-1] if finished else tokens, skip_special_tokens=True)
        return Completion(text.strip(), prompt_tokens, len(tokens), finished, first)

    @torch.inference_mode()
    def _write(
        self, rows: Sequence[list[int]], draws: Sequence[np.random.Generator | None], settings: Settings
    ) -> tuple[list[list[int]], list[dict[str, float] | None]]:
        """The tokens of each row's answer, the end token last where there is one, and its likely first tokens."""
        run = _Uncached if isinstance(self.model, VirtualTokens) else _Cached
        steps = run(self.model, rows, self.tokenizer.pad_token_id or 0, self.device)
        written: list[list[int]] = [[] for _ in rows]
        kept = list(range(len(rows)))  # the rows that `steps` still computes; some of them may have ended
        ended: set[int] = set()
        logits = steps.first()
        first = self._likely(logits, settings.first_token_logprobs)
        while True:
            chosen = _choose(logits, [draws[row] for row in kept], settings)
            for row, token in zip(kept, chosen, strict=True):
                if row not in ended:
                    written[row].append(token)
                    if token in self.ends or len(written[row]) == settings.max_new_tokens:
                        ended.add(row)
            if len(ended) == len(rows):
                return written, first
            open_places = [place for place, row in enumerate(kept) if row not in ended]
            if 2 * len(open_places) <= len(kept):
                steps.keep(open_places)
                kept, chosen = [kept[place] for place in open_places], [chosen[place] for place in open_places]
            logits = steps.next(chosen)

    def _likely(self, logits: torch.Tensor, count: int) -> list[dict[str, float] | None]:
        """Of each row of logits (B, vocabulary) float32, `count` tokens as texts; those of one text count together."""
        if not count:
            return [None] * len(logits)
        tops = torch.log_softmax(logits, dim=-1).topk(count, dim=-1)
        found: list[dict[str, float] | None] = []
        for values, tokens in zip(tops.values.tolist(), tops.indices.tolist(), strict=True):
            likely: dict[str, float] = {}
            for value, token in zip(values, tokens, strict=True):
                text = self.tokenizer.decode([token])
                likely[text] = float(np.logaddexp(likely[text], value)) if text in likely else value
            found.append(likely)
        return found


def load_local(
    resolved: str,
    *,
    template: Literal["chat", "plain"],
    identity: str,
    device: torch.device,
    dtype: DType = "float32",
    tokens_per_batch: int | None = None,
    setting: str = "prompt",
) -> LocalModel:
    """A decoder from a model folder, an adapter's folder or a hub id.

    identity: the content of the model (`models.load.fingerprint`), for the cache. setting: where the user set the
    template, for errors. Raises ConfigError for what is no decoder.
    """
    tokenizer, limit = load_tokenizer_and_limit(resolved)
    model = load_trained_decoder(resolved, dtype, "write text")
    if not is_causal(model.config):
        raise ConfigError(
            f"model {resolved} cannot write text: it is no decoder with a causal mask (architectures: "
            f"{model.config.architectures}); choose one such as Llama, Mistral or Qwen"
        )
    return LocalModel(
        model=model.to(device),
        tokenizer=tokenizer,
        template=Template(tokenizer, template, setting),
        limit=limit,
        identity=f"{identity} {dtype} {template}",
        device=device,
        tokens_per_batch=tokens_per_batch or TOKENS_PER_BATCH[device.type != "cpu"],
    )


def _batches(lengths: Sequence[int], max_new_tokens: int, budget: int) -> list[list[int]]:
    """Rows in batches of falling length, so that what does not fit into memory fails first. A long row stands alone."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if batches and (len(batches[-1]) + 1) * (lengths[batches[-1][0]] + max_new_tokens) <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


# ---- choosing a token


def _draws(prompt: Prompt, settings: Settings) -> np.random.Generator | None:
    """The prompt's own uniform numbers; None when nothing is drawn."""
    if settings.temperature == 0:
        return None
    text = json.dumps([settings.seed, prompt.attempt, [dict(message) for message in prompt.messages]])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))


def _choose(logits: torch.Tensor, draws: Sequence[np.random.Generator | None], settings: Settings) -> list[int]:
    """A token for each row of logits (B, vocabulary) float32."""
    if settings.temperature == 0:
        return logits.argmax(dim=-1).tolist()
    probabilities = torch.softmax(logits.double() / settings.temperature, dim=-1)
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    ordered = ordered.masked_fill(before >= settings.top_p, 0.0)  # the first token always stays
    cumulated = ordered.cumsum(dim=-1)
    points = torch.tensor([draw.random() for draw in draws if draw is not None], dtype=torch.double)
    places = torch.searchsorted(cumulated, points[:, None].to(logits.device) * cumulated[:, -1:], right=True)
    last = (ordered > 0).sum(dim=-1, keepdim=True) - 1
    return tokens.gather(1, torch.minimum(places, last))[:, 0].tolist()


# ---- one token a step


class _Cached:
    """Keys and values of a left-padded batch are kept: a step runs one token of each row."""

    def __init__(self, model: Any, rows: Sequence[list[int]], pad_id: int, device: torch.device) -> None:
        longest = max(len(ids) for ids in rows)
        ids = [[pad_id] * (longest - len(row)) + row for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        self.model = model
        self.input_ids = torch.tensor(ids, device=device)
        self.mask = torch.tensor(mask, device=device)
        known = inspect.signature(model.forward).parameters
        self.takes_positions, self.takes_keep = "position_ids" in known, "logits_to_keep" in known
        self.past: Any = None

    def first(self) -> torch.Tensor:
        """(B, vocabulary) float32 logits of each row's next token."""
        return self._run(self.input_ids, (self.mask.cumsum(dim=1) - 1).clamp(min=0))

    def next(self, tokens: Sequence[int]) -> torch.Tensor:
        """As `first`, with `tokens` (B,) written."""
        positions = self.mask.sum(dim=1, keepdim=True)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        return self._run(torch.tensor(tokens, device=self.mask.device)[:, None], positions)

    def keep(self, places: Sequence[int]) -> None:
        """Only these rows go on."""
        chosen = torch.tensor(places, device=self.mask.device)
        self.mask = self.mask[chosen]
        self.past.batch_select_indices(chosen)

    def _run(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        options: dict[str, Any] = {"position_ids": positions} if self.takes_positions else {}
        if self.takes_keep:
            options["logits_to_keep"] = 1
        output = self.model(
            input_ids=input_ids, attention_mask=self.mask, past_key_values=self.past, use_cache=True, **options
        )
        self.past = output.past_key_values
        return output.logits[:, -1].float()


class _Uncached:
    """For virtual tokens (prompt and prefix tuning), which PEFT puts in front at every call: a step runs the whole of
    each row, padded on its right.
    """

    def __init__(self, model: Any, rows: Sequence[list[int]], pad_id: int, device: torch.device) -> None:
        self.model, self.pad_id, self.device = model, pad_id, device
        self.rows = [list(row) for row in rows]

    def first(self) -> torch.Tensor:
        longest = max(len(row) for row in self.rows)
        ids = torch.tensor([row + [self.pad_id] * (longest - len(row)) for row in self.rows], device=self.device)
        lengths = torch.tensor([len(row) for row in self.rows], device=self.device)
        mask = (torch.arange(longest, device=self.device)[None] < lengths[:, None]).long()
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits[torch.arange(len(self.rows), device=self.device), lengths - 1].float()

    def next(self, tokens: Sequence[int]) -> torch.Tensor:
        for row, token in zip(self.rows, tokens, strict=True):
            row.append(token)
        return self.first()

    def keep(self, places: Sequence[int]) -> None:
        self.rows = [self.rows[place] for place in places]
