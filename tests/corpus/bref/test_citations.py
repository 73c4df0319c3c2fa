"""What counts as a citation of a section of the same document, and what does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patentft.corpus.bref.citations import find_citations

NUMBERS = {"1", "2", "3", "4", "4.1", "4.2", "4.3", "4.4", "4.1.2", "4.1.3", "4.1.10", "5", "5.1.3.3"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see Section 4.1.2.", ["4.1.2"]),
        ("(see Section 4.1.2)", ["4.1.2"]),
        ("See also section 4.1.2, where", ["4.1.2"]),
        ("in Section\n4.1.2", ["4.1.2"]),
        ("Sections 4.2 and 4.3", ["4.2", "4.3"]),
        ("Sections 4.1, 4.2, and 4.4;", ["4.1", "4.2", "4.4"]),
        ("Sections 4.1 or 4.2 as well as 4.4", ["4.1", "4.2", "4.4"]),
        ("see Sections 4.1.2 and Section 4.3", ["4.1.2", "4.3"]),
        ("Sections 4.1 to 4.4", ["4.1", "4.2", "4.3", "4.4"]),
        ("Sections 4.1 – 4.3, 5.1.3.3", ["4.1", "4.2", "4.3", "5.1.3.3"]),
        ("Section 4.1.2 to Section 4.1.10", ["4.1.2", "4.1.3", "4.1.10"]),  # of those between, the ones that exist
        ("Chapter 5", ["5"]),
        ("Chapters 1 and 2 and Chapter 4", ["1", "2", "4"]),
        ("CHAPTER 4, § 4.1", ["4", "4.1"]),
        ("Section 5.1.3.3.a and 5.1.3.3 (b)", ["5.1.3.3", "5.1.3.3"]),
        ("Section 4.1 of this document", ["4.1"]),
        ("Section 4.1 of the document", ["4.1"]),
        ("Section 4.1 in order to comply with the Directive", ["4.1"]),
        ("Section 9.9", ["9.9"]),  # that it does not exist is found by who looks it up
        ("see 4.1.2", ["4.1.2"]),
        ("see 4.7.2", []),  # no such section and no such word: a quantity, perhaps
        ("Section 4.2 and 15 % of it", ["4.2"]),
        ("Section 4.2 and 4.3 kg", ["4.2"]),
        ("Section three, section A, Sections, Table 4.1, Figure 4.2, cross-section 5", []),
        ("4.1.2 Bag filters", []),
    ],
)
def test_citations(text: str, expected: list[str]) -> None:
    found = find_citations(text, NUMBERS)
    assert [citation.number for citation in found.citations] == expected
    assert found.elsewhere == 0


@pytest.mark.parametrize(
    "text",
    [
        "Section 3.5 of Annex I to Directive 96/61/EC",
        "Section 4.2 of the LCP BREF",
        "Sections 4.2 in the BREF on large combustion plants",
        "in the Storage BREF (Section 4.1)",
        "Chapter 5 of the Reference Document on Energy Efficiency",
        "Section 4.1 of EN 13284",
    ],
)
def test_sections_of_other_documents_are_counted_apart(text: str) -> None:
    found = find_citations(text, NUMBERS)
    assert not found.citations
    assert found.elsewhere == 1


def test_of_a_list_only_the_end_may_be_elsewhere() -> None:
    found = find_citations("see Sections 4.1 and 4.2, and Section 4.3 of the LCP BREF", NUMBERS)
    assert [citation.number for citation in found.citations] == ["4.1", "4.2"]
    assert found.elsewhere == 1


def test_the_words_are_where_they_are_said_to_be() -> None:
    text = "As in Sections 4.1 – 4.3, 5 and Chapter 2 (see Section 4.1.2)."
    found = find_citations(text, NUMBERS).citations
    assert [(c.number, c.words) for c in found] == [
        ("4.1", "Sections 4.1"),
        ("4.2", "Sections 4.1 – 4.3"),
        ("4.3", "4.3"),
        ("5", "5"),
        ("2", "Chapter 2"),
        ("4.1.2", "see Section 4.1.2"),
    ]


WORDS = st.sampled_from(
    ["see", "Section", "Sections", "4.1", "4.3", "5", "and", "to", ",", "–", "of", "Annex", ".", "("]
)


@given(st.lists(WORDS, max_size=30).map(" ".join))
def test_any_text_gives_citations_in_order_whose_words_are_in_place(text: str) -> None:
    found = find_citations(text, NUMBERS).citations
    assert [c.start_char for c in found] == sorted(c.start_char for c in found)
    for citation in found:
        assert text[citation.start_char :].startswith(citation.words)
        assert citation.number in citation.words or "–" in citation.words or "to" in citation.words


def test_long_texts_take_linear_time() -> None:
    for text in (
        "Sections " + "4.1, " * 100_000,
        "Section " * 100_000,
        "see " * 100_000,
        "1." * 300_000,
        " " * 500_000,
    ):
        find_citations(text, NUMBERS)
