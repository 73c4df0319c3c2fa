"""Answers that must be JSON of a given schema: what the model is told, and what is wrong with what it wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from patentft.config import ConfigError


class SchemaCheck:
    """A JSON schema (any draft; `$schema` names it, without one the newest). Raises ConfigError when it is no good.

    A `$ref` to another document is not fetched.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        import referencing
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import validator_for

        schema = dict(schema)
        validator = validator_for(schema)
        try:
            validator.check_schema(schema)
        except SchemaError as error:
            raise ConfigError(f"the JSON schema is not valid at {error.json_path}: {error.message}") from error
        self.schema = schema
        self._validator = validator(schema, registry=referencing.Registry())

    def instruction(self) -> str:
        """What is said to the model after the question."""
        return f"Answer with JSON only. It must fit this JSON schema:\n{json.dumps(self.schema, ensure_ascii=False)}"

    def read(self, text: str) -> tuple[Any, str | None]:
        """(the value, None), or (None, what is wrong with the text)."""
        from jsonschema.exceptions import best_match
        from referencing.exceptions import Unresolvable

        try:
            value = find_json(text)
        except ValueError as error:
            return None, f"it is not JSON: {error}"
        try:
            problem = best_match(self._validator.iter_errors(value))
        except Unresolvable as error:
            raise ConfigError(f"the JSON schema refers to {error.ref!r}, which is not in it") from error
        if problem is not None:
            return None, f"at {problem.json_path}: {problem.message}"
        return value, None


_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)


def find_json(text: str) -> Any:
    """The JSON value that the text is, or that stands in its first code fence, or that begins at its first brace or
    bracket: models write a sentence before it. Raises ValueError when there is none; NaN and Infinity are not JSON.
    """
    decoder = json.JSONDecoder(parse_constant=_refuse)
    fenced = _FENCED.search(text)
    whole = (fenced[1] if fenced else text).strip()
    try:
        return decoder.decode(whole)
    except ValueError as error:
        begin = re.search(r"[\[{]", whole)
        if begin is None:
            raise error
        return decoder.raw_decode(whole, begin.start())[0]


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
