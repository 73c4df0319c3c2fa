"""The stages `bref` (PDFs or tables -> SECTIONS, CITATIONS) and `views` (those -> VIEWS). One part per document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from patentft.config import Config, ConfigError, nearest
from patentft.corpus.bref.pdf import BadPdf, read_pdf
from patentft.corpus.bref.tables import Document, TablesConfig, as_table, from_tables, from_tree
from patentft.corpus.bref.tree import build_tree
from patentft.corpus.bref.views import VIEWS, Source, View, sources
from patentft.corpus.bref.windows import CannotCut, Cut, cut
from patentft.corpus.read import BadRow, list_files
from patentft.corpus.tables import Rejected, Tally
from patentft.corpus.tokenizer import counter, load_tokenizer
from patentft.location import Location
from patentft.stage import Context, FileRef, Stage, StageRef, TokenizerRef
from patentft.store import StageFolder

ENOUGH = 0.95
"""Of the headings that a document's contents list; a document with fewer found is warned about."""


class BrefConfig(Config):
    """BREF documents into SECTIONS and CITATIONS."""

    files: FileRef | None = None
    """PDFs: a file or a glob ("brefs/*.pdf"), local or an fsspec URL."""
    codes: dict[str, str] = Field(default={})
    """File name -> document code, where the code is not the name without .pdf: {"cer_bref_0807.pdf": CER}."""
    tables: TablesConfig | None = None
    """Instead of `files`: tables of sections and their texts."""
    max_pages: int = Field(default=5000, ge=1)
    """A PDF with more pages goes to quarantine."""
    max_megabytes: float = Field(default=500, gt=0)
    """A larger PDF goes to quarantine."""
    seconds_per_document: float = Field(default=600, gt=0)
    """A PDF that takes longer to read goes to quarantine."""

    @model_validator(mode="after")
    def _one_source(self) -> BrefConfig:
        if (self.files is None) == (self.tables is None):
            raise ValueError("set either files (PDFs) or tables (sections and texts), one of the two")
        for name, code in self.codes.items():
            if not code.strip() or ":::" in code or "/" in code:
                raise ValueError(f"codes: {name!r} has the code {code!r}; expected a short name such as CER")
        return self


class ViewsConfig(Config):
    """Windows over SECTIONS, for domain adaptation."""

    data: StageRef
    """A bref stage."""
    tokenizer: TokenizerRef
    """What windows are counted with: a folder, package:NAME, a hub id, or a train stage. Its weights are not read."""
    views: list[View] = Field(default_factory=lambda: list(VIEWS), min_length=1)
    """document: overlapping chunks of documents; chapter: of chapters; enriched: a section, those it cites and those
    that cite it; pair: a citing section and a cited one."""
    max_tokens: int = Field(default=256, ge=16)
    """No window has more, special tokens included."""
    overlap_tokens: int = Field(default=32, ge=0)
    """Tokens that neighbouring windows share, at least, where whole sentences of half a window or less allow it."""

    related_characters: int | None = Field(default=6000, ge=1)
    """enriched and pair: of a section beside another at most so many characters, in whole sentences; null: all."""

    @model_validator(mode="after")
    def _coherent(self) -> ViewsConfig:
        if len(set(self.views)) < len(self.views):
            raise ValueError(f"views names one twice: {self.views}")
        if 2 * self.overlap_tokens > self.max_tokens:
            raise ValueError(f"overlap_tokens {self.overlap_tokens} is over half of max_tokens {self.max_tokens}")
        return self


# ---- bref


def run_bref(config: BrefConfig, context: Context) -> dict[str, Any]:
    """Tables sections, citations, quarantine. Counts: in total and by document, unresolved citations listed."""
    if config.tables is not None:
        return _bref_from_tables(config.tables, context)
    assert config.files is not None
    files = list_files(config.files)
    codes = _codes(files, config.codes)
    bad: dict[int, str] = {}
    missing = [index for index in range(len(files)) if not _has(context.folder, index)]
    for index in context.progress.bar(missing, len(missing), "documents"):
        try:
            document = from_tree(codes[index], build_tree(_read(files[index], config)))
            if not document.sections:
                raise BadPdf("no heading found: neither numbered, nor listed in a table of contents")
        except BadPdf as error:
            bad[index] = str(error)
            continue
        _write(context.folder, index, document, Rejected())
    if len(bad) == len(files):
        reasons = "\n".join(f"  {files[index]}: {reason}" for index, reason in bad.items())
        raise ConfigError(f"{config.files}: no PDF could be read\n{reasons}")
    for index, reason in bad.items():  # not before it is sure that the stage has a document
        rejected = Rejected()
        rejected.add("sections", BadRow(str(files[index]), 0, reason, ""), Tally())
        _write(context.folder, index, Document(codes[index], [], counts={"quarantined": reason}), rejected)
    counts = _counts(context.folder, codes)
    for code, reason in counts["quarantined"].items():
        context.progress.warn(f"document {code} is in {context.folder.location / 'quarantine'}: {reason}")
    for code, one in counts["by_document"].items():
        if one.get("contents") == "none":
            context.progress.warn(f"document {code} has neither a table of contents nor bookmarks: check its sections")
        elif one.get("listed_and_found", 0) < ENOUGH * one.get("listed", 0):
            context.progress.warn(
                f"document {code}: only {one['listed_and_found']} of the {one['listed']} numbered headings that its "
                f"{one['contents']} list were found; missing: {', '.join(one['listed_but_not_found'][:8])}"
            )
    return counts


def _codes(files: list[Location], given: Mapping[str, str]) -> list[str]:
    names = [file.name for file in files]
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ConfigError(f"codes: no file is called {unknown[0]!r}{nearest(unknown[0], names)}")
    codes = [given.get(name) or name.rpartition(".")[0] or name for name in names]
    for code in codes:
        if codes.count(code) > 1:
            two = [str(file) for file, own in zip(files, codes, strict=True) if own == code]
            raise ConfigError(f"two files have the document code {code!r}: {', '.join(two)}; tell them apart by codes")
    return codes


def _read(file: Location, config: BrefConfig) -> Any:
    size = file.size() or 0
    if size > config.max_megabytes * 1e6:
        raise BadPdf(f"{size / 1e6:.0f} MB, max_megabytes is {config.max_megabytes:g}")
    return read_pdf(file.read_bytes(), max_pages=config.max_pages, seconds=config.seconds_per_document)


def _bref_from_tables(config: TablesConfig, context: Context) -> dict[str, Any]:
    rejected = Rejected()
    documents = from_tables(config, rejected)
    for index, document in enumerate(documents):
        _write(context.folder, index, document, rejected if index == 0 else Rejected())
    if rejected.rows:
        context.progress.warn(f"{len(rejected.rows)} rows are in {context.folder.location / 'quarantine'}")
    counts = _counts(context.folder, [document.code for document in documents])
    return counts | {"quarantined_rows": len(rejected.rows)}


def _about(index: int) -> str:
    return f"documents/{index:05d}.json"


def _has(folder: StageFolder, index: int) -> bool:
    tables = all(folder.has_part(table, index) for table in ("sections", "citations", "quarantine"))
    return tables and folder.has_file(_about(index))


def _write(folder: StageFolder, index: int, document: Document, rejected: Rejected) -> None:
    if _has(folder, index):
        return
    folder.write_part("quarantine", index, rejected.as_table())
    folder.write_part("citations", index, as_table("citations", document.citations))
    folder.write_part("sections", index, as_table("sections", document.sections))
    folder.write_file(_about(index), json.dumps(document.counts, indent=1, sort_keys=True).encode())


def _counts(folder: StageFolder, codes: list[str]) -> dict[str, Any]:
    """What the documents' own counts, committed with their parts, add up to."""
    about = {code: json.loads((folder.location / _about(n)).read_bytes()) for n, code in enumerate(codes)}
    names = ("sections", "chapters", "with_text", "characters", "pages", "listed", "listed_and_found")
    names += ("citations", "citations_resolved", "citations_unresolved", "citations_of_other_documents")
    total = {name: sum(one.get(name, 0) for one in about.values()) for name in names}
    quarantined = {code: one["quarantined"] for code, one in about.items() if "quarantined" in one}
    return {"documents": len(codes) - len(quarantined), "quarantined": quarantined, **total, "by_document": about}


# ---- views


def run_views(config: ViewsConfig, context: Context) -> dict[str, Any]:
    """Table views. Counts by view: texts that were cut, windows, tokens, sentences that no window could hold whole."""
    data = context.input(config.data)
    tokenizer = load_tokenizer(context.model(config.tokenizer))
    num_special = tokenizer.num_special_tokens_to_add(pair=False)
    if config.max_tokens - num_special < 8:
        raise ConfigError(
            f"max_tokens {config.max_tokens} leaves {config.max_tokens - num_special} tokens for the text"
        )
    count = counter(tokenizer)
    sections, citations = data.parts("sections"), data.parts("citations")
    folder = context.folder
    missing = [n for n in range(len(sections)) if not (folder.has_part("views", n) and folder.has_file(_about(n)))]
    for index in context.progress.bar(missing, len(missing), "documents"):
        rows = data.read_part(sections[index]).to_pylist()
        links = data.read_part(citations[index]).to_pylist()
        written: list[dict[str, Any]] = []
        about: dict[str, dict[str, int]] = {}
        for view in config.views:
            texts = list(sources(view, rows, links, config.related_characters))
            try:
                cuts = cut(
                    [source.text for source in texts],
                    count,
                    max_tokens=config.max_tokens,
                    num_special=num_special,
                    overlap=config.overlap_tokens,
                )
            except CannotCut as error:
                raise ConfigError(f"{config.data}: {error}; raise max_tokens") from error
            made = [row for source, one in zip(texts, cuts, strict=True) for row in _rows(source, one, rows)]
            about[view] = {
                "texts": len(texts),
                "windows": len(made),
                "tokens": sum(row["num_tokens"] for row in made),
                "sentences_cut": sum(one.sentences_cut for one in cuts),
            }
            written += made
        folder.write_part("views", index, as_table("views", written))
        folder.write_file(_about(index), json.dumps(about, sort_keys=True).encode())
    done = [json.loads((folder.location / _about(n)).read_bytes()) for n in range(len(sections))]
    names = ("texts", "windows", "tokens", "sentences_cut")
    return {view: {name: sum(one[view][name] for one in done) for name in names} for view in config.views}


def _rows(source: Source, cut_source: Cut, sections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "text_id": f"{source.view}/{source.key}/{index}",
            "view": source.view,
            "document": sections[0]["document"],
            "section_ids": source.sections_of(window.start, window.end),
            "text": source.text[window.start : window.end],
            "start_char": window.start,
            "end_char": window.end,
            "num_tokens": window.num_tokens,
        }
        for index, window in enumerate(cut_source.windows)
    ]


BREF = Stage("bref", BrefConfig, run_bref, uses_ray=False)
VIEWS_STAGE = Stage("views", ViewsConfig, run_views, uses_ray=False)
