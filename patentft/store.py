"""Run folders: part files, each committed atomically; a manifest written last. The only code that decides "done".

    runs/bref/<stage>/stage.json                    written first: kind, config hash, config, ids of the inputs
    runs/bref/<stage>/<table>/part-00000.parquet    committed one by one, in any order, by any process
    runs/bref/<stage>/ledger/<table>-00000.json     after its part: rows, bytes, SHA-256. A part not listed is not done
    runs/bref/<stage>/manifest.json                 written last: everything above, counts, seconds, versions

A stage is opened with the hash of all that can change a row. Finished with the same hash: nothing to do. Half finished:
only the missing parts are computed. Another hash: `StageConflict`, which shows the differing keys and how to choose.
`remove_stage` deletes in the opposite order, so that a deletion that is cut short cannot leave parts without the hash
that they were made under.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import posixpath
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from patentft import __version__, schema
from patentft.config import ConfigError, digest, flatten
from patentft.location import Location

PACKAGES = (
    "patentft",
    "ray",
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "faiss-cpu",
    "pyarrow",
    "numpy",
    "scikit-learn",
    "ftfy",
    "rensa",
    "pycld2",
    "pypdfium2",
)
"""Their versions are written into every manifest: what may change a row."""


class StageConflict(ConfigError):
    """A stage folder holds parts made under another configuration."""


class DamagedFile(ConfigError):
    """A committed file no longer has the size or checksum that the ledger lists."""


@dataclass(frozen=True)
class Entry:
    """What the ledger knows of one committed file."""

    path: str  # relative to the stage folder
    bytes: int
    sha256: str
    rows: int | None = None  # None for a file that is not a table part


@dataclass(frozen=True)
class Manifest:
    """What a finished stage says about itself. `id` names its content: config, inputs and the bytes of every part."""

    kind: str
    config_hash: str
    config: dict[str, Any]
    inputs: dict[str, str]
    tables: dict[str, dict[str, int]]
    files: list[Entry]
    counts: dict[str, Any]
    seconds: float
    versions: dict[str, str]
    id: str

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        loaded = json.loads(text)
        return cls(**{**loaded, "files": [Entry(**entry) for entry in loaded["files"]]})

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()


def _entry(text: bytes, where: Location) -> Entry:
    try:
        return Entry(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise DamagedFile(f"{where} is not a ledger entry: {error}; delete it and run the stage again") from error


@dataclass
class StageFolder:
    """One stage's output. Picklable: workers write parts through their own copy."""

    location: Location
    kind: str
    config_hash: str
    config: dict[str, Any]
    inputs: dict[str, str]
    manifest: Manifest | None = None
    started: float = field(default_factory=time.monotonic)
    _entries: dict[str, Entry] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.location.name

    @property
    def done(self) -> bool:
        return self.manifest is not None

    # Writing

    def write_part(
        self, table: str, index: int, data: pa.Table | pa.RecordBatch, rows_per_group: int | None = None
    ) -> Entry:
        """Commit part `index` of `table`, then its ledger entry. `data` has the table's schema, order included.

        rows_per_group: make the part readable in pieces of so many rows (`open_part`), each page with a checksum.
        """
        if isinstance(data, pa.RecordBatch):
            data = pa.Table.from_batches([data])
        wanted = schema.TABLES[table]
        if not data.schema.equals(wanted):
            raise AssertionError(f"{table}: expected schema\n{wanted}\ngot\n{data.schema}")
        for column in wanted:
            if not column.nullable and data[column.name].null_count:
                raise AssertionError(f"{table}.{column.name} must not be null")
        buffer = io.BytesIO()
        groups = {"row_group_size": rows_per_group, "write_page_checksum": True} if rows_per_group else {}
        pq.write_table(data, buffer, **_encoding(wanted), **groups)
        return self._commit(f"{table}/{part_name(index)}", f"{table}-{index:05d}", buffer.getvalue(), data.num_rows)

    def write_file(self, path: str, data: bytes) -> Entry:
        """Commit a file that is not a table part (a model file, a page) under `path`, then its ledger entry."""
        return self._commit(path, path.replace("/", "--"), data, None)

    def _commit(self, path: str, key: str, data: bytes, rows: int | None) -> Entry:
        entry = Entry(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), rows=rows)
        (self.location / path).commit(data)
        (self.location / "ledger" / f"{key}.json").commit(json.dumps(asdict(entry)).encode())
        self._entries[path] = entry
        return entry

    def discard(self, folder: str) -> None:
        """Take what `write_file` put under `folder` out of an unfinished stage: intermediate files, no longer needed.

        The ledger lets go first: a stage that is killed in between has some files more, and none listed that is gone.
        """
        ledger = self.location / "ledger"
        for name in ledger.names():
            if name.startswith(f"{folder}--"):
                (ledger / name).remove_tree()
        (self.location / folder).remove_tree()
        self._entries = {path: entry for path, entry in self._entries.items() if not path.startswith(f"{folder}/")}

    def has_part(self, table: str, index: int) -> bool:
        """Whether the part is listed in the ledger and its file has the listed size."""
        return self._listed(f"{table}/{part_name(index)}", f"{table}-{index:05d}")

    def has_file(self, path: str) -> bool:
        return self._listed(path, path.replace("/", "--"))

    def _listed(self, path: str, key: str) -> bool:
        if path not in self._entries:
            listed = self.location / "ledger" / f"{key}.json"
            try:
                self._entries[path] = _entry(listed.read_bytes(), listed)
            except FileNotFoundError:
                return False
        return (self.location / path).size() == self._entries[path].bytes

    def entry(self, table: str, index: int) -> Entry:
        """The ledger's entry of a part that is done. Raises ConfigError when it is not."""
        if not self.has_part(table, index):
            raise ConfigError(f"{self.location}: part {index} of {table} is not done")
        return self._entries[f"{table}/{part_name(index)}"]

    def missing_parts(self, table: str, num_parts: int) -> list[int]:
        """Indices of the parts of `table` that are still to be computed."""
        return [index for index in range(num_parts) if not self.has_part(table, index)]

    def finish(self, counts: Mapping[str, Any] | None = None) -> Manifest:
        """Write the manifest. Everything the ledger lists belongs to the stage; nothing else does.

        Raises DamagedFile when a listed file is missing or cut.
        """
        ledger = self.location / "ledger"
        entries = [_entry(text, ledger / name) for name, text in ledger.read_all().items()]
        tables: dict[str, dict[str, int]] = {}
        sizes = self.location.sizes()
        for entry in entries:
            found = sizes.get(entry.path)
            if found != entry.bytes:
                raise DamagedFile(f"{self.location / entry.path}: the ledger lists {entry.bytes} bytes, found {found}")
            if entry.rows is not None:
                totals = tables.setdefault(entry.path.split("/")[0], {"rows": 0, "bytes": 0, "parts": 0})
                totals["rows"] += entry.rows
                totals["bytes"] += entry.bytes
                totals["parts"] += 1
        files = sorted(entries, key=lambda entry: entry.path)
        manifest = Manifest(
            kind=self.kind,
            config_hash=self.config_hash,
            config=self.config,
            inputs=self.inputs,
            tables=tables,
            files=files,
            counts=dict(counts or {}),
            seconds=round(time.monotonic() - self.started, 3),
            versions=versions(),
            id=digest([self.config_hash, self.inputs, [(entry.path, entry.sha256) for entry in files]]),
        )
        for folder in sorted({"", "ledger", *(posixpath.dirname(entry.path) for entry in entries)}):
            (self.location / folder if folder else self.location).remove_leftovers()
        (self.location / "manifest.json").commit(manifest.to_json())
        self.manifest = manifest
        return manifest

    # Reading

    def parts(self, table: str) -> list[Entry]:
        """The finished stage's parts of `table`, in order. Raises ConfigError when it is not done or lacks it."""
        if self.manifest is None:
            raise ConfigError(f"stage {self.name!r} at {self.location} is not finished: run it first")
        found = [
            entry for entry in self.manifest.files if entry.rows is not None and entry.path.startswith(f"{table}/")
        ]
        if not found:
            raise ConfigError(
                f"stage {self.name!r} (kind {self.kind}) has no table {table!r}; "
                f"it has: {', '.join(self.manifest.tables) or 'none'}"
            )
        return found

    def read_file(self, path: str) -> bytes:
        """A committed file, its checksum verified."""
        assert self.manifest is not None
        entry = next((entry for entry in self.manifest.files if entry.path == path), None)
        if entry is None:
            raise ConfigError(f"stage {self.name!r} at {self.location} has no file {path!r}")
        return self._verified(entry)

    def _verified(self, entry: Entry) -> bytes:
        where = self.location / entry.path
        try:
            data = where.read_bytes()
        except FileNotFoundError:
            raise DamagedFile(
                f"{where} is listed in the manifest but is gone; run the stage again to remake it"
            ) from None
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise DamagedFile(
                f"{where} is damaged ({len(data)} bytes, expected {entry.bytes}, or the checksum differs); "
                f"delete it and run the stage again to remake it"
            )
        return data

    def read_part(self, entry: Entry, columns: Sequence[str] | None = None) -> pa.Table:
        # a BufferReader, not BytesIO: Arrow reads it without going through Python (2.3 times as fast for vectors)
        return pq.read_table(pa.BufferReader(self._verified(entry)), columns=list(columns) if columns else None)

    @contextmanager
    def open_part(self, entry: Entry) -> Iterator[pq.ParquetFile]:
        """A part to read in pieces: its size is checked here, the pages' checksums when they are read."""
        where = self.location / entry.path
        if where.size() != entry.bytes:
            raise DamagedFile(f"{where} is missing or cut: expected {entry.bytes} bytes; run the stage again")
        with where.open() as stream, pq.ParquetFile(stream, page_checksum_verification=True) as parquet:
            yield parquet

    def iter_parts(self, table: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The table part by part: memory holds one part."""
        for entry in self.parts(table):
            yield self.read_part(entry, columns)

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The whole table in memory."""
        return pa.concat_tables(list(self.iter_parts(table, columns)))


def _encoding(wanted: pa.Schema) -> dict[str, Any]:
    """How `pq.write_table` encodes the columns. Floats are noise: a dictionary and a codec cost 3 times as much to read
    and save 8 % of the bytes.
    """
    texts, codecs = [], {}
    for column in wanted:
        nested = pa.types.is_list(column.type)
        path, value = (f"{column.name}.list.element", column.type.value_type) if nested else (column.name, column.type)
        codecs[path] = "NONE" if pa.types.is_floating(value) else "ZSTD"
        if pa.types.is_string(value):
            texts.append(path)
    return {"compression": codecs, "use_dictionary": texts or False}


def part_name(index: int) -> str:
    return f"part-{index:05d}.parquet"


def open_stage(
    location: Location,
    kind: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    warn: Callable[[str], None] | None = None,
) -> StageFolder:
    """Open a stage folder for work, or as done.

    config: what can change a row (`config.content`). inputs: name -> content id (a manifest id, a file's checksum).
    warn: told about lost parts and other versions. Raises StageConflict when the folder holds parts made under another
    config, inputs or table version.
    """
    config_hash = digest([kind, schema.VERSION, config, dict(inputs)])
    folder = StageFolder(location, kind, config_hash, dict(config), dict(inputs))
    begun = _read_begun(location / "stage.json")
    if begun is None or (begun["config_hash"] != config_hash and not (location / "ledger").names()):
        # new, or begun under another configuration that failed before its first part: nothing to mix with
        stage = {
            "kind": kind,
            "schema": schema.VERSION,
            "config_hash": config_hash,
            "config": config,
            "inputs": dict(inputs),
        }
        (location / "stage.json").commit((json.dumps(stage, indent=1, sort_keys=True) + "\n").encode())
        return folder
    if begun["config_hash"] != config_hash:
        raise StageConflict(_conflict(location, begun, kind, config, inputs))
    finished = load_stage(location)
    if finished is None:
        return folder
    sizes = location.sizes()
    damaged = [entry for entry in finished.files if sizes.get(entry.path) != entry.bytes]
    if damaged:  # a part that was lost or cut off after the stage was finished is computed again
        if warn:
            names = ", ".join(entry.path for entry in damaged[:3])
            warn(f"{location}: {len(damaged)} committed files are missing or cut ({names}); they are computed again")
        return folder
    changed = {k: (v, versions().get(k)) for k, v in finished.versions.items() if versions().get(k) != v}
    if changed and warn:
        pairs = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changed.items())
        warn(f"{location}: made with other versions ({pairs}); kept, since the configuration is the same")
    folder.manifest = finished
    return folder


def load_stage(location: Location) -> Manifest | None:
    """The manifest of a finished stage, None when there is none. Raises DamagedFile when it cannot be read."""
    try:
        return Manifest.from_json((location / "manifest.json").read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedFile(
            f"{location / 'manifest.json'} is not a manifest: {error}; delete it and run the stage"
        ) from error


def finished_stage(location: Location) -> StageFolder:
    """A finished stage opened for reading only. Raises ConfigError when it is not finished."""
    manifest = load_stage(location)
    if manifest is None:
        raise ConfigError(f"{location} is not a finished stage: it has no manifest.json")
    return StageFolder(location, manifest.kind, manifest.config_hash, manifest.config, manifest.inputs, manifest)


def remove_stage(location: Location) -> None:
    """Delete a stage's folder: the manifest first and stage.json last. Nothing happens when it is absent.

    Raises ConfigError for a folder that is no stage's: whatever it holds was not made here.
    """
    names = location.names()
    if not names:
        return
    if not {"stage.json", "ledger", "manifest.json"} & set(names):
        raise ConfigError(
            f"{location} is not a stage's folder (it has no stage.json), so it is not deleted; is `out` right?"
        )
    for name in (
        "manifest.json",
        "ledger",
        *sorted(set(names) - {"manifest.json", "ledger", "stage.json"}),
        "stage.json",
    ):
        (location / name).remove_tree()
    location.remove_tree()


def _read_begun(location: Location) -> dict[str, Any] | None:
    try:
        begun = json.loads(location.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamagedFile(f"{location} is not JSON: {error}; delete the stage's folder and run it again") from error
    if not isinstance(begun, dict) or not {"kind", "schema", "config_hash", "config", "inputs"} <= begun.keys():
        raise DamagedFile(
            f"{location} was not written by patentft, or by another version; give another folder (out=...)"
        )
    return begun


def _conflict(location: Location, begun: dict, kind: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    def shown(kind: str, version: int, inputs: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Any]:
        named = {f"content of {name}": digest for name, digest in inputs.items()}
        return {"(kind)": kind, "(table version)": version, **named, **(flatten(config) if config else {})}

    old = shown(begun["kind"], begun["schema"], begun["inputs"], begun["config"])
    new = shown(kind, schema.VERSION, inputs, config)
    differing = [
        f"  {key}: {old.get(key, '(not set)')!r} -> {new.get(key, '(not set)')!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, "(not set)") != new.get(key, "(not set)")
    ]
    return (
        f"{location} holds parts made under another configuration:\n" + "\n".join(differing) + "\n"
        f"Choose: put the old values back; or give another folder (out=...); "
        f"or delete the stage's parts and make them anew with --redo {location.name}"
    )


@cache
def versions() -> dict[str, str]:
    """Versions of what can change a number; recorded in each manifest, not part of the hash."""
    found = {"python": platform.python_version(), "patentft": __version__}
    for package in PACKAGES[1:]:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def file_digest(location: Location) -> str:
    """SHA-256 (hex) of a file, local or remote: the identity of a raw input."""
    hasher = hashlib.sha256()
    if location.is_local:
        with open(location.url, "rb") as stream:
            while block := stream.read(1 << 22):
                hasher.update(block)
    else:
        with location.filesystem.open(location.url, "rb") as stream:
            while block := stream.read(1 << 22):
                hasher.update(block)
    return hasher.hexdigest()
