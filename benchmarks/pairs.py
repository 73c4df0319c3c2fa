"""2.73 billion pairs through search, score and query, the scorer a cheap one: what everything but a model costs.

650,000 patents x 4,200 techniques as random unit vectors of 384 numbers, with texts of usual lengths -> the exact best
200 of each technique -> 840,000 candidates -> score stage -> SCORES -> questions. Each level runs in a process of its
own with a local Ray cluster; the proportional memory (PSS) of all its processes, Ray's own included, is summed every
second. The engine hashes a pair's patent instead of reading it, so what is left is the ledger: shards, texts, parts,
commits. Its seconds for a pair are compared with 10 ms of a model.

Then the score stage alone, on two numbers of candidates drawn at random: the seconds for a pair must not rise.

    python benchmarks/pairs.py [--quick] [--folder DIR] [--out FILE]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _claims import Claim, arguments, at_most, finish
from corpus import MemoryWatch
from prefilter import write_stage

PATENT_CHARACTERS, SECTION_CHARACTERS = 900, 3000
MATCHES = 2000
PART_ROWS = 65_536
MODEL_SECONDS = 0.01
"""Of a pair, for a worker. (The 57M Llama of benchmarks/score.py takes about 0.1 s on two cores.)"""


# ---- what is scored


def write_corpus(folder: Path, patents: int, techniques: int) -> None:
    """Texts are pieces of one long text of random words: of the usual lengths, and quickly made."""
    from patentft import schema
    from patentft.location import Location
    from patentft.store import open_stage

    stage = open_stage(Location(folder), "corpus", {"patents": patents, "techniques": techniques}, {})
    if stage.done:
        return
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice(list("etaoinshrdlu"), rng.integers(2, 11))) for _ in range(5000)])
    long = " ".join(words[rng.integers(0, len(words), 400_000)])

    def pieces(count: int, characters: int) -> list[str]:
        return [long[at : at + characters] for at in rng.integers(0, len(long) - characters, count).tolist()]

    for part, start in enumerate(range(0, patents, PART_ROWS)):
        count = min(PART_ROWS, patents - start)
        columns: dict[str, Any] = {
            "patent_id": [f"EP{start + row:07}" for row in range(count)],
            "title": pieces(count, 60),
            "abstract": pieces(count, PATENT_CHARACTERS - 60),
            **{name: pa.nulls(count, schema.PATENTS.field(name).type) for name in ("claims", "year", "codes")},
        }
        stage.write_part("patents", part, pa.table(columns, schema=schema.PATENTS))
    columns = {
        "technique_id": [f"T{row:07}" for row in range(techniques)],
        "document": ["BREF"] * techniques,
        "section": [str(row) for row in range(techniques)],
        "title": pieces(techniques, 50),
        "text": pieces(techniques, SECTION_CHARACTERS),
    }
    stage.write_part("techniques", 0, pa.table(columns, schema=schema.TECHNIQUES))
    drawn = (rng.integers(0, number, MATCHES).tolist() for number in (techniques, patents))
    pairs = dict.fromkeys(zip(*drawn, strict=True))
    known = {"technique_id": [f"T{t:07}" for t, _ in pairs], "patent_id": [f"EP{p:07}" for _, p in pairs]}
    stage.write_part("matches", 0, pa.table(known, schema=schema.MATCHES))
    stage.finish()


def write_candidates(folder: Path, pairs: int, patents: int, techniques: int) -> None:
    """`pairs` candidates drawn at random, as many of each technique, in parts as a search stage writes them."""
    from patentft import schema
    from patentft.location import Location
    from patentft.store import open_stage

    stage = open_stage(Location(folder), "search", {"pairs": pairs}, {})
    if stage.done:
        return
    rng = np.random.default_rng(pairs)
    each = -(-pairs // techniques)
    for part, first in enumerate(range(0, techniques, 512)):
        some = range(first, min(first + 512, techniques))
        chosen = np.concatenate([rng.choice(patents, each, replace=False) for _ in some])
        rows = len(chosen)
        columns: dict[str, Any] = {
            "technique_id": [f"T{technique:07}" for technique in some for _ in range(each)],
            "patent_id": [f"EP{patent:07}" for patent in chosen.tolist()],
            "role": ["all"] * rows,
            "rank": np.tile(np.arange(each, dtype=np.int32), len(some)),
            "cosine": rng.random(rows, dtype=np.float32),
            "chunk": np.zeros(rows, np.int32),
        }
        stage.write_part("candidates", part, pa.table(columns, schema=schema.CANDIDATES))
    stage.finish()


# ---- levels, each in a process of its own


class Hashed:
    """An engine that takes no time: a pair's logit is a hash of its patent's text and its section's length."""

    GROUPED = True

    @staticmethod
    def load(*_: object) -> Hashed:
        return Hashed()

    def logits(self, sections: Sequence[str], patents: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
        from zlib import crc32

        found = [
            (crc32(patent.encode()) ^ len(section)) % 10_007
            for section, patent in zip(sections, patents, strict=True)
        ]
        return np.array(found, np.float32) / 1000 - 5, {"pairs": len(found)}


def run_stage(folder: Path, name: str, values: dict[str, Any], **options: Any) -> float:
    """Seconds of a stage whose inputs are there, without the start of Ray. One that was left half done is removed."""
    from patentft.cluster import ClusterConfig, connection
    from patentft.config import build, content
    from patentft.location import Location
    from patentft.pipeline import kinds
    from patentft.progress import Progress
    from patentft.stage import Context, references
    from patentft.store import finished_stage, open_stage

    stage = kinds()[values["kind"]]
    config = build(stage.config, {key: value for key, value in values.items() if key != "kind"}, name)
    wanted = references(stage.config)
    inputs = {
        values[key]: finished_stage(Location(folder / values[key]))
        for key, what in wanted.items()
        if what == "stage" and key in values
    }
    ids = {name: each.manifest.id for name, each in inputs.items() if each.manifest}
    shutil.rmtree(folder / name, ignore_errors=True)
    opened = open_stage(Location(folder / name), stage.kind, content(config), ids)
    progress = Progress(quiet=True)
    with connection(ClusterConfig(address="local", num_cpus=2), progress):
        start = time.perf_counter()
        context = Context(opened, inputs, {"none": "none"}, progress)
        opened.finish(dict(stage.run(config, context, **options)))
        return time.perf_counter() - start


def searched(folder: Path, k: int) -> dict[str, float]:
    values = {"kind": "search", "data": "corpus", "patents": "patents", "techniques": "techniques", "top_k": k}
    return {"seconds": run_stage(folder, "search", {**values, "cpus_per_worker": 2})}


def scored(folder: Path, candidates: str) -> dict[str, float]:
    values = {
        "kind": "score",
        "data": "corpus",
        "candidates": candidates,
        "techniques": "techniques",
        "model": "none",
        "engine": {"kind": "torch"},
        "calibration": "none",
    }
    return {"seconds": run_stage(folder, f"scores-{candidates}", values, engines={"torch": Hashed})}


def asked(folder: Path) -> dict[str, float]:
    """The slowest of some questions, the opening of the files with it."""
    from patentft.scoring.query import open_scores

    place = str(folder / "scores-search")
    with open_scores(place) as scores:  # DuckDB is imported
        best = scores.patents("T0000000", 1)["patent_id"][0].as_py()
    slowest = {"technique": 0.0, "patent": 0.0}
    for number in range(5):
        for what in slowest:
            start = time.perf_counter()
            with open_scores(place) as scores:
                found = scores.patents(f"T{7 * number:07}") if what == "technique" else scores.techniques(best)
            slowest[what] = max(slowest[what], time.perf_counter() - start)
            assert found.num_rows
    return slowest


def measured(level: str, folder: Path, argument: str = "") -> dict[str, float]:
    """Runs a level in a process of its own; what it says, with the PSS of all its processes."""
    repository = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([repository, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, __file__, "--level", level, "--folder", str(folder), "--argument", argument]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environment, stdout=said)
        watch = MemoryWatch(process.pid)
        status = process.wait()
        watch.stop()
        if status:
            raise SystemExit(f"level {level} {argument} ended with {status}")
        said.seek(0)
        found = json.loads(said.read().splitlines()[-1])
    print(f"{level} {argument}: {found}, {watch.pss / 2**30:.2f} GiB", file=sys.stderr)
    return {**found, "pss_gib": watch.pss / 2**30}


def disk_gib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**30


def rows_of(folder: Path, table: str) -> int:
    return json.loads((folder / "manifest.json").read_text())["tables"][table]["rows"]


# ---- the claims


def main() -> int:
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, help="keep vectors, texts and results here (3 GB) for the next run")
    parser.add_argument("--level", help="(internal) run one level in this process")
    parser.add_argument("--argument", default="", help="(internal) its argument")
    options = parser.parse_args()
    if options.level:
        levels = {
            "search": lambda: searched(options.folder, int(options.argument)),
            "score": lambda: scored(options.folder, options.argument),
            "query": lambda: asked(options.folder),
        }
        print(json.dumps(levels[options.level]()))
        return 0
    patents, techniques, k = (20_000, 200, 50) if options.quick else (650_000, 4_200, 200)
    few, many = (2_000, 20_000) if options.quick else (100_000, 1_000_000)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)) / f"{patents}x{techniques}"
        write_corpus(folder / "corpus", patents, techniques)
        write_stage(folder / "patents", patents, 384, seed=1)
        write_stage(folder / "techniques", techniques, 384, seed=2, prefix="T", end_char=SECTION_CHARACTERS)
        for pairs in (few, many):
            write_candidates(folder / f"drawn-{pairs}", pairs, patents, techniques)
        found = {"search": measured("search", folder, str(k))}
        scored_from = ("search", f"drawn-{few}", f"drawn-{many}")
        for name in scored_from:
            found[f"score {name}"] = measured("score", folder, name)
        found["query"] = measured("query", folder)
        rows = {name: rows_of(folder / f"scores-{name}", "scores") for name in scored_from}
        disk = {name: disk_gib(folder / name) for name in ("search", "scores-search")}
    candidates = rows["search"]

    def limit(claim: str, value: float, most: float, peer: str, ratio: float) -> Claim:
        """With few pairs it is the start of the actors that is measured: for information."""
        if options.quick:
            return Claim(claim, value, "s", peer, ratio)
        return at_most(claim, value, "s", most, peer=peer, ratio=ratio)

    each = {name: found[f"score {name}"]["seconds"] / rows[name] for name in rows}
    claims = [
        Claim(f"search {patents:,} x {techniques:,}, top {k}", found["search"]["seconds"], "s"),
        Claim(f"score {candidates:,} pairs by hashes", found["score search"]["seconds"], "s"),
        at_most("candidates that have no score", abs(techniques * k - candidates), "pairs", 0),
        limit(
            "the ledger's seconds for a pair",
            each["search"],
            0.02,
            f"a model's {MODEL_SECONDS} s",
            each["search"] / MODEL_SECONDS,
        ),
        limit(
            f"the same with {rows[f'drawn-{many}']:,} pairs",
            each[f"drawn-{many}"],
            1.2,
            f"with {rows[f'drawn-{few}']:,}: {each[f'drawn-{few}']:.2g} s",
            each[f"drawn-{many}"] / each[f"drawn-{few}"],
        ),
        *(at_most(f"slowest answer about a {what}", found["query"][what], "s", 1) for what in ("technique", "patent")),
        *(Claim(f"peak memory (PSS) of {level}", seen["pss_gib"], "GiB") for level, seen in found.items()),
        *(Claim(f"disk of {name}", value, "GiB") for name, value in disk.items()),
    ]
    sizes = {"patents": patents, "techniques": techniques, "top_k": k, "drawn": [few, many]}
    return finish(claims, options.out, {**sizes, "found": found})


if __name__ == "__main__":
    sys.exit(main())
