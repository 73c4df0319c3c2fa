"""README.md of a dataset folder: what `datasets` reads (which files are which split) and what a person reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patentft import __version__
from patentft.config import to_yaml

SPLITS = {"valid": "validation"}
"""Our role -> the split's name, where it has another."""


def card(title: str, license: str | None, counts: Mapping[str, Any], made_from: str) -> bytes:
    """The card, UTF-8. counts: as in the export's manifest."""
    files = [{"split": SPLITS.get(role, role), "path": f"data/{role}-*.parquet"} for role in counts["rows"]]
    head: dict[str, Any] = {"pretty_name": title, "configs": [{"config_name": "default", "data_files": files}]}
    if license is not None:
        head = {"license": license, **head}
    tokens = counts.get("tokens", {})
    table = ["| split | rows |" + (" tokens |" if tokens else ""), "|---|---|" + ("---|" if tokens else "")]
    for role, rows in counts["rows"].items():
        table.append(f"| {SPLITS.get(role, role)} | {rows:,} |" + (f" {tokens[role]:,} |" if tokens else ""))
    left_out = (
        f"{counts['quarantined']:,} rows in quarantine, {counts['other_roles']:,} of roles that were not asked for"
    )
    text = [
        "---",
        to_yaml(head).rstrip(),
        "---",
        "",
        f"# {title}",
        "",
        *table,
        "",
        f"Made with patentft {__version__} from {made_from}: {counts['read']:,} rows read, left out: {left_out}.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'rows = load_dataset("path/of/this/folder")',
        "```",
        "",
    ]
    return "\n".join(text).encode()
