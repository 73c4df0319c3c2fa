"""Counting and sampling against slow references."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft.report.profile.count import DENSE, Hashes, Lengths, Values
from patentft.report.profile.noise import NOISE, NoiseCounter, suspicions
from patentft.report.profile.sample import Sample, Sampled, languages, near_duplicates
from patentft.report.profile.survey import parse_code

LENGTHS = st.lists(st.one_of(st.integers(0, 300), st.integers(DENSE - 2, DENSE + 2), st.just(10_000_000)), min_size=1)


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(1, 7))
def test_quantiles_sums_and_truncation_are_exact(values: list[int], batch: int) -> None:
    lengths = Lengths()
    for start in range(0, len(values), batch):
        lengths.add(np.array(values[start : start + batch]))
    ordered = sorted(values)
    for percent in (1, 5, 50, 95, 99, 100):
        assert lengths.quantile(percent) == ordered[math.ceil(percent * len(values) / 100) - 1]
    assert lengths.count == len(values)
    assert lengths.total == sum(values)
    assert lengths.summary()["max"] == ordered[-1]
    assert lengths.summary()["mean"] == pytest.approx(sum(values) / len(values))
    for limit in (0, 100, DENSE):
        over = [value - limit for value in values if value > limit]
        assert lengths.above(limit) == (len(over), sum(over))


def test_no_lengths() -> None:
    assert Lengths().summary() == {}
    assert Lengths().total == 0
    with pytest.raises(ValueError, match="no rows"):
        Lengths().quantile(50)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=3), max_size=60))
def test_repeats_are_those_of_a_counter(texts: list[str]) -> None:
    hashes = Hashes()
    hashes.add(texts[:10])
    hashes.add(texts[10:])
    found, reference = hashes.finish(), Counter(texts)
    assert (found.rows, found.distinct) == (len(texts), len(reference))
    assert found.repeated == sum(count - 1 for count in reference.values())
    assert found.largest == max(reference.values(), default=0)
    asked = [*texts, "not among them"]
    assert hashes.occurrences(asked).tolist() == [max(reference[text], 1) for text in asked]


def test_values_are_named_only_while_they_are_few() -> None:
    values = Values(limit=2)
    values.add([("a", 1), ("b", 5)])
    assert values.counts == {"b": 5, "a": 1}
    values.add([("c", 1)])
    values.add([("a", 1)])
    assert values.counts is None


def taken(rows: int, size: int, seed: int, batch: int) -> list[int]:
    sample = Sample(size, seed)
    for start in range(0, rows, batch):
        count = min(batch, rows - start)
        for index in sample.chosen(start, count).tolist():
            sample.add(Sampled(start + index, "", {}))
    return [row.ordinal for row in sample.rows()]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 200), st.integers(1, 30), st.integers(0, 5), st.integers(1, 50))
def test_the_sample_does_not_depend_on_batches(rows: int, size: int, seed: int, batch: int) -> None:
    found = taken(rows, size, seed, batch)
    assert found == taken(rows, size, seed, 200)
    assert len(set(found)) == len(found) == min(rows, size)
    assert found[:5] == taken(rows, 5, seed, 7)[: min(size, 5)]  # its beginning is a sample as well


def test_the_sample_is_uniform() -> None:
    counts = Counter(row // 100 for seed in range(40) for row in taken(1000, 100, seed, 64))
    # 400 expected of each tenth, standard deviation 18
    assert all(abs(counts[tenth] - 400) < 90 for tenth in range(10))
    assert taken(1000, 5, 0, 64) != taken(1000, 5, 1, 64)


def jaccard(a: str, b: str, words: int) -> float:
    def runs(text: str) -> set[tuple[str, ...]]:
        tokens = text.lower().split()
        if len(tokens) <= words:
            return {tuple(tokens)}
        return {tuple(tokens[at : at + words]) for at in range(len(tokens) - words + 1)}

    left, right = runs(a), runs(b)
    return len(left & right) / len(left | right)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_near_duplicates_are_those_of_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(12):
        words = [f"w{number}" for number in rng.integers(0, 60, rng.integers(20, 80))]
        texts.append(" ".join(words))
        for _ in range(rng.integers(0, 3)):
            changed = list(words)
            for at in rng.integers(0, len(words), rng.integers(0, 2)):
                changed[at] = "x"
            texts.append(" ".join(changed))
    found = near_duplicates(texts, 3, 0.8, 0)
    different = list(dict.fromkeys(texts))
    alike = [(a, b) for a, b in combinations(different, 2) if jaccard(a, b, 3) >= 0.8]
    assert found.texts == len(different)
    assert found.duplicates == len({text for pair in alike for text in pair})
    for left, right, value in found.pairs:
        assert value == pytest.approx(jaccard(texts[left], texts[right], 3))


def test_near_duplicates_of_very_few_and_of_many_equal_beginnings() -> None:
    assert near_duplicates([], 5, 0.7, 0).texts == 0
    assert near_duplicates(["a", "a"], 5, 0.7, 0).texts == 1
    common = " ".join(f"w{number}" for number in range(100))
    found = near_duplicates([f"{common} {number}" for number in range(500)], 5, 0.7, 0)
    assert (found.duplicates, found.groups, found.largest) == (500, 1, 500)


NOISY = {
    "html_tags": ["a<sub>2</sub> b", '<figref idref="DRAWINGS">', "<br/>", "x <!-- no --> y"],
    "html_entities": ["5 &lt; 6", "25&#176;C", "&#xb0;"],
    "escapes": [r"a\nb", r"25 \u00b0C"],
    "reference_signs": ["ribs ( 3 )", "tips (7, 8)", "line (12a)", "parts (3 and 4)"],
    "figure_references": ["see FIG. 3", "Figs. 1A-1C", "in figure 12"],
    "paragraph_marks": ["[0012] The", "[ 00123 ]"],
    "claim_numbering": ["1. A method", " 12 . A device", "Claim 3. An"],
    "control_characters": ["a\x00b", "a\u200bb", "soft\u00adhyphen"],
    "mojibake": ["5 Â°C", "Ã©", "Î¼m", "donâ€™t", "â\x88\x92", "lost \ufffd"],
}
PLAIN = [
    "A method of 12 steps (a) and (b), where 1 < x < 5 and y > 3; AT&T, R&D.",
    "configured figures; claim 1; according to claim 12, 1.5 µm × 3 mm, 25 °C, «é», “quoted” — dash–dash, 1.5×–1.7×",
    "a state of A<B and A>C; Größe ‘Santé’, SÃO PAULO",
    "1.5 litres\tand\n3 (three) litres [12]",
]


@pytest.mark.parametrize("kind", NOISE)
def test_noise_is_found_and_plain_text_is_not_noise(kind: str) -> None:
    for text in NOISY[kind]:
        counter = NoiseCounter(3)
        counter.add([text], str)
        assert counter.kinds[kind].rows == 1, text
        (example,) = counter.kinds[kind].examples
        assert example.before.lstrip("…") + example.found + example.after.rstrip("…") in text
    for text in PLAIN:
        assert not (NOISE[kind].possible(text) and NOISE[kind].pattern.search(text)), text


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="<>&;()[]1a. \\nFIG\u00c3\u00a9\x00", max_size=40))
def test_the_cheap_test_never_hides_noise(text: str) -> None:
    for noise in NOISE.values():
        if noise.pattern.search(text):
            assert noise.possible(text)


def test_suspicions() -> None:
    good = "A method for drying clay bricks in a tunnel kiln with waste heat of the firing zone, in which " * 2
    assert suspicions(good, 20, 1000) == []
    assert suspicions("A pump", 20, 1000) == ["very_short"]
    assert suspicions(
        " ".join(f"{chr(97 + number % 26)}{'x' * (number // 26)}word" for number in range(300)), 20, 1000
    ) == ["very_long"]
    assert suspicions("12.5 34,6 7/8 " * 3, 20, 1000) == ["few_letters"]
    assert suspicions("word " * 30, 20, 1000) == ["repeated_words"]
    assert suspicions("a pump or a valve, " * 12, 20, 1000) == ["repeated_words"]


def test_languages_of_clear_texts() -> None:
    english = "The invention relates to a method for removing sulphur dioxide from flue gas with lime."
    german = "Die Erfindung betrifft ein Verfahren zum Entfernen von Schwefeldioxid aus Rauchgas mit Kalk."
    found = languages([english, english.upper(), german, "pump"])
    assert found.counts == {"en": 2, "de": 1}
    assert (found.rows, found.short, found.uncertain) == (4, 1, 0)


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("B01D53/56", ("B", "B01D")),
        ("b01d 53/56", ("B", "B01D")),
        ("Y02E", ("Y", "Y02E")),
        ("Y02", ("Y", "Y02")),
        ("B01", ("B", None)),
        ("H", ("H", None)),
        ("Z01B", None),
        ("B1D", None),
        ("", None),
    ],
)
def test_symbols(symbol: str, expected: tuple | None) -> None:
    assert parse_code(symbol) == expected
