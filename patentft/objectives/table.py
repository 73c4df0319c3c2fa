"""The objectives by name.

An objective is a module with

    INPUTS            which data it learns from, keys of `train.config.INPUTS`: a run gives one of them
    METRIC            the name, in `metrics`, of the number that chooses the best weights; larger is better
    UNITS_PER_BATCH   at most so many units in a micro-batch; None for no limit
    Config            a Config with `kind`
    encode(data, tokenizer, config) -> (Encoded, counts)      once, by the driver; not for "packed"
    build(folder, config, loading) -> transformers model      with its head
    task(model, config) -> Task                               what an adapter must know
    wrap(model, config) -> Module                             what is trained: forward(batch)
    backbone(module) -> the transformers (or PEFT) model inside
    units(data, config, epoch, seed) -> [Unit]                what is never divided between micro-batches
    collate(data, units, tokens) -> batch                     named tensors
    weight(batch, config) -> float                            how much the batch counts in its step's mean
    loss(module, batch, config) -> (sum, weight, logs)        the sum over what `weight` counts
    parameter_groups(module, lr, weight_decay, config)
    predict(module, batch, config) -> arrays; metrics(parts, config) -> numbers of the whole valid side
    card(module, config) -> models.export.Card                what the exported model is, and how it is used

They stand in one file because they must agree about labels and masks.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from patentft.objectives import causal, contrastive, rank

OBJECTIVES: dict[str, Any] = {"causal": causal, "rank": rank, "contrastive": contrastive}

ObjectiveConfig = Annotated[
    causal.CausalConfig | rank.RankConfig | contrastive.ContrastiveConfig, Field(discriminator="kind")
]
