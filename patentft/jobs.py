"""The command line of ray_jobs/*.py: one CLI command, its pipeline file given as `--config FILE`.

    ray job submit --working-dir . -- python ray_jobs/train.py --config ray_jobs/configs/demo.yaml out=s3://bucket/run

Ray unpacks the working directory on the head node and puts it on PYTHONPATH there and on every worker, so patentft
itself need not be installed on the cluster, only its dependencies. Relative paths end with that folder: on a cluster,
`out` is a shared file system or an object store.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from patentft.__main__ import OverridesArgument, QuietOption, RedoOption
from patentft.config import ConfigError

ConfigOption = Annotated[str, typer.Option("--config", help="A pipeline file, such as ray_jobs/configs/demo.yaml.")]


def main(command: Callable[..., None]) -> None:
    """Run a command of patentft.__main__ on this process's arguments.

    Exits with 0 when it is done and with 2 for what a user can mend; any other exception ends the process with its
    traceback. Ray reports a job as failed unless it exits with 0.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command(help=command.__doc__)
    def job(
        config: ConfigOption, overrides: OverridesArgument = None, redo: RedoOption = None, quiet: QuietOption = False
    ) -> None:
        command(config, overrides, redo, quiet)

    try:
        app()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
