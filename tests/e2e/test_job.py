"""`ray job submit` to a cluster with token auth gives the rows of the local run."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from patentft import store
from patentft.location import Location
from tests.tiny import small_pipeline

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).parent / "ray")


def free_ports(count: int) -> list[int]:
    """Ports free now, below those that Ray gives to its workers (10002-19999) and the kernel to clients."""
    found: list[int] = []
    for port in range(6400, 9900):
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free port below 9900")


@pytest.fixture
def head(tmp_path) -> Iterator[tuple[str, dict[str, str]]]:
    """A head node of its own, as `ray start --head` with a token makes it: (the jobs' address, the environment)."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(16))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["PATH"] = f"{Path(RAY).parent}:{environment['PATH']}"  # the job's `python` is that of the environment
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    port, dashboard, agent, client = free_ports(4)
    place = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # Unix sockets need a short path
    command = [RAY, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}", "--num-cpus=2"]
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--temp-dir={place}"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        listed: subprocess.CompletedProcess | None = None
        for _ in range(60):  # each try is a client that waits for an answer itself
            listed = subprocess.run([RAY, "job", "list", "--address", address], env=environment, capture_output=True)
            if listed.returncode == 0:
                break
            assert process.poll() is None, (tmp_path / "head.log").read_text()
        assert listed is not None
        assert listed.returncode == 0, listed.stderr.decode()
        yield address, environment
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
        shutil.rmtree(place, ignore_errors=True)


def submit(address: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--", "python", "ray_jobs/run.py"]
    return subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_submitted_job_gives_the_rows_of_the_local_run(whole, head, tmp_path):
    address, environment = head
    out = tmp_path / "run"
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(small_pipeline(out, whole[1]), sort_keys=False))

    refused = submit(address, {**environment, "RAY_AUTH_TOKEN_PATH": os.devnull}, "--config", str(config))
    assert refused.returncode != 0
    wrong = submit(address, environment, "--config", str(config), "scores.swops=3")
    assert wrong.returncode != 0
    assert "did you mean 'swaps'" in wrong.stdout + wrong.stderr

    done = submit(address, environment, "--config", str(config))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    for stage, table in (("patents", "embeddings"), ("search", "candidates"), ("pairs", "pairs"), ("scores", "scores")):
        local, job = (store.finished_stage(Location(place / stage)).read(table) for place in (whole[0], out))
        assert job.equals(local), (stage, table)
    exported = "scorer/export/model.safetensors"
    assert (out / exported).read_bytes() == (whole[0] / exported).read_bytes()
