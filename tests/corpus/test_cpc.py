from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patentft.corpus import cpc

GROUPS = st.from_regex(r"[A-HY][0-9]{2}[A-Z][1-9][0-9]{0,3}/[0-9]{2,6}", fullmatch=True)


@given(GROUPS)
def test_a_symbol_in_normal_form_is_its_own_normal_form(text):
    symbol = cpc.parse(text)
    assert str(symbol) == text
    assert [symbol.at(level) for level in cpc.LEVELS] == [text[0], text[:3], text[:4], text]


@pytest.mark.parametrize("text", ["Y02E 10/50", " y02e10/50 ", "Y02E  010/50", "Y02E10 / 50"])
def test_spellings(text):
    assert str(cpc.parse(text)) == "Y02E10/50"


@pytest.mark.parametrize(
    "text", ["", "I01B", "Y0", "Y02EE", "Y02E10", "Y02E/50", "Y02E10/5", "Y02E10/50x", "02E", "Y02E10/"]
)
def test_malformed(text):
    with pytest.raises(ValueError, match="no CPC or IPC symbol"):
        cpc.parse(text)


def test_levels_and_green():
    codes = ["B01D53/56", "Y02E10/50", "Y02", "H"]
    assert cpc.at_level(codes, "subclass") == ["B01D", "Y02E"]
    assert cpc.at_level(codes, "section") == ["B", "H", "Y"]
    assert cpc.is_green(codes)
    assert cpc.is_green(["Y02"])
    assert not cpc.is_green(["Y04S"])
    assert cpc.y02_subclasses([*codes, "Y02T"]) == {"Y02E", "Y02T"}
