"""A driver that is killed with -9 at a chosen place: by the process that has just committed a chosen file."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
    import json, os, signal, sys
    from pathlib import Path
    from patentft import location
    os.environ.setdefault("DRIVER", str(os.getpid()))
    commit = location.Location.commit

    def dying(self, data):
        commit(self, data)
        if self.url.endswith(os.environ["PLACE"]):
            Path(os.environ["MARKER"]).touch()
            os.kill(int(os.environ["DRIVER"]), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    location.Location.commit = dying
    if __name__ == "__main__":
        from patentft import pipeline
        from patentft.progress import Progress
        if sys.argv[2] == "ray":
            import ray
            ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR",
                     runtime_env={"env_vars": {name: os.environ[name] for name in ("DRIVER", "PLACE", "MARKER")},
                                  "worker_process_setup_hook": "dying_driver.hook"})
        pipeline.run(pipeline.parse(json.loads(sys.argv[1])), Progress(quiet=True))

    def hook():
        pass
"""


def kill_driver(folder: Path, values: dict[str, Any], place: str, *, uses_ray: bool) -> None:
    """Runs the pipeline in a process of its own until a file whose path ends in `place` has been committed."""
    (folder / "dying_driver.py").write_text(textwrap.dedent(SCRIPT))
    marker = folder / "killed"
    environment = {**os.environ, "PLACE": place, "MARKER": str(marker)}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), os.getcwd(), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(folder / "dying_driver.py"), json.dumps(values), "ray" if uses_ray else "alone"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert marker.exists()


def content(out: Path) -> dict[str, str]:
    """Path -> SHA-256 of every committed file but manifests (they hold seconds) and ledgers."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
        and path.parent != out
        and path.name not in ("manifest.json", "stage.json")
        and "ledger" not in path.parts
    }


def sample(cases: Iterable[str], *quick: str) -> list[Any]:
    """The cases as parameters: those named in `quick` are in every run, the others are slow."""
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]
