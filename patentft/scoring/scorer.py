"""Cross-encoder logits of (section, patent) pairs in length-sorted token-budget batches. No Ray.

The batches of a call are a function of the pairs alone, so a shard scored again, by another worker or after a kill,
gives the same bits (with the same number of threads and the same hardware).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from patentft.config import ConfigError
from patentft.models.load import load_trained, local_folder
from patentft.objectives.encoded import pad
from patentft.objectives.rank import encode_pairs


@dataclass
class CrossScorer:
    """A loaded sequence classifier with one logit."""

    model: Any
    tokenizer: Any
    device: torch.device
    max_tokens: int
    patent_tokens: int
    tokens_per_batch: int

    @torch.inference_mode()
    def logits(self, sections: Sequence[str], patents: Sequence[str]) -> tuple[npt.NDArray[np.float32], dict[str, int]]:
        """(pairs,) float32 logits in the order given, and the counts of `encode_pairs`."""
        encoded, counts = encode_pairs(sections, patents, self.tokenizer, self.max_tokens, self.patent_tokens)
        lengths = encoded.lengths("input_ids")
        order = np.argsort(lengths, kind="stable").tolist()
        out = np.empty(len(order), dtype=np.float32)
        pad_id = self.tokenizer.pad_token_id or 0
        for batch in padded_batches(order, lengths.tolist(), self.tokens_per_batch):
            inputs = pad([encoded.row("input_ids", row) for row in batch], pad_id)
            if "token_type_ids" in encoded.arrays:
                inputs["token_type_ids"] = pad([encoded.row("token_type_ids", row) for row in batch], 0)["input_ids"]
            inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
            out[batch] = self.model(**inputs).logits.squeeze(-1).float().cpu().numpy()
        return out, counts


def padded_batches(order: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut `order` (rising lengths) into batches of at most `budget` padded tokens; a longer row stands alone."""
    batches: list[list[int]] = []
    for row in order:
        if batches and (len(batches[-1]) + 1) * lengths[row] <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def load_scorer(
    resolved: str, *, device: torch.device, max_tokens: int, patent_tokens: int, tokens_per_batch: int
) -> tuple[CrossScorer, float | None]:
    """A scorer from a model folder or hub id, and the cosine weight its configuration carries (None: it carries none).

    Raises ConfigError for a model that has not exactly one logit.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    folder = local_folder(resolved)
    model = load_trained(resolved, AutoModelForSequenceClassification)
    if model.config.num_labels != 1:
        raise ConfigError(
            f"model {resolved} has {model.config.num_labels} labels; a scorer has one logit (num_labels=1)"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    carried = getattr(model.config, "patentft", None) or {}
    scorer = CrossScorer(model.to(device).eval(), tokenizer, device, max_tokens, patent_tokens, tokens_per_batch)
    return scorer, carried.get("cosine_weight")
