"""From a PDF to its tree, on a made-up document of which every section is known."""

from __future__ import annotations

import pytest

from patentft.corpus.bref.layout import without_furniture
from patentft.corpus.bref.pdf import BadPdf, Pdf, read_pdf
from patentft.corpus.bref.tables import from_tree
from patentft.corpus.bref.tree import Tree, build_tree
from tests.corpus.bref.pdf_writer import Put, column, write_pdf
from tests.corpus.bref.report import FILLER, document, pages

PARAGRAPH = " ".join(FILLER)


@pytest.fixture(scope="module")
def pdf() -> Pdf:
    return read_pdf(document())


@pytest.fixture(scope="module")
def tree(pdf: Pdf) -> Tree:
    return build_tree(pdf)


def test_every_heading_is_found_with_its_number_level_title_and_page(tree: Tree) -> None:
    assert [(s.number, s.level, s.title, s.page) for s in tree.sections] == [
        (None, 1, "PREFACE", 3),
        ("1", 1, "GENERAL INFORMATION", 4),
        ("1.1", 2, "The sector", 4),
        ("1.2", 2, "Key environmental issues of the production of glass, of frits and of mineral wool", 5),
        ("2", 1, "TECHNIQUES", 6),
        ("2.1", 2, "Dust", 6),
        ("2.1.1", 3, "Bag filters", 6),
        ("2.2", 2, "Gases", 8),
        (None, 1, "ANNEXES", 9),
    ]
    assert (tree.counts["listed"], tree.counts["listed_and_found"], tree.counts["contents_pages"]) == (7, 7, 1)
    assert tree.counts["listed_but_not_found"] == tree.counts["found_but_not_listed"] == []


def test_headers_and_footers_go_and_sub_headings_that_open_pages_stay(tree: Tree, pdf: Pdf) -> None:
    whole = "\n".join(section.text for section in tree.sections)
    for gone in ("Chapter 1", "Best Available Techniques", "Glass and wool", "Preface", ". . .", "....."):
        assert gone not in whole.replace("Chapter 2.", "")
    assert whole.count("Description") == 3
    assert tree.counts["header_and_footer_lines"] == 14
    kept, _ = without_furniture(pdf.pages)
    assert [line.text for line in kept[6].lines][:2] == ["Description", "the following table."]


def test_words_cut_at_line_ends_are_whole_again(tree: Tree) -> None:
    text = next(section.text for section in tree.sections if section.number == "1.2")
    assert "pulses of compressed air" in text  # a word that is elsewhere, whole
    assert "their dust is non-toxic." in text  # one that is elsewhere with its hyphen


def test_paragraphs_lists_and_page_breaks(tree: Tree) -> None:
    by_number = {section.number: section.text for section in tree.sections}
    assert by_number["2.2"] == f"• hydrogen fluoride\n• sulphur dioxide\n\n{PARAGRAPH}"
    assert by_number["1.1"] == f"{PARAGRAPH} see Section 2.1.1 and Chapter 2."
    assert "*" not in by_number["2.1.1"]
    assert "1.5 kg of lime per tonne\n1.9 kg of dust per tonne" in by_number["2.1.1"]  # bold and numbered: no headings


def test_a_paragraph_goes_on_over_a_page_break() -> None:
    body = [*FILLER, *FILLER]
    made = [
        [Put(70, 805, "Chapter 1", 9, True), *column(["*1 START", "", *body], top=200)],
        [Put(70, 805, "Chapter 1", 9, True), *column(["and this is where it ends.", "", *body])],
        [Put(70, 805, "Chapter 1", 9, True), *column(["*2 NEXT", "", *body])],
    ]
    sections = build_tree(read_pdf(write_pdf(made))).sections
    assert f"{PARAGRAPH} {PARAGRAPH} and this is where it ends.\n\n{PARAGRAPH}" in sections[0].text


def test_citations_are_resolved_and_unresolved_ones_counted(tree: Tree) -> None:
    found = from_tree("GLS", tree)
    text_of = {row["section_id"]: row["text"] for row in found.sections}
    links = [(row["section_id"], row["cited_id"], row["words"]) for row in found.citations]
    assert links == [
        ("GLS:::1.1", "GLS:::2.1.1", "see Section 2.1.1"),
        ("GLS:::1.1", "GLS:::2", "Chapter 2"),
        ("GLS:::1.2", None, "Section 9.9"),
        ("GLS:::2.1", "GLS:::2.1.1", "see also Sections 2.1.1"),
        ("GLS:::2.1", "GLS:::2.2", "2.2"),
        ("GLS:::ANNEXES", "GLS:::2.1.1", "see 2.1.1"),
    ]
    for row in found.citations:
        assert text_of[row["section_id"]][row["start_char"] :].startswith(row["words"])
    assert found.counts["citations_unresolved"] == 1
    assert found.counts["unresolved"] == ["GLS:::1.2: Section 9.9"]
    assert found.counts["citations_of_other_documents"] == 1
    parents = {row["section_id"]: row["parent"] for row in found.sections}
    assert parents["GLS:::2.1.1"] == "GLS:::2.1"
    assert parents["GLS:::2"] is parents["GLS:::PREFACE"] is None


@pytest.mark.parametrize("with_bookmarks", [True, False])
def test_a_document_without_contents_pages(with_bookmarks: bool) -> None:
    titles = ["1 GENERAL INFORMATION", "1.1 The sector", "2 TECHNIQUES", "2.1 Dust", "2.1.1 Bag filters", "2.2 Gases"]
    without = [page for n, page in enumerate(pages()) if n != 1]
    tree = build_tree(read_pdf(write_pdf(without, outline=titles if with_bookmarks else ())))
    numbers = [section.number for section in tree.sections if section.number]
    assert numbers == ["1", "1.1", "1.2", "2", "2.1", "2.1.1", "2.2"]
    assert tree.counts["contents"] == ("bookmarks" if with_bookmarks else "none")


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_text_set_sideways_is_read_like_upright_text(turn: int) -> None:
    """The made-up document with every page turned has the same tree."""
    width, height = 595, 842

    def turned(put: Put) -> Put:
        x, y = {1: (height - put.y, put.x), 2: (width - put.x, height - put.y), 3: (put.y, width - put.x)}[turn]
        return Put(x, y, put.text, put.size, put.bold, turn)

    size = {"width": height, "height": width} if turn % 2 else {"width": width, "height": height}
    made = [[turned(put) for put in page] for page in pages()]
    tree = build_tree(read_pdf(write_pdf(made, **size)))
    assert tree == build_tree(read_pdf(document()))


def test_a_page_with_rotate_set_is_read_as_it_is_shown() -> None:
    # shown upright: the text is set sideways, and /Rotate turns the sheet
    made = [[Put(842 - p.y, p.x, p.text, p.size, p.bold, 1) for p in page] for page in pages()]
    tree = build_tree(read_pdf(write_pdf(made, width=842, height=595, rotate=90)))
    assert tree == build_tree(read_pdf(document()))


# ---- what cannot be read


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a PDF"),
        (b"<html>%PDX</html>", "not a PDF"),
        (b"%PDF-1.4\nnothing here\n%%EOF", "not a PDF, or damaged"),
        (document()[:700], "cut off"),
        (document()[:-40], "cut off"),
        (document().replace(b"/Pages", b"/Sages"), "cannot be opened"),
        (write_pdf(pages(), encrypted=True), "encrypted"),
        (write_pdf([[], []]), "no text layer"),
    ],
    ids=["empty", "html", "header only", "cut", "cut late", "no pages", "encrypted", "scanned"],
)
def test_bad_files_are_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadPdf, match=reason):
        read_pdf(data)


def test_limits_on_pages_and_time() -> None:
    with pytest.raises(BadPdf, match="9 pages, max_pages is 8"):
        read_pdf(document(), max_pages=8)
    with pytest.raises(BadPdf, match="took more than"):
        read_pdf(document(), seconds=0.001)
