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

ConfigArgument = Annotated[str, typer.Argument(help="A pipeline file (YAML), such as ray_jobs/configs/demo.yaml.")]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(help="Overrides, such as out=runs/x search.top_k=50.", metavar="[a.b=c]...")
]
RedoOption = Annotated[
    list[str] | None, typer.Option("--redo", help="Delete this stage's parts, and its readers', and make them anew.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings, errors and the result.")]


def _run(config: str, overrides: list[str] | None, redo: list[str] | None, quiet: bool, kinds: list[str]) -> None:
    from patentft import pipeline
    from patentft.progress import Progress

    loaded = pipeline.load(config, overrides or [])
    only = pipeline.names_of_kinds(loaded, kinds) if kinds else []
    finished = pipeline.run(loaded, Progress(quiet), redo=redo or [], only=only)
    last = list(finished.values())[-1]
    assert last.manifest is not None
    page = next((entry.path for entry in last.manifest.files if entry.path == "index.html"), "")
    print(last.location / page if page else last.location)


@app.command()
def run(config: ConfigArgument, overrides: OverridesArgument = None, redo: RedoOption = None,
        quiet: QuietOption = False) -> None:
    """Run all stages of a pipeline file; finished ones are left as they are. Prints the path of the result."""
    _run(config, overrides, redo, quiet, [])


@app.command()
def corpus(config: ConfigArgument, overrides: OverridesArgument = None, redo: RedoOption = None,
           quiet: QuietOption = False) -> None:
    """Read, check and split the raw files: the pipeline's corpus stages."""
    _run(config, overrides, redo, quiet, ["synth", "corpus", "split"])


@app.command()
def train(config: ConfigArgument, overrides: OverridesArgument = None, redo: RedoOption = None,
          quiet: QuietOption = False) -> None:
    """Train: the pipeline's train stages and what they read."""
    _run(config, overrides, redo, quiet, ["train"])


@app.command()
def search(config: ConfigArgument, overrides: OverridesArgument = None, redo: RedoOption = None,
           quiet: QuietOption = False) -> None:
    """Embed and prefilter: the pipeline's search stages and what they read."""
    _run(config, overrides, redo, quiet, ["search"])


@app.command()
def score(config: ConfigArgument, overrides: OverridesArgument = None, redo: RedoOption = None,
          quiet: QuietOption = False) -> None:
    """Score and calibrate the candidates: the pipeline's score stages and what they read."""
    _run(config, overrides, redo, quiet, ["score"])


@app.command()
def report(config: ConfigArgument, overrides: OverridesArgument = None, redo: RedoOption = None,
           quiet: QuietOption = False) -> None:
    """Write the report: the pipeline's report stages and what they read."""
    _run(config, overrides, redo, quiet, ["report"])


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
    from patentft import pipeline
    from patentft.location import Location
    from patentft.progress import Progress

    place = Location(out)
    parent, _, name = place.url.rpartition("/")
    values = {"kind": "synth", "patents": patents, "techniques": techniques, "matches": matches, "seed": seed}
    loaded = pipeline.parse({"out": parent or "/", name: values}, source="patentft synth")
    pipeline.run(loaded, Progress(quiet))
    print(place)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """Run the command line; what a user can mend is one message on standard error and exit status 2."""
    from patentft.config import ConfigError

    try:
        app(standalone_mode=True)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on from the last finished part", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
