"""The corpus at full size: stages `texts`, `labels`, `near_duplicates`, `divide`, `tokenize`, `pack`. The Ray side.

    raw files ──texts──► TEXTS ──labels──► LABELS
                           ├──near_duplicates──► NEAR_DUPLICATES ──┐
                           ├──divide──► text_roles ◄───────────────┘
                           └──tokenize──► TOKENS ──pack──► PACKED

Every stage works part by part: a part is made of one part of its input (packed parts: of a short run of every token
part), by whichever worker is free, and is committed by itself. What needs all rows (ids, labels, groups, the plan of
the packing) is a few numbers per row, in the process that runs the stage.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported: a type checker sees none of them)

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray

from patentft import schema
from patentft.cluster import map_parts, share_cpus
from patentft.config import ConfigError
from patentft.corpus.lookup import roles_of
from patentft.corpus.read import RawRow, columns_of, list_files
from patentft.corpus.texts import divide, duplicates, labels, pack
from patentft.corpus.texts.divide import DUPLICATE, SIDES, UNUSED, DivideConfig
from patentft.corpus.texts.duplicates import DuplicatesConfig
from patentft.corpus.texts.labels import LabelsConfig
from patentft.corpus.texts.pack import PackConfig, PackPlan, TokenizeConfig
from patentft.corpus.texts.records import Block, blocks_of
from patentft.corpus.texts.source import (
    COLUMNS,
    BlockReader,
    TextsConfig,
    as_texts,
    check_columns,
    match_texts,
    quarantine_of_duplicates,
)
from patentft.corpus.tokenizer import TEXTS_PER_CALL, load_tokenizer
from patentft.location import Location
from patentft.stage import Context, Stage
from patentft.store import StageFolder

# ---- texts


def run_texts(config: TextsConfig, context: Context) -> dict[str, Any]:
    """Tables texts and quarantine. Part i is made of the i-th block of records; part n + i of quarantine holds the
    later rows of a doubled id. Counts: rows read = kept + quarantined, reasons, what cleaning changed, languages.
    """
    folder = context.folder
    if config.data:
        source, blocks = config.data, _blocks_of_stage(context.input(config.data), config.table, config.rows_per_part)
    else:
        assert config.files is not None
        source, blocks = config.files, _blocks_of_files(config, list_files(config.files))
    starts: list[tuple[str, int, int]] = []  # per part: file, first row, rows
    for _ in context.progress.bar(_read_blocks(config, folder, blocks, starts), None, "texts: parts"):
        pass
    if not starts:
        raise ConfigError(f"{source}: there is no row in it")
    num_parts = len(starts)
    _drop_doubled_ids(config, folder, starts)
    counts: Counter[str] = Counter()
    nested: dict[str, Counter[str]] = {"reasons": Counter(), "languages": Counter()}
    for index in range(num_parts):
        part = json.loads((folder.location / _counts_file(index)).read_bytes())
        for name, value in part.items():
            nested[name].update(value) if name in nested else counts.update({name: value})
    doubled = sum(
        folder.entry("quarantine", num_parts + index).rows or 0
        for index in range(num_parts)
        if folder.has_part("quarantine", num_parts + index)
    )
    counts["kept"] -= doubled
    counts["quarantined"] += doubled
    if doubled:
        nested["reasons"]["duplicate id"] += doubled
    if not counts["kept"]:
        raise ConfigError(
            f"{source}: none of its {counts['read']:,} rows is good; reasons: {dict(nested['reasons'])}"
        )
    if counts["quarantined"]:
        context.progress.warn(
            f"{counts['quarantined']:,} of {counts['read']:,} rows are in {folder.location / 'quarantine'}: "
            f"{dict(nested['reasons'])}"
        )
    return dict(counts) | {name: dict(sorted(value.items())) for name, value in nested.items() if value}


def _blocks_of_files(config: TextsConfig, files: Sequence[Location]) -> Iterator[Block]:
    for file in files:  # all of them before the first hour of work
        names = columns_of(file, config.delimiter, config)
        if names is not None:
            check_columns(config, str(file), names)
    # columns of Parquet to read; all of them where the indicator columns are known by a pattern only
    wanted = None if config.indicator_columns else [config.columns.get(name, name) for name in COLUMNS]
    for file in files:
        yield from blocks_of(file, config.rows_per_part, config.delimiter, wanted, config)


def _blocks_of_stage(stage: StageFolder, table: str, rows_per_block: int) -> Iterator[Block]:
    """A part's rows in blocks; their file is the part, so that a quarantined row can be found again."""
    titles = [_titles(stage, noun) for noun in ("technique", "patent")] if table == "matches" else []
    for entry in stage.parts(table):
        file = str(stage.location / entry.path)
        part = stage.read_part(entry)
        rows = match_texts(part, *titles) if titles else as_texts(table, part)
        for first in range(0, len(rows), rows_per_block):
            several = [RawRow(file, first + n, row) for n, row in enumerate(rows[first : first + rows_per_block])]
            yield Block(file, "parquet", first, len(several), several)


def _titles(stage: StageFolder, noun: str) -> dict[str, str]:
    columns = stage.read(f"{noun}s", [f"{noun}_id", "title"])
    return dict(zip(*(column.to_pylist() for column in columns.columns), strict=True))


def _counts_file(index: int) -> str:
    return f"counts/part-{index:05d}.json"


def _read_blocks(
    config: TextsConfig, folder: StageFolder, blocks: Iterator[Block], starts: list[tuple[str, int, int]]
) -> Iterator[int]:
    """Reads blocks here and has them made into parts by tasks, a few more at a time than there are workers."""
    _, cpus = share_cpus(config.workers, 1.0)
    task = ray.remote(num_cpus=cpus, max_retries=5)(_write_texts)
    running: list[Any] = []

    def wait(limit: int) -> Iterator[int]:
        while len(running) > limit:
            ready, running[:] = ray.wait(running, num_returns=1)
            yield _result(ready[0])

    for index, block in enumerate(blocks):
        starts.append((block.file, block.first_row, block.num_rows))
        if not folder.has_part("texts", index):
            running.append(task.remote(config, folder, index, block))
        yield from wait(config.workers + 1)
    yield from wait(0)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ConfigError):  # without the worker's traceback: it is for the user to mend
            raise error.cause from None
        raise


@lru_cache(maxsize=2)
def _reader(config: str) -> BlockReader:
    return BlockReader(TextsConfig.model_validate_json(config))


def _write_texts(config: TextsConfig, folder: StageFolder, index: int, block: Block) -> int:
    part = _reader(config.model_dump_json()).read(block)
    folder.write_file(_counts_file(index), json.dumps(part.counts).encode())
    folder.write_part("quarantine", index, part.quarantine)
    folder.write_part("texts", index, part.texts)  # last: a part that is done has the other two
    return index


def _drop_doubled_ids(config: TextsConfig, folder: StageFolder, starts: list[tuple[str, int, int]]) -> None:
    """Refuses ids that are there twice, or moves the later rows to quarantine.

    Cut short and begun again, it finds the same rows doubled in the parts that it has not come to.
    """
    num_parts = len(starts)
    columns = [folder.read_part(folder.entry("texts", index), ["text_id"])["text_id"] for index in range(num_parts)]
    ids = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()).dictionary_encode()
    codes = np.concatenate(
        [np.zeros(0, np.int64), *(chunk.indices.to_numpy() for chunk in ids.unify_dictionaries().chunks)]
    )
    first = np.full(int(codes.max(initial=-1)) + 1, -1, np.int64)
    places = np.arange(len(codes))
    first[codes[::-1]] = places[::-1]
    doubled = np.flatnonzero(first[codes] != places)
    if not len(doubled):
        return
    bounds = np.concatenate([[0], np.cumsum([len(column) for column in columns])])
    if config.duplicate_ids == "refuse":
        part = int(np.searchsorted(bounds, doubled[0], side="right")) - 1
        value = columns[part][int(doubled[0] - bounds[part])].as_py()
        raise ConfigError(
            f"{starts[part][0]}: {len(doubled):,} rows have a text_id that an earlier row has, the first is {value!r}; "
            f"set duplicate_ids: first to keep the first of each, or columns.text_id to a column that is unique"
        )
    for index in np.unique(np.searchsorted(bounds, doubled, side="right") - 1).tolist():
        rows = doubled[(doubled >= bounds[index]) & (doubled < bounds[index + 1])] - bounds[index]
        texts = folder.read_part(folder.entry("texts", index))
        file, first_row, num_rows = starts[index]
        rejected = folder.read_part(folder.entry("quarantine", index), ["row"])["row"].to_numpy()
        raw = np.setdiff1d(np.arange(first_row, first_row + num_rows), rejected)  # the raw row of each kept one
        # the quarantine first: a text is never in neither table
        found = quarantine_of_duplicates(texts, rows.tolist(), raw.tolist(), file)
        folder.write_part("quarantine", num_parts + index, found)
        keep = np.ones(texts.num_rows, bool)
        keep[rows] = False
        folder.write_part("texts", index, texts.filter(pa.array(keep)))


# ---- labels


def run_labels(config: LabelsConfig, context: Context) -> dict[str, Any]:
    """Table labels, its parts aligned with those of texts; labels.json: the vocabulary with its counts."""
    source, folder = context.input(config.data), context.folder
    entries = source.parts("texts")
    codes = (source.read_part(entry, ["codes"])["codes"] for entry in entries)
    names, counts = labels.vocabulary(codes, config)
    index_of = {name: index for index, name in enumerate(names)}
    listed = {"level": config.level, "labels": names, "texts": {name: counts.get(name) for name in names}}
    folder.write_file("labels.json", (json.dumps(listed, indent=1) + "\n").encode())
    green = rows = 0
    for index in context.progress.bar(range(len(entries)), len(entries), "labels"):
        if not folder.has_part("labels", index):
            texts = source.read_part(entries[index], ["text_id", "codes"])
            folder.write_part("labels", index, labels.label_part(texts, index_of, config))
        part = folder.read_part(folder.entry("labels", index), ["green"])
        green, rows = green + pc.sum(part["green"], min_count=0).as_py(), rows + part.num_rows
    rare = {code: count for code, count in counts.items() if code not in index_of}
    return {
        "rows": rows,
        "green": green,
        "prevalence": round(green / rows, 6) if rows else None,
        "labels": len(names),
        "rare_codes": len(rare),
        "texts_of_rare_codes": sum(rare.values()),
    }


# ---- near_duplicates


def run_near_duplicates(config: DuplicatesConfig, context: Context) -> dict[str, Any]:
    """Table near_duplicates (one part). Counts: candidates by LSH, pairs that hold, groups, texts in them."""
    source, folder = context.input(config.data), context.folder
    entries = source.parts("texts")
    missing = [index for index in range(len(entries)) if not folder.has_file(_keys_file(index))]
    _, cpus = share_cpus(config.workers, 1.0, context.progress.say)
    arguments = {"config": config, "source": source, "folder": folder}
    finished = map_parts(missing, _KeysWorker, arguments, workers=config.workers, cpus=cpus)
    for _ in context.progress.bar(finished, len(missing), "near_duplicates: signatures"):
        pass
    keys = np.concatenate([_load(folder, _keys_file(index)) for index in range(len(entries))])
    pairs = duplicates.candidate_pairs(keys)
    del keys
    ids, sets = _shingles_of(np.unique(pairs), config, source)
    place = {row: index for index, row in enumerate(np.unique(pairs).tolist())}
    similarity = np.fromiter(
        (duplicates.jaccard(sets[place[i]], sets[place[j]]) for i, j in pairs.tolist()), np.float64, len(pairs)
    )
    found = list(duplicates.groups(pairs, similarity, config.jaccard))
    columns = {
        "text_id": [ids[place[row]] for row, _, _ in found],
        "group_id": [ids[place[first]] for _, first, _ in found],
        "jaccard": [value for _, _, value in found],
    }
    folder.write_part("near_duplicates", 0, pa.Table.from_pydict(columns, schema=schema.NEAR_DUPLICATES))
    num_groups = len({first for _, first, _ in found})
    return {
        "candidate_pairs": len(pairs),
        "pairs": int((similarity >= config.jaccard).sum()),
        "groups": num_groups,
        "texts_in_groups": len(found),
        "beyond_the_first": len(found) - num_groups,
    }


def _keys_file(index: int) -> str:
    return f"keys/part-{index:05d}.npy"


class _KeysWorker:
    def __init__(self, config: DuplicatesConfig, source: StageFolder, folder: StageFolder) -> None:
        self.config, self.source, self.folder = config, source, folder
        self.entries = source.parts("texts")

    def write(self, index: int) -> None:
        texts = self.source.read_part(self.entries[index], ["text"])["text"].to_pylist()
        keys = duplicates.band_keys(texts, self.config.shingle_words, self.config.seed)
        _save(self.folder, _keys_file(index), keys)


def _shingles_of(
    rows: NDArray[np.int64], config: DuplicatesConfig, source: StageFolder
) -> tuple[list[str], list[NDArray[np.uint32]]]:
    """Ids and shingles (32 bits of their hashes) of the texts at `rows`, which rise."""
    shingler = duplicates.Shingler(config.shingle_words)
    ids: list[str] = []
    sets: list[NDArray[np.uint32]] = []
    first = 0
    for part in source.iter_parts("texts", ["text_id", "text"]):
        low, high = np.searchsorted(rows, [first, first + part.num_rows])
        chosen = part.take(pa.array(rows[low:high] - first))
        first += part.num_rows
        ids += chosen["text_id"].to_pylist()
        sets += [np.unique((shingler(text) >> np.uint64(32)).astype(np.uint32)) for text in chosen["text"].to_pylist()]
    return ids, sets


# ---- divide


def run_divide(config: DivideConfig, context: Context) -> dict[str, Any]:
    """Table text_roles, its parts aligned with those of texts. Counts: rows, prevalence and near-duplicates per
    side."""
    source, folder = context.input(config.data), context.folder
    parts = list(source.iter_parts("texts", ["text_id", "patent_id", "family_id", "date"]))
    table = pa.concat_tables(parts)
    ids = table["text_id"].combine_chunks()
    owners = _owners(table, config)
    keys = divide.hashes(owners.dictionary.to_pylist(), config.seed)[owners.indices.to_numpy()]
    pairs, grouped, dropped = _near_duplicates(config, context, ids)
    unit = divide.units(owners.indices.to_numpy().astype(np.int64), pairs)
    if config.split:
        split = context.input(config.split)
        roles = roles_of(split, "patent_roles") | roles_of(split, "technique_roles")
        side = divide.by_split(ids.to_pylist(), table["patent_id"].to_pylist(), roles, config.split)
    elif config.test_from and config.valid_from:
        day = pc.fill_null(pc.cast(table["date"], pa.int32()).cast(pa.int64()), np.iinfo(np.int64).min)
        side = divide.by_date(unit, day.to_numpy(), config.valid_from, config.test_from)
    else:
        side = divide.by_hash(unit, keys, config.fractions)
    side[dropped] = -1
    green = _green(config, context, len(ids))
    if config.balance and green is not None:
        own = divide.hashes(ids.to_pylist(), config.seed + 1)
        side[~divide.balanced(side, green, own, config.balance)] = -1
    names = np.asarray([*SIDES, UNUSED, DUPLICATE], dtype=object)
    given = names[np.where(dropped, 4, np.where(side < 0, 3, side))]
    first = 0
    for index, part in enumerate(parts):
        rows = {"id": part["text_id"], "role": pa.array(given[first : first + part.num_rows], pa.string())}
        folder.write_part("text_roles", index, pa.table(rows, schema=schema.ROLES))
        first += part.num_rows
    counts = divide.counts_of(side, green, grouped, dropped)
    empty = [name for name in SIDES if not counts[name]["rows"]]
    if empty:
        context.progress.warn(f"{folder.name}: no text is on the side {' or '.join(empty)}")
    return counts


def _owners(table: pa.Table, config: DivideConfig) -> pa.DictionaryArray:
    """Whose each text is: its family, else its patent, else itself; told apart by a prefix."""
    owner = pc.binary_join_element_wise("text", table["text_id"], "\x1f")
    if config.by in ("family", "patent"):
        owner = pc.coalesce(pc.binary_join_element_wise("patent", table["patent_id"], "\x1f"), owner)
    if config.by == "family":
        owner = pc.coalesce(pc.binary_join_element_wise("family", table["family_id"], "\x1f"), owner)
    return owner.combine_chunks().dictionary_encode()


def _near_duplicates(
    config: DivideConfig, context: Context, ids: pa.Array
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """(pairs of texts that stay together (P, 2), which texts are in a group, which are dropped)."""
    none = np.zeros(len(ids), bool)
    if config.near_duplicates is None:
        return np.zeros((0, 2), np.int64), none, none.copy()
    listed = context.input(config.near_duplicates).read("near_duplicates")
    at, of = (pc.index_in(listed[column].combine_chunks(), value_set=ids) for column in ("text_id", "group_id"))
    if at.null_count or of.null_count:
        raise ConfigError(
            f"{config.near_duplicates!r} lists texts that {config.data!r} lacks: was it made of another texts stage?"
        )
    pairs = np.stack([at.to_numpy(), of.to_numpy()], axis=1).astype(np.int64)
    grouped, dropped = none, none.copy()
    grouped[pairs[:, 0]] = True
    if config.duplicates == "first":
        dropped[pairs[pairs[:, 0] != pairs[:, 1], 0]] = True
    return pairs, grouped, dropped


def _green(config: DivideConfig, context: Context, num_texts: int) -> NDArray[np.bool_] | None:
    if config.labels is None:
        return None
    green = context.input(config.labels).read("labels", ["green"])["green"].to_numpy() == 1
    if len(green) != num_texts:
        raise ConfigError(
            f"{config.labels!r} has {len(green):,} rows and {config.data!r} {num_texts:,}: not labels of these texts"
        )
    return green


# ---- tokenize


GROUPS_PER_PART = 64
"""A token part can be read in so many pieces: packing reads short runs of every part."""


def run_tokenize(config: TokenizeConfig, context: Context) -> dict[str, Any]:
    """Table tokens: part i holds the chosen texts of texts' part i, in the order of the shuffle."""
    source, folder = context.input(config.data), context.folder
    entries = source.parts("texts")
    missing = [index for index in range(len(entries)) if not folder.has_part("tokens", index)]
    _, cpus = share_cpus(config.workers, 1.0, context.progress.say)
    arguments = {
        "config": config,
        "tokenizer": context.model(config.tokenizer),
        "source": source,
        "roles": context.input(config.roles) if config.roles else None,
        "folder": folder,
    }
    for _ in context.progress.bar(
        map_parts(missing, _TokenizeWorker, arguments, workers=config.workers, cpus=cpus), len(missing), "tokenize"
    ):
        pass
    lengths = np.concatenate([_load(folder, _lengths_file(index))["length"] for index in range(len(entries))])
    if not len(lengths):
        raise ConfigError(f"{folder.name}: no text is on the side {config.role!r} of {config.roles!r}")
    return {
        "texts": len(lengths),
        "tokens": int(lengths.sum()),
        "longest": int(lengths.max()),
        "median_tokens": float(np.median(lengths)),
        "vocabulary_size": json.loads((folder.location / "tokenizer.json").read_bytes())["vocabulary_size"],
    }


def _lengths_file(index: int) -> str:
    return f"lengths/part-{index:05d}.npy"


_LENGTHS = np.dtype([("key", np.uint64), ("length", np.int32)])


class _TokenizeWorker:
    def __init__(
        self,
        config: TokenizeConfig,
        tokenizer: str,
        source: StageFolder,
        roles: StageFolder | None,
        folder: StageFolder,
    ) -> None:
        self.config, self.source, self.roles, self.folder = config, source, roles, folder
        self.entries = source.parts("texts")
        self.tokenizer = load_tokenizer(tokenizer)
        if not self.tokenizer.is_fast:
            raise ConfigError(f"tokenizer {config.tokenizer!r} has no tokenizer.json (fast tokenizer)")
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.backend_tokenizer.no_padding()
        self.eos: list[int] = []
        if config.eos:
            if self.tokenizer.eos_token_id is None:
                raise ConfigError(f"tokenizer {config.tokenizer!r} has no end-of-text token; set eos: false")
            self.eos = [self.tokenizer.eos_token_id]
        pad = self.tokenizer.pad_token_id
        about = {"pad_token_id": 0 if pad is None else pad, "vocabulary_size": len(self.tokenizer)}
        if not folder.has_file("tokenizer.json"):
            folder.write_file("tokenizer.json", json.dumps(about).encode())

    def write(self, index: int) -> None:
        texts = self.source.read_part(self.entries[index], ["text_id", "text"])
        if self.roles is not None:
            roles = self.roles.read_part(self.roles.parts("text_roles")[index])
            if not roles["id"].equals(texts["text_id"]):
                raise ConfigError(f"{self.config.roles!r} is not a divide stage of {self.config.data!r}")
            texts = texts.filter(pc.equal(roles["role"], self.config.role))
        keys = divide.hashes(texts["text_id"].to_pylist(), self.config.seed)
        order = np.argsort(keys, kind="stable")
        texts = texts.take(pa.array(order))
        table = pack.tokens_table(texts["text_id"].combine_chunks(), self._encode(texts["text"]))
        lengths = np.empty(table.num_rows, _LENGTHS)
        lengths["key"] = keys[order]
        lengths["length"] = np.diff(table["input_ids"].combine_chunks().offsets.to_numpy())
        _save(self.folder, _lengths_file(index), lengths)
        group = max(1, -(-table.num_rows // GROUPS_PER_PART))
        self.folder.write_part("tokens", index, table, rows_per_group=group)

    def _encode(self, texts: pa.ChunkedArray) -> Iterator[list[int]]:
        # A thousand texts at a time: their encodings stay in the cache and their memory is used again, a tenth less
        # processor time than a whole part at once.
        for low in range(0, len(texts), TEXTS_PER_CALL):
            some = texts.slice(low, TEXTS_PER_CALL).to_pylist()
            encoded = self.tokenizer.backend_tokenizer.encode_batch_fast(
                some, add_special_tokens=self.config.special_tokens
            )
            for each in encoded:
                yield each.ids + self.eos if self.eos else each.ids


# ---- pack


def run_pack(config: PackConfig, context: Context) -> dict[str, Any]:
    """Table packed. Counts: rows, tokens, padding (also as a share), texts that were cut, cut off or left out."""
    source, folder = context.input(config.tokens), context.folder
    entries = source.parts("tokens")
    loaded = [_load(source, _lengths_file(index)) for index in range(len(entries))]
    lengths = np.concatenate([part["length"] for part in loaded]).astype(np.int64)
    keys = np.concatenate([part["key"] for part in loaded])
    bounds = np.concatenate([[0], np.cumsum([len(part) for part in loaded])])
    del loaded
    plan = pack.plan(lengths, keys, config)
    missing = folder.missing_parts("packed", plan.num_parts)
    _, cpus = share_cpus(config.workers, 1.0, context.progress.say)
    about = json.loads(source.read_file("tokenizer.json"))
    arguments = {
        "plan": ray.put(plan),
        "tokens_per_row": config.tokens_per_row,
        "pad_id": about["pad_token_id"],
        "bounds": bounds,
        "source": source,
        "folder": folder,
    }
    for _ in context.progress.bar(
        map_parts(missing, _PackWorker, arguments, workers=config.workers, cpus=cpus), len(missing), "pack"
    ):
        pass
    packed = int(plan.pieces.length.sum())
    capacity = plan.num_parts * plan.rows_per_part * config.tokens_per_row
    long = lengths > config.tokens_per_row
    return {
        "rows": plan.num_parts * plan.rows_per_part,
        "rows_of_padding": plan.num_parts * plan.rows_per_part - plan.num_rows,
        "rows_per_part": plan.rows_per_part,
        "tokens": packed,
        "padding": round(1 - packed / capacity, 6),
        "texts": len(lengths),
        "longer_than_a_row": int(long.sum()),
        "tokens_left_out": int(lengths.sum()) - packed,
    }


class _PackWorker:
    def __init__(
        self,
        plan: Any,
        tokens_per_row: int,
        pad_id: int,
        bounds: NDArray[np.int64],
        source: StageFolder,
        folder: StageFolder,
    ) -> None:
        self.plan: PackPlan = ray.get(plan)
        self.tokens_per_row, self.pad_id, self.bounds = tokens_per_row, pad_id, bounds
        self.source, self.folder = source, folder
        self.entries = source.parts("tokens")

    def write(self, index: int) -> None:
        pieces, rows = self.plan.pieces, self.plan.rows_of_part(index)
        wanted = np.unique(pieces.text[np.concatenate(rows)])
        tokens = self._tokens(wanted)
        runs = [
            [tokens[int(pieces.text[p])][pieces.start[p] : pieces.start[p] + pieces.length[p]] for p in row]
            for row in rows
        ]
        self.folder.write_part("packed", index, pack.packed_table(runs, self.tokens_per_row, self.pad_id))

    def _tokens(self, wanted: NDArray[np.int64]) -> dict[int, NDArray[np.int32]]:
        """Token ids of the texts `wanted` (rising), read in pieces of the parts that hold them."""
        found: dict[int, NDArray[np.int32]] = {}
        for part, entry in enumerate(self.entries):
            low, high = np.searchsorted(wanted, self.bounds[part : part + 2])
            rows = wanted[low:high] - self.bounds[part]
            if not len(rows):
                continue
            with self.source.open_part(entry) as parquet:
                sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
                starts = np.concatenate([[0], np.cumsum(sizes)])
                groups = np.unique(np.searchsorted(starts, rows, side="right") - 1)
                table = parquet.read_row_groups(groups.tolist(), columns=["input_ids"], use_threads=False)
            column = table["input_ids"].combine_chunks()
            offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
            first_of_group = np.concatenate([[0], np.cumsum([sizes[group] for group in groups])])
            group_of = np.searchsorted(starts, rows, side="right") - 1
            local = rows - starts[group_of] + first_of_group[np.searchsorted(groups, group_of)]
            for row, place in zip((rows + self.bounds[part]).tolist(), local.tolist(), strict=True):
                found[row] = values[offsets[place] : offsets[place + 1]]
        return found


def _save(folder: StageFolder, path: str, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    folder.write_file(path, buffer.getvalue())


def _load(folder: StageFolder, path: str) -> np.ndarray:
    data = folder.read_file(path) if folder.done else (folder.location / path).read_bytes()
    return np.load(io.BytesIO(data), allow_pickle=False)


TEXTS = Stage("texts", TextsConfig, run_texts)
LABELS = Stage("labels", LabelsConfig, run_labels, uses_ray=False)
NEAR_DUPLICATES = Stage("near_duplicates", DuplicatesConfig, run_near_duplicates)
DIVIDE = Stage("divide", DivideConfig, run_divide, uses_ray=False)
TOKENIZE = Stage("tokenize", TokenizeConfig, run_tokenize)
PACK = Stage("pack", PackConfig, run_pack)

STAGES: Mapping[str, Stage] = {stage.kind: stage for stage in (TEXTS, LABELS, NEAR_DUPLICATES, DIVIDE, TOKENIZE, PACK)}
