"""What is joined: the input tables, their columns, and the unit of the output."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from patentft.config import Config, ConfigError, nearest, runtime
from patentft.corpus.stream import Reading
from patentft.corpus.text import PatentField
from patentft.stage import FileRef


@dataclass(frozen=True)
class Input:
    """A table that takes part: our columns and what PatentsView calls them."""

    columns: Mapping[str, str]
    required: tuple[str, ...]


INPUTS: dict[str, Input] = {
    "patents": Input(
        {
            "patent_id": "patent_id",
            "family_id": "family_id",
            "title": "patent_title",
            "abstract": "patent_abstract",
            "date": "patent_date",
        },
        ("patent_id",),
    ),
    "abstracts": Input({"patent_id": "patent_id", "abstract": "patent_abstract"}, ("patent_id", "abstract")),
    "claims": Input(
        {"patent_id": "patent_id", "sequence": "claim_sequence", "text": "claim_text"}, ("patent_id", "text")
    ),
    "cpc": Input({"patent_id": "patent_id", "sequence": "cpc_sequence", "code": "cpc_group"}, ("patent_id", "code")),
}
"""PatentsView's g_patent, g_patent_abstract, g_claims and g_cpc_current."""


class InputConfig(Reading):
    """One input table."""

    files: FileRef
    """A file, a folder, a glob or a Hugging Face dataset, as for a corpus. Each file is read by one task: several files
    are read at the same time."""
    columns: dict[str, str] = Field(default={})
    """Our column -> the file's, for those whose names are not PatentsView's."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """CSV delimiter, one character; unset: the most frequent of , ; tab | in the header line."""


class JoinConfig(Config):
    """Patents, claims and CPC symbols into TEXTS, a row per claim or per patent."""

    patents: InputConfig
    """A row per patent. Our columns: patent_id; optional family_id, title, abstract, date."""
    claims: InputConfig | None = None
    """A row per claim: patent_id, text; optional sequence (its place in the patent)."""
    cpc: InputConfig | None = None
    """A row per patent and symbol: patent_id, code; optional sequence."""
    abstracts: InputConfig | None = None
    """A row per patent: patent_id, abstract."""
    unit: Literal["claim", "patent"] = "claim"
    """What becomes a row: each claim, or each patent with the texts of `fields`."""
    fields: list[PatentField] = Field(default=["title", "abstract"], min_length=1)
    """With unit: patent, what its text is made of: title, abstract, claims, first_claim."""
    orphans: Literal["quarantine", "count"] = "quarantine"
    """Claims, abstracts and symbols of patents that are not there. quarantine: each a row in the quarantine. count:
    only counted, for when the patents are a chosen few of a large office's tables."""
    max_characters: int | None = Field(default=100_000, ge=1)
    """A row with a longer text goes to quarantine; null: no limit."""
    buckets: int = Field(default=64, ge=1, le=4096)
    """Parts that the patents are dealt into by the hash of their id: parts of the output. A worker holds one bucket,
    and takes about four times the text in it."""
    shard_rows: int = Field(default=200_000, ge=1)
    """Rows that a task holds while it deals out a file."""
    workers: int = runtime(2, ge=1)
    """Tasks at the same time."""
    cpus_per_worker: float = runtime(1.0, gt=0)
    """CPUs that each task asks Ray for."""

    @model_validator(mode="after")
    def _possible(self) -> JoinConfig:
        needs_claims = self.unit == "claim" or {"claims", "first_claim"} & set(self.fields)
        if needs_claims and self.claims is None:
            raise ValueError("claims is not set, but the texts are claims; set claims, or unit: patent with fields")
        if len(set(self.fields)) < len(self.fields):
            raise ValueError(f"fields names one twice: {', '.join(self.fields)}")
        for name, source in self.inputs().items():
            known = list(INPUTS[name].columns)
            unknown = sorted(set(source.columns) - set(known))
            if unknown:
                raise ValueError(f"{name}.columns: {unknown[0]!r} is no column of {name}{nearest(unknown[0], known)}")
        return self

    def inputs(self) -> dict[str, InputConfig]:
        """The inputs that are set, by name."""
        named = {"patents": self.patents, "abstracts": self.abstracts, "claims": self.claims, "cpc": self.cpc}
        return {name: source for name, source in named.items() if source is not None}


def column_map(name: str, source: InputConfig, present: list[str] | None, file: str) -> dict[str, str]:
    """Our column -> the file's, for those the file has. Raises ConfigError when one that is needed is not there."""
    mapping = {**INPUTS[name].columns, **source.columns}
    if present is None:  # JSONL: each row has its own
        return mapping
    for column, theirs in mapping.items():
        if theirs not in present and (column in INPUTS[name].required or column in source.columns):
            raise ConfigError(
                f"{file}: no column {theirs!r} for {name}.{column}{nearest(theirs, present)}; the file has: "
                f"{', '.join(present[:12])}; set {name}.columns.{column} to the right one"
            )
    return {column: theirs for column, theirs in mapping.items() if theirs in present}


def bucket_of(patent_id: str, buckets: int) -> int:
    """Which bucket a patent is in: the same in every process and on every machine."""
    return zlib.crc32(patent_id.encode()) % buckets
