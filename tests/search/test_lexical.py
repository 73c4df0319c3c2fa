import numpy as np
import pytest

from patentft.config import ConfigError
from patentft.search.lexical import LexicalConfig, TfIdf, rank_side

TEXTS = [
    "adsorption of mercury on activated carbon",
    "activated carbon bed for mercury vapour",
    "catalytic reduction of nitrogen oxides",
    "nitrogen oxides are reduced over a catalyst",
    "waste water treatment in an aerated basin",
    "carbon and nitrogen in waste water",
]
CONFIG = LexicalConfig(data="d", min_documents=1, max_share=1.0)


def test_a_saved_vocabulary_gives_the_same_vectors():
    model = TfIdf.fit(TEXTS, CONFIG)
    again = TfIdf.load(model.save())
    assert np.allclose(model.vectors(TEXTS).toarray(), again.vectors(TEXTS).toarray(), atol=1e-6)


def test_pair_cosines_equal_the_dense_product():
    model = TfIdf.fit(TEXTS, CONFIG)
    dense = model.vectors(TEXTS).toarray()
    left, right = [0, 0, 3, 2, 5], [1, 4, 2, 2, 0]
    found = model.pair_cosines([TEXTS[i] for i in left], [TEXTS[i] for i in right])
    assert found == pytest.approx((dense[left] * dense[right]).sum(axis=1), abs=1e-6)


def test_ranks_equal_brute_force_with_ties():
    model = TfIdf.fit(TEXTS, CONFIG)
    vectors = model.vectors([*TEXTS, TEXTS[0]])  # the last ties with the first
    matches = [(0, 1), (0, 6), (2, 3), (4, 5)]
    best, cosines, found = rank_side(model.vectors(TEXTS), vectors, matches, top_k=3)
    scores = (model.vectors(TEXTS) @ vectors.T).toarray()
    assert best[0].tolist() == np.argsort(-scores[0], kind="stable")[:3].tolist()
    assert cosines[0] == pytest.approx(np.sort(scores[0])[::-1][:3])
    for (technique, patent), where in zip(matches, found, strict=True):
        own = scores[technique, patent]
        for side, values in (("technique", scores[technique]), ("patent", scores[:, patent])):
            others = np.delete(values, patent if side == "technique" else technique)
            assert where[f"rank_in_{side}"] == (others > own).sum() + (others == own).sum() / 2


def test_no_term_left_is_an_error_with_the_remedy():
    with pytest.raises(ConfigError, match="lower min_documents"):
        TfIdf.fit(["alpha beta", "gamma delta"], LexicalConfig(data="d", min_documents=2))
