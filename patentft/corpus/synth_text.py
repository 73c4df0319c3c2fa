"""What both writers of the synthetic corpus share: the facts, the random choice, and words that mean nothing.

`synth_section` and `synth_patent` draw only from the `random.Random` they are given, through `pick` (a multiplication,
so that the text of a seed does not depend on how Python's `choice` is implemented).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from patentft.corpus.synth_world import FEATURES, HOSTS, POLLUTANTS, PRINCIPLES, Value

Uniform = Callable[[], float]
"""Draws from [0, 1)."""


class Facts(NamedTuple):
    """What a technique or a patent is about. The empty string means that the patent is about nothing of the kind."""

    pollutant: str
    principle: str
    host: str
    feature: str


ATTRIBUTES: dict[str, dict[str, Value]] = {
    "pollutant": POLLUTANTS,
    "principle": PRINCIPLES,
    "host": HOSTS,
    "feature": FEATURES,
}

PARTS = (
    "a stainless steel housing", "the fan", "the circulation pump", "a bypass", "the sampling port", "the storage silo",
    "a frequency converter", "the drain valve", "the inspection door", "the level switch", "the shut-off flap",
    "the safety interlock", "the hopper", "the support structure", "the cooling circuit", "the explosion vent",
    "the measuring cell", "the control cabinet", "the rubber lining", "the pipework", "a heat tracing",
    "a nickel alloy flange", "the compressed air line", "the steam line", "the cooling water line", "the weighing belt",
    "the insulating jacket", "the inlet damper", "the hand wheel", "the platform", "the drip pan", "the flexible joint",
)  # fmt: skip
"""Plant parts that both sides name at random: they overlap, and mean nothing."""

TOPICS = (
    *PARTS,
    "corrosion", "the pressure drop", "sealing of the flanges", "the residence time", "the electricity demand",
    "scaling", "condensate", "vibration", "wear of the lining", "the flow distribution", "cleaning",
    "the ambient temperature", "moisture", "operator training", "the start-up procedure", "nozzle blockage",
    "spare part storage", "caking", "the noise level", "the salt content", "freezing", "the mixing energy",
    "the turndown ratio", "the tank volume", "the viscosity", "foam", "the redox potential", "the oxygen content",
    "the particle size", "the inlet temperature",
)  # fmt: skip
"""PARTS and conditions, equally meaningless."""


def pick(r: Uniform, options: Sequence[str]) -> str:
    """One of `options`, all equally likely."""
    return options[int(r() * len(options))]


def medium_of(facts: Facts) -> str:
    """gas, water or solid: the pollutant's medium, or the principle's first where there is no pollutant."""
    if facts.pollutant:
        return POLLUTANTS[facts.pollutant].media[0]
    return PRINCIPLES[facts.principle].media[0] if facts.principle else "gas"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def small_talk(r: Uniform, frame: str, topics: Sequence[str] = TOPICS) -> str:
    """Fill a frame's meaningless slots: plant words {a} {b} {c} and the numbers {n} < {m}, {k} < {l}."""
    n = 2 + int(r() * 58)
    k = 2 + int(r() * 7)
    return frame.format(
        a=pick(r, topics),
        b=pick(r, topics),
        c=pick(r, topics),
        n=n,
        m=n + 3 + int(r() * 37),
        k=k,
        l=k + 2 + int(r() * 6),
    )
