"""How a conversation is put to a decoder as text and as token ids: by its tokenizer's chat template, or in ours.

    chat    the chat template of the model's tokenizer
    plain   system and user texts with blank lines between them, each answer after "Answer:"

Training (objectives) and asking (generate) both write prompts here, so a tuned model is asked with the very ids that it
was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from patentft.config import Config, ConfigError

DATE = "26 Jul 2024"
"""What a chat template that prints today's date is told: encoding again tomorrow must give the same ids. Llama 3's own
default."""

Message = Mapping[str, str]
"""{"role": "system", "user" or "assistant", "content": text}"""


class PromptConfig(Config):
    """How a question is put to the model."""

    template: Literal["chat", "plain"] = "chat"
    """chat: the chat template of the model's tokenizer. plain: texts with blank lines between them and "Answer:" at the
    end, for a model that has none."""
    system: str | None = None
    """What stands first: the role that the model is to play. Some chat templates have no place for it."""

    def opening(self) -> list[Message]:
        """What stands before the first question."""
        return [{"role": "system", "content": self.system}] if self.system else []


class Template:
    """Writes conversations for one tokenizer.

    setting: where the user set `PromptConfig`, for errors ("objective.prompt"). Raises ConfigError when the tokenizer
    lacks what the template needs.
    """

    def __init__(self, tokenizer: Any, kind: Literal["chat", "plain"], setting: str) -> None:
        self.tokenizer, self.kind, self.setting = tokenizer, kind, setting
        if kind == "chat" and not tokenizer.chat_template:
            raise ConfigError(
                f"{setting}.template is chat, but the model's tokenizer has no chat template: set "
                f"{setting}.template: plain, or start from a model that was tuned to chat"
            )
        self.front = special_front(tokenizer) if kind == "plain" else []
        self.end, self.ends = end_tokens(tokenizer)

    def text(self, messages: Sequence[Message], ask: bool) -> str:
        """The conversation as text; ask: with what stands before the answer that is wanted next."""
        if self.kind == "plain":
            return _plain(messages, ask)
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=ask,
                date_string=DATE,
                enable_thinking=False,
            )
        except TemplateError as error:
            raise ConfigError(
                f"the model's chat template refuses the prompt: {error}; unset {self.setting}.system, or set "
                f"{self.setting}.template: plain"
            ) from error

    def ids(self, text: str) -> list[int]:
        """Token ids of what `text` gave, with the special tokens that come first (a chat template writes its own)."""
        return self.front + self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _plain(messages: Sequence[Message], ask: bool) -> str:
    blocks: list[str] = []
    for message in messages:
        if message["role"] == "assistant":
            blocks.append(f"Answer: {message['content'].strip()}")
        else:
            blocks.append(message["content"])
    return "\n\n".join([*blocks, *(["Answer:"] if ask else [])])


def special_front(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer puts before a text (and not those that it puts after it)."""
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    return whole[: next(place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)]


def end_tokens(tokenizer: Any) -> tuple[int, set[int]]:
    """(the token that ends an answer, every token at which one may end: that and all special ones but the unknown).

    Raises ConfigError for a tokenizer with neither an eos nor a sep token.
    """
    end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    if end is None:
        raise ConfigError("the model's tokenizer has neither an eos nor a sep token: nothing could end an answer")
    named = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return end, (named | {end}) - {tokenizer.unk_token_id}


def shortened(tokenizer: Any, text: str, excess: int) -> str:
    """The text without its last `excess` tokens; empty when it has no more than these."""
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = tokens["offset_mapping"]
    keep = len(spans) - excess
    return text[: spans[keep - 1][1]].rstrip() if keep > 0 else ""
