"""The export stage: training rows for tools outside, as chat JSONL, Parquet or a Hugging Face dataset folder. No Ray.

    part of a table --labels, roles--> joined rows --templates--> messages --> a shard per role and format
                                           └──► quarantine: empty field, no role

Every part of the input makes its own shards, so a killed export goes on where it stopped. Memory: one part, and the
roles of all ids.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from patentft import schema
from patentft.config import Config, ConfigError, nearest
from patentft.export.card import card
from patentft.export.rows import IDS, TEXT_COLUMNS, Aligned, Roles, columns_of, label_names, with_labels
from patentft.export.template import LeftOut, MessageConfig, as_text, check_order, parse
from patentft.stage import Context, Stage, StageRef, TokenizerRef

Format = Literal["chat", "parquet", "dataset"]
MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
Counting = Callable[[Sequence[str]], int]
"""Texts -> tokens in all of them."""


class ExportConfig(Config):
    """Which rows are exported, and as what."""

    data: StageRef
    """The stage whose table is exported."""
    table: Literal["texts", "qa", "preferences", "views"] = "texts"
    """Which of its tables."""
    labels: StageRef | None = None
    """A labels stage: its columns (green, y02a, ..., labels) join those of the texts."""
    roles: StageRef | None = None
    """A stage with text_roles: a shard per role; unset: every row is of the role train."""
    keep_roles: list[str] = ["train", "valid", "test"]
    """Roles that are exported; rows of any other are counted and left out."""
    formats: list[Format] = Field(default=["chat"], min_length=1)
    """chat: JSONL of {"messages": [...]}. parquet: the columns. dataset: a folder for `datasets.load_dataset`."""
    messages: list[MessageConfig] = []
    """The conversation that a row becomes; needed for chat, a further column `messages` in the other formats."""
    values: dict[str, dict[str, str]] = {}
    """Column -> its value as written -> what stands for it in messages: {green: {"1": green, "0": not green}}."""
    columns: list[str] = []
    """Columns of parquet and dataset; empty: all."""
    tokenizer: TokenizerRef | None = None
    """Counts the tokens of the exported texts (special tokens and chat markup left out); unset: no count."""
    title: str = "Training rows from patents"
    """Heading of the dataset's card."""
    license: str | None = None
    """Licence of the dataset's card, as the hub names it ("cc-by-4.0"); unset: none is stated."""

    @model_validator(mode="after")
    def _checked(self) -> ExportConfig:
        if self.labels is not None and self.table != "texts":
            raise ValueError(f"labels belong to texts; table is {self.table}")
        known = columns_of(self.table, self.labels is not None)
        for where, names in (("columns", self.columns), ("values", self.values)):
            for name in names:
                if name not in known:
                    hint = " (set labels to have it)" if name in schema.LABELS.names else nearest(name, known)
                    raise ValueError(f"{where}: {name!r} is no column of {self.table}{hint}")
        if "chat" in self.formats and not self.messages:
            raise ValueError("formats has chat, but messages is empty: set the messages that a row becomes")
        if self.messages:
            check_order([message.role for message in self.messages])
            for message in self.messages:
                parse(message, known)
        return self


def run_export(config: ExportConfig, context: Context) -> dict[str, Any]:
    """Files chat/ROLE-00000.jsonl, parquet/ROLE-00000.parquet, dataset/, and table quarantine; a shard per input part.

    Counts: rows read, and by role rows and tokens; left out: other roles, and by reason what is in quarantine.
    Raises ConfigError when labels and texts are not of the same rows.
    """
    exporter = _Exporter(config, context)
    indices = range(len(exporter.starts))
    missing = [index for index in indices if not exporter.has(index)]
    for index in context.progress.bar(missing, len(missing), "parts"):
        exporter.export(index)
    counts = exporter.counts()
    if "dataset" in config.formats:
        context.folder.write_file("dataset/README.md", card(config.title, config.license, counts, exporter.made_from()))
    if counts["quarantined"]:
        context.progress.warn(f"{counts['quarantined']:,} rows are in quarantine: {counts['reasons']}")
    if not sum(counts["rows"].values()):
        raise ConfigError(
            f"not one of {counts['read']:,} rows is exported (quarantined: {counts['reasons']}, of other roles: "
            f"{counts['other_roles']}); see {context.folder.location / 'quarantine'}"
        )
    return counts


class _Exporter:
    def __init__(self, config: ExportConfig, context: Context) -> None:
        self.config, self.folder = config, context.folder
        self.source = context.input(config.data)
        self.entries = self.source.parts(config.table)
        self.starts: list[int] = []
        total = 0
        for entry in self.entries:
            self.starts.append(total)
            total += entry.rows or 0
        self.labels = self.names = None
        if config.labels is not None:
            self.labels = Aligned(context.input(config.labels), "labels")
            self.names = label_names(context.input(config.labels))
            if self.labels.rows != total:
                raise ConfigError(
                    f"stage {config.labels!r} labels {self.labels.rows:,} texts, {config.data!r} has {total:,}; "
                    f"are both of the same run?"
                )
        self.roles = Roles(context.input(config.roles)) if config.roles is not None else None
        known = columns_of(config.table, self.labels is not None)
        self.templates = [parse(message, known) for message in config.messages]
        self.used = sorted(
            {part[0] for template in self.templates for part in template.parts if isinstance(part, tuple)}
        )
        self.count_tokens = _counting(config, context)

    def made_from(self) -> str:
        assert self.source.manifest is not None
        return f"table {self.config.table} of stage {self.source.name} (content {self.source.manifest.id})"

    def has(self, index: int) -> bool:
        """Whether the part was exported whole: its counts, written last, name its files."""
        if not self.folder.has_file(_counts_file(index)):
            return False
        return self.folder.has_part("quarantine", index) and all(
            map(self.folder.has_file, self._counts(index)["files"])
        )

    def export(self, index: int) -> None:
        rows, read = self._joined(index)
        counts: dict[str, Any] = {"read": read, "rows": {}, "tokens": {}, "other_roles": 0, "reasons": {}, "files": []}
        kept: dict[str, list[dict[str, Any]]] = {}
        conversations: dict[str, list[list[dict[str, str]]]] = {}
        rejected: list[dict[str, Any]] = []
        roles = self._roles(rows)
        for number, (row, role) in enumerate(zip(rows.to_pylist(), roles, strict=True)):
            try:
                if role is None:
                    raise LeftOut(IDS[self.config.table], "no role: the id is not in text_roles")
                if role not in self.config.keep_roles:
                    counts["other_roles"] += 1
                    continue
                messages = self._messages(row)
            except LeftOut as empty:
                rejected.append(self._rejected(index, number, row, empty))
                continue
            kept.setdefault(role, []).append(row)
            conversations.setdefault(role, []).append(messages)
        for role in (role for role in self.config.keep_roles if role in kept):
            files = self._shards(rows.schema, kept[role], conversations[role])
            for path, data in files.items():
                path = path.format(role=role, index=index)
                self.folder.write_file(path, data)
                counts["files"].append(path)
            counts["rows"][role] = len(kept[role])
            if self.count_tokens is not None:
                counts["tokens"][role] = self.count_tokens(self._texts(kept[role], conversations[role]))
        counts["reasons"] = dict(Counter(row["reason"].split(":")[0] for row in rejected))
        self.folder.write_part("quarantine", index, pa.Table.from_pylist(rejected, schema=schema.QUARANTINE))
        self.folder.write_file(_counts_file(index), (json.dumps(counts, sort_keys=True) + "\n").encode())

    def _joined(self, index: int) -> tuple[pa.Table, int]:
        part = self.source.read_part(self.entries[index])
        if self.labels is not None:
            start = self.starts[index]
            labels = self.labels.read(start, start + part.num_rows)
            part = with_labels(part, labels, self.names, f"stage {self.config.labels!r}")
        return part, part.num_rows

    def _roles(self, rows: pa.Table) -> Sequence[str | None]:
        if self.roles is None:
            return ["train"] * rows.num_rows
        return self.roles.of(rows[IDS[self.config.table]])

    def _messages(self, row: Mapping[str, Any]) -> list[dict[str, str]]:
        if not self.templates:
            return []
        shown = {column: self._shown(column, row[column]) for column in self.used}
        return [{"role": template.role, "content": template.fill(shown)} for template in self.templates]

    def _shown(self, column: str, value: Any) -> Any:
        """A value as it stands in messages. Raises LeftOut for one that `values` does not name."""
        words = self.config.values.get(column)
        if words is None or value is None:
            return value
        text = as_text(value)
        if text not in words:
            raise LeftOut(column, f"no word: values.{column} does not name {text[:80]!r}")
        return words[text]

    def _rejected(self, index: int, number: int, row: Mapping[str, Any], empty: LeftOut) -> dict[str, Any]:
        return {
            "table": self.config.table,
            "file": self.entries[index].path,
            "row": number,
            "column": empty.column,
            "reason": empty.reason,
            "value": str(row[IDS[self.config.table]])[:200],
        }

    def _shards(
        self, columns: pa.Schema, rows: list[dict[str, Any]], messages: list[list[dict[str, str]]]
    ) -> dict[str, bytes]:
        """File name -> content, for one role's rows of one part."""
        files: dict[str, bytes] = {}
        if "chat" in self.config.formats:
            files["chat/{role}-{index:05d}.jsonl"] = "".join(map(_line, messages)).encode()
        if set(self.config.formats) & {"parquet", "dataset"}:
            table = pa.Table.from_pylist(rows, schema=columns)
            if self.config.columns:
                table = table.select(self.config.columns)
            if self.templates:
                table = table.append_column("messages", pa.array(messages, MESSAGES))
            buffer = io.BytesIO()
            pq.write_table(table, buffer, compression="zstd")
            for name, path in (("parquet", "parquet"), ("dataset", "dataset/data")):
                if name in self.config.formats:
                    files[path + "/{role}-{index:05d}.parquet"] = buffer.getvalue()
        return files

    def _texts(self, rows: list[dict[str, Any]], messages: list[list[dict[str, str]]]) -> list[str]:
        if self.templates:
            return [message["content"] for conversation in messages for message in conversation]
        return [row[column] for row in rows for column in TEXT_COLUMNS[self.config.table] if row[column]]

    def _counts(self, index: int) -> dict[str, Any]:
        return json.loads((self.folder.location / _counts_file(index)).read_bytes())

    def counts(self) -> dict[str, Any]:
        """The sums over all parts."""
        sums: dict[str, Any] = {
            "read": 0,
            "rows": Counter(),
            "tokens": Counter(),
            "other_roles": 0,
            "reasons": Counter(),
        }
        for index in range(len(self.starts)):
            found = self._counts(index)
            for name in ("rows", "tokens", "reasons"):
                sums[name].update(found[name])
            sums["read"] += found["read"]
            sums["other_roles"] += found["other_roles"]
        ordered = {role: sums["rows"][role] for role in self.config.keep_roles if sums["rows"][role]}
        sums |= {"rows": ordered, "reasons": dict(sums["reasons"]), "quarantined": sums["reasons"].total()}
        if self.count_tokens is None:
            del sums["tokens"]
        else:
            sums["tokens"] = {role: sums["tokens"][role] for role in ordered}
        return sums


def _line(conversation: list[dict[str, str]]) -> str:
    text = json.dumps({"messages": conversation}, ensure_ascii=False)
    # JSON allows them, but some readers (Python's splitlines among them) take them for the end of the line
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085") + "\n"


def _counts_file(index: int) -> str:
    return f"counts/part-{index:05d}.json"


def _counting(config: ExportConfig, context: Context) -> Counting | None:
    if config.tokenizer is None:
        return None
    from patentft.corpus.tokenizer import load_tokenizer

    backend = load_tokenizer(context.model(config.tokenizer)).backend_tokenizer

    def count(texts: Sequence[str]) -> int:
        total = 0
        for start in range(0, len(texts), 1024):
            encoded = backend.encode_batch_fast(list(texts[start : start + 1024]), add_special_tokens=False)
            total += sum(len(found.ids) for found in encoded)
        return total

    return count


EXPORT = Stage("export", ExportConfig, run_export, uses_ray=False)
