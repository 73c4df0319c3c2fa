"""A second, stronger model is asked about a sample of the scored pairs, and its answers say how good the scores are.

    SCORES --strata--> sample --prompts--> a local model or an endpoint, a part at a time --> VALIDATIONS
                                             answers are kept by content     └--> agreement, kappa, precision, recall

The model runs in this process: it is a sample. An endpoint's answers are paid for once: a run that stops, at the cost
cap or otherwise, goes on where it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, model_validator

from patentft import schema
from patentft.config import Config, ConfigError, runtime
from patentft.corpus.lookup import patent_texts
from patentft.corpus.text import technique_text
from patentft.generate.cache import AnswerCache
from patentft.generate.chat import Answer, Chat
from patentft.generate.endpoint import Endpoint, EndpointConfig
from patentft.generate.first_token import yes_no_log_odds
from patentft.generate.interface import Settings
from patentft.generate.local import load_local
from patentft.location import Location
from patentft.models.load import DType, fingerprint
from patentft.models.template import Message, PromptConfig
from patentft.objectives.prompts import Asked
from patentft.scoring.agreement import draw, estimates, quantile_edges, strata_of, weights_of
from patentft.stage import Context, ModelRef, Stage, StageRef
from patentft.store import StageFolder

QUESTION = (
    "Is the patent useful for the pollution abatement process that the section describes? Answer only Yes or No."
)
SYSTEM = "You are an engineer and an expert of environmental regulation."
JSON_ANSWER = {
    "type": "object",
    "properties": {"answer": {"enum": ["yes", "no"]}},
    "required": ["answer"],
}
PER_REQUEST = 16
"""Prompts for each of an endpoint's concurrent requests before the answers are stored."""


class ValidateConfig(Config):
    """Which pairs are asked about again, and who is asked. One of model and endpoint."""

    scores: StageRef
    """A score stage."""
    data: StageRef
    """The stage with the tables patents and techniques."""
    model: ModelRef | None = None
    """A decoder: a train stage, a folder or a hub id."""
    endpoint: EndpointConfig | None = None
    """An OpenAI-compatible endpoint."""
    role: str | None = None
    """Only pairs of this side of the split (valid, test); unset: all."""
    threshold: float | None = None
    """The scorer's yes: log-odds of this or more. Unset: the score stage's own threshold, on its probability."""
    quantiles: int = Field(default=5, ge=1)
    """Bins of the log-odds; each is one stratum, or two where it holds both yes and no."""
    per_stratum: int = Field(default=50, ge=1)
    """Pairs drawn of each stratum, all where there are no more."""
    every_yes: bool = False
    """All pairs of the scorer's yes are asked about."""
    seed: int = 0
    """Of the draws of pairs."""
    answer: Literal["text", "logprobs", "json"] = "text"
    """What counts as the answer: the first word, the sign of the first token's log-odds, or JSON of {"answer": ...}
    that is asked for again when it does not fit."""
    prompt: PromptConfig = PromptConfig(system=SYSTEM)
    question: str = QUESTION
    """What is asked, before the section and the patent."""
    text: list[Literal["title", "abstract", "claims", "first_claim"]] = ["title", "abstract"]
    """What is read of a patent."""
    section_characters: int = Field(default=8000, ge=1)
    """A longer section is cut at its end."""
    patent_characters: int = Field(default=4000, ge=1)
    settings: Settings = Settings(max_new_tokens=8)
    """How answers are written. With answer: json, more tokens are needed."""
    dtype: DType = "float32"
    """Arithmetic of a local model."""
    rows_per_part: int = Field(default=256, ge=1)
    device: Literal["cpu", "cuda"] = runtime("cpu")
    """Where a local model runs."""
    cache: str | None = runtime(None)
    """A folder of answers (a path or an fsspec URL), read first and added to. An endpoint needs one."""

    @model_validator(mode="after")
    def _possible(self) -> ValidateConfig:
        if (self.model is None) == (self.endpoint is None):
            raise ValueError("set one of model and endpoint")
        if self.endpoint is not None and self.cache is None:
            raise ValueError("an endpoint's answers are paid for: set cache to a folder that keeps them")
        if self.answer == "json" and self.settings.max_new_tokens < 16:
            raise ValueError(f"JSON does not fit into settings.max_new_tokens = {self.settings.max_new_tokens}: set 32")
        if self.endpoint is not None and self.prompt.template == "plain":
            raise ValueError("an endpoint writes its own chat template: leave prompt.template at chat")
        return self


def run(config: ValidateConfig, context: Context) -> dict[str, Any]:
    """Table validations. Counts: pairs, yes, drawn, without an answer, texts cut, tokens; the estimates over all pairs,
    and for each stratum its bounds, pairs, answers and share of yes.
    """
    source, folder = context.input(config.scores), context.folder
    log_odds, yes = _scored(config, source)
    edges = quantile_edges(log_odds, config.quantiles)
    sample, sizes = draw(_strata(config, source, edges), config.per_stratum, config.every_yes, config.seed)
    sample = sample.sort_by([("technique_id", "ascending"), ("patent_id", "ascending")])
    bounds = range(0, sample.num_rows, config.rows_per_part)
    if missing := folder.missing_parts("validations", len(bounds)):
        judge = _Judge(config, context)
        try:
            for index in context.progress.bar(missing, len(missing), "parts validated"):
                rows = sample.slice(bounds[index], config.rows_per_part)
                folder.write_part("validations", index, judge.validate(rows))
        finally:
            judge.close(context)
    written = pa.concat_tables([folder.read_part(folder.entry("validations", i)) for i in range(len(bounds))])
    return {"pairs": len(log_odds), "yes": int(yes.sum()), "drawn": sample.num_rows, **_said(written, sizes, edges)}


def _said(written: pa.Table, sizes: dict[int, int], edges: np.ndarray) -> dict[str, Any]:
    stratum = written["stratum"].to_numpy().astype(np.int64)
    answered = np.asarray(written["judged_yes"].is_valid())
    judged = np.asarray(written["judged_yes"].fill_null(False))
    yes = np.asarray(written["yes"])
    techniques = np.asarray(written["technique_id"].to_pylist(), dtype=object)
    weights, unrepresented = weights_of(stratum, answered, sizes)
    if not answered.any():
        raise ConfigError("the validator answered none of the pairs with yes or no: look at the text in validations")
    ends = [None, *edges.tolist(), None]
    return {
        "unanswered": int((~answered).sum()),
        "pairs_of_strata_without_answer": unrepresented,
        "texts_cut": int(np.asarray(written["text_cut"]).sum()),
        "prompt_tokens": int(written["prompt_tokens"].to_numpy().sum()),
        "answer_tokens": int(written["answer_tokens"].to_numpy().sum()),
        "estimates": estimates(yes[answered], judged[answered], weights[answered], techniques[answered]),
        "strata": [
            {
                "yes": bool(value % 2),
                "log_odds_from": ends[value // 2],
                "log_odds_to": ends[value // 2 + 1],
                "pairs": sizes[value],
                "answered": int((answered & (stratum == value)).sum()),
                "judged_yes": int((judged & answered & (stratum == value)).sum()),
            }
            for value in sorted(sizes)
        ],
    }


# ---- which pairs

COLUMNS = ("technique_id", "patent_id", "role", "log_odds", "probability")


def _parts(config: ValidateConfig, source: StageFolder) -> Iterator[pa.Table]:
    for part in source.iter_parts("scores", COLUMNS):
        if config.role is not None:
            part = part.filter(np.asarray(part["role"].to_pylist(), dtype=object) == config.role)
        yield part


def _yes(config: ValidateConfig, source: StageFolder, part: pa.Table) -> np.ndarray:
    """(n,) whether the scorer says yes."""
    if config.threshold is not None:
        return part["log_odds"].to_numpy() >= config.threshold
    assert source.manifest is not None
    threshold = source.manifest.counts.get("threshold")
    if threshold is None:
        raise ConfigError(
            f"stage {config.scores!r} has no threshold of its own (calibration: none): set threshold to the log-odds "
            f"from which on a pair is a yes"
        )
    return part["probability"].to_numpy() >= threshold


def _scored(config: ValidateConfig, source: StageFolder) -> tuple[np.ndarray, np.ndarray]:
    """(log-odds, whether yes) of all pairs: 5 bytes each."""
    found = [(part["log_odds"].to_numpy(), _yes(config, source, part)) for part in _parts(config, source)]
    log_odds, yes = (np.concatenate(column) for column in zip(*found, strict=True))
    if not len(log_odds):
        raise ConfigError(f"stage {config.scores!r} has no pair" + (f" of role {config.role!r}" if config.role else ""))
    return log_odds, yes


def _strata(config: ValidateConfig, source: StageFolder, edges: np.ndarray) -> Iterator[pa.Table]:
    for part in _parts(config, source):
        yes = _yes(config, source, part)
        stratum = strata_of(part["log_odds"].to_numpy(), yes, edges)
        yield part.append_column("stratum", pa.array(stratum, pa.int32())).append_column("yes", pa.array(yes))


# ---- asking


class _Judge:
    """The second model, and the texts it is asked about."""

    def __init__(self, config: ValidateConfig, context: Context) -> None:
        self.config, self.data = config, context.input(config.data)
        techniques = self.data.read("techniques")
        names = techniques["technique_id"].to_pylist()
        self.titles = dict(zip(names, techniques["title"].to_pylist(), strict=True))
        self.sections = dict(zip(names, technique_text(techniques), strict=True))
        self.endpoint = Endpoint(config.endpoint) if config.endpoint is not None else None
        generator: Any = self.endpoint
        if generator is None:
            assert config.model is not None
            model = context.model(config.model)
            generator = load_local(
                model,
                template=config.prompt.template,
                identity=fingerprint(model) if config.cache else "",
                device=torch.device(config.device),
                dtype=config.dtype,
            )
        settings = config.settings
        if config.answer == "logprobs" and not settings.first_token_logprobs:
            settings = settings.model_copy(update={"first_token_logprobs": 20})
        cache = AnswerCache(Location(config.cache)) if config.cache else None
        at_once = PER_REQUEST * config.endpoint.concurrency if config.endpoint is not None else None
        self.chat = Chat(generator, settings, cache, at_once=at_once)

    def close(self, context: Context) -> None:
        if self.endpoint is not None:
            self.endpoint.close()
            context.progress.say(
                f"  {self.endpoint.requests:,} requests, {self.endpoint.budget.spent:.4f} spent at the prices given"
            )

    def validate(self, rows: pa.Table) -> pa.Table:
        """The rows with what the model says of them, as VALIDATIONS."""
        pairs = list(zip(rows["technique_id"].to_pylist(), rows["patent_id"].to_pylist(), strict=True))
        patents = patent_texts(self.data, self.config.text, [patent for _, patent in pairs])
        asked = [self._asked(technique, patent, patents[patent]) for technique, patent in pairs]
        answers = self.chat.chat_many(
            [self._messages(each) for each, _ in asked],
            schema=JSON_ANSWER if self.config.answer == "json" else None,
            names=[each.name for each, _ in asked],
        )
        judged = [read_answer(answer, self.config.answer) for answer in answers]
        columns = {
            **{name: rows[name] for name in ("technique_id", "patent_id", "role", "log_odds", "probability")},
            **{name: rows[name] for name in ("stratum", "yes")},
            "judged_yes": pa.array([yes for yes, _ in judged], pa.bool_()),
            "judged_log_odds": pa.array([odds for _, odds in judged], pa.float32()),
            "text": pa.array([answer.text for answer in answers]),
            "text_cut": pa.array([cut for _, cut in asked]),
            "prompt_tokens": pa.array([answer.prompt_tokens for answer in answers], pa.int32()),
            "answer_tokens": pa.array([answer.answer_tokens for answer in answers], pa.int32()),
        }
        return pa.table({name: columns[name] for name in schema.VALIDATIONS.names}, schema=schema.VALIDATIONS)

    def _asked(self, technique: str, patent: str, text: str) -> tuple[Asked, bool]:
        """(the question, whether the section or the patent was cut)."""
        section = self.sections[technique]
        cut = section[: self.config.section_characters], text[: self.config.patent_characters]
        before = f"{self.config.question}\n\nSection Title: {self.titles[technique]}\n\nPollution Abatement Process: "
        asked = Asked(f"pair {technique}, {patent}", before, cut[0], f"\n\nPatent: {cut[1]}", ())
        return asked, cut != (section, text)

    def _messages(self, asked: Asked) -> Sequence[Message]:
        user = {"role": "user", "content": asked.before + asked.context + asked.after}
        return [*self.config.prompt.opening(), user]


def read_answer(answer: Answer, kind: Literal["text", "logprobs", "json"]) -> tuple[bool | None, float | None]:
    """(yes, log-odds) of an answer; yes is None where it is neither yes nor no, log-odds where there are none."""
    odds = yes_no_log_odds(answer.first_token) if answer.first_token else None
    if kind == "logprobs":
        return (None if odds is None else odds > 0), odds
    if kind == "json":
        return (None if answer.problem is not None else answer.value["answer"] == "yes"), odds
    word = re.match(r"\W*(yes|no)\b", answer.text, re.IGNORECASE)
    return (None if word is None else word[1].casefold() == "yes"), odds


VALIDATE = Stage("validate", ValidateConfig, run, uses_ray=False)
