"""What a stage is: a kind, its configuration, and a function from (config, context) to counts.

A config names other stages' outputs in fields annotated `StageRef` (a stage's name) and models in fields annotated
`ModelRef` (a train stage's name, a local folder, `package:NAME` for a model shipped in a Python package, or a hub id).
`TokenizerRef` is a model of which only the tokenizer is wanted. The pipeline resolves them before the stage runs, and
puts the content ids of what they name into the config hash.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from patentft.config import Config
from patentft.progress import Progress
from patentft.store import StageFolder


class Incomplete(RuntimeError):
    """A stage did what it could; what failed is named, with what to do. Its manifest is not written."""


class _Reference:
    def __init__(self, what: str) -> None:
        self.what = what


StageRef = Annotated[str, _Reference("stage")]
ModelRef = Annotated[str, _Reference("model")]
TokenizerRef = Annotated[str, _Reference("tokenizer")]
"""As a ModelRef, but the folder needs no weights, and none that are there are read, fetched or part of the hash."""
FileRef = Annotated[str, _Reference("file")]
"""A raw input, at any depth of a config: a file, folder or glob, local or an fsspec URL. The SHA-256 of each file it
stands for goes into the config hash."""


def references(config: type[Config]) -> dict[str, str]:
    """Field name -> "stage", "model", "tokenizer" or "file" for the fields of `config` (top level) that refer."""
    found = {}
    for name, info in config.model_fields.items():
        metadata = [*info.metadata, *_nested_metadata(info.annotation)]
        kinds = [meta.what for meta in metadata if isinstance(meta, _Reference)]
        if kinds:
            found[name] = kinds[0]
    return found


def file_references(config: Config) -> list[str]:
    """Every `FileRef` value in `config`, at any depth, in field order."""
    found: list[str] = []
    kinds = references(type(config))
    for name in type(config).model_fields:
        value = getattr(config, name)
        for inner in _leaves(value):
            if isinstance(inner, Config):
                found += file_references(inner)
            elif kinds.get(name) == "file" and inner is not None:
                found.append(inner)
    return found


def _leaves(value: Any) -> Iterator[Any]:
    """The values in lists and mappings, however nested; a plain value itself."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _nested_metadata(annotation: Any) -> list[Any]:
    """Metadata of Annotated types inside `X | None` and `list[X]`."""
    found = list(getattr(annotation, "__metadata__", ()))
    for inner in typing.get_args(annotation):
        if not isinstance(inner, str):
            found += _nested_metadata(inner)
    return found


@dataclass
class Context:
    """What a running stage is given besides its config."""

    folder: StageFolder
    inputs: dict[str, StageFolder] = field(default_factory=dict)  # by stage name, each finished
    models: dict[str, str] = field(default_factory=dict)  # model reference -> local folder or hub id
    progress: Progress = field(default_factory=Progress)
    pipeline: dict[str, StageFolder] = field(default_factory=dict)
    """Every stage finished before this one, whether or not the config names it: for the report's times and counts."""

    def input(self, name: str) -> StageFolder:
        return self.inputs[name]

    def model(self, reference: str) -> str:
        return self.models[reference]


@dataclass(frozen=True)
class Stage:
    kind: str
    config: type[Config]
    run: Callable[[Any, Context], Mapping[str, Any]]
    """Writes parts into context.folder (only the missing ones) and returns the counts for the manifest."""
    uses_ray: bool = True
    check: Callable[[Any, str, Callable[[str], str | None]], None] | None = None
    """Called before anything runs, to refuse what could only fail later, with (config, stage name, model reference ->
    the reference from outside that its training starts from, None when a stage makes the model)."""
