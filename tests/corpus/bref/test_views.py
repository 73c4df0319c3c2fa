"""Which sections each view puts together."""

from __future__ import annotations

from typing import Any

from patentft.corpus.bref.views import Source, sources


def section(section_id: str, parent: str | None, text: str) -> dict[str, Any]:
    number = section_id.partition(":::")[2]
    number = number if number[0].isdigit() else None
    return {
        "section_id": section_id,
        "document": "D",
        "parent": parent,
        "number": number,
        "title": f"T{number}" if number else "PREFACE",
        "text": text,
    }


SECTIONS = [
    section("D:::PREFACE", None, "pre"),
    section("D:::1", None, ""),
    section("D:::1.1", "D:::1", "one"),
    section("D:::1.1.1", "D:::1.1", "deep"),
    section("D:::2", None, "two"),
    section("D:::3", None, ""),
]


def cites(citing: str, cited: str | None, at: int = 0) -> dict[str, Any]:
    return {"section_id": f"D:::{citing}", "cited_id": cited and f"D:::{cited}", "words": "", "start_char": at}


CITATIONS = [cites("1.1", "2", 1), cites("1.1", "2", 2), cites("PREFACE", "1.1"), cites("2", "2"), cites("2", None)]
CITATIONS += [cites("2", "3")]


def made(view: Any, **options: Any) -> dict[str, Source]:
    found = list(sources(view, SECTIONS, CITATIONS, **options))
    assert len({source.key for source in found}) == len(found)
    for source in found:
        for name, start in source.parts:
            assert source.text[start:].startswith(
                next(s for s in SECTIONS if s["section_id"] == name)["number"] or "PRE"
            )
    return {source.key: source for source in found}


def test_document() -> None:
    (source,) = made("document").values()
    assert source.text == "PREFACE\n\npre\n\n1 T1\n\n1.1 T1.1\n\none\n\n1.1.1 T1.1.1\n\ndeep\n\n2 T2\n\ntwo\n\n3 T3"
    assert [name for name, _ in source.parts] == [row["section_id"] for row in SECTIONS]
    assert source.sections_of(0, 5) == ["D:::PREFACE"]
    at = source.text.index("1.1 T1.1")
    assert source.sections_of(at - 3, at + 1) == ["D:::1", "D:::1.1"]
    assert source.sections_of(at, at + 1) == ["D:::1.1"]


def test_chapter() -> None:
    assert {key: source.text for key, source in made("chapter").items()} == {
        "D:::PREFACE": "PREFACE\n\npre",
        "D:::1": "1 T1\n\n1.1 T1.1\n\none\n\n1.1.1 T1.1.1\n\ndeep",
        "D:::2": "2 T2\n\ntwo",  # and no chapter 3: it has no words
    }


def test_enriched() -> None:
    around = {key: [name for name, _ in source.parts] for key, source in made("enriched").items()}
    assert around == {
        "D:::PREFACE": ["D:::PREFACE", "D:::1.1"],
        "D:::1.1": ["D:::1.1", "D:::2", "D:::PREFACE"],  # what it cites, then what cites it, each once
        "D:::1.1.1": ["D:::1.1.1"],
        "D:::2": ["D:::2", "D:::1.1"],
    }


def test_pair() -> None:
    assert {key: source.text for key, source in made("pair").items()} == {
        "D:::1.1>D:::2": "1.1 T1.1\n\none\n\n2 T2\n\ntwo",
        "D:::PREFACE>D:::1.1": "PREFACE\n\npre\n\n1.1 T1.1\n\none",
    }


def test_of_a_long_section_a_passage_about_the_citation_or_its_beginning() -> None:
    long = "".join(f"Sentence {n:02d} here. " for n in range(20))
    rows = [section("D:::1", None, long), section("D:::2", None, long)]
    links = [cites("1", "2", long.index("Sentence 10"))]
    (pair,) = sources("pair", rows, links, related_characters=40)
    assert pair.text == "1 T1\n\nSentence 10 here. Sentence 11 here.\n\n2 T2\n\nSentence 00 here. Sentence 01 here."
    first, second = sources("enriched", rows, links, related_characters=40)
    assert first.text == f"1 T1\n\n{long}\n\n2 T2\n\nSentence 00 here. Sentence 01 here."
    assert second.text == f"2 T2\n\n{long}\n\n1 T1\n\nSentence 10 here. Sentence 11 here."
