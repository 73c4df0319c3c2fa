"""Texts to vectors: tokenize once, cut what is too long, batch by length under a token budget, run the encoder.

The way of one part (tens of thousands of texts):

1. every text is tokenized whole, in parallel, by the fast tokenizer;
2. a text over the encoder's limit is cut into overlapping windows of equal size (or truncated, if so configured);
3. the windows are sorted by length and batched so that rows x longest <= tokens_per_batch: next to no padding;
4. one forward pass per batch; vectors go back to the order of the texts.

Batches are formed within a part, so a part comes out the same whichever worker makes it. Memory: the token ids of one
part (about 8 bytes per token), one batch of activations, and the part's vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from patentft import schema
from patentft.config import Config, ConfigError, runtime
from patentft.corpus.text import COLUMNS, PatentField, patent_text, technique_text
from patentft.models.load import DType, Encoder
from patentft.stage import ModelRef, StageRef

TOKENS_PER_BATCH = {False: 1024, True: 65536}
"""On a CPU (False) and on a GPU (True). Measured on a CPU: at 8,192 the activations are out of cache, 20 % slower."""


class EmbedConfig(Config):
    data: StageRef
    """Stage that holds the table to embed."""
    table: Literal["patents", "techniques"]
    """Which table of it."""
    model: ModelRef
    """Encoder: a train stage, a model folder, package:NAME, or a hub id."""
    text: list[PatentField] = Field(default_factory=lambda: ["title", "abstract"])
    """Fields of a patent that are read, in order. A technique is always read as "title. text"."""
    prefix: str = ""
    """Put before every text and every chunk of it, for encoders trained with one ("query: ")."""
    max_tokens: int | None = Field(default=None, ge=8)
    """Cut at this many tokens, special tokens and prefix included; null: the encoder's own limit."""
    long_text: Literal["chunks", "truncate"] = "chunks"
    """What happens to a text over the limit: overlapping chunks with a vector each, or only its beginning is read."""
    overlap_tokens: int = Field(default=32, ge=0)
    """Tokens that neighbouring chunks share, at least."""
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    """auto: what the model's modules.json says; without one, last for a causal model and mean otherwise."""
    dtype: DType = "float32"
    """Arithmetic of the encoder. Vectors are stored as float32 always."""
    tokens_per_batch: int | None = runtime(None, ge=1)
    """Rows x longest row of one forward pass; null: 1024 on a CPU, 65536 on a GPU."""
    workers: int = runtime(1, ge=1)
    """Actors, each with its own copy of the model."""
    cpus_per_worker: float = runtime(1.0, gt=0)
    """CPUs of each actor; it computes with as many threads (rounded up)."""
    gpus_per_worker: float = runtime(0.0, ge=0)
    """GPUs of each actor; 0 computes on the CPU."""

    @model_validator(mode="after")
    def _coherent(self) -> EmbedConfig:
        if not self.text or len(set(self.text)) < len(self.text):
            raise ValueError(f"text must name one or more of {', '.join(COLUMNS)}, each once; got {self.text}")
        if self.max_tokens is not None and self.long_text == "chunks" and 2 * self.overlap_tokens > self.max_tokens:
            raise ValueError(f"overlap_tokens {self.overlap_tokens} is over half of max_tokens {self.max_tokens}")
        return self


# ---- windows of tokens


def token_windows(num_tokens: int, capacity: int, overlap: int) -> list[tuple[int, int]]:
    """Half-open windows that cover tokens 0..num_tokens, as few as fit; (0, 0) alone for an empty text.

    Each holds at most `capacity` tokens and neighbours share at least `overlap`. All have the same size, so the last
    one is not a stub. Raises ValueError unless 0 <= overlap < capacity.
    """
    if not 0 <= overlap < capacity:
        raise ValueError(f"windows of {capacity} tokens cannot overlap by {overlap}: need 0 <= overlap < capacity")
    if num_tokens <= capacity:
        return [(0, num_tokens)]
    count = -(-(num_tokens - overlap) // (capacity - overlap))
    size = -(
        -(num_tokens + (count - 1) * overlap) // count
    )  # <= capacity; steps of at most size - overlap reach the end
    starts = [i * (num_tokens - size) // (count - 1) for i in range(count)]
    return [(start, start + size) for start in starts]


def token_batches(lengths: Sequence[int] | NDArray[np.integer], tokens_per_batch: int) -> list[NDArray[np.int64]]:
    """Row indices per batch, longest rows first, each row once: rows x longest <= budget, or a single row above it.

    lengths: (N,) tokens per row. A pure function of its arguments; rows of equal length keep their order.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, tokens_per_batch // max(1, int(sizes[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches


# ---- tokens of a text


@dataclass(frozen=True)
class Template:
    """Ids that the tokenizer puts around a text: before, after; and the tokens of the prefix."""

    before: list[int]
    after: list[int]
    prefix: list[int]

    @property
    def num_tokens(self) -> int:
        return len(self.before) + len(self.after) + len(self.prefix)


def read_template(encoder: Encoder, prefix: str) -> Template:
    """Found by encoding: the same for BERT's [CLS] x [SEP], RoBERTa's <s> x </s> and a decoder's x <eos>."""
    if prefix and not encoder.settings.pools_prefix:
        raise ConfigError(
            "this encoder leaves its prompt out of the pooling (include_prompt: false): not supported; set prefix=''"
        )
    backend = encoder.tokenizer.backend_tokenizer
    probe = "filter"
    bare = backend.encode(probe, add_special_tokens=False).ids
    whole = backend.encode(probe, add_special_tokens=True).ids
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            break
    else:
        raise ConfigError(
            f"tokenizer {type(encoder.tokenizer).__name__} does not put its special tokens around the text"
        )
    prefix_ids: list[int] = []
    if prefix:
        encoded = backend.encode(prefix + probe, add_special_tokens=False)
        prefix_ids = encoded.ids[: _prefix_length(encoded.offsets, len(prefix.rstrip()))]
    return Template(whole[:start], whole[start + len(bare) :], prefix_ids)


def _prefix_length(offsets: Sequence[tuple[int, int]], end_char: int) -> int:
    """How many leading tokens lie within the first `end_char` characters."""
    return next((i for i, (_, end) in enumerate(offsets) if end > end_char), len(offsets))


@dataclass(frozen=True)
class Windows:
    """Windows of N texts as M model inputs, in the order of the texts."""

    token_ids: list[list[int]]  # M, special tokens included
    text: NDArray[np.int32]  # (M,) index of the text
    chunk: NDArray[np.int32]  # (M,) 0-based within the text
    start_char: NDArray[np.int32]  # (M,) half-open span in the text
    end_char: NDArray[np.int32]
    counts: dict[str, int]


def cut_texts(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    max_tokens: int,
    overlap: int = 32,
    long_text: Literal["chunks", "truncate"] = "chunks",
    prefix: str = "",
) -> Windows:
    """Tokenize N texts and cut those over `max_tokens` (specials and prefix included) into windows.

    Counts: texts, chunks, tokens (as fed, specials included), texts_over_limit, texts_empty, and tokens_dropped:
    tokens of the texts themselves that no window covers (0 unless long_text is "truncate").
    Raises ConfigError when the limit leaves no room for text beside the specials, the prefix and the overlap.
    """
    template = read_template(encoder, prefix)
    capacity = max_tokens - template.num_tokens
    if capacity < 1 or (long_text == "chunks" and capacity <= overlap):
        raise ConfigError(
            f"max_tokens {max_tokens} leaves {capacity} for text beside specials and prefix ({template.num_tokens}), "
            f"and chunks overlap by {overlap}: raise max_tokens or lower overlap_tokens"
        )
    ids, text, chunk, start_char, end_char = [], [], [], [], []
    counts: dict[str, int] = dict.fromkeys(
        ("texts", "chunks", "tokens", "texts_over_limit", "texts_empty", "tokens_dropped"), 0
    )
    before, after = template.before + template.prefix, template.after
    for index, encoding in enumerate(_tokenize(encoder, [prefix + each for each in texts] if prefix else texts)):
        skipped = _prefix_length(encoding.offsets, len(prefix.rstrip())) if prefix else 0
        tokens = encoding.ids[skipped:]
        counts["texts_empty"] += not tokens
        if len(tokens) <= capacity:
            windows = [(0, len(tokens))]
        else:
            counts["texts_over_limit"] += 1
            windows = token_windows(len(tokens), capacity, overlap) if long_text == "chunks" else [(0, capacity)]
            counts["tokens_dropped"] += len(tokens) - windows[-1][1]
        whole_text = len(windows) == 1 and windows[0][1] == len(tokens)
        spans = [] if whole_text else encoding.offsets[skipped:]  # reading offsets is slow: only where a text is cut
        for number, (start, end) in enumerate(windows):
            ids.append(before + tokens[start:end] + after)
            text.append(index)
            chunk.append(number)
            # the ends take in what the tokenizer dropped there (white space): the chunks together cover the text
            start_char.append(0 if start == 0 else max(0, spans[start][0] - len(prefix)))
            end_char.append(len(texts[index]) if end == len(tokens) else max(0, spans[end - 1][1] - len(prefix)))
    counts |= {"texts": len(texts), "chunks": len(ids), "tokens": sum(map(len, ids))}
    columns = [np.asarray(column, dtype=np.int32) for column in (text, chunk, start_char, end_char)]
    return Windows(ids, columns[0], columns[1], columns[2], columns[3], counts)


def _tokenize(encoder: Encoder, texts: Sequence[str], batch: int = 1024) -> Iterator[Any]:
    backend = encoder.tokenizer.backend_tokenizer
    for start in range(0, len(texts), batch):
        yield from backend.encode_batch(list(texts[start : start + batch]), add_special_tokens=False)


# ---- vectors


def encode_windows(
    encoder: Encoder, token_ids: Sequence[Sequence[int]], tokens_per_batch: int | None = None
) -> NDArray[np.float32]:
    """Vectors (M, D) fp32 of M token sequences, in the order given. tokens_per_batch None: TOKENS_PER_BATCH.

    On a CPU, torch's threads take a batch each instead of sharing every operation of one: nothing waits at barriers, a
    batch stays in its core's cache, and a vector does not depend on the number of threads.
    Raises ValueError for a vector that is not finite.
    """
    on_cpu = encoder.device.type == "cpu"
    lengths = np.fromiter(map(len, token_ids), dtype=np.int64, count=len(token_ids))
    batches = token_batches(lengths, tokens_per_batch or TOKENS_PER_BATCH[not on_cpu])
    vectors = np.empty((len(token_ids), encoder.hidden_size), dtype=np.float32)

    def encode(rows: NDArray[np.int64]) -> None:
        vectors[rows] = _encode_batch(encoder, [token_ids[row] for row in rows], lengths[rows])

    threads = torch.get_num_threads()
    if on_cpu and threads > 1 and len(batches) > 1:
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(encode, batches))  # longest first, so that all end at about the same time
        finally:
            torch.set_num_threads(threads)
    else:
        for rows in batches:
            encode(rows)
    if not np.isfinite(vectors).all():
        raise ValueError("the encoder gave vectors with NaN or infinite entries: with dtype float16, try bfloat16")
    return vectors


def _encode_batch(encoder: Encoder, token_ids: Sequence[Sequence[int]], lengths: NDArray[np.int64]) -> Any:
    """Vectors (B, D) of one batch, right-padded to its longest row, which comes first."""
    width = int(lengths[0])
    padding = encoder.tokenizer.pad_token_id or 0  # masked, so any valid id serves
    ids = np.full((len(token_ids), width), padding, dtype=np.int64)
    for row, tokens in enumerate(token_ids):
        ids[row, : len(tokens)] = tokens
    mask = np.arange(width) < lengths[:, None]
    with torch.inference_mode():  # holds for the current thread only
        device_ids = torch.from_numpy(ids).to(encoder.device, non_blocking=True)
        device_mask = torch.from_numpy(mask).to(encoder.device, torch.int64, non_blocking=True)
        return encoder.forward(device_ids, device_mask, padded=not mask.all()).cpu().numpy()


@dataclass(frozen=True)
class Embedded:
    """N texts as M >= N vectors."""

    vectors: NDArray[np.float32]  # (M, D)
    windows: Windows


def embed_texts(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    max_tokens: int | None = None,
    overlap: int = 32,
    long_text: Literal["chunks", "truncate"] = "chunks",
    prefix: str = "",
    tokens_per_batch: int | None = None,
) -> Embedded:
    """Vectors of N texts, one per window (`cut_texts`). max_tokens None: the encoder's limit; above it: ConfigError."""
    limit = encoder.max_tokens if max_tokens is None else max_tokens
    if limit > encoder.max_tokens:
        raise ConfigError(f"max_tokens {limit} is over the encoder's limit of {encoder.max_tokens} tokens")
    windows = cut_texts(encoder, texts, max_tokens=limit, overlap=overlap, long_text=long_text, prefix=prefix)
    return Embedded(encode_windows(encoder, windows.token_ids, tokens_per_batch), windows)


# ---- one part of a table


def source_columns(config: EmbedConfig) -> list[str]:
    """Columns of the source table that `embed_part` reads."""
    if config.table == "techniques":
        return ["technique_id", "title", "text"]
    return ["patent_id", *dict.fromkeys(COLUMNS[name] for name in config.text)]


def embed_part(encoder: Encoder, config: EmbedConfig, source: pa.Table) -> tuple[pa.Table, dict[str, int]]:
    """One part of the source table as a part of EMBEDDINGS, with its counts (`cut_texts`)."""
    if config.table == "techniques":
        ids, texts = source.column("technique_id"), technique_text(source)
    else:
        ids, texts = source.column("patent_id"), patent_text(source, config.text)
    embedded = embed_texts(
        encoder,
        texts,
        max_tokens=config.max_tokens,
        overlap=config.overlap_tokens,
        long_text=config.long_text,
        prefix=config.prefix,
        tokens_per_batch=config.tokens_per_batch,
    )
    windows = embedded.windows
    table = pa.table(
        {
            "id": ids.take(pa.array(windows.text)).combine_chunks(),
            "chunk": windows.chunk,
            "num_tokens": np.fromiter(map(len, windows.token_ids), np.int32, len(windows.token_ids)),
            "start_char": windows.start_char,
            "end_char": windows.end_char,
            "vector": vector_column(embedded.vectors),
        }
    )
    return table.cast(schema.EMBEDDINGS), windows.counts


def vector_column(vectors: NDArray[np.float32]) -> pa.Array:
    """(M, D) fp32 as list<float32>, without a copy. Raises ValueError for a part beyond the 2^31 floats of a list
    column.
    """
    count, dim = vectors.shape
    if count * dim >= 2**31:
        raise ValueError(f"{count} vectors of {dim} do not fit one part: make the corpus stage's parts smaller")
    offsets = np.arange(0, count * dim + 1, dim, dtype=np.int32)
    values = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=schema.VECTOR)
