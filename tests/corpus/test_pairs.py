"""Training pairs: no leak, no false negative that the data could have told, the same pairs every time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft.config import ConfigError, build
from patentft.corpus.pairs import Pair, PairsConfig, Vectors, training_pairs
from patentft.corpus.split import SplitConfig, assign_patents, assign_techniques, normalized_title, similar_techniques

SETTINGS = {"data": "corpus", "roles": "split", "patents": "patent_vectors", "techniques": "technique_vectors"}


def config(**values: object) -> PairsConfig:
    return build(PairsConfig, {**SETTINGS, **values})


@dataclass
class World:
    titles: dict[str, str]
    matches: list[tuple[str, str]]
    roles: dict[str, str]
    patent_roles: dict[str, str]
    similar: dict[str, set[str]]
    patents: Vectors
    techniques: Vectors

    def pairs(self, settings: PairsConfig) -> list[Pair]:
        return list(
            training_pairs(
                self.matches,
                self.roles,
                self.patent_roles,
                self.similar,
                self.patents,
                self.techniques,
                settings,
            )
        )


def vectors(rng: np.random.Generator, ids: list[str]) -> Vectors:
    """One to three chunks for each id."""
    names = [name for name in ids for _ in range(int(rng.integers(1, 4)))]
    rows = rng.standard_normal((len(names), 6)).astype(np.float32)
    return Vectors(names, rows / np.linalg.norm(rows, axis=1, keepdims=True))


def world(seed: int, num_techniques: int = 30, num_patents: int = 80, num_matches: int = 70) -> World | None:
    """Random titles (some repeated), matches (some patents with several) and vectors, split as the pipeline does."""
    rng = np.random.default_rng(seed)
    ids = [f"T{index:02}" for index in range(num_techniques)]
    titles = {name: f"title {rng.integers(0, num_techniques * 3 // 4)}" for name in ids}
    patent_ids = [f"P{index:02}" for index in range(num_patents)]
    drawn = {(str(rng.choice(ids)), str(rng.choice(patent_ids))) for _ in range(num_matches)}
    matches = sorted(drawn)
    try:
        split = build(SplitConfig, {"data": "x", "techniques": "y", "valid_fraction": 0.3, "seed": seed})
        roles = assign_techniques(titles, {technique for technique, _ in matches}, split)
    except ConfigError:
        return None
    embedded = vectors(rng, ids)
    similar: dict[str, set[str]] = {}
    for one, other, _ in similar_techniques(ids, list(titles.values()), embedded.ids, embedded.vectors, 0.8):
        similar.setdefault(one, set()).add(other)
    patent_roles = assign_patents(patent_ids, matches, roles)
    return World(titles, matches, roles, patent_roles, similar, vectors(rng, patent_ids), embedded)


def some_world() -> World:
    found = world(3)
    assert found is not None
    return found


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), random=st.integers(0, 5), near=st.integers(0, 5), pool=st.integers(1, 8))
def test_nothing_leaks_and_no_negative_is_a_likely_match(seed: int, random: int, near: int, pool: int) -> None:
    made = world(seed)
    if made is None:
        return
    settings = config(negatives_random=random, negatives_near=near, near_pool=pool, seed=seed)
    try:
        pairs = made.pairs(settings)
    except ConfigError as error:
        if "may be its negative" not in str(error) and "no match has both" not in str(error):
            raise
        return
    own: dict[str, set[str]] = {}
    for technique, patent in made.matches:
        own.setdefault(patent, set()).add(technique)
    for pair in pairs:
        assert pair.role in ("train", "valid")
        assert made.roles[pair.technique_id] == pair.role
        assert made.patent_roles[pair.patent_id] == pair.role  # never of a test technique, never unmatched
        if pair.role == "train":
            assert all(made.roles[technique] == "train" for technique in own[pair.patent_id])
        if pair.label == 0:
            assert pair.technique_id not in own[pair.patent_id]
            titles = {normalized_title(made.titles[technique]) for technique in own[pair.patent_id]}
            assert normalized_title(made.titles[pair.technique_id]) not in titles
            assert not own[pair.patent_id] & made.similar.get(pair.technique_id, set())
    # every match inside a side is there, once
    positives = Counter((pair.technique_id, pair.patent_id) for pair in pairs if pair.label == 1)
    inside = [
        (technique, patent)
        for technique, patent in made.matches
        if made.roles[technique] == made.patent_roles[patent] != "test"
    ]
    assert positives == Counter(inside)
    # a group is one match and its distinct negatives, of one technique
    groups: dict[int, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(pair)
    assert sorted(groups) == list(range(len(inside)))
    for group in groups.values():
        assert [pair.label for pair in group] == [1] + [0] * (len(group) - 1)
        assert len({pair.technique_id for pair in group}) == 1
        assert len({pair.patent_id for pair in group}) == len(group)
        assert len(group) - 1 <= random + near


def test_every_match_gets_its_negatives() -> None:
    counts = Counter(pair.group for pair in some_world().pairs(config(negatives_random=3, negatives_near=2)))
    assert set(counts.values()) == {6}


def test_a_limit_of_groups_draws_matches_of_the_train_side_only() -> None:
    made = some_world()
    everything = [pair for pair in made.pairs(config()) if pair.label]
    limited = made.pairs(config(max_groups=5))
    kept = {(pair.technique_id, pair.patent_id) for pair in limited if pair.label and pair.role == "train"}
    assert len(kept) == 5
    assert kept < {(pair.technique_id, pair.patent_id) for pair in everything if pair.role == "train"}
    assert sum(pair.role == "valid" for pair in limited if pair.label) == sum(p.role == "valid" for p in everything)
    assert sorted({pair.group for pair in limited}) == list(range(len({pair.group for pair in limited})))
    other = made.pairs(config(max_groups=5, seed=1))
    assert {(p.technique_id, p.patent_id) for p in other if p.label and p.role == "train"} != kept
    assert made.pairs(config(max_groups=10_000)) == made.pairs(config())


def test_near_misses_are_those_of_the_highest_cosine() -> None:
    made = some_world()
    everything = made.pairs(config(negatives_random=10_000, negatives_near=0))  # all that are allowed
    allowed: dict[str, dict[str, float]] = {}
    for pair in everything:
        if pair.label == 0:
            allowed.setdefault(pair.technique_id, {})[pair.patent_id] = pair.cosine
    for pair in made.pairs(config(negatives_random=0, negatives_near=4, near_pool=4)):
        if pair.label == 0:
            best = sorted(allowed[pair.technique_id].values(), reverse=True)[:4]
            assert pair.cosine >= best[-1]


def test_cosine_and_chunk_are_those_of_the_plain_way() -> None:
    made = some_world()
    for pair in made.pairs(config()):
        technique = made.techniques.vectors[[name == pair.technique_id for name in made.techniques.ids]]
        patent = made.patents.vectors[[name == pair.patent_id for name in made.patents.ids]]
        best = (technique @ patent.T).max(axis=1)
        assert pair.cosine == pytest.approx(best.max(), abs=1e-6)
        assert best[pair.chunk] == pytest.approx(best.max(), abs=1e-6)


def test_equal_arguments_give_equal_pairs_and_the_seed_other_negatives() -> None:
    made = some_world()
    first = made.pairs(config())
    assert made.pairs(config()) == first
    other = made.pairs(config(seed=1))
    assert [pair for pair in other if pair.label] == [pair for pair in first if pair.label]
    assert other != first
    # the order of the rows of the matches and of the vectors does not matter
    backwards = Vectors(made.patents.ids[::-1], np.ascontiguousarray(made.patents.vectors[::-1]))
    shuffled = World(
        made.titles, made.matches[::-1], made.roles, made.patent_roles, made.similar, backwards, made.techniques
    )
    key = [(pair.group, pair.technique_id, pair.patent_id, pair.label) for pair in first]
    assert [(pair.group, pair.technique_id, pair.patent_id, pair.label) for pair in shuffled.pairs(config())] == key


def test_a_valid_patents_match_with_a_train_technique_counts_as_well() -> None:
    """P1 is on the valid side by V1, and a match of A, which is like V2: it may well be a match of V2 too."""
    roles = {"A": "train", "B": "train", "V1": "valid", "V2": "valid", "V3": "valid"}
    matches = [("A", "P1"), ("V1", "P1"), ("V2", "P2"), ("V3", "P3"), ("A", "P4"), ("B", "P5")]
    ids = sorted({patent for _, patent in matches})
    unit = np.eye(6, dtype=np.float32)
    made = World(
        titles={},
        matches=matches,
        roles=roles,
        patent_roles={"P1": "valid", "P2": "valid", "P3": "valid", "P4": "train", "P5": "train"},
        similar={"V2": {"A"}, "A": {"V2"}},
        patents=Vectors(ids, unit[: len(ids)]),
        techniques=Vectors(list(roles), unit[: len(roles)]),
    )
    negatives = {pair.patent_id for pair in made.pairs(config()) if pair.technique_id == "V2" and pair.label == 0}
    assert negatives == {"P3"}


# Errors


def test_a_technique_without_an_allowed_negative_is_named() -> None:
    made = some_world()
    made.similar = {technique: set(made.roles) for technique in made.roles}
    with pytest.raises(ConfigError, match=r"technique 'T\d\d': none of the \d+ train patents may be its negative"):
        made.pairs(config())


def test_a_side_without_a_match_is_refused() -> None:
    made = some_world()
    made.patent_roles = {patent: "valid" if role == "train" else role for patent, role in made.patent_roles.items()}
    with pytest.raises(ConfigError, match="no match has both its technique and its patent on the train side"):
        made.pairs(config())


def test_a_patent_without_an_embedding_is_named() -> None:
    made = some_world()
    made.patents = Vectors(made.patents.ids[:1], made.patents.vectors[:1])
    with pytest.raises(ConfigError, match=r"'P\d\d' \(and \d+ more\) has no embedding"):
        made.pairs(config())


@pytest.mark.parametrize("name", ["negatives_random", "negatives_near", "near_pool", "seed"])
def test_negative_numbers_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        config(**{name: -1})
