"""The profile's one page: self-contained HTML, light and dark, readable on a phone.

Reads top down: what stands out; then columns, lengths, repeats, noise, languages, labels, views; rows that look wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from patentft.report import figures
from patentft.report.markup import Safe, h, join, nested, number, table
from patentft.report.profile.count import Lengths
from patentft.report.profile.keys import KEYS, STATISTICS
from patentft.report.profile.noise import NOISE, SUSPICIONS
from patentft.report.profile.result import SHOWN_SUBCLASSES, Profile
from patentft.report.style import CSS
from patentft.stats import wilson_interval

EXCERPT = 400
MORE_CSS = """
mark{background:var(--unclear-bg);color:inherit;padding:0 2px;border-radius:3px}
td.x{overflow-wrap:anywhere;min-width:16em;max-width:46em}
blockquote{margin:6px 0;padding:2px 0 2px 12px;border-left:3px solid var(--rule);overflow-wrap:anywhere;max-width:80ch}
.window{white-space:pre-wrap}
.find{white-space:pre-wrap;overflow-wrap:anywhere;margin:4px 0;font-size:.9rem}
"""


def render(profile: Profile) -> bytes:
    """The whole page, UTF-8."""
    sections = [
        ("columns", "Columns", _columns(profile)),
        ("lengths", "Lengths", _lengths(profile)),
        ("duplicates", "Duplicates", _duplicates(profile)),
        ("noise", "Noise", _noise(profile)),
        ("languages", "Languages", _languages(profile)),
        ("labels", "Labels", _labels(profile)),
        ("views", "Views and sections", _views(profile)),
        ("suspicious", "Rows that look wrong", _suspicious(profile)),
        ("about", "How this was made", _about(profile)),
    ]
    shown = [(name, title, content) for name, title, content in sections if content is not None]
    links = h("nav", *(h("a", title, href=f"#{name}") for name, title, _ in shown), aria_label="Contents")
    body = [h("section", h("h2", title), content, id=name) for name, title, content in shown]
    viewport = h("meta", name="viewport", content="width=device-width, initial-scale=1")
    scheme = h("meta", name="color-scheme", content="light dark")
    style = h("style", Safe(CSS + MORE_CSS))
    head = h("head", h("meta", charset="utf-8"), viewport, scheme, h("title", profile.title), style)
    main = h("main", _top(profile), links, *body)
    text = "<!doctype html>\n" + h("html", head, h("body", main), lang="en") + "\n"
    return text.encode("utf-8", "replace")


# ---- small parts


def _percent(share: float) -> str:
    """A share with as many places as it needs: 12 %, 1.2 %, 0.03 %; never 0 % or 100 % for what is not."""
    percent = 100 * share
    if percent in (0, 100) or 10 <= percent < 99:
        text = f"{percent:.0f}"
    elif percent > 99.9:
        text = ">\u00a099.9"
    else:
        text = f"{percent:.1f}" if percent >= 1 else f"{percent:.2g}"
    return f"{text}\u00a0%"


def _of(count: int, total: int, unit: str = "") -> str:
    """ "1,234 texts (5.6 %)", "0 texts"."""
    counted = f"{number(count)} {unit}" if unit else number(count)
    return f"{counted} ({_percent(count / max(total, 1))})" if count else counted


def _cut(text: str, limit: int = EXCERPT) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


def _figure(svg: str, caption: Any) -> Safe:
    return h("figure", Safe(svg), h("figcaption", caption))


def _beside(drawn: Safe | None, *content: Safe | None) -> Safe:
    return h("div", drawn, h("div", *content, class_="cell"), class_="figures")


def _details(summary: Any, *content: Any) -> Safe:
    return h("details", h("summary", summary), *content)


# ---- top


def _top(profile: Profile) -> Safe:
    survey, found = profile.survey, profile.figures
    lead = f"{number(survey.rows)} rows, {number(len(profile.layout.columns))} columns, {profile.size}."
    findings = _findings(profile)
    stands_out = h("ul", *(h("li", text) for text in findings), class_="top") if findings else None
    cards = [("rows", number(survey.rows), f"{number(found['unreadable'])} more could not be read")]
    for name in profile.layout.texts[:3]:
        key = f"text.{name}"
        cards.append((f"{name}: repeats of an earlier text", _percent(found[f"{key}.repeated_share"]), ""))
        if f"{key}.truncated_share" in found:
            what = f"{name}: longer than {number(profile.max_tokens)} tokens"
            lost = f"{_percent(found[f'{key}.tokens_lost_share'])} of the tokens lost"
            cards.append((what, _percent(found[f"{key}.truncated_share"]), lost))
    if "green.share" in found:
        cards.append(("green (a Y02 symbol)", _percent(found["green.share"]), f"{number(found['green.rows'])} rows"))
    return h(
        "header",
        h("h1", profile.title),
        h("p", lead, class_="lead"),
        h("h2", "What stands out"),
        stands_out or h("p", "Nothing that this profile looks for."),
        h("div", *(_card(*card) for card in cards), class_="cards"),
    )


def _card(label: str, value: str, more: str) -> Safe:
    below = h("span", more, class_="ci") if more else None
    return h("div", h("div", label, class_="label"), h("div", value, below, class_="value"))


def _findings(profile: Profile) -> list[str]:
    """What a person should look at before training on these rows, in words."""
    survey, found = profile.survey, profile.figures
    told: list[str] = []
    if survey.bad:
        reasons = ", ".join(f"{reason} ({number(count)})" for reason, count in survey.bad.most_common(3))
        told.append(f"{number(survey.bad.total())} rows could not be read: {reasons}.")
    if found.get("ids.repeated"):
        repeated = _of(found["ids.repeated"], survey.rows, "rows")
        told.append(f"{repeated} have an id ({profile.layout.id}) that an earlier row has.")
    for name, column in survey.texts.items():
        key, rows = f"text.{name}", found[f"text.{name}.rows"]
        if survey.missing[name]:
            told.append(f"{name}: {_of(survey.missing[name], survey.rows, 'rows')} have no text.")
        if found[f"{key}.repeated"]:
            told.append(f"{name}: {_of(found[f'{key}.repeated'], rows, 'texts')} repeat an earlier one word for word.")
        if found[f"{key}.near_duplicates.texts"]:
            near, sampled = found[f"{key}.near_duplicates.texts"], found[f"{key}.near_duplicates.sampled"]
            told.append(f"{name}: of {number(sampled)} sampled, {_of(near, sampled, 'texts')} have a near-duplicate.")
        if found.get(f"{key}.truncated"):
            truncated, lost = _of(found[f"{key}.truncated"], rows, "texts"), _percent(found[f"{key}.tokens_lost_share"])
            told.append(
                f"{name}: {truncated} are longer than {number(profile.max_tokens)} tokens; cutting them loses "
                f"{lost} of all tokens."
            )
        for kind, count in column.noise.kinds.items():
            if count.rows:
                told.append(f"{name}: {_of(count.rows, rows, 'texts')} with {NOISE[kind].label}.")
        spoken = profile.estimates[name].languages
        main = next(iter(spoken.counts), None)
        others = sum(count for code, count in spoken.counts.items() if code != main)
        if others:
            share = _percent(others / spoken.rows)
            told.append(f"{name}: about {share} of the texts are not in the main language ({main}).")
    if found.get("codes.none"):
        told.append(f"{_of(found['codes.none'], survey.rows, 'rows')} have no readable CPC symbol.")
    wrong = sum(count for (_, reason), count in survey.suspects.counts.items() if reason in SUSPICIONS)
    if wrong:
        told.append(f"{number(wrong)} texts look wrong (empty, very short or long, few letters, repeated words).")
    return told


# ---- sections


def _columns(profile: Profile) -> Safe:
    survey, layout = profile.survey, profile.layout
    roles = {name: "text" for name in layout.texts}
    roles |= {name: role for name, role in ((layout.id, "id"), (layout.date, "date"), (layout.codes, "codes")) if name}
    rows = []
    for name in layout.columns:
        if name in layout.indicators:
            continue
        values = survey.values[name].counts if name in survey.values else None
        told: Any = roles.get(name, "")
        if values:
            shown = ", ".join(f"{_cut(value, 40)}: {number(count)}" for value, count in list(values.items())[:8])
            told = shown + (f" and {len(values) - 8} more" if len(values) > 8 else "")
        elif name in survey.values:
            told = "more than 50 different values" if survey.missing[name] < survey.rows else ""
        rows.append([name or "(no name)", told, _of(survey.missing[name], survey.rows)])
    notes = []
    if layout.indicators:
        gaps = sum(survey.missing[name] for name in layout.indicators)
        notes.append(f"{len(layout.indicators)} columns named by CPC subclasses are read as 0/1 labels; {gaps} gaps.")
    if profile.others:
        notes.append(f"The stage has other tables: {', '.join(profile.others)}. Choose one with --table.")
    return table(["Column", "What it holds", "Missing"], rows, notes, left=2)


def _lengths(profile: Profile) -> Safe | None:
    parts: list[Safe] = []
    for index, (name, column) in enumerate(profile.survey.texts.items()):
        if not column.characters.count:
            continue
        units = [("characters", column.characters), ("words", column.words)]
        if column.tokens is not None:
            units.append(("tokens", column.tokens))
        grid = table(["", *(unit for unit, _ in units)], _by_statistic([counted for _, counted in units]))
        unit, drawn = units[-1]
        parts.append(h("h3", name))
        parts.append(_beside(_length_figure(name, unit, drawn, profile.max_tokens, f"l{index}"), grid))
        key = f"text.{name}"
        if f"{key}.truncated" in profile.figures:
            text = (
                f"Of {number(column.characters.count)} texts, "
                f"{_of(profile.figures[f'{key}.truncated'], column.characters.count)} are longer than "
                f"{number(profile.max_tokens)} tokens. Cut there, they lose "
                f"{_of(profile.figures[f'{key}.tokens_lost'], profile.figures[f'{key}.tokens.total'])} of all tokens."
            )
            parts.append(h("p", text))
    note = "Exact over all rows with a text: p95 is the smallest length that 95 % of the texts do not exceed."
    return join([h("p", note, class_="small"), *parts]) if parts else None


def _by_statistic(counted: Sequence[Lengths]) -> list[list[str]]:
    summaries = [lengths.summary() for lengths in counted]
    return [[name, *(_whole(summary.get(name)) for summary in summaries)] for name in STATISTICS]


def _whole(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}" if value < 100 else number(round(value))
    return number(value)


def _length_figure(name: str, unit: str, counted: Lengths, limit: int | None, key: str) -> Safe:
    middle, high = counted.quantile(50), counted.quantile(95)
    marks = {f"median {middle:,}": float(max(middle, 1)), f"p95 {high:,}": float(max(high, 1))}
    if unit == "tokens" and limit is not None and limit <= counted.quantile(100) * 2:
        marks[f"limit {limit:,}"] = float(limit)
    alt = f"Distribution of {name} by {unit}: median {middle}, 95 % have at most {high}."
    drawn = figures.lengths(*counted.table(), marks, unit, alt, key)
    return _figure(drawn, f"{name}: texts by number of {unit}")


def _duplicates(profile: Profile) -> Safe | None:
    parts: list[Safe] = []
    found, survey = profile.figures, profile.survey
    if survey.id_repeats is not None:
        repeated = _of(survey.id_repeats.repeated, survey.rows, "rows")
        parts.append(h("p", f"{repeated} have an id ({profile.layout.id}) that an earlier row has."))
    for name, estimates in profile.estimates.items():
        key, near = f"text.{name}", estimates.near
        rows = [
            ["texts, all rows", number(found[f"{key}.rows"])],
            ["different texts", number(found[f"{key}.distinct"])],
            [
                "texts that repeat an earlier one, character by character",
                _of(found[f"{key}.repeated"], found[f"{key}.rows"]),
            ],
            ["rows that share the commonest text", number(found[f"{key}.most_repeated"])],
            ["sampled, different texts", number(near.texts)],
            ["of these, with a near-duplicate in the sample", _of(near.duplicates, near.texts)],
            ["groups of near-duplicates in the sample", number(near.groups)],
        ]
        parts += [h("h3", name), table(["", "count"], rows)]
        if estimates.repeated:
            shown = [
                [number(text.occurrences), text.where, h("div", _cut(text.text), class_="find")]
                for text in estimates.repeated
            ]
            parts.append(
                _details("Repeated texts, from the sample", table(["rows", "one of them", "text"], shown, left=3))
            )
        if estimates.near_pairs:
            parts.append(_details("Near-duplicates, from the sample", *_pairs(profile, name)))
    whole = len(survey.sample.rows()) >= survey.rows
    sampled = (
        "The sample is all rows."
        if whole
        else f"The sample is {number(len(survey.sample.rows()))} of {number(survey.rows)} rows: a text whose "
        "near-duplicate was not sampled counts as having none, so the whole has a larger share than the sample."
    )
    config = profile.config
    method = (
        "Exact repeats are counted over all rows by 64-bit hash. Near-duplicates are different texts (their first "
        f"4,000 characters) whose sets of {config['shingle_words']} successive words have a Jaccard index of "
        f"{config['similarity']:g} or more, proposed by MinHash, then computed exactly. {sampled}"
    )
    return join([h("p", method, class_="small"), *parts]) if parts else None


def _pairs(profile: Profile, column: str) -> list[Safe]:
    parts = []
    for left, right, jaccard in profile.estimates[column].near_pairs[:5]:
        parts.append(h("p", f"Jaccard {jaccard:.2f}: {left.where} and {right.where}"))
        parts += [h("blockquote", _cut(row.texts[column])) for row in (left, right)]
    return parts


def _noise(profile: Profile) -> Safe | None:
    names = list(profile.survey.texts)
    if not names:
        return None
    parts: list[Safe] = []
    for name, column in profile.survey.texts.items():
        rows, texts = [], column.characters.count
        for kind, count in column.noise.kinds.items():
            rows.append([NOISE[kind].label, _of(count.rows, texts), number(count.occurrences)])
        parts += [h("h3", name), table(["", "texts", "occurrences"], rows)]
        for kind, count in column.noise.kinds.items():
            if count.examples:
                shown = [
                    h(
                        "p",
                        h("span", f"{one.where}: ", class_="muted"),
                        _visible(one.before),
                        h("mark", _visible(one.found)),
                        _visible(one.after),
                        class_="find",
                    )
                    for one in count.examples
                ]
                parts.append(_details(f"{NOISE[kind].label}: examples", *shown))
    return join([h("p", "All rows; the examples are the first found.", class_="small"), *parts])


def _visible(text: str) -> str:
    """Characters that cannot be seen, as their code."""
    return "".join(one if one.isprintable() or one in "\n\t" else f"U+{ord(one):04X}" for one in text)


def _languages(profile: Profile) -> Safe | None:
    parts: list[Safe] = []
    for name, estimates in profile.estimates.items():
        spoken = estimates.languages
        if not spoken.rows:
            continue
        counts = [*list(spoken.counts.items())[:12]]
        rest = sum(spoken.counts.values()) - sum(count for _, count in counts)
        counts += [("other languages", rest)] if rest else []
        counts += [
            (what, count)
            for what, count in (("uncertain", spoken.uncertain), ("too short to tell", spoken.short))
            if count
        ]
        rows = []
        for language, count in counts:
            low, high = (float(end) for end in wilson_interval(count, spoken.rows))
            rows.append(
                [language, number(count), _percent(count / spoken.rows), f"{100 * low:.1f} to {100 * high:.1f}\u00a0%"]
            )
        parts += [h("h3", name), table(["language", "texts", "share", "95 % interval"], rows)]
    sizes = {estimates.languages.rows for estimates in profile.estimates.values()}
    sampled = " or ".join(number(size) for size in sorted(sizes))
    note = (
        f"Estimated on a random sample of {sampled} texts per column with CLD2. Uncertain: it says itself that it "
        "is not sure, as is usual for formulas, lists of names and short titles."
    )
    return join([h("p", note, class_="small"), *parts]) if parts else None


def _labels(profile: Profile) -> Safe | None:
    survey, balance, layout = profile.survey, profile.survey.balance, profile.layout
    if balance is None:
        return None
    coded = bool(layout.codes or layout.indicators)
    parts: list[Safe | None] = []
    if coded:
        green, none = _of(balance.green, survey.rows, "rows"), _of(balance.without_codes, survey.rows, "rows")
        text = f"{green} with a Y02 symbol; {none} without any readable symbol."
        if balance.malformed:
            examples = ", ".join(balance.malformed_examples)
            text += f" {number(balance.malformed)} malformed: {examples}."
        parts.append(h("p", text))
    if coded and balance.sections:
        sections = dict(sorted(balance.sections.items()))
        rows = [
            [key, _of(count, survey.rows), _of(balance.green_sections[key], count)] for key, count in sections.items()
        ]
        grid = table(["CPC section", "rows", "of which green"], rows, ["A row may be in several sections."])
        drawn = figures.columns(sections, balance.green_sections, ("rows", "green"), "Rows by CPC section", "sections")
        parts += [h("h3", "By section"), _beside(_figure(drawn, "Rows by CPC section"), grid)]
    if balance.years:
        years = {str(year): count for year, count in sorted(balance.years.items())}
        of_them = {str(year): count for year, count in balance.green_years.items()} if coded else {}
        head = ["year", "rows", *(["of which green"] if coded else [])]
        rows = [
            [key, number(count), *([_of(of_them.get(key, 0), count)] if coded else [])] for key, count in years.items()
        ]
        notes = [f"{number(balance.no_year)} rows have no readable year."] if balance.no_year else []
        drawn = figures.columns(years, of_them, ("rows", "green"), "Rows by year", "years")
        grid = table(head, rows, notes)
        below = _details("Table", grid) if len(years) > 16 else grid
        parts += [h("h3", "By year"), _beside(_figure(drawn, f"Rows by {layout.date}"), below)]
    if balance.subclasses:
        common = balance.subclasses.most_common(SHOWN_SUBCLASSES)
        rows = [[key, _of(count, survey.rows)] for key, count in sorted(common, key=lambda item: (-item[1], item[0]))]
        greens = [
            [key, _of(count, survey.rows)] for key, count in sorted(balance.subclasses.items()) if key.startswith("Y02")
        ]
        if greens:
            parts += [h("h3", "Green subclasses"), table(["subclass", "rows"], greens)]
        title = f"The commonest of {number(len(balance.subclasses))} subclasses"
        parts.append(_details(title, table(["subclass", "rows"], rows)))
    return join(parts)


def _views(profile: Profile) -> Safe | None:
    if profile.views is None:
        return None
    found, views = profile.figures, profile.views.views
    parts: list[Safe | None] = []
    if "sections.rows" in found:
        text = (
            f"{number(found['sections.rows'])} sections of {number(found['sections.documents'])} documents, "
            f"{number(found['sections.without_text'])} of them headings without a text of their own."
        )
        if "citations.rows" in found:
            resolved = _of(found["citations.resolved"], found["citations.rows"])
            text += f" {number(found['citations.rows'])} citations, {resolved} of them resolved."
        levels = [(key.rpartition(".")[2], value) for key, value in found.items() if key.startswith("sections.level.")]
        parts += [h("p", text), table(["level", "sections"], [[level, number(count)] for level, count in levels])]
    if views:
        head = ["", *views]
        rows = [["windows", *(number(view.tokens.count) for view in views.values())]]
        rows += [[f"tokens, {row[0]}", *row[1:]] for row in _by_statistic([view.tokens for view in views.values()])]
        parts += [h("h3", "Windows per view"), table(head, rows)]
    for index, (name, view) in enumerate(views.items()):
        drawn = _length_figure(f"view {name}", "tokens", view.tokens, None, f"v{index}")
        shown = None
        if view.example is not None:
            one = view.example
            facts = f"{one.text_id}, {number(one.num_tokens)} tokens, from {', '.join(one.section_ids[:8])}"
            shown = _details("An example", h("p", facts, class_="facts"), h("blockquote", one.text, class_="window"))
        parts += [h("h3", name), _beside(drawn, shown)]
    return join(parts)


def _suspicious(profile: Profile) -> Safe:
    suspects = profile.survey.suspects
    if not suspects.counts:
        return h("p", "None.")
    parts: list[Safe] = []
    ordered = sorted(suspects.counts.items(), key=lambda item: (-item[1], str(item[0])))
    for (column, reason), count in ordered:
        rows = [row for row in suspects.rows if (row.column, row.reason) == (column, reason)]
        grid = table(
            ["id", "file", "row", "begins with"],
            [[row.id or "-", row.file, number(row.row), h("div", _visible(row.value), class_="find")] for row in rows],
            left=4,
        )
        meaning = f": {SUSPICIONS[reason]}" if reason in SUSPICIONS else ""
        of_column = f" ({column})" if column else ""
        limited = f", {number(len(rows))} shown" if len(rows) < count else ""
        parts.append(
            _details(
                f"{reason.replace('_', ' ')}{of_column}: {number(count)}{limited}",
                h("p", f"{reason}{meaning}", class_="small"),
                grid,
            )
        )
    return join([h("p", "Also in suspicious.jsonl. Rows are counted from 0 in their file.", class_="small"), *parts])


def _about(profile: Profile) -> Safe:
    config: Mapping[str, Any] = {key: value for key, value in profile.config.items() if value not in (None, [])}
    rows = [[h("code", key), text] for key, text in KEYS.items()]
    return join(
        [
            _details("Settings", h("div", nested(config), class_="scroll")),
            _details("Every key of profile.json, and what it means", table(["Key", "Meaning"], rows, left=2)),
        ]
    )
