"""The keys of profile.json and what they mean."""

from __future__ import annotations

import re

_STATISTICS = "mean, p1, p5, p25, p50, p75, p95, p99 (exact, smallest value that so many % do not exceed) and max"

KEYS = {
    "source": "what was profiled: file, folder or stage/table",
    "rows": "rows that could be read",
    "unreadable": "rows that could not be read",
    "unreadable.{reason}": "of those, for this reason",
    "id": "the column whose values name the rows",
    "ids.distinct": "different ids",
    "ids.repeated": "rows whose id an earlier row has (by 64-bit hash)",
    "column.{column}.missing": "rows without a value: null, NaN, an empty or blank text, an empty list",
    "column.{column}.missing_share": "the same, as a share of the rows",
    "column.{column}.value.{value}": "rows with this value, for columns with at most 50 different values",
    "text.{column}.rows": "rows with a text",
    "text.{column}.distinct": "different texts",
    "text.{column}.repeated": "rows whose text an earlier row has, character by character (by 64-bit hash)",
    "text.{column}.repeated_share": "the same, as a share of the rows with a text",
    "text.{column}.most_repeated": "rows that share the commonest text",
    "text.{column}.characters.{statistic}": f"length in characters: {_STATISTICS}",
    "text.{column}.words.{statistic}": f"length in words (between blanks): {_STATISTICS}",
    "text.{column}.tokens.{statistic}": f"length in tokens of the tokenizer, special tokens included: {_STATISTICS}",
    "text.{column}.tokens.total": "all tokens",
    "text.{column}.truncated": "texts longer than max_tokens",
    "text.{column}.truncated_share": "the same, as a share of the texts",
    "text.{column}.tokens_lost": "tokens beyond max_tokens, in all texts together",
    "text.{column}.tokens_lost_share": "the same, as a share of all tokens",
    "text.{column}.noise.{kind}.rows": "texts with this kind of noise",
    "text.{column}.noise.{kind}.share": "the same, as a share of the texts",
    "text.{column}.noise.{kind}.occurrences": "how often it occurs",
    "text.{column}.language.sampled": "texts whose language was looked at, a random sample",
    "text.{column}.language.{code}": "of those, texts in this language (ISO 639-1)",
    "text.{column}.language.uncertain": "of those, texts of whose language CLD2 is not sure",
    "text.{column}.language.too_short": "of those, texts of under 20 characters",
    "text.{column}.near_duplicates.sampled": "different texts in the random sample that were compared with each other",
    "text.{column}.near_duplicates.texts": "of those, texts with a near-duplicate in the sample; the whole has more",
    "text.{column}.near_duplicates.share": "the same, as a share of the sampled",
    "text.{column}.near_duplicates.groups": "groups of near-duplicates in the sample",
    "text.{column}.near_duplicates.largest": "texts of the largest group",
    "text.{column}.suspicious.{reason}": "rows that look wrong for this reason",
    "sample.rows": "rows of the random sample that languages and near-duplicates are estimated on",
    "sample.seed": "its seed",
    "tokenizer": "the tokenizer as it was named; null: none",
    "max_tokens": "the limit that truncation is counted at: the one given, else the model's; null: none",
    "codes.none": "rows without a readable CPC or IPC symbol",
    "codes.malformed": "symbols that are none",
    "green.rows": "rows with a Y02 symbol",
    "green.share": "the same, as a share of the rows",
    "section.{section}.rows": "rows with a symbol of this CPC section; a row may be in several",
    "section.{section}.green": "of those, rows with a Y02 symbol",
    "subclass.{subclass}": "rows with a symbol of this CPC subclass",
    "year.{year}.rows": "rows of this year",
    "year.{year}.green": "of those, rows with a Y02 symbol",
    "year.none": "rows without a readable year",
    "view.{view}.windows": "windows of this view",
    "view.{view}.tokens.{statistic}": f"length of its windows in tokens, as the views stage counted: {_STATISTICS}",
    "view.{view}.characters.{statistic}": f"length of its windows in characters: {_STATISTICS}",
    "sections.rows": "sections of the documents",
    "sections.documents": "documents",
    "sections.without_text": "sections with a heading only",
    "sections.level.{level}": "sections of this level; 1 is a chapter",
    "citations.rows": "citations of sections found in the texts",
    "citations.resolved": "of those, citations of a section that the document has",
}
"""Pattern of a key -> what it is. `{...}` stands for one name, which may hold dots where it comes from the data."""

STATISTICS = ("mean", "p1", "p5", "p25", "p50", "p75", "p95", "p99", "max")
_NAMES = {"statistic": "|".join(STATISTICS), "section": "[A-HY]", "year": r"\d{4}", "code": "[a-z]{2,3}"}


def describe(key: str) -> str | None:
    """What a key of profile.json means; None for a key that is not documented."""
    for pattern, text in KEYS.items():
        parts = re.split(r"\{(\w+)\}", pattern)
        regex = "".join(
            re.escape(part) if n % 2 == 0 else f"(?:{_NAMES.get(part, '.*')})" for n, part in enumerate(parts)
        )
        if re.fullmatch(regex, key, re.DOTALL):
            return text
    return None
