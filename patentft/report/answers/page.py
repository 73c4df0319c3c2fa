"""The page of the answers' evaluation: figures side by side, what people said, a few questions with every answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from patentft.report.answers.evaluate import KEYS, MEASURES, RATING, SUFFIXES, Method
from patentft.report.markup import Notes, Safe, h, join, nested, number, table
from patentft.report.metrics import ABOVE, BELOW, Metrics
from patentft.report.style import CSS

MORE_CSS = "dl{margin:0}dt{margin-top:.7em;font-size:.82rem;color:var(--muted)}dd{margin:0;white-space:pre-line}"
EXCERPT_CHARACTERS = 2000


@dataclass(frozen=True)
class AnswersPage:
    title: str
    metrics: Metrics
    methods: Sequence[Method]
    examples: Sequence[tuple[Mapping[str, Any], Mapping[str, str]]]
    """(row of QA, stage -> answer)"""
    encoder: str | None
    rated: bool
    sheet_questions: int
    config: Mapping[str, Any] = field(default_factory=dict)


def render(page: AnswersPage) -> bytes:
    """The whole page, UTF-8."""
    notes = Notes(page.metrics)
    sections = [
        ("methods", "Same questions, every method", _methods(page, notes)),
        ("differences", f"Against {page.methods[0].stage}", _differences(page, notes)),
        ("people", "What people say", _people(page, notes)),
        ("examples", "A few questions", _examples(page)),
        ("run", "The run", _run(page)),
        ("keys", "Keys of metrics.json", _keys()),
    ]
    if len(page.methods) == 1:
        del sections[1]
    links = h("nav", *(h("a", title, href=f"#{name}") for name, title, _ in sections), aria_label="Contents")
    body = [h("section", h("h2", title), content, id=name) for name, title, content in sections]
    viewport = h("meta", name="viewport", content="width=device-width, initial-scale=1")
    scheme = h("meta", name="color-scheme", content="light dark")
    style = h("style", Safe(CSS + MORE_CSS))
    head = h("head", h("meta", charset="utf-8"), viewport, scheme, h("title", page.title), style)
    lead = f"{number(page.metrics['num_questions'])} questions, each answered by every method. Intervals: 95 %, over "
    lead += "questions."
    top = h("header", h("h1", page.title), h("p", lead, class_="lead"))
    reasons = h("ol", *(h("li", reason) for reason in notes.reasons), class_="notes") if notes.reasons else None
    main = h("main", top, links, *body, reasons)
    return ("<!doctype html>\n" + h("html", head, h("body", main), lang="en") + "\n").encode()


def _measures(page: AnswersPage) -> dict[str, str]:
    shown = {key: label for key, label in MEASURES.items() if key in page.methods[0].values}
    return shown | (RATING if page.rated else {})


def _methods(page: AnswersPage, notes: Notes) -> Safe:
    measures = _measures(page)
    rows = []
    for method in page.methods:
        figures = [notes.cell(f"{method.stage}.{measure}") for measure in measures]
        tokens = notes.cell(f"{method.stage}.answer_tokens")
        faults = [number(method.answers_cut), number(method.problems)]
        rows.append([h("strong", method.stage), method.model, method.method, *figures, tokens, *faults])
    head = ["Stage", "Model", "Method", *measures.values(), "Tokens", "Cut", "Empty or unmarked"]
    told = [
        "ROUGE-L: F-measure of the longest common subsequence of lower-case words (Lin 2004). Token F1 and exact "
        "match: as in SQuAD, without articles and punctuation. All of them count words in common with one reference "
        "answer: a right answer in other words scores low.",
    ]
    if page.encoder:
        told.append(f"Embedding similarity: cosine of the vectors that {page.encoder} gives to answer and reference.")
    return join([table(head, rows, left=3), *(h("p", line, class_="small") for line in told)])


def _differences(page: AnswersPage, notes: Notes) -> Safe:
    measures = _measures(page)
    rows = []
    for method in page.methods[1:]:
        keys = [f"difference.{method.stage}.{measure}" for measure in measures]
        rows.append([h("strong", method.stage), *(_difference(page, notes, key) for key in keys)])
    return table(["Stage", *measures.values()], rows)


def _difference(page: AnswersPage, notes: Notes, key: str) -> Safe:
    return join([notes.cell(key, signed=True), _pill(page.metrics.get(f"{key}.verdict"))])


def _pill(verdict: Any) -> Safe:
    kind = {ABOVE: "good", BELOW: "bad"}.get(verdict, "unclear")
    return h("span", verdict or "not defined", class_=f"pill {kind}")


def _people(page: AnswersPage, notes: Notes) -> Safe:
    m = page.metrics
    if not page.rated:
        if not page.sheet_questions:
            return h("p", "Nobody was asked: sheet_questions is 0.")
        text = (
            f"Nobody has rated yet. sheet.csv holds {number(page.sheet_questions)} questions with every answer, in "
            f"drawn order and without names. A copy of it, filled in, is read with `ratings`."
        )
        return h("p", text)
    rows = []
    for a, b in combinations([method.stage for method in page.methods], 2):
        rows.append([a, b, *(number(m[key]) for key in (f"wins.{a}.{b}", f"wins.{b}.{a}", f"ties.{a}.{b}"))])
    counts = {name: m[f"ratings.{name}"] for name in ("read", "kept", "empty", "quarantined", "not_rated")}
    line = (
        f"Filled rows: {number(counts['kept'])} of {number(counts['read'])} ({number(counts['empty'])} without a "
        f"rating, {number(counts['quarantined'])} in quarantine); {number(counts['not_rated'])} single answers not "
        f"rated."
    )
    agreement = h(
        "p",
        "Agreement: Cohen's kappa ",
        notes.cell("agreement.kappa"),
        f" over {number(m['agreement.num_pairs'])} pairs of annotators with {number(m['agreement.num_ratings'])} "
        f"common ratings. Kappa counts 4 and 5 as different as 1 and 5.",
    )
    won = table(["Stage", "Other", "Stage better", "Other better", "Alike"], rows, left=2) if rows else None
    return join([h("p", line), won, agreement])


def _examples(page: AnswersPage) -> Safe:
    shown = []
    for question, answers in page.examples:
        parts = [("Question", question["question"]), ("Context", question["context"])]
        parts += [("Reference answer", question["answer"]), *answers.items()]
        told = [(name, text) for name, text in parts if text is not None]
        listed = join(join([h("dt", name), h("dd", _excerpt(text) or "(empty)")]) for name, text in told)
        shown.append(h("article", h("h3", question["qa_id"]), h("dl", listed)))
    return h("div", *shown, class_="articles") if shown else h("p", "None were asked for.")


def _excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT_CHARACTERS else text[:EXCERPT_CHARACTERS].rstrip() + " …"


def _run(page: AnswersPage) -> Safe:
    return h("details", h("summary", "Configuration"), h("div", nested(page.config), class_="scroll", tabindex="0"))


def _keys() -> Safe:
    rows = [[h("code", key), text] for key, text in KEYS.items()]
    rows += [[h("code", f"….{suffix}"), text] for suffix, text in SUFFIXES.items()]
    return h("details", h("summary", "Every key, and what it means"), table(["Key", "Meaning"], rows, left=2))
