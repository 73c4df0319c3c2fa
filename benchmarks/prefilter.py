"""Exact top-k over part files against bare FAISS in memory and against the machine's own matrix product.

650,000 patents x 4,200 techniques x 384, top 200: 2.1 TFLOP. Each measurement runs in a process of its own, so that
its peak memory is its own. Ours reads the part files through the stage folder (checksums, decompression), FAISS has
the vectors in memory before its clock starts. The product's bound is 2 N T D / the rate of torch.mm at these shapes,
in the same round.

    python benchmarks/prefilter.py [--quick] [--rounds 3] [--out FILE] [--folder DIR]
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _claims import Claim, arguments, at_most, finish, median_ratio

PART_ROWS = 65_536
TIE = 1e-6


def unit_vectors(rows: int, dim: int, seed: list[int]) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_stage(folder: Path, rows: int, dim: int, seed: int, prefix: str = "EP", end_char: int = 0) -> None:
    """An embed stage's output of random unit vectors, of texts of `end_char` characters."""
    from patentft import schema
    from patentft.location import Location
    from patentft.search.embed import vector_column
    from patentft.store import open_stage

    stage = open_stage(Location(folder), "embed", {"rows": rows, "dim": dim, "seed": seed}, {})
    if stage.done:
        return
    for part, start in enumerate(range(0, rows, PART_ROWS)):
        count = min(PART_ROWS, rows - start)
        zeros = np.zeros(count, np.int32)
        columns: dict[str, Any] = {"id": [f"{prefix}{start + i:07}" for i in range(count)]}
        columns |= dict.fromkeys(("chunk", "num_tokens", "start_char"), zeros) | {"end_char": zeros + end_char}
        columns["vector"] = vector_column(unit_vectors(count, dim, [seed, part]))
        stage.write_part("embeddings", part, pa.table(columns).cast(schema.EMBEDDINGS))
    stage.finish()


# ---- what runs in a process of its own


def ours(folder: Path, k: int) -> float:
    """Seconds of the search as a Ray task runs it: from part files to sorted candidates with their ids."""
    from patentft.config import build
    from patentft.location import Location
    from patentft.search.prefilter import PART_SHIFT, Items, Queries, SearchConfig, prefilter
    from patentft.search.run import Pool
    from patentft.store import finished_stage

    patents, techniques = (finished_stage(Location(folder / name)) for name in ("patents", "techniques"))
    config = build(SearchConfig, {"patents": "patents", "techniques": "techniques", "data": "data", "top_k": k})
    start = time.perf_counter()
    queries = Queries(Items.from_table(techniques.read("embeddings", ["id", "chunk", "vector"])), "max")
    pool = Pool(config, patents, patents, None)
    hits = prefilter(lambda: pool.parts(0, len(patents.parts("embeddings"))), queries, k)
    seconds = time.perf_counter() - start
    rows = (hits.positions >> PART_SHIFT) * PART_ROWS + (hits.positions & ((1 << PART_SHIFT) - 1))
    np.savez(folder / "ours.npz", rows=rows, scores=hits.scores)
    return seconds


def bare_faiss(folder: Path, k: int) -> float:
    """Seconds of IndexFlatIP.search alone; reading the vectors and filling the index are not counted."""
    import faiss

    from patentft.location import Location
    from patentft.search.prefilter import vectors_of
    from patentft.store import finished_stage

    patents, techniques = (finished_stage(Location(folder / name)) for name in ("patents", "techniques"))
    queries = vectors_of(techniques.read("embeddings", ["vector"])["vector"])
    index = faiss.IndexFlatIP(queries.shape[1])
    for part in patents.iter_parts("embeddings", ["vector"]):
        index.add(vectors_of(part["vector"]))
    start = time.perf_counter()
    scores, rows = index.search(queries, k)
    seconds = time.perf_counter() - start
    np.savez(folder / "faiss.npz", rows=rows, scores=scores)
    return seconds


def sgemm(num_patents: int, num_techniques: int, dim: int) -> float:
    """Seconds of the bare product of all pairs, at the rate of the best block size, fp32."""
    import torch

    queries = torch.randn(num_techniques, dim)
    best = float("inf")
    for block in (2048, 8192):
        patents, out = torch.randn(block, dim), torch.empty(num_techniques, block)
        torch.mm(queries, patents.T, out=out)
        start, repeats = time.perf_counter(), 0
        while time.perf_counter() - start < 3:
            torch.mm(queries, patents.T, out=out)
            repeats += 1
        best = min(best, (time.perf_counter() - start) / repeats / block)
    return best * num_patents


def child(what: str, folder: Path, sizes: list[int]) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", what, "--folder", str(folder), "--sizes", *map(str, sizes)]
    repository = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([repository, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def run_child(what: str, folder: Path, sizes: list[int]) -> int:
    num_patents, num_techniques, dim, k = sizes
    steps = {"ours": lambda: ours(folder, k), "faiss": lambda: bare_faiss(folder, k)}
    steps["sgemm"] = lambda: sgemm(num_patents, num_techniques, dim)
    seconds = steps[what]()
    print(json.dumps({"seconds": seconds, "rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
    return 0


# ---- the comparison


def unexplained(folder: Path) -> tuple[int, int]:
    """(places where the two results name another patent, those of them that are not a tie within rounding)."""
    mine, peer = np.load(folder / "ours.npz"), np.load(folder / "faiss.npz")
    differing = mine["rows"] != peer["rows"]
    return int(differing.sum()), int((np.abs(mine["scores"] - peer["scores"]) > TIE).sum())


def main() -> int:
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, help="keep the vectors here (1 GB) for the next run")
    parser.add_argument("--child", help="(internal) run one measurement in this process")
    parser.add_argument("--sizes", type=int, nargs=4, metavar=("PATENTS", "TECHNIQUES", "DIM", "K"))
    options = parser.parse_args()
    if options.child:
        return run_child(options.child, options.folder, options.sizes)
    sizes = options.sizes or ([65_536, 2_100, 384, 200] if options.quick else [650_000, 4_200, 384, 200])
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)) / "x".join(map(str, sizes[:3]))
        write_stage(folder / "patents", sizes[0], sizes[2], seed=1)
        write_stage(folder / "techniques", sizes[1], sizes[2], seed=2)
        found: dict[str, list[dict[str, float]]] = {"ours": [], "faiss": [], "sgemm": []}
        for number in range(options.rounds):
            order = list(found) if number % 2 == 0 else list(found)[::-1]
            for what in order:
                found[what].append(child(what, folder, sizes))
                print(f"round {number + 1}: {what} {found[what][-1]['seconds']:.1f} s", file=sys.stderr)
        differing, wrong = unexplained(folder)
    seconds = {what: [each["seconds"] for each in runs] for what, runs in found.items()}
    rss = {what: max(each["rss_gib"] for each in runs) for what, runs in found.items()}
    size = f"{sizes[0]:,} x {sizes[1]:,} x {sizes[2]}, top {sizes[3]}"
    median = statistics.median(seconds["ours"])
    faiss = f"faiss.IndexFlatIP.search {statistics.median(seconds['faiss']):.1f} s"
    product = f"sgemm alone {statistics.median(seconds['sgemm']):.1f} s"
    claims = [
        at_most(
            f"prefilter {size}", median, "s", 1.2, peer=faiss, ratio=median_ratio(seconds["ours"], seconds["faiss"])
        ),
        Claim("the same", median, "s", product, median_ratio(seconds["ours"], seconds["sgemm"])),
        at_most("peak memory", rss["ours"], "GiB", 3, peer=f"FAISS {rss['faiss']:.2f} GiB"),
        Claim("places with another patent than FAISS", differing, "of all", f"{sizes[1] * sizes[3]:,} places"),
        at_most(f"of them not a tie within {TIE:g}", wrong, "", 0, peer="brute force"),
    ]
    return finish(claims, options.out, {"sizes": sizes, "rounds": options.rounds, "seconds": seconds, "rss_gib": rss})


if __name__ == "__main__":
    sys.exit(main())
