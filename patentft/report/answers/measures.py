"""How near an answer is to the reference answer, by its words. All are in [0, 1], 1 is best."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"\w+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def words(text: str) -> list[str]:
    """Lower-case runs of letters, digits and underscores, in any script; no stemming."""
    return _WORD.findall(text.lower())


def lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence of two lists of words.

    Bit-parallel (Hyyrö 2004): a machine word for each 64 of `a`, once for each of `b`.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(a)) - 1
    row = full  # a zero at each place where the subsequence grows
    for word in b:
        matching = row & places.get(word, 0)
        row = ((row + matching) | (row - matching)) & full
    return len(a) - row.bit_count()


def rouge_l(answer: str, reference: str) -> float:
    """The F-measure of the longest common subsequence of `words` (Lin 2004, ROUGE-L of one sentence, beta 1: precision
    and recall count alike). 0 where either text has no word.
    """
    a, b = words(answer), words(reference)
    common = lcs_length(a, b)
    return 2 * common / (len(a) + len(b)) if common else 0.0


def normalized(text: str) -> list[str]:
    """Words as SQuAD compares them (Rajpurkar et al. 2016): lower case, no ASCII punctuation, no a, an, the."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def token_f1(answer: str, reference: str) -> float:
    """F1 of the `normalized` words that both have, each counted as often as it stands in both (SQuAD). 1 where neither
    has a word, 0 where one has none.
    """
    a, b = normalized(answer), normalized(reference)
    if not a or not b:
        return float(a == b)
    return 2 * (Counter(a) & Counter(b)).total() / (len(a) + len(b))


def exact_match(answer: str, reference: str) -> float:
    """1 where the `normalized` words are the same (SQuAD)."""
    return float(normalized(answer) == normalized(reference))
