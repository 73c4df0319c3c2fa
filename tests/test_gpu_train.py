"""benchmarks/gpu_train.py: without a GPU it says so, on any machine its two sides compute the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.test_imports import WITHOUT

SCRIPT = str(REPOSITORY / "benchmarks" / "gpu_train.py")


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, cwd=REPOSITORY)


def test_both_sides_compute_the_same_without_ray_and_faiss(tmp_path: Path) -> None:
    out = tmp_path / "claims.json"
    code = WITHOUT.format(hidden=("ray", "faiss"), modules=[]) + (
        f"import runpy\nsys.argv = ['gpu_train.py', '--tiny', '--only', 'lora', '--steps', '5', '--rounds', '1', "
        f"'--out', {str(out)!r}]\nsys.path.insert(0, {str(REPOSITORY / 'benchmarks')!r})\n"
        f"runpy.run_path({SCRIPT!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())["settings"]
    one, two = (found["runs"]["lora"][side][0]["losses"] for side in ("ours", "Trainer"))
    assert len(one) == 5
    assert one == pytest.approx(two, rel=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do(tmp_path: Path) -> None:
    alone = run()
    assert alone.returncode == 2
    assert "needs a GPU" in alone.stderr
    assert "--tiny" in alone.stderr
    among_others = run("--quick", "--out", str(tmp_path / "claims.json"))  # as `make bench` does
    assert among_others.returncode == 0
    assert among_others.stdout.startswith("skipped: no CUDA device")
    assert json.loads((tmp_path / "claims.json").read_text())["skipped"].startswith("no CUDA device")


@pytest.mark.gpu
def test_on_a_gpu_the_claims_hold() -> None:
    done = run("--quick")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
