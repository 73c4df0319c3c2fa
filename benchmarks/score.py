"""Pairs per second of the prefix-shared yes/no scorer against transformers' generate, a plain forward, a copied cache.

One Llama of random weights, the same prompts, in interleaved rounds of one process: G sections, each with N patents.
Lengths are those of real sections and patents where there are any (4 tokens to 3 words, and 120 for the question and
the system text), the ids are random. The peers, each as well as it is simply written:

    generate   model.generate of one token, left-padded, batches sorted by length
    forward    one forward of whole prompts, right-padded (so causal attention needs no mask), sorted by length, the
               output layer for the last tokens only
    copied     the section's key/value cache computed once, copied for every text of a batch
               (DynamicCache.batch_repeat_interleave), 16 and all N texts to a batch

The ceiling is the ratio of tokens read, (P + S) / (S + P / N) (methods: prefix sharing). FLOP are those of the matrix
products that ours does; the bound is torch.mm at the shape of its feed-forward layers, measured in the same rounds.
Memory is the peak of resident memory over that after loading, each in a process of its own, at N patents.

    python benchmarks/score.py [--quick] [--rounds 3] [--out FILE] [--threads N]
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _claims import Claim, arguments, at_least, at_most, finish, median_ratio

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

SHAPE = {
    "vocab_size": 8192, "hidden_size": 768, "num_hidden_layers": 8, "num_attention_heads": 12, "num_key_value_heads": 4,
    "intermediate_size": 2048, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
YES, NO = 17, 23
AROUND = 120
"""Tokens of system text and question."""
LONGEST = {"section": 1024, "patent": 320}
PADDED_TOKENS = 4096
"""Of a batch of the peers that read whole prompts."""


def word_counts() -> tuple[np.ndarray, np.ndarray, str]:
    """Words of sections and of patents (title and abstract)."""
    data = Path(os.environ.get("PATENTFT_DATA") or REPOSITORY.parent / "shared" / "data") / "bref"
    if (data / "techniques.parquet").is_file() and (data / "patents.parquet").is_file():
        import pyarrow.parquet as pq

        from patentft.corpus.text import patent_text, technique_text

        sections = technique_text(pq.read_table(data / "techniques.parquet"))
        patents = patent_text(pq.read_table(data / "patents.parquet"), ["title", "abstract"])
        found = [np.array([len(text.split()) for text in texts]) for texts in (sections, patents)]
        return found[0], found[1], "real lengths"
    rng = np.random.default_rng(0)
    return rng.normal(490, 200, 800).clip(40, 1200), rng.normal(140, 50, 3000).clip(20, 305), "drawn lengths"


def prompts(num_groups: int, num_patents: int) -> tuple[list[Any], str]:
    """Groups of one section each; sections at even quantiles of their lengths, patents drawn."""
    from patentft.scoring.prompt import Prompts

    sections, patents, source = word_counts()
    rng = np.random.default_rng(0)
    quantiles = np.quantile(sections, (np.arange(num_groups) + 0.5) / num_groups)
    groups = []
    for words in quantiles:
        prefix = AROUND + min(int(words * 4 / 3), LONGEST["section"])
        suffixes = (rng.choice(patents, num_patents) * 4 / 3).astype(int).clip(8, LONGEST["patent"])
        ids = [rng.integers(100, SHAPE["vocab_size"], length).tolist() for length in (prefix, *suffixes)]
        groups.append(Prompts(ids[0], ids[1:]))
    return groups, source


def random_llama() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, pad_token_id=0, bos_token_id=1, eos_token_id=2)).eval()


# ---- the four ways: (model, groups) -> log-odds of every prompt, in order


def ours(model: Any, groups: list[Any]) -> np.ndarray:
    from patentft.scoring.prompt import AnswerTokens
    from patentft.scoring.yes_no import TOKENS_PER_BATCH, YesNoScorer

    scorer = YesNoScorer(model, AnswerTokens((YES,), (NO,)), TOKENS_PER_BATCH[False])
    return np.concatenate(scorer.log_odds(groups))


def by_length(texts: list[list[int]]) -> list[list[int]]:
    """Rows in batches of PADDED_TOKENS, sorted by length."""
    from patentft.scoring.scorer import padded_batches

    lengths = [len(text) for text in texts]
    return padded_batches(np.argsort(lengths, kind="stable").tolist(), lengths, PADDED_TOKENS)


def whole(groups: list[Any]) -> list[list[int]]:
    return [group.prefix + suffix for group in groups for suffix in group.suffixes]


def generate(model: Any, groups: list[Any]) -> np.ndarray:
    import torch

    texts = whole(groups)
    found = np.empty(len(texts), dtype=np.float32)
    for batch in by_length(texts):
        longest = len(texts[batch[-1]])
        ids = torch.tensor([[0] * (longest - len(texts[row])) + texts[row] for row in batch])
        output = model.generate(
            ids, attention_mask=(ids != 0).long(), max_new_tokens=1, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        found[batch] = (output.logits[0][:, YES] - output.logits[0][:, NO]).numpy()
    return found


def padded(texts: list[list[int]]) -> tuple[Any, Any]:
    """Right-padded ids (B, T), and where each text ends (B,)."""
    import torch

    longest = max(len(text) for text in texts)
    ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    return ids, torch.tensor([len(text) - 1 for text in texts])


def last_logits(model: Any, states: Any, last: Any) -> np.ndarray:
    import torch

    logits = model.lm_head(states[torch.arange(len(last)), last])
    return (logits[:, YES] - logits[:, NO]).numpy()


def forward(model: Any, groups: list[Any]) -> np.ndarray:
    import torch

    texts = whole(groups)
    found = np.empty(len(texts), dtype=np.float32)
    with torch.inference_mode():
        for batch in by_length(texts):
            ids, last = padded([texts[row] for row in batch])
            found[batch] = last_logits(model, model.model(input_ids=ids, use_cache=False).last_hidden_state, last)
    return found


def copied(model: Any, groups: list[Any], texts_per_batch: int) -> np.ndarray:
    import torch
    from transformers import DynamicCache

    found = []
    with torch.inference_mode():
        for group in groups:
            section = DynamicCache(config=model.config)
            model.model(input_ids=torch.tensor([group.prefix]), past_key_values=section, use_cache=True)
            odds = np.empty(len(group.suffixes), dtype=np.float32)
            order = np.argsort([len(suffix) for suffix in group.suffixes], kind="stable")
            for start in range(0, len(order), texts_per_batch):
                batch = order[start : start + texts_per_batch]
                ids, last = padded([group.suffixes[row] for row in batch])
                cache = copy.deepcopy(section)
                cache.batch_repeat_interleave(len(batch))
                states = model.model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
                odds[batch] = last_logits(model, states, last)
            found.append(odds)
    return np.concatenate(found)


# ---- what they are measured by


def products_flop(groups: list[Any]) -> float:
    """Of the matrix products that ours does: in the last layer keys and values of every token, the rest of the last
    tokens of suffixes (and of prefixes, which need not even that, one).
    """
    hidden, inner, layers = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["num_hidden_layers"]
    kept = 2 * hidden * SHAPE["num_key_value_heads"] // SHAPE["num_attention_heads"]
    others = 2 * hidden + 3 * inner
    total = 0.0
    for group in groups:
        prefix, suffixes = len(group.prefix), np.array([len(suffix) for suffix in group.suffixes], dtype=float)
        tokens, lasts = prefix + suffixes.sum(), len(suffixes) + 1
        pairs = prefix**2 / 2 + (suffixes * prefix + suffixes**2 / 2).sum()
        total += 2 * hidden * ((layers - 1) * tokens * (kept + others) + tokens * kept + lasts * others)
        total += 4 * hidden * ((layers - 1) * pairs + prefix * lasts + suffixes.sum())
    return float(total)


def sgemm_seconds_per_flop(rows: int) -> float:
    import torch

    a, b = torch.randn(rows, SHAPE["hidden_size"]), torch.randn(SHAPE["intermediate_size"], SHAPE["hidden_size"])
    out = torch.empty(rows, SHAPE["intermediate_size"])
    torch.mm(a, b.T, out=out)
    repeats, start = 0, time.perf_counter()
    while time.perf_counter() - start < 2:
        torch.mm(a, b.T, out=out)
        repeats += 1
    return (time.perf_counter() - start) / repeats / (2 * a.numel() * len(b))


def timed(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def status_kib(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])


def run_child(what: str, num_patents: int, threads: int) -> int:
    """Prints the MiB by which resident memory rises at its peak over what it is with the model loaded."""
    import torch

    torch.set_num_threads(threads)
    model, (groups, _) = random_llama(), prompts(1, num_patents)
    way = ours if what == "ours" else _copied_by(num_patents)
    way(model, [_first_token(groups[0])])
    loaded = status_kib("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    way(model, groups)
    print(json.dumps({"mib": (status_kib("VmHWM:") - loaded) / 1024}))
    return 0


def _first_token(group: Any) -> Any:
    """What loads code and allocates threads' buffers, but no batch."""
    return type(group)(group.prefix[:2], [group.suffixes[0][:1]])


def child(what: str, num_patents: int, threads: int) -> float:
    command = [sys.executable, __file__, "--child", what, "--patents", str(num_patents), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])["mib"]


def main() -> int:
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--groups", type=int, default=2, help="sections")
    parser.add_argument("--patents", type=int, default=64, help="to each section")
    parser.add_argument("--child", help="(internal) measure one way's memory in this process")
    options = parser.parse_args()
    if options.child:
        return run_child(options.child, options.patents, options.threads)
    import torch
    from transformers.utils import logging

    from patentft.scoring.yes_no import TOKENS_PER_BATCH

    logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    num_groups, num_patents = (1, 16) if options.quick else (options.groups, options.patents)
    model, (groups, source) = random_llama(), prompts(num_groups, num_patents)
    scores: dict[str, np.ndarray] = {}
    peers = {"generate": generate, "forward": forward}
    peers |= {f"copied, {size} at a time": _copied_by(size) for size in sorted({min(16, num_patents), num_patents})}
    flop = products_flop(groups)
    steps: dict[str, Callable[[], float]] = {
        name: _timed_step(name, way, model, groups, scores) for name, way in {"ours": ours, **peers}.items()
    }
    steps["sgemm"] = lambda: sgemm_seconds_per_flop(TOKENS_PER_BATCH[False]) * flop
    for way in (ours, *peers.values()):  # first calls allocate
        way(model, [_first_token(groups[0])])
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    rounds = min(options.rounds, 2) if options.quick else options.rounds
    for number in range(rounds):
        for name in list(steps) if number % 2 == 0 else list(steps)[::-1]:
            seconds[name].append(steps[name]())
    memory = {what: child(what, num_patents, options.threads) for what in ("ours", "copied")}
    num_pairs = num_groups * num_patents
    rate = {name: num_pairs / statistics.median(each) for name, each in seconds.items()}
    unshared, shared = (sum(_tokens(group, whole=each) for group in groups) for each in (True, False))
    ceiling = unshared / shared
    fastest = max((name for name in rate if name.startswith("copied")), key=lambda name: rate[name])
    faster = median_ratio(seconds["forward"], seconds["ours"])
    difference = max(float(np.abs(scores["ours"] - each).max()) for each in scores.values())
    gflops = flop / statistics.median(seconds["ours"]) / 1e9
    bound = f"sgemm {flop / statistics.median(seconds['sgemm']) / 1e9:.1f} GFLOP/s"
    pairs = f"{num_pairs} pairs, {num_patents} to a section, {source}"
    claims = [
        at_least(
            f"share of the token ceiling, {pairs}", faster, "x", 0.9,
            peer=f"forward {rate['forward']:.2f}/s x {ceiling:.2f}", ratio=faster / ceiling,
        ),
        at_least(
            "pairs scored", rate["ours"], "pairs/s", 1.0, peer=f"{fastest}: {rate[fastest]:.2f}/s",
            ratio=median_ratio(seconds[fastest], seconds["ours"]),
        ),
        at_most(
            f"memory over that of the model, {num_patents} patents", memory["ours"], "MiB", 0.5,
            peer=f"copied {memory['copied']:.0f} MiB", ratio=memory["ours"] / memory["copied"],
        ),
        at_least(
            "share of the matrix product's rate", gflops, "GFLOP/s", 0.8, peer=bound,
            ratio=median_ratio(seconds["sgemm"], seconds["ours"]),
        ),
        at_most("largest difference of a log-odds", difference, "", 1e-4, peer="generate, forward, copied"),
        Claim(
            "faster than generate", rate["ours"], "pairs/s", f"generate {rate['generate']:.2f}/s",
            median_ratio(seconds["generate"], seconds["ours"]),
        ),
        Claim("parameters", sum(each.numel() for each in model.parameters()) / 1e6, "M"),
        Claim("threads", options.threads, ""),
    ]  # fmt: skip
    settings = {"shape": SHAPE, "groups": num_groups, "patents": num_patents, "seconds": seconds, "lengths": source}
    return finish(claims, options.out, settings)


def _copied_by(size: int) -> Callable[[Any, list[Any]], np.ndarray]:
    return lambda model, groups: copied(model, groups, size)


def _timed_step(
    name: str, way: Callable[[Any, list[Any]], np.ndarray], model: Any, groups: list[Any], scores: dict[str, np.ndarray]
) -> Callable[[], float]:
    def step() -> float:
        return timed(lambda: scores.__setitem__(name, way(model, groups)))

    return step


def _tokens(group: Any, *, whole: bool) -> int:
    suffixes = sum(len(suffix) for suffix in group.suffixes)
    return suffixes + len(group.prefix) * (len(group.suffixes) if whole else 1)


if __name__ == "__main__":
    sys.exit(main())
