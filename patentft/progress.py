"""What the user sees while something runs: lines always, bars only on a terminal, nothing under --quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """Writes to standard error, so that a command's result on standard output can be piped."""

    quiet: bool = False

    def say(self, line: str) -> None:
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)

    def warn(self, line: str) -> None:
        """Shown even under --quiet: something the user should know."""
        print(f"warning: {line}", file=sys.stderr, flush=True)

    def bar(
        self, items: Iterable[T], total: int | None, label: str, note: Callable[[], str] = lambda: ""
    ) -> Iterator[T]:
        """Iterate with a bar on a terminal; otherwise a line at every tenth of the way (total None, when nobody knows
        how many there are: at every tenth item). note: asked for what else to show beside how many are done.
        """
        if self.quiet:
            yield from items
        elif sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bars

            with Bars(*Bars.get_default_columns(), "{task.fields[note]}", console=Console(stderr=True)) as bars:
                task = bars.add_task(label, total=total, note="")
                for item in items:
                    yield item
                    bars.update(task, advance=1, note=note())
        else:
            told = 0
            for done, item in enumerate(items, start=1):
                yield item
                if total is None:
                    if done % 10 == 0:
                        self.say(f"  {label}: {done:,}{_after_comma(note())}")
                elif done * 10 // max(total, 1) > told:
                    told = done * 10 // max(total, 1)
                    self.say(f"  {label}: {done:,} of {total:,}{_after_comma(note())}")


def _after_comma(text: str) -> str:
    return f", {text}" if text else ""


def duration(seconds: float) -> str:
    """ "40 s", "12 min", "3 h 20 min", "5 d 4 h": for a person who waits."""
    minutes = round(seconds / 60)
    if seconds < 99:
        return f"{seconds:.0f} s"
    if minutes < 99:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24:,} d {hours % 24} h"
