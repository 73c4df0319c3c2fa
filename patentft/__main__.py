"""The command line. Imports what a command needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from patentft import __version__

app = typer.Typer(
    name="patentft",
    help="Train, tune and run language models on patents, on Ray: from a laptop to a GPU cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130  # the shell's 128 + SIGINT

ConfigArgument = Annotated[str, typer.Argument(help="A pipeline file (YAML), such as ray_jobs/configs/demo.yaml.")]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(help="Overrides, such as out=runs/x search.top_k=50.", metavar="[a.b=c]...")
]
RedoOption = Annotated[
    list[str] | None, typer.Option("--redo", help="Delete this stage's parts, and its readers', and make them anew.")
]
TinyOption = Annotated[bool, typer.Option("--tiny", help="Apply the file's `tiny` mapping: a small run, to try it.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings, errors and the result.")]


def _run(
    config: str,
    overrides: list[str] | None,
    redo: list[str] | None,
    quiet: bool,
    kinds: list[str],
    tiny: bool = False,
) -> None:
    from patentft import pipeline
    from patentft.progress import Progress

    loaded = pipeline.load(config, overrides or [], tiny)
    only = pipeline.names_of_kinds(loaded, kinds) if kinds else []
    finished = pipeline.run(loaded, Progress(quiet), redo=redo or [], only=only)
    last = list(finished.values())[-1]
    assert last.manifest is not None
    page = next((entry.path for entry in last.manifest.files if entry.path == "index.html"), "")
    print(last.location / page if page else last.location)


@app.command()
def run(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    redo: RedoOption = None,
    quiet: QuietOption = False,
    tiny: TinyOption = False,
) -> None:
    """Run all stages of a pipeline file; finished ones are left as they are. Prints the path of the result."""
    _run(config, overrides, redo, quiet, [], tiny)


@app.command()
def corpus(
    config: ConfigArgument, overrides: OverridesArgument = None, redo: RedoOption = None, quiet: QuietOption = False
) -> None:
    """Read, check and split the raw files: the pipeline's corpus stages."""
    _run(config, overrides, redo, quiet, ["synth", "corpus", "split"])


@app.command()
def train(
    config: Annotated[str | None, typer.Argument(help="A pipeline file (YAML).")] = None,
    overrides: OverridesArgument = None,
    redo: RedoOption = None,
    quiet: QuietOption = False,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Print which objective goes with which adapter, strategy and model.")
    ] = False,
) -> None:
    """Train: the pipeline's train stages and what they read."""
    if matrix:
        from patentft.train import check

        print(check.matrix())
        return
    if config is None:
        from patentft.config import ConfigError

        raise ConfigError("patentft train: give a pipeline file, such as ray_jobs/configs/demo.yaml, or --matrix")
    _run(config, overrides, redo, quiet, ["train"])


@app.command()
def search(
    config: ConfigArgument, overrides: OverridesArgument = None, redo: RedoOption = None, quiet: QuietOption = False
) -> None:
    """Embed and prefilter: the pipeline's search stages and what they read."""
    _run(config, overrides, redo, quiet, ["search"])


@app.command()
def score(
    config: ConfigArgument, overrides: OverridesArgument = None, redo: RedoOption = None, quiet: QuietOption = False
) -> None:
    """Score and calibrate the candidates: the pipeline's score stages and what they read."""
    _run(config, overrides, redo, quiet, ["score"])


@app.command()
def report(
    config: ConfigArgument, overrides: OverridesArgument = None, redo: RedoOption = None, quiet: QuietOption = False
) -> None:
    """Write the report: the pipeline's report stages and what they read."""
    _run(config, overrides, redo, quiet, ["report"])


@app.command()
def estimate(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    gpu: Annotated[
        str | None, typer.Option(help="Whether it fits this GPU, and for how long: H100-80, A100-40, L4, 4gb, ...")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="This train stage only.")] = None,
) -> None:
    """Memory and time of the pipeline's train stages before they run. Fetches nothing, reads no weights."""
    from patentft import pipeline
    from patentft.train import sizing

    loaded = pipeline.load(config, overrides or [])
    print(sizing.report(loaded.out, {step.name: step.config for step in loaded.steps}, stage, gpu))


@app.command("plan-score")
def plan_score(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    gpu: Annotated[list[str] | None, typer.Option(help="H100-80, A100-40, L4, ...; may be given again.")] = None,
    price_per_hour: Annotated[
        list[float] | None, typer.Option(min=0, help="Of each --gpu, in their order, in any currency.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="This score stage only.")] = None,
    techniques: Annotated[int | None, typer.Option(min=1, help="How many, where no stage says so yet.")] = None,
    patents: Annotated[int | None, typer.Option(min=1, help="How many, where no stage says so yet.")] = None,
    prefix_tokens: Annotated[float | None, typer.Option(min=0, help="Of a section's prompt, not counted.")] = None,
    suffix_tokens: Annotated[float | None, typer.Option(min=1, help="Of a patent, not counted.")] = None,
) -> None:
    """Pairs, tokens, GPU-hours, money and disk of the score stages before they run. Fetches nothing."""
    from patentft import pipeline
    from patentft.scoring import quote

    loaded = pipeline.load(config, overrides or [])
    stages = {step.name: (step.stage.kind, step.config) for step in loaded.steps}
    given = quote.Given(techniques, patents, prefix_tokens, suffix_tokens)
    print(quote.report(loaded.out, stages, stage, gpu or [], price_per_hour or [], given))


@app.command()
def query(
    run: Annotated[str, typer.Argument(help="A run's folder, or that of a finished score stage.")],
    technique: Annotated[str | None, typer.Option(help="Its best patents are shown; an id.")] = None,
    patent: Annotated[str | None, typer.Option(help="Its best techniques are shown; an id.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    min_probability: Annotated[float, typer.Option(min=0, max=1, help="Only pairs that are at least so likely.")] = 0.0,
    stage: Annotated[str | None, typer.Option(help="Which score stage of the run, where it has several.")] = None,
    format: Annotated[str, typer.Option(help="table, csv or json.")] = "table",
) -> None:
    """The best patents of a technique, or the best techniques of a patent, out of a finished run."""
    from patentft.config import ConfigError
    from patentft.scoring import query

    if (technique is None) == (patent is None):
        raise ConfigError("patentft query: give --technique ID or --patent ID, one of them")
    if format not in query.FORMATS:
        raise ConfigError(f"patentft query: --format {format!r} is not one of {', '.join(query.FORMATS)}")
    with query.open_scores(run, stage) as scores:
        if technique is not None:
            found = scores.patents(technique, top, min_probability)
        else:
            found = scores.techniques(patent or "", top, min_probability)
    query.FORMATS[format](found, sys.stdout)


@app.command()
def synth(
    out: Annotated[str, typer.Argument(help="Folder for the tables; finished parts in it are kept.")],
    patents: Annotated[int, typer.Option(help="How many patents.")] = 2000,
    techniques: Annotated[int, typer.Option(help="How many techniques (BREF-like sections).")] = 120,
    matches: Annotated[int, typer.Option(help="How many true (technique, patent) matches.")] = 600,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal bytes.")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Write readable synthetic patents, techniques and their true matches as Parquet tables."""
    from patentft import store
    from patentft.config import build, content
    from patentft.corpus.run import SYNTH
    from patentft.location import Location
    from patentft.progress import Progress
    from patentft.stage import Context

    values = {"patents": patents, "techniques": techniques, "matches": matches, "seed": seed}
    config, progress = build(SYNTH.config, values, "patentft synth"), Progress(quiet)
    # not a pipeline of one stage: that would put its config.yaml into the folder above
    folder = store.open_stage(Location(out), SYNTH.kind, content(config), {}, warn=progress.warn)
    if not folder.done:
        folder.finish(SYNTH.run(config, Context(folder, progress=progress)))
    print(folder.location)


@app.command()
def profile(
    data: Annotated[str, typer.Argument(help="A finished stage's folder, or raw files: a file, a folder or a glob.")],
    table: Annotated[str | None, typer.Option(help="Which table of the stage (default: its texts).")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A text column; may be given again (default: those that read like text).")
    ] = None,
    id: Annotated[str | None, typer.Option(help="The column that names the rows.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Count tokens of this model: a folder, package:NAME or a hub id.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Where texts are cut (default: the model's limit).")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Of CSV files (default: found in the header).")] = None,
    sample_rows: Annotated[int | None, typer.Option(help="Sample for languages and near-duplicates.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sample.")] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder for the page (default: runs/profile/NAME).")] = None,
    quiet: QuietOption = False,
) -> None:
    """What is in a table or in raw files: lengths, duplicates, noise, languages, labels, as a page and as JSON."""
    from patentft.progress import Progress
    from patentft.report.profile.run import profile_data

    options = {"table": table, "text": text or [], "id": id, "tokenizer": tokenizer, "max_tokens": max_tokens}
    options |= {"delimiter": delimiter, "sample_rows": sample_rows, "seed": seed, "title": title}
    print(profile_data(data, out, options, Progress(quiet)) / "index.html")


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """Run the command line; what a user can mend is one message on standard error and exit status 2, and a stage of
    which a part failed one with exit status 1.
    """
    try:
        app(standalone_mode=True)
    except ValueError as error:
        from patentft.config import ConfigError  # here: it imports pydantic, which --help does not need

        if not isinstance(error, ConfigError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        from patentft.stage import Incomplete

        if not isinstance(error, Incomplete):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # what typer makes of Ctrl-C, without a word
            print("interrupted; run the same command again to go on from the last finished part", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
