"""Patent XML cut into documents: one at a time in memory, each parsed alone and safely.

    bytes --documents--> a tree per document, or what is wrong with it --xml_fields.fields_of--> a row's values

Known are EP full text (`ep-patent-document`), WIPO ST.36 style (`patent-document`, `exchange-document`) and USPTO
(`us-patent-grant`, `us-patent-application`), any number of documents in a file, with or without an element around them.

The file is cut where a document's element begins and ends, and each piece is parsed alone. So memory holds one
document, and a broken one costs itself only. It is also what makes the parser safe: a piece begins with the document's
own element, and XML allows a DTD nowhere behind that. What stands before it (a DOCTYPE and the entities it defines, the
address of an external DTD) is never parsed, so nothing is expanded, opened or fetched; a document that needs such an
entity goes to quarantine. The standard library's expat is enough for this: defusedxml or lxml would add a dependency
but no protection, and would refuse good files whose DOCTYPE only names the office's DTD, as real ones do.
"""

from __future__ import annotations

import codecs
import html.entities
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from patentft.config import ConfigError
from patentft.corpus.stream import encoding_by_mark

ROOTS = ("ep-patent-document", "patent-document", "exchange-document", "us-patent-grant", "us-patent-application")
_START = re.compile(rb"<((?:[A-Za-z_][\w.-]*:)?(?:" + "|".join(ROOTS).encode() + rb"))(?=[\s/>])")
_NAME_BYTES = 64  # no start tag's beginning is longer: what may lie across two blocks
_BLOCK_BYTES = 1 << 20
_HIDING = ((b"<!--", re.compile(rb"-->")), (b"<!DOCTYPE", re.compile(rb"\]\s*>")))
"""What may stand between documents and hold something that looks like one: how it begins and ends."""
_WITH_DECLARATIONS = re.compile(rb"<!DOCTYPE[^\[<>]{0,2000}\[")
MAX_DOUBTS = 4
"""So many later starts of documents may turn out to be text, in a comment or CDATA section, of one document."""


@dataclass(frozen=True)
class Broken:
    """A document that cannot be read."""

    reason: str
    text: str  # its first characters


class _Window:
    """The part of a stream that is held: from the document at hand to as far as was needed to see its end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.data = bytearray()
        self._blocks = _utf8_blocks(stream)
        self.ended = False

    def find(self, pattern: re.Pattern[bytes], at: int, limit: int) -> int | None:
        """Where `pattern` next begins at or after `at`; reads on for it until `limit` bytes (or a block) are held."""
        while True:
            match = pattern.search(self.data, at)
            if match:
                return match.start()
            if self.ended or len(self.data) > max(limit, _BLOCK_BYTES):
                return None
            at = max(at, len(self.data) - _NAME_BYTES)
            block = next(self._blocks, None)
            self.ended = block is None
            self.data += block or b""

    def drop(self, count: int) -> None:
        del self.data[:count]


def documents(stream: IO[bytes], max_bytes: int) -> Iterator[Element | Broken]:
    """Every document in order, good or broken. Time and memory are linear in the file and in `max_bytes`."""
    window = _Window(stream)
    while (start := _next_outside(window, max_bytes)) is not None:
        window.drop(start)
        result, length = _document(window, max_bytes)
        yield result
        window.drop(length)


def _next_outside(window: _Window, max_bytes: int) -> int | None:
    """Where the next document begins that is not inside a comment or a DTD. What is before it is let go of."""
    while True:
        start = window.find(_START, 0, max_bytes)
        if start is None:
            if window.ended:
                return None
            # far from any document; a comment or DTD that is still open is let go of too, and hides nothing any more
            window.drop(len(window.data) - _NAME_BYTES)
            continue
        hidden_until = _hidden_until(window, start, max_bytes)
        if hidden_until is None:
            return start
        window.drop(hidden_until)


def _hidden_until(window: _Window, start: int, max_bytes: int) -> int | None:
    """Where the comment or DTD ends in which `start` lies; None when it lies in none, or in one without an end."""
    at = 0
    hopeless: set[bytes] = set()  # its end was sought and is nowhere near: seeking it again would take for ever
    while True:
        opened = [
            (found, begin, end)
            for begin, end in _HIDING
            if begin not in hopeless and (found := window.data.find(begin, at, start)) >= 0
        ]
        if not opened:
            return None
        found, begin, end = min(opened, key=lambda each: each[0])
        if begin == b"<!DOCTYPE" and not _WITH_DECLARATIONS.match(window.data, found):
            at = found + 1  # a name and perhaps an address
            continue
        closed = window.find(end, found, found + max_bytes)
        if closed is None:
            hopeless.add(begin)
        elif closed > start:
            return closed + 1
        else:
            at = closed


def _document(window: _Window, max_bytes: int) -> tuple[Element | Broken, int]:
    """The document at the window's beginning, and the bytes to go on after."""
    failed: tuple[Broken, int] | None = None
    upto = 1
    for _ in range(MAX_DOUBTS):
        following = window.find(_START, upto, max_bytes)
        if following is None:  # the end of the file, or enough: a start that lies across the border is kept
            upto = len(window.data) - (0 if window.ended else _NAME_BYTES)
        else:
            upto = following
        piece = _to_its_end(bytes(window.data[:upto]))
        if piece is None:
            whole = following is not None or window.ended
            reason = (
                "broken XML: no end tag; is the file cut off?"
                if whole
                else f"too large: over {max_bytes:,} bytes, the limit of max_document_bytes"
            )
            result: Element | Broken = Broken(reason, _shown(window.data))
        elif len(piece) > max_bytes:
            result = Broken(f"too large: {len(piece):,} bytes, max_document_bytes is {max_bytes:,}", _shown(piece))
        else:
            result = _parse(piece)
            if isinstance(result, Element):
                return result, len(piece)
        # past the beginning of the next document, or of what is too large: then the search goes on inside it
        failed = failed or (result, upto)
        if following is None or not (b"<!--" in window.data[:upto] or b"<![CDATA[" in window.data[:upto]):
            break
        upto += 1
    assert failed is not None
    return failed


def _shown(text: bytes | bytearray) -> str:
    return bytes(text[:200]).decode("utf-8", "replace")


def _to_its_end(piece: bytes) -> bytes | None:
    """The piece up to its last end tag (or up to the end of its start tag, when that closes itself)."""
    match = _START.match(piece)
    assert match is not None
    name, end = b"</" + match[1], len(piece)
    while (end := piece.rfind(name, 0, end)) >= 0:
        close = re.compile(rb"\s*>").match(piece, end + len(name))  # not </patent-documents>
        if close:
            return piece[: close.end()]
    alone = re.compile(rb"<[^<>]*/>").match(piece)
    return alone[0] if alone else None


_ENTITY = re.compile(rb"&([A-Za-z][A-Za-z0-9]*);")
_OWN_ENTITIES = ("amp", "lt", "gt", "quot", "apos")


def _parse(piece: bytes) -> Element | Broken:
    """One document, namespaces left as prefixes. HTML's named characters (&nbsp;) are known without any DTD."""
    try:
        return _tree(piece)
    except expat.ExpatError as error:
        problem = error
    if problem.code == expat.errors.codes[expat.errors.XML_ERROR_UNDEFINED_ENTITY]:
        try:
            return _tree(_ENTITY.sub(_character, piece))
        except expat.ExpatError as error:
            problem = error
    note = " (a DTD is never read)" if "entity" in str(problem) else ""
    return Broken(f"broken XML: {problem}{note}", _shown(piece))


def _character(match: re.Match[bytes]) -> bytes:
    name = match[1].decode()
    known = html.entities.name2codepoint.get(name)
    return match[0] if known is None or name in _OWN_ENTITIES else b"&#%d;" % known


def _tree(piece: bytes) -> Element:
    """Raises ExpatError. The builder's methods are C functions: no Python runs per element."""
    builder = TreeBuilder()
    parser = expat.ParserCreate("utf-8")
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(piece, True)
    return builder.close()


_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")


def _utf8_blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """The stream in UTF-8, whatever its byte order mark or XML declaration says it is."""
    block = stream.read(_BLOCK_BYTES)
    encoding = encoding_by_mark(block[:4])
    if encoding is None:
        declared = _DECLARED.match(block.removeprefix(codecs.BOM_UTF8)[:1000])
        encoding = declared[1].decode() if declared else "utf-8"
    try:
        encoding = codecs.lookup(encoding).name
    except LookupError:
        raise ConfigError(f"its XML declaration names an encoding that Python does not know: {encoding!r}") from None
    decoder = None if encoding in ("utf-8", "ascii") else codecs.getincrementaldecoder(encoding)()
    try:
        while block:
            yield decoder.decode(block).encode() if decoder else block
            block = stream.read(_BLOCK_BYTES)
        if decoder:
            yield decoder.decode(b"", final=True).encode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"it cannot be read as {encoding}, which it says it is ({error.reason})") from None
