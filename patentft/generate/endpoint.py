"""An OpenAI-compatible endpoint as a `Generator`: one POST to <base_url>/chat/completions for each prompt.

    prompt --rate limit--> --cost cap--> request --200--> Completion
                 ^                          │ 408, 409, 429, 5xx, no connection, no answer in time, no JSON
                 └── wait: Retry-After, or 1, 2, 4, ... s ◄──┘ so often as `retries` says; all else is an error at once

The key comes from the environment variable that the configuration names. It is in no configuration, manifest, log or
error, what a server says included.
"""

from __future__ import annotations

import email.utils
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import numpy as np
from pydantic import field_validator, model_validator

from patentft.config import Config, ConfigError, runtime
from patentft.generate.interface import Completion, Interrupted, Prompt, Settings
from patentft.generate.limits import Budget, RateLimit

OURS = ("model", "messages", "stream", "n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "logprobs")
"""Keys of a request that `extra` may not set."""
TEMPLATE_TOKENS = 32
"""What a chat template adds to a message, at most."""
RETRIED = (408, 409, 429)
"""And 5xx."""


class EndpointConfig(Config):
    """Where a model is asked, with what key, how fast and for how much."""

    base_url: str
    """The address up to and with its version: https://api.example.com/v1."""
    model: str
    """The model's name there."""
    key_variable: str | None = runtime(None)
    """The name of the environment variable that holds the key, in capitals: EXAMPLE_API_KEY. Unset: no key is sent."""
    answer_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the most tokens of an answer."""
    extra: dict[str, Any] = {}
    """More keys of the request's body, such as what turns a model's reasoning off. No secrets: it is written down."""
    prompt_price: float | None = runtime(None, ge=0)
    """Per million tokens, in any currency."""
    answer_price: float | None = runtime(None, ge=0)
    """Per million tokens, in the same currency."""
    cost_cap: float | None = runtime(None, gt=0)
    """Most money that one run of a stage may spend. Needs the two prices."""
    requests_per_minute: int | None = runtime(None, ge=1)
    tokens_per_minute: int | None = runtime(None, ge=1)
    """Of prompts and answers together."""
    concurrency: int = runtime(4, ge=1)
    """Requests on their way at the same time."""
    timeout_seconds: float = runtime(120.0, gt=0)
    """How long an answer may take."""
    retries: int = runtime(6, ge=0)
    """How often a request is sent again before the run stops."""
    max_wait_seconds: float = runtime(120.0, gt=0)
    """The longest wait between two tries; a server that asks for a longer one ends the run."""

    # these two say nothing of what was given: it may be a key in the wrong place

    @field_validator("key_variable")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z][A-Z0-9_]{1,63}", value):
            raise ValueError("expected the name of an environment variable in capitals, not the key itself")
        return value

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:  # .port checks it
            raise ValueError("expected an address such as https://api.example.com/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("expected an address without user, password or query: name the key's variable instead")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _possible(self) -> EndpointConfig:
        if self.cost_cap is not None and (self.prompt_price is None or self.answer_price is None):
            raise ValueError("cost_cap needs prompt_price and answer_price (per million tokens)")
        ours = sorted(set(OURS) & self.extra.keys())
        if ours:
            raise ValueError(f"extra sets {', '.join(ours)}, which the settings do; take it out")
        return self


class Endpoint:
    """A client; it keeps its connections open until `close`. Threads may share it.

    clock: seconds, rising. sleep: waits for some. Raises ConfigError when the key's variable is not set.
    """

    def __init__(
        self,
        config: EndpointConfig,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.config, self._sleep = config, sleep
        self._key = _key(config.key_variable)
        self.budget = Budget(config.cost_cap, config.prompt_price or 0.0, config.answer_price or 0.0)
        self._rate = RateLimit(config.requests_per_minute, config.tokens_per_minute, clock, sleep)
        self._client = httpx.Client(timeout=config.timeout_seconds, limits=httpx.Limits(max_connections=None))
        self.requests = 0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Endpoint({self.config.base_url}, {self.config.model})"

    def close(self) -> None:
        self._client.close()

    @property
    def identity(self) -> str:
        said = {name: getattr(self.config, name) for name in ("base_url", "model", "answer_limit", "extra")}
        return json.dumps(said, sort_keys=True)

    def generate(self, prompts: Sequence[Prompt], settings: Settings) -> list[Completion]:
        """Raises Interrupted, with the completions there are, when a prompt is refused, the tries or the money end."""
        found: dict[int, Completion] = {}
        errors: list[ConfigError] = []
        stopped = threading.Event()

        def ask(index: int) -> None:
            try:
                if not stopped.is_set():
                    completion = self._ask(prompts[index], settings, stopped)
                    if completion is not None:
                        found[index] = completion
            except ConfigError as error:
                errors.append(error)
                stopped.set()
            except BaseException:
                stopped.set()
                raise

        with ThreadPoolExecutor(self.config.concurrency) as pool:
            waiting = [pool.submit(ask, index) for index in range(len(prompts))]
        for future in waiting:
            future.result()
        if errors:
            raise Interrupted(str(errors[0]), found) from errors[0]
        return [found[index] for index in range(len(prompts))]

    def _ask(self, prompt: Prompt, settings: Settings, stopped: threading.Event) -> Completion | None:
        """None when another prompt's error stopped the run meanwhile."""
        body = self._body(prompt, settings)
        text_bytes = sum(len(message["content"].encode()) for message in prompt.messages)
        template_tokens = TEMPLATE_TOKENS * (len(prompt.messages) + 1)
        # no token is shorter than a byte, so no prompt has more tokens than this; most have a quarter
        most = self.budget.cost(text_bytes + template_tokens, settings.max_new_tokens)
        likely_tokens = text_bytes // 3 + template_tokens + settings.max_new_tokens
        jitter = random.Random(f"{prompt.name} {prompt.attempt}")
        for attempt in range(self.config.retries + 1):
            if stopped.is_set():
                return None
            took = self._rate.wait(likely_tokens)
            self.budget.reserve(most)
            cost = most  # unless the answer says better: what broke off may have been charged for
            try:
                response, problem, was_sent = self._post(body)
                if not was_sent:
                    cost = 0.0
                if response is not None and response.status_code != 200:
                    cost = 0.0
                    problem = self._refused(response, prompt)
                elif response is not None:
                    read = self._read(response, settings)
                    if isinstance(read, Completion):
                        cost = self.budget.cost(read.prompt_tokens, read.answer_tokens)
                        took(read.prompt_tokens + read.answer_tokens)
                        return read
                    problem = read
            finally:
                self.budget.settle(most, cost)
            if attempt < self.config.retries:
                self._sleep(self._seconds_to_wait(response, attempt, jitter, problem))
        raise ConfigError(f"{self._name()}: {prompt.name}: {problem}, {self.config.retries + 1} times; run again later")

    def _body(self, prompt: Prompt, settings: Settings) -> bytes:
        body: dict[str, Any] = {
            **self.config.extra,
            "model": self.config.model,
            "messages": [dict(message) for message in prompt.messages],
            self.config.answer_limit: settings.max_new_tokens,
            "temperature": settings.temperature,
        }
        if settings.temperature > 0:
            body |= {"top_p": settings.top_p, "seed": settings.seed + prompt.attempt}
        if settings.first_token_logprobs:
            body |= {"logprobs": True, "top_logprobs": settings.first_token_logprobs}
        return json.dumps(body, ensure_ascii=False).encode()

    def _post(self, body: bytes) -> tuple[httpx.Response | None, str, bool]:
        """(the response or None, why there is none, whether the request may have reached the server)."""
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        with self._lock:
            self.requests += 1
        try:
            address = f"{self.config.base_url}/chat/completions"
            return self._client.post(address, content=body, headers=headers), "", True
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return None, self._without_key(f"no connection ({type(error).__name__}: {error})"), False
        except httpx.TimeoutException:
            return None, f"no answer in {self.config.timeout_seconds:g} s (timeout_seconds)", True
        except httpx.RequestError as error:
            return None, self._without_key(f"the connection broke ({type(error).__name__}: {error})"), True

    def _refused(self, response: httpx.Response, prompt: Prompt) -> str:
        """What to say of a status that is worth another try. Raises ConfigError for one that is not."""
        status = response.status_code
        if status in (401, 403):  # what the server says is not quoted: some repeat the key, or most of it
            variable = self.config.key_variable
            remedy = "name the environment variable that holds the key in key_variable"
            if variable:
                remedy = f"set the environment variable {variable} to a key that is good there"
            raise ConfigError(f"{self._name()} refuses the key (HTTP {status}): {remedy}")
        said = self._without_key(response.text)[:300]
        if status in RETRIED or status >= 500:
            return f"HTTP {status}: {said!r}"
        raise ConfigError(f"{self._name()}: {prompt.name} was refused (HTTP {status}): {said!r}")

    def _read(self, response: httpx.Response, settings: Settings) -> Completion | str:
        """The completion, or what is wrong with the response. Raises ConfigError when it lacks the logprobs."""
        try:
            body = response.json()
            choice = body["choices"][0]
            completion = Completion(
                text=(choice["message"]["content"] or "").strip(),
                prompt_tokens=int(body["usage"]["prompt_tokens"]),
                answer_tokens=int(body["usage"]["completion_tokens"]),
                finished=choice.get("finish_reason") != "length",
                first_token=_first_token(choice) if settings.first_token_logprobs else None,
            )
        except _NoLogprobs:
            raise ConfigError(
                f"{self._name()} gives no logprobs: choose a model that does, or do without them "
                f"(first_token_logprobs: 0)"
            ) from None
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return f"no chat completion with its usage: {self._without_key(response.text)[:300]!r}"
        return completion

    def _seconds_to_wait(
        self, response: httpx.Response | None, attempt: int, jitter: random.Random, problem: str
    ) -> float:
        asked = retry_after(response.headers) if response is not None else None
        if asked is None:
            return min(2.0**attempt, self.config.max_wait_seconds) * (0.5 + 0.5 * jitter.random())
        if asked > self.config.max_wait_seconds:
            raise ConfigError(
                f"{self._name()}: {problem}; it asks to wait {asked:g} s, and max_wait_seconds is "
                f"{self.config.max_wait_seconds:g}: run again later"
            )
        return asked

    def _name(self) -> str:
        return f"endpoint {self.config.base_url}, model {self.config.model}"

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class _NoLogprobs(Exception):
    pass


def _first_token(choice: Mapping[str, Any]) -> dict[str, float]:
    """{token: natural log of its probability} of the likeliest first tokens; those of one text are added up."""
    listed = (choice.get("logprobs") or {}).get("content")
    if listed is None:
        raise _NoLogprobs
    found: dict[str, float] = {}
    for top in listed[0]["top_logprobs"] if listed else []:
        text, value = top["token"], float(top["logprob"])
        found[text] = float(np.logaddexp(found[text], value)) if text in found else value
    return found


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"the environment variable {variable} (key_variable) is not set: put the key into it")
    if not key.isascii() or not key.isprintable() or " " in key:  # an HTTP header's error would quote it
        raise ConfigError(
            f"the environment variable {variable} (key_variable) holds what is no key: it has characters that no "
            f"header may have"
        )
    return key


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; a date counts from the server's own Date, so that its clock and ours may differ."""
    asked = headers.get("retry-after")
    if asked is None:
        return None
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        then, now = (email.utils.parsedate_to_datetime(text) for text in (asked, headers.get("date", "")))
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError):
        return None
