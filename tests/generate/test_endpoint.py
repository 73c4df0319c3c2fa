"""The endpoint's client against a real HTTP server on loopback that answers as it is told. No test sleeps."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from patentft.config import ConfigError, build, content
from patentft.generate.cache import AnswerCache
from patentft.generate.chat import Chat
from patentft.generate.endpoint import Endpoint, EndpointConfig, retry_after
from patentft.generate.first_token import yes_no_log_odds
from patentft.generate.interface import Interrupted, Settings
from patentft.location import Location
from tests.generate.test_limits import Time

KEY = "sk-test-4711-secret"
Reply = tuple[int, dict[str, str], Any]


def completion(text: str, prompt: int = 10, answer: int = 2, **choice: Any) -> Reply:
    choices = [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **choice}]
    return 200, {}, {"choices": choices, "usage": {"prompt_tokens": prompt, "completion_tokens": answer}}


class Server(ThreadingHTTPServer):
    """Gives `reply(body, how many came before)` to each request, which it keeps."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Callable[[dict, int], Reply] = lambda body, number: completion("yes")
        self.requests: list[tuple[str, dict[str, str], dict]] = []
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            number = len(server.requests)
            server.requests.append((self.path, {name.lower(): text for name, text in self.headers.items()}, body))
        status, headers, answer = server.reply(body, number)
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("EXAMPLE_KEY", KEY)
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def endpoint(server: Server, clock: Time | None = None, **values: Any) -> Endpoint:
    address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    given = {"base_url": address, "model": "judge", "key_variable": "EXAMPLE_KEY", "concurrency": 1, **values}
    passing = clock or Time()
    return Endpoint(build(EndpointConfig, given), passing.clock, passing.sleep)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_what_is_sent_and_what_comes_back(server):
    top = [{"token": "Yes", "logprob": -0.1}, {"token": " yes", "logprob": -3.0}, {"token": "No", "logprob": -2.5}]
    server.reply = lambda body, number: completion("Yes ", 17, 3, logprobs={"content": [{"top_logprobs": top}]})
    asked = endpoint(server, extra={"reasoning_effort": "none"})
    answer = Chat(asked, Settings(max_new_tokens=9, first_token_logprobs=5)).chat(user("Does it help? ü"))
    assert (answer.text, answer.prompt_tokens, answer.answer_tokens, answer.finished) == ("Yes", 17, 3, True)
    assert yes_no_log_odds(answer.first_token or {}) == pytest.approx(2.4537, abs=1e-3)
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {KEY}"
    expected = {"model": "judge", "messages": user("Does it help? ü"), "max_tokens": 9, "temperature": 0.0}
    assert body == {**expected, "logprobs": True, "top_logprobs": 5, "reasoning_effort": "none"}


def test_429_then_success_waits_as_long_as_it_is_told(server):
    replies = [
        (429, {"Retry-After": "7"}, {"error": "slow down"}),
        (503, {"Retry-After": "soon"}, "busy"),
        (500, {}, "oops"),
        completion("yes"),
    ]
    server.reply = lambda body, number: replies[number]
    clock = Time()
    assert Chat(endpoint(server, clock), Settings()).chat(user("a")).text == "yes"
    assert clock.slept[0] == 7
    assert [0.5 <= wait / 2**n <= 1 for n, wait in enumerate(clock.slept)][1:] == [True] * 2  # no number: as usual


def test_a_date_to_wait_for_counts_from_the_servers_own_clock():
    dates = {"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert retry_after(dates) == 30
    assert retry_after({"retry-after": "-3"}) == 0
    assert retry_after({"retry-after": dates["retry-after"]}) is None
    assert retry_after({}) is None


def test_500_forever_stops_after_the_tries_there_are(server):
    server.reply = lambda body, number: (500, {}, "oops")
    clock = Time()
    with pytest.raises(ConfigError, match=r"conversation 0: HTTP 500: 'oops', 4 times; run again later"):
        Chat(endpoint(server, clock, retries=3), Settings()).chat(user("a"))
    assert len(server.requests) == 4
    assert [0.5 <= wait / 2**n <= 1 for n, wait in enumerate(clock.slept)] == [True] * 3


def test_a_wait_beyond_the_longest_ends_the_run(server):
    server.reply = lambda body, number: (429, {"Retry-After": "3600"}, "quota")
    with pytest.raises(ConfigError, match=r"HTTP 429: 'quota'; it asks to wait 3600 s, and max_wait_seconds is 120"):
        Chat(endpoint(server), Settings()).chat(user("a"))
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", ["{not json", "[]", {"choices": []}, {"choices": [{"message": {"content": "x"}}]}])
def test_what_is_no_completion_is_asked_for_again(server, body):
    server.reply = lambda _, number: completion("yes") if number else (200, {}, body)
    assert Chat(endpoint(server), Settings()).chat(user("a")).text == "yes"
    server.reply = lambda _, number: (200, {}, body)
    with pytest.raises(ConfigError, match="no chat completion with its usage"):
        Chat(endpoint(server, retries=1), Settings()).chat(user("a"))
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_names_its_variable_and_is_nowhere(server, status, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    server.reply = lambda body, number: (status, {}, {"error": f"Incorrect API key provided: {KEY}"})
    asked = endpoint(server)
    message = rf"refuses the key \(HTTP {status}\): set the environment variable EXAMPLE_KEY"
    with pytest.raises(ConfigError, match=message) as e:
        Chat(asked, Settings(), AnswerCache(Location(tmp_path))).chat(user("a"))
    assert len(server.requests) == 1
    said = [str(e.value), repr(e.value.__cause__), caplog.text, repr(asked), asked.identity, str(content(asked.config))]
    assert not any(KEY in text for text in [*said, asked.config.model_dump_json()])


def test_a_server_that_repeats_the_key_is_not_quoted_with_it(server, monkeypatch):
    server.reply = lambda body, number: (400, {}, f"bad request, Bearer {KEY}")
    with pytest.raises(ConfigError, match=r"conversation 0 was refused \(HTTP 400\): 'bad request, Bearer \*\*\*'"):
        Chat(endpoint(server), Settings()).chat(user("a"))
    monkeypatch.delenv("EXAMPLE_KEY")
    with pytest.raises(ConfigError, match=r"variable EXAMPLE_KEY .* is not set"):
        endpoint(server)
    monkeypatch.setenv("EXAMPLE_KEY", f"{KEY}\n\x07")
    with pytest.raises(ConfigError, match="no key") as error:
        endpoint(server)
    assert KEY not in str(error.value)


def test_no_answer_in_time_and_no_connection(server):
    hold = threading.Event()

    def reply(body: dict, number: int) -> Reply:
        hold.wait(10)
        return completion("late")

    server.reply = reply
    asked = endpoint(server, retries=1, timeout_seconds=0.05, cost_cap=9, prompt_price=1e4, answer_price=0)
    with pytest.raises(ConfigError, match=r"no answer in 0\.05 s \(timeout_seconds\), 2 times"):
        Chat(asked, Settings()).chat(user("a"))
    hold.set()
    assert asked.budget.spent == pytest.approx(2 * 65 * 1e4 / 1e6)  # it may have been charged for: the most it can be
    prices = {"prompt_price": 1.0, "answer_price": 1.0}
    gone = Endpoint(EndpointConfig(base_url="http://127.0.0.1:1/v1", model="m", retries=0, **prices))
    with pytest.raises(ConfigError, match="no connection"):
        Chat(gone, Settings()).chat(user("a"))
    assert gone.budget.spent == 0


def test_the_cap_is_kept_and_the_run_goes_on_from_the_cache(server, tmp_path):
    server.reply = lambda body, number: completion("yes", prompt=100, answer=10)
    # an answer costs .1 + .1; the most a request can is (1 byte + 64) * .001 + 50 * .01 = .565
    values: dict[str, Any] = {"prompt_price": 1000, "answer_price": 10_000, "cost_cap": 1.0}
    conversations = [user(str(number)) for number in range(5)]
    cache, few = AnswerCache(Location(tmp_path)), Settings(max_new_tokens=50)
    asked = endpoint(server, **values)
    message = r"0\.6000 is spent, and the next request could cost 0\.5650: .* raise cost_cap"
    with pytest.raises(Interrupted, match=message):
        Chat(asked, few, cache).chat_many(conversations)
    assert asked.budget.spent == pytest.approx(0.6)
    assert len(server.requests) == 3
    answers = Chat(endpoint(server, **values), few, cache).chat_many(conversations)
    assert [answer.cached for answer in answers] == [True] * 3 + [False] * 2
    assert len(server.requests) == 5
    again = Chat(endpoint(server, **{**values, "cost_cap": 0.01}), few, cache)
    assert all(answer.cached for answer in again.chat_many(conversations))  # a cache hit makes no request
    assert len(server.requests) == 5


def test_json_that_does_not_fit_is_asked_for_again(server):
    schema = {"type": "object", "required": ["answer"], "properties": {"answer": {"enum": ["yes", "no"]}}}
    server.reply = lambda body, number: completion(['{"answer": "maybe"}', '{"answer": "no"}'][number])
    answer = Chat(endpoint(server), Settings()).chat(user("a"), schema)
    assert (answer.value, answer.attempts) == ({"answer": "no"}, 2)
    assert "'maybe' is not one of" in server.requests[1][2]["messages"][-1]["content"]


def test_several_on_their_way_at_once_in_their_order(server):
    together = threading.Barrier(4, timeout=10)

    def reply(body: dict, number: int) -> Reply:
        together.wait()  # breaks unless four are there at once
        return completion(body["messages"][0]["content"] * 2)

    server.reply = reply
    answers = Chat(endpoint(server, concurrency=4), Settings()).chat_many([user(f"q{n}") for n in range(8)])
    assert [answer.text for answer in answers] == [f"q{n}q{n}" for n in range(8)]


def test_the_rate_limit_is_kept(server):
    clock = Time()
    started = time.monotonic()
    Chat(endpoint(server, clock, requests_per_minute=2), Settings()).chat_many([user(str(n)) for n in range(5)])
    assert sum(clock.slept) == pytest.approx(120, abs=1)
    assert time.monotonic() - started < 30


def test_no_logprobs_is_said(server):
    with pytest.raises(ConfigError, match="gives no logprobs"):
        Chat(endpoint(server), Settings(first_token_logprobs=5)).chat(user("a"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"key_variable": KEY}, "the name of an environment variable in capitals, not the key itself"),
        ({"base_url": f"https://me:{KEY}@host/v1"}, "without user, password or query"),
        ({"base_url": f"https://host/v1?key={KEY}"}, "without user, password or query"),
        ({"base_url": "host/v1"}, "expected an address such as"),
        ({"cost_cap": 1.0}, "cost_cap needs prompt_price and answer_price"),
        ({"extra": {"model": "x"}}, "extra sets model"),
    ],
)
def test_a_wrong_configuration_is_refused_and_no_key_is_repeated(values, message):
    with pytest.raises(ConfigError, match=message) as error:
        build(EndpointConfig, {"base_url": "https://host/v1", "model": "m", **values})
    assert KEY not in str(error.value)
