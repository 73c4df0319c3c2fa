"""A made-up document with what BREF documents hold: contents, running headers, tables, long headings, cut words."""

from __future__ import annotations

from tests.corpus.bref.pdf_writer import Put, column, write_pdf

FILLER = (
    "The techniques that are described in this part of the document are used in",
    "many installations and they have been found to lower the emissions of dust.",
    "Data of the plants that took part in the survey are given in the annexes,",
)
CONTENTS = [
    "PREFACE . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . i",
    "1 GENERAL INFORMATION . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . 1",
    "1.1 The sector ................................................................... 1",
    "1.2 Key environmental issues of the production of glass, of frits and of",
    "mineral wool ..................................................................... 2",
    "2 TECHNIQUES ..................................................................... 3",
    "2.1 Dust ......................................................................... 3",
    "2.1.1 Bag filters ................................................................ 3",
    "2.2 Gases ........................................................................ 5",
    "ANNEXES .......................................................................... 6",
    "Figure 1.1: The process ......................................................... 11",
]


def pages() -> list[list[Put]]:
    """Ten pages: cover, contents, preface, and chapters on odd and even pages with other headers and margins."""
    bodies = [
        ["*1 GENERAL INFORMATION", "", "*1.1 The sector", "", *FILLER, "see Section 2.1.1 and Chapter 2."],
        [
            "*1.2 Key environmental issues of the production of glass, of frits and of",
            "*mineral wool",
            "",
            *FILLER,
            "as is shown in Section 9.9. The filters are cleaned with pulses of com-",
            "pressed air, and their dust is non-",
            "toxic. The pressure of compressed air is low. Lime is non-toxic too.",
        ],
        [
            "*2 TECHNIQUES",
            "",
            "*2.1 Dust",
            "",
            *FILLER,
            "see also Sections 2.1.1 and 2.2, and Section 4.2 of the LCP BREF.",
            "",
            "*2.1.1 Bag filters",
            "",
            "*Description",
            "",
            *FILLER,
            "and in",
        ],
        [
            "*Description",
            "",
            "the following table.",
            "",
            "*1.5 kg of lime per tonne",
            "*1.9 kg of dust per tonne",
            *FILLER,
        ],
        ["*Description", "", *FILLER, "", "*2.2 Gases", "", "• hydrogen fluoride", "• sulphur dioxide", "", *FILLER],
        ["*ANNEXES", "", *FILLER, "(see 2.1.1)."],
    ]
    made = [column(["*REFERENCE DOCUMENT", "", "*Glass and wool"]), column(CONTENTS, size=10)]
    made.append(_framed(0, ["*PREFACE", "", *FILLER], "Preface"))
    made += [_framed(n, body, f"Chapter {min(n + 1, 3) // 2 + 1}") for n, body in enumerate(bodies)]
    return [page for page in made if page]


def _framed(number: int, body: list[str], header: str) -> list[Put]:
    even = number % 2
    top = Put(70 if even else 480, 805, header, 9, True)
    bottom = Put(
        70 if even else 300, 40, f"{number} Glass" if even else f"Best Available Techniques, Glass {number}", 9
    )
    return [top, *column(body, x=50 if even else 70), bottom]


def document() -> bytes:
    return write_pdf(pages())
