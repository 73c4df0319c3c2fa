"""A text -> overlapping windows of at most N tokens, cut on sentence borders where possible.

    sentences of all texts -> one count each -> those over the limit halved until they fit -> packed into windows
    -> every window counted as it will be tokenized; one that is over the limit after all gives back its last sentence

A window is a span of its text: `text[start:end]`, white space included. Windows begin at 0, end at the end of the text,
and leave no character between them out. Cost: each text is tokenized about twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Span = tuple[int, int]
Count = Callable[[list[str]], list[int]]
"""Texts -> tokens of each, without special tokens."""


@dataclass(frozen=True)
class Window:
    start: int
    end: int
    num_tokens: int  # of text[start:end], special tokens included


@dataclass(frozen=True)
class Cut:
    windows: list[Window]
    sentences_cut: int  # sentences over the limit: no window could hold one whole


class CannotCut(ValueError):
    """A single character has more tokens than a window may hold."""


_ABBREVIATIONS = (
    "e.g|i.e|cf|ca|approx|etc|vol|max|min|avg|resp|incl|excl|fig|figs|tab|no|nos|ref|refs|eq|eqs|sect|sec|chap|ch|art|"
    "para|pp|p|ed|eds|et al|vs|viz|dr|mr|mrs|ms|prof|st|inc|ltd|co|corp|dept|temp|conc|wt"
)
# begins at the first of a run and gives nothing back: linear in the text, whatever it holds
_ENDS = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+(\s++)(?=[\"'“‘(\[]?[^\W_a-zß-öø-ÿ])|\n\s*+")
_ENUMERATOR = re.compile(r"\W*\d{1,2}(?:\.\d{1,3})*\.\s*")
_ABBREVIATED = re.compile(rf"(?:^|[\s(\[])(?:{_ABBREVIATIONS}|[A-Z])\.$", re.IGNORECASE)


def sentences(text: str) -> list[Span]:
    """Half-open spans that cover `text` without a gap, each with the white space behind it. Lines end sentences too."""
    spans: list[Span] = []
    start = 0
    for match in _ENDS.finditer(text):
        before = text[max(start, match.start() - 12) : match.start() + 1]
        if match[1] is not None and "\n" not in match[1]:
            enumerator = match.end() - start < 20 and _ENUMERATOR.fullmatch(text, start, match.end())
            if enumerator or _ABBREVIATED.search(before):
                continue
        if match.end() > start:
            spans.append((start, match.end()))
            start = match.end()
    if start < len(text):
        spans.append((start, len(text)))
    return spans


def passage(text: str, around: int, limit: int) -> str:
    """Whole sentences of `text` near the character `around`, `limit` characters together; one sentence at least."""
    if len(text) <= limit:
        return text
    spans = sentences(text)
    first = last = max(index for index, (start, _) in enumerate(spans) if start <= around)
    while True:
        room = limit - (spans[last][1] - spans[first][0])
        if last + 1 < len(spans) and spans[last + 1][1] - spans[last + 1][0] <= room:
            last += 1
        elif first > 0 and spans[first - 1][1] - spans[first - 1][0] <= room:
            first -= 1
        else:
            return text[spans[first][0] : spans[last][1]].strip()


def cut(texts: Sequence[str], count: Count, *, max_tokens: int, num_special: int, overlap: int) -> list[Cut]:
    """The windows of each text.

    max_tokens: of a window, `num_special` special tokens included. overlap: tokens that neighbours share, at least,
    where whole sentences of at most half a window allow it. An empty text has no window. Raises CannotCut.
    """
    capacity = max_tokens - num_special
    units, counts, num_cut = _units(texts, count, capacity, overlap)
    plans = [_pack(lengths, capacity, overlap) for lengths in counts]
    while True:
        spans = [[(own[a][0], own[b - 1][1]) for a, b in plan] for own, plan in zip(units, plans, strict=True)]
        found = _counted(texts, spans, count)
        over = [
            (which, at)
            for which, tokens in enumerate(found)
            for at, number in enumerate(tokens)
            if number > capacity and plans[which][at][1] - plans[which][at][0] > 1
        ]
        if not over:
            break
        for which, at in over:  # the pieces together have more tokens than apart
            first, last = plans[which][at]
            size = sum(counts[which][first:last])
            counts[which][last - 1] += max(found[which][at] - size, 1)
        for which in {which for which, _ in over}:
            plans[which] = _pack(counts[which], capacity, overlap)
    return [
        Cut([Window(*span, tokens + num_special) for span, tokens in zip(own, numbers, strict=True)], cut_sentences)
        for own, numbers, cut_sentences in zip(spans, found, num_cut, strict=True)
    ]


def _counted(texts: Sequence[str], spans: Sequence[Sequence[Span]], count: Count) -> list[list[int]]:
    numbers = iter(count([text[a:b] for text, own in zip(texts, spans, strict=True) for a, b in own]))
    return [[next(numbers) for _ in own] for own in spans]


def _units(
    texts: Sequence[str], count: Count, capacity: int, overlap: int
) -> tuple[list[list[Span]], list[list[int]], list[int]]:
    """Per text: spans that fit into a window (sentences, or pieces of one), their tokens, sentences that were cut."""
    spans = [sentences(text) for text in texts]
    counts = _counted(texts, spans, count)
    num_cut = [sum(number > capacity for number in numbers) for numbers in counts]
    # the pieces of a cut sentence are small enough to be an overlap
    piece = min(capacity, max(overlap, capacity // 8)) if overlap else capacity
    limits = [[capacity if n <= capacity else piece for n in numbers] for numbers in counts]
    while any(n > limit for ns, ls in zip(counts, limits, strict=True) for n, limit in zip(ns, ls, strict=True)):
        halves = [
            [
                half
                for span, n, limit in zip(own, ns, ls, strict=True)
                for half in _split(text, span, n, limit, capacity)
            ]
            for text, own, ns, ls in zip(texts, spans, counts, limits, strict=True)
        ]
        todo = [[span for span, number, _ in own if number is None] for own in halves]
        fresh = iter([number for numbers in _counted(texts, todo, count) for number in numbers])
        spans = [[span for span, _, _ in own] for own in halves]
        limits = [[limit for _, _, limit in own] for own in halves]
        counts = [[next(fresh) if number is None else number for _, number, _ in own] for own in halves]
    return spans, counts, num_cut


def _split(text: str, span: Span, tokens: int, limit: int, capacity: int) -> list[tuple[Span, int | None, int]]:
    """The span, or its halves when it is over the limit: at the white space nearest to the middle, else there."""
    start, end = span
    if tokens <= limit:
        return [(span, tokens, limit)]
    if end - start == 1:
        if tokens > capacity:
            raise CannotCut(f"the character {text[start]!r} alone has {tokens} tokens, a window holds {capacity}")
        return [(span, tokens, tokens)]
    middle = (start + end) // 2
    spaces = [match.end() for match in re.finditer(r"\s+", text[start:end]) if match.end() < end - start]
    at = min((start + space for space in spaces), key=lambda place: abs(place - middle), default=middle)
    return [((start, at), None, limit), ((at, end), None, limit)]


def _pack(lengths: Sequence[int], capacity: int, overlap: int) -> list[Span]:
    """Half-open runs of units: each as long as fits, beginning with the last units of the run before."""
    runs: list[Span] = []
    start = end = 0
    while end < len(lengths):
        first = end  # the unit that this run adds, whatever it shares
        size = sum(lengths[start:end])
        while start < first and size + lengths[first] > capacity:
            size -= lengths[start]
            start += 1
        while end < len(lengths) and (end == first or size + lengths[end] <= capacity):
            size += lengths[end]
            end += 1
        runs.append((start, end))
        start = _shared(lengths, start, end, capacity, overlap)
    return runs


def _shared(lengths: Sequence[int], start: int, end: int, capacity: int, overlap: int) -> int:
    """Where the run after (start, end) begins: the fewest last units of `overlap` tokens, half a window at most."""
    first, shared = end, 0
    while first > start + 1 and shared < overlap and shared + lengths[first - 1] <= capacity // 2:
        first -= 1
        shared += lengths[first]
    return first


def covers(windows: Iterable[Window], length: int) -> bool:
    """Whether the windows begin at 0, end at `length`, move on, and leave nothing out."""
    reached = 0
    last_start = -1
    for window in windows:
        if window.start > reached or window.start <= last_start or window.end <= reached:
            return False
        reached, last_start = window.end, window.start
    return reached == length
