"""Answers in a folder, by content: one file for each, under the SHA-256 of all that it depends on.

A file is committed whole, so that any number of processes may read and write one folder, local or in an object store:
two that write the same answer write it one after the other, and either is good.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from patentft.config import ConfigError
from patentft.location import Location


class AnswerCache:
    """A folder of JSON files, 256 folders wide."""

    def __init__(self, folder: Location) -> None:
        self.folder = folder

    def read(self, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was stored for `asked` (JSON-able); None when nothing was.

        Raises ConfigError for a file that was not written here.
        """
        file = self._file(asked)
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            return None
        try:
            stored = json.loads(data)
            if stored["asked"] != _plain(asked):
                raise ValueError("it holds the answer to something else")
            return stored["answer"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{file} is no stored answer: {error}; delete it") from error

    def write(self, asked: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        self._file(asked).commit(json.dumps({"asked": asked, "answer": answer}, ensure_ascii=False).encode())

    def _file(self, asked: Mapping[str, Any]) -> Location:
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"), allow_nan=False)
        key = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.json"


def _plain(asked: Mapping[str, Any]) -> Any:
    """As JSON gives it back: tuples are lists, keys are texts."""
    return json.loads(json.dumps(asked))
