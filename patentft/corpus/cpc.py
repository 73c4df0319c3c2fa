"""CPC and IPC symbols: parsing, normal form, levels; what counts as green.

A symbol is section (A-H, Y), class (two digits), subclass (a letter), main group (1-4 digits), "/", subgroup (2-6
digits): "Y02E 10/50" has section Y, class Y02, subclass Y02E, group Y02E10/50. Sources write it with or without blanks,
zero-padded ("B01D0053560000" as in ST.8 is not accepted: it has no slash), and at any level.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["section", "class", "subclass", "group"]
LEVELS: tuple[Level, ...] = ("section", "class", "subclass", "group")

Y02 = ("Y02A", "Y02B", "Y02C", "Y02D", "Y02E", "Y02P", "Y02T", "Y02W")
"""Technologies for mitigation of, or adaptation to, climate change (EPO and USPTO, CPC scheme)."""

_SYMBOL = re.compile(r"([A-HY])(?:(\d\d)(?:([A-Z])(?:\s*0*(\d{1,4})\s*/\s*(\d{2,6}))?)?)?")


@dataclass(frozen=True)
class Symbol:
    """One symbol; the parts below its own level are empty."""

    section: str
    class_: str = ""  # two digits
    subclass: str = ""  # one letter
    main_group: str = ""  # without leading zeros
    subgroup: str = ""

    def __str__(self) -> str:
        head = f"{self.section}{self.class_}{self.subclass}"
        return f"{head}{self.main_group}/{self.subgroup}" if self.main_group else head

    def at(self, level: Level) -> str | None:
        """The symbol cut to `level`: "Y02E10/50" at "subclass" is "Y02E". None when it does not reach that far."""
        if level == "section":
            return self.section
        if level == "class":
            return self.section + self.class_ if self.class_ else None
        if level == "subclass":
            return self.section + self.class_ + self.subclass if self.subclass else None
        return str(self) if self.main_group else None


def parse(text: str) -> Symbol:
    """A symbol of any level, upper or lower case, blanks allowed. Raises ValueError for anything else."""
    match = _SYMBOL.fullmatch(text.strip().upper())
    if match is None:
        raise ValueError(f"{text!r} is no CPC or IPC symbol such as Y02E10/50, B01D 53/56, Y02E or H01")
    section, class_, subclass, main_group, subgroup = match.groups(default="")
    return Symbol(section, class_, subclass, main_group, subgroup)


def at_level(codes: Iterable[str], level: Level) -> list[str]:
    """The distinct symbols of `codes` (normal form) at `level`, sorted; those of a higher level only are left out."""
    return sorted({cut for code in codes if (cut := parse(code).at(level)) is not None})


def y02_subclasses(codes: Iterable[str]) -> set[str]:
    """Those of `Y02` that the codes (normal form) fall into. A bare "Y02" is green but names none of them."""
    return {code[:4] for code in codes if code.startswith("Y02") and code[:4] in Y02}


def is_green(codes: Iterable[str]) -> bool:
    """Whether any symbol (normal form) lies in Y02."""
    return any(code.startswith("Y02") for code in codes)
