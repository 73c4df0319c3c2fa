"""A score stage's pairs and texts, as its driver holds them: a few bytes for a pair, no text.

    CANDIDATES, part by part -> technique, section and patent of each pair as numbers: 9 bytes for a pair
    PATENTS, part by part    -> the candidates' texts in a temporary file, of which the driver holds the places
    shard -> its rows of CANDIDATES, read again, with the texts of its own sections and patents: one Arrow table

Beside those 9 bytes memory holds the patents' ids and 12 bytes for each, the sections, and two parts of CANDIDATES.
The temporary file is as large as the texts; it is where TMPDIR says, and has no name, so that nothing is left of it.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported: a type checker sees none of them)

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from patentft.config import ConfigError
from patentft.corpus.lookup import section_texts
from patentft.corpus.text import COLUMNS, PatentField, patent_text
from patentft.scoring.plan import RowShards, swap_pairs
from patentft.store import StageFolder

Ints = npt.NDArray[np.int64]
ROWS_AT_ONCE = 4096
"""Of PATENTS: of so many the texts are Python strings at a time."""
PARTS_HELD = 2
"""Of CANDIDATES: a shard may lie across the end of one."""


class Candidates:
    """The table CANDIDATES of a finished stage by its rows, in file order."""

    def __init__(self, stage: StageFolder) -> None:
        """One pass over the parts. Raises ConfigError when there is no pair."""
        self._stage = stage
        self._entries = stage.parts("candidates")
        self._held: dict[int, pa.Table] = {}
        self.sections: list[tuple[str, int]] = []
        """(technique_id, chunk), in the order they first come."""
        self.patent_ids = pa.array([], pa.string())
        """Each once, in the order they first come."""
        self.roles: list[str] = []
        sections: dict[tuple[str, int], int] = {}
        roles: dict[str, int] = {}
        found: list[tuple[npt.NDArray, npt.NDArray, npt.NDArray]] = []
        for entry in self._entries:
            part = stage.read_part(entry, ["technique_id", "patent_id", "role", "chunk"])
            found.append((_numbered_sections(part, sections), self._numbered_patents(part), _numbered(part, roles)))
        self.section, self.patent, self.role = (np.concatenate(several) for several in zip(*found, strict=True))
        """(pairs,) each pair's place in `sections`, `patent_ids` and `roles`: int32, int32, int8."""
        self._starts = np.cumsum([0, *(len(part) for _, part, _ in found)])
        self.sections, self.roles = list(sections), list(roles)
        if not len(self):
            raise ConfigError(f"stage {stage.name!r} found no candidates: nothing to score")

    def __len__(self) -> int:
        return len(self.section)

    def _numbered_patents(self, part: pa.Table) -> npt.NDArray:
        ids = part["patent_id"].combine_chunks()
        new = ids.filter(pc.is_null(pc.index_in(ids, value_set=self.patent_ids)))
        if len(new):
            self.patent_ids = pa.concat_arrays([self.patent_ids, pc.unique(new)])
        return np.asarray(pc.index_in(ids, value_set=self.patent_ids)).astype(np.int32)

    def take(self, rows: Ints) -> pa.Table:
        """These rows, in the order given. Reads the parts that they lie in."""
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        cuts = np.searchsorted(ordered, self._starts)
        pieces = [
            self._part(part).take(pa.array(ordered[low:high] - self._starts[part]))
            for part, (low, high) in enumerate(pairwise(cuts))
            if high > low
        ]
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        return pa.concat_tables(pieces).combine_chunks().take(pa.array(back))

    def _part(self, index: int) -> pa.Table:
        table = self._held.pop(index, None)
        if table is None:
            table = self._stage.read_part(self._entries[index]).combine_chunks()
        self._held[index] = table
        while len(self._held) > PARTS_HELD:
            self._held.pop(next(iter(self._held)))
        return table

    def matched(self, rows: Ints, matches: pa.Table) -> npt.NDArray[np.bool_]:
        """(rows,) whether the pair is in `matches`, a table of technique_id and patent_id. Rises with both lengths."""
        techniques, technique_of = self.techniques()
        wide = len(self.patent_ids)
        known = [
            pc.index_in(matches[name].combine_chunks(), value_set=values)
            for name, values in (("technique_id", pa.array(techniques, pa.string())), ("patent_id", self.patent_ids))
        ]
        scored = pc.and_(pc.is_valid(known[0]), pc.is_valid(known[1]))
        technique, patent = (np.asarray(each.filter(scored)).astype(np.int64) for each in known)
        pairs = technique_of[self.section[rows]].astype(np.int64) * wide + self.patent[rows]
        return np.isin(pairs, technique * wide + patent)

    def techniques(self) -> tuple[list[str], npt.NDArray]:
        """(the ids in their order, (sections,) the place there of each section's technique)."""
        names = sorted({technique for technique, _ in self.sections})
        place = {name: number for number, name in enumerate(names)}
        return names, np.array([place[technique] for technique, _ in self.sections], np.int32)


def _numbered_sections(part: pa.Table, sections: dict[tuple[str, int], int]) -> npt.NDArray:
    encoded = part["technique_id"].combine_chunks().dictionary_encode()
    keys = np.asarray(encoded.indices).astype(np.int64) << 32 | part["chunk"].to_numpy()
    _, first, codes = np.unique(keys, return_index=True, return_inverse=True)
    names = encoded.dictionary.to_pylist()
    numbers = np.empty(len(first), np.int32)
    for place in np.argsort(first).tolist():
        key = int(keys[first[place]])
        numbers[place] = sections.setdefault((names[key >> 32], key & 0xFFFFFFFF), len(sections))
    return numbers[codes.reshape(-1)]


def _numbered(part: pa.Table, values: dict[str, int]) -> npt.NDArray:
    encoded = part["role"].combine_chunks().dictionary_encode()
    numbers = [values.setdefault(value, len(values)) for value in encoded.dictionary.to_pylist()]
    return np.array(numbers, np.int8)[np.asarray(encoded.indices)]


def chosen_swaps(candidates: Candidates, matches: pa.Table, count: int, seed: int) -> list[tuple[int, str]]:
    """(row of the candidates, another technique's id) of the test side, without one of the first pair's."""
    side = candidates.roles.index("test") if "test" in candidates.roles else int(candidates.role[0])
    rows = np.flatnonzero(candidates.role == side)
    names, technique_of = candidates.techniques()
    chosen = swap_pairs(technique_of[candidates.section[rows]], candidates.matched(rows, matches), count, seed)
    return [(int(rows[row]), names[other]) for row, other in chosen]


class TextFile:
    """Texts on disk, read by their places. Not to be pickled: it lives where it was made."""

    def __init__(self, num_texts: int) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 it is closed with the object
        self._starts = np.zeros(num_texts, np.int64)
        self._lengths = np.full(num_texts, -1, np.int32)
        self._end = 0

    def write(self, places: Sequence[int] | npt.NDArray, texts: Sequence[str]) -> None:
        encoded = [text.encode() for text in texts]
        lengths = np.array([len(each) for each in encoded], np.int64)
        self._starts[places] = self._end + np.cumsum(lengths) - lengths
        self._lengths[places] = lengths
        self._file.write(b"".join(encoded))
        self._end += int(lengths.sum())

    def absent(self) -> Ints:
        """Places of which no text was written."""
        return np.flatnonzero(self._lengths < 0)

    def read(self, places: npt.NDArray) -> pa.Array:
        """(places,) large_string."""
        self._file.flush()
        descriptor, lengths = self._file.fileno(), self._lengths[places]
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        read = [
            os.pread(descriptor, length, start)
            for length, start in zip(lengths.tolist(), self._starts[places].tolist(), strict=True)
        ]
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(read))]
        return pa.Array.from_buffers(pa.large_string(), len(lengths), buffers)

    def close(self) -> None:
        self._file.close()


def patent_file(data: StageFolder, fields: Sequence[PatentField], wanted: pa.Array) -> TextFile:
    """The texts of the patents `wanted`, by their places in it. Raises ConfigError for one that is not in `data`."""
    texts = TextFile(len(wanted))
    for part in data.iter_parts("patents", ["patent_id", *dict.fromkeys(COLUMNS[field] for field in fields)]):
        places = pc.index_in(part["patent_id"].combine_chunks(), value_set=wanted)
        rows = np.flatnonzero(np.asarray(places.is_valid()))
        places = np.asarray(places.drop_null())
        for low in range(0, len(rows), ROWS_AT_ONCE):
            some = slice(low, low + ROWS_AT_ONCE)
            texts.write(places[some], patent_text(part.take(pa.array(rows[some])), fields))
    absent = texts.absent()
    if len(absent):
        texts.close()
        missing = min(wanted.take(pa.array(absent)).to_pylist())
        raise ConfigError(f"stage {data.name!r} has no patent {missing!r} (and {len(absent) - 1} more)")
    return texts


class Shards:
    """What an actor is sent: CANDIDATES with the columns `section` and `patent`, their texts."""

    def __init__(
        self, candidates: Candidates, rows: RowShards, sections: Mapping[tuple[str, int], str], patents: TextFile
    ) -> None:
        """sections: the texts of all techniques' chunks."""
        self.candidates, self.rows, self.sections, self.patents = candidates, rows, sections, patents

    @classmethod
    def open(
        cls,
        candidates: Candidates,
        rows: RowShards,
        data: StageFolder,
        embedded: StageFolder,
        fields: Sequence[PatentField],
    ) -> Shards:
        """Reads the texts. data: with patents and techniques; embedded: the techniques' embed stage."""
        sections = section_texts(data, embedded, {technique for technique, _ in candidates.sections})
        absent = [section for section in candidates.sections if section not in sections]
        if absent:
            technique, chunk = min(absent)
            raise ConfigError(
                f"stage {embedded.name!r} has no chunk {chunk} of technique {technique!r} (and {len(absent) - 1} more "
                f"that are among the candidates): set techniques to the stage that was searched with"
            )
        return cls(candidates, rows, sections, patent_file(data, fields, candidates.patent_ids))

    def table(self, shard: int) -> pa.Table:
        return self._with_texts(self.rows[shard])

    def swap_table(self, swaps: Sequence[tuple[int, str]]) -> pa.Table:
        """Pairs of `chosen_swaps`, with the columns `other_id` and `other`, the other technique's first chunk."""
        others = pa.array([other for _, other in swaps], pa.string())
        texts = pa.array([self.sections[other, 0] for _, other in swaps], pa.large_string())
        table = self._with_texts(np.array([row for row, _ in swaps], np.int64))
        return table.append_column("other_id", others).append_column("other", texts)

    def _with_texts(self, rows: Ints) -> pa.Table:
        numbers, codes = np.unique(self.candidates.section[rows], return_inverse=True)
        texts = [self.sections[self.candidates.sections[number]] for number in numbers.tolist()]
        # a section that many pairs share goes once
        section = pa.DictionaryArray.from_arrays(pa.array(codes.reshape(-1), pa.int32()), pa.array(texts, pa.string()))
        table = self.candidates.take(rows).append_column("section", section)
        return table.append_column("patent", self.patents.read(self.candidates.patent[rows]))

    def close(self) -> None:
        self.patents.close()
