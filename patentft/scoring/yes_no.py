"""Log-odds of yes over no by a decoder, from the last state alone: no row of logits is ever made.

1. prefixes that begin alike get a parent, read once (`plan.parents`);
2. suffixes are ordered by length and packed up to tokens_per_batch, over as many groups as it takes;
3. a batch's prefixes that are not held yet are read, those that it does not need are let go;
4. the suffixes are read on top of them, and the state of each one's last token goes to the head:

    log-odds = h (w_yes - w_no), or logsumexp(h W_yes) - logsumexp(h W_no) for several spellings, in fp32

The same groups in the same order give the same bits on the same machine; another order, grouping or budget moves a
score in its last digits. Where memory does not suffice, the budget is halved and what is left goes on with that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from patentft.config import ConfigError
from patentft.models.load import DType, load_tokenizer_and_limit, load_trained_decoder
from patentft.scoring.plan import Piece, batches, parents
from patentft.scoring.prefix_cache import Prefix, PrefixDecoder, unwrapped
from patentft.scoring.prompt import AnswerTokens, PairPrompter, Prompts, ScorePrompt
from patentft.scoring.scorer import padded_batches

Floats = npt.NDArray[np.float32]
TOKENS_PER_BATCH = {False: 2048, True: 32768}
"""On a CPU (False), whose caches it should not leave, and on a GPU (True)."""
PROBE = (5, 7, 11, 13)
"""Token ids of the text with which the head is compared with the model's own."""


class YesNoHead:
    """(n, hidden size) last states -> (n,) float32 log-odds.

    Raises ConfigError where the model does more to its logits than this does, and for an output layer that is adapted
    or quantized.
    """

    def __init__(self, model: Any, answers: AnswerTokens) -> None:
        layer = model.get_output_embeddings()
        if type(layer) is not nn.Linear:
            raise ConfigError(
                f"the model's output layer is a {type(layer).__name__}: merge the adapter into the weights, or leave "
                f"this layer out of the adapter and of the quantization"
            )
        rows = torch.tensor([*answers.yes, *answers.no], device=layer.weight.device)
        self.weight = layer.weight[rows].float()  # (yes + no, hidden size)
        self.bias = layer.bias[rows].float() if layer.bias is not None else None
        self.cap = getattr(model.config, "final_logit_softcapping", None)
        self.num_yes = len(answers.yes)
        self._compare(model, answers)

    @torch.inference_mode()
    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        if len(self.weight) == 2 and self.cap is None:  # one product, without the rounding of two large logits
            odds = states.float() @ (self.weight[0] - self.weight[1])
            return odds if self.bias is None else odds + (self.bias[0] - self.bias[1])
        logits = nn.functional.linear(states.float(), self.weight, self.bias)
        if self.cap is not None:
            logits = self.cap * torch.tanh(logits / self.cap)
        return logits[:, : self.num_yes].logsumexp(dim=1) - logits[:, self.num_yes :].logsumexp(dim=1)

    @torch.inference_mode()
    def _compare(self, model: Any, answers: AnswerTokens) -> None:
        """With the model's own logits, of a few tokens: scales and the like after the output layer would show."""
        ids = torch.tensor([PROBE], device=self.weight.device) % model.config.vocab_size
        output = model(input_ids=ids, use_cache=False, output_hidden_states=True)
        logits = output.logits[0, -1].float()
        theirs = logits[list(answers.yes)].logsumexp(0) - logits[list(answers.no)].logsumexp(0)
        ours = self(output.hidden_states[-1][0, -1:])[0]
        room = 1e-4 if model.dtype == torch.float32 else 0.02
        if abs(float(ours - theirs)) > room * max(1.0, float(logits.abs().max())):
            raise ConfigError(
                f"a model of type {model.config.model_type!r} does more to its logits than its output layer does (its "
                f"log-odds are {float(theirs):.4f}, the head's {float(ours):.4f}): choose another model"
            )


@dataclass
class YesNoScorer:
    """Scores prompts by a decoder on one device.

    share_prefix False: every prompt whole, padded, by the model's own attention; the same scores, for models of which
    prefixes cannot be shared. `counts` says what was read.
    """

    model: Any
    answers: AnswerTokens
    tokens_per_batch: int
    share_prefix: bool = True
    pad_id: int = 0

    def __post_init__(self) -> None:
        self.model = unwrapped(self.model)
        self.decoder = PrefixDecoder(self.model) if self.share_prefix else None
        self.head = YesNoHead(self.model, self.answers)
        self.counts = {"prefix_tokens": 0, "suffix_tokens": 0, "unshared_tokens": 0, "batches": 0, "halved": 0}

    def log_odds(self, groups: Sequence[Prompts]) -> list[Floats]:
        """(prompts of the group,) float32 for each group, in the order given.

        Raises ConfigError when one prompt alone does not fit into memory.
        """
        lengths = [[len(suffix) for suffix in group.suffixes] for group in groups]
        self.counts["unshared_tokens"] += sum(
            sum(each) + len(each) * len(group.prefix) for each, group in zip(lengths, groups, strict=True)
        )
        if self.decoder is None:
            return self._unshared(groups)
        orders = [np.argsort(each, kind="stable").tolist() for each in lengths]
        found = [np.empty(len(each), dtype=np.float32) for each in lengths]
        runs = parents([group.prefix for group in groups])
        for start, stop, tokens in _joined(runs):
            sorted_groups = [
                Prompts(groups[place].prefix[tokens:], [groups[place].suffixes[row] for row in orders[place]])
                for place in range(start, stop)
            ]
            scores = self._on_parent(groups[start].prefix[:tokens], sorted_groups)
            for place, score in zip(range(start, stop), scores, strict=True):
                found[place][orders[place]] = score
        return found

    def _on_parent(self, parent_ids: list[int], groups: Sequence[Prompts]) -> list[Floats]:
        """Scores of the suffixes in order. Every prefix stands on the parent, if there is one."""
        assert self.decoder is not None
        lengths = [[len(suffix) for suffix in group.suffixes] for group in groups]
        prefix_tokens = [len(group.prefix) for group in groups]
        found: list[list[float]] = [[] for _ in groups]
        parent: Prefix | None = None
        held: dict[int, Prefix] = {}
        while True:
            done = [len(each) for each in found]
            left = [each[first:] for each, first in zip(lengths, done, strict=True)]
            try:
                if parent is None and parent_ids:
                    parent = self._read([parent_ids], None)[0]
                for batch in batches(left, prefix_tokens, self.tokens_per_batch, self.tokens_per_batch):
                    pieces = [Piece(p.group, p.start + done[p.group], p.stop + done[p.group]) for p in batch]
                    held = {piece.group: held[piece.group] for piece in pieces if piece.group in held}
                    new = [piece.group for piece in pieces if piece.group not in held]
                    read = self._read([groups[group].prefix for group in new], parent)
                    held |= zip(new, read, strict=True)
                    del read  # `held` alone decides what is let go
                    scores = self._scores(pieces, groups, held)
                    for piece in pieces:
                        count = piece.stop - piece.start
                        found[piece.group] += scores[:count]
                        scores = scores[count:]
                return [np.asarray(each, dtype=np.float32) for each in found]
            except (RuntimeError, MemoryError) as error:
                self._halve(error)
            held = {}  # outside of `except`, whose error holds on to the tensors of the failed call

    def _read(self, texts: Sequence[list[int]], parent: Prefix | None) -> list[Prefix]:
        """The prefixes of `texts`, as many in a call as fit into a batch."""
        assert self.decoder is not None
        found: list[Prefix] = []
        for batch in batches([[len(text) for text in texts]], [0], self.tokens_per_batch, 0):
            chosen = texts[batch[0].start : batch[0].stop]
            found += self.decoder.prefixes(chosen, [parent] * len(chosen))
            self.counts["prefix_tokens"] += sum(len(text) for text in chosen)
        return found

    def _scores(self, pieces: Sequence[Piece], groups: Sequence[Prompts], held: dict[int, Prefix]) -> list[float]:
        assert self.decoder is not None
        texts = [text for piece in pieces for text in groups[piece.group].suffixes[piece.start : piece.stop]]
        under = [held[piece.group] for piece in pieces for _ in range(piece.start, piece.stop)]
        states = self.decoder.last_states(texts, under)
        self.counts["suffix_tokens"] += sum(len(text) for text in texts)
        self.counts["batches"] += 1
        return self.head(states).tolist()

    @torch.inference_mode()
    def _unshared(self, groups: Sequence[Prompts]) -> list[Floats]:
        texts = [group.prefix + suffix for group in groups for suffix in group.suffixes]
        lengths = [len(text) for text in texts]
        order: list[int] = np.argsort(lengths, kind="stable").tolist()
        found = np.empty(len(texts), dtype=np.float32)
        decoder, device = self.model.get_decoder(), self.head.weight.device
        while order:
            try:
                for batch in padded_batches(order, lengths, self.tokens_per_batch):
                    longest = lengths[batch[-1]]
                    ids = [texts[row] + [self.pad_id] * (longest - lengths[row]) for row in batch]
                    last = torch.tensor([lengths[row] - 1 for row in batch], device=device)
                    mask = (torch.arange(longest, device=device) <= last[:, None]).long()
                    states = decoder(
                        input_ids=torch.tensor(ids, device=device), attention_mask=mask, use_cache=False
                    ).last_hidden_state
                    found[batch] = self.head(states[torch.arange(len(batch), device=device), last]).cpu().numpy()
                    self.counts["suffix_tokens"] += longest * len(batch)
                    self.counts["batches"] += 1
                    order = order[len(batch) :]
            except (RuntimeError, MemoryError) as error:
                self._halve(error)
        ends = np.cumsum([len(group.suffixes) for group in groups])
        return np.split(found, ends[:-1])

    def _halve(self, error: BaseException) -> None:
        """Half the budget, when memory was what lacked; any other error is raised again."""
        if not _out_of_memory(error):
            raise error
        if self.tokens_per_batch < 2:
            raise ConfigError(
                "one prompt alone does not fit into the device's memory: hold the model in fewer bits (dtype: "
                "bfloat16, or a quantized export), or shorten the prompts"
            ) from error
        self.tokens_per_batch //= 2
        self.counts["halved"] += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _joined(runs: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Neighbouring runs without a parent as one: their prefixes and suffixes may share a batch."""
    found: list[tuple[int, int, int]] = []
    for start, stop, tokens in runs:
        if found and tokens == 0 == found[-1][2]:
            found[-1] = (found[-1][0], stop, 0)
        else:
            found.append((start, stop, tokens))
    return found


def _out_of_memory(error: BaseException) -> bool:
    """Also on a CPU, whose allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Of a batch, at most: the activations of a layer, and the keys and values of every layer for a prefix.

    Ten copies of the hidden state (residual, norm, products, and what fp32 makes of them), three of the feed-forward
    layer's, three of the queries.
    """
    size = torch.empty((), dtype=dtype).element_size()
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * head_size
    return size * (10 * config.hidden_size + 3 * config.intermediate_size + 3 * heads * head_size + kept)


def tokens_that_fit(config: Any, dtype: torch.dtype, limit_bytes: float, most: int) -> int:
    """A batch's tokens under a memory limit for everything but the weights: at most `most`, at least 1."""
    return max(1, min(most, int(limit_bytes / bytes_per_token(config, dtype))))


def load_yes_no(
    resolved: str,
    prompt: ScorePrompt,
    *,
    device: torch.device,
    dtype: DType = "float32",
    tokens_per_batch: int | None = None,
    memory_limit_gib: float | None = None,
    share_prefix: bool = True,
    setting: str = "prompt",
) -> tuple[YesNoScorer, PairPrompter]:
    """A scorer and the prompts for it, from a model folder, an adapter's folder or a hub id.

    tokens_per_batch: unset, TOKENS_PER_BATCH, or fewer where they would not fit into memory_limit_gib beside the
    weights. Raises ConfigError for what is no decoder, and for prompts that its tokenizer cannot ask.
    """
    tokenizer, limit = load_tokenizer_and_limit(resolved)
    if limit is not None and prompt.max_tokens > limit:
        raise ConfigError(f"{setting}.max_tokens is {prompt.max_tokens:,}, but the model takes {limit:,}: lower it")
    prompter = PairPrompter(tokenizer, prompt, setting)
    model = load_trained_decoder(resolved, dtype, "answer yes or no")
    tokens = tokens_per_batch or TOKENS_PER_BATCH[device.type != "cpu"]
    if memory_limit_gib is not None:
        tokens = tokens_that_fit(model.config, model.dtype, memory_limit_gib * 2**30, tokens)
    pad_id = prompter.tokenizer.pad_token_id or 0
    return YesNoScorer(model.to(device), prompter.answers, tokens, share_prefix, pad_id), prompter
