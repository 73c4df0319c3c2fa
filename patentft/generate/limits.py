"""What keeps an endpoint's clients within its rate limit and its user's money. Threads share one of each.

Time is injected: `clock` gives seconds, `sleep` waits for some.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from patentft.config import ConfigError

MINUTE = 60.0


@dataclass
class _Begun:
    at: float
    tokens: int


class RateLimit:
    """At most so many requests, and so many tokens, begun in any span of 60 seconds; None: no limit."""

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.requests, self.tokens, self._clock, self._sleep = requests_per_minute, tokens_per_minute, clock, sleep
        self._begun: deque[_Begun] = deque()
        self._lock = threading.Lock()

    def wait(self, tokens: int) -> Callable[[int], None]:
        """Returns when a request of about `tokens` may begin; the function returned is told how many they were.

        Raises ConfigError for a request that would never be let through.
        """
        if self.tokens is not None and tokens > self.tokens:
            raise ConfigError(
                f"a request may take {tokens:,} tokens, but tokens_per_minute is {self.tokens:,}: raise it, or lower "
                f"max_new_tokens"
            )
        while True:
            with self._lock:
                seconds = self._seconds_to_wait(tokens)
                if seconds <= 0:
                    begun = _Begun(self._clock(), tokens)
                    self._begun.append(begun)
                    return lambda actual: setattr(begun, "tokens", actual)
            self._sleep(seconds)

    def _seconds_to_wait(self, tokens: int) -> float:
        now = self._clock()
        while self._begun and self._begun[0].at <= now - MINUTE:
            self._begun.popleft()
        requests, total = len(self._begun), sum(begun.tokens for begun in self._begun)
        for begun in [None, *self._begun]:  # the oldest leave the span first
            if begun is not None:
                requests, total = requests - 1, total - begun.tokens
            few = self.requests is None or requests < self.requests
            if few and (self.tokens is None or total + tokens <= self.tokens):
                # a hair more than the difference: rounding must not leave it in the span
                return 0.0 if begun is None else begun.at + MINUTE - now + 1e-6
        raise AssertionError("a request that fits into an empty minute was not let through")


class CostCapReached(ConfigError):
    """The next request could cost more than is left."""


class Budget:
    """Money in the currency of the prices, which are per million tokens; without a cap it only adds up.

    A request is let through when all that it can cost at most, and all that those on their way can, is left. So the cap
    is never crossed, whatever the answers' lengths.
    """

    def __init__(self, cap: float | None, prompt_price: float, answer_price: float) -> None:
        self.cap, self.prompt_price, self.answer_price = cap, prompt_price, answer_price
        self.spent = 0.0
        self._reserved = 0.0
        self._changed = threading.Condition()

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float:
        return (prompt_tokens * self.prompt_price + answer_tokens * self.answer_price) / 1e6

    def reserve(self, most: float) -> None:
        """Returns when `most` is set aside; it waits where requests on their way may turn out cheaper.

        Raises CostCapReached when it is not to be had.
        """
        with self._changed:
            while self.cap is not None and self.spent + self._reserved + most > self.cap:
                if self._reserved <= 1e-12:
                    raise CostCapReached(
                        f"{self.spent:.4f} is spent, and the next request could cost {most:.4f}: more than cost_cap, "
                        f"{self.cap:g}; raise cost_cap and run again: what has been answered is not asked again"
                    )
                self._changed.wait()
            self._reserved += most

    def settle(self, most: float, actual: float) -> None:
        """A request for which `most` was reserved has cost `actual`."""
        with self._changed:
            self._reserved -= most
            self.spent += actual
            self._changed.notify_all()
