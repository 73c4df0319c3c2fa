"""The corpus stages: raw files or a generator -> tables, the split, the training pairs. In one process, streaming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from patentft import schema
from patentft.config import Config, ConfigError
from patentft.corpus import synth
from patentft.corpus.lookup import match_list, roles_of, vectors_of
from patentft.corpus.pairs import SIDES, PairsConfig, training_pairs
from patentft.corpus.split import SplitConfig, assign_patents, assign_techniques, similar_techniques
from patentft.corpus.tables import Rejected, SourceConfig, Tally, read_table
from patentft.stage import Context, Stage
from patentft.store import StageFolder

ROWS_PER_PART = 50_000


class CorpusConfig(Config):
    """Raw files into PATENTS, TECHNIQUES and MATCHES."""

    patents: SourceConfig
    techniques: SourceConfig
    matches: SourceConfig | None = None
    """Known (technique, patent) matches; without them there is no training and no recall."""
    max_characters: int | None = Field(default=100_000, ge=1)
    """A row with a longer text (or list of texts) goes to quarantine; null: no limit."""
    rows_per_part: int = Field(default=1000, ge=1)
    """Rows of a part file: the unit that later stages share among workers and do again after a kill."""
    unknown_ids: Literal["quarantine", "refuse"] = "quarantine"
    """Matches that name a technique or patent that is not there: "quarantine", or "refuse" to stop with an error."""


class SynthConfig(Config):
    """Readable synthetic patents, techniques and their true matches."""

    patents: int = 2000
    techniques: int = 120
    matches: int = 600
    seed: int = 0

    @model_validator(mode="after")
    def _possible(self) -> SynthConfig:
        synth.SynthSpec(self.patents, self.techniques, self.matches, self.seed)  # ValueError: what is allowed, and why
        return self


def run_corpus(config: CorpusConfig, context: Context) -> dict[str, Any]:
    """Tables patents, techniques, matches, and quarantine. Counts: rows read, kept, merged, quarantined, by reason."""
    rejected = Rejected()
    tallies = {table: Tally() for table in ("patents", "techniques", "matches")}
    ids: dict[str, set[str]] = {"patents": set(), "techniques": set()}
    for table, source in (("patents", config.patents), ("techniques", config.techniques)):
        column = table[:-1] + "_id"
        rows = read_table(table, source, rejected, tallies[table], max_characters=config.max_characters)
        for index, batch in enumerate(_batched(rows, config.rows_per_part)):
            ids[table].update(row[column] for row in batch)
            _write(context.folder, table, index, pa.Table.from_pylist(batch, schema=schema.TABLES[table]))
        if not tallies[table].kept:
            raise ConfigError(
                f"{source.files}: none of its {tallies[table].read} rows is a good {table} row; "
                f"reasons: {tallies[table].reasons}"
            )

    def known(row: Mapping[str, Any]) -> tuple[str, str] | None:
        for column, table in (("technique_id", "techniques"), ("patent_id", "patents")):
            if row[column] not in ids[table]:
                return column, f"unknown id: no such row in {table}"
        return None

    rows_of_matches = (
        read_table(
            "matches", config.matches, rejected, tallies["matches"], max_characters=config.max_characters, accept=known
        )
        if config.matches
        else iter(())
    )
    batches = list(_batched(rows_of_matches, config.rows_per_part)) or [[]]
    unknown = [row for row in rejected.rows if row["reason"].startswith("unknown id")]
    if unknown and config.unknown_ids == "refuse":
        first = unknown[0]
        raise ConfigError(
            f"{first['file']} row {first['row']}: {first['column']} {first['value']!r} is unknown "
            f"({len(unknown)} such rows); set unknown_ids to quarantine to leave them out"
        )
    for index, batch in enumerate(batches):
        _write(context.folder, "matches", index, pa.Table.from_pylist(batch, schema=schema.MATCHES))
    context.folder.write_part("quarantine", 0, rejected.as_table())
    counts = {
        table: {"read": t.read, "kept": t.kept, "merged": t.merged, "quarantined": t.quarantined, "reasons": t.reasons}
        for table, t in tallies.items()
    }
    if rejected.rows:
        context.progress.warn(
            f"{len(rejected.rows)} rows are in {context.folder.location / 'quarantine'}: "
            + ", ".join(f"{t.quarantined} {table} {t.reasons}" for table, t in tallies.items() if t.quarantined)
        )
    return counts


def run_synth(config: SynthConfig, context: Context) -> dict[str, Any]:
    """Tables patents, techniques, matches. A patent is a function of its number, so only missing parts are made."""
    spec = synth.SynthSpec(config.patents, config.techniques, config.matches, config.seed)
    for index, batch in enumerate(_rebatched(synth.techniques(spec), schema.TECHNIQUES)):
        _write(context.folder, "techniques", index, batch)
    for index, batch in enumerate(_rebatched(synth.matches(spec), schema.MATCHES)):
        _write(context.folder, "matches", index, batch)
    starts = range(0, config.patents, synth_rows_per_part(config.patents))
    missing = context.folder.missing_parts("patents", len(starts))
    for index in context.progress.bar(missing, len(missing), "patents"):
        stop = min(starts[index] + starts.step, config.patents)
        batches = list(synth.patent_range(spec, starts[index], stop))
        context.folder.write_part("patents", index, pa.Table.from_batches(batches, schema=schema.PATENTS))
    return {"best_possible_auc": synth.BEST_AUC}


def synth_rows_per_part(patents: int) -> int:
    """At least two parts for anything but a handful, so that two workers have work; at most 5,000 rows."""
    return max(1, min(5_000, -(-patents // 4)))


def run_split(config: SplitConfig, context: Context) -> dict[str, Any]:
    """Tables technique_roles, patent_roles, similar."""
    data = context.input(config.data)
    techniques = data.read("techniques", ["technique_id", "title"])
    ids, titles = techniques["technique_id"].to_pylist(), techniques["title"].to_pylist()
    matches = match_list(data)
    roles = assign_techniques(dict(zip(ids, titles, strict=True)), {t for t, _ in matches}, config)
    patent_ids = data.read("patents", ["patent_id"])["patent_id"].to_pylist()
    patent_roles = assign_patents(patent_ids, matches, roles)
    embedded = vectors_of(context.input(config.techniques))
    similar = similar_techniques(ids, titles, embedded.ids, embedded.vectors, config.similar_cosine)
    for table, assigned in (("technique_roles", roles), ("patent_roles", patent_roles)):
        rows = {"id": list(assigned), "role": list(assigned.values())}
        context.folder.write_part(table, 0, pa.Table.from_pydict(rows, schema=schema.ROLES))
    columns = list(zip(*similar, strict=True)) or [[], [], []]
    names = schema.SIMILAR.names
    context.folder.write_part(
        "similar", 0, pa.Table.from_pydict(dict(zip(names, columns, strict=True)), schema=schema.SIMILAR)
    )
    sides = ("train", "valid", "test", "unused")
    return {
        "techniques": {side: sum(1 for role in roles.values() if role == side) for side in sides},
        "patents": {side: sum(1 for role in patent_roles.values() if role == side) for side in sides},
        "matches": {side: sum(1 for t, p in matches if roles[t] == side == patent_roles[p]) for side in sides[:3]},
        "similar_pairs": len(similar) // 2,
    }


def run_pairs(config: PairsConfig, context: Context) -> dict[str, Any]:
    """Table pairs."""
    split = context.input(config.roles)
    roles, patent_roles = roles_of(split, "technique_roles"), roles_of(split, "patent_roles")
    similar: dict[str, set[str]] = {}
    for row in split.read("similar").to_pylist():
        similar.setdefault(row["technique_id"], set()).add(row["other_id"])
    pairs = list(
        training_pairs(
            match_list(context.input(config.data)),
            roles,
            patent_roles,
            similar,
            vectors_of(context.input(config.patents), [name for name, role in patent_roles.items() if role in SIDES]),
            vectors_of(context.input(config.techniques), [name for name, role in roles.items() if role in SIDES]),
            config,
        )
    )
    columns = {name: [getattr(pair, name) for pair in pairs] for name in schema.PAIRS.names if name != "weight"}
    columns["weight"] = [1.0] * len(pairs)
    context.folder.write_part("pairs", 0, pa.Table.from_pydict(columns, schema=schema.PAIRS))
    return {
        side: {
            "groups": len({pair.group for pair in pairs if pair.role == side}),
            "positives": sum(pair.label for pair in pairs if pair.role == side),
            "negatives": sum(1 - pair.label for pair in pairs if pair.role == side),
        }
        for side in ("train", "valid")
    }


def _write(folder: StageFolder, table: str, index: int, data: pa.Table | pa.RecordBatch) -> None:
    if not folder.has_part(table, index):
        folder.write_part(table, index, data)


def _batched(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(rows, size)):
        yield batch


def _rebatched(batches: Iterator[pa.RecordBatch], wanted: pa.Schema) -> Iterator[pa.Table]:
    """Batches of any size as tables of at most ROWS_PER_PART rows; one empty table when there is no row."""
    table = pa.Table.from_batches(list(batches), schema=wanted)
    for start in range(0, max(table.num_rows, 1), ROWS_PER_PART):
        yield table.slice(start, ROWS_PER_PART)


SYNTH = Stage("synth", SynthConfig, run_synth, uses_ray=False)
CORPUS = Stage("corpus", CorpusConfig, run_corpus, uses_ray=False)
SPLIT = Stage("split", SplitConfig, run_split, uses_ray=False)
PAIRS = Stage("pairs", PairsConfig, run_pairs, uses_ray=False)
