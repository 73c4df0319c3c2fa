"""The section side of the synthetic corpus: latent facts in, a readable BREF-like technique section out.

Title and Description tell all four facts. Sentences that begin with one of `ASIDES` name *other* pollutants, principles
and hosts, which the technique is not about, and mislead a bag of words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from patentft.corpus.synth_text import ATTRIBUTES, Facts, Uniform, capital, medium_of, pick, small_talk
from patentft.corpus.synth_world import FEATURES, HOSTS, POLLUTANTS, PRINCIPLES

ASIDES = ("For", "In comparison with", "The technique is not intended", "Techniques such as")
"""First words of a section sentence about something that the technique is not."""

WASTES: dict[str, tuple[str, ...]] = {
    "gas": ("the waste gas", "the flue-gas", "the off-gas", "the exhaust air"),
    "water": ("the waste water", "the effluent", "the waste water flow", "the discharge"),
    "solid": ("the residue", "the material to be treated", "the waste", "the input material"),
}

_SECTION_TOPIC = (
    "Particular attention is paid to {a} and {b}.",
    "Experience shows that {a} determines the maintenance effort.",
    "Problems reported by operators concern {a}, {b} and {c}.",
    "The influence of {a} on the performance is small compared with {b}.",
    "Additional costs arise from {a} and from {b}.",
    "A look at {a} and {b} once per shift is common practice.",
    "The design takes {a} into account; {b} was given attention after the first year.",
    "At some sites {a} gave rise to changes, as did {b}.",
)
_SECTION_EFFECT = (
    "Emissions of {p} are lowered by {n}-{m} %.",
    "Achieved levels of {p} lie at {n}-{m} % of the former value.",
    "The reduction of {p} amounts to about {m} % on an annual average.",
    "Releases of {p} fall below the limit value in {m} % of all half-hourly means.",
    "Lower emissions of {p}; the specific load decreased by {n}-{m} % within two years.",
)
_SECTION_CROSS = (
    "Additional energy is consumed, mainly for {a}.",
    "The consumption of auxiliary materials increases and some residue arises.",
    "No significant cross-media effects are reported.",
    "The demand for electricity rises by {n} kWh per operating hour.",
    "A small secondary stream has to be managed on site.",
    "Transport and storage of auxiliaries can cause accidents if {a} is neglected.",
)
_SECTION_OPEN = (
    "{M} is applied to {h} in order to abate {p}.",
    "{M} serves to prevent or reduce {p} from {h}.",
    "To reduce {p}, {h} can be equipped with the following: {m}.",
    "The technique consists of {m} and addresses {p} arising in {h}.",
    "At {h}, emissions of {p} are abated by means of {m}.",
    "{P} in {w} of {h}: the technique is {m}.",
)
_SECTION_TITLE = (
    "{M} for {p} from {h}",
    "{M} to reduce {p} in {h}",
    "{P}: {m} ({h})",
    "Reduction of {p} by {m} in {h}",
    "{H} - {m} against {p}",
    "Application of {m} to {p} ({h})",
)
_SECTION_ASIDE = {
    "pollutant": (
        "The technique is not intended for {x}.",
        "For {x} no effect was measured.",
        "For the control of {x}, other sections of this chapter apply.",
    ),
    "principle": (
        "In comparison with {x}, less space is needed.",
        "Techniques such as {x} are described elsewhere.",
        "In comparison with {x}, investment is higher and operation is simpler.",
    ),
    "host": (
        "For {x}, the experience is not transferable.",
        "The technique is not intended for {x}.",
        "For {x}, see the corresponding reference document.",
    ),
}
_SECTION_APPLY = (
    "Applicable to new and existing installations.",
    "Generally applicable; restrictions follow from the space available.",
    "Applicability is limited by {a} in older installations.",
    "The technique can be applied at large sites without restrictions.",
    "Applicable at the time of a major refurbishment.",
)
_SECTION_COST = (
    "Investment costs are in the range of EUR {n}0 000 to {m}0 000.",
    "Operating costs of EUR {n} per tonne of product were reported.",
    "The payback time is between {k} and {l} years.",
    "Specific costs depend on plant size; EUR {m} 000 per year is typical.",
    "Cost data date from the last review and exclude {a}.",
)
_SECTION_DRIVE = (
    "Legal requirements and complaints of neighbours.",
    "Implementation was driven by the permit and by savings.",
    "Stricter emission limit values.",
    "Corporate environmental policy.",
)
_SECTION_PLANTS = (
    "The technique is in use at {k} plants in northern Europe.",
    "Plants with the codes {n}-{k} and {m}-{l} took part in the data collection.",
    "About {n} installations worldwide.",
    "One demonstration plant has been running for {l} years.",
)


def _others(facts: Facts, attribute: str) -> list[str]:
    """Names of the other values of an attribute; for pollutants and principles only those of the same medium."""
    own, medium = getattr(facts, attribute), medium_of(facts)
    table = ATTRIBUTES[attribute]
    return [name for name, value in table.items() if name != own and (not value.media or medium in value.media)]


_OTHERS: dict[tuple[str, str, str], list[str]] = {}


def _other(r: Uniform, facts: Facts, attribute: str) -> str:
    key = (attribute, getattr(facts, attribute), medium_of(facts))
    if key not in _OTHERS:
        _OTHERS[key] = _others(facts, attribute)
    return pick(r, _OTHERS[key])


class Section(NamedTuple):
    """Title and text of one technique; the text has BREF-like headings on lines of their own."""

    title: str
    text: str


def write_section(rng: random.Random, facts: Facts, see_also: str = "") -> Section:
    """A technique section of 100 to 600 words that tells its four facts in section side words only.

    Args:
        rng: the only source of variation.
        facts: all four set.
        see_also: number of another section of the document to cite, or empty.
    """
    r = rng.random
    pollutant, principle = POLLUTANTS[facts.pollutant], PRINCIPLES[facts.principle]
    host, feature = HOSTS[facts.host], FEATURES[facts.feature]
    medium = medium_of(facts)

    def fill(frame: str) -> str:
        p, m, h = pick(r, pollutant.section), pick(r, principle.section), pick(r, host.section)
        w = pick(r, WASTES[medium])
        return frame.format(p=p, P=capital(p), m=m, M=capital(m), h=h, H=capital(h), w=w)

    def how(sentences: Sequence[str], count: int) -> list[str]:
        chosen = rng.sample(range(len(sentences)), min(count, len(sentences)))
        return [capital(sentences[k].replace("{w}", pick(r, WASTES[medium]))) for k in sorted(chosen)]

    def topics(frames: Sequence[str], count: int) -> list[str]:
        return [small_talk(r, pick(r, frames)) for _ in range(count)]

    length = r()  # one draw for the whole section: some are terse, some are long
    size = 1 + int(length * 4)
    effects = [
        small_talk(r, pick(r, _SECTION_EFFECT).replace("{p}", pick(r, pollutant.section)))
        for _ in range(1 + int(size > 2))
    ]
    asides: list[str] = []
    for attribute in ("pollutant", "principle", "host"):
        if r() < 0.3 + 0.4 * length:
            other = ATTRIBUTES[attribute][_other(r, facts, attribute)]
            asides.append(pick(r, _SECTION_ASIDE[attribute]).format(x=pick(r, other.section)))
    if see_also:
        asides.append(f"See also Section {see_also}.")
    parts: list[tuple[str, list[str]]] = [
        ("Description", [fill(pick(r, _SECTION_OPEN)), *how(feature.how, 1)]),
        ("Technical description", how(principle.how, size + 1) + topics(_SECTION_TOPIC, size)),
        ("Achieved environmental benefits", effects),
        ("Cross-media effects", topics(_SECTION_CROSS, size)),
        ("Environmental performance and operational data", topics(_SECTION_TOPIC, 2 * size)),
        ("Technical considerations relevant to applicability", topics(_SECTION_APPLY, 1) + asides),
        ("Economics", topics(_SECTION_COST, size)),
        ("Driving force for implementation", topics(_SECTION_DRIVE, 1)),
        ("Example plants", topics(_SECTION_PLANTS, 1)),
    ]
    if length > 0.5:
        parts[4][1].extend([*how(feature.how, 1), fill(pick(r, _SECTION_OPEN)), *topics(_SECTION_TOPIC, 3)])
    kept = [part for k, part in enumerate(parts) if k in (0, 1, 2, 5) or r() < 0.35 + 0.6 * length]
    text = "\n\n".join(f"{heading}\n{' '.join(sentences)}" for heading, sentences in kept)
    return Section(capital(fill(pick(r, _SECTION_TITLE))), text)
