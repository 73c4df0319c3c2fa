"""Second half of the join: one bucket's rows of all inputs into TEXTS and QUARANTINE. Pure; no Ray.

Row accounting, per input and exactly: read = used + merged + quarantined + orphans_ignored.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from patentft import schema
from patentft.corpus.join.config import INPUTS, JoinConfig
from patentft.corpus.read import printable
from patentft.corpus.text import join as joined_text

Row = dict[str, Any]


@dataclass
class InputTally:
    """What happened to the rows of one input."""

    read: int = 0
    used: int = 0
    merged: int = 0  # said again what an earlier row said
    quarantined: int = 0
    orphans_ignored: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass
class Joined:
    """What one bucket comes to."""

    texts: pa.Table
    quarantine: pa.Table
    tallies: dict[str, InputTally]
    patents_without_text: int


@dataclass
class _Patent:
    row: Row
    date: datetime.date | None
    abstract: str | None = None
    claims: list[tuple[str, str]] = field(default_factory=list)  # (text id, text)
    codes: dict[str, None] = field(default_factory=dict)


class _Bucket:
    def __init__(self, config: JoinConfig, files: Mapping[str, list[str]]) -> None:
        self.config, self.files = config, files
        self.tallies = {name: InputTally() for name in files}
        self.quarantine: list[Row] = []
        self.patents: dict[str, _Patent] = {}

    def reject(self, name: str, row: Row, reason: str, column: str | None = None, value: str | None = None) -> None:
        tally = self.tallies[name]
        tally.quarantined += 1
        kind = reason.split(":")[0]
        tally.reasons[kind] = tally.reasons.get(kind, 0) + 1
        where = {"table": name, "file": self.files[name][row["file"]], "row": row["row"]}
        self.quarantine.append(where | {"column": column, "reason": reason, "value": printable(value or "")})

    def good(self, name: str, table: pa.Table) -> Iterator[Row]:
        """The good rows in the order of the files; the bad ones go to quarantine."""
        for row in table.sort_by([("file", "ascending"), ("row", "ascending")]).to_pylist():
            self.tallies[name].read += 1
            if row["bad_reason"] is None:
                yield row
            else:
                self.reject(name, row, row["bad_reason"], row["bad_column"], row["bad_value"])

    def of_patents(self, name: str, table: pa.Table) -> Iterator[tuple[_Patent, Row]]:
        """The good rows with the patent each belongs to, a patent's rows by their sequence; the others are orphans."""
        for row in sorted(self.good(name, table), key=lambda row: _place(row.get("sequence"))):
            patent = self.patents.get(row["patent_id"])
            if patent is not None:
                yield patent, row
            elif self.config.orphans == "count":
                self.tallies[name].orphans_ignored += 1
            else:
                self.reject(name, row, "orphan: no good row of patents has this id", "patent_id", row["patent_id"])

    def add_patents(self, table: pa.Table) -> None:
        for row in self.good("patents", table):
            first = self.patents.get(row["patent_id"])
            if first is not None:
                reason = (
                    f"duplicate id: first seen at {self.files['patents'][first.row['file']]} row {first.row['row']}"
                )
                self.reject("patents", row, reason, "patent_id", row["patent_id"])
                continue
            try:
                date = as_date(row["date"])
            except ValueError:
                self.reject("patents", row, "wrong value: expected an ISO date (2015-03-02)", "date", row["date"])
                continue
            self.patents[row["patent_id"]] = _Patent(row, date, row["abstract"])
            self.tallies["patents"].used += 1

    def add_abstracts(self, table: pa.Table) -> None:
        for patent, row in self.of_patents("abstracts", table):
            if patent.abstract and patent.abstract != row["abstract"]:
                self.reject(
                    "abstracts", row, "duplicate id: the patent has another abstract", "abstract", row["abstract"]
                )
            else:
                self.tallies["abstracts"].merged += bool(patent.abstract)
                self.tallies["abstracts"].used += not patent.abstract
                patent.abstract = row["abstract"]

    def add_claims(self, table: pa.Table) -> None:
        seen: set[str] = set()
        for patent, row in self.of_patents("claims", table):
            place = row["sequence"] if row["sequence"] is not None else str(len(patent.claims))
            text_id = f"{row['patent_id']}-{place}"
            if text_id in seen:
                self.reject("claims", row, "duplicate id: the patent has a claim of this sequence", "sequence", place)
                continue
            seen.add(text_id)
            patent.claims.append((text_id, row["text"]))
            self.tallies["claims"].used += 1

    def add_codes(self, table: pa.Table) -> None:
        for patent, row in self.of_patents("cpc", table):
            new = row["code"] not in patent.codes
            self.tallies["cpc"].used += new
            self.tallies["cpc"].merged += not new
            patent.codes[row["code"]] = None

    def texts(self) -> Iterator[Row]:
        """By patent id, a patent's claims by their sequence."""
        for patent_id, patent in sorted(self.patents.items()):
            common = {
                "patent_id": patent_id,
                "family_id": patent.row["family_id"],
                "date": patent.date,
                "codes": list(patent.codes),
                "language": None,
            }
            for text_id, text in patent.claims if self.config.unit == "claim" else [(patent_id, self._whole(patent))]:
                if text:
                    yield {"text_id": text_id, "text": text, **common}

    def _whole(self, patent: _Patent) -> str:
        claims = [text for _, text in patent.claims]
        parts = {
            "title": [patent.row["title"] or ""],
            "abstract": [patent.abstract or ""],
            "claims": claims,
            "first_claim": claims[:1],
        }
        return joined_text([piece for name in self.config.fields for piece in parts[name]])


def join_bucket(config: JoinConfig, tables: Mapping[str, pa.Table], files: Mapping[str, list[str]]) -> Joined:
    """Join one bucket. tables: input -> its rows (`partition.shard_schema`), in any order. files: input -> the names
    that the rows' `file` indexes. The output depends on the rows only, not on their order.
    """
    bucket = _Bucket(config, files)
    bucket.add_patents(tables["patents"])
    for name, add in (("abstracts", bucket.add_abstracts), ("claims", bucket.add_claims), ("cpc", bucket.add_codes)):
        if name in tables:
            add(tables[name])
    texts = list(bucket.texts())
    order = {name: number for number, name in enumerate(INPUTS)}
    files_order = {name: {file: number for number, file in enumerate(listed)} for name, listed in files.items()}
    bucket.quarantine.sort(key=lambda bad: (order[bad["table"]], files_order[bad["table"]][bad["file"]], bad["row"]))
    for tally in bucket.tallies.values():
        assert tally.read == tally.used + tally.merged + tally.quarantined + tally.orphans_ignored
    return Joined(
        texts=pa.Table.from_pylist(texts, schema=schema.TEXTS),
        quarantine=pa.Table.from_pylist(bucket.quarantine, schema=schema.QUARANTINE),
        tallies=bucket.tallies,
        patents_without_text=len(bucket.patents) - len({row["patent_id"] for row in texts}),
    )


def _place(sequence: str | None) -> tuple[int, str]:
    """Sorts 2 before 10; what is no number comes last, by its letters."""
    text = sequence or ""
    number = re.fullmatch(r"(\d{1,18})(\.0*)?", text, re.ASCII)
    return (int(number[1]), "") if number else (1 << 62, text)


def as_date(text: str | None) -> datetime.date | None:
    """A date from "2015-03-02", "20150302" or "2015-03-02 00:00:00". Raises ValueError for anything else."""
    if not text:
        return None
    match = re.fullmatch(r"(\d{4})-?(\d\d)-?(\d\d)([T ].*)?", text, re.ASCII)
    if match is None:
        raise ValueError(text)
    return datetime.date(int(match[1]), int(match[2]), int(match[3]))
