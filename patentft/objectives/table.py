"""The objectives by name.

An objective is a module with

    INPUTS            which data it learns from, keys of `train.config.INPUTS`: a run gives one of them
    MODELS            "decoder", "encoder" or "any": what it can train
    TASK              what the model ends in, a TaskKind
    METRIC            the name, in `metrics`, of the number that chooses the best weights; larger is better
    SCOPE             "step" if the rows of a whole step interact: it has `step` instead of `loss`, see `contrastive`
    BUCKETED          False if a step's units must be of mixed length
    UNITS_PER_BATCH   at most so many units in a micro-batch; None for no limit
    Config            a Config with `kind`
    prepare_tokenizer(tokenizer, data, config) -> tokenizer   if it adds tokens: once, by the driver, of the train side
    encode(data, tokenizer, config) -> (Encoded, counts)      once, by the driver; not for "packed"
    prepare(module, data, config, batches, gather) -> Encoded optional: what the starting model must say of the data,
                                                              see `dpo.prepare`
    settled(config, counts) -> config                         optional: what only the encoded data know, see `classify`
    build(folder, config, loading) -> transformers model      with its head
    task(model, config) -> Task                               what an adapter must know
    wrap(model, config) -> Module                             what is trained: forward(batch)
    backbone(module) -> the transformers (or PEFT) model inside
    finish(model)                                             optional: make the trained model a plain one, in place
    after_export(folder, valid, tokens, config)               optional: what is made of the export and measured on it,
                                                              see `distill.after_export`
    units(data, config, epoch, seed) -> [Unit]                what is never divided between micro-batches
    collate(data, units, tokens) -> batch                     named tensors
    weight(batch, config) -> float                            how much the batch counts in its step's mean
    loss(module, batch, config) -> (sum, weight, logs)        the sum over what `weight` counts
    step(module, batches, config, total, across) -> mean      with SCOPE = "step", instead of `loss`: see contrastive
    parameter_groups(module, lr, weight_decay, config)
    predict(module, batch, config) -> arrays; metrics(parts, config) -> numbers of the whole valid side
    card(module, config) -> Card                              what the export's model card says of it

They stand in one file because they must agree about labels and masks.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from patentft.objectives import (
    causal,
    classify,
    contrastive,
    distill,
    dpo,
    instruct,
    masked,
    mntp,
    rank,
    reward,
    techtoken,
)

OBJECTIVES: dict[str, Any] = {
    "causal": causal,
    "classify": classify,
    "rank": rank,
    "contrastive": contrastive,
    "distill": distill,
    "instruct": instruct,
    "dpo": dpo,
    "reward": reward,
    "masked": masked,
    "mntp": mntp,
    "techtoken": techtoken,
}

ObjectiveConfig = Annotated[
    causal.CausalConfig
    | classify.ClassifyConfig
    | rank.RankConfig
    | contrastive.ContrastiveConfig
    | distill.DistillConfig
    | instruct.InstructConfig
    | dpo.DpoConfig
    | reward.RewardConfig
    | masked.MaskedConfig
    | mntp.MntpConfig
    | techtoken.TechTokenConfig,
    Field(discriminator="kind"),
]
