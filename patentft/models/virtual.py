"""Virtual tokens in front of a text: what PEFT's prompt and prefix tuning leave to whoever calls them.

A wrapped model takes and gives what its base does: T tokens in, T positions out, whatever the padding on their right.
The virtual tokens themselves are never pooled and never predict. Two things differ from PEFT alone: their positions,
which PEFT leaves in the outputs of prompt tuning, are cut off; and a decoder with a classification head reads its last
real token, where PEFT, which hands it embeddings, makes it read the last column, padding or not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from patentft.config import ConfigError
from patentft.models.load import position_limit
from patentft.models.pool import pool


class VirtualTokens(nn.Module):
    """A PEFT model with prompt or prefix tuning, called like its base."""

    def __init__(self, peft_model: Any) -> None:
        super().__init__()
        self.peft_model = peft_model
        settings = peft_model.active_peft_config
        self.number = int(settings.num_virtual_tokens)
        self.is_prefix = settings.peft_type == "PREFIX_TUNING"
        self.is_classifier = settings.task_type == "SEQ_CLS"
        limit = position_limit(peft_model.config)
        self.room = None if limit is None else limit - self.number

    @property
    def config(self) -> Any:
        """The base's configuration."""
        return self.peft_model.config

    def get_output_embeddings(self) -> nn.Module:
        """The base's head over the vocabulary. What enters it has the virtual tokens in front, with prompts."""
        return self.peft_model.get_base_model().get_output_embeddings()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **options: Any,
    ) -> Any:
        """The base's output. input_ids (B, T) int64, attention_mask (B, T), padded on the right.

        Raises ConfigError for packed rows, positions of one's own, and texts that leave no room for virtual tokens.
        """
        self._check(input_ids, attention_mask, token_type_ids, options)
        if token_type_ids is not None:
            options["token_type_ids"] = token_type_ids
        if not self.is_prefix and self.is_classifier and hasattr(self.peft_model.base_model, "score"):
            return self._decoder_logits(input_ids, attention_mask, options)
        output = self.peft_model(input_ids=input_ids, attention_mask=attention_mask, **options)
        for name in ("logits", "last_hidden_state"):
            states = getattr(output, name, None)
            longer = (input_ids.shape[0], self.number + input_ids.shape[1])
            # with prompts; logits that an objective has thinned out to those it reads have another shape
            if states is not None and states.ndim == 3 and states.shape[:2] == longer:
                setattr(output, name, states[:, self.number :])
        return output

    def _decoder_logits(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, options: dict[str, Any]
    ) -> Any:
        """(B, labels) logits of the last real token."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        classifier = self.peft_model.base_model
        texts = self.peft_model.word_embeddings(input_ids)
        prompts = self.peft_model.get_prompt(batch_size=len(input_ids)).to(texts.dtype)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask = torch.cat([mask.new_ones(len(mask), self.number), mask], dim=1)
        decoder = getattr(classifier, classifier.base_model_prefix)
        options = {"use_cache": False, **options}
        output = decoder(inputs_embeds=torch.cat([prompts, texts], dim=1), attention_mask=mask, **options)
        last = pool(output.last_hidden_state, mask, "last")
        return SequenceClassifierOutput(logits=classifier.score(last))

    def _check(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        options: dict[str, Any],
    ) -> None:
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ConfigError(
                f"attention mask of shape {tuple(attention_mask.shape)}: virtual tokens stand in front of one text, "
                f"not of packed ones; choose the adapter lora"
            )
        if self.is_prefix and self.training and self.peft_model.get_base_model().is_gradient_checkpointing:
            raise ConfigError("prefix tuning does not work with recomputed activations: choose prompt, or keep them")
        if "position_ids" in options:
            raise ConfigError("virtual tokens take the first positions: leave position_ids out")
        if token_type_ids is not None and not self.is_classifier:
            raise ConfigError("PEFT drops token_type_ids beside virtual tokens, but for a classifier: leave them out")
        if self.room is not None and input_ids.shape[1] > self.room:
            raise ConfigError(
                f"a text of {input_ids.shape[1]} tokens and {self.number} virtual ones: the model has "
                f"{self.room + self.number} positions; set the objective's tokens to {self.room} at most, or "
                f"adapter.tokens lower"
            )
