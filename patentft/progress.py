"""What the user sees while something runs: lines always, bars only on a terminal, nothing under --quiet."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
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

    def bar(self, items: Iterable[T], total: int | None, label: str) -> Iterator[T]:
        """Iterate with a bar on a terminal; otherwise a line at every tenth of the way (total None, when nobody knows
        how many there are: at every tenth item).
        """
        if self.quiet:
            yield from items
        elif sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import track

            yield from track(items, description=label, total=total, console=Console(stderr=True))
        else:
            told = 0
            for done, item in enumerate(items, start=1):
                yield item
                if total is None:
                    if done % 10 == 0:
                        self.say(f"  {label}: {done:,}")
                elif done * 10 // max(total, 1) > told:
                    told = done * 10 // max(total, 1)
                    self.say(f"  {label}: {done:,} of {total:,}")
