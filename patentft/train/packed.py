"""PACKED parts as arrays that are mapped, not read: any row of any part in microseconds, memory held by the page cache.

    packed/part-00003.parquet -> encoded/train/part-00003.safetensors   input_ids, segment_ids (rows, tokens) int32
                              -> encoded/train/rows.safetensors         num_tokens, num_segments of every row,
                                                                      segment_tokens of every segment

Every part has equally many rows, so row i is row i % rows_per_part of part i // rows_per_part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors.numpy import load, save

from patentft.config import ConfigError
from patentft.location import Location
from patentft.objectives.packed import ArrayRows
from patentft.store import StageFolder


def write(source: StageFolder, folder: StageFolder, side: str, vocabulary_size: int) -> Iterator[int]:
    """Commit the arrays of every part of `source` (a pack stage) that are not there; yields each part's number.

    Raises ConfigError when a token is beyond the model's vocabulary: another tokenizer made it.
    """
    entries = source.parts("packed")
    sums: dict[str, list[npt.NDArray[np.int64]]] = {"num_tokens": [], "num_segments": [], "segment_tokens": []}
    for index, entry in enumerate(entries):
        table = source.read_part(entry, ["input_ids", "segment_ids"])
        part = ArrayRows(*(_matrix(table[name]) for name in ("input_ids", "segment_ids")))
        largest = int(part.input_ids.max(initial=0))
        if largest >= vocabulary_size:
            raise ConfigError(
                f"stage {source.name!r} holds token {largest}, the model knows {vocabulary_size}: tokenize with the "
                f"model's own tokenizer (tokenizer of the tokenize stage)"
            )
        if not folder.has_file(_part_file(side, index)):
            folder.write_file(
                _part_file(side, index), save({"input_ids": part.input_ids, "segment_ids": part.segment_ids})
            )
        for name, found in sums.items():
            found.append(getattr(part, name))
        yield index
    rows = {name: np.concatenate(found) for name, found in sums.items()}
    folder.write_file(f"encoded/{side}/rows.safetensors", save(rows))


def _part_file(side: str, index: int) -> str:
    return f"encoded/{side}/part-{index:05d}.safetensors"


def _matrix(column: pa.ChunkedArray) -> npt.NDArray[np.int32]:
    array = column.combine_chunks()
    return np.ascontiguousarray(array.flatten().to_numpy().reshape(len(array), -1), dtype=np.int32)


class MappedRows:
    """Rows of `write`'s arrays. On an object store they are copied into `scratch` first."""

    def __init__(self, stage: Location, side: str, scratch: Path) -> None:
        sums = load((stage / f"encoded/{side}/rows.safetensors").read_bytes())
        self.num_tokens: npt.NDArray[np.int64] = sums["num_tokens"]
        self.num_segments: npt.NDArray[np.int64] = sums["num_segments"]
        self.segment_tokens: npt.NDArray[np.int64] = sums["segment_tokens"]
        folder = stage / f"encoded/{side}"
        names = sorted(name for name in folder.names() if name.startswith("part-"))
        if stage.is_local:
            paths = [Path((folder / name).path) for name in names]
        else:
            paths = [scratch / f"{side}-{name}" for name in names]
            for path, name in zip(paths, names, strict=True):
                path.write_bytes((folder / name).read_bytes())
        self._parts = [_mapped(path) for path in paths]
        self.num_rows = len(self.num_tokens)
        self.tokens_per_row = int(self._parts[0]["input_ids"].shape[1])

    def row(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """(input_ids, segment_ids), each (tokens_per_row,)."""
        part, row = divmod(index, len(self._parts[0]["input_ids"]))
        return self._parts[part]["input_ids"][row], self._parts[part]["segment_ids"][row]


def _mapped(path: Path) -> dict[str, npt.NDArray[np.int32]]:
    """The file's arrays, mapped: 8 bytes of the header's length, the header (JSON), the arrays' bytes."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(size))
    return {
        name: np.memmap(path, np.int32, "r", 8 + size + about["data_offsets"][0], tuple(about["shape"]))
        for name, about in header.items()
        if name != "__metadata__"
    }
