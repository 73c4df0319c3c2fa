"""Pipeline files: every problem at once, families of stages, environment, --redo, and a run that resumes to nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest
from pydantic import Field

from patentft import __main__ as cli
from patentft import pipeline, schema
from patentft.config import Config, ConfigError, read_yaml, runtime
from patentft.corpus.run import CORPUS, SYNTH
from patentft.pipeline import Pipeline, load, parse
from patentft.progress import Progress
from patentft.stage import Context, FileRef, ModelRef, Stage, StageRef, file_references, references
from patentft.store import StageConflict, StageFolder

QUIET = Progress(quiet=True)
RAN: list[str] = []
"""Names of the stages that ran, in order."""


# Small real stages


class SplitConfig(Config):
    data: StageRef
    fold: int = 0
    fraction: float = 0.5
    workers: int = runtime(1)


class TrainConfig(Config):
    roles: StageRef
    epochs: int = 1
    base: ModelRef | None = None


class EmbedConfig(Config):
    data: StageRef = "corpus"
    model: ModelRef
    more: list[ModelRef] = Field(default=[])


class ReportConfig(Config):
    roles: list[StageRef] = Field(default=[])
    models: list[StageRef] = Field(default=[])
    style: Literal["plain", "rich"] = "plain"


def run_split(config: SplitConfig, context: Context) -> dict[str, Any]:
    RAN.append(context.folder.name)
    assert context.input(config.data).done
    roles = pa.table({"id": ["a"], "role": [str(config.fold)]}, schema=schema.ROLES)
    context.folder.write_part("technique_roles", 0, roles)
    return {}


def run_train(config: TrainConfig, context: Context) -> dict[str, Any]:
    RAN.append(context.folder.name)
    role = context.input(config.roles).read("technique_roles")["role"][0].as_py()
    context.folder.write_file("export/config.json", f'{{"fold": {role}, "epochs": {config.epochs}}}'.encode())
    context.folder.write_file("export/model.safetensors", b"weights")
    return {"base": context.model(config.base) if config.base else None}


def run_embed(config: EmbedConfig, context: Context) -> dict[str, Any]:
    RAN.append(context.folder.name)
    models = [context.model(reference) for reference in (config.model, *config.more)]
    assert all((Path(model) / "config.json").is_file() for model in models)
    context.folder.write_file("models.txt", "\n".join(models).encode())
    return {"data": context.input(config.data).name}


def run_report(config: ReportConfig, context: Context) -> dict[str, Any]:
    RAN.append(context.folder.name)
    context.folder.write_file("index.html", b"<html>")
    found = [context.input(name).read("technique_roles")["role"][0].as_py() for name in config.roles]
    return {"roles": found, "earlier": sorted(context.pipeline)}


SPLIT = Stage("split", SplitConfig, run_split, uses_ray=False)
TRAIN = Stage("train", TrainConfig, run_train, uses_ray=False)
EMBED = Stage("embed", EmbedConfig, run_embed, uses_ray=False)
REPORT = Stage("report", ReportConfig, run_report, uses_ray=False)


@pytest.fixture(autouse=True)
def _small_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = (SYNTH, CORPUS, SPLIT, TRAIN, EMBED, REPORT)
    monkeypatch.setattr(pipeline, "kinds", lambda: {stage.kind: stage for stage in stages})
    RAN.clear()


TEXT = """
description: three folds
out: {out}
corpus: {{kind: synth, patents: 8, techniques: 4, matches: 4}}
split:
  kind: split
  each: {{fold: [0, 1, 2]}}
  data: corpus
encoder:
  kind: train
  each: {{fold: [0, 1, 2]}}
  roles: split
vectors:
  kind: embed
  each: {{fold: [0, 1, 2]}}
  model: encoder
report:
  kind: report
  roles: [split]
  models: [encoder-1]
"""
ALL = [*(f"{name}-{fold}" for name in ("split", "encoder", "vectors") for fold in range(3)), "report"]


def loaded(tmp_path: Path, overrides: Sequence[str] = (), text: str = TEXT, out: str = "run") -> Pipeline:
    file = tmp_path / "pipeline.yaml"
    file.write_text(text.format(out=tmp_path / out))
    return load(file, overrides)


def problems(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(values, "demo.yaml")
    return str(caught.value)


def config_of(found: Pipeline, name: str) -> Any:
    return next(step.config for step in found.steps if step.name == name)


# Every problem at once


def test_every_problem_of_a_file_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATENTFT_NOWHERE", raising=False)
    message = problems(
        {
            "descripton": "typo",
            "cluster": {"adress": "auto"},
            "corpus": {"kind": "sinth"},
            "split": {"kind": "split", "data": "corpsu", "fold": "x", "fractoin": 1},
            "later": {"kind": "split", "data": "report"},
            "encoder": {"kind": "train", "each": {"fold": 3}, "roles": "split"},
            "vectors": {"kind": "embed", "data": "corpus", "model": "${PATENTFT_NOWHERE}/x"},
            "report": {"kind": "report", "roles": ["split", "nothing", "nowhere"]},
            "bad/name": {"kind": "synth"},
        }
    )
    assert "descripton: neither a stage with a kind nor a known key; did you mean 'description'?" in message
    assert "adress: unknown key; did you mean 'address'?" in message
    assert "corpus.kind: no stage kind 'sinth'; did you mean 'synth'?" in message
    assert "split.data: no stage is called 'corpsu'; did you mean 'corpus'?" in message
    assert "fold: Input should be a valid integer" in message
    assert "fractoin: unknown key; did you mean 'fraction'?" in message
    assert "later.data: stage 'report' must come before 'later' in the file" in message
    assert "encoder.each: expected one key with a list of values, such as {fold: [0, 1, 2]}; got {'fold': 3}" in message
    assert (
        "vectors.model: ${PATENTFT_NOWHERE} is used but the environment variable PATENTFT_NOWHERE is not set" in message
    )
    assert "report.roles: no stage is called 'nothing'" in message
    assert "report.roles: no stage is called 'nowhere'" in message
    assert "bad/name: a stage's name is a folder's name" in message
    assert "out: required, but not set" in message
    assert message.startswith("demo.yaml: ")


def test_one_mistake_is_one_problem() -> None:
    """A stage with a mistake in it is still there for those that name it."""
    message = problems(
        {
            "out": "x",
            "corpus": {"kind": "synth", "patnts": 8},
            "other": {"kind": "sinth"},
            "split": {"kind": "split", "data": "corpus"},
            "more": {"kind": "split", "data": "other"},
        }
    )
    assert message.startswith("demo.yaml: 2 problems\n")
    assert "patnts: unknown key" in message
    assert "no stage kind 'sinth'" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out": None}, "out: required, but not set"),
        ({"out": ""}, "out: required, but not set"),
        ({"split": {"kind": "split", "data": ["corpus"]}}, "data: Input should be a valid string"),
        ({"split": {"kind": "split", "data": {"a": 1}}}, "split.data: no stage is called"),
        ({"split": {"kind": ["split"], "data": "corpus"}}, "split.kind: no stage kind ['split']"),
        ({"split": {"kind": "split"}}, "data: required, but not set"),
        ({"split": {"kind": "split", "each": {"fold": [0, 0]}, "data": "corpus"}}, "split-0: two stages get this name"),
        ({"split": {"kind": "split", "each": {"name": ["a/b"]}, "data": "corpus"}}, "split-a/b: a stage's name is a f"),
        (
            {"split-0": {"kind": "synth"}, "split": {"kind": "split", "each": {"fold": [0]}, "data": "corpus"}},
            "two sta",
        ),
        ({"corpus": None}, "corpus: neither a stage with a kind nor a known key"),
    ],
)
def test_other_mistakes(change: dict[str, Any], message: str) -> None:
    assert message in problems({"out": "x", "corpus": {"kind": "synth"}} | change)


def test_a_file_without_a_stage_is_refused() -> None:
    assert "there is no stage in it" in problems({"out": "x"})


def test_an_override_of_a_stage_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"encodr: neither a stage .*; did you mean 'encoder'\?"):
        loaded(tmp_path, ["encodr.epochs=2"])
    with pytest.raises(ConfigError, match=r"epoch: unknown key; did you mean 'epochs'\?"):
        loaded(tmp_path, ["encoder.epoch=2"])


# Families and bindings


def test_each_makes_a_family_and_binds_its_references(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    assert [step.name for step in found.steps] == ["corpus", *ALL]
    for fold in range(3):
        assert config_of(found, f"split-{fold}").fold == fold
        assert config_of(found, f"encoder-{fold}").roles == f"split-{fold}"  # its own fold's; it has no `fold` itself
        assert config_of(found, f"vectors-{fold}").model == f"encoder-{fold}"
    assert config_of(found, "report").roles == ["split-0", "split-1", "split-2"]
    assert config_of(found, "report").models == ["encoder-1"]  # one member by its name


def test_a_member_is_named_as_a_model_too() -> None:
    found = parse(
        {
            "out": "x",
            "corpus": {"kind": "synth"},
            "split": {"kind": "split", "data": "corpus"},
            "encoder": {"kind": "train", "each": {"epochs": [1, 2]}, "roles": "split"},
            "vectors": {"kind": "embed", "model": "encoder-2", "more": ["encoder", "org/name"]},
        }
    )
    step = found.steps[-1]
    assert step.config.model_dump()["more"] == ["encoder-1", "encoder-2", "org/name"]
    assert set(step.stage_inputs) == {"corpus", "encoder-1", "encoder-2"}
    assert step.model_inputs == ("org/name",)


def test_a_family_where_one_stage_is_wanted_is_refused() -> None:
    message = problems(
        {
            "out": "x",
            "corpus": {"kind": "synth"},
            "split": {"kind": "split", "each": {"fold": [0, 1]}, "data": "corpus"},
            "encoder": {"kind": "train", "roles": "split"},
        }
    )
    assert "encoder.roles: 'split' stands for 2 stages, but one is wanted here" in message


def test_a_default_reference_counts_like_a_given_one() -> None:
    found = parse({"out": "x", "corpus": {"kind": "synth"}, "vectors": {"kind": "embed", "model": "org/name"}})
    assert found.steps[-1].stage_inputs == ("corpus",)
    message = problems({"out": "x", "vectors": {"kind": "embed", "model": "org/name"}})
    assert "vectors.data: no stage is called 'corpus'" in message


def test_overrides_reach_every_member_of_a_family(tmp_path: Path) -> None:
    folds = [f"{name}.each.fold=[0, 2]" for name in ("split", "encoder", "vectors")]
    found = loaded(tmp_path, ["encoder.epochs=7", *folds, "report.models=[]"])
    assert [step.name for step in found.steps if step.name.startswith("encoder")] == ["encoder-0", "encoder-2"]
    assert {config_of(found, name).epochs for name in ("encoder-0", "encoder-2")} == {7}


def test_environment_variables_are_read_in_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATENTFT_TEST_OUT", str(tmp_path / "from_env"))
    monkeypatch.setenv("PATENTFT_TEST_NAME", "split")
    found = loaded(tmp_path, ["out=${PATENTFT_TEST_OUT}/run", "report.roles=['${PATENTFT_TEST_NAME}-1']"])
    assert found.out.url == str(tmp_path / "from_env" / "run")
    assert config_of(found, "report").roles == ["split-1"]


def test_references_are_found_wherever_they_stand() -> None:
    class Source(Config):
        files: FileRef

    class Deep(Config):
        one: Source
        many: list[Source] = Field(default=[])
        named: dict[str, Source] = Field(default={})
        lone: FileRef | None = None
        several: list[FileRef] = Field(default=[])
        stage: StageRef | None = None
        model: ModelRef = "m"

    assert references(Deep) == {"lone": "file", "several": "file", "stage": "stage", "model": "model"}
    config = Deep(
        one=Source(files="a"),
        many=[Source(files="b"), Source(files="c")],
        named={"x": Source(files="d")},
        lone="e",
        several=["f", "g"],
    )
    assert file_references(config) == list("abcdefg")
    assert file_references(Deep(one=Source(files="a"))) == ["a"]


# Running


def test_a_pipeline_runs_in_order_and_a_second_run_computes_nothing(tmp_path: Path) -> None:
    finished = pipeline.run(loaded(tmp_path), QUIET)
    assert RAN == ALL
    assert list(finished) == ["corpus", *ALL]
    report = finished["report"].manifest
    assert report is not None
    assert report.counts == {"roles": ["0", "1", "2"], "earlier": sorted(["corpus", *ALL[:-1]])}
    text = finished["vectors-2"].read_file("models.txt").decode()
    assert text == str(tmp_path / "run" / "encoder-2" / "export")
    RAN.clear()
    again = pipeline.run(loaded(tmp_path), QUIET)
    assert RAN == []
    assert {name: folder.manifest.id for name, folder in again.items() if folder.manifest} == {
        name: folder.manifest.id for name, folder in finished.items() if folder.manifest
    }


def test_the_resolved_configuration_is_complete_and_is_the_same_run(tmp_path: Path) -> None:
    pipeline.run(loaded(tmp_path, ["encoder.epochs=2"]), QUIET)
    RAN.clear()
    written = tmp_path / "run" / "config.yaml"
    values = read_yaml(written)
    assert values["out"] == str(tmp_path / "run")
    assert values["encoder-1"] == {"kind": "train", "roles": "split-1", "epochs": 2, "base": None}
    assert values["split-0"] == {"kind": "split", "data": "corpus", "fold": 0, "fraction": 0.5, "workers": 1}
    text = written.read_text()
    pipeline.run(load(written), QUIET)
    assert RAN == []
    assert written.read_text() == text


def test_a_runtime_change_computes_nothing_and_another_change_is_a_conflict(tmp_path: Path) -> None:
    pipeline.run(loaded(tmp_path), QUIET)
    RAN.clear()
    pipeline.run(loaded(tmp_path, ["split.workers=8"]), QUIET)
    assert RAN == []
    with pytest.raises(StageConflict, match=r"epochs: 1 -> 5(.|\n)*--redo encoder-0"):
        pipeline.run(loaded(tmp_path, ["encoder.epochs=5"]), QUIET)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = StageFolder.finish

    def cut(self: StageFolder, counts: Any = None) -> Any:
        if self.name == "encoder-1":
            raise KeyboardInterrupt
        return original(self, counts)

    with monkeypatch.context() as patch:
        patch.setattr(StageFolder, "finish", cut)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(loaded(tmp_path), QUIET)
    RAN.clear()
    pipeline.run(loaded(tmp_path), QUIET)
    assert ALL[ALL.index("encoder-1") :] == RAN


def test_redo_makes_a_stage_and_all_that_read_it_anew(tmp_path: Path) -> None:
    pipeline.run(loaded(tmp_path), QUIET)
    RAN.clear()
    pipeline.run(loaded(tmp_path, ["encoder.epochs=5"]), QUIET, redo=["encoder-0", "encoder-1", "encoder-2"])
    assert sorted(RAN) == sorted(ALL[ALL.index("encoder-0") :])
    RAN.clear()
    pipeline.run(loaded(tmp_path, ["encoder.epochs=5"]), QUIET, redo=["split-2"])
    assert RAN == ["split-2", "encoder-2", "vectors-2", "report"]
    with pytest.raises(ConfigError, match=r"no stage is called 'split-9'; did you mean 'split-\d'\?"):
        pipeline.run(loaded(tmp_path), QUIET, redo=["split-9"])


def test_redo_deletes_no_folder_that_is_not_a_stages(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="is not a stage's folder"):
        pipeline.run(loaded(tmp_path, out="."), QUIET, redo=["report"])
    assert (tmp_path / "report" / "thesis.tex").exists()


def test_only_chosen_stages_and_what_they_read_are_run(tmp_path: Path) -> None:
    finished = pipeline.run(loaded(tmp_path), QUIET, only=["vectors-1"])
    assert list(finished) == ["corpus", "split-1", "encoder-1", "vectors-1"]
    found = loaded(tmp_path)
    assert pipeline.names_of_kinds(found, ["train"]) == ["encoder-0", "encoder-1", "encoder-2"]
    with pytest.raises(ConfigError, match="the pipeline has no stage of kind corpus"):
        pipeline.names_of_kinds(found, ["corpus"])


def test_models_from_elsewhere_count_by_their_content(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    corpus = "corpus: {{kind: synth, patents: 8, techniques: 4, matches: 4}}"
    found = loaded(tmp_path, text=f"out: {{out}}\n{corpus}\nvectors: {{{{kind: embed, model: {model}}}}}\n")
    finished = pipeline.run(found, QUIET)
    assert finished["vectors"].read_file("models.txt").decode() == str(model)
    RAN.clear()
    pipeline.run(found, QUIET)
    assert RAN == []
    (model / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(StageConflict, match=f"content of model:{model}"):
        pipeline.run(found, QUIET)


def test_raw_files_count_by_their_content(tmp_path: Path) -> None:
    patents = tmp_path / "patents.csv"
    patents.write_text("patent_id,title,abstract\nP1,t,a\n")
    (tmp_path / "techniques.jsonl").write_text('{"technique_id": "T1", "title": "t", "text": "x"}\n')
    values = {
        "out": str(tmp_path / "run"),
        "corpus": {
            "kind": "corpus",
            "patents": {"files": str(patents)},
            "techniques": {"files": str(tmp_path / "techniques.jsonl")},
        },
    }
    pipeline.run(parse(values), QUIET)
    os.utime(patents, (0, 0))  # its date is not its content
    assert pipeline.run(parse(values), QUIET)["corpus"].done
    patents.write_text("patent_id,title,abstract\nP1,t,b\n")
    with pytest.raises(StageConflict, match=rf"content of file:{patents}"):
        pipeline.run(parse(values), QUIET)
    pipeline.run(parse(values), QUIET, redo=["corpus"])
    patents.unlink()
    with pytest.raises(ConfigError, match=r"no data file matches .*patents\.csv; .* holds techniques\.jsonl"):
        pipeline.run(parse(values), QUIET)


def test_a_damaged_model_is_found_before_it_is_used(tmp_path: Path) -> None:
    pipeline.run(loaded(tmp_path), QUIET, only=["encoder-0"])
    weights = tmp_path / "run" / "encoder-0" / "export" / "model.safetensors"
    weights.write_bytes(b"weightz")
    with pytest.raises(ConfigError, match=r"encoder-0/export/model\.safetensors is damaged"):
        pipeline.run(loaded(tmp_path), QUIET, only=["vectors-0"])


# The command line


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["patentft", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code if isinstance(caught.value.code, int) else 0


def test_the_command_prints_the_page_and_errors_go_to_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded(tmp_path)  # writes the file
    file = str(tmp_path / "pipeline.yaml")
    assert command(monkeypatch, "run", file, "--quiet") == 0
    assert capsys.readouterr().out == f"{tmp_path}/run/report/index.html\n"
    assert command(monkeypatch, "run", file, "encoder.epoch=3") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert "did you mean 'epochs'?" in shown.err
    assert "Traceback" not in shown.err
    assert command(monkeypatch, "run", file, "encoder.epochs=3", "--redo", "encoder-0", "--redo", "encoder-1") == 2
    assert "--redo encoder-2" in capsys.readouterr().err


def test_an_interrupt_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "load", interrupt)
    assert command(monkeypatch, "run", "x.yaml") == 130
    assert "run the same command again" in capsys.readouterr().err


def test_synth_writes_into_its_folder_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("not ours")
    arguments = ["synth", str(tmp_path / "out"), "--patents", "8", "--techniques", "4", "--matches", "4"]
    assert command(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    assert (tmp_path / "config.yaml").read_text() == "not ours"
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "out"]
    assert command(monkeypatch, *arguments) == 0
    assert command(monkeypatch, *arguments, "--seed", "1") == 2
    assert "seed: 0 -> 1" in capsys.readouterr().err
