"""The profile: one pass over a table or raw files -> index.html, profile.json, suspicious.jsonl. One process, no Ray.

    source (files or a stage's table) --batches--> Survey (exact counts) + sample --> estimates --> figures, page

Memory: a batch of 2,048 rows, the sample (texts cut at 4,000 characters), and 8 bytes for each row's id and each text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pydantic import Field, model_validator

from patentft.config import Config, ConfigError, nearest
from patentft.location import Location
from patentft.progress import Progress
from patentft.report.profile.result import Estimates, Profile, estimate, figures_of
from patentft.report.profile.source import BATCH_ROWS, Batch, Layout, Source, batches, layout_of, of_files, of_stage
from patentft.report.profile.survey import Limits, Survey, TokenCounter, token_counter
from patentft.report.profile.views import read_views
from patentft.stage import Context, FileRef, ModelRef, Stage, StageRef

ROWS_PER_LINE = 100_000


class ProfileConfig(Config):
    """What is profiled: the table of a stage (`data`) or raw files (`files`)."""

    data: StageRef | None = None
    """A stage; its table of texts is profiled."""
    table: str | None = None
    """Which of the stage's tables; unset: the first of texts, patents, views, sections, qa, preferences, techniques."""
    files: FileRef | None = None
    """A file, a folder or a glob: Parquet, JSONL, CSV or TSV, gzipped or not; a local path or an fsspec URL."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """CSV delimiter of `files`, one character; unset: the most frequent of , ; tab | in the header line."""
    text: list[str] = []
    """Text columns; empty: those that read like text in the first 1,000 rows."""
    id: str | None = None
    """The column that names the rows; unset: text_id, patent_id, ... or id, where there is one."""
    tokenizer: ModelRef | None = None
    """Whose tokens are counted: a model folder, package:NAME or a hub id; unset: no token is counted."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Where texts are cut, special tokens included; unset: at the model's own limit."""
    sample_rows: int = Field(default=20_000, ge=1, le=1_000_000)
    """Rows of the random sample on which languages and near-duplicates are estimated."""
    language_rows: int = Field(default=5000, ge=0)
    """Texts of the sample whose language is identified."""
    shingle_words: int = Field(default=3, ge=1)
    """Near-duplicates are compared by their runs of so many words."""
    similarity: float = Field(default=0.8, ge=0.5, le=1)
    """Jaccard index of two texts' runs of words from which they are near-duplicates. Below .7 pairs are
    missed."""
    short_characters: int = Field(default=20, ge=0)
    """A shorter text is suspicious."""
    long_characters: int = Field(default=20_000, ge=1)
    """A longer text is suspicious."""
    suspicious_rows: int = Field(default=20, ge=0)
    """Suspicious rows that are listed per column and reason; all are counted."""
    examples: int = Field(default=3, ge=0, le=100)
    """Examples shown per kind of noise."""
    seed: int = Field(default=0, ge=0)
    """Of the sample."""
    title: str | None = None
    """Heading of the page; unset: the name of the data."""

    @model_validator(mode="after")
    def _one_source(self) -> ProfileConfig:
        if (self.data is None) == (self.files is None):
            raise ValueError("set either data (a stage) or files (raw files), not both")
        if self.table is not None and self.data is None:
            raise ValueError("table names a table of a stage, but data is not set")
        if self.delimiter is not None and self.files is None:
            raise ValueError("delimiter is for CSV files, but files is not set")
        return self


def run_profile(config: ProfileConfig, context: Context) -> dict[str, Any]:
    """Write index.html, profile.json and suspicious.jsonl into the stage's folder; the counts are the headline figures.

    Raises ConfigError when matplotlib is absent, for a column or table that is not there, or for data without a row.
    """
    try:
        from patentft.report.profile import page
    except ModuleNotFoundError as error:
        raise ConfigError(f"the profile draws with matplotlib ({error}): pip install 'patentft[report]'") from error

    folder = context.input(config.data) if config.data is not None else None
    if folder is not None:
        source = of_stage(folder, config.table)
    else:
        assert config.files is not None
        source = of_files(config.files, config.delimiter)
    count_tokens, max_tokens = _tokenizer(config, context)
    layout = layout_of(source.columns, source.peek(), config.text, config.id)
    survey = _surveyed(source, layout, config, count_tokens, context.progress)
    if not survey.rows:
        first = survey.suspects.rows[0].reason if survey.suspects.rows else "they hold none"
        raise ConfigError(f"{source.name}: not one row could be read ({first}); is it the right file?")
    if not layout.texts:
        context.progress.warn(f"{source.name}: no column reads like text; name one with text (--text COLUMN)")
    estimates: dict[str, Estimates] = {}
    for column in layout.texts:
        context.progress.say(f"profile: languages and near-duplicates of {column!r}, on a sample")
        estimates[column] = estimate(
            survey,
            column,
            language_rows=config.language_rows,
            shingle_words=config.shingle_words,
            similarity=config.similarity,
            seed=config.seed,
        )
    views = read_views(folder) if folder is not None else None
    named = {"source": source.name, "seed": config.seed, "tokenizer": config.tokenizer, "max_tokens": max_tokens}
    figures = figures_of(survey, estimates, **named, views=views)
    tables = list(folder.manifest.tables) if folder is not None and folder.manifest is not None else []
    profile = Profile(
        title=config.title or f"Profile of {source.name}",
        size=source.size,
        layout=layout,
        survey=survey,
        estimates=estimates,
        figures=figures,
        config=config.model_dump(mode="json"),
        max_tokens=max_tokens,
        tokenizer=config.tokenizer,
        views=views,
        others=[name for name in tables if not source.name.endswith(f"/{name}")],
    )
    context.folder.write_file("index.html", page.render(profile))
    context.folder.write_file("profile.json", _json(figures))
    suspects = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in survey.suspects.rows)
    context.folder.write_file("suspicious.jsonl", suspects.encode("utf-8", "replace"))
    return {
        "rows": survey.rows,
        "unreadable": survey.bad.total(),
        "suspicious": survey.suspects.counts.total(),
        **{f"{name} repeated": figures[f"text.{name}.repeated"] for name in layout.texts},
    }


def _json(figures: dict[str, Any]) -> bytes:
    text = json.dumps(figures, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "replace")


def _tokenizer(config: ProfileConfig, context: Context) -> tuple[TokenCounter | None, int | None]:
    if config.tokenizer is None:
        if config.max_tokens is not None:
            raise ConfigError("max_tokens is set, but no tokenizer: set tokenizer (--tokenizer) to a model")
        return None, None
    from patentft.models.load import load_tokenizer_and_limit

    tokenizer, limit = load_tokenizer_and_limit(context.model(config.tokenizer))
    if config.max_tokens is None and limit is None:
        context.progress.warn(f"{config.tokenizer} names no longest input: truncation is not counted (set max_tokens)")
    return token_counter(tokenizer), config.max_tokens or limit


def _surveyed(
    source: Source, layout: Layout, config: ProfileConfig, count_tokens: TokenCounter | None, progress: Progress
) -> Survey:
    limits = Limits(**{name: getattr(config, name) for name in Limits.__dataclass_fields__})
    survey = Survey(layout, limits, count_tokens)
    texts = ", ".join(layout.texts) or "none"
    progress.say(f"profile: {source.name}, {source.size}; text columns: {texts}")
    for batch in _with_progress(batches(source, layout), source.rows, progress):
        survey.add(batch)
    survey.finish()
    return survey


def _with_progress(found: Iterator[Batch], rows: int | None, progress: Progress) -> Iterator[Batch]:
    """A bar where the number of rows is known, else a line now and then."""
    if rows is not None:
        yield from progress.bar(found, max(1, -(-rows // BATCH_ROWS)), "rows")
        return
    done = told = 0
    for batch in found:
        yield batch
        done += len(batch)
        if done // ROWS_PER_LINE > told:
            told = done // ROWS_PER_LINE
            progress.say(f"  rows: {done:,}")


def profile_data(data: str, out: str | None, options: dict[str, Any], progress: Progress) -> Location:
    """What `patentft profile` does: profile a finished stage's folder or raw files, outside a pipeline.

    An earlier profile in `out` under other options is replaced; anything else there is left alone, with an error.
    Returns the folder. Raises ConfigError for data that are not there.
    """
    from patentft import store
    from patentft.config import build, content
    from patentft.corpus.read import list_files

    place = Location(data)
    is_stage = (place / "manifest.json").exists()
    source = {"data": place.name} if is_stage else {"files": data}
    given = {name: value for name, value in options.items() if value not in (None, [])}
    config = build(ProfileConfig, {**source, **given}, "patentft profile")
    stages: dict[str, store.StageFolder] = {}
    models: dict[str, str] = {}
    inputs: dict[str, str] = {}
    if is_stage:
        stages[place.name] = store.finished_stage(place)
        manifest = stages[place.name].manifest
        assert manifest is not None
        inputs[place.name] = manifest.id
    else:
        _existing(place)
        for index, file in enumerate(list_files(data)):
            inputs[f"file:{data}:{index}:{file.name}"] = store.file_digest(file)
    if config.tokenizer is not None:
        from patentft.models.load import resolve

        models[config.tokenizer] = resolve(config.tokenizer)
        inputs[f"model:{config.tokenizer}"] = models[config.tokenizer]
    target = Location(out or f"runs/profile/{place.name}")
    if target.names() and not (target / "stage.json").exists():
        raise ConfigError(f"{target} holds other files (it is no profile's folder); give another with --out")
    try:
        folder = store.open_stage(target, PROFILE.kind, content(config), inputs, warn=progress.warn)
    except store.StageConflict:
        if json.loads((target / "stage.json").read_bytes())["kind"] != PROFILE.kind:
            raise
        progress.say(f"{target}: an earlier profile, of other data or under other options, is replaced")
        store.remove_stage(target)
        folder = store.open_stage(target, PROFILE.kind, content(config), inputs, warn=progress.warn)
    if not folder.done:
        folder.finish(run_profile(config, Context(folder, stages, models, progress)))
    return folder.location


def _existing(place: Location) -> None:
    """Raises ConfigError for a plain path that does not exist, naming the nearest entry beside it."""
    import glob

    if glob.has_magic(place.url) or place.exists():
        return
    beside = Location(place.url.rpartition("/")[0] or "/").names()
    raise ConfigError(f"{place} does not exist{nearest(place.name, beside[:50])}")


PROFILE = Stage("profile", ProfileConfig, run_profile, uses_ray=False)
