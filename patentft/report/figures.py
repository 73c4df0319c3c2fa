"""Figures as inline SVG that a page can colour: text stays text, colours are CSS variables, light and dark alike.

matplotlib draws with stand-in colours; `render` replaces each by `var(--name)`, which the page's style sheet defines
twice (prefers-color-scheme). Figures are drawn about as wide as a phone, so that their text stays readable there.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from patentft.report.evaluate import Band
from patentft.report.metrics import SYSTEMS
from patentft.report.ranks import Floats
from patentft.stats import ReliabilityBins

WIDTH = 4.6  # inches; 331 points: text of 9.5 points is 10 pixels on a phone of 390, more on a desk
COLOURS = {
    "ink": "#0a0b01",
    "muted": "#0a0b02",
    "rule": "#0a0b03",
    "series-1": "#0a0b11",
    "series-2": "#0a0b12",
    "series-3": "#0a0b13",
    "series-4": "#0a0b14",
}
"""CSS variable -> the stand-in that matplotlib draws with."""
INK, MUTED, RULE = (COLOURS[name] for name in ("ink", "muted", "rule"))
SERIES = tuple(COLOURS[f"series-{i}"] for i in (1, 2, 3, 4))
MARKERS = ("^", "o", "s", "D")  # shape as well as colour tells the series apart
GREY, BLUE, ORANGE = 1, 2, 3  # places in SERIES: of a system as in SYSTEMS, so that each keeps its colour throughout
_RC: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a stage may be called "$x$"
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Dot:
    """A point with its interval, for `dots`; `low` and `high` are None where there is no interval."""

    row: str
    series: int  # place in SERIES
    value: float
    low: float | None
    high: float | None


def render(figure: Figure, alt: str, name: str) -> str:
    """The figure as one inline <svg>: `alt` is its text for those who do not see it, `name` makes its ids unique."""
    buffer = io.StringIO()
    with rc_context({**_RC, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    text = re.sub(r"(font: [^;\"]*?\dpx) [^;\"]*", r"\1 system-ui, sans-serif", text)
    for variable, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{variable})")
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"', 1)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    handles, labels = axes.get_legend_handles_labels()
    style: Any = {"handletextpad": 0.3, "columnspacing": 1.0, "handlelength": 1.6, "borderpad": 0.1}
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, **style)


def dots(points: Sequence[Dot], series: Mapping[int, str], label: str, alt: str, name: str, zero: bool = False) -> str:
    """Rows of dots with their intervals, the series (place in SERIES -> label) side by side in the given order.

    `zero` draws the line of no difference.
    """
    rows = list(dict.fromkeys(point.row for point in points))
    used = [index for index in series if any(point.series == index for point in points)]
    with rc_context(_RC):
        figure, axes = _figure(0.95 + (0.12 + 0.16 * len(used)) * len(rows))
        if zero:
            axes.axvline(0, color=INK, linewidth=0.9)
        for order, index in enumerate(used):
            own = [point for point in points if point.series == index]
            y = [rows.index(point.row) + (order - (len(used) - 1) / 2) * min(0.24, 0.72 / len(used)) for point in own]
            colour = SERIES[index]
            for at, point in zip(y, own, strict=True):
                if point.low is not None and point.high is not None:
                    axes.plot([point.low, point.high], [at, at], color=colour, linewidth=1.6, solid_capstyle="butt")
            x = [point.value for point in own]
            axes.plot(x, y, MARKERS[index], color=colour, markersize=4.6, label=series[index], linestyle="none")
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(label)
        words = [series[index] for index in used]
        _legend(figure, axes, 3 if sum(map(len, words)) < 45 else 2 if max(map(len, words)) < 26 else 1)
    return render(figure, alt, name)


def recall_curve(curves: Mapping[str, tuple[Floats, Floats]], top_k: int | None, alt: str, name: str) -> str:
    """Share of known matches among the first k of their technique, by k (log scale)."""
    with rc_context(_RC):
        figure, axes = _figure(3.0)
        for system, (ks, share) in curves.items():
            colour = SERIES[list(SYSTEMS).index(system)]
            axes.plot(ks, share, color=colour, linewidth=1.6, label=SYSTEMS[system], drawstyle="steps-post")
        if top_k:
            axes.axvline(top_k, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label=f"candidates kept: {top_k:,}")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_minor_formatter(lambda *_: "")
        axes.set(xlabel="first k patents of a technique (log scale)", ylabel="share of known matches", ylim=(0, 1.02))
        _legend(figure, axes, 2)
    return render(figure, alt, name)


def curve(band: Band, kind: str, prevalence: float | None, alt: str, name: str) -> str:
    """A ROC or precision-recall curve with its band. `kind`: roc or precision_recall."""
    with rc_context(_RC):
        figure, axes = _figure(3.1)
        axes.fill_between(
            band.x, band.low, band.high, color=SERIES[ORANGE], alpha=0.2, linewidth=0, label="95 % interval"
        )
        axes.plot(band.x, band.y, color=SERIES[ORANGE], linewidth=1.7, label="scorer")
        if kind == "roc":
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label="chance")
            axes.set(xlabel="false positive rate", ylabel="true positive rate")
        else:
            if prevalence is not None:
                label = f"share {prevalence:.2g}"
                axes.axhline(prevalence, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label=label)
            axes.set(xlabel="recall", ylabel="precision")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        _legend(figure, axes)
    return render(figure, alt, name)


def reliability(bins: Mapping[str, ReliabilityBins], alt: str, name: str) -> str:
    """Mean P(yes) against the share of known matches with Wilson intervals; below, how many pairs each bin holds."""
    with rc_context(_RC):
        figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
        axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label="perfect")
        for when, index, offset in (("before", GREY, -0.011), ("after", ORANGE, 0.011)):
            if when not in bins:
                continue
            found = bins[when]
            full = found.count > 0
            x, y = found.mean_probability[full], found.fraction_positive[full]
            axes.vlines(x, found.low[full], found.high[full], color=SERIES[index], linewidth=1.4)
            style = {"markersize": 4.4, "linewidth": 0.9, "marker": MARKERS[index], "color": SERIES[index]}
            axes.plot(x, y, label=when, **style)
            centre = (found.lower + found.upper) / 2
            counts.bar(centre[full] + offset, found.count[full], width=0.02, color=SERIES[index], linewidth=0)
        axes.set(ylabel="share of known matches", ylim=(-0.02, 1.02), xlim=(-0.02, 1.02))
        counts.set_yscale("log")
        counts.set(xlabel="P(yes), 15 bins", ylabel="pairs")
        counts.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
        counts.yaxis.set_minor_formatter(lambda *_: "")
        _legend(figure, axes)
    return render(figure, alt, name)


def swap(drop: Floats, labels: NDArray[np.bool_], alt: str, name: str) -> str:
    """How the log-odds change when the section is swapped: known matches and other pairs, each as shares."""
    with rc_context(_RC):
        figure, axes = _figure(2.6)
        low, high = min(0.0, float(drop.min())), max(0.0, float(drop.max()))
        edges = np.linspace(low, high if high > low else low + 1, 31)
        for index, mask, label in ((GREY, ~labels, "other pairs"), (ORANGE, labels, "known matches")):
            if mask.any():
                heights = np.histogram(drop[mask], edges)[0] / mask.sum()
                axes.stairs(heights, edges, color=SERIES[index], fill=True, alpha=0.3)
                axes.stairs(heights, edges, color=SERIES[index], linewidth=1.4, label=f"{label} ({mask.sum():,})")
        axes.axvline(0, color=INK, linewidth=0.9)
        axes.set(xlabel="log-odds with the own section, less with another's", ylabel="share of pairs")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        _legend(figure, axes, 2)
    return render(figure, alt, name)


def bars(values: Mapping[str, float], label: str, alt: str, name: str, decimals: int = 1) -> str:
    """Horizontal bars with their values written at the end (seconds per stage)."""
    with rc_context(_RC):
        figure, axes = _figure(0.6 + 0.24 * len(values))
        axes.barh(range(len(values)), list(values.values()), color=SERIES[BLUE], height=0.62)
        for at, value in enumerate(values.values()):
            text = f"{value:,.{decimals}f}"
            axes.annotate(text, (value, at), xytext=(3, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.margins(x=0.14)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(label)
    return render(figure, alt, name)


def lengths(
    values: NDArray[np.int64], counts: NDArray[np.int64], marks: Mapping[str, float], label: str, alt: str, name: str
) -> str:
    """How many texts have which length (log scale). values, counts (n,); marks: where a line is drawn."""
    with rc_context(_RC):
        figure, axes = _figure(2.5)
        low, high = max(1, int(values[0])), max(2, int(values[-1]))
        edges = np.unique(np.round(np.geomspace(low, high + 1, 50)))  # whole numbers: no bin that none can fall into
        heights, _ = np.histogram(np.maximum(values, 1), edges, weights=counts)
        widths = np.diff(edges)
        axes.stairs(heights / widths, edges, color=SERIES[BLUE], fill=True, alpha=0.3)
        axes.stairs(heights / widths, edges, color=SERIES[BLUE], linewidth=1.3)
        dashes = (0, (4, 3)), (0, (1, 2)), "-"
        for index, (text, at) in enumerate(marks.items()):
            colour = SERIES[ORANGE] if index == 2 else MUTED
            axes.axvline(at, color=colour, linewidth=1.1, linestyle=dashes[index % 3], label=text)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_minor_formatter(lambda *_: "")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:g}")
        axes.set(xlabel=f"{label} (log scale)", ylabel="texts of each length")
        _legend(figure, axes)
    return render(figure, alt, name)


def columns(whole: Mapping[str, int], part: Mapping[str, int], names: tuple[str, str], alt: str, name: str) -> str:
    """A bar per key (year, section), the part of it that is of a kind (green) in another colour at its foot."""
    with rc_context(_RC):
        figure, axes = _figure(2.5)
        at = range(len(whole))
        axes.bar(at, list(whole.values()), color=SERIES[GREY], alpha=0.55, width=0.78, label=names[0])
        if part:
            axes.bar(at, [part.get(key, 0) for key in whole], color=SERIES[BLUE], width=0.78, label=names[1])
        step = max(1, -(-len(whole) // 12))
        axes.set_xticks(at[::step], list(whole)[::step])
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylabel("rows")
        _legend(figure, axes)
    return render(figure, alt, name)
