"""Answers side by side: figures against the references, a sheet for people out, their ratings in. One process, no Ray.

    QA + ANSWERS of several stages -> ANSWER_SCORES, metrics.json, index.html, sheet.csv, sheet_key.csv
    filled sheets ---------------------------------------> RATINGS, and mean ratings, wins, agreement in all of them
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from patentft import schema
from patentft.config import Config, ConfigError, runtime
from patentft.report.answers.evaluate import MEASURES, Floats, Method, evaluate, rate
from patentft.report.answers.measures import exact_match, rouge_l, token_f1
from patentft.report.answers.page import AnswersPage, render
from patentft.report.answers.sheet import Ratings, draw_rows, key_csv, read_ratings, sheet_csv
from patentft.report.metrics import Metrics
from patentft.stage import Context, FileRef, ModelRef, Stage, StageRef


class EvaluateAnswersConfig(Config):
    """Which answers are compared, and how."""

    data: StageRef
    """The qa stage with the questions and their reference answers."""
    answers: list[StageRef] = Field(min_length=1)
    """Answer stages of these questions; the others are compared to the first."""
    encoder: ModelRef | None = None
    """An encoder of texts for the embedding similarity; unset: there is none. A text is cut at its limit."""
    device: str = runtime("cpu")
    """Where the encoder runs: cpu or cuda."""
    sheet_questions: int = Field(default=50, ge=0)
    """Questions on the sheet for people; 0: no sheet."""
    ratings: FileRef | None = None
    """Filled sheets: a file, a folder or a glob. Copy sheet.csv out of the run's folder before filling it."""
    rating_scale: int = Field(default=5, ge=2)
    """Ratings are whole numbers from 1, the worst, to this."""
    title: str = "Answers compared"
    """Heading of the page."""
    num_examples: int = Field(default=5, ge=0, le=100)
    """Questions that the page shows with every answer."""
    bootstrap_resamples: int = Field(default=2000, ge=100)
    """Resamples of each interval."""
    seed: int = Field(default=0, ge=0)
    """Of the bootstrap, of the questions shown and of the sheet."""

    @model_validator(mode="after")
    def _possible(self) -> EvaluateAnswersConfig:
        doubled = sorted({name for name in self.answers if self.answers.count(name) > 1})
        if doubled:
            raise ValueError(f"answers names {doubled[0]!r} twice")
        if self.ratings is not None and not self.sheet_questions:
            raise ValueError("ratings are of a sheet, but sheet_questions is 0: set it as it was for the sheet")
        return self


def run(config: EvaluateAnswersConfig, context: Context) -> dict[str, Any]:
    """Counts: questions and the figures without their intervals."""
    questions = context.input(config.data).read("qa").to_pylist()
    if not questions:
        raise ConfigError(f"stage {config.data!r} has no question")
    methods = [_method(config, context, stage, questions) for stage in config.answers]
    if config.encoder is not None:
        _add_similarity(config, context, methods, [row["answer"] for row in questions])
    metrics = evaluate(methods, num_resamples=config.bootstrap_resamples, seed=config.seed)
    answers = {method.stage: method.answers for method in methods}
    sheet = draw_rows(questions, answers, config.sheet_questions, config.seed)
    if sheet:
        context.folder.write_file("sheet.csv", sheet_csv(sheet))
        context.folder.write_file("sheet_key.csv", key_csv(sheet))
    if config.ratings is not None:
        ratings = read_ratings(config.ratings, sheet, config.rating_scale)
        _write_ratings(context, ratings, metrics)
        rate(metrics, config.answers, ratings.rows, num_resamples=config.bootstrap_resamples, seed=config.seed)
    _write_scores(context, methods, [row["qa_id"] for row in questions])
    drawn = np.random.default_rng(config.seed).permutation(len(questions))[: config.num_examples].tolist()
    page = AnswersPage(
        title=config.title,
        metrics=metrics,
        methods=methods,
        examples=[(questions[at], {stage: texts[at] for stage, texts in answers.items()}) for at in drawn],
        encoder=config.encoder,
        rated=config.ratings is not None,
        sheet_questions=len(sheet),
        config=config.model_dump(mode="json"),
    )
    context.folder.write_file("index.html", render(page))
    text = json.dumps(metrics, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    context.folder.write_file("metrics.json", text.encode())
    context.progress.say(f"evaluate_answers: {context.folder.location / 'index.html'}")
    shown = [f"{stage}.{measure}" for stage in config.answers for measure in (*MEASURES, "rating")]
    return {"questions": len(questions), **{key: metrics[key] for key in shown if key in metrics}}


def _method(config: EvaluateAnswersConfig, context: Context, stage: str, questions: list[dict[str, Any]]) -> Method:
    folder = context.input(stage)
    rows = {row["qa_id"]: row for row in folder.read("answers").to_pylist()}
    lacking = [row["qa_id"] for row in questions if row["qa_id"] not in rows]
    if lacking or len(rows) != len(questions):
        named = f"question {lacking[0]!r} has no answer in it" if lacking else "it answers other questions too"
        raise ConfigError(
            f"stage {stage!r} does not answer the questions of {config.data!r}: {named}; give answers whose `data` is "
            f"{config.data!r}"
        )
    ordered = [rows[row["qa_id"]] for row in questions]
    pairs = [(row["answer"], question["answer"]) for row, question in zip(ordered, questions, strict=True)]
    measures = {"rouge_l": rouge_l, "token_f1": token_f1, "exact_match": exact_match}
    return Method(
        stage=stage,
        model=str(folder.config.get("model", "")),
        method=str(folder.config.get("method", "")) + (", in steps" if folder.config.get("reasoning_steps") else ""),
        answers=[row["answer"] for row in ordered],
        values={name: np.array([measure(*pair) for pair in pairs]) for name, measure in measures.items()},
        answer_tokens=np.array([row["answer_tokens"] for row in ordered], dtype=np.float64),
        answers_cut=sum(not row["finished"] for row in ordered),
        problems=sum(row["problem"] is not None for row in ordered),
    )


def _add_similarity(
    config: EvaluateAnswersConfig, context: Context, methods: list[Method], references: list[str]
) -> None:
    """Cosines of answers and references. An empty answer has none of the reference's meaning: 0."""
    from patentft.models.load import load_encoder
    from patentft.search.embed import embed_texts

    assert config.encoder is not None
    encoder = load_encoder(context.model(config.encoder), config.device)

    def vectors(texts: list[str]) -> Floats:
        found = np.asarray(embed_texts(encoder, texts, long_text="truncate").vectors, dtype=np.float64)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    wanted = vectors(references)
    for method in context.progress.bar(methods, len(methods), "methods embedded"):
        empty = np.array([not answer.strip() for answer in method.answers])
        method.values["similarity"] = np.where(empty, 0.0, (vectors(method.answers) * wanted).sum(axis=1))


def _write_scores(context: Context, methods: list[Method], qa_ids: list[str]) -> None:
    for index, method in enumerate(methods):
        columns: dict[str, Any] = {"stage": [method.stage] * len(qa_ids), "qa_id": qa_ids, **method.values}
        columns.setdefault("similarity", [None] * len(qa_ids))
        table = pa.table({name: columns[name] for name in schema.ANSWER_SCORES.names}, schema=schema.ANSWER_SCORES)
        context.folder.write_part("answer_scores", index, table)


def _write_ratings(context: Context, ratings: Ratings, metrics: Metrics) -> None:
    rows = [vars(row) for row in ratings.rows]
    context.folder.write_part("ratings", 0, pa.Table.from_pylist(rows, schema=schema.RATINGS))
    context.folder.write_part("quarantine", 0, ratings.rejected.as_table())
    tally = ratings.tally
    counted = {"read": tally.read, "kept": tally.kept, "empty": tally.merged, "quarantined": tally.quarantined}
    for name, count in {**counted, "not_rated": ratings.not_rated}.items():
        metrics[f"ratings.{name}"] = count
    if tally.quarantined:
        context.progress.warn(
            f"{tally.quarantined} of {tally.read} rated rows are in {context.folder.location / 'quarantine'}: "
            f"{tally.reasons}"
        )


EVALUATE_ANSWERS = Stage("evaluate_answers", EvaluateAnswersConfig, run, uses_ray=False)
