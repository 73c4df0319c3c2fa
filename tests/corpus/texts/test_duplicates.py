from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft.corpus.texts import duplicates
from patentft.corpus.texts.duplicates import Shingler, band_keys, candidate_pairs, groups, jaccard

WORDS = [f"word{i}" for i in range(400)]


def texts_with_copies(seed: int, count: int = 300) -> list[str]:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(20, 120))) for _ in range(count)]
    for _ in range(count // 5):
        words = texts[rng.integers(count)].split()
        for place in rng.integers(0, len(words), max(1, len(words) // 50)):
            words[place] = "changed"
        texts.append(" ".join(words))
    return texts


def exact_words(text: str, words: int) -> set[tuple[str, ...]]:
    tokens = duplicates._WORDS.findall(text.lower())
    return {tuple(tokens[i : i + words]) for i in range(max(1, len(tokens) - words + 1))}


@settings(max_examples=100, deadline=None)
@given(st.text("ab ,.A1", max_size=40), st.text("ab ,.A1", max_size=40), st.integers(1, 4))
def test_hashed_shingles_have_the_jaccard_of_the_words(one, other, words):
    a, b = exact_words(one, words), exact_words(other, words)
    shingler = Shingler(words)
    if min(map(len, (a, b))) and all(len(s) == words for s in a | b):
        assert np.isclose(jaccard(shingler(one), shingler(other)), len(a & b) / len(a | b))


def test_no_pair_at_or_above_the_threshold_is_missed_and_none_below_is_called_one():
    texts = texts_with_copies(0)
    shingler = Shingler(3)
    sets = [shingler(text) for text in texts]
    pairs = candidate_pairs(band_keys(texts, 3, seed=0))
    similarity = np.array([jaccard(sets[i], sets[j]) for i, j in pairs])
    found = {row: first for row, first, _ in groups(pairs, similarity, 0.8)}
    brute = {(i, j) for i, j in itertools.combinations(range(len(texts)), 2) if jaccard(sets[i], sets[j]) >= 0.8}
    assert brute
    assert all(found[i] == found[j] for i, j in brute)
    assert set(found) == {row for pair in brute for row in pair}


def test_a_group_is_named_after_its_first_text_and_chains_hold_together():
    pairs = np.array([[4, 7], [2, 7], [1, 9], [3, 5]])
    found = list(groups(pairs, np.array([0.9, 0.85, 1.0, 0.5]), 0.8))
    assert found == [(1, 1, 1.0), (2, 2, 0.85), (4, 2, 0.9), (7, 2, 0.9), (9, 1, 1.0)]


def test_keys_depend_on_the_text_alone():
    texts = texts_with_copies(1, 40)
    keys = band_keys(texts, 3, seed=5)
    order = np.random.default_rng(0).permutation(len(texts))
    assert (band_keys([texts[i] for i in order], 3, seed=5) == keys[order]).all()
    assert (band_keys(["A b, C d!"], 3, 5) == band_keys(["a B c. D"], 3, 5)).all()
    assert band_keys([], 3, 5).shape == (0, duplicates.NUM_BANDS)
