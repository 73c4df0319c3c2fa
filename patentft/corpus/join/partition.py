"""First half of the join: a file's rows dealt into buckets by the hash of their patent id. Pure; no Ray.

    file --checked_rows--> rows, good and bad --shards--> a Parquet file per `shard_rows` rows, a row group per bucket

A shard holds every row that was read, the bad ones with their reason: so nothing is lost between the halves, and what a
task holds is bounded however many rows are bad. A reader of one bucket reads one row group of each shard.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from patentft.corpus.join.config import INPUTS, InputConfig, JoinConfig, bucket_of, column_map
from patentft.corpus.read import BadRow, columns_of, printable, rows_of
from patentft.corpus.stream import open_raw
from patentft.corpus.tables import BadValue, as_text
from patentft.location import Location
from patentft.store import DamagedFile


def shard_schema(name: str) -> pa.Schema:
    """An input's columns as texts, where each row is from, and, for a bad one, what is wrong with it."""
    return pa.schema(
        [
            *(pa.field(column, pa.string()) for column in INPUTS[name].columns),
            pa.field("file", pa.int32(), nullable=False),  # index into the input's files
            pa.field("row", pa.int64(), nullable=False),
            pa.field("bad_column", pa.string()),
            pa.field("bad_reason", pa.string()),  # null: a good row
            pa.field("bad_value", pa.string()),
        ]
    )


def checked_rows(
    name: str, source: InputConfig, file: Location, file_index: int, max_characters: int | None
) -> Iterator[dict[str, Any]]:
    """Every row of a file as a row of the shard."""
    mapping = column_map(name, source, columns_of(file, source.delimiter, source), str(file))
    required = INPUTS[name].required
    for item in rows_of(file, source.delimiter, set(mapping.values()), source):
        if isinstance(item, BadRow):
            yield _bad(item.column, item.reason, item.value) | {"file": file_index, "row": item.number}
            continue
        row: dict[str, Any] = {"file": file_index, "row": item.number}
        try:
            for column, theirs in mapping.items():
                value = item.values.get(theirs)
                if column in ("date", "sequence") and value is not None and not isinstance(value, str):
                    value = "" if value != value else str(value)  # a Parquet file's date or number; NaN is none
                text = as_text(column, value, required=column in required)
                if max_characters is not None and text and len(text) > max_characters:
                    raise BadValue(
                        column, f"too long: {len(text):,} characters, max_characters is {max_characters:,}", text
                    )
                row[column] = text
        except BadValue as bad:
            row = _bad(bad.column, bad.reason, bad.value) | {"file": file_index, "row": item.number}
        yield row


def _bad(column: str | None, reason: str, value: str) -> dict[str, Any]:
    return {"bad_column": column, "bad_reason": printable(reason, 500), "bad_value": printable(value)}


def shards(
    config: JoinConfig, name: str, source: InputConfig, file: Location, file_index: int
) -> Iterator[tuple[int, bytes]]:
    """(number of rows, Parquet file) for every `shard_rows` rows of the file; the same bytes each time."""
    rows = checked_rows(name, source, file, file_index, config.max_characters)
    while batch := list(islice(rows, config.shard_rows)):
        yield len(batch), shard_bytes(name, batch, config.buckets)


def shard_bytes(name: str, rows: list[dict[str, Any]], buckets: int) -> bytes:
    """The rows as Parquet: a row group per bucket that has any, which the file's metadata lists."""
    dealt: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        bad = row.get("bad_reason") is not None
        bucket = row["row"] % buckets if bad else bucket_of(row["patent_id"], buckets)
        dealt.setdefault(bucket, []).append(row)
    order = sorted(dealt)
    fields = shard_schema(name).with_metadata({"buckets": json.dumps(order)})
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, fields, compression="zstd", write_page_checksum=True) as writer:
        for bucket in order:
            table = pa.Table.from_pylist(dealt[bucket], schema=fields)
            writer.write_table(table, row_group_size=max(1, table.num_rows))
    return sink.getvalue()


def read_bucket(shard: Location, bucket: int) -> pa.Table | None:
    """The bucket's rows of one shard, their checksums verified; None when it has none. Raises DamagedFile."""
    try:
        with open_raw(shard) as raw, pq.ParquetFile(raw, page_checksum_verification=True) as parquet:
            order = json.loads((parquet.schema_arrow.metadata or {})[b"buckets"])
            return parquet.read_row_group(order.index(bucket)) if bucket in order else None
    except (OSError, pa.ArrowInvalid) as error:
        raise DamagedFile(f"{shard} is damaged ({error}); delete it and run the stage again to remake it") from error
