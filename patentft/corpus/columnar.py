"""Parquet and Arrow files -> rows as Python values, a batch at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from patentft.config import ConfigError
from patentft.corpus.stream import Reading, open_raw
from patentft.location import Location


def columnar_names(file: Location, kind: str, reading: Reading) -> list[str]:
    """The column names of a file of kind "parquet" or "arrow". Raises ConfigError when it cannot be read."""
    if kind == "parquet":
        with _open_parquet(file, reading) as parquet:
            return list(parquet.schema_arrow.names)
    with _open_arrow(file) as reader:
        return list(reader.schema.names)


def columnar_values(
    file: Location, kind: str, columns: Collection[str] | None, reading: Reading
) -> Iterator[dict[str, Any] | ValueError]:
    """Every row, of the columns that are wanted; for a row with a value that is no UTF-8, its error.

    Raises ConfigError for a file that is cut off or damaged.
    """
    if kind == "parquet":
        with _open_parquet(file, reading) as parquet:
            names = [name for name in parquet.schema_arrow.names if columns is None or name in columns]
            yield from _values(file, parquet.iter_batches(batch_size=4096, columns=names))
    else:
        with _open_arrow(file) as reader:
            names = [name for name in reader.schema.names if columns is None or name in columns]
            yield from _values(file, _arrow_batches(reader, names))


def _values(file: Location, batches: Iterator[pa.RecordBatch]) -> Iterator[dict[str, Any] | ValueError]:
    number = 0
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise ConfigError(f"{file} is damaged after row {number}: {error}") from error
        if batch is None:
            return
        yield from _python_rows(batch)
        number += batch.num_rows


def _open_parquet(file: Location, reading: Reading) -> pq.ParquetFile:
    try:
        parquet = pq.ParquetFile(file.path if file.is_local else file.filesystem.open(file.url, "rb"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist") from None
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            f"{file} is not a readable Parquet file ({file.size()} bytes: {error}); is it cut off? "
            f"Fetch or write it again"
        ) from error
    metadata = parquet.metadata
    unpacked = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    if unpacked > reading.max_file_bytes:
        parquet.close()
        raise ConfigError(
            f"{file} unpacks to {unpacked:,} bytes, over the limit of {reading.max_file_bytes:,}; "
            f"if it is meant to be that large, raise max_file_bytes of its source"
        )
    return parquet


_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


@contextmanager
def _open_arrow(file: Location) -> Iterator[Any]:
    """A reader of an Arrow file in the stream format (as Hugging Face writes it) or the file format."""
    with open_raw(file) as raw:
        is_file = raw.read(6) == b"ARROW1"
        raw.seek(0, 2)
        raw.seek(max(0, raw.tell() - 8))
        # a stream that is cut between two batches would read as a shorter one
        whole = is_file or raw.read() == _END_OF_STREAM
        raw.seek(0)
        try:
            if not whole:
                raise pa.ArrowInvalid("its end is missing")
            # mapped: a damaged length then is an error, where a read of so many bytes would ask for as much memory
            source = pa.memory_map(file.path) if file.is_local else raw
            reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
            list(reader.schema.names)  # may be no UTF-8
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise ConfigError(
                f"{file} is not a readable Arrow file ({file.size()} bytes: {error}); is it cut off? "
                f"Fetch or write it again"
            ) from error
        yield reader


def _arrow_batches(reader: Any, names: list[str]) -> Iterator[pa.RecordBatch]:
    is_file = isinstance(reader, pa.ipc.RecordBatchFileReader)
    for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader:
        batch.validate(full=True)  # wrong offsets would be read from anywhere in the memory
        chosen = batch.select(names)
        for start in range(0, chosen.num_rows, 1024):
            yield chosen.slice(start, 1024)


def _python_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | ValueError]:
    """The rows as Python values; in a batch with a value that has none (text that is no UTF-8), its row's error."""
    try:
        yield from batch.to_pylist()
    except ValueError:  # pyarrow converts the whole batch before the first row is yielded
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except ValueError as error:
                yield error
