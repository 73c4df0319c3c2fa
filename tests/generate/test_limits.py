"""The rate limit against every span of a minute, the budget against whatever answers cost."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft.config import ConfigError
from patentft.generate.first_token import yes_no_log_odds
from patentft.generate.limits import Budget, CostCapReached, RateLimit


class Time:
    """Seconds that pass only while somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 1000.0, []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 20)), min_size=1, max_size=60),
    st.none() | st.integers(1, 7),
    st.none() | st.integers(50, 120),
)
def test_no_span_of_a_minute_holds_more(asked, requests, tokens):
    time = Time()
    limit = RateLimit(requests, tokens, time.clock, time.sleep)
    begun = []
    for count, pause in asked:
        time.now += pause
        limit.wait(count)
        begun.append((time.now, count))
    for start, _ in begun:
        inside = [count for at, count in begun if start <= at < start + 60]
        assert requests is None or len(inside) <= requests
        assert tokens is None or sum(inside) <= tokens


def test_a_wait_is_no_longer_than_it_must_be_and_what_was_really_taken_counts():
    time = Time()
    limit = RateLimit(None, 100, time.clock, time.sleep)
    took = limit.wait(90)
    took(20)
    limit.wait(80)
    assert time.slept == []
    limit.wait(20)  # the first leaves after 60 s
    assert sum(time.slept) == pytest.approx(60)
    with pytest.raises(ConfigError, match="may take 101 tokens, but tokens_per_minute is 100"):
        limit.wait(101)


def test_money_is_never_spent_beyond_the_cap():
    budget = Budget(1.0, prompt_price=1e5, answer_price=4e5)
    assert budget.cost(1, 1) == pytest.approx(0.5)
    budget.reserve(0.6)
    budget.settle(0.6, 0.2)
    budget.reserve(0.8)
    budget.settle(0.8, 0.7)
    with pytest.raises(CostCapReached, match=r"0\.9000 is spent, and the next request could cost 0\.2000"):
        budget.reserve(0.2)


def test_a_request_waits_for_those_that_may_turn_out_cheaper():
    budget = Budget(1.0, 1.0, 1.0)
    budget.reserve(0.9)
    waiting = threading.Thread(target=budget.reserve, args=(0.5,))
    waiting.start()
    budget.settle(0.9, 0.1)
    waiting.join(10)
    assert not waiting.is_alive()


def test_yes_or_no_out_of_the_first_tokens():
    first = {"Yes": math.log(0.5), " yes": math.log(0.1), "No": math.log(0.2), "The": math.log(0.05)}
    assert yes_no_log_odds(first) == pytest.approx(math.log(0.6 / 0.2))
    del first["No"]  # no likelier than the least that is listed
    assert yes_no_log_odds(first) == pytest.approx(math.log(0.6 / 0.05))
    assert yes_no_log_odds({"The": -0.1, "Well": -3.0}) is None
