"""A run's own tokenizer: of an objective that adds tokens (`prepare_tokenizer`), in <stage>/encoded/tokenizer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from patentft.location import Location
from patentft.store import StageFolder

FOLDER = "encoded/tokenizer"
LAST = "tokenizer_config.json"
"""Written last: with it, the tokenizer is whole."""


def write(tokenizer: Any, folder: StageFolder) -> None:
    """Commit the tokenizer's files."""
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        for path in sorted(Path(scratch).iterdir(), key=lambda path: path.name == LAST):
            folder.write_file(f"{FOLDER}/{path.name}", path.read_bytes())


def fetch(stage: Location, scratch: Path) -> str | None:
    """The local folder of the run's own tokenizer, copied into `scratch`; None where it uses its model's."""
    place = stage / FOLDER
    if LAST not in place.names():
        return None
    own = scratch / "tokenizer"
    own.mkdir(exist_ok=True)
    for name in place.names():
        (own / name).write_bytes((place / name).read_bytes())
    return str(own)
