"""A finished survey -> the flat figures of profile.json, and the profile that the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from patentft.report.profile.count import Lengths
from patentft.report.profile.sample import Languages, NearDuplicates, Sampled, languages, near_duplicates
from patentft.report.profile.source import Layout
from patentft.report.profile.survey import Column, Survey
from patentft.report.profile.views import Views

SHOWN_SUBCLASSES = 40


@dataclass(frozen=True)
class Repeated:
    """A text of the sample that occurs more than once in the whole."""

    text: str
    occurrences: int
    where: str


@dataclass(frozen=True)
class Estimates:
    """What is known of a text column from the sample alone."""

    languages: Languages
    near: NearDuplicates
    near_pairs: list[tuple[Sampled, Sampled, float]]
    repeated: list[Repeated]


@dataclass(frozen=True)
class Profile:
    """All that the page shows."""

    title: str
    size: str
    layout: Layout
    survey: Survey
    estimates: Mapping[str, Estimates]
    figures: Mapping[str, Any]
    config: Mapping[str, Any]
    max_tokens: int | None
    tokenizer: str | None
    views: Views | None = None
    others: Sequence[str] = field(default_factory=list)  # the stage's other tables


def estimate(
    survey: Survey, column: str, *, language_rows: int, shingle_words: int, similarity: float, seed: int
) -> Estimates:
    """Languages, near-duplicates and examples of repeated texts among the sampled rows that have a text."""
    rows = [row for row in survey.sample.rows() if column in row.texts]
    texts = [row.texts[column] for row in rows]
    near = near_duplicates(texts, shingle_words, similarity, seed)
    occurrences = survey.texts[column].hashes.occurrences(texts) if rows else []
    repeated: dict[str, Repeated] = {}
    for row, text, count in zip(rows, texts, occurrences, strict=True):
        if count > 1:
            repeated.setdefault(text, Repeated(text, int(count), row.where))
    most = sorted(repeated.values(), key=lambda found: (-found.occurrences, found.text))[:5]
    pairs = [(rows[left], rows[right], jaccard) for left, right, jaccard in near.pairs]
    return Estimates(languages(texts[:language_rows]), near, pairs, most)


def figures_of(
    survey: Survey,
    estimates: Mapping[str, Estimates],
    *,
    source: str,
    seed: int,
    tokenizer: str | None,
    max_tokens: int | None,
    views: Views | None = None,
) -> dict[str, Any]:
    """The flat figures, as KEYS describes them."""
    layout = survey.layout
    found: dict[str, Any] = {"source": source, "rows": survey.rows, "unreadable": survey.bad.total()}
    found |= {f"unreadable.{reason}": count for reason, count in sorted(survey.bad.items())}
    found |= {"id": layout.id, "tokenizer": tokenizer, "max_tokens": max_tokens}
    found |= {"sample.rows": len(survey.sample.rows()), "sample.seed": seed}
    if survey.id_repeats is not None:
        found |= {"ids.distinct": survey.id_repeats.distinct, "ids.repeated": survey.id_repeats.repeated}
    for name in layout.columns:
        if name in layout.indicators and not survey.missing[name]:
            continue  # hundreds of columns without a gap
        found[f"column.{name}.missing"] = survey.missing[name]
        found[f"column.{name}.missing_share"] = survey.missing[name] / max(survey.rows, 1)
    for name, values in survey.values.items():
        found |= {f"column.{name}.value.{value}": count for value, count in (values.counts or {}).items()}
    for name, column in survey.texts.items():
        found |= _of_text(name, column, max_tokens)
        found |= _of_sample(name, estimates[name])
    for (column_name, reason), count in sorted(survey.suspects.counts.items(), key=str):
        if column_name is not None and not reason.startswith("unreadable"):
            found[f"text.{column_name}.suspicious.{reason}"] = count
    found |= _of_balance(survey)
    return found | (views.figures if views else {})


def lengths(prefix: str, counted: Lengths) -> dict[str, Any]:
    return {f"{prefix}.{statistic}": value for statistic, value in counted.summary().items()}


def _of_text(name: str, column: Column, max_tokens: int | None) -> dict[str, Any]:
    repeats, key = column.repeats, f"text.{name}"
    assert repeats is not None
    rows = repeats.rows
    found: dict[str, Any] = {
        f"{key}.rows": rows,
        f"{key}.distinct": repeats.distinct,
        f"{key}.repeated": repeats.repeated,
        f"{key}.repeated_share": repeats.repeated / max(rows, 1),
        f"{key}.most_repeated": repeats.largest,
        **lengths(f"{key}.characters", column.characters),
        **lengths(f"{key}.words", column.words),
    }
    if column.tokens is not None:
        total = column.tokens.total
        found |= {**lengths(f"{key}.tokens", column.tokens), f"{key}.tokens.total": total}
        if max_tokens is not None:
            truncated, lost = column.tokens.above(max_tokens)
            found |= {f"{key}.truncated": truncated, f"{key}.truncated_share": truncated / max(rows, 1)}
            found |= {f"{key}.tokens_lost": lost, f"{key}.tokens_lost_share": lost / max(total, 1)}
    for kind, count in column.noise.kinds.items():
        found |= {f"{key}.noise.{kind}.rows": count.rows, f"{key}.noise.{kind}.share": count.rows / max(rows, 1)}
        found[f"{key}.noise.{kind}.occurrences"] = count.occurrences
    return found


def _of_sample(name: str, estimates: Estimates) -> dict[str, Any]:
    spoken, near, key = estimates.languages, estimates.near, f"text.{name}"
    return {
        f"{key}.language.sampled": spoken.rows,
        **{f"{key}.language.{code}": count for code, count in spoken.counts.items()},
        f"{key}.language.uncertain": spoken.uncertain,
        f"{key}.language.too_short": spoken.short,
        f"{key}.near_duplicates.sampled": near.texts,
        f"{key}.near_duplicates.texts": near.duplicates,
        f"{key}.near_duplicates.share": near.duplicates / max(near.texts, 1),
        f"{key}.near_duplicates.groups": near.groups,
        f"{key}.near_duplicates.largest": near.largest,
    }


def _of_balance(survey: Survey) -> dict[str, Any]:
    balance, layout = survey.balance, survey.layout
    found: dict[str, Any] = {}
    if balance is None:
        return found
    coded = bool(layout.codes or layout.indicators)
    if coded:
        found |= {"codes.none": balance.without_codes, "codes.malformed": balance.malformed}
        found |= {"green.rows": balance.green, "green.share": balance.green / max(survey.rows, 1)}
        for section, count in sorted(balance.sections.items()):
            found[f"section.{section}.rows"] = count
            found[f"section.{section}.green"] = balance.green_sections[section]
        found |= {f"subclass.{subclass}": count for subclass, count in sorted(balance.subclasses.items())}
    if layout.date:
        for year, count in sorted(balance.years.items()):
            found[f"year.{year}.rows"] = count
            if coded:
                found[f"year.{year}.green"] = balance.green_years[year]
        found["year.none"] = balance.no_year
    return found
