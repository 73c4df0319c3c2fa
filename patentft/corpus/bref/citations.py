"""In-document citations: "see Section 4.1.2", "Sections 4.2 and 4.3", "Chapters 4 to 6" -> the sections they name.

    find_citations(text) -> Citation(number, words, start_char), one per section that is named

A citation of another document ("Section 3.5 of Annex I to Directive 96/61/EC") is not one of this document's; those are
counted apart. A range names its two ends, and every section between them at their level that the document has.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_NUMBER = r"\d{1,2}(?:\.\d{1,3})*(?!\.?\d)"
_CITED = rf"(?:{_NUMBER})(?:\.?\(?[a-z]\)?(?![\w]))?"  # "5.1.3.3.a" is a point of 5.1.3.3
_BETWEEN = r"\s*(?:,\s*(?:and|or|&)?|;\s*(?:and|or)?|and(?:/or)?|or|&|to|through|until|[-–—]|as\s+well\s+as)\s*"
_NOUN = r"(?:sub-?)?(?:[Ss]ections?|[Cc]hapters?)\s+"
_AGAIN = rf"(?:(?:and\s+|in\s+|see\s+)?{_NOUN})?"
# "Section 4.2 and 15 %" names one section
_QUANTITY = r"\s*(?:[%‰°º€]|(?:[mk]?g|t|[cmk]?m|h|[kMG]?[WJ]|[kMG]Wh|EUR|per\s+cent|years?|days?|hours?|plants?)\b)"
_PHRASE = re.compile(
    r"(?:\b[Ss]ee\s+(?:also\s+)?)?"
    r"(?<![-\w])(?P<noun>(?:sub-?)?[Ss]ections?|[Cc]hapters?|SECTIONS?|CHAPTERS?|[Ss]ect\.|§§?)\s*"
    rf"(?P<list>{_CITED}(?:{_BETWEEN}{_AGAIN}{_CITED}(?!{_QUANTITY}))*)(?![\w%])",
)
_BARE = re.compile(r"\b[Ss]ee\s+(?:also\s+)?(?P<list>\d{1,2}(?:\.\d{1,3}){2,})(?![\w%])")
""" "see 4.2.1" without the word; two dots at least, else it may be a quantity."""
_RANGE = re.compile(r"^\s*(?:to|through|until|[-–—])\s*$")
_OWN = r"(?:the\s+present|the\s+current|this)\s|the\s+(?:document|report)\b"
_ELSEWHERE = re.compile(
    rf"^[^.;\n]{{0,3}}\s*(?:of|in)\s+(?!{_OWN}|order\b)(?:[^.;()\n]{{0,60}}?)"
    r"(?:\bAnnex(?:es)?\b|\bDirective\b|\bRegulations?\b|\bBREFs?\b|\b[Rr]eference\s+[Dd]ocument\b|\bDecision\b|\bTA\s|"
    r"\bstandards?\b|\bISO\b|\bEN\s|\bConvention\b|\bProtocol\b|\bAct\b|\bOrdinance\b|\bBIm?SchV\b)"
)
_BEFORE = re.compile(r"(?:\bBREF|\bDirective[^.;\n]{0,40}|\bAnnex\s+\w+|Regulation[^.;\n]{0,40}),?\s*\(?$")


@dataclass(frozen=True)
class Citation:
    number: str
    words: str  # text[start_char : start_char + len(words)] == words
    start_char: int


@dataclass(frozen=True)
class Found:
    citations: list[Citation]
    elsewhere: int  # sections of other documents


def find_citations(text: str, numbers: Collection[str] = ()) -> Found:
    """The sections that `text` names, in its order.

    numbers: those of the document's sections, for what lies between the ends of a range and for bare numbers.
    """
    citations: list[Citation] = []
    elsewhere = 0
    for match in _PHRASE.finditer(text):
        named = _of_phrase(text, match, numbers)
        own = [citation for citation in named if citation.start_char < _elsewhere_from(text, match)]
        elsewhere += len(named) - len(own)
        citations += own
    taken = [range(c.start_char, c.start_char + len(c.words)) for c in citations]
    for match in _BARE.finditer(text):
        if match["list"] in numbers and not any(match.start("list") in span for span in taken):
            citations.append(Citation(match["list"], match[0], match.start()))
    return Found(sorted(citations, key=lambda c: c.start_char), elsewhere)


def _elsewhere_from(text: str, match: re.Match[str]) -> int:
    """Where in a phrase the sections of another document begin; its end when it names none.

    "Sections 2.1 and 2.2, and Section 4.2 of the LCP BREF": from the last "Section".
    """
    after, before = text[match.end() : match.end() + 120], text[max(0, match.start() - 60) : match.start()]
    if _BEFORE.search(before):
        return match.start()
    if not _ELSEWHERE.match(after):
        return match.end()
    nouns = [found.start() for found in re.finditer(_NOUN, match["list"])]
    return match.start("list") + nouns[-1] if nouns else match.start()


def _of_phrase(text: str, match: re.Match[str], numbers: Collection[str]) -> list[Citation]:
    start = match.start("list")
    found: list[Citation] = []
    last_end: int | None = None
    for item in re.finditer(rf"(?:{_NOUN})?({_CITED})", match["list"]):
        begin, end = start + item.start(), start + item.end()
        number = re.match(_NUMBER, item[1])
        assert number is not None
        if last_end is None:
            begin = match.start()  # the first carries the words before it: "see Section 4.1"
        elif _RANGE.match(text[last_end:begin]):
            words = text[found[-1].start_char : end]
            between = _between(found[-1].number, number[0], numbers)
            found += [Citation(inner, words, found[-1].start_char) for inner in between]
        found.append(Citation(number[0], text[begin:end], begin))
        last_end = end
    return found


def _between(first: str, last: str, numbers: Collection[str]) -> list[str]:
    """Sections of the document strictly between the ends of a range of siblings ("4.2" to "4.5", not "4.2" to "5")."""
    low, high = first.split("."), last.split(".")
    if low[:-1] != high[:-1]:
        return []
    inner = (".".join([*low[:-1], str(number)]) for number in range(int(low[-1]) + 1, int(high[-1])))
    return [number for number in inner if number in numbers]
