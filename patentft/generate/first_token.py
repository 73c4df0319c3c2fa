"""Yes or no out of the likeliest first tokens of an answer. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping


def yes_no_log_odds(first: Mapping[str, float]) -> float | None:
    """log P(yes) - log P(no) out of {text of a token: natural log of its probability}.

    "Yes", " yes" and "YES" count together. Where only one of the two is listed, the other is taken to be as likely as
    the least likely token that is: its probability is no greater, so the log-odds are nearer to 0 than they should be.
    None when neither is listed: the model does not answer yes or no.
    """
    found = {word: _sum([p for token, p in first.items() if _plain(token) == word]) for word in ("yes", "no")}
    if max(found.values()) == -math.inf:
        return None
    least = min(first.values())
    yes, no = (value if value > -math.inf else least for value in (found["yes"], found["no"]))
    return yes - no


def _plain(token: str) -> str:
    return token.strip(" \t\n\"'.*▁Ġ").casefold()


def _sum(logs: list[float]) -> float:
    top = max(logs, default=-math.inf)
    return top if top == -math.inf else top + math.log(sum(math.exp(value - top) for value in logs))
