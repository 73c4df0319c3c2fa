"""Cleaning of patent text: pure functions from text to text, each of them and all together idempotent.

    entities, escapes, markup -> characters -> numbering, paragraph marks, reference signs, figures, boilerplate ->
    blanks

`clean` repeats the whole round until nothing changes: removing one thing may lay open another ("&amp;lt;b&amp;gt;").
Every round that changes a text makes it shorter or brings characters into their normal form, so it ends.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable

import ftfy

from patentft.config import Config

_TAGS = (
    "a|abbr|b|big|br|center|code|col|dd|div|dl|dt|em|figref|font|h[1-6]|hr|i|img|li|ol|p|pre|s|small|span|strike|strong|"
    "sub|sub2|sup|sup2|table|tbody|td|tfoot|th|thead|tr|tt|u|ul|maths?|o|smallcaps|claim-text|claim-ref"
)
_MARKUP = re.compile(
    rf"</?(?P<name>{_TAGS})(?:\s[^<>]{{0,300}})?/?>|<!--.{{0,2000}}?-->|<\?[^<>]{{0,300}}\?>", re.I | re.S
)
_INLINE_TAGS = "a abbr b big code em figref font i s small span strike strong sub sub2 sup sup2 tt u o smallcaps"
_INLINE = frozenset(_INLINE_TAGS.split())
_ENTITY = re.compile(r"&#?[A-Za-z0-9]{2,32};")  # with its semicolon: "AT&T" and "R&D" stay as they are
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|([nrtfv\"'/]))")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufff0-\uffff]"
)
_BLANK_BEFORE = re.compile(r" +([,.;:)\]])(?![\d])")
_BLANK_PAIRS = (" ,", " .", " ;", " :", " )", " ]")  # looked for first: a plain search is 20 times as fast
_EMPTY_BRACKETS = re.compile(r"\(\s*[,;]?\s*\)|\[\s*\]")
_MOJIBAKE = re.compile("[\u00c2-\u00f4][\x80-\xbf\u0152-\u0178\u02c6\u02dc\u2013-\u203a\u20ac\u2122]")
_PARAGRAPH = re.compile(r"[\[<]\s?\d{4,5}\s?[\]>]")
_NUMBERING = re.compile(r"\s*(?:claims?\s+)?\d{1,3}\s?[.):]\s+(?=\S)", re.I)

_SIGN = r"\d{1,4}[a-z]{0,2}['\u2032]{0,2}"
_SIGNS = re.compile(
    rf"\s*\(\s*(?![23]D\s*\)){_SIGN}(?:\s*(?:,|;|/|-|\u2013|\band\b|\bor\b|\bto\b)\s*{_SIGN})*\s*\)", re.I
)
_WORD_BEFORE = re.compile(r"[^\W\d_]+\Z")
_THINGS = (
    "and or of by from in with the then formula formulae equation equations eq eqn step steps claim claims "
    "compound compounds structure general condition conditions inequality expression relation example examples "
    "scheme reaction phase group type element elements item items feature features seq id no iron copper tin "
    "lead manganese chromium cobalt"
)
_NUMBERED_THINGS = frozenset(_THINGS.split())
"""Words whose number in brackets is a name or counts something, not a sign in a drawing: "formula (1)", "and (2)
heating"."""

_FIGURE_LIST = r"\d{1,3}\s?[A-Za-z]?\b(?:\s*(?:,|;|-|\u2013|\band\b|\bor\b|\bto\b|&)\s*\d{1,3}[A-Za-z]?\b)*"
_FIGURE = re.compile(
    rf"(?:,?\s*\b(?:as\s+)?(?:best\s+)?(?:shown|illustrated|depicted|seen|represented)\s+in\s+)?"
    rf"\b(?:figures?|figs?|drawings?)\b\.?\s*{_FIGURE_LIST}(?:\s*\(\s*[a-z]\s*\))?",
    re.I,
)
_BOILERPLATE = re.compile(
    r"\s*(?:(?:what|that\s+which|the\s+invention|the\s+subject\s+matter)\s+(?:is\s+|we\s+|i\s+)?(?:claimed|claim)(?:\s+is)?"
    r"|(?:we|i)\s+claim|having\s+(?:thus\s+)?described\s+(?:the|our|my)\s+invention[^:]{0,200}?claimed[^:]{0,60}"
    r"|the\s+embodiments\s+of\s+the\s+invention\s+in\s+which[^:]{0,200})\s*:\s*",
    re.I,
)


class CleanConfig(Config):
    """What is taken out of texts. All of it keeps words and order."""

    entities: bool = True
    r"""Character entities (&amp;deg;), escapes (\n, \u00b0) and markup (<sub>): replaced by what they stand for."""
    numbering: bool = True
    """A claim's number at the beginning ("12. A method")."""
    paragraph_marks: bool = True
    """[0012]"""
    reference_signs: bool = True
    """Signs of drawings in brackets: "(12)", "(14a, 16)". Kept after words such as formula, step, claim."""
    figures: bool = True
    """ "FIG. 3", "as shown in Figs. 1A-1C"."""
    boilerplate: bool = True
    """ "What is claimed is:" at the beginning."""


def entities(text: str) -> str:
    """Entities and escapes as characters; markup removed, a blank in place of what breaks a line."""
    text = _ENTITY.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text
    text = _ESCAPE.sub(_escaped, text) if "\\" in text else text
    return _MARKUP.sub(_without_tag, text) if "<" in text else text


def _escaped(match: re.Match[str]) -> str:
    digits = match[1] or match[2]
    if digits is None:
        return match[3] if match[3] in "\"'/" else " "
    code = int(digits, 16)
    return " " if 0xD800 <= code <= 0xDFFF or code < 32 else chr(code)


def _without_tag(match: re.Match[str]) -> str:
    return "" if (match["name"] or "").lower() in _INLINE else " "


def characters(text: str) -> str:
    """NFC; UTF-8 that was once read as Latin-1 mended; characters that cannot be seen (controls, soft hyphens)
    removed."""
    if text.isascii():
        return text if text.isprintable() else _INVISIBLE.sub("", text)
    if _MOJIBAKE.search(text):
        text = ftfy.fix_encoding(text)
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text))


def blanks(text: str) -> str:
    """One blank between words, none at the ends nor before a punctuation mark."""
    text = " ".join(text.split())
    return _BLANK_BEFORE.sub(r"\1", text) if any(pair in text for pair in _BLANK_PAIRS) else text


def numbering(text: str) -> str:
    """Without the claim's number at the beginning."""
    match = _NUMBERING.match(text)
    return text[match.end() :] if match else text


def paragraph_marks(text: str) -> str:
    return _PARAGRAPH.sub(" ", text) if "[" in text or "<" in text else text


def reference_signs(text: str) -> str:
    """Without signs of drawings in brackets; "formula (1)", "claim (2)" and what is counted keep theirs."""
    return _SIGNS.sub(_without_sign, text) if "(" in text else text


def _without_sign(match: re.Match[str]) -> str:
    start = match.start()
    if start == 0 or match.string[start - 1] in ",;:":
        return match[0]  # "comprising: (1) heating, (2) cooling"; "formulas (1), (2)"
    word = _WORD_BEFORE.search(match.string, max(0, start - 16), start)
    return match[0] if word and word[0].lower() in _NUMBERED_THINGS else ""


def figures(text: str) -> str:
    lowered = text.lower()
    if not ("drawing" in lowered or lowered.startswith("fig") or " fig" in lowered or "(fig" in lowered):
        return text  # a plain search first: "configured" stands in every other claim
    text = _FIGURE.sub(" ", text)
    return _EMPTY_BRACKETS.sub(" ", text) if "(" in text or "[" in text else text


def boilerplate(text: str) -> str:
    match = _BOILERPLATE.match(text)
    return text[match.end() :] if match else text


_STEPS: dict[str, Callable[[str], str]] = {
    "entities": entities,
    "paragraph_marks": paragraph_marks,
    "figures": figures,
    "reference_signs": reference_signs,
    "boilerplate": boilerplate,
    "numbering": numbering,
}


def cleaner(config: CleanConfig) -> Callable[[str], str]:
    """A function from text to clean text: the chosen steps, characters and blanks, until nothing changes."""
    steps = [step for name, step in _STEPS.items() if getattr(config, name)]

    def round_(text: str) -> str:
        text = characters(text)
        for step in steps:
            text = step(text)
        return blanks(text)

    def clean(text: str) -> str:
        while (cleaned := round_(text)) != text:
            text = cleaned
        return text

    return clean
