"""What every benchmark prints: a table of claims, the same as JSON with --out, exit status 1 when one does not hold."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Claim:
    """One measured statement. `target` None: for information, always holds."""

    claim: str
    value: float
    unit: str
    peer: str = ""
    """The peer or limit that `ratio` compares with."""
    ratio: float | None = None
    target: str | None = None
    holds: bool = True


def at_most(claim: str, value: float, unit: str, limit: float, *, peer: str = "", ratio: float | None = None) -> Claim:
    """Holds when the ratio (or, without one, the value) is at most `limit`."""
    return Claim(claim, value, unit, peer, ratio, f"<= {limit:g}", (value if ratio is None else ratio) <= limit)


def at_least(claim: str, value: float, unit: str, limit: float, *, peer: str = "", ratio: float | None = None) -> Claim:
    """Holds when the ratio (or, without one, the value) is at least `limit`."""
    return Claim(claim, value, unit, peer, ratio, f">= {limit:g}", (value if ratio is None else ratio) >= limit)


def median_ratio(ours: Sequence[float], peers: Sequence[float]) -> float:
    """Median over interleaved pairs of ours / peer: a slow minute of the machine hits both of a pair."""
    return statistics.median(a / b for a, b in zip(ours, peers, strict=True))


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, help="write the claims as JSON to this file")
    parser.add_argument("--quick", action="store_true", help="a small size, in about a minute")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved measurements of ours and the peer")
    return parser


def finish(claims: Sequence[Claim], out: Path | None, settings: dict[str, object]) -> int:
    """Print the table, write the JSON, return the exit status."""
    rows = [("claim", "value", "unit", "peer or limit", "ratio", "target", "holds")]
    for each in claims:
        ratio = "" if each.ratio is None else f"{each.ratio:.3f}"
        holds = "-" if each.target is None else "yes" if each.holds else "NO"
        rows.append((each.claim, f"{each.value:,.4g}", each.unit, each.peer, ratio, each.target or "-", holds))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if out:
        machine = {"cpus": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "platform": platform.platform()}
        document = {"claims": [asdict(each) for each in claims], "settings": settings, "machine": machine}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(each.holds for each in claims) else 1
