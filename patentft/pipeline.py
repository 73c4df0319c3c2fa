"""A pipeline file: a mapping of stage name -> {kind, its config}, run in order.

    out: runs/demo                      # reserved keys: out, cluster, description
    corpus:
      kind: corpus
      patents: {files: data/patents.parquet}
    split:
      kind: split
      each: {fold: [0, 1, 2]}           # becomes split-0, split-1, split-2, each with its `fold` set
      data: corpus                      # a stage by its name
    encoder:
      kind: train
      each: {fold: [0, 1, 2]}
      roles: split                      # inside an `each` of the same key: this fold's split
    report:
      kind: report
      roles: [split]                    # outside: a list field gets all of them

`${VARIABLE}` in a value is read from the environment. Before anything runs, every stage's config is validated and every
reference resolved; all problems are reported at once.

    tiny:                             # what `patentft run FILE --tiny` changes: the same pipeline, small enough to try
      base: {kind: tiny_model, data: corpus}     # a stage of its own stands before the first that names it
      encoder: {model: base, epochs: 1}

Without --tiny the mapping is checked and not used. With it the run folder is <out>_tiny, unless tiny.out is set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patentft import store
from patentft.cluster import ClusterConfig, connection
from patentft.config import Config, ConfigError, apply_overrides, build, content, nearest, read_yaml, to_yaml
from patentft.location import Location
from patentft.progress import Progress
from patentft.stage import Context, Stage, file_references, references

RESERVED = ("out", "cluster", "description")
TINY = "tiny"
STAGE_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"


def kinds() -> dict[str, Stage]:
    """Every stage kind. Imported here, not at the top: the CLI's --help needs none of it."""
    from patentft.corpus.bref.run import BREF, VIEWS_STAGE
    from patentft.corpus.join.run import JOIN
    from patentft.corpus.qa import QA
    from patentft.corpus.run import CORPUS, PAIRS, SPLIT, SYNTH
    from patentft.corpus.texts.run import STAGES as TEXT_STAGES
    from patentft.export.run import EXPORT
    from patentft.generate.run import ANSWER
    from patentft.models.tiny import TINY_MODEL
    from patentft.report.answers.run import EVALUATE_ANSWERS
    from patentft.report.profile.run import PROFILE
    from patentft.report.run import REPORT
    from patentft.scoring.run import SCORE
    from patentft.scoring.shortlist import SHORTLIST
    from patentft.scoring.validate import VALIDATE
    from patentft.search.lexical import LEXICAL
    from patentft.search.run import EMBED, SEARCH
    from patentft.search.union import UNION
    from patentft.train.run import TRAIN

    return {
        **TEXT_STAGES,
        "synth": SYNTH,
        "corpus": CORPUS,
        "join": JOIN,
        "qa": QA,
        "bref": BREF,
        "views": VIEWS_STAGE,
        "split": SPLIT,
        "embed": EMBED,
        "search": SEARCH,
        "lexical": LEXICAL,
        "union": UNION,
        "pairs": PAIRS,
        "tiny_model": TINY_MODEL,
        "train": TRAIN,
        "score": SCORE,
        "shortlist": SHORTLIST,
        "validate": VALIDATE,
        "report": REPORT,
        "profile": PROFILE,
        "export": EXPORT,
        "answer": ANSWER,
        "evaluate_answers": EVALUATE_ANSWERS,
    }


@dataclass(frozen=True)
class Step:
    """One stage of a pipeline, its config valid and its references resolved to stage names."""

    name: str
    stage: Stage
    config: Config
    stage_inputs: tuple[str, ...] = ()
    model_inputs: tuple[str, ...] = ()
    tokenizer_inputs: tuple[str, ...] = ()
    file_inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pipeline:
    out: Location
    cluster: ClusterConfig
    steps: list[Step]
    source: dict[str, Any] = field(default_factory=dict)
    """The file with its overrides: written to <out>/config.yaml, and running that gives the same run."""


def load(path: str | Path, overrides: Sequence[str] = (), tiny: bool = False) -> Pipeline:
    """Read and check a pipeline file. tiny: with the changes of its `tiny` mapping, which `overrides` may change
    again. Raises ConfigError listing every problem in it, and for `tiny` without such a mapping."""
    values = read_yaml(path)
    changes = values.pop(TINY, None)
    if changes is None:
        if tiny:
            raise ConfigError(f"{path}: --tiny changes what the key tiny says, and the file has no such key")
    else:
        small = with_tiny(values, changes, str(path))
        parse(small, f"{path} with --tiny", environment=False)  # wrong in the file is wrong, used or not
        values = small if tiny else values
    return parse(apply_overrides(values, overrides), source=str(path))


def with_tiny(values: Mapping[str, Any], changes: Any, source: str = "pipeline") -> dict[str, Any]:
    """The pipeline mapping with what `tiny` changes. A mapping is changed key by key, but replaced where it gives
    another `kind`; a new stage stands before the first that names it, else at the end.

    Raises ConfigError for a stage that is not there and has no kind. Unknown keys are found by `parse`.
    """
    if not isinstance(changes, Mapping):
        raise ConfigError(f"{source}: tiny: expected a mapping of stage names to what changes in them; got {changes!r}")
    stages = [name for name, body in values.items() if isinstance(body, Mapping) and "kind" in body]
    unknown = [
        f"  tiny.{name}: no stage of this name, and no kind to make one{nearest(name, stages)}"
        for name, body in changes.items()
        if name not in (*stages, *RESERVED) and not (isinstance(body, Mapping) and "kind" in body)
    ]
    if unknown:
        raise ConfigError(f"{source}: {len(unknown)} problem{'s' * (len(unknown) > 1)}\n" + "\n".join(unknown))
    changed = dict(_merged(values, {name: body for name, body in changes.items() if name in values}))
    if "out" not in changes and changed.get("out"):
        changed["out"] = f"{str(changed['out']).rstrip('/')}_tiny"
    for name, body in changes.items():
        if name not in values:
            places = list(changed)
            readers = [place for place in places if place not in RESERVED and name in _texts_in(changed[place])]
            at = places.index(readers[0]) if readers else len(places)
            changed = dict([*list(changed.items())[:at], (name, body), *list(changed.items())[at:]])
    return changed


def _merged(value: Any, change: Any) -> Any:
    if not isinstance(value, Mapping) or not isinstance(change, Mapping):
        return change
    if "kind" in change and change["kind"] != value.get("kind"):
        return change
    return {**value, **{key: _merged(value.get(key), inner) for key, inner in change.items()}}


def _texts_in(value: Any) -> set[str]:
    """Every text at any depth of the values."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return {text for inner in value for text in _texts_in(inner)}
    return {value} if isinstance(value, str) else set()


def parse(values: Mapping[str, Any], source: str = "pipeline", environment: bool = True) -> Pipeline:
    """Check a pipeline's mapping. environment: whether a `${VARIABLE}` must be set; else it may stay as it is.

    Raises ConfigError listing every problem.
    """
    problems: list[str] = []
    values = _expand_environment(values, "", problems if environment else [])
    known = kinds()
    stages: dict[str, Any] = {}
    near = [*RESERVED, *(name for name, body in values.items() if isinstance(body, dict) and "kind" in body)]
    for name, body in values.items():
        if name in RESERVED:
            continue
        if not isinstance(body, dict) or "kind" not in body:
            problems.append(f"  {name}: neither a stage with a kind nor a known key{nearest(name, near)}")
        else:
            stages[name] = body
            if str(body["kind"]) not in known:
                problems.append(
                    f"  {name}.kind: no stage kind {body['kind']!r}{nearest(str(body['kind']), list(known))}"
                )
    if not values.get("out"):
        problems.append("  out: required, but not set (the run folder; set it in the file or as out=FOLDER)")
    cluster = ClusterConfig()
    try:
        cluster = build(ClusterConfig, values.get("cluster") or {}, "cluster")
    except ConfigError as error:
        problems.append(_indented(error))
    families, members = _expand_each(stages, problems)
    steps: list[Step] = []
    order = [name for name, _, _ in members]
    if not values.keys() - set(RESERVED):
        problems.append("  there is no stage in it")
    for name in sorted({name for name in order if order.count(name) > 1}):
        problems.append(f"  {name}: two stages get this name")
    for index, (name, body, binding) in enumerate(members):
        try:
            if not re.fullmatch(STAGE_NAME, name):
                raise ConfigError(f"{name}: a stage's name is a folder's name: letters, digits, '_', '.', '-'")
            if str(body["kind"]) in known:
                steps.append(_step(name, body, binding, known, families, order[:index]))
        except ConfigError as error:
            problems.append(_indented(error))
    if problems:
        raise ConfigError(f"{source}: {len(problems)} problem{'s' * (len(problems) > 1)}\n" + "\n".join(problems))
    return Pipeline(Location(values["out"]), cluster, steps, dict(values))


def _indented(error: ConfigError) -> str:
    return "\n".join("  " + line for line in str(error).splitlines())


def _expand_environment(value: Any, path: str, problems: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            k: _expand_environment(inner, f"{path}.{k}" if path else str(k), problems) for k, inner in value.items()
        }
    if isinstance(value, list):
        return [_expand_environment(inner, path, problems) for inner in value]
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            problems.append(f"  {path}: {match[0]} is used but the environment variable {match[1]} is not set")
        return os.environ.get(match[1], match[0])

    return re.sub(r"\$\{(\w+)\}", look_up, value)


Binding = dict[str, Any]
Family = list[tuple[str, Binding]]


def _expand_each(
    stages: Mapping[str, Any], problems: list[str]
) -> tuple[dict[str, Family], list[tuple[str, dict, Binding]]]:
    """Stage families: name -> [(member name, its bindings)], and the members with their bodies, in order."""
    families: dict[str, Family] = {}
    members: list[tuple[str, dict, Binding]] = []
    for name, stage_body in stages.items():
        body = {key: value for key, value in stage_body.items() if key not in ("kind", "each")} | {
            "kind": stage_body["kind"]
        }
        each = stage_body.get("each")
        if each is None:
            families[name] = [(name, {})]
            members.append((name, body, {}))
            continue
        if not isinstance(each, dict) or len(each) != 1 or not isinstance(next(iter(each.values())), list):
            problems.append(
                f"  {name}.each: expected one key with a list of values, such as {{fold: [0, 1, 2]}}; got {each!r}"
            )
            continue
        ((key, options),) = each.items()
        families[name] = [(f"{name}-{option}", {key: option}) for option in options]
        members += [(member, body | binding, binding) for member, binding in families[name]]
    return families, members


def _step(
    name: str,
    body: dict,
    binding: Binding,
    known: Mapping[str, Stage],
    families: Mapping[str, Family],
    earlier: Sequence[str],
) -> Step:
    stage = known[body["kind"]]
    values = {key: value for key, value in body.items() if key != "kind"}
    found: dict[str, list[str]] = {"stage": [], "model": [], "tokenizer": []}
    # a binding that the stage's config does not have only names the member: every fold may use the same config
    for key in binding:
        if key not in stage.config.model_fields:
            values.pop(key, None)
    problems: list[str] = []
    kind_of = references(stage.config)
    for key, what in kind_of.items():
        if what == "file":
            continue
        info = stage.config.model_fields[key]
        if key not in values and not info.is_required():  # a default names a stage or a model as well
            values[key] = info.get_default(call_default_factory=True)
        if values.get(key) is None:
            continue
        given = values[key] if isinstance(values[key], list) else [values[key]]
        resolved: list[str] = []
        for reference in map(str, given):
            try:
                targets = _members_of(reference, binding, families, f"{name}.{key}", external=what != "stage")
            except ConfigError as error:
                problems.append(str(error))
                continue
            for target in targets or [reference]:
                resolved.append(target)
                found["stage" if targets else what].append(target)
            problems += [
                f"{name}.{key}: stage {target!r} must come before {name!r} in the file"
                for target in targets
                if target not in earlier
            ]
        if isinstance(values[key], list):
            values[key] = resolved
        elif len(resolved) == 1:
            values[key] = resolved[0]
        elif resolved:
            problems.append(f"{name}.{key}: {values[key]!r} stands for {len(resolved)} stages, but one is wanted here")
    config = None
    try:
        config = build(stage.config, values, name)
    except ConfigError as error:
        problems.append(str(error))
    if config is None or problems:
        raise ConfigError("\n".join(problems))
    return Step(
        name,
        stage,
        config,
        tuple(found["stage"]),
        tuple(found["model"]),
        tuple(found["tokenizer"]),
        tuple(file_references(config)),
    )


def _members_of(
    reference: str, binding: Binding, families: Mapping[str, Family], where: str, external: bool = False
) -> list[str]:
    """The stages that a reference stands for; none for a model from elsewhere, when `external` allows one."""
    for members in families.values():
        if reference in [member for member, _ in members]:
            return [reference]
    if reference not in families:
        if external:
            return []
        raise ConfigError(f"{where}: no stage is called {reference!r}{nearest(reference, list(families))}")
    matching = [
        member for member, bound in families[reference] if all(binding.get(k, v) == v for k, v in bound.items())
    ]
    return matching


def run(
    pipeline: Pipeline, progress: Progress, redo: Sequence[str] = (), only: Sequence[str] = ()
) -> dict[str, store.StageFolder]:
    """Run the stages in order; a finished one is left as it is. Returns the finished stage folders by name.

    redo: stages whose parts are deleted first, with those of every stage that reads them.
    only: these stages and what they read, nothing else (all stages when empty).
    """
    names = [step.name for step in pipeline.steps]
    redo = [member for name in redo for member in _named(pipeline, name)]
    for name in only:
        if name not in names:
            raise ConfigError(f"no stage is called {name!r}{nearest(name, names)}")
    steps = [step for step in pipeline.steps if not only or step.name in _with_inputs(pipeline.steps, only)]
    for name in _with_readers(pipeline.steps, redo):
        store.remove_stage(pipeline.out / name)
        progress.say(f"{name}: deleted, to be made anew")
    _check(pipeline, steps)
    (pipeline.out / "config.yaml").commit(_resolved(pipeline).encode())
    finished: dict[str, store.StageFolder] = {}
    prepared = _Run(pipeline, progress, finished)
    with ExitStack() as stack:
        connected = False
        for step in steps:
            folder, models = prepared.open(step)
            if folder.manifest is not None:
                finished[step.name] = folder
                progress.say(f"{step.name}: done before ({summary(folder.manifest)})")
                continue
            if step.stage.uses_ray and not connected:  # a run with nothing left to do starts no cluster
                stack.enter_context(connection(pipeline.cluster, progress))
                connected = True
            prepared.run_step(step, folder, models)
    return finished


def _check(pipeline: Pipeline, steps: Sequence[Step]) -> None:
    """What stages can refuse before the first of them runs."""
    models = {step.name: getattr(step.config, "model", None) for step in pipeline.steps}

    def start_of(reference: str) -> str | None:
        while reference in models:
            start = models[reference]
            if not isinstance(start, str):
                return None
            reference = start
        return reference

    for step in steps:
        if step.stage.check is not None:
            step.stage.check(step.config, step.name, start_of)


def _named(pipeline: Pipeline, name: str) -> list[str]:
    """The stage of this name, or every member of the family ("encoder" for encoder-0, encoder-1, ...)."""
    names = [step.name for step in pipeline.steps]
    if name in names:
        return [name]
    body = pipeline.source.get(name)
    options = next(iter(body["each"].values())) if isinstance(body, dict) and body.get("each") else []
    if not options:
        raise ConfigError(f"no stage is called {name!r}{nearest(name, names)}")
    return [f"{name}-{option}" for option in options]


def names_of_kinds(pipeline: Pipeline, chosen: Sequence[str]) -> list[str]:
    """Names of the stages of these kinds. Raises ConfigError when the pipeline has none."""
    names = [step.name for step in pipeline.steps if step.stage.kind in chosen]
    if not names:
        raise ConfigError(f"the pipeline has no stage of kind {' or '.join(chosen)}")
    return names


@dataclass
class _Run:
    pipeline: Pipeline
    progress: Progress
    finished: dict[str, store.StageFolder]

    def open(self, step: Step) -> tuple[store.StageFolder, dict[str, str]]:
        """The step's folder, and its models resolved to local folders or hub ids."""
        inputs: dict[str, str] = {}
        for name in step.stage_inputs:
            manifest = self.finished[name].manifest
            assert manifest is not None
            inputs[name] = manifest.id
        models: dict[str, str] = {}
        for reference in dict.fromkeys((*step.model_inputs, *step.stage_inputs)):
            if reference in self.finished:
                if self.finished[reference].kind in ("train", "tiny_model"):
                    models[reference] = local_export(self.finished[reference])
                continue
            from patentft.models.load import fingerprint, resolve

            models[reference] = resolve(reference)
            inputs[f"model:{reference}"] = fingerprint(models[reference])
        for reference in dict.fromkeys(step.tokenizer_inputs):
            from patentft.models.tokenizer import resolve_tokenizer, tokenizer_fingerprint

            models[reference] = resolve_tokenizer(reference)
            inputs[f"tokenizer:{reference}"] = tokenizer_fingerprint(models[reference])
        for pattern in step.file_inputs:
            from patentft.corpus.read import list_files

            for index, file in enumerate(list_files(pattern)):
                inputs[f"file:{pattern}:{index}:{file.name}"] = store.file_digest(file)
        folder = store.open_stage(
            self.pipeline.out / step.name, step.stage.kind, content(step.config), inputs, warn=self.progress.warn
        )
        return folder, models

    def run_step(self, step: Step, folder: store.StageFolder, models: dict[str, str]) -> None:
        self.progress.say(f"{step.name}: running ({step.stage.kind})")
        needed = {name: self.finished[name] for name in step.stage_inputs}
        context = Context(folder, needed, models, self.progress, dict(self.finished))
        counts = step.stage.run(step.config, context)
        manifest = folder.finish(counts)
        self.finished[step.name] = folder
        self.progress.say(f"{step.name}: done in {manifest.seconds:.1f} s ({summary(manifest)})")


def summary(manifest: store.Manifest) -> str:
    tables = [f"{totals['rows']:,} {table}" for table, totals in manifest.tables.items() if totals["rows"]]
    return ", ".join(tables) or f"{len(manifest.files)} files"


def local_export(folder: store.StageFolder) -> str:
    """A train (or tiny_model) stage's exported model as a local folder, its files' checksums verified."""
    assert folder.manifest is not None
    exported = [entry.path for entry in folder.manifest.files if entry.path.startswith("export/")]
    if not exported:
        raise ConfigError(f"stage {folder.name!r} exported no model")
    if folder.location.is_local:
        for path in exported:
            folder.read_file(path)
        return str(folder.location / "export")
    cache = Path(os.environ.get("PATENTFT_CACHE", "~/.cache/patentft")).expanduser() / folder.manifest.id
    for path in exported:
        target = Location(cache / path)
        if not target.exists():
            target.commit(folder.read_file(path))
    return str(cache / "export")


def _with_inputs(steps: Sequence[Step], names: Sequence[str]) -> set[str]:
    chosen = set(names)
    for step in reversed(steps):
        if step.name in chosen:
            chosen |= set(step.stage_inputs)
    return chosen


def _with_readers(steps: Sequence[Step], names: Sequence[str]) -> list[str]:
    chosen = set(names)
    for step in steps:
        if chosen & set(step.stage_inputs):
            chosen.add(step.name)
    return [step.name for step in steps if step.name in chosen]


def _resolved(pipeline: Pipeline) -> str:
    """The whole run as a pipeline file: every stage with every key, defaults included."""
    document: dict[str, Any] = {"out": pipeline.out.url, "cluster": pipeline.cluster.model_dump(mode="json")}
    for step in pipeline.steps:
        document[step.name] = {"kind": step.stage.kind, **step.config.model_dump(mode="json")}
    head = "# Written by patentft: the resolved configuration. `patentft run` on this file gives the same run.\n"
    return head + to_yaml(document)
