"""Figures of several answer stages on the same questions: each with its interval, and against the first stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import numpy.typing as npt

from patentft import stats
from patentft.report.answers.sheet import Rating
from patentft.report.metrics import Metrics

Floats = npt.NDArray[np.float64]

MEASURES = {
    "rouge_l": "ROUGE-L",
    "token_f1": "Token F1",
    "exact_match": "Exact match",
    "similarity": "Embedding similarity",
}
RATING = {"rating": "Rating"}

KEYS = {
    "num_questions": "questions answered by every stage",
    "baseline": "the stage that the others are compared to: the first",
    "{stage}.rouge_l": "F-measure of the longest common subsequence of words with the reference (Lin 2004), mean",
    "{stage}.token_f1": "F1 of the words shared with the reference, as in SQuAD, mean",
    "{stage}.exact_match": "share of answers with the reference's words, as in SQuAD",
    "{stage}.similarity": "cosine of the encoder's vectors of answer and reference, mean",
    "{stage}.rating": "people's ratings, mean over the annotators of a question, then over questions",
    "{stage}.num_rated": "questions whose answer by this stage was rated",
    "{stage}.answer_tokens": "tokens written for a question, mean",
    "{stage}.answers_cut": "answers cut at max_new_tokens",
    "{stage}.problems": "answers that were empty, or without the marker that was asked for",
    "difference.{stage}.{measure}": "mean difference to the baseline on the same questions",
    "wins.{stage}.{other}": "ratings in which an annotator rated the stage above the other on the same question",
    "ties.{stage}.{other}": "ratings in which an annotator rated the two alike",
    "agreement.kappa": "Cohen's kappa of two annotators' ratings, mean over pairs weighted by common ratings",
    "agreement.num_pairs": "pairs of annotators with at least two answers in common",
    "agreement.num_ratings": "ratings that two annotators have in common, summed over pairs",
    "ratings.{what}": "rows of the filled sheets: read = kept + empty + quarantined; not_rated: single empty cells",
}
SUFFIXES = {
    "low, .high": "95 % bootstrap interval over questions",
    "p_value": "two-sided bootstrap p of no difference",
    "verdict": "the interval of a difference in words",
    "not_defined": "why a figure is null",
}


@dataclass(frozen=True)
class Method:
    """One answer stage."""

    stage: str
    model: str
    method: str
    answers: list[str]  # in the order of the questions
    values: dict[str, Floats]  # measure -> (questions,)
    answer_tokens: Floats
    answers_cut: int
    problems: int


def evaluate(methods: Sequence[Method], *, num_resamples: int, seed: int) -> Metrics:
    """The figures of every method and their differences to the first."""
    metrics = Metrics()
    metrics["num_questions"], metrics["baseline"] = len(methods[0].answers), methods[0].stage
    for method in methods:
        for measure, values in method.values.items():
            _mean(metrics, f"{method.stage}.{measure}", values, num_resamples, seed)
        metrics[f"{method.stage}.answer_tokens"] = float(method.answer_tokens.mean())
        metrics[f"{method.stage}.answers_cut"] = method.answers_cut
        metrics[f"{method.stage}.problems"] = method.problems
    for method in methods[1:]:
        for measure, values in method.values.items():
            key = f"difference.{method.stage}.{measure}"
            _difference(metrics, key, values, methods[0].values[measure], num_resamples, seed)
    return metrics


def rate(metrics: Metrics, stages: Sequence[str], ratings: Sequence[Rating], *, num_resamples: int, seed: int) -> None:
    """Add what people said: mean ratings, differences to the first stage, wins, and annotators' agreement."""
    means = {stage: _per_question(stage, ratings) for stage in stages}
    for stage, found in means.items():
        metrics[f"{stage}.num_rated"] = len(found)
        _mean(metrics, f"{stage}.rating", np.array(list(found.values())), num_resamples, seed)
    first = means[stages[0]]
    for stage in stages[1:]:
        common = [qa_id for qa_id in means[stage] if qa_id in first]
        a, b = (np.array([found[qa_id] for qa_id in common]) for found in (means[stage], first))
        _difference(metrics, f"difference.{stage}.rating", a, b, num_resamples, seed)
    said = {(row.stage, row.qa_id, row.annotator): row.rating for row in ratings}
    for a, b in combinations(stages, 2):
        both = [
            (rating, said[b, qa_id, annotator])
            for (stage, qa_id, annotator), rating in said.items()
            if stage == a and (b, qa_id, annotator) in said
        ]
        metrics[f"wins.{a}.{b}"] = sum(x > y for x, y in both)
        metrics[f"wins.{b}.{a}"] = sum(x < y for x, y in both)
        metrics[f"ties.{a}.{b}"] = sum(x == y for x, y in both)
    _agreement(metrics, said)


def _per_question(stage: str, ratings: Sequence[Rating]) -> dict[str, float]:
    """qa_id -> mean over its annotators."""
    found: dict[str, list[int]] = {}
    for row in ratings:
        if row.stage == stage:
            found.setdefault(row.qa_id, []).append(row.rating)
    return {qa_id: float(np.mean(values)) for qa_id, values in found.items()}


def _agreement(metrics: Metrics, said: Mapping[tuple[str, str, str], int]) -> None:
    by_annotator: dict[str, dict[tuple[str, str], int]] = {}
    for (stage, qa_id, annotator), rating in said.items():
        by_annotator.setdefault(annotator, {})[stage, qa_id] = rating
    kappas: list[float] = []
    sizes: list[int] = []
    alike = 0  # pairs that always gave one and the same rating: kappa is 0/0
    for a, b in combinations(sorted(by_annotator), 2):
        common = sorted(by_annotator[a].keys() & by_annotator[b].keys())
        if len(common) < 2:
            continue
        try:
            kappas.append(stats.cohen_kappa(*([by_annotator[who][answer] for answer in common] for who in (a, b))))
            sizes.append(len(common))
        except ValueError:
            alike += 1
    metrics["agreement.num_pairs"], metrics["agreement.num_ratings"] = len(sizes) + alike, sum(sizes)
    if kappas:
        metrics["agreement.kappa"] = float(np.average(kappas, weights=sizes))
    elif alike:
        metrics.undefined("agreement.kappa", "the annotators gave one and the same rating to every answer")
    else:
        metrics.undefined("agreement.kappa", "no two annotators rated the same two answers")


def _mean(metrics: Metrics, key: str, values: Floats, num_resamples: int, seed: int) -> None:
    if not len(values):
        metrics.undefined(key, "nothing was rated")
        return
    interval = partial(stats.bootstrap_mean, values, num_resamples=num_resamples, seed=seed)
    metrics.interval(key, interval, lambda: float(values.mean()))


def _difference(metrics: Metrics, key: str, a: Floats, b: Floats, num_resamples: int, seed: int) -> None:
    if not len(a):
        metrics.undefined(key, "no question was rated for both")
        return
    compute = partial(stats.paired_difference, a, b, num_resamples=num_resamples, seed=seed)
    metrics.difference(key, compute, lambda: float((a - b).mean()))
