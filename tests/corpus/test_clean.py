from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft.corpus.clean import CleanConfig, cleaner
from patentft.report.profile.noise import NOISE

CLEAN = cleaner(CleanConfig())

PIECES = st.sampled_from(
    """1. | 12 . | claim 3: |What is claimed is:|We claim: |(12)|(12a, 14)|( 3 )|(formula (1))|step (2)|FIG. 3|Figs.
    1A-1C
as shown in FIG. 3 (a)|[0012]|<0012>|&amp;|&amp;lt;|&lt;b&gt;|&deg;|&#176;|&#x3bc;|<sub>2</sub>|<br/>|<!-- x
-->|\\n|\\u00b0 \\\\n|\\"|\u00c2\u00b0|\u00e2\u0088\u0092|\u00ad|\u200b|\ufeff|\u00a0|a < b|c > d| ,| .|.5|;|a
method|pump|of|and (2)|(2D) (|)|[|]|<|>|&|\\|drawing 4|configured""".replace("\n", "|").split("|")
)


@settings(max_examples=600, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=14), st.sampled_from(["", " "]))
def test_cleaning_is_idempotent(pieces, gap):
    once = CLEAN(gap.join(pieces))
    assert CLEAN(once) == once


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=8).map(" ".join))
def test_every_step_is_idempotent_from_where_it_ends(text):
    for name in CleanConfig.model_fields:
        alone = cleaner(CleanConfig(**{field: field == name for field in CleanConfig.model_fields}))
        assert alone(alone(text)) == alone(text)


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("1. A pump (12), as shown in FIG. 3, for H<sub>2</sub>O.", "A pump, for H2O."),
        ("What is claimed is: 1. A device", "A device"),
        ("12 . The method of claim 3", "The method of claim 3"),
        ("at 23\u00c2\u00b0 C. or \u00e2\u0088\u009240\u00c2\u00b0 C.", "at 23\u00b0 C. or \u221240\u00b0 C."),
        ("a pH &amp;lt; 5 and 3 &gt; 2", "a pH < 5 and 3 > 2"),
        ("compounds of formula (1), (2) and (3)", "compounds of formula (1), (2) and (3)"),
        ("comprising: (1) heating, and (2) cooling", "comprising: (1) heating, and (2) cooling"),
        ("a three dimensional (3D) model", "a three dimensional (3D) model"),
        ("the valve (14a, 16) and lid (18')", "the valve and lid"),
        ("[0012] The AT&T R&D unit is configured", "The AT&T R&D unit is configured"),
        ("if a < b and c > d then", "if a < b and c > d then"),
        ("line one<br/>line two\\nthree", "line one line two three"),
        ("1.5 mm of steel", "1.5 mm of steel"),
        ("soft\u00adhyphen and\u00a0blank", "softhyphen and blank"),
    ],
)
def test_examples(raw, wanted):
    assert CLEAN(raw) == wanted


def test_a_step_that_is_off_leaves_its_noise():
    kept = cleaner(CleanConfig(reference_signs=False, numbering=False))
    assert kept("1. A pump (12) in FIG. 3") == "1. A pump (12) in"


def test_what_the_profile_counts_as_noise_is_what_cleaning_removes():
    noisy = "1. A <b>pump</b> (12) of FIG. 3 [0012] &deg; \\n \u200b \u00c2\u00b0"
    assert [name for name, kind in NOISE.items() if not kind.pattern.search(noisy)] == []
    assert [name for name, kind in NOISE.items() if kind.pattern.search(CLEAN(noisy))] == []
