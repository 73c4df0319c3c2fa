"""The layering of docs/design.md: who may import whom, where Ray lives, and what a bare install and --help need."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "patentft"
MODULES = sorted(PACKAGE.rglob("*.py"))

SPINE = {"config", "location", "schema", "store", "stats", "progress", "stage", "cluster"}
BELOW = {
    "config": set(),
    "schema": set(),
    "stats": set(),
    "location": {"config"},
    "progress": {"config"},
    "store": {"config", "location", "schema"},
    "stage": {"config", "store", "progress"},
    "cluster": {"config", "progress"},
    "corpus": SPINE,
    "models": SPINE | {"corpus"},
    "generate": SPINE | {"corpus", "models"},
    "export": SPINE | {"corpus", "models"},
    "objectives": SPINE | {"corpus", "models"},
    "train": SPINE | {"corpus", "models", "objectives"},
    "tune": SPINE | {"corpus", "models", "objectives", "train"},
    "search": SPINE | {"corpus", "models"},
    # a scorer asks with the words it was trained with: objectives.rank; a validator asks another model: generate
    "scoring": SPINE | {"corpus", "models", "objectives", "generate", "search"},
    "active": SPINE | {"corpus", "models", "objectives", "generate", "train", "search", "scoring"},
    "forecast": SPINE | {"corpus", "models", "search"},
}
BELOW["report"] = SPINE | set(BELOW)
BELOW["pipeline"] = BELOW["report"] | {"report"}
BELOW["__main__"] = BELOW["pipeline"] | {"pipeline"}
BELOW["jobs"] = BELOW["__main__"] | {"__main__"}
"""Part of the package -> the parts it may import, besides itself. A new part is put here, below what uses it."""

OPTIONAL = ("ray", "faiss", "deepspeed", "bitsandbytes")


def part_of(module: Path) -> str:
    """ "corpus" for patentft/corpus/read.py, "store" for patentft/store.py."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def dotted(module: Path) -> str:
    return ".".join(module.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def imports(module: Path) -> Iterator[str]:
    """Every dotted name that the file imports, wherever in it: "patentft.store", "ray.data"."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            assert node.module is not None
            if node.module == "patentft":
                yield from (f"patentft.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("module", MODULES, ids=dotted)
def test_imports_point_one_way(module: Path) -> None:
    part = part_of(module)
    if part == "__init__":
        allowed = set()
    else:
        assert part in BELOW, f"{part} has no place in the layering: add it to BELOW"
        allowed = BELOW[part] | {part, "__version__"}
    above = {name for name in imports(module) if name.startswith("patentft.") and name.split(".")[1] not in allowed}
    assert not above, f"{dotted(module)} may import {sorted(allowed)}, but imports {sorted(above)}"


def test_the_layering_itself_has_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(BELOW):
        ready = {part for part, below in BELOW.items() if part not in done and below <= done}
        assert ready, f"a circle among {sorted(BELOW.keys() - done)}"
        done |= ready


@pytest.mark.parametrize("module", MODULES, ids=dotted)
def test_ray_lives_in_run_files_and_the_cluster_module(module: Path) -> None:
    if module.name != "run.py" and dotted(module) != "patentft.cluster":
        assert not [name for name in imports(module) if name.split(".")[0] == "ray"]


# Finds modules as Python does, except that some packages are not installed
WITHOUT = """
import importlib, sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {hidden!r} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
for name in {modules!r}:
    importlib.import_module(name)
assert not [name for name in sys.modules if name.split(".")[0] in {hidden!r}]
"""


def test_all_below_the_run_files_imports_without_ray_faiss_deepspeed_and_bitsandbytes() -> None:
    modules = [dotted(module) for module in MODULES if module.name != "run.py"]
    assert {"patentft.cluster", "patentft.pipeline", "patentft.__main__"} <= set(modules)
    code = WITHOUT.format(hidden=OPTIONAL, modules=modules)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert run.returncode == 0, run.stderr[-2000:]


WITHOUT_RAY = (
    "patentft.corpus.run",
    "patentft.export.run",
    "patentft.report.profile.run",
    "patentft.report.answers.run",
)


def test_stages_that_do_not_use_ray_import_without_it() -> None:
    code = WITHOUT.format(hidden=OPTIONAL, modules=list(WITHOUT_RAY))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert run.returncode == 0, run.stderr[-2000:]


def test_help_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "patentft", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert run.returncode == 0, run.stderr[-2000:]
    for name in ("run", "corpus", "train", "search", "score", "report", "synth", "profile"):
        assert name in run.stdout
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in run.stderr.splitlines() if "|" in line}
    assert "typer" in imported  # the parsing above works
    heavy = {"torch", "pyarrow", "ray", "transformers", "numpy", "pydantic", "pandas", "sklearn", "yaml", "fsspec"}
    assert not imported & heavy
