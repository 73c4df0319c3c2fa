"""Chat messages from a row: templates with {column} placeholders, checked before a row is read.

{text}      the column's text; a row in which it is empty is left out
{context?}  the same, but it may be empty
{{ }}       a brace
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from patentft.config import Config, nearest

Role = Literal["system", "user", "assistant"]


class MessageConfig(Config):
    """One message of a conversation."""

    role: Role
    """system, user or assistant."""
    content: str
    """Text with {column} placeholders; {column?} may be empty; {{ and }} are braces."""


class LeftOut(Exception):
    """Why this row is not exported: a placeholder or a whole message without a text, an id without a role."""

    def __init__(self, column: str | None, reason: str) -> None:
        super().__init__(reason)
        self.column, self.reason = column, reason


@dataclass(frozen=True)
class Template:
    """A parsed content: literal texts, and between them columns (name, whether it may be empty)."""

    role: Role
    parts: tuple[str | tuple[str, bool], ...]

    def fill(self, row: Mapping[str, Any]) -> str:
        """The message's content. Raises LeftOut."""
        text = ""
        for part in self.parts:
            if isinstance(part, str):
                text += part
                continue
            column, optional = part
            value = as_text(row[column])
            if not optional and not value.strip():
                raise LeftOut(column, f"empty field: {column} has no text")
            text += value
        text = text.strip()
        if not text:
            raise LeftOut(None, f"empty field: the {self.role} message has no text")
        return text


def as_text(value: Any) -> str:
    """A value in a message: lists with commas between, dates as ISO, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(as_text(item) for item in value)
    return str(value)


def parse(message: MessageConfig, columns: Sequence[str]) -> Template:
    """Raises ValueError for a brace out of place or a placeholder that is no column."""
    parts: list[str | tuple[str, bool]] = []
    try:
        pieces = list(string.Formatter().parse(message.content))
    except ValueError as error:
        raise ValueError(
            f"{message.role} message {message.content!r}: {error}; write {{{{ or }}}} for a brace itself"
        ) from None
    for literal, name, form, conversion in pieces:
        if literal:
            parts.append(literal)
        if name is None:
            continue
        column, optional = (name[:-1], True) if name.endswith("?") else (name, False)
        if form or conversion:
            raise ValueError(f"{message.role} message: {{{name}...}} must be a column's name alone, no format")
        if column not in columns:
            raise ValueError(f"{message.role} message: {{{name}}} is no column{nearest(column, columns)}")
        parts.append((column, optional))
    return Template(message.role, tuple(parts))


def check_order(roles: Sequence[Role]) -> None:
    """Raises ValueError unless: system first if at all, then user and assistant in turn, assistant last."""
    turns = list(roles[1:] if roles[:1] == ["system"] else roles)
    wanted = ["user", "assistant"] * (len(turns) // 2)
    if not turns or turns != wanted:
        raise ValueError(
            f"messages have the roles {', '.join(roles) or 'none'}; expected system (if any) first, then user and "
            f"assistant in turn, ending with assistant"
        )
