"""The split does not leak: whatever the data, no test or valid technique's patent is on the training side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft.config import ConfigError, build
from patentft.corpus.split import (
    SplitConfig,
    assign_patents,
    assign_techniques,
    normalized_title,
    similar_techniques,
)

SETTINGS = {"data": "corpus", "techniques": "sections"}


def config(**values: object) -> SplitConfig:
    return build(SplitConfig, {**SETTINGS, **values})


@st.composite
def techniques(draw: st.DrawFn) -> tuple[dict[str, str], set[str]]:
    """(titles by id, ids with a match), with repeated titles."""
    count = draw(st.integers(12, 40))
    numbers = draw(st.lists(st.integers(0, 25), min_size=count, max_size=count))
    titles = {f"T{index}": f"Title, {number}" for index, number in enumerate(numbers)}
    return titles, draw(st.sets(st.sampled_from(sorted(titles))))


def roles_or_none(titles: dict[str, str], matched: set[str], settings: SplitConfig) -> dict[str, str] | None:
    try:
        return assign_techniques(titles, matched, settings)
    except ConfigError:
        return None  # too few titles for three sides


@settings(max_examples=60, deadline=None)
@given(data=techniques(), num_folds=st.integers(2, 5), seed=st.integers(0, 3))
def test_folds_are_disjoint_cover_all_and_keep_titles_together(
    data: tuple[dict[str, str], set[str]], num_folds: int, seed: int
) -> None:
    titles, matched = data
    sides = [
        roles_or_none(titles, matched, config(fold=fold, num_folds=num_folds, seed=seed, valid_fraction=0.3))
        for fold in range(num_folds)
    ]
    complete = [roles for roles in sides if roles is not None]
    if len(complete) < num_folds:
        return
    tested = [technique for roles in complete for technique, role in roles.items() if role == "test"]
    assert sorted(tested) == sorted(matched)  # each exactly once
    for roles in complete:
        assert roles.keys() == titles.keys()
        assert {technique for technique, role in roles.items() if role == "unused"} == titles.keys() - matched
        by_title: dict[str, set[str]] = {}
        for technique in matched:
            by_title.setdefault(titles[technique], set()).add(roles[technique])
        assert all(len(found) == 1 for found in by_title.values())
    groups = len({titles[technique] for technique in matched})
    for roles in complete:
        held = len({titles[technique] for technique, role in roles.items() if role == "test"})
        assert held in (groups // num_folds, -(-groups // num_folds))


@settings(max_examples=60, deadline=None)
@given(data=techniques(), seed=st.integers(0, 3), draw=st.data())
def test_a_patent_of_a_held_out_technique_is_held_out(
    data: tuple[dict[str, str], set[str]], seed: int, draw: st.DataObject
) -> None:
    titles, matched = data
    roles = roles_or_none(titles, matched, config(seed=seed, valid_fraction=0.3))
    if roles is None:
        return
    patents = [f"P{index}" for index in range(30)]
    pair = st.tuples(st.sampled_from(sorted(matched)), st.sampled_from(patents))
    matches = draw.draw(st.lists(pair, max_size=60))
    found = assign_patents(patents, matches, roles)
    assert found.keys() == set(patents)
    for patent in patents:
        own = {roles[technique] for technique, other in matches if other == patent}
        expected = next((role for role in ("test", "valid", "train") if role in own), "unused")
        assert found[patent] == expected


def test_the_split_depends_on_seed_and_titles_only() -> None:
    titles = {f"T{index}": f"title {index}" for index in range(40)}
    first = assign_techniques(titles, set(titles), config())
    assert assign_techniques(dict(reversed(titles.items())), set(titles), config()) == first
    assert assign_techniques(titles, set(titles), config(seed=1)) != first
    # the sides of techniques do not move because of their ids
    renamed = {f"X{technique}": title for technique, title in titles.items()}
    assert assign_techniques(renamed, set(renamed), config()) == {f"X{name}": role for name, role in first.items()}


def test_the_split_is_this_one() -> None:
    """A changed dealing would silently move techniques between train and test of published figures."""
    titles = {f"T{index}": f"title {index}" for index in range(12)}
    roles = assign_techniques(titles, set(titles), config(fold=1, valid_fraction=0.25))
    assert {role: sorted(name for name, found in roles.items() if found == role) for role in ("test", "valid")} == {
        "test": ["T1", "T5", "T6"],
        "valid": ["T11", "T2"],
    }


def test_the_valid_side_has_its_share() -> None:
    titles = {f"T{index}": f"title {index}" for index in range(400)}
    roles = list(assign_techniques(titles, set(titles), config(num_folds=4, valid_fraction=0.2)).values())
    assert (roles.count("test"), roles.count("valid"), roles.count("train")) == (100, 60, 240)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Ion exchange (IEX)", "ion  Exchange - IEX", True),
        ("Größe_2", "GRÖSSE 2", False),  # ß and SS are not one letter in lower case
        ("Wet scrubber", "Wet scrubbers", False),
    ],
)
def test_normalized_titles(one: str, other: str, same: bool) -> None:
    assert (normalized_title(one) == normalized_title(other)) is same


def test_titles_without_a_letter_are_not_one_title() -> None:
    titles = {f"T{index}": "—" for index in range(12)}
    roles = assign_techniques(titles, set(titles), config(valid_fraction=0.3))
    assert set(roles.values()) == {"test", "valid", "train"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fold": 4}, "fold 4 is none of num_folds=4 folds"),
        ({"fold": -1}, "fold: Input should be greater than or equal to 0"),
        ({"num_folds": 1}, "num_folds: Input should be greater than or equal to 2"),
        ({"valid_fraction": 0}, "valid_fraction: Input should be greater than 0"),
        ({"valid_fraction": 1.0}, "valid_fraction: Input should be less than 1"),
        ({"similar_cosine": 1.5}, "similar_cosine: Input should be less than or equal to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**values)


def test_too_few_titles_say_what_to_change() -> None:
    titles = {"T0": "a", "T1": "a", "T2": "b"}
    with pytest.raises(ConfigError, match=r"2 titles with matches cannot be split into 4 folds .*lower num_folds"):
        assign_techniques(titles, set(titles), config())


# Similar techniques


def reference(
    ids: Sequence[str], titles: Sequence[str], vectors: npt.NDArray[np.float32], threshold: float
) -> set[tuple[str, str, str]]:
    """Slow and plain: every pair."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found: set[tuple[str, str, str]] = set()
    for i, one in enumerate(ids):
        for j, other in enumerate(ids):
            same = normalized_title(titles[i]) == normalized_title(titles[j]) != ""
            if i != j and (same or float(unit[i] @ unit[j]) > threshold):
                found.add((one, other, "title" if same else "cosine"))
    return found


@settings(max_examples=40, deadline=None)
@given(
    titles=st.lists(st.sampled_from(["a", "A!", "b", "c", "—", ""]), min_size=1, max_size=15),
    seed=st.integers(0, 1000),
    threshold=st.sampled_from([-0.55, 0.05, 0.55]),
)
def test_similar_techniques_are_those_of_the_plain_way(titles: list[str], seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    ids = [f"T{index}" for index in range(len(titles))]
    chunks = rng.standard_normal((2 * len(ids), 4)).astype(np.float32)  # two chunks each: the first counts
    vector_ids = [name for name in ids for _ in range(2)]
    found = similar_techniques(ids, titles, vector_ids, chunks, threshold)
    assert len(set(found)) == len(found)
    assert set(found) == reference(ids, titles, chunks[::2], threshold)
    assert {(other, one, reason) for one, other, reason in found} == set(found)


def test_both_directions_are_listed_when_rounding_decides() -> None:
    """Cosines within rounding of the threshold: BLAS may round x·y and y·x to different sides of it."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 37)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [str(index) for index in range(50)]
    for pair in range(1, 40):
        threshold = float(vectors[pair] @ vectors[pair - 1])
        found = {(one, other) for one, other, _ in similar_techniques(ids, ids, ids, vectors, threshold)}
        assert {(other, one) for one, other in found} == found


def test_a_technique_without_an_embedding_is_named() -> None:
    with pytest.raises(ConfigError, match=r"technique 'T1' \(and 1 more\) has no embedding"):
        similar_techniques(["T0", "T1", "T2"], ["a", "b", "c"], ["T0"], np.ones((1, 2), np.float32), 0.7)
