"""The estimate of a run's memory against what training takes: the same configurations, on this CPU.

Each configuration (random weights) is trained for a few steps in a process of its own: `worker.build`, strategy ddp,
one rank, the worker's own optimizer steps. Measured is the largest proportional set size (PSS, from
/proc/self/smaps_rollup, sampled by a thread) less that after all imports.

Each runs twice. With MALLOC_MMAP_THRESHOLD_ = 1 MiB glibc gives the memory of a large tensor back when it is freed:
that is what the estimate is held against. With its defaults it keeps freed memory in a heap full of holes, the more the
longer small tensors live beside large ones: that is shown, and no estimate of tensors knows it.

    python benchmarks/estimate.py [--quick] [--out FILE] [--only NAME]
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from _claims import Claim, arguments, finish

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

GIB = 2**30
STEPS = 2
LOWEST, HIGHEST = 0.85, 1.15

LLAMA_90M = {"kind": "llama", "hidden_size": 640, "intermediate_size": 1792, "num_hidden_layers": 10,
             "num_attention_heads": 10, "num_key_value_heads": 5, "vocab_size": 32000}  # fmt: skip
LLAMA_260M = {"kind": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16,
              "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 32000}  # fmt: skip
BERT_BASE = {"kind": "bert"}
CAUSAL = {"kind": "causal"}
RANK = {"kind": "rank", "max_tokens": 512}

CASES: dict[str, dict[str, Any]] = {
    "llama-90m full fp32": {"model": LLAMA_90M, "rows": 4, "tokens": 512, "objective": CAUSAL},
    "llama-90m full fp32, 2 passes a step": {"model": LLAMA_90M, "rows": 2, "tokens": 512, "objective": CAUSAL,
                                             "passes": 2},
    "llama-90m full fp32, checkpointing": {"model": LLAMA_90M, "rows": 4, "tokens": 512, "objective": CAUSAL,
                                           "activation_checkpointing": True},
    "llama-90m full bf16": {"model": LLAMA_90M, "rows": 1, "tokens": 128, "objective": CAUSAL, "precision": "bf16"},
    "llama-260m lora fp32": {"model": LLAMA_260M, "rows": 2, "tokens": 512, "objective": CAUSAL,
                             "adapter": {"kind": "lora"}},
    "llama-260m lora fp32, checkpointing": {"model": LLAMA_260M, "rows": 4, "tokens": 512, "objective": CAUSAL,
                                            "adapter": {"kind": "lora"}, "activation_checkpointing": True},
    "bert-base rank, rows of 512": {"model": BERT_BASE, "rows": 4, "tokens": 512, "objective": RANK, "dropout": 0.0},
    "bert-base rank, rows of 512, dropout": {"model": BERT_BASE, "rows": 4, "tokens": 512, "objective": RANK},
    "bert-base rank, rows of 512, checkpointing": {"model": BERT_BASE, "rows": 8, "tokens": 512, "objective": RANK,
                                                   "dropout": 0.0, "activation_checkpointing": True},
}  # fmt: skip
QUICK = ("llama-90m full fp32", "bert-base rank, rows of 512, checkpointing")


def train_config(case: dict[str, Any], folder: str) -> Any:
    from patentft.config import build
    from patentft.train.config import TrainConfig

    causal = case["objective"]["kind"] == "causal"
    inputs = ("packed", "packed_valid") if causal else ("data", "roles", "pairs", "techniques")
    values = {key: value for key, value in case.items() if key not in ("model", "rows", "tokens", "passes")}
    values |= {**dict.fromkeys(inputs, "x"), "model": folder, "micro_batch_tokens": case["rows"] * case["tokens"]}
    return build(TrainConfig, values)


def save_model(case: dict[str, Any], folder: str) -> None:
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    sizes = {key: value for key, value in case["model"].items() if key != "kind"}
    if case["model"]["kind"] == "llama":
        LlamaForCausalLM(LlamaConfig(**sizes, pad_token_id=0)).save_pretrained(folder)
    else:
        BertModel(BertConfig(**sizes)).save_pretrained(folder)


def pss_bytes() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no Pss in /proc/self/smaps_rollup")


class MallocInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    )]  # fmt: skip


def malloc_bytes() -> int:
    """What the process has asked of malloc and not given back. Weights mapped from their file are not in it."""
    call = ctypes.CDLL(None).mallinfo2
    call.restype = MallocInfo
    found = call()
    return found.uordblks + found.hblkhd


class Sampler:
    """The largest PSS, and the most that malloc had given out, since `begin`; asked every 100 ms."""

    def __init__(self) -> None:
        self.largest, self.given = 0, 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self.largest = max(self.largest, pss_bytes())
            self.given = max(self.given, malloc_bytes())
            time.sleep(0.1)

    def begin(self) -> None:
        self.largest, self.given = pss_bytes(), malloc_bytes()


def batches(case: dict[str, Any], config: Any) -> list[Any]:
    """The micro-batches of a step, of random tokens: full rows."""
    import numpy as np

    from patentft.objectives.encoded import Encoded, SpecialTokens
    from patentft.objectives.packed import ArrayRows
    from patentft.objectives.table import OBJECTIVES

    rng, objective = np.random.default_rng(0), OBJECTIVES[config.objective.kind]
    rows, shape = case["rows"], (case["rows"] * case.get("passes", 1), case["tokens"])
    ids = rng.integers(5, 30000, shape).astype(np.int32)
    if config.objective.kind == "causal":
        data: Any = ArrayRows(ids, np.repeat(np.array([[1] * (shape[1] // 2) + [2] * (shape[1] // 2)]), shape[0], 0))
    else:
        first = np.arange(shape[0]) % rows == 0
        data = Encoded({"group": np.arange(shape[0]) // rows, "label": first.astype(np.float32)})
        data.put_ragged("input_ids", [row[: len(row) - (place % rows > 0)].tolist() for place, row in enumerate(ids)])
        for name in ("cosine", "weight"):
            data.arrays[name] = np.ones(shape[0], dtype=np.float32)
    units = objective.units(data, config.objective, 0, 0)
    per_pass = len(units) // case.get("passes", 1)
    chosen = [units[first : first + per_pass] for first in range(0, len(units), per_pass)]
    return [objective.collate(data, each, SpecialTokens(vocabulary_size=30000)) for each in chosen]


def measure(case: dict[str, Any], folder: str) -> dict[str, float]:
    """In a process of its own: bytes above those after the imports."""
    import peft
    import torch
    import transformers.models.bert.modeling_bert
    import transformers.models.llama.modeling_llama  # noqa: F401

    from patentft.objectives.table import OBJECTIVES
    from patentft.train import worker
    from patentft.train.place import Place
    from patentft.train.strategies.table import wrap

    assert peft
    torch.set_num_threads(1)
    config = train_config(case, folder)
    drawn = batches(case, config)
    sampler = Sampler()
    baseline, given = pss_bytes(), malloc_bytes()
    place = Place(0, 1, torch.device("cpu"))
    module = worker.build(config, folder, place.device)
    loading = sampler.largest - baseline
    sampler.begin()
    groups = worker.parameter_groups(config, module)
    strategy = wrap(config.strategy, module, groups, config.optimizer, place, config.precision)
    strategy.model.train()
    step = worker._Drawn(drawn, [1.0] * len(drawn), case["rows"] * case["tokens"])
    for _ in range(STEPS):
        worker._optimizer_step(config, OBJECTIVES[config.objective.kind], strategy, step, place)
        strategy.step(1.0)
    in_use = sampler.given - given
    return {"measured": float(sampler.largest - baseline), "in_use": float(in_use), "loading": float(loading)}


def estimate(case: dict[str, Any], folder: str) -> Any:
    from patentft.train.estimate import keeps_gradients, memory
    from patentft.train.rehearse import prepare

    config = train_config(case, folder)
    rehearsal = prepare(config, folder)
    kept = keeps_gradients(config, case.get("passes", 1))
    tokens = case["rows"] * case["tokens"]
    held = rehearsal.run(case["rows"], case["tokens"], tokens, "cpu", keep_gradients=kept)
    return memory(rehearsal.weights, held.held, config, 1, gpu=False, kept=kept)


def in_process(name: str, folder: str, environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", name, folder]
    env = {**os.environ, **environment}
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout
    return json.loads(printed.splitlines()[-1])


def main() -> int:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(CASES[sys.argv[2]], sys.argv[3])))
        return 0
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", help="configurations whose name holds this")
    parser.add_argument("--returning-only", action="store_true", help="leave out the runs with glibc's defaults")
    options = parser.parse_args()
    names = QUICK if options.quick else [name for name in CASES if (options.only or "") in name]
    claims, details = [], {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            save_model(CASES[name], folder)
            expected = estimate(CASES[name], folder)
            found = in_process(name, folder, {"MALLOC_MMAP_THRESHOLD_": str(2**20)})
            default = in_process(name, folder, {}) if not options.returning_only else None
        ratio = found["measured"] / expected.peak
        details[name] = {**found, **expected.__dict__, "in_pass": expected.in_pass, "in_step": expected.in_step}
        target = f"{LOWEST:g} to {HIGHEST:g}"
        peer = f"estimated {expected.peak / GIB:.2f} GiB"
        holds = LOWEST <= ratio <= HIGHEST
        claims.append(Claim(name, found["measured"] / GIB, "GiB", peer, ratio, target, holds))
        if default is not None:
            details[name]["default"] = default["measured"]
            kept = default["measured"] / expected.peak
            claims.append(Claim(f"{name}, glibc's defaults", default["measured"] / GIB, "GiB", peer, kept))
        shown = {key: round(value / GIB, 3) for key, value in details[name].items()}
        print(f"{name}: {ratio:.3f} {shown}", file=sys.stderr, flush=True)
    return finish(claims, options.out, {"steps": STEPS, "details": details})


if __name__ == "__main__":
    sys.exit(main())
