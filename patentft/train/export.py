"""From the last checkpoint to the export folder: the chosen weights, merged and blended, with the model card.

    whole    all weights are written
    merged   the adapter is written, loaded again onto the base in fp32, merged there; all weights are written
    beside   the adapter is written, and loaded again onto the base

Whatever is loaded again must give the outputs of the model that was trained; the card says by how much it differs.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import nn

from patentft.config import ConfigError
from patentft.models.adapters.state import count_parameters, fold, load_trainable_state, merge, trainable_state
from patentft.models.adapters.table import ADAPTERS, EXPORTS, adapt, quantization
from patentft.models.backbone import Loading
from patentft.models.export import (
    Card,
    blend,
    loading_lines,
    model_card,
    write_adapter,
    write_beside,
    write_model,
    write_sentence_transformers_files,
)
from patentft.models.load import load_trained, local_folder
from patentft.objectives.encoded import Encoded, SpecialTokens
from patentft.objectives.table import OBJECTIVES
from patentft.store import StageFolder
from patentft.train import tokenizer as run_tokenizer
from patentft.train.checkpoint import Progress, read_progress, verify
from patentft.train.config import TrainConfig

TEXTS = ("A catalyst bed removes nitrogen oxides from the flue gas.", "Waste water is treated in an aerated basin.")
"""What outputs are compared on."""


def export_model(
    config: TrainConfig, base: str, checkpoint: Path, out: Path, stage: StageFolder
) -> tuple[Progress, dict[str, Any]]:
    """Write the export into the folder `out`, which does not exist; returns the run's progress, and what the objective
    measured on the export (its `after_export`).

    Raises ArithmeticError when what is loaded again gives other outputs than the trained model, and ConfigError for a
    blend with an adapter that cannot be merged.
    """
    verify(checkpoint)
    progress = read_progress(checkpoint)
    kept = "best" if config.keep == "best" and (checkpoint / "best.safetensors").exists() else "trained"
    out.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        own = run_tokenizer.fetch(stage.location, Path(scratch))
        trained = load_file(checkpoint / f"{kept}.safetensors")
        card, use, facts = write_export(config, base, trained, out, own)
    more, measured = _after_export(config, out, stage)
    facts |= more
    last = progress.history[-1] if progress.history else {}
    chosen = next((entry for entry in progress.history if entry["step"] == progress.best_step), last)
    metrics = chosen if kept == "best" else last
    (out / "README.md").write_text(_readme(config, base, stage, card, use, facts, metrics))
    return progress, measured


def _after_export(config: TrainConfig, out: Path, stage: StageFolder) -> tuple[dict[str, str], dict[str, Any]]:
    """The objective's own: (facts for the card, numbers)."""
    from transformers import AutoTokenizer

    objective: Any = OBJECTIVES[config.objective.kind]
    if not hasattr(objective, "after_export"):
        return {}, {}
    tokens = SpecialTokens.of(AutoTokenizer.from_pretrained(out, trust_remote_code=False))

    def valid() -> Encoded:
        return Encoded.from_bytes((stage.location / "encoded/valid.safetensors").read_bytes())

    return objective.after_export(out, valid, tokens, config.objective)


def write_export(
    config: TrainConfig, base: str, trained: dict[str, torch.Tensor], out: Path, own_tokenizer: str | None = None
) -> tuple[Card, str, dict[str, Any]]:
    """Write all but the model card into the empty folder `out`; returns for it the objective's part, how the export is
    used, and facts.

    trained: a `trainable_state` of the objective's module. own_tokenizer: the folder of the run's own.
    """
    from transformers import AutoTokenizer

    objective: Any = OBJECTIVES[config.objective.kind]
    form = ADAPTERS[config.adapter.kind].EXPORT
    if config.blend != 1.0 and form == "beside":
        raise ConfigError(f"blend is {config.blend}: the adapter {config.adapter.kind} cannot be blended; set it to 1")
    if config.blend != 1.0 and form == "merged" and hasattr(objective, "finish"):
        raise ConfigError(f"blend is {config.blend}: {config.objective.kind} with an adapter cannot; set it to 1")
    folder = str(local_folder(base))
    tokenizer = AutoTokenizer.from_pretrained(own_tokenizer or folder, trust_remote_code=False)
    loading = Loading(config.dropout, tokenizer=own_tokenizer)
    module = _build(config, folder, loading)
    start = trainable_state(module)
    backbone: nn.Module = objective.backbone(module)
    inside = {id(parameter) for parameter in backbone.parameters()}
    merges = {name for name, parameter in module.named_parameters() if form == "merged" and id(parameter) in inside}
    blended = trained if config.blend == 1.0 else blend(trained, start, config.blend)
    # weights that an adapter gives are blended once they are merged: its factors cannot be
    load_trainable_state(module, {name: trained[name] if name in merges else blended[name] for name in trained})
    module.eval()
    card: Card = objective.card(module, config.objective)
    facts: dict[str, Any] = {
        "objective": config.objective.kind,
        "adapter": config.adapter.kind,
        "base model": config.model,
    }
    facts |= {f"{name} parameters": f"{count:,}" for name, count in count_parameters(module).items()}
    facts |= {name.replace("_", " "): value for name, value in card.carries.items()}
    use = loading_lines(card, _loader(config), base, int(backbone.config.num_labels))  # type: ignore[union-attr]
    extra = {"objective": config.objective.kind, **card.carries}
    before = None if form == "whole" else outputs(backbone, tokenizer)
    finish = getattr(objective, "finish", lambda model: None)
    if form == "whole":
        finish(backbone)
        write_model(out, backbone, tokenizer, extra)
    elif form == "merged" and hasattr(objective, "finish"):
        # the adapter alone would be of no use: its base lacks what the objective has added
        plain = fold(backbone).eval()
        assert before is not None
        facts["merge parity (largest |difference| of outputs)"] = f"{_parity(before, outputs(plain, tokenizer)):.2e}"
        finish(plain)
        write_model(out, plain, tokenizer, extra)
    elif form == "merged":
        write_adapter(out / "adapter", backbone, base)
        del module, backbone  # a base at a time
        assert before is not None
        plain = _merged(config, folder, loading, out / "adapter", before, tokenizer, facts)
        write_model(out, plain, tokenizer, extra)
        facts |= _against_quantized(config, folder, loading, trained, before, tokenizer)
    else:
        write_beside(out, backbone, tokenizer, base, extra)
        del module, backbone
        assert before is not None
        import transformers

        again = load_trained(str(out), getattr(transformers, card.auto_class))
        facts["loaded again (largest |difference| of outputs)"] = f"{_parity(before, outputs(again, tokenizer)):.2e}"
    if card.pooling is not None:
        write_sentence_transformers_files(out, local_folder(base), card.pooling, card.max_tokens)
    return card, use, facts


def outputs(model: nn.Module, tokenizer: Any) -> torch.Tensor:
    """The model's first outputs on TEXTS, flat."""
    inputs = [tokenizer(text, return_tensors="pt") for text in TEXTS]  # one by one: decoders have no padding token
    found = []
    with torch.inference_mode():
        for each in inputs:
            found.append(model(input_ids=each["input_ids"], attention_mask=each["attention_mask"])[0].flatten())
    return torch.cat(found).float()


def _build(config: TrainConfig, folder: str, loading: Loading) -> nn.Module:
    """The objective's module as the training built it, but for `loading`."""
    objective: Any = OBJECTIVES[config.objective.kind]
    torch.manual_seed(config.seed)
    backbone = objective.build(folder, config.objective, loading)
    adapted = adapt(backbone, config.adapter, objective.task(backbone, config.objective))
    return objective.wrap(adapted, config.objective)


def _merged(
    config: TrainConfig,
    folder: str,
    loading: Loading,
    adapter: Path,
    before: torch.Tensor,
    tokenizer: Any,
    facts: dict[str, Any],
) -> nn.Module:
    """The plain model: base and adapter loaded again, merged, checked against `before`, and blended with the base."""
    objective: Any = OBJECTIVES[config.objective.kind]
    torch.manual_seed(config.seed)  # as in _build: new heads start alike
    base = objective.build(folder, config.objective, loading).eval()
    start = {} if config.blend == 1.0 else {name: value.clone() for name, value in base.state_dict().items()}
    plain = merge(base, adapter).eval()
    facts["merge parity (largest |difference| of outputs)"] = f"{_parity(before, outputs(plain, tokenizer)):.2e}"
    if start:
        plain.load_state_dict(blend(plain.state_dict(), start, config.blend))
        facts["blend"] = f"{config.blend} of the merged weights, the rest the base's; `adapter/` is not blended"
    return plain


def _parity(before: torch.Tensor, after: torch.Tensor) -> float:
    """The largest |difference|. Raises ArithmeticError when it is more than rounding."""
    difference, scale = float((before - after).abs().max()), float(before.abs().max())
    if not difference <= 1e-3 * max(1.0, scale):
        raise ArithmeticError(f"loaded again, the model's outputs differ by {difference:.2e} (scale {scale:.2e})")
    return difference


def _against_quantized(
    config: TrainConfig,
    folder: str,
    loading: Loading,
    trained: dict[str, torch.Tensor],
    before: torch.Tensor,
    tokenizer: Any,
) -> dict[str, str]:
    """How far the unquantized base under the adapter is from the quantized one that it was trained on."""
    settings = quantization(config.adapter)
    if settings is None:
        return {}
    module = _build(config, folder, replace(loading, quantization=settings))
    load_trainable_state(module, trained)
    objective: Any = OBJECTIVES[config.objective.kind]
    after = outputs(objective.backbone(module.eval()), tokenizer)
    difference, scale = float((before - after).abs().max()), float(before.abs().max())
    return {"outputs against the quantized base it was trained on": f"{difference:.2e} at most, of {scale:.2e}"}


def _loader(config: TrainConfig) -> Literal["plain", "peft", "bottleneck"]:
    """What loads the export."""
    if ADAPTERS[config.adapter.kind].EXPORT != "beside":
        return "plain"
    return "bottleneck" if config.adapter.kind == "bottleneck" else "peft"


def _readme(
    config: TrainConfig,
    base: str,
    stage: StageFolder,
    card: Card,
    use: str,
    facts: dict[str, Any],
    metrics: dict[str, Any],
) -> str:
    adapter, loader = ADAPTERS[config.adapter.kind], _loader(config)
    sentences = [card.intro, EXPORTS[adapter.EXPORT].format(kind=config.adapter.kind, base=base)]
    sentences.append(getattr(adapter, "NOTE", ""))
    encoder = card.pooling is not None and loader == "plain"
    return model_card(
        title=f"{stage.name}: {config.objective.kind} fine-tune of {config.model}",
        intro=" ".join(sentence for sentence in sentences if sentence),
        use=use,
        facts=facts,
        metrics=metrics,
        config=config.model_dump(mode="json"),
        inputs=stage.inputs,
        tags=list(card.tags),
        library="sentence-transformers" if encoder else "peft" if loader == "peft" else "transformers",
    )
