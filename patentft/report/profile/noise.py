"""What does not belong into a text (markup, figure references, ...), counted with examples; rows that look wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

_SIGN = r"\d{1,4}[a-z]{0,2}['\u2032]{0,2}"
_BETWEEN = r"\s*(?:,|;|/|-|\u2013|\band\b|\bor\b|\bto\b)\s*"
_FIGURES = r"\d{1,3}\s?[A-Za-z]?\b(?:\s*(?:,|;|-|\u2013|\band\b|\bor\b|\bto\b|&)\s*\d{1,3}[A-Za-z]?\b)*"

_CONTINUED = "[\x80-\xbf\u0152-\u0178\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
"""What the second and later bytes of a UTF-8 character look like in Latin-1 or Windows-1252."""


@dataclass(frozen=True)
class Noise:
    """One kind: what it is called, what it looks like, and a cheap test that spares most texts the search."""

    label: str
    pattern: re.Pattern[str]
    possible: Callable[[str], bool]


NOISE: dict[str, Noise] = {
    "html_tags": Noise(
        "HTML or XML tags",
        re.compile(
            r"</?[A-Za-z][A-Za-z0-9:_-]{0,30}(?:\s[^<>=]{0,50}=[^<>]{0,300})?\s?/?>|<!--.{0,2000}?-->|<\?[^<>]{0,300}\?>",
            re.S,
        ),
        lambda text: "<" in text,
    ),
    "html_entities": Noise("HTML entities", re.compile(r"&#?[A-Za-z0-9]{2,32};"), lambda text: "&" in text),
    "escapes": Noise(
        "escapes", re.compile(r"\\(?:u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|[nrtfv\"'/])"), lambda text: "\\" in text
    ),
    "reference_signs": Noise(
        "reference signs", re.compile(rf"\(\s*{_SIGN}(?:{_BETWEEN}{_SIGN})*\s*\)", re.I), lambda text: "(" in text
    ),
    "figure_references": Noise(
        "figure references",
        re.compile(rf"\b(?:figures?|figs?)\b\.?\s*{_FIGURES}", re.I),
        lambda text: "ig" in text or "IG" in text,
    ),
    "paragraph_marks": Noise("paragraph marks", re.compile(r"\[\s?\d{4,5}\s?\]"), lambda text: "[" in text),
    "claim_numbering": Noise(
        "claim numbering",
        re.compile(r"\A\s*(?:claims?\s+)?\d{1,3}\s?[.):]\s+(?=\S)", re.I),
        lambda text: text.lstrip()[:1].isdigit() or text.lstrip()[:5].lower() == "claim",
    ),
    "control_characters": Noise(
        "control and invisible characters",
        re.compile(
            "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufffe\uffff]"
        ),
        lambda text: not text.isprintable(),
    ),
    "mojibake": Noise(
        "mojibake (UTF-8 read as Latin-1) and lost characters",
        re.compile(
            f"[\u00c2-\u00d6\u00d8-\u00df]{_CONTINUED}|[\u00e0-\u00ef]{_CONTINUED}{{2}}|[\u00f0-\u00f4]{_CONTINUED}{{3}}|\ufffd"
        ),
        lambda text: not text.isascii(),
    ),
}
"""Key in profile.json -> kind."""


@dataclass(frozen=True)
class Example:
    """A find with its surroundings."""

    where: str
    before: str
    found: str
    after: str


@dataclass
class NoiseCount:
    rows: int = 0
    occurrences: int = 0
    examples: list[Example] = field(default_factory=list)


class NoiseCounter:
    """Counts every kind of noise in a column's texts; `examples` finds of each kind are kept, the first ones."""

    def __init__(self, examples: int) -> None:
        self._examples = examples
        self.kinds = {name: NoiseCount() for name in NOISE}

    def add(self, texts: Iterable[str], where: Callable[[int], str]) -> None:
        """where: index in `texts` -> how to name that row."""
        kinds = [(noise, self.kinds[name]) for name, noise in NOISE.items()]
        for index, text in enumerate(texts):
            for noise, count in kinds:
                if not noise.possible(text):
                    continue
                finds = 0
                for match in noise.pattern.finditer(text):
                    finds += 1
                    if finds == 1 and len(count.examples) < self._examples:
                        count.examples.append(_example(text, match, where(index)))
                count.occurrences += finds
                count.rows += finds > 0


def _example(text: str, match: re.Match[str], where: str, around: int = 60) -> Example:
    start, end = match.span()
    before = ("…" if start > around else "") + text[max(0, start - around) : start]
    after = text[end : end + around] + ("…" if len(text) > end + around else "")
    return Example(where, before, match[0][:200], after)


# ---- rows that look wrong

SUSPICIONS = {
    "empty": "no text",
    "very_short": "fewer characters than short_characters",
    "very_long": "more characters than long_characters",
    "few_letters": "less than half of the characters (blanks aside) are letters",
    "repeated_words": "one word is 35 % of 20 words or more, or under 30 % of the three-word phrases differ",
    "not_unicode": "bytes or escapes that are no Unicode text",
}
"""Reason -> what it means."""


def suspicions(text: str, short_characters: int, long_characters: int) -> list[str]:
    """Reasons of SUSPICIONS (but empty and not_unicode) for which a text that is not blank looks wrong."""
    found = []
    if len(text) < short_characters:
        found.append("very_short")
    elif len(text) > long_characters:
        found.append("very_long")
    words = text.split()
    if _few_letters(text, words):
        found.append("few_letters")
    if len(words) >= 20 and len(set(words)) < 0.3 * len(words) and _repeats(words):
        found.append("repeated_words")
    return found


def _few_letters(text: str, words: list[str]) -> bool:
    # most words of a good text are letters alone (and a mark at the end): only the others need to be looked into
    visible = sum(map(len, words))
    letters = sum(len(word) for word in words if word.isalpha())
    if 2 * letters >= visible:
        return False
    return 2 * sum(map(str.isalpha, text)) < visible


def _repeats(words: list[str]) -> bool:
    if max(Counter(words).values()) >= 0.35 * len(words):
        return True
    phrases = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(phrases)) < 0.3 * len(phrases)
