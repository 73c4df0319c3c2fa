"""Bi-encoder: a query and its text should have a higher cosine than either has with the others of the step.

    pairs         query = the technique's section, text = the matched patent; negatives of PAIRS (near misses) may join
    preferences   query = the question, text = the chosen answer, negative = the rejected one (triples)
    plain         query and text are the same text under two draws of dropout (SimCSE: Gao et al. 2021, 2104.08821)

The way of a step: every match of every rank and micro-batch -> embedded -> cosines / temperature over all of them ->
cross-entropy in both directions (InfoNCE: van den Oord et al. 2018, arXiv:1807.03748). A text that is a known match of
the query, or of a technique too like the query's (SIMILAR), is masked: unknown is not No. A near miss is seen by the
technique that it was drawn for only, a rejected answer by every question.

Memory holds the activations of one micro-batch, however large the step (gradient cache: Gao et al. 2021,
arXiv:2101.06983): embed everything without a graph, take the loss and its gradient by the embeddings, then embed each
micro-batch again, with the same dropout, and go back from the cached gradient. Cost: one more forward; a step of one
micro-batch a rank keeps its graph instead. Neither micro-batches nor ranks change the gradient.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from patentft.config import Config, ConfigError
from patentft.models.adapters.task import Task
from patentft.models.backbone import Loading, load_backbone
from patentft.models.export import Card
from patentft.models.pool import pool
from patentft.objectives.encoded import Encoded, SpecialTokens, Unit, pad, tokenized
from patentft.objectives.texts import PairTexts, PlainTexts, PreferenceTexts

INPUTS = ("pairs", "preferences", "plain")
MODELS = "any"
TASK = "encoder"
METRIC = "mrr"
UNITS_PER_BATCH = None
SCOPE = "step"
BUCKETED = False
"""The matches of a step are each other's negatives: drawn at random, since texts of one length are of one kind."""

ELEMENTS = 2**24
"""Cosines that are held at a time: the matrix of a step, or of the valid side, is gone through in pieces."""
UNIFORMITY_TEXTS = 4096


class ContrastiveConfig(Config):
    """What a match looks like and how its loss is made."""

    kind: Literal["contrastive"] = "contrastive"
    section_tokens: int = 192
    """Longest query: the technique's section, the question."""
    patent_tokens: int = 192
    """Longest text: the patent, the answer; of plain texts both sides."""
    temperature: float = Field(default=0.05, gt=0)
    symmetric: bool = True
    """Whether a text must also find its query among the step's queries; else queries find texts only."""
    pooling: Literal["mean", "cls", "last"] = "mean"
    """How token states become a vector; must be that of the embed stages that will use the model."""
    near_negatives: bool = False
    """For pairs: whether the negatives of the pairs stage join their technique's row."""
    matryoshka_dims: list[int] = []
    """The loss is the mean over the vector cut to each of these lengths and brought to unit length again (Kusupati et
    al. 2022, arXiv:2205.13147). Unset: the whole vector; list its length to keep it among them."""


def build(folder: str, config: ContrastiveConfig, loading: Loading) -> nn.Module:
    """The encoder without a head."""
    from transformers import AutoModel

    return load_backbone(folder, AutoModel, loading)


def task(model: nn.Module, config: ContrastiveConfig) -> Task:
    return Task("encoder")


# Data


@dataclass(frozen=True)
class _Matches:
    """Rows of (query, text): label 1 a match, 0 a negative of the matches of its group."""

    queries: Sequence[str]
    texts: Sequence[str]
    query_names: Sequence[str]  # rows of one name are the same query: their texts are never each other's negatives
    text_names: Sequence[str]
    label: Sequence[int]
    group: Sequence[int]
    similar: frozenset[tuple[str, str]] = frozenset()


def _matches(texts: PairTexts | PreferenceTexts | PlainTexts) -> _Matches:
    if isinstance(texts, PairTexts):
        named = (texts.technique_ids, texts.patent_ids)
        return _Matches(texts.sections, texts.patents, *named, texts.label, texts.group, texts.similar)
    if isinstance(texts, PlainTexts):
        return _Matches(texts.texts, texts.texts, texts.texts, texts.texts, [1] * len(texts.texts), range(0))
    questions = [question for question in texts.questions for _ in range(2)]
    answers = [answer for both in zip(texts.chosen, texts.rejected, strict=True) for answer in both]
    count = len(texts.questions)
    group = [number for number in range(count) for _ in range(2)]
    return _Matches(questions, answers, questions, answers, [1, 0] * count, group)


def encode(
    texts: PairTexts | PreferenceTexts | PlainTexts, tokenizer: Any, config: ContrastiveConfig
) -> tuple[Encoded, dict[str, int]]:
    """Token ids of both sides of every row that is learned from, and for each text the queries that it must not be a
    negative of. Counts: matches, negatives, how many queries and texts were cut, contexts that are not used.

    Raises ConfigError for near_negatives without pairs, and for a side without a match.
    """
    if config.near_negatives and not isinstance(texts, PairTexts):
        raise ConfigError("objective.near_negatives is for pairs; leave it out (rejected answers always count)")
    given = _matches(texts)
    label = np.asarray(given.label, dtype=np.int8)
    use_negatives = config.near_negatives or isinstance(texts, PreferenceTexts)
    rows = np.arange(len(label)) if use_negatives else np.flatnonzero(label == 1)
    if not (label == 1).any():
        raise ConfigError("objective contrastive: there is no match (label 1) to learn from")
    encoded, counts = Encoded(), {}
    encoded.arrays["label"] = label[rows]
    counts["matches"], counts["negatives"] = int((label[rows] == 1).sum()), int((label[rows] == 0).sum())
    if not isinstance(texts, PlainTexts):  # a plain text is its own query
        queries = [given.queries[row] for row in rows.tolist() if label[row]]
        ids, counts["queries_cut"] = tokenized(queries, tokenizer, config.section_tokens)
        of_match = iter(ids)
        encoded.put_ragged("query", [next(of_match) if label[row] else [] for row in rows.tolist()])
    ids, counts["texts_cut"] = tokenized([given.texts[row] for row in rows.tolist()], tokenizer, config.patent_tokens)
    encoded.put_ragged("text", ids)
    encoded.arrays["group"] = np.asarray(given.group, dtype=np.int64)[rows] if len(given.group) else rows
    # a near miss was checked against its own technique only, so no other may take it for a negative
    private = isinstance(texts, PairTexts)
    encoded.arrays["owner"] = np.where((encoded["label"] == 0) & private, encoded["group"], -1)
    _put_numbers(encoded, given, rows)
    if isinstance(texts, PreferenceTexts):
        counts["contexts_not_used"] = sum(context is not None for context in texts.contexts)
    return encoded, counts


def _put_numbers(encoded: Encoded, given: _Matches, rows: npt.NDArray[np.int64]) -> None:
    """query_number, text_number of the rows; excluded: by text number, the query numbers it must not be a negative
    of: those it is a match of, and those like them."""
    queries = {name: index for index, name in enumerate(dict.fromkeys(given.query_names))}
    texts = {name: index for index, name in enumerate(dict.fromkeys(given.text_names))}
    like: dict[int, set[int]] = {}
    for name, other in given.similar:
        if name in queries and other in queries:
            like.setdefault(queries[name], set()).add(queries[other])
    query = np.array([queries[name] for name in given.query_names], dtype=np.int64)
    text = np.array([texts[name] for name in given.text_names], dtype=np.int64)
    excluded: list[set[int]] = [set() for _ in texts]
    # over all rows, those that are not learned from included: a match is a match
    for number, place, label in zip(query.tolist(), text.tolist(), given.label, strict=True):
        if label:
            excluded[place].add(number)
            excluded[place].update(like.get(number, ()))
    encoded.arrays["query_number"], encoded.arrays["text_number"] = query[rows], text[rows]
    encoded.put_ragged("excluded", [sorted(numbers) for numbers in excluded])


def units(encoded: Encoded, config: ContrastiveConfig, epoch: int, seed: int) -> list[Unit]:
    """A unit is a match with its negatives. The same in every epoch: the plan draws who meets whom."""
    texts = encoded.lengths("text")
    queries = encoded.lengths("query") if "query" in encoded.arrays else texts
    negatives: dict[int, list[int]] = {}
    for row in np.flatnonzero(encoded["label"] == 0).tolist():
        negatives.setdefault(int(encoded["group"][row]), []).append(row)
    found = []
    for row in np.flatnonzero(encoded["label"] == 1).tolist():
        rows = (row, *negatives.get(int(encoded["group"][row]), ()))
        found.append(Unit(rows, int(queries[row] + len(rows) * max(texts[each] for each in rows))))
    return found


def collate(encoded: Encoded, chosen: Sequence[Unit], tokens: SpecialTokens) -> dict[str, torch.Tensor]:
    """S matches, then their E negatives; everything int64.

    query_ids, query_mask (S, T); text_ids, text_mask (S + E, T'): the matches' texts, in order, then the negatives.
    query_number, query_group (S,); owner (S + E,): the group that alone sees the text, -1 for all. excluded (X, 2):
    (row of text_ids, a query number that it is no negative of). drawn_twice (1,) if queries and texts are the same.
    """
    matches = [unit.rows[0] for unit in chosen]
    columns = matches + [row for unit in chosen for row in unit.rows[1:]]
    text = pad([encoded.row("text", row) for row in columns], tokens.pad)
    same = "query" not in encoded.arrays
    query = text if same else pad([encoded.row("query", row) for row in matches], tokens.pad)
    excluded = [
        (column, number)
        for column, row in enumerate(columns)
        for number in encoded.row("excluded", int(encoded["text_number"][row])).tolist()
    ]
    batch = {
        "query_ids": query["input_ids"],
        "query_mask": query["attention_mask"],
        "text_ids": text["input_ids"],
        "text_mask": text["attention_mask"],
        "query_number": torch.from_numpy(encoded["query_number"][matches]),
        "query_group": torch.from_numpy(encoded["group"][matches]),
        "owner": torch.from_numpy(encoded["owner"][columns]),
        "excluded": torch.tensor(excluded, dtype=torch.int64).reshape(-1, 2),
    }
    return batch | ({"drawn_twice": torch.ones(1, dtype=torch.int64)} if same else {})


def weight(batch: Mapping[str, torch.Tensor], config: ContrastiveConfig) -> float:
    """A match counts 1."""
    return float(len(batch["query_ids"]))


# Model


class BiEncoder(nn.Module):
    """Encoder, pooling, unit length."""

    def __init__(self, encoder: nn.Module, pooling: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        plain = encoder.get_base_model() if hasattr(encoder, "get_base_model") else encoder  # type: ignore[operator]
        # a decoder would keep keys and values that nothing reads
        self.extra = {"use_cache": False} if "use_cache" in inspect.signature(plain.forward).parameters else {}  # type: ignore[union-attr]

    def embed(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T) ids -> (B, dim) float32 of unit length."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask, **self.extra).last_hidden_state
        hidden = hidden[:, hidden.shape[1] - mask.shape[1] :]  # virtual tokens of prompt tuning come first: not pooled
        return functional.normalize(pool(hidden, mask, self.pooling).float(), dim=-1)  # type: ignore[arg-type]

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(S + P, dim): the batch's queries, then its texts."""
        queries = self.embed(batch["query_ids"], batch["query_mask"])
        return torch.cat([queries, self.embed(batch["text_ids"], batch["text_mask"])])


def wrap(backbone: nn.Module, config: ContrastiveConfig) -> nn.Module:
    """BERT's own pooler is not used, so neither it nor an adapter in it is trained: DDP would wait for its gradient.

    Raises ConfigError for a matryoshka length that is longer than the model's vector.
    """
    for name, parameter in backbone.named_parameters():
        if "pooler." in name:
            parameter.requires_grad_(False)
    size = int(backbone.config.hidden_size)  # type: ignore[union-attr,arg-type]
    wrong = [dim for dim in config.matryoshka_dims if not 1 <= dim <= size]
    if wrong:
        raise ConfigError(f"objective.matryoshka_dims holds {wrong[0]}: the model's vectors have {size} dimensions")
    return BiEncoder(backbone, config.pooling)


def backbone(module: nn.Module) -> nn.Module:
    """The transformers (or PEFT) model inside."""
    assert isinstance(module, BiEncoder)
    return module.encoder


def parameter_groups(
    module: nn.Module, lr: float, weight_decay: float, config: ContrastiveConfig
) -> list[dict[str, Any]]:
    return [{"params": [p for p in module.parameters() if p.requires_grad], "lr": lr, "weight_decay": weight_decay}]


# Loss


@dataclass(frozen=True)
class Block:
    """Who may be whose negative among S queries and P texts; the match of query i is text i."""

    query_number: torch.Tensor  # (S,) int64
    query_group: torch.Tensor  # (S,) int64
    owner: torch.Tensor  # (P,) int64
    excluded: torch.Tensor  # (X, 2) int64: (text, query number)

    def allowed(self, rows: slice, columns: slice) -> torch.Tensor:
        """(rows, columns) bool: whether the text counts for the query, as its match or as a negative."""
        numbers, place = self.query_number[rows].unique(return_inverse=True)
        owner = self.owner[columns]
        column = self.excluded[:, 0] - columns.start
        at = torch.searchsorted(numbers, self.excluded[:, 1].contiguous()).clamp(max=len(numbers) - 1)
        hit = (column >= 0) & (column < len(owner)) & (numbers[at] == self.excluded[:, 1])
        seen = torch.ones(len(numbers), len(owner), dtype=torch.bool, device=owner.device)
        seen[at[hit], column[hit]] = False
        seen = seen[place] & ((owner < 0) | (owner == self.query_group[rows, None]))
        index = torch.arange(rows.start, rows.start + len(place), device=owner.device) - columns.start
        own = (index >= 0) & (index < len(owner))
        seen[own.nonzero().squeeze(1), index[own]] = True
        return seen


def block_loss(
    queries: torch.Tensor, texts: torch.Tensor, block: Block, config: ContrastiveConfig
) -> Iterator[torch.Tensor]:
    """The loss summed over matches, in pieces (scalars) to be added: each has a graph of its own from the vectors.

    queries (S, dim), texts (P, dim) of unit length, P >= S. Memory: ELEMENTS cosines and their gradients.
    """
    matches = len(queries)
    dims = config.matryoshka_dims or [queries.shape[1]]
    share = (0.5 if config.symmetric else 1.0) / len(dims)
    for dim in dims:
        for rows in _pieces(matches, len(texts)):
            logits = cut(queries[rows], dim) @ cut(texts, dim).T / config.temperature
            yield share * _cross_entropy(logits, block.allowed(rows, slice(0, len(texts))), rows)
        for columns in _pieces(matches, matches) if config.symmetric else ():
            logits = cut(texts[columns], dim) @ cut(queries, dim).T / config.temperature
            yield share * _cross_entropy(logits, block.allowed(slice(0, matches), columns).T, columns)


def cut(vectors: torch.Tensor, dim: int) -> torch.Tensor:
    """(N, D) of unit length -> the first `dim` numbers of each, of unit length again."""
    return vectors if dim == vectors.shape[1] else functional.normalize(vectors[:, :dim], dim=-1)


def _pieces(rows: int, columns: int) -> list[slice]:
    """The rows of a matrix, so many at a time that no piece has more than ELEMENTS elements (or one row)."""
    size = max(1, ELEMENTS // max(columns, 1))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _cross_entropy(logits: torch.Tensor, allowed: torch.Tensor, places: slice) -> torch.Tensor:
    target = torch.arange(places.start, places.stop, device=logits.device)
    return functional.cross_entropy(torch.where(allowed, logits, -torch.inf), target, reduction="sum")


QUERY, MATCH, NEGATIVE = 0, 1, 2


def _described(batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """What is known of the vectors that the model makes of a batch, in their order, as int64.

    rows (S + P, 3): QUERY, MATCH or NEGATIVE; query number; group (of a text: its owner). excluded (X, 2): (row, query
    number).
    """
    matches, texts = len(batch["query_ids"]), len(batch["text_ids"])
    kind = batch["owner"].new_full((matches + texts,), NEGATIVE)
    kind[: 2 * matches] = MATCH
    kind[:matches] = QUERY
    number = torch.cat([batch["query_number"], torch.zeros_like(batch["owner"])])
    rows = torch.stack([kind, number, torch.cat([batch["query_group"], batch["owner"]])], dim=1)
    return rows, batch["excluded"] + batch["excluded"].new_tensor([matches, 0])


def _joined(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Several (rows, excluded) as one."""
    starts = np.cumsum([0, *(len(rows) for rows, _ in parts)]).tolist()
    shifted = [
        excluded + excluded.new_tensor([start, 0]) for (_, excluded), start in zip(parts, starts[:-1], strict=True)
    ]
    return torch.cat([rows for rows, _ in parts]), torch.cat(shifted)


def _block(rows: torch.Tensor, excluded: torch.Tensor) -> tuple[Block, torch.Tensor, torch.Tensor]:
    """(block, which rows are its queries (S,), which its texts (P,): matches first)."""
    query, match, negative = ((rows[:, 0] == kind).nonzero().squeeze(1) for kind in (QUERY, MATCH, NEGATIVE))
    text = torch.cat([match, negative])
    column = torch.empty_like(rows[:, 0])
    column[text] = torch.arange(len(text), device=rows.device)
    pairs = torch.stack([column[excluded[:, 0]], excluded[:, 1]], dim=1)
    return Block(rows[query, 1], rows[query, 2], rows[text, 2], pairs), query, text


class Across(Protocol):
    """`train.across.Across`."""

    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def share(self) -> float: ...
    def gather(self, tensor: torch.Tensor, /) -> list[torch.Tensor]: ...
    def around(self, last: bool, /) -> AbstractContextManager: ...
    def backward(self, loss: torch.Tensor, last: bool, /) -> None: ...


def step(
    model: nn.Module,
    batches: Sequence[Mapping[str, torch.Tensor]],
    config: ContrastiveConfig,
    total: float,
    across: Across,
) -> float:
    """Add the gradient of (the loss summed over the matches of the step, all ranks) / total; returns that mean loss.

    batches: this rank's, at least one. Every rank makes as many passes as the rank with most micro-batches, the missing
    ones without effect: where a pass is a collective (FSDP, ZeRO-3), a rank that made fewer would stop the others.
    Raises ConfigError when queries and texts are the same and the model has no dropout to tell them apart.
    """
    if "drawn_twice" in batches[0] and not has_dropout(model):
        raise ConfigError(
            "objective contrastive learns from single texts by two draws of dropout, and every dropout rate of the "
            "model is 0: set dropout (such as 0.1)"
        )
    device = batches[0]["query_ids"].device
    num_passes = max(int(number) for number in across.gather(torch.tensor([len(batches)], device=device)))
    if num_passes == 1:
        with across.around(True):
            vectors = model(batches[0])
            loss, gradient = _cached([vectors], batches, config, total, across)
            across.backward((vectors * gradient[0]).sum() * across.world_size, True)
        return loss
    smallest = min(batches, key=lambda batch: batch["query_ids"].numel() + batch["text_ids"].numel())
    passes = [*batches, *[smallest] * (num_passes - len(batches))]
    states, found = [], []
    for batch in passes:
        states.append(_random_state(device))
        with torch.no_grad():
            found.append(model(batch))
    loss, gradients = _cached(found[: len(batches)], batches, config, total, across)
    gradients += [torch.zeros_like(vectors) for vectors in found[len(batches) :]]
    for number, (batch, state, gradient) in enumerate(zip(passes, states, gradients, strict=True)):
        last = number == num_passes - 1
        with across.around(last):
            _set_random_state(device, state)
            across.backward((model(batch) * gradient).sum() * across.world_size, last)
    return loss


def _cached(
    found: Sequence[torch.Tensor],
    batches: Sequence[Mapping[str, torch.Tensor]],
    config: ContrastiveConfig,
    total: float,
    across: Across,
) -> tuple[float, list[torch.Tensor]]:
    """(mean loss of the step, its gradient by the vectors of each of this rank's batches). A collective."""
    rows, excluded = _joined([_described(batch) for batch in batches])
    own = torch.cat([vectors.detach() for vectors in found])
    if across.share == 0:
        own, rows, excluded = own[:0], rows[:0], excluded[:0]
    ranks = list(zip(across.gather(rows), across.gather(excluded), strict=True))
    start = sum(len(of_rank) for of_rank, _ in ranks[: across.rank])
    vectors = torch.cat(across.gather(own))
    block, query, text = _block(*_joined(ranks))
    queries, texts = vectors[query].requires_grad_(), vectors[text].requires_grad_()
    loss = 0.0
    # cosines over a small temperature need fp32 whatever the model computes in
    with torch.enable_grad(), torch.autocast(vectors.device.type, enabled=False):
        for piece in block_loss(queries, texts, block, config):
            (piece / total).backward()
            loss += float(piece.detach())
    gradient = torch.zeros_like(vectors)
    gradient[query], gradient[text] = queries.grad, texts.grad  # type: ignore[assignment]
    if across.share == 0:
        return loss / total, [torch.zeros_like(each) for each in found]
    return loss / total, list(gradient[start : start + len(own)].split([len(each) for each in found]))


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: tuple[torch.Tensor, torch.Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def has_dropout(model: nn.Module) -> bool:
    """Whether any dropout rate of the model is above 0: of its layers, or in a transformers configuration inside."""
    for module in model.modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            return True
        config = getattr(module, "config", None)
        for name, value in vars(config).items() if hasattr(config, "__dict__") else ():
            # the rate of a head is in every configuration, and there is no head here
            if "dropout" in name and not name.startswith("classifier") and isinstance(value, float) and value > 0:
                return True
    return False


# The valid side


@torch.inference_mode()
def predict(module: nn.Module, batch: Mapping[str, torch.Tensor], config: ContrastiveConfig) -> dict[str, npt.NDArray]:
    """For `metrics`: the batch's vectors (S + P, dim) float32, and what `_described` says of them.

    Plain texts keep their dropout here too, drawn from a fixed seed: without, a text and itself are always nearest.
    """
    if "drawn_twice" in batch:
        device = batch["query_ids"].device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            training = module.training
            module.train()
            vectors = module(batch)
            module.train(training)
    else:
        vectors = module(batch)
    rows, excluded = _described(batch)
    return {
        "vectors": vectors.float().cpu().numpy(),
        "rows": rows.cpu().numpy(),
        "excluded": excluded.cpu().numpy(),
    }


@torch.inference_mode()
def metrics(parts: Sequence[Mapping[str, npt.NDArray]], config: ContrastiveConfig) -> dict[str, float]:
    """Of the valid side as one block, so harder the more matches it has; near misses are among the texts.

    mrr, recall_at_1, _5, _20: of each query's match among all texts that count for it, equal cosines sharing their mean
    rank; mrr.<dim> at each matryoshka length. loss: as learned, over this block. alignment: mean squared distance of a
    query and its match; uniformity: log mean exp(-2 squared distance) of two different texts, of 4,096 of them at most
    (Wang & Isola 2020, arXiv:2005.10242, lower is better for both).
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vectors = torch.from_numpy(np.concatenate([part["vectors"] for part in parts])).to(device)
    described = [(torch.from_numpy(part["rows"]), torch.from_numpy(part["excluded"])) for part in parts]
    rows, excluded = (joined.to(device) for joined in _joined(described))
    block, query, text = _block(rows, excluded)
    queries, texts = vectors[query], vectors[text]
    size = vectors.shape[1]
    learned = config.matryoshka_dims or [size]
    with torch.autocast(device.type, enabled=False):
        found = {dim: _ranked(cut(queries, dim), cut(texts, dim), block, config) for dim in {size, *learned}}
        rank = found[size][0]
        return {
            METRIC: float((1 / rank).mean()),
            **{f"recall_at_{k}": float((rank <= k).double().mean()) for k in (1, 5, 20)},
            **{f"{METRIC}.{dim}": float((1 / found[dim][0]).mean()) for dim in config.matryoshka_dims},
            "loss": float(np.mean([found[dim][1] for dim in learned])),
            "alignment": float((queries - texts[: len(queries)]).square().sum(dim=1).mean()),
            "uniformity": _uniformity(texts),
        }


def _ranked(
    queries: torch.Tensor, texts: torch.Tensor, block: Block, config: ContrastiveConfig
) -> tuple[torch.Tensor, float]:
    """(rank from 1 of each query's match (S,) float64, mean loss); the matrix is made once, in pieces."""
    matches = len(queries)
    ranks, own = [], []
    over_texts = 0.0
    over_queries = queries.new_full((matches,), -torch.inf)  # log of the sum over the queries seen so far
    for piece in _pieces(matches, len(texts)):
        cosines = queries[piece] @ texts.T
        allowed = block.allowed(piece, slice(0, len(texts)))
        shown = torch.where(allowed, cosines, -torch.inf)
        mine = cosines[torch.arange(len(cosines)), torch.arange(piece.start, piece.stop)]
        above, equal = (shown > mine[:, None]).sum(dim=1), (shown == mine[:, None]).sum(dim=1)
        ranks.append(above.double() + (equal.double() + 1) / 2)
        logits = shown / config.temperature
        own.append(mine / config.temperature)
        over_texts += float((logits.logsumexp(dim=1) - own[-1]).double().sum())
        over_queries = torch.logaddexp(over_queries, logits[:, :matches].logsumexp(dim=0))
    loss = over_texts
    if config.symmetric:
        loss = (over_texts + float((over_queries - torch.cat(own)).double().sum())) / 2
    return torch.cat(ranks), loss / matches


def _uniformity(texts: torch.Tensor) -> float:
    """Over pairs of distinct vectors: one text may be the match of many queries."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(texts))[:UNIFORMITY_TEXTS])
    some = texts[torch.from_numpy(chosen).to(texts.device)].unique(dim=0)
    if len(some) < 2:
        return 0.0  # its largest value: all vectors are one
    return float(torch.pdist(some).square().mul(-2).exp().mean().log())


def card(module: nn.Module, config: ContrastiveConfig) -> Card:
    return Card(
        intro="A bi-encoder: the cosine of a technique's and a patent's vector says how well they match.",
        auto_class="AutoModel",
        use="",
        tags=("patents", "sentence-similarity"),
        pooling=config.pooling,
        max_tokens=max(config.section_tokens, config.patent_tokens),
    )
