"""What a finished score stage says of one technique or one patent, in a fraction of a second and without a server.

    SCORES (whole techniques in a part, row groups with statistics) + PATENTS, TECHNIQUES  --DuckDB-->  a table

DuckDB reads the Parquet files where they are, local or on an object store: of a technique only the row groups that hold
it, of a patent only the column of ids and the rows found.
"""

from __future__ import annotations

import io
import json
import re
from typing import Any, TextIO

import pyarrow as pa

from patentft.config import ConfigError
from patentft.location import Location
from patentft.store import DamagedFile, StageFolder, finished_stage, load_stage

FOUND = ("role", "log_odds", "probability", "cosine")


class Scores:
    """The scores of a score stage, with the titles of the corpus stage that it read. Close it, or use it in `with`."""

    def __init__(self, stage: StageFolder) -> None:
        import duckdb

        if stage.kind != "score":
            raise ConfigError(f"{stage.location} is a stage of kind {stage.kind!r}; give one of kind 'score'")
        data = finished_stage(stage.location.parent / stage.config["data"])
        if stage.inputs[stage.config["data"]] != (data.manifest.id if data.manifest else None):
            raise ConfigError(f"{data.location} was made anew since {stage.location} read it: run the pipeline again")
        self.location = stage.location
        self._connection = duckdb.connect()
        if not stage.location.is_local:
            self._connection.register_filesystem(stage.location.filesystem)
        for table, folder in (("scores", stage), ("patents", data), ("techniques", data)):
            self._connection.read_parquet(_paths(folder, table)).create_view(table)

    def __enter__(self) -> Scores:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def patents(self, technique_id: str, limit: int = 20, min_probability: float = 0.0) -> pa.Table:
        """The technique's best patents: rank (from 1), patent_id, title, year, role, log_odds, probability, cosine.

        Raises ConfigError for a technique that was not scored, with the ids of those whose title or number is like it.
        """
        found = self._best("technique_id", technique_id, "patent_id", "patents", "title, year", limit, min_probability)
        return found if found.num_rows else self._nothing("technique", technique_id, min_probability)

    def techniques(self, patent_id: str, limit: int = 20, min_probability: float = 0.0) -> pa.Table:
        """The patent's best techniques: rank (from 1), technique_id, document, section, title, role, log_odds,
        probability, cosine.

        Raises ConfigError for a patent that is no candidate of any technique.
        """
        columns = "document, section, title"
        found = self._best("patent_id", patent_id, "technique_id", "techniques", columns, limit, min_probability)
        return found if found.num_rows else self._nothing("patent", patent_id, min_probability)

    def _best(
        self, given: str, value: str, wanted: str, table: str, columns: str, limit: int, min_probability: float
    ) -> pa.Table:
        likely = " AND probability >= ?" if min_probability > 0 else ""
        rows = self._connection.sql(
            f"SELECT {wanted}, {', '.join(FOUND)} FROM scores WHERE {given} = ?{likely} "
            f"ORDER BY log_odds DESC, {wanted} LIMIT ?",
            params=[value, min_probability, limit] if likely else [value, limit],
        ).to_arrow_table()
        # the few rows found are looked up by their ids, not joined: no other title is read
        about = self._connection.sql(
            f"SELECT {wanted}, {columns} FROM {table} WHERE list_contains(?, {wanted})",
            params=[rows[wanted].to_pylist()],
        ).to_arrow_table()
        place = {identity: row for row, identity in enumerate(about[wanted].to_pylist())}
        order = pa.array([place[identity] for identity in rows[wanted].to_pylist()], pa.int64())
        titles = {name: about[name].take(order) for name in about.column_names if name != wanted}
        ranks = pa.array(range(1, rows.num_rows + 1), pa.int32())
        return pa.table({"rank": ranks, wanted: rows[wanted], **titles, **{name: rows[name] for name in FOUND}})

    def _nothing(self, what: str, value: str, min_probability: float) -> Any:
        table, number = ("techniques", "section") if what == "technique" else ("patents", "NULL")
        scored = self._connection.execute(f"SELECT probability FROM scores WHERE {what}_id = ?", [value]).fetchall()
        if scored and scored[0][0] is None:
            raise ConfigError(f"{self.location} holds no probabilities (calibration: none): ask without a least one")
        if scored:
            raise ConfigError(f"no score of {what} {value!r} has a probability of {min_probability} or more")
        known = self._connection.execute(f"SELECT 1 FROM {table} WHERE {what}_id = ? LIMIT 1", [value]).fetchall()
        if known:
            raise ConfigError(
                f"{what} {value!r} has no scores in {self.location}: it is on a side that was not searched, or nothing "
                f"came near it; see search.sides and search.top_k of the pipeline"
            )
        like = self._connection.execute(
            f"SELECT {what}_id, title FROM {table} WHERE contains(lower(title), lower($1)) OR "
            f"contains({what}_id, $1) OR {number} = $1 ORDER BY length(title), {what}_id LIMIT 5",
            [value],
        ).fetchall()
        hint = "; like it: " + ", ".join(f"{identity} ({title[:60]})" for identity, title in like) if like else ""
        raise ConfigError(f"{self.location} knows no {what} {value!r}{hint}")


def open_scores(path: str, stage: str | None = None) -> Scores:
    """The scores of a run folder (its only score stage, or the one named) or of a score stage's folder.

    Raises ConfigError when there is none or, without a name, more than one.
    """
    where = Location(path)
    if stage is None and load_stage(where) is not None:
        return Scores(finished_stage(where))
    if stage is not None:
        return Scores(finished_stage(where / stage))
    finished = {name: load_stage(where / name) for name in sorted({name.split("/")[0] for name in where.names()})}
    names = [name for name, manifest in finished.items() if manifest is not None and manifest.kind == "score"]
    if len(names) != 1:
        found = f"has {len(names)} finished score stages: {', '.join(names)}; name one with --stage"
        raise ConfigError(f"{where} " + (found if names else "has no finished score stage: give the folder of a run"))
    return Scores(finished_stage(where / names[0]))


def _paths(folder: StageFolder, table: str) -> list[str]:
    """The parts' paths as DuckDB opens them. Raises DamagedFile for a part that is missing or cut."""
    entries = folder.parts(table)
    sizes = (folder.location / table).sizes()
    for entry in entries:
        if sizes.get(entry.path.removeprefix(f"{table}/")) != entry.bytes:
            raise DamagedFile(f"{folder.location / entry.path} is missing or cut: run the stage again")
    # a path may hold what DuckDB would expand
    return [re.sub(r"([*?\[])", r"[\1]", (folder.location / entry.path).url) for entry in entries]


def _print_table(found: pa.Table, stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, header_style="bold")
    for column in found.schema:
        numeric = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        shown.add_column(column.name, justify="right" if numeric else "left", no_wrap=column.name != "title")
    for row in found.to_pylist():
        shown.add_row(*(_cell(value) for value in row.values()))
    # no line is broken where there is no terminal
    Console(file=stream, width=None if stream.isatty() else 1000, markup=False, highlight=False).print(shown)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _print_csv(found: pa.Table, stream: TextIO) -> None:
    import pyarrow.csv

    written = io.BytesIO()
    pyarrow.csv.write_csv(found, written)
    stream.write(written.getvalue().decode())


def _print_json(found: pa.Table, stream: TextIO) -> None:
    stream.write(json.dumps(found.to_pylist(), indent=1, ensure_ascii=False) + "\n")


FORMATS = {"table": _print_table, "csv": _print_csv, "json": _print_json}
