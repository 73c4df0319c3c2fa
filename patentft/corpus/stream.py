"""A file's bytes and text: gzip, Zstandard and zip opened under a limit, encodings, lines of bounded length.

    file --open_bytes--> decompressed bytes, counted --open_text--> text --lines_of--> lines

What comes out of a compressed file is counted while it is read. A bomb (a small file that unpacks to terabytes) is
refused as soon as it passes `max_file_bytes` or `max_ratio`; nothing is unpacked to disk and nothing is held.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
from pydantic import Field, field_validator

from patentft.config import Config, ConfigError, runtime
from patentft.location import Location

PACKINGS = (".gz", ".zst", ".zip")
RATIO_FLOOR_BYTES = 16 << 20
"""The ratio counts from here on: a few repeated rows may well shrink a thousandfold."""
MAX_LINE_CHARACTERS = 64 << 20


class Reading(Config):
    """How the files of a source are read."""

    encoding: str = "utf-8"
    """Encoding of CSV, TSV and JSONL files: utf-8 (with or without a byte order mark), latin-1, utf-16, ..."""
    max_file_bytes: int = runtime(64 << 30, ge=1)
    """A compressed file that unpacks to more bytes than this is refused; so is a Parquet file."""
    max_ratio: float = runtime(200.0, ge=1)
    """A compressed file that unpacks to more than this many times its size is refused (from 16 MiB on). Text shrinks 3
    to 20 times."""
    languages: list[str] = Field(default=["en", "de", "fr"], min_length=1)
    """Which language to take of an XML document's title, abstract and claims: the first of these that it has, else
    any."""
    max_document_bytes: int = Field(default=32 << 20, ge=1)
    """A document larger than this inside an XML file goes to quarantine."""

    @field_validator("encoding")
    @classmethod
    def _is_a_text_encoding(cls, value: str) -> str:
        try:
            name = codecs.lookup(value).name
            "".encode(name)  # refuses codecs that are no text encodings (base64, zlib)
        except (LookupError, UnicodeError):
            known = "usual ones: utf-8, latin-1, utf-16"
            raise ValueError(f"{value!r} is no text encoding that Python knows; {known}") from None
        return name


DEFAULT = Reading()


class _Counted(io.RawIOBase):
    """The bytes of `stream`, refused when there are too many of them."""

    def __init__(self, stream: Any, file: Location, reading: Reading, packed_bytes: Callable[[], int]) -> None:
        self._stream, self._file, self._reading, self._packed = stream, file, reading, packed_bytes
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._count += len(data)
        if self._count > self._reading.max_file_bytes:
            raise ConfigError(
                f"{self._file} unpacks to more than {self._reading.max_file_bytes:,} bytes, so reading stopped; "
                f"if it is meant to be that large, raise max_file_bytes of its source"
            )
        if self._count > RATIO_FLOOR_BYTES and self._count > self._reading.max_ratio * max(1, self._packed()):
            raise ConfigError(
                f"{self._file} unpacks to more than {self._reading.max_ratio:g} times its size, as a zip bomb does, "
                f"so reading stopped; if it is meant to, raise max_ratio of its source"
            )
        return len(data)


def packing_of(name: str) -> str | None:
    """ ".gz", ".zst" or ".zip" when the name ends so."""
    lower = name.lower()
    return next((suffix for suffix in PACKINGS if lower.endswith(suffix)), None)


def unpacked_name(name: str) -> str:
    """The name in lower case, without the ending of its packing."""
    lower = name.lower()
    return lower.removesuffix(packing_of(lower) or "")


def open_raw(file: Location) -> Any:
    """The file's own bytes, seekable. Raises ConfigError when it is absent or may not be read."""
    try:
        return open(file.path, "rb") if file.is_local else file.filesystem.open(file.url, "rb")
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be opened: {error.strerror or error}") from error


@contextmanager
def explained(file: Location) -> Iterator[None]:
    """What a cut or damaged file raises while it is read, as a ConfigError that names it."""
    try:
        yield
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise ConfigError(
            f"{file} cannot be read to its end ({error}); is it cut off? Fetch or write it again"
        ) from error


@contextmanager
def open_bytes(file: Location, reading: Reading = DEFAULT, member: str | None = None) -> Iterator[io.BufferedReader]:
    """The decompressed bytes. Raises ConfigError for a cut, damaged or huge file.

    member: which file inside a zip, when it is not the only one.
    """
    with open_raw(file) as raw, explained(file):
        packing = packing_of(file.name)
        if packing is None:
            yield raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw, 1 << 20)
            return
        packed: Callable[[], int] = raw.tell
        if packing == ".gz":
            stream: Any = gzip.GzipFile(fileobj=raw)
        elif packing == ".zst":
            stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
        else:
            archive = zipfile.ZipFile(raw)
            info = archive.getinfo(member or _only(names_in_zip(file), file))
            if info.flag_bits & 1:
                raise ConfigError(f"{file}: {info.filename} inside is encrypted; unpack it and give the file itself")
            stream = archive.open(info)
            packed = lambda: info.compress_size  # noqa: E731
        yield io.BufferedReader(_Counted(stream, file, reading, packed), 1 << 20)


def _only(names: list[str], file: Location) -> str:
    if len(names) != 1:
        raise ConfigError(f"{file}: expected one file inside, found {len(names)}; unpack it and give the folder")
    return names[0]


def names_in_zip(file: Location) -> list[str]:
    """The names of the files inside, without folders and what macOS adds."""
    with open_raw(file) as raw, explained(file), zipfile.ZipFile(raw) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
    return [name for name in names if not name.startswith("__MACOSX/") and not name.split("/")[-1].startswith(".")]


_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, which it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def encoding_by_mark(head: bytes) -> str | None:
    """ "utf-16" or "utf-32" when the bytes begin with its byte order mark."""
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)


@contextmanager
def open_text(file: Location, reading: Reading = DEFAULT, member: str | None = None) -> Iterator[IO[str]]:
    """Text, line ends as they are. Bytes that are no UTF-8 become surrogates, which mark their row as bad later.

    Raises ConfigError for a file that begins as UTF-16 or UTF-32 when `encoding` does not say so, and for bytes that
    another `encoding` than UTF-8 cannot read.
    """
    with open_bytes(file, reading, member) as stream:
        encoding, errors = reading.encoding, "strict"
        if encoding == "utf-8":
            found = encoding_by_mark(stream.peek(4)[:4])
            if found:
                raise ConfigError(
                    f"{file} is not UTF-8 text: it begins with the mark of {found.upper()}; set encoding of its source "
                    f"to {found}, or save the file as UTF-8"
                )
            encoding, errors = "utf-8-sig", "surrogateescape"
        try:
            yield io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{file} cannot be read as {reading.encoding} ({error.reason} at byte {error.start} of a block); "
                f"set encoding of its source to the right one, or fetch the file again"
            ) from None


class CutLine(str):
    """The beginning of a line that is longer than MAX_LINE_CHARACTERS; the rest of it was passed over."""

    __slots__ = ()


def next_line(stream: IO[str]) -> str:
    """The next line with its end, "" after the last; a CutLine, shortened, for one that no memory should hold."""
    line = stream.readline(MAX_LINE_CHARACTERS)
    if len(line) < MAX_LINE_CHARACTERS or line.endswith(("\n", "\r")):
        return line
    while True:
        more = stream.readline(MAX_LINE_CHARACTERS)
        if len(more) < MAX_LINE_CHARACTERS or more.endswith(("\n", "\r")):
            return CutLine(line[:200])
