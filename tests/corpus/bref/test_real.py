"""CER.pdf against its own table of contents, its bookmarks, and sections that others took from it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pypdfium2
import pytest

from patentft.corpus.bref.pdf import Pdf, read_pdf
from patentft.corpus.bref.tables import Document, from_tree
from patentft.corpus.bref.tree import build_tree
from patentft.corpus.bref.views import VIEWS, sources
from patentft.corpus.bref.windows import covers, cut


@pytest.fixture(scope="module")
def cer(data_root: Path) -> bytes:
    path = data_root / "bref_pdf" / "CER.pdf"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path.read_bytes()


@pytest.fixture(scope="module")
def pdf(cer: bytes) -> Pdf:
    return read_pdf(cer)


@pytest.fixture(scope="module")
def document(pdf: Pdf) -> Document:
    return from_tree("CER", build_tree(pdf))


def letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()


def contents(cer: bytes) -> dict[str, tuple[str, int]]:
    """Number -> (title, page) from the contents pages, read here on their own: plain text and one pattern."""
    pages = [page.get_textpage().get_text_range() for page in pypdfium2.PdfDocument(cer)]
    listing = "\n".join(page for page in pages[:30] if page.count(".....") > 5)
    listing = re.sub(r"\r?\n", "\n", listing)
    found = {}
    # a number at the start of a line, then text without a new entry in it, then dots and a page
    for match in re.finditer(
        r"^(\d+(?:\.\d+)*) +((?:(?!^\d+(?:\.\d+)* |\.{3}).)+?) ?\.{3,} *(\d+)", listing, re.M | re.S
    ):
        found[match[1]] = (" ".join(match[2].split()), int(match[3]))
    return found


def test_the_tree_matches_the_documents_own_contents(cer: bytes, document: Document) -> None:
    listed = contents(cer)
    assert len(listed) == 328  # counted in the document
    titles = {row["number"]: row["title"] for row in document.sections if row["number"]}
    missing = {
        number: (title, titles.get(number))
        for number, (title, _) in listed.items()
        if letters(titles.get(number, "")) != letters(title)
    }
    for number, (title, found) in missing.items():
        print(f"{number}: listed as {title!r}, found {found!r}")
    assert len(missing) <= 0.05 * len(listed)
    for chapter in "1234":
        assert chapter in titles
        assert chapter not in missing
    print(f"{len(listed) - len(missing)} of {len(listed)} entries found with their titles")
    pages = {row["number"]: row["page"] for row in document.sections}
    offsets = Counter(pages[number] - page for number, (_, page) in listed.items() if number in pages)
    assert offsets.most_common(1)[0][1] >= 0.95 * len(listed)  # printed page 1 is some page of the file


def test_the_tree_matches_the_bookmarks(pdf: Pdf, document: Document) -> None:
    ours = [letters(f"{row['number'] or ''}{row['title']}") for row in document.sections]
    theirs = [letters(title) for _, title in pdf.outline]
    assert len(set(theirs) & set(ours)) >= 0.95 * len(theirs)


def test_the_tree_matches_the_sections_that_others_found(data_root: Path, document: Document) -> None:
    table = pq.read_table(data_root / "bref" / "sections.parquet").to_pylist()
    theirs = {row["section_id"]: row for row in table if row["document"] == "CER"}
    ours = {row["section_id"]: row for row in document.sections}
    assert len(theirs) == 59
    for section_id, row in theirs.items():
        assert letters(ours[section_id]["title"]) == letters(row["title"])
        assert ours[section_id]["parent"] == row["parent"]
        assert not row["has_text"] or ours[section_id]["text"]


def test_texts_and_citations_match_those_that_others_found(data_root: Path, document: Document) -> None:
    table = pq.read_table(data_root / "bref" / "techniques.parquet").to_pylist()
    ours = {row["section_id"]: row for row in document.sections}
    cited = {(row["section_id"], row["cited_id"]) for row in document.citations}
    num_words = num_found = num_links = num_linked = 0
    for row in table:
        if row["document"] != "CER":
            continue
        words = Counter(re.findall(r"[a-z]{4,}", row["text"].casefold()))
        own = Counter(re.findall(r"[a-z]{4,}", (row["title"] + " " + ours[row["technique_id"]]["text"]).casefold()))
        num_words += words.total()
        num_found += (words & own).total()
        told = re.search(r"<referenced_by>(.*?)</referenced_by>", row["raw"])
        links = [number.strip() for number in told[1].split(",")] if told else []
        num_links += len(links)
        num_linked += sum((f"CER:::{number}", row["technique_id"]) in cited for number in links)
    print(f"{num_found} of {num_words} words, {num_linked} of {num_links} citations")
    assert num_words > 3900
    assert num_found >= 0.95 * num_words  # theirs spell abbreviations out
    assert num_links > 20
    assert num_linked >= 0.95 * num_links


def test_every_citation_of_an_existing_section_is_resolved(document: Document) -> None:
    numbers = {row["number"] for row in document.sections}
    text_of = {row["section_id"]: row["text"] for row in document.sections}
    spans = {(row["section_id"], at) for row in document.citations for at in _span(row)}
    unseen = [
        (section_id, match[0])
        for section_id, text in text_of.items()
        for match in re.finditer(r"(?:[Ss]ection|[Cc]hapter)s?\s+(\d+(?:\.\d+)*)", text)
        if match[1] in numbers and (section_id, match.start(1)) not in spans
    ]
    assert unseen == []
    assert len(document.citations) > 200
    assert [row for row in document.citations if row["cited_id"] is None] == []


def _span(row: dict) -> range:
    return range(row["start_char"], row["start_char"] + len(row["words"]))


def test_no_header_footer_page_number_or_contents_line_is_in_a_text(document: Document) -> None:
    for row in document.sections:
        for line in row["text"].splitlines():
            assert not re.search(r"\.{4,}\s*\d+$", line), (row["section_id"], line)
            assert not re.fullmatch(r"Chapter \d", line), (row["section_id"], line)
            assert not re.search(r"^\d* ?Ceramic Manufacturing Industry ?[\dxvi]*$", line), (row["section_id"], line)
    # what is repeated at the top of pages without being a header is still there
    whole = "\n".join(row["text"] for row in document.sections)
    assert whole.count("\nExample plants") > 20
    assert whole.count("Operational data") > 20


def test_views_cover_the_document(document: Document) -> None:
    def count(texts: list[str]) -> list[int]:
        return [len(re.findall(r"\w+|[^\w\s]", text)) for text in texts]

    for view in VIEWS:
        made = list(sources(view, document.sections, document.citations, 6000))
        cuts = cut([source.text for source in made], count, max_tokens=200, num_special=2, overlap=25)
        assert all(covers(one.windows, len(source.text)) for source, one in zip(made, cuts, strict=True))
        assert len(made) == {"document": 1, "chapter": 12, "enriched": 289, "pair": 168}[view]
