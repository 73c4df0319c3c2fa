"""The patent side of the synthetic corpus: latent facts in, a readable title, abstract, claims and CPC codes out.

Title and abstract alone tell all facts. A sentence that begins with one of `CONTRASTS` names something that the
invention is *not*, mostly in patent words and now and then in section words, and misleads a bag of words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from patentft.corpus.synth_text import ATTRIBUTES, PARTS, Facts, Uniform, capital, medium_of, pick, small_talk
from patentft.corpus.synth_world import FEATURES, HOSTS, POLLUTANTS, PRINCIPLES

CONTRASTS = ("Unlike", "In contrast to", "Other than", "As opposed to", "Not so", "Whereas")
"""First words of a patent sentence about something that the invention is not."""

SECTION_WORDS_IN_CONTRAST = 0.2
"""Share of contrasts worded like a section: lexical overlap that speaks against a match."""

STREAMS: dict[str, tuple[str, ...]] = {
    "gas": ("the exhaust stream", "the vent stream", "the outgoing fumes", "the raw stream", "the drawn-off stream"),
    "water": ("the spent liquid", "the drained liquor", "the aqueous stream", "the raw stream", "the drawn-off stream"),
    "solid": ("the charge", "the raw charge", "the raw bulk", "the withdrawn bulk", "the feed"),
}
"""Patent side words for what is treated, by medium; some do not tell the medium."""

_PATENT_TITLE = (
    "Process for ridding {src} of {p} by means of {d}",
    "{D} for withholding {p} carried by fumes or liquor of {h}",
    "Method of freeing what leaves {h} from {p} and arrangement comprising {d}",
    "Arrangement with {d} against {p} of {h}",
    "Method and equipment for taking {p} out of what issues from {h}, using {d}",
    "Use of {d} for withholding {p} at {h}",
)
_PATENT_ABOUT = (
    "The invention relates to ridding {s} of {h} of {p}.",
    "Disclosed is a method by which {p} can be taken out of {s} issuing from {h}.",
    "In {s} of {h}, {p} cannot be tolerated and must be withheld.",
    "A method is disclosed which frees {s} from {p}, the origin being {h}.",
    "{H} gives off {p} together with {s}, which is remedied herein.",
    "Provided is an arrangement downstream of {h} by which {p} is withheld.",
)
_PATENT_MEANS = (
    "To this end {d} is provided, the method comprising {step}.",
    "The solution lies in {step}, for which {d} is employed.",
    "It is proposed to employ {d}; operation involves {step}.",
    "The arrangement has {d} and is operated by {step}.",
    "According to the invention this is done by {step}, preferably with {d}.",
)
_PATENT_TWIST = (
    "Moreover, {f}.",
    "In addition, {f}.",
    "It is characteristic that {f}.",
    "In a preferred form {f}.",
    "A further aspect is that {f}.",
)
_PATENT_TOPIC = (
    "Expenditure on {a} and {b} is lowered as a result.",
    "Trouble with {a} is avoided, and {b} can be dispensed with.",
    "The embodiment further deals with {a}, with {b} and with {c}.",
    "An advantage is that {a} is less critical.",
    "Provision is made for {a}.",
    "A worked example deals with {a}, with {b} and with a capacity of {n} percent.",
)
_PATENT_PLAIN = (
    "The outlay is low and upkeep is easy.",
    "The equipment can be shipped in a container.",
    "Surprisingly, the yield remains stable for months.",
    "The method is suited to unattended running.",
    "Existing premises can be retained without rebuilding.",
    "Tests on a small rig confirmed the finding.",
)
_PATENT_CONTRAST = {
    "pollutant": (
        "Not so {x}, to which the teaching does not extend.",
        "Other than {x}, which is left untouched, the target is completely withheld.",
        "Whereas {x} can be dealt with conventionally, the present task demands new means.",
    ),
    "principle": (
        "Unlike {x}, the present solution needs little space.",
        "In contrast to {x} of the prior art, no frequent stoppage is necessary.",
        "As opposed to {x}, the proposed equipment is simple.",
    ),
    "host": (
        "Unlike solutions intended for {x}, the equipment is compact.",
        "In contrast to proposals made for {x}, a stable result is obtained.",
        "Whereas for {x} other proposals exist, none was suitable here.",
    ),
    "feature": (
        "As opposed to proposals in which {x}, the expenditure is small.",
        "In contrast to the prior art, in which {x}, the effort is moderate.",
        "Unlike designs in which {x}, the present one is simple.",
    ),
}
_DEPENDENT = (
    "{a} is accessible during operation",
    "{a} is arranged upstream of {b}",
    "{a} is dimensioned for {n} to {m} percent of the nominal throughput",
    "{a} is monitored by a sensor",
    "{a} is subdivided in at least {k} sections",
    "{a} is provided in duplicate",
    "{a} is located not more than {l} meters from {b}",
    "the clear width at {a} is from {n}0 to {m}0 millimeters",
    "a pause of {n} to {m} seconds is observed before {a} is set in motion",
    "{a} and {b} are accommodated in a common housing",
    "{a} tolerates a change of the throughput by {n} to {m} percent",
    "a housing made of steel surrounds {a}",
    "{a} is taken apart without tools when {b} is opened",
    "between {k} and {l} identical units are operated side by side",
    "the throughput is from {n}00 to {m}00 cubic meters per hour",
)
_OBJECTS = (
    "a bicycle hub",
    "a carton erecting machine",
    "a dental drill",
    "a window hinge",
    "a loom shuttle",
    "a printing roller",
    "a keyboard switch",
    "a crane hook",
    "a loudspeaker diaphragm",
    "a syringe plunger",
    "a seat belt retractor",
    "a potato harvester",
    "a camera shutter",
    "a gearbox synchronizer",
    "a knitting needle",
    "a garden shear",
    "an elevator door",
    "an optical connector",
    "a bottle closure",
    "a sewing machine",
    "a wind instrument key",
    "a mattress spring",
    "a tire tread",
    "a roof truss",
)
_GOALS = (
    "reducing play between moving members",
    "shortening the time of assembly",
    "improving grip by hand",
    "preventing inadvertent opening",
    "increasing fatigue strength",
    "lowering friction",
    "guiding a web without creases",
    "compensating manufacturing tolerances",
    "protecting a user's fingers",
    "transmitting torque in one direction only",
)
_MEMBERS = (
    "a pawl engages a toothed rim under the force of a leaf spring",
    "a sleeve is clipped to a shaft by means of a bayonet",
    "a lever having two arms is pivoted on a pin",
    "an elastomer ring is squeezed between two shells",
    "a cam follower tracks a curved groove",
    "a slider is held by a magnet until it is pressed",
    "a wedge is drawn tight by a screw",
    "a helical rib meshes with a nut of sintered bronze",
    "a printed circuit is folded around a core",
    "a cord is wound on a spool with a friction brake",
    "a hollow section is crimped onto a rod",
    "a lens is cemented in a polymer mount",
)
_OBJECT_CODES = ("F16H1/06", "B65B43/26", "A61C1/08", "E05D7/00", "D03D49/00", "H01H13/70", "B62K23/02", "A47C27/06")
_PURPOSES: dict[str, tuple[str, ...]] = {
    "gas": (
        "making synthetic fuel",
        "producing breathing air for divers",
        "manufacturing carbon black",
        "enriching helium",
        "drying tea leaves",
        "producing hydrogen for fuel cells",
        "coating cutting tools",
        "recovering noble gases for lamps",
    ),
    "water": (
        "clarifying fruit juice",
        "refining edible oil",
        "concentrating maple syrup",
        "purifying an antibody",
        "producing table salt",
        "separating amino acids",
        "softening boiler feed",
        "making soy sauce",
    ),
    "solid": (
        "producing expanded clay",
        "roasting coffee",
        "manufacturing paving stones",
        "making pet food",
        "separating diamonds from gravel",
        "producing vegetable fibre board",
    ),
}
"""What a principle is used for when nothing is abated."""


class Patent(NamedTuple):
    """The texts of one patent, as in the PATENTS table."""

    title: str
    abstract: str
    claims: list[str]
    codes: list[str]


def _contrast(r: Uniform, facts: Facts, attribute: str, other: str) -> str:
    """A sentence that names a value which the patent does *not* have, now and then in section side words."""
    value = ATTRIBUTES[attribute][other]
    words = value.section if value.section and r() < SECTION_WORDS_IN_CONTRAST else value.patent
    return pick(r, _PATENT_CONTRAST[attribute]).format(x=pick(r, words))


_NUM_DEPENDENT = (0, 1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 12, 13, 14, 16, 19, 24)


def _claims(r: Uniform, first: str, kind: str, last: str, details: Sequence[str], own: Sequence[str]) -> list[str]:
    """Claim 1, dependent claims (each refers to an earlier one), and mostly one independent claim at the end.

    Args:
        r: draws from [0, 1).
        first: claim 1.
        kind: what dependent claims call it ("process").
        last: the closing claim.
        details: clauses of the principle, for dependent claims.
        own: endings of the first dependent claims ("wherein ...", "further comprising ...").
    """
    claims = [first]
    claims.extend(f"The {kind} of claim 1, {clause}." for clause in own)
    start = int(r() * len(details)) if details else 0
    num_details = min(len(details), 1 + int(r() * 4))
    for k in range(_NUM_DEPENDENT[int(r() * len(_NUM_DEPENDENT))]):
        clause = details[(start + k) % len(details)] if k < num_details else small_talk(r, pick(r, _DEPENDENT), PARTS)
        parent = 1 + int(r() * r() * len(claims))
        claims.append(f"The {kind} of claim {parent}, wherein {clause}.")
    if r() < 0.7:
        claims.append(last)
    return claims


def write_patent(rng: random.Random, facts: Facts, contrast: tuple[str, str] | None = None) -> Patent:
    """A patent that tells its facts in patent side words; title and abstract alone tell all of them.

    Args:
        rng: the only source of variation.
        facts: all four set (abatement), only the principle (same mechanism, another purpose), or none (unrelated).
        contrast: (attribute, value) that one sentence of the abstract sets the invention apart from, or None.
    """
    if not facts.principle:
        return _unrelated(rng)
    r = rng.random
    medium = medium_of(facts)
    principle = PRINCIPLES[facts.principle]
    device, stream = pick(r, principle.patent), pick(r, STREAMS[medium])
    steps = rng.sample(range(len(principle.steps)), 2)
    step, second = (principle.steps[k].replace("{s}", stream) for k in steps)
    means = pick(r, _PATENT_MEANS).format(d=device, step=step)
    extra = [small_talk(r, pick(r, _PATENT_TOPIC)) for _ in range(1 + int(r() * r() * 8))]
    if r() < 0.6:
        extra.append(pick(r, _PATENT_PLAIN))
    if contrast:
        extra.insert(int(r() * (len(extra) + 1)), _contrast(r, facts, *contrast))
    if not facts.pollutant:
        return _other_purpose(r, facts, device, step, second, means, extra)

    pollutant, host, feature = POLLUTANTS[facts.pollutant], HOSTS[facts.host], FEATURES[facts.feature]
    p, h, f = pick(r, pollutant.patent), pick(r, host.patent), pick(r, feature.patent)
    again = pick(r, principle.patent)
    title = capital(pick(r, _PATENT_TITLE).format(src=f"{stream} of {h}", p=p, d=device, D=capital(device), h=h))
    p2, h2 = pick(r, pollutant.patent), pick(r, host.patent)
    about = capital(pick(r, _PATENT_ABOUT).format(s=stream, h=h2, H=capital(h2), p=p2))
    twist = pick(r, _PATENT_TWIST).format(f=f)
    body = [means, twist] if r() < 0.7 else [twist, means]
    abstract = " ".join([about, *body, *extra])
    in_first = r() < 0.5
    tail = f", and wherein {f}" if in_first else ""
    aim = f"withholding {p} contained in {stream} of {h}"
    first = f"A process for {aim}, comprising {step}, wherein {device} is employed{tail}."
    last = f"An apparatus for carrying out the process of claim 1, comprising {again} arranged downstream of {h2}."
    own = [f"further comprising {second}"] if r() < 0.6 else []
    if not in_first:
        own.append(f"wherein {f}")
    claims = _claims(r, first, "process", last, principle.details, own)
    return Patent(title, abstract, claims, _codes(r, facts))


def _other_purpose(
    r: Uniform, facts: Facts, device: str, step: str, second: str, means: str, extra: list[str]
) -> Patent:
    """The same mechanism, used to make something: nothing is abated."""
    principle = PRINCIPLES[facts.principle]
    purpose = pick(r, _PURPOSES[medium_of(facts)])
    title = pick(r, ("Method of {x} by means of {d}", "{d} for {x}", "Equipment for {x} with {d}"))
    about = pick(
        r, ("The invention relates to {x}.", "A method of {x} is disclosed.", "Provided is equipment for {x}.")
    )
    first = f"A method of {purpose}, comprising {step}, wherein {device} is employed."
    last = f"A plant for carrying out the method of claim 1, comprising {device}."
    claims = _claims(r, first, "method", last, principle.details, [f"further comprising {second}"])
    abstract = " ".join([about.format(x=purpose), means, *extra])
    codes = [code for code in principle.codes[-2:] if not code.startswith("Y02")]
    return Patent(capital(title.format(x=purpose, d=device)), abstract, claims, codes)


def _unrelated(rng: random.Random) -> Patent:
    """A patent from outside the field."""
    r = rng.random
    thing, goal = pick(r, _OBJECTS), pick(r, _GOALS)
    members = [_MEMBERS[k] for k in rng.sample(range(len(_MEMBERS)), 4)]
    title = pick(r, ("{x} and means for {g}", "Device for {g} in {x}", "Method of {g} in {x}")).format(x=thing, g=goal)
    about = f"The invention relates to {thing} and aims at {goal}. To this end {members[0]}. Moreover, {members[1]}."
    extra = [small_talk(r, pick(r, _PATENT_TOPIC)) for _ in range(1 + int(r() * 3))]
    extra.append(pick(r, _PATENT_PLAIN))
    first = f"A device for {goal} in {thing}, wherein {members[0]}."
    claims = _claims(
        r,
        first,
        "device",
        f"{capital(thing)} comprising the device of claim 1.",
        members[2:],
        [f"wherein {members[1]}"],
    )
    return Patent(capital(title), " ".join([about, *extra]), claims, [_OBJECT_CODES[_OBJECTS.index(thing) % 8]])


def _codes(r: Uniform, facts: Facts) -> list[str]:
    """2 to 6 CPC symbols: the principle's, the pollutant's, and Y02 exactly where the facts are green."""
    principle, pollutant = PRINCIPLES[facts.principle].codes, POLLUTANTS[facts.pollutant].codes
    codes = [code for k, code in enumerate(principle) if k == 0 or r() < 0.4]
    codes.extend(code for k, code in enumerate(pollutant) if code.startswith("Y02") or k == 0 or r() < 0.4)
    feature = FEATURES[facts.feature].codes
    codes.append(feature[int(r() * len(feature))] if not feature[0].startswith("Y02") else feature[int(r() * 2)])
    return list(dict.fromkeys(codes))
