"""The report's one page: self-contained HTML, light and dark, readable on a phone.

Reads top down: did each step help, on which figures; the key numbers; then the evidence (rankings, candidate recall,
scored pairs, the section swap), examples to judge by eye, and what the run was made of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patentft.report import figures
from patentft.report.evaluate import Evaluation
from patentft.report.markup import MINUS, Notes, Safe, h, join, nested, number, table
from patentft.report.metrics import (
    ABLATION_STEPS,
    ABOVE,
    BELOW,
    FEATURES,
    KEYS,
    LEXICAL_STEPS,
    PARTS,
    STEPS,
    SUFFIXES,
    SYSTEMS,
)
from patentft.report.ranks import PATENT_KS, TECHNIQUE_KS
from patentft.report.style import CSS

HEADLINES = (
    ("technique", "recall_at_10"),
    ("technique", "mrr"),
    ("technique", "auc"),
    ("patent", "recall_at_5"),
    ("patent", "mrr"),
)
"""(side, metric) whose differences decide the words at the top of the page."""
FEATURE_NAMES = {"cross": "cross-encoder", "cosine": "cosine", "lexical": "TF-IDF"}


@dataclass(frozen=True)
class StageInfo:
    """A finished stage as the page shows it."""

    name: str
    kind: str
    id: str
    config_hash: str
    seconds: float
    tables: Mapping[str, Mapping[str, int]]
    counts: Mapping[str, Any]
    config: Mapping[str, Any]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Candidate:
    """One scored patent of an example technique."""

    patent_id: str
    title: str
    abstract: str
    year: int | None
    probability: float | None
    log_odds: float
    cosine: float
    match: bool


@dataclass(frozen=True)
class Example:
    """A technique with its best-scored patents."""

    fold: int
    technique_id: str
    title: str
    where: str  # document and section
    text: str
    candidates: Sequence[Candidate]


@dataclass(frozen=True)
class Page:
    """All that the page shows."""

    title: str
    labels_exhaustive: bool
    evaluation: Evaluation
    examples: Sequence[Example]
    stages: Sequence[StageInfo]
    corpus: str
    config: Mapping[str, Any]
    warnings: Sequence[str]

    def bound(self, name: str) -> str:
        """The name of a figure that counts an unlabelled pair as negative, marked as what it is."""
        return name if self.labels_exhaustive else f"{name} (lower bound)"


def render(page: Page) -> bytes:
    """The whole page, UTF-8."""
    sections = [
        ("systems", "Same rows, every system", _systems(page)),
        ("candidates", "Candidate recall", _candidates(page)),
        ("scored", "Scored candidates", _scored(page)),
        ("calibration", "Calibration", _calibration(page)),
        ("ablations", "Ablations", _ablations(page)),
        ("swap", "Section-swap test", _swap(page)),
        ("examples", "Top patents of a few techniques", _examples(page)),
        ("run", "The run", _run(page)),
        ("keys", "Keys of metrics.json", _keys()),
    ]
    links = h("nav", *(h("a", title, href=f"#{name}") for name, title, _ in sections), aria_label="Contents")
    body = [h("section", h("h2", title), content, id=name) for name, title, content in sections]
    viewport = h("meta", name="viewport", content="width=device-width, initial-scale=1")
    scheme = h("meta", name="color-scheme", content="light dark")
    head = h("head", h("meta", charset="utf-8"), viewport, scheme, h("title", page.title), h("style", Safe(CSS)))
    main = h("main", _top(page), links, *body)
    return ("<!doctype html>\n" + h("html", head, h("body", main), lang="en") + "\n").encode()


# ---- small parts


def _metric(name: str) -> str:
    return {"mrr": "MRR", "auc": "AUC"}.get(name, name.replace("recall_at_", "recall@"))


def _found(side: str, metric: str) -> str:
    """A metric with what is searched for: patents for a technique, or techniques for a patent."""
    return f"{_metric(metric)} of {'patents' if side == 'technique' else 'techniques'}"


def _figure(svg: str, caption: Any) -> Safe:
    return h("figure", Safe(svg), h("figcaption", caption))


def _beside(drawn: Safe | None, grid: Safe) -> Safe:
    """A figure with its table beside it where there is room, below it on a phone."""
    return h("div", drawn, h("div", grid, class_="cell"), class_="figures")


def _details(summary: Any, *content: Any, open_: bool = False) -> Safe:
    return h("details", h("summary", summary), *content, open=open_)


def _missing(what: str, reason: Any) -> Safe:
    return h("p", h("strong", f"{what}: not defined. "), reason or "no reason was recorded", class_="missing")


def _pill(verdict: Any) -> Safe:
    kind = {ABOVE: "good", BELOW: "bad"}.get(verdict, "unclear")
    return h("span", verdict or "not defined", class_=f"pill {kind}")


def _inline(system: str) -> str:
    """A system's name within a sentence."""
    return "TF-IDF" if system == "lexical" else SYSTEMS[system].lower()


def _step(a: str, b: str) -> str:
    return f"{SYSTEMS[a]} {MINUS} {_inline(b)}"


def _step_head(a: str, b: str) -> Safe:
    """The same for a narrow column: TF-IDF is not broken at its hyphen."""
    return join([f"{SYSTEMS[a]} {MINUS} ", h("span", _inline(b), class_="whole" if b == "lexical" else None)])


def _difference(a: str, b: str, side: str, metric: str) -> str:
    return f"difference.{a}_minus_{b}.{side}.{metric}"


def _dot(page: Page, row: str, series: int, key: str) -> figures.Dot | None:
    m = page.evaluation.metrics
    value, low, high = m.get(key), m.get(f"{key}.low"), m.get(f"{key}.high")
    if not isinstance(value, float):
        return None
    ends = (low, high) if isinstance(low, float) and isinstance(high, float) else (None, None)
    return figures.Dot(row, series, value, *ends)


def _dots(page: Page, keys: Sequence[tuple[str, int, str]], series: Mapping[int, str], **style: Any) -> str | None:
    """keys: (row, series, metrics key); series: place in figures.SERIES -> label. None when no key is defined."""
    points = [dot for row, index, key in keys if (dot := _dot(page, row, index, key))]
    return figures.dots(points, series, **style) if points else None


# ---- top


def _top(page: Page) -> Safe:
    m, notes = page.evaluation.metrics, Notes(page.evaluation.metrics)
    if page.labels_exhaustive:
        labels = "The labels are exhaustive: a pair that is not a known match is a true negative."
    else:
        labels = (
            "The labels are not exhaustive: a pair that is not a known match is unknown, and counted as negative. "
            "AUC, precision and F1 are therefore lower bounds."
        )
    where = "techniques and patents never trained on"
    if m.get("leak.techniques") or m.get("leak.patents"):
        where = "not all of these techniques and patents are unseen"
    elif m.get("role") != "test":
        where = "all techniques and patents: nothing was held out, so trained models have seen these rows"
    lead = f"{number(m['num_folds'])} technique split{'s' * (m['num_folds'] != 1)}; {where}. {labels}"
    verdicts = [_step_verdict(page, notes, a, b) for a, b in STEPS if b in page.evaluation.systems]
    steps = [(a, b) for a, b in LEXICAL_STEPS if a in page.evaluation.systems and b in page.evaluation.systems]
    against = [h("h2", "Is it better than TF-IDF alone?")] if steps else []
    against += [_step_verdict(page, notes, a, b) for a, b in steps]
    return h(
        "header",
        h("h1", page.title),
        h("p", lead, class_="lead"),
        *(h("p", warning, class_="warning", role="alert") for warning in page.warnings),
        _word_overlap(page),
        h("h2", "Did each step help?"),
        *verdicts,
        *against,
        h("ol", *(h("li", reason) for reason in notes.reasons), class_="notes") if notes.reasons else None,
        h("div", *_cards(page), class_="cards"),
    )


def _word_overlap(page: Page) -> Safe | None:
    """Where TF-IDF alone beats what was trained, in plain words, and what that may say of the labels."""
    m, systems = page.evaluation.metrics, page.evaluation.systems
    if "lexical" not in systems:
        return None
    told: list[Safe] = []
    beaten = set()
    for a, b in LEXICAL_STEPS:
        for verb, hint in (("beats", ""), ("is ahead of", ", though not distinguishably,")):
            ahead = [(side, n) for side, n in _ahead(page, a) if _beats(page, a, side, n) == (verb == "beats")]
            if not ahead:
                continue
            if verb == "beats":
                beaten.add(a)
            parts = [
                f"{_found(side, n)} ({number(m[f'{side}.{b}.{n}'])} against {number(m[f'{side}.{a}.{n}'])})"
                for side, n in ahead
            ]
            lead = h("strong", f"TF-IDF alone {verb} the {_inline(a)}")
            told.append(h("p", lead, f"{hint} in {', '.join(parts)}."))
    search = systems[-2]  # whose candidates were scored: the encoder, if there is one
    if search in beaten or 2 * len(_ahead(page, search)) > len(HEADLINES):
        text = (
            f"That word overlap ranks known matches better than the {_inline(search)} may come from the labels rather "
            "than from the systems. If known matches were found by the words that they share with the section, or "
            "chosen by a method that rewards these, any lexical method is favoured, and relevant patents in other "
            "words are missing from the labels. That would be a property of such labels; these figures cannot tell "
            "whether it is so here. Labels made without a search by words could."
        )
        told.append(h("p", text))
    kind = "warning" if beaten else "missing"
    return h("div", *told, class_=f"{kind} overlap", role="note") if told else None


def _ahead(page: Page, system: str) -> list[tuple[str, str]]:
    """The headline figures in which TF-IDF is ahead of `system`."""
    values = page.evaluation.metrics
    found = []
    for side, metric in HEADLINES:
        own, other = values.get(f"{side}.lexical.{metric}"), values.get(f"{side}.{system}.{metric}")
        if isinstance(own, float) and isinstance(other, float) and own > other:
            found.append((side, metric))
    return found


def _beats(page: Page, system: str, side: str, metric: str) -> bool:
    return page.evaluation.metrics.get(f"{_difference(system, 'lexical', side, metric)}.verdict") == BELOW


def _step_verdict(page: Page, notes: Notes, a: str, b: str) -> Safe:
    """One step in plain words: the aim is that every headline's interval lies above 0."""
    m, name = page.evaluation.metrics, _step(a, b)
    if a not in page.evaluation.systems:
        text = "This run has no fine-tuned encoder; the scorer works on the untrained cosine's candidates."
        return h("div", h("h3", name), h("p", text), class_="step")
    found = [(side, metric, m.get(f"{_difference(a, b, side, metric)}.verdict")) for side, metric in HEADLINES]
    good = sum(verdict == ABOVE for *_, verdict in found)
    yes, no, open_ = ("helps", "harms", "not shown to help everywhere")
    if b == "lexical":
        yes, no, open_ = ("better", "worse", "not shown to be better everywhere")
    if good == len(found):
        overall, kind = f"{yes}: every interval is above 0", "good"
    elif all(verdict == BELOW for *_, verdict in found):
        overall, kind = f"{no}: every interval is below 0", "bad"
    elif any(verdict == BELOW for *_, verdict in found):
        overall, kind = f"{no} somewhere: {good} of {len(found)} intervals are above 0", "bad"
    else:
        overall, kind = f"{open_}: {good} of {len(found)} intervals are above 0", "unclear"
    parts = []
    for side, metric, verdict in found:
        key = _difference(a, b, side, metric)
        parts.append(
            h(
                "li",
                h("span", _found(side, metric), class_="what"),
                h("span", notes.cell(key, signed=True)),
                _pill(verdict),
            )
        )
    head = h("h3", name, " ", h("span", overall, class_=f"pill {kind}"))
    return h("div", head, h("ul", *parts, class_="verdicts"), class_="step")


def _cards(page: Page) -> list[Safe]:
    m, notes = page.evaluation.metrics, Notes(page.evaluation.metrics)

    def card(label: str, value: Any, small: str = "") -> Safe:
        return h(
            "div", h("div", label, class_="label"), h("div", value, class_="value"), h("div", small, class_="small")
        )

    def of(key: str) -> Safe:
        return notes.cell(key, marked=False)  # the sections below give the reasons

    pairs = m.get("scored.num_pairs")
    cards = [
        card("pairs possible", number(m.get("funnel.pairs_possible")), "patents by techniques"),
        card("pairs scored for evaluation", number(pairs), f"{number(m.get('scored.num_positives'))} known matches"),
        card("techniques evaluated", number(m.get("num_techniques")), f"{number(m.get('num_matches'))} known matches"),
    ]
    for system in page.evaluation.systems:
        cards.append(card(f"MRR, {_inline(system)}", of(f"technique.{system}.mrr"), "of patents, whole pool"))
    cards.append(card(page.bound("AUC within technique"), of("technique.scorer.auc"), "scorer, whole pool"))
    cards.append(
        card(page.bound("F1 at the threshold"), of("scored.f1"), f"always yes: {number(m.get('scored.always_yes_f1'))}")
    )
    return cards


# ---- evidence


def _systems(page: Page) -> Safe:
    m, systems = page.evaluation.metrics, page.evaluation.systems
    lists = {"technique": [f"recall_at_{k}" for k in TECHNIQUE_KS] + ["mrr", "auc"]}
    lists["patent"] = [f"recall_at_{k}" for k in PATENT_KS] + ["mrr"]
    titles = {"technique": "Patents for a technique", "patent": "Techniques for a patent"}
    content: list[Safe] = [
        h(
            "p",
            f"Every known match of an evaluated technique is ranked among the pool of {number(m['pool_patents'])} "
            f"patents (and {number(m['pool_techniques'])} techniques in the other direction), by each system, on the "
            "same rows. The scorer orders the candidates that it was given; after them come the others, in the order "
            "of the fine-tuned encoder. Means are over techniques (patents); intervals are 95 %, bootstrap over "
            "techniques, all splits together.",
        )
    ]
    drawn = []
    for side, names in lists.items():
        keys = [(_metric(n), i, f"{side}.{s}.{n}") for n in names for i, s in _indexed(systems)]
        svg = _dots(
            page,
            keys,
            {i: SYSTEMS[s] for i, s in _indexed(systems)},
            label="mean, 95 % interval",
            name=f"systems-{side}",
            alt=f"{titles[side]}: recall, MRR and AUC of each system with intervals; the table below has the figures.",
        )
        drawn.append(
            _figure(svg, titles[side]) if svg else _missing(titles[side], m.get(f"{side}.scorer.mrr.not_defined"))
        )
    for name, steps, caption in (
        ("differences", STEPS, "Paired differences on the same rows; right of the line is better"),
        (
            "differences-lexical",
            LEXICAL_STEPS,
            "The same against TF-IDF alone; left of the line, word overlap is better",
        ),
    ):
        svg = _dots(
            page,
            [(_found(side, n), _step_colour(*ab), _difference(*ab, side, n)) for side, n in HEADLINES for ab in steps],
            {_step_colour(a, b): _step(a, b) for a, b in steps},
            label="paired difference, 95 % interval",
            zero=True,
            name=name,
            alt=f"{caption}: recall, MRR and AUC with intervals and a line at zero; the tables below have the figures.",
        )
        if svg:
            drawn.append(_figure(svg, caption))
    content.append(h("div", *drawn, class_="figures"))
    for side, names in lists.items():
        notes = Notes(m)
        rows = [[_label(page, n), *(notes.cell(f"{side}.{s}.{n}") for s in systems)] for n in names]
        shown = table(["", *(SYSTEMS[s] for s in systems)], rows, notes.reasons)
        notes = Notes(m)
        steps = [(a, b) for a, b in (*STEPS, *LEXICAL_STEPS) if a in systems and b in systems]
        rows = [[_metric(n), *(_difference_cell(notes, a, b, side, n) for a, b in steps)] for n in names]
        differences = table(["", *(_step_head(a, b) for a, b in steps)], rows, notes.reasons)
        content += [h("h3", titles[side]), shown, _details("Paired differences", differences, open_=True)]
    content.append(_details("Each split by itself", _by_fold(page, lists)))
    return join(content)


def _indexed(systems: Sequence[str]) -> list[tuple[int, str]]:
    """Systems with the place that fixes their colour, whichever of them a run has."""
    return [(list(SYSTEMS).index(system), system) for system in systems]


def _step_colour(a: str, b: str) -> int:
    """A difference has the colour of what it credits; the sum of the other two steps is grey."""
    return figures.GREY if (a, b) == ("scorer", "untrained") else list(SYSTEMS).index(a)


def _label(page: Page, metric: str) -> str:
    return page.bound(_metric(metric)) if metric == "auc" else _metric(metric)


def _difference_cell(notes: Notes, a: str, b: str, side: str, metric: str) -> Safe:
    return _with_pill(notes, _difference(a, b, side, metric))


def _with_pill(notes: Notes, key: str) -> Safe:
    """A difference with its interval and its verdict."""
    verdict = notes.metrics.get(f"{key}.verdict")
    return join([notes.cell(key, signed=True), _pill(verdict) if verdict else None])


def _by_fold(page: Page, lists: Mapping[str, Sequence[str]]) -> Safe:
    m, notes = page.evaluation.metrics, Notes(page.evaluation.metrics)
    folds = range(int(m["num_folds"] or 0))
    rows = []
    for side, names in lists.items():
        for name in names:
            for system in page.evaluation.systems:
                keys = [f"fold{i}.{side}.{system}.{name}" for i in folds]
                if any(key in m for key in keys):
                    rows.append([_found(side, name), SYSTEMS[system], *(notes.cell(key) for key in keys)])
    for figure in ("auc_pooled", "auc_within_technique", "average_precision", "num_pairs", "num_positives"):
        keys = [f"fold{i}.scored.{figure}" for i in folds]
        rows.append([f"scored pairs: {figure.replace('_', ' ')}", "Scorer", *(notes.cell(key) for key in keys)])
    rows.append(["threshold of yes", "Scorer", *(notes.cell(f"fold{i}.threshold") for i in folds)])
    return table(["Figure", "System", *(f"split {i}" for i in folds)], rows, notes.reasons, left=2)


def _candidates(page: Page) -> Safe:
    m, notes, top_k = (
        page.evaluation.metrics,
        Notes(page.evaluation.metrics),
        page.evaluation.metrics["candidates.top_k"],
    )
    searches = [system for system in page.evaluation.systems if system != "scorer"]
    relevant = number(m.get(f"candidates.{searches[-1]}.relevant"))
    text = (
        f"Share of the {relevant} known matches (relevant pairs) that stand among the first k of their technique "
        'in the exact ranking of the whole pool. What is not among the candidates cannot be scored. "At least" is the '
        "exact one-sided 95 % lower bound, which takes the pairs as independent."
    )
    k = int(top_k) if isinstance(top_k, int) else None
    if page.evaluation.recall_curves:
        alt = "Share of known matches among the first k patents of their technique, by k, for each search."
        drawn = _figure(figures.recall_curve(page.evaluation.recall_curves, k, alt, "recall"), "Candidate recall")
    else:
        drawn = _missing("Candidate recall curve", "no known match of an evaluated technique lies in the searched pool")
    rows = []
    for at in sorted({*TECHNIQUE_KS, *([k] if k else [])}):
        cells = []
        for system in searches:
            bound = m.get(f"candidates.{system}.lower_bound_at_{at}")
            small = h("span", f"at least {number(bound)}", class_="ci") if bound is not None else None
            cells.append(join([notes.cell(f"candidates.{system}.recall_at_{at}"), small]))
        rows.append([f"first {at:,}" + (" (candidates kept)" if at == k else ""), *cells])
    head = ["", *(SYSTEMS[system] for system in searches)]
    return join([h("p", text), _beside(drawn, table(head, rows, notes.reasons))])


def _scored(page: Page) -> Safe:
    m, notes, e = page.evaluation.metrics, Notes(page.evaluation.metrics), page.evaluation
    pairs, positives, techniques = (
        number(m.get(f"scored.num_{name}")) for name in ("pairs", "positives", "techniques")
    )
    text = (
        f"{pairs} candidate pairs of the evaluated side, {positives} of them known matches, of {techniques} "
        "techniques. Pooled curves are means over the splits, whose models differ in scale. The threshold was chosen "
        "on the validation side."
    )
    drawn = []
    prevalence = m.get("scored.prevalence")
    for kind, band, key, title in (
        ("roc", e.roc, "scored.auc_pooled", "ROC curve"),
        ("precision_recall", e.precision_recall, "scored.average_precision", "Precision-recall curve"),
    ):
        if band is None:
            drawn.append(_missing(title, m.get(f"{key}.not_defined")))
            continue
        alt = f"{title} of the scored pairs with a 95 % bootstrap band; area {number(m[key])}."
        at = prevalence if isinstance(prevalence, float) else None
        drawn.append(_figure(figures.curve(band, kind, at, alt, kind.replace("_", "-")), page.bound(title)))
    names = [
        ("auc_pooled", page.bound("AUC, pooled")),
        ("auc_within_technique", page.bound("AUC within technique")),
        ("auc_within_patent", page.bound("AUC within patent")),
        ("average_precision", page.bound("Average precision")),
        ("prevalence", "… beside the share of known matches"),
        ("f1", page.bound("F1 at the threshold")),
        ("always_yes_f1", "… beside F1 of always yes, 2p/(1+p)"),
        ("precision", page.bound("Precision at the threshold")),
        ("recall", "Recall at the threshold"),
        ("mcc", "Matthews correlation at the threshold"),
        ("share_yes", "Share of yes at the threshold"),
        ("distinct_share", "Share of distinct log-odds"),
    ]
    rows = [[label, notes.cell(f"scored.{name}")] for name, label in names]
    return join([h("p", text), h("div", *drawn, class_="figures"), table(["", "Scorer"], rows, notes.reasons)])


def _calibration(page: Page) -> Safe:
    m, notes, e = page.evaluation.metrics, Notes(page.evaluation.metrics), page.evaluation
    if e.reliability:
        alt = "Reliability diagram: share of known matches by mean predicted probability, before and after calibration."
        caption = "Reliability, with Wilson 95 % intervals; below, pairs per bin (log scale)"
        drawn = _figure(figures.reliability(e.reliability, alt, "reliability"), caption)
    else:
        drawn = _missing("Reliability diagram", m.get("scored.ece_after.not_defined"))
    labels = {"ece": "Expected calibration error, 15 bins", "brier": "Brier score"}
    rows = [[label, *(notes.cell(f"scored.{n}_{when}") for when in ("before", "after"))] for n, label in labels.items()]
    grid = table(["", "before", "after calibration"], rows, notes.reasons)
    note = (
        None if page.labels_exhaustive else h("p", "On labels that are not exhaustive P(yes) is that of a known match.")
    )
    return join([note, _beside(drawn, grid)])


def _part(name: str) -> str:
    """A name in PARTS as the page shows it: Combined, TF-IDF only, Cosine + TF-IDF."""
    if name == "combined":
        return "Combined"
    features = " + ".join(FEATURE_NAMES[feature] for feature in PARTS[name])
    return features[0].upper() + features[1:] + (" only" if len(PARTS[name]) == 1 else "")


def _ablations(page: Page) -> Safe:
    m, notes = page.evaluation.metrics, Notes(page.evaluation.metrics)
    names = [name for name in PARTS if f"ablation.{name}.auc" in m]
    text = "The scored pairs ranked by some parts of the score alone, on techniques with a known match among them. "
    if any(len(PARTS[name]) == 2 for name in names):
        text += "Two parts together have the weights fitted for these two on the validation side. "
    text += "Combined less the ranking by some parts is what the other parts add."
    shown = {figures.BLUE: "AUC within technique", figures.ORANGE: "MRR"}
    keys = [
        (_part(name), i, f"ablation.{name}.{metric}")
        for name in names
        for i, metric in zip(shown, ("auc", "mrr"), strict=True)
    ]
    svg = _dots(
        page,
        keys,
        shown,
        label="mean over techniques, 95 % interval",
        name="ablations",
        alt="AUC within technique and MRR of the parts of the score, alone and together, with intervals.",
    )
    drawn = _figure(svg, "Which parts of the score rank best") if svg else None
    rows = [[_part(name), notes.cell(f"ablation.{name}.auc"), notes.cell(f"ablation.{name}.mrr")] for name in names]
    head = ["", page.bound("AUC within technique"), "MRR"]
    ranking, notes = table(head, rows, notes.reasons), Notes(m)
    rows = []
    for a, b in ABLATION_STEPS:
        keys = [f"ablation.difference.{a}_minus_{b}.{metric}" for metric in ("auc", "mrr")]
        if keys[0] in m:
            rows.append([_ablation_step(a, b, names), *(_with_pill(notes, key) for key in keys)])
    differences = table(["", "AUC within technique", "MRR"], rows, notes.reasons)
    content = [h("p", text), _beside(drawn, ranking), h("h3", "What each part adds, on the same rows"), differences]
    return join([*content, _weights(page)])


def _article(feature: str) -> str:
    return FEATURE_NAMES[feature] if feature == "lexical" else f"the {FEATURE_NAMES[feature]}"


def _ablation_step(a: str, b: str, names: Sequence[str]) -> Safe:
    """Combined − (cosine + TF-IDF), and in small letters whose part the difference is."""
    other = _part(b).removesuffix(" only")
    other = other if other.startswith("TF") else other[0].lower() + other[1:]
    if a != "combined":
        return join([f"{_part(a).removesuffix(' only')} {MINUS} {other}"])
    used = PARTS["combined"] if "lexical" in names else PARTS["cross_encoder_and_cosine"]
    rest = " and ".join(_article(feature) for feature in used if feature not in PARTS[b])
    label = f"Combined {MINUS} ({other})" if "+" in other else f"Combined {MINUS} {other}"
    verb = "adds" if len(used) - len(PARTS[b]) == 1 else "add"
    return join([label, h("span", f"what {rest} {verb}", class_="part")])


def _weights(page: Page) -> Safe | None:
    """The weight of each part in the log-odds, one column per split; None when no manifest names any."""
    m, notes = page.evaluation.metrics, Notes(page.evaluation.metrics)
    folds = range(int(m["num_folds"] or 0))
    used = [name for name in FEATURES if any(f"fold{i}.weight.{name}" in m for i in folds)]
    if not used:
        return None
    rows = [[FEATURE_NAMES[name], *(notes.cell(f"fold{i}.weight.{name}") for i in folds)] for name in used]
    text = (
        "log-odds = the sum of weight × part. The parts differ in scale (a logit of the cross-encoder spans several "
        "units, a cosine a fraction of one), so a larger weight does not by itself mean a larger share."
    )
    grid = table(["Part", *(f"split {i}" for i in folds)], rows, notes.reasons)
    return join([h("h3", "Weights of the parts"), h("p", text), grid])


def _swap(page: Page) -> Safe:
    m, notes, e = page.evaluation.metrics, Notes(page.evaluation.metrics), page.evaluation
    verdict = m.get("swap.verdict")
    text = "Each pair is scored again with another technique's section text: a scorer that reads the section must move."
    content = [h("p", text)]
    if verdict is None:
        return join([*content, _missing("Section-swap test", m.get("swap.verdict.not_defined"))])
    content.append(h("p", h("strong", f"In words: {verdict}.")))
    drawn = None
    if e.swap_drop is not None and e.swap_labels is not None:
        alt = "Histogram of the change of the log-odds when the section is swapped, known matches and other pairs."
        caption = "Right of the line: the own section scores higher"
        drawn = _figure(figures.swap(e.swap_drop, e.swap_labels, alt, "swap"), caption)
    names = {
        "num_pairs": "Pairs swapped",
        "mean_absolute": "Mean absolute change, log-odds",
        "share_moved": "Share of pairs that moved by more than .001",
        "mean_drop_matches": "Mean drop of known matches",
        "mean_drop_others": "Mean drop of other pairs",
        "spearman": "Rank correlation before and after",
    }
    rows = [[label, notes.cell(f"swap.{name}")] for name, label in names.items()]
    return join([*content, _beside(drawn, table(["", "Cross-encoder"], rows, notes.reasons))])


def _examples(page: Page) -> Safe:
    if not page.examples:
        return _missing("Examples", "no evaluated technique has both a known match in the pool and scored pairs")
    text = "Drawn by the seed among the evaluated techniques with a known match; the best five by log-odds of each."
    return join([h("p", text), h("div", *(_example(example) for example in page.examples), class_="articles")])


def _example(example: Example) -> Safe:
    items = []
    for c in example.candidates:
        facts = [str(c.year) if c.year is not None else "year unknown", c.patent_id]
        facts.append(f"P(yes) {number(c.probability)}" if c.probability is not None else "no probability")
        facts += [f"log-odds {c.log_odds:+.2f}", f"cosine {c.cosine:.3f}"]
        mark = h("span", "known match", class_="pill good") if c.match else None
        head = join([h("span", c.title or "(no title)", class_="title"), " ", mark])
        items.append(
            h("li", _details(head, h("p", c.abstract or "(no abstract)")), h("div", " · ".join(facts), class_="facts"))
        )
    head = h("p", f"{example.where} · {example.technique_id} · split {example.fold}", class_="facts")
    return h(
        "article",
        h("h3", example.title),
        head,
        _details("Section text", h("p", example.text)),
        h("ol", *items, class_="top"),
    )


# ---- the run


def _run(page: Page) -> Safe:
    m = page.evaluation.metrics
    folds = range(int(m["num_folds"] or 0))
    counts = [
        ("patents", "patents in the corpus"),
        ("techniques", "techniques in the corpus"),
        ("pairs_possible", "pairs possible"),
        ("searched", "pairs searched, exactly"),
        ("prefiltered", "candidates kept"),
        ("scored", "pairs scored"),
    ]
    rows = [
        [label, number(m.get(f"funnel.{name}")), *(number(m.get(f"fold{i}.funnel.{name}")) for i in folds)]
        for name, label in counts
    ]
    funnel = table(["Counts at each stage", "all splits", *(f"split {i}" for i in folds)], rows)
    seconds = {stage.name: stage.seconds for stage in page.stages}
    alt = "Seconds per stage; the table below has the figures."
    drawn = _figure(figures.bars(seconds, "seconds (last session of the stage)", alt, "seconds"), "Time per stage")
    stages = table(
        ["Stage", "Kind", "Seconds", "Rows written", "Manifest id", "Config hash"],
        [
            [s.name, s.kind, f"{s.seconds:,.1f}", _rows(s.tables), h("code", s.id), h("code", s.config_hash)]
            for s in page.stages
        ],
        left=2,
    )
    corpus = next((stage for stage in page.stages if stage.name == page.corpus), None)
    quarantined = corpus.tables.get("quarantine", {}).get("rows", 0) if corpus else 0
    cleaning = [h("h3", "What the corpus stage dropped and why"), h("p", f"Quarantined rows: {number(quarantined)}.")]
    cleaning.append(h("div", nested(corpus.counts if corpus else {}), class_="scroll", tabindex="0"))
    told = [
        _details(f"{s.name}: counts", h("div", nested(s.counts), class_="scroll", tabindex="0")) for s in page.stages
    ]
    configs = [_details(f"{s.name}: configuration", _json(s.config)) for s in page.stages]
    configs.append(_details("report: configuration", _json(page.config)))
    return join(
        [
            funnel,
            h("div", drawn, class_="figures"),
            stages,
            *cleaning,
            h("h3", "Counts of every stage"),
            *told,
            h("h3", "Configuration"),
            *configs,
            h("h3", "Versions"),
            _versions(page.stages),
        ]
    )


def _rows(tables: Mapping[str, Mapping[str, int]]) -> str:
    return ", ".join(f"{name} {number(found['rows'])}" for name, found in tables.items()) or "-"


def _json(value: Any) -> Safe:
    return h("pre", json.dumps(value, indent=1, ensure_ascii=False, default=str))


def _versions(stages: Sequence[StageInfo]) -> Safe:
    """Package by version; where stages differ, each version with its stages."""
    packages = sorted({name for stage in stages for name in stage.versions})
    rows = []
    for package in packages:
        found: dict[str, list[str]] = {}
        for stage in stages:
            found.setdefault(stage.versions.get(package, "not recorded"), []).append(stage.name)
        shown = (
            next(iter(found))
            if len(found) == 1
            else "; ".join(f"{v} ({', '.join(names)})" for v, names in found.items())
        )
        rows.append([package, shown])
    return table(["Package", "Version"], rows, left=2)


def _keys() -> Safe:
    rows = [[h("code", key), text] for key, text in KEYS.items()]
    rows += [[h("code", f"….{suffix}"), text] for suffix, text in SUFFIXES.items()]
    return _details("Every key, and what it means", table(["Key", "Meaning"], rows, left=2))
