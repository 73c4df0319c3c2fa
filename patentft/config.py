"""Configuration: pydantic models <- YAML <- dotted overrides (`a.b=c`), with every problem reported at once.

    class TrainConfig(Config):
        epochs: int = 3
        '''Passes over the training pairs.'''          # an attribute docstring is the help text
        workers: int = runtime(1)                       # cannot change a row: not part of the config hash

`build` turns a mapping into a Config or raises one ConfigError that lists every unknown key (with the nearest valid
one), every bad value and every missing key, each under its dotted path.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class ConfigError(ValueError):
    """What a user can cause and mend. The message says what was given, what was expected and what to set."""


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, values are frozen, attribute docstrings are the help."""

    # inf and NaN are refused: they are not JSON, so they would have no digest and no place in a resolved config
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


def runtime(default: Any, **kwargs: Any) -> Any:
    """A field that cannot change any output row (workers, addresses, inference batch): not part of the config hash."""
    return Field(default=default, json_schema_extra={"runtime": True}, **kwargs)


T = TypeVar("T", bound=Config)


def build(cls: type[T], values: Mapping[str, Any], source: str = "") -> T:
    """Validate `values` as a `cls`. Raises ConfigError with all problems, prefixed by `source` (a file, a stage)."""
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_explain(cls, error, source)) from None


def _explain(cls: type[Config], error: ValidationError, source: str) -> str:
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"]) or "all of it"
        if problem["type"] == "extra_forbidden":
            siblings = _fields_at(cls, problem["loc"][:-1])
            lines.append(f"  {path}: unknown key{nearest(str(problem['loc'][-1]), siblings)}")
        elif problem["type"] == "missing":
            lines.append(f"  {path}: required, but not set")
        elif problem["type"] == "value_error":  # one of our validators: its message says what was given
            lines.append(f"  {path}: {problem.get('ctx', {}).get('error', problem['msg'])}")
        else:
            lines.append(f"  {path}: {problem['msg']} (got {_shortened(repr(problem['input']))})")
    head = f"{source}: " if source else ""
    return f"{head}{len(lines)} problem{'s' * (len(lines) > 1)} in the configuration\n" + "\n".join(lines)


def _shortened(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."


def nearest(word: str, known: Sequence[str]) -> str:
    """The end of an error message about an unknown `word`: the nearest known one, or all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(sorted(known)) or 'none'}"


def _fields_at(cls: type[BaseModel], path: Sequence[Any]) -> list[str]:
    """The valid keys of the (nested) model at `path`. Union members and list indices are stepped over."""
    models = [cls]
    for key in path:
        stepped: list[type[BaseModel]] = []
        for model in models:
            if key in model.model_fields:
                stepped += _models_in(model.model_fields[key].annotation)
        models = stepped or models  # an index or a union tag names no field
    return sorted({name for model in models for name in model.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in _models_in(inner)]


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number, keeps a key `yes` or `no` as it is written, and refuses a key given
    twice: YAML would keep the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # here, not when the mapping is constructed: by then merge keys (<<) have put inherited keys beside its own
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise ConfigError(f"{key_node.start_mark.name}:{key_node.start_mark.line + 1}: key {key!r} given twice")
            seen.add(key)
            if key_node.tag == "tag:yaml.org,2002:bool":  # YAML 1.1 takes yes, no, on and off for it; no key of ours is
                key_node.tag = "tag:yaml.org,2002:str"
        return node


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes whatever text `_Loader` would read as a number."""


for _side in (_Loader, _Dumper):
    # YAML 1.1, which PyYAML follows, wants a dot and a sign: it reads 1e-4 and 1.5e4 as texts
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError naming the file (and line) when it is absent or not a mapping."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig") as stream:
            loaded = yaml.load(stream, Loader=_Loader)
    except FileNotFoundError:
        near = [str(p) for p in sorted(path.parent.glob("*.y*ml"))] if path.parent.is_dir() else []
        hint = f"; there is: {', '.join(near)}" if near else ""
        raise ConfigError(f"config file {path} does not exist{hint}") from None
    except IsADirectoryError:
        raise ConfigError(f"config file {path} is a folder; give a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} is not valid YAML: {error}") from None
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"config file {path} must hold a mapping of keys to values, not {type(loaded).__name__}")
    return loaded


def to_yaml(values: Mapping[str, Any]) -> str:
    """YAML text that `read_yaml` reads as equal `values`, keys in their order."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `values` with each `a.b.c=value` set; a value is read as YAML ("null", "[1, 2]", "3e-5").

    A key on the way that is absent or null becomes a mapping. Raises ConfigError for an override without "=" or one
    that steps through a key that holds another value.
    """
    result = json.loads(json.dumps(values, default=str))
    for override in overrides:
        dotted, separator, text = override.partition("=")
        *parents, last = dotted.strip().split(".")
        if not separator or not all((*parents, last)):
            raise ConfigError(f"override {override!r} must have the form key.subkey=value")
        node = result
        for index, key in enumerate(parents):
            if node.get(key) is None:
                node[key] = {}
            node = node[key]
            if not isinstance(node, dict):
                raise ConfigError(
                    f"override {override!r}: {'.'.join(parents[: index + 1])} holds a value, not a mapping"
                )
        try:
            node[last] = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise ConfigError(f"override {override!r}: value is not valid YAML: {error}") from None
    return result


def content(config: BaseModel) -> dict[str, Any]:
    """The JSON-able part of `config` that can change a row: everything but `runtime` fields, at any depth."""
    kept = {}
    for name, field in type(config).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("runtime"):
            continue
        kept[name] = _plain(getattr(config, name))
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return content(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, set | frozenset):
        return sorted(_plain(inner) for inner in value)  # a set of texts has another order in every process
    return str(value) if isinstance(value, Path) else value


def digest(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; used to show two configurations' differences key by key."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
