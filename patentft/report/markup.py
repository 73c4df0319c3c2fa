"""HTML that is escaped by construction: whatever is not `Safe` becomes text."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from patentft.report.metrics import Metrics, Value

MINUS = "\u2212"


class Safe(str):
    """Markup, to be taken as it is. Only `h`, `join` and our own figures make it."""


_VOID = {"br", "meta", "hr"}


def h(tag: str, *children: Any, **attributes: Any) -> Safe:
    """<tag attributes>children</tag>: every child that is not Safe, and every attribute, is escaped; None is left out.

    `class_` is class; an attribute that is True stands alone, one that is None or False is left out.
    """
    text = ""
    for name, value in attributes.items():
        if value is not None and value is not False:
            name = name.rstrip("_").replace("_", "-")
            text += f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
    return Safe(f"<{tag}{text}>" if tag in _VOID else f"<{tag}{text}>{join(children)}</{tag}>")


def join(children: Iterable[Any], between: str = "") -> Safe:
    """Children one after the other, escaped unless Safe."""
    kept = (child for child in children if child is not None)
    return Safe(between.join(child if isinstance(child, Safe) else html.escape(str(child)) for child in kept))


def number(value: Any) -> str:
    """A count with thousands commas, a fraction with three places, anything else as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    if isinstance(value, int) or (abs(value) >= 1000 and value == int(value)):
        text = f"{int(value):,}"
    elif value != 0 and abs(value) < 0.001:
        text = f"{value:.4f}" if abs(value) >= 0.0001 else f"{value:.0e}"
    else:
        text = f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}"
    return text.replace("-", MINUS)


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], notes: Sequence[str] = (), left: int = 1) -> Safe:
    """A table that scrolls sideways in its own box; the first `left` columns are text, the others figures."""

    def cells(tag: str, row: Sequence[Any]) -> Safe:
        return join(h(tag, cell, class_=None if i < left else "n") for i, cell in enumerate(row))

    body = h("tbody", join(h("tr", cells("td", row)) for row in rows))
    grid = h("table", h("thead", h("tr", cells("th", head))), body)
    listed = h("ol", *(h("li", note) for note in notes), class_="notes") if notes else None
    return join([h("div", grid, class_="scroll", tabindex="0"), listed])


class Notes:
    """Collects why figures are not defined, so that a table shows a mark and the reasons stand below it."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.reasons: list[str] = []

    def mark(self, reason: Value) -> Safe:
        text = str(reason or "no reason was recorded")
        if text not in self.reasons:
            self.reasons.append(text)
        return h("sup", self.reasons.index(text) + 1)

    def cell(self, key: str, signed: bool = False, marked: bool = True) -> Safe:
        """The figure under `key` with its interval below, or "not defined"; `marked` with the number of the reason."""
        m, mark = self.metrics, self.mark if marked else lambda _: None
        if key not in m:
            return h("span", "-", class_="muted")
        value, reason = m[key], m.get(f"{key}.not_defined")
        if value is None:
            return join([h("span", "not defined", class_="muted"), mark(reason)])
        low, high = m.get(f"{key}.low"), m.get(f"{key}.high")
        ends = (
            h("span", f"{number(low)} to {number(high)}", class_="ci") if low is not None and high is not None else None
        )
        shown = f"+{number(value)}" if signed and isinstance(value, float) and value > 0 else number(value)
        return join([shown, mark(reason) if reason else None, ends])


def nested(value: Any) -> Safe:
    """A mapping as a table of its keys, mappings and lists of mappings inside it as tables again."""
    if isinstance(value, Mapping):
        if not value:
            return h("span", "none", class_="muted")
        rows = join(h("tr", h("th", key, scope="row"), h("td", nested(inner))) for key, inner in value.items())
        return h("table", h("tbody", rows), class_="nested")
    if isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
        return nested({str(i): inner for i, inner in enumerate(value)})
    if isinstance(value, list | tuple):
        return join([", ".join(number(inner) for inner in value) or "none"])
    return join([number(value)])
