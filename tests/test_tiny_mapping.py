"""The key `tiny` of a pipeline file: what --tiny changes, and that a mistake in it is found without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from patentft import pipeline
from patentft.config import ConfigError, to_yaml

FILE: dict[str, Any] = {
    "out": "runs/x",
    "corpus": {"kind": "synth", "patents": 100, "techniques": 10, "matches": 20},
    "techniques": {"kind": "embed", "data": "corpus", "table": "techniques", "model": "org/name", "max_tokens": 64},
}


def load(folder: Path, tiny: Any, overrides: list[str] | None = None, on: bool = True) -> pipeline.Pipeline:
    path = folder / "file.yaml"
    path.write_text(to_yaml({**FILE, "tiny": tiny}))
    return pipeline.load(path, overrides or [], tiny=on)


def by_name(loaded: pipeline.Pipeline) -> dict[str, Any]:
    return {step.name: step.config for step in loaded.steps}


def test_changes(tmp_path: Path) -> None:
    tiny = {"base": {"kind": "tiny_model", "data": ["corpus"]}, "techniques": {"model": "base"}}
    loaded = load(tmp_path, {**tiny, "corpus": {"patents": 30}})
    assert [step.name for step in loaded.steps] == ["corpus", "base", "techniques"]
    configs = by_name(loaded)
    assert (configs["corpus"].patents, configs["corpus"].matches) == (30, 20)
    assert (configs["techniques"].model, configs["techniques"].max_tokens) == ("base", 64)
    assert str(loaded.out).endswith("runs/x_tiny")
    assert "tiny" not in loaded.source
    assert by_name(load(tmp_path, tiny, ["techniques.max_tokens=96"]))["techniques"].max_tokens == 96
    assert str(load(tmp_path, {**tiny, "out": "runs/y"}).out).endswith("runs/y")


def test_another_kind_replaces(tmp_path: Path) -> None:
    """Keys of the kind that is no more would be unknown to the other."""
    files = {"files": "p.parquet"}
    corpus = {"kind": "corpus", "patents": files, "techniques": files}
    assert by_name(load(tmp_path, {"corpus": corpus}))["corpus"].matches is None


def test_is_not_used_unless_asked_for(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"corpus": {"patents": 30}}, on=False)
    assert by_name(loaded)["corpus"].patents == 100
    assert str(loaded.out).endswith("runs/x")


@pytest.mark.parametrize("on", [True, False])
def test_mistakes_are_found(on: bool, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tiny\.corpsu: no stage of this name.*did you mean 'corpus'"):
        load(tmp_path, {"corpsu": {"patents": 3}}, on=on)
    with pytest.raises(ConfigError, match=r"(?s)with --tiny.*patens: unknown key; did you mean 'patents'"):
        load(tmp_path, {"corpus": {"patens": 3}}, on=on)
    with pytest.raises(ConfigError, match="tiny: expected a mapping"):
        load(tmp_path, ["corpus"], on=on)


def test_a_file_without_it(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(to_yaml(FILE))
    with pytest.raises(ConfigError, match="the file has no such key"):
        pipeline.load(path, tiny=True)


def test_a_variable_that_only_the_large_run_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checking the mapping that is not used asks for no variable."""
    monkeypatch.delenv("PATENTFT_NOWHERE", raising=False)
    assert load(tmp_path, {"techniques": {"model": "${PATENTFT_NOWHERE}"}}, on=False)
    with pytest.raises(ConfigError, match="environment variable PATENTFT_NOWHERE is not set"):
        load(tmp_path, {"techniques": {"model": "${PATENTFT_NOWHERE}"}})
