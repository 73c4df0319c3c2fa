"""From the last checkpoint to the export folder: the chosen weights, merged and blended, with the model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from patentft.models.adapters.state import count_parameters, load_trainable_state, merged, trainable_state
from patentft.models.export import Card, blend, model_card, write_folder, write_sentence_transformers_files
from patentft.models.load import local_folder
from patentft.objectives.contrastive import BiEncoder
from patentft.objectives.rank import PairScorer
from patentft.objectives.table import OBJECTIVES
from patentft.store import StageFolder
from patentft.train import worker
from patentft.train.checkpoint import Progress, read_progress, verify
from patentft.train.config import TrainConfig


def export_model(config: TrainConfig, base: str, checkpoint: Path, out: Path, stage: StageFolder) -> Progress:
    """Write the export into the empty folder `out`; returns the run's progress."""
    from transformers import AutoTokenizer

    verify(checkpoint)
    progress = read_progress(checkpoint)
    module = worker.build(config, str(local_folder(base)))
    start = trainable_state(module)
    kept = "best" if config.keep == "best" and (checkpoint / "best.safetensors").exists() else "trained"
    trained = load_file(checkpoint / f"{kept}.safetensors")
    load_trainable_state(module, trained if config.blend == 1.0 else blend(trained, start, config.blend))
    module.eval()
    tokenizer = AutoTokenizer.from_pretrained(local_folder(base), trust_remote_code=False)
    out.mkdir()
    objective: Any = OBJECTIVES[config.objective.kind]
    backbone: nn.Module = objective.backbone(module)
    has_adapter = config.adapter.kind == "lora"
    extra: dict[str, Any] = {"objective": config.objective.kind}
    facts: dict[str, Any] = {
        "objective": config.objective.kind,
        "adapter": config.adapter.kind,
        "base model": config.model,
    }
    facts |= {f"{name} parameters": f"{count:,}" for name, count in count_parameters(module).items()}
    if isinstance(module, PairScorer):
        extra["cosine_weight"] = float(module.cosine_weight.detach())
        extra["cosine_center"] = module.cosine_center
        facts["cosine weight"] = f"{extra['cosine_weight']:.3f}"
    if config.objective.kind == "reward" and config.input == "pairs":
        extra["cosine_weight"] = 0.0  # so that the scoring stage takes the logit alone
    plain = backbone
    if has_adapter:
        parity, plain = _merge_with_parity(backbone, tokenizer)
        facts["merge parity (largest |difference| of outputs)"] = f"{parity:.2e}"
        # the adapter is saved from a model of its own: merging has consumed this one
        fresh = worker.build(config, str(local_folder(base)))
        load_trainable_state(fresh, trainable_state(module) if not has_adapter else trained)
        adapter_model = objective.backbone(fresh)
    else:
        adapter_model = None
    if hasattr(objective, "finish"):
        objective.finish(plain)
        adapter_model = None  # the base that it would be put on lacks what `finish` has just added
    write_folder(out, plain, adapter_model, tokenizer, base, extra)  # type: ignore[arg-type]
    if isinstance(module, BiEncoder):
        write_sentence_transformers_files(out, local_folder(base), module.pooling, config.objective.section_tokens)  # type: ignore[union-attr]
    last = progress.history[-1] if progress.history else {}
    chosen = next((entry for entry in progress.history if entry["step"] == progress.best_step), last)
    (out / "README.md").write_text(_card(config, stage, facts, chosen if kept == "best" else last))
    return progress


def _merge_with_parity(adapter_model: nn.Module, tokenizer: Any) -> tuple[float, nn.Module]:
    """Fold the adapter in; returns the largest difference of outputs on two texts, and the plain model."""
    texts = ["A catalyst bed removes nitrogen oxides from the flue gas.", "Waste water is treated in an aerated basin."]
    inputs = [tokenizer(text, return_tensors="pt") for text in texts]  # one by one: decoders have no padding token

    def outputs(model: nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([model(**each)[0].flatten() for each in inputs])

    before = outputs(adapter_model)
    plain = merged(adapter_model, adapter_model)
    difference = float((before - outputs(plain)).abs().max())
    scale = float(before.abs().max())
    if difference > 1e-3 * max(1.0, scale):
        raise ArithmeticError(f"merging the adapter changed outputs by {difference:.2e} (scale {scale:.2e})")
    return difference, plain


def _card(config: TrainConfig, stage: StageFolder, facts: dict[str, Any], metrics: dict[str, Any]) -> str:
    own: Card | None = getattr(OBJECTIVES[config.objective.kind], "CARD", None)
    if own is not None:
        intro, use, library, tags = own.intro, own.use, own.library, list(own.tags)
    elif config.objective.kind == "rank":
        intro = (
            "A cross-encoder for (BREF technique, patent) pairs. Its log-odds are "
            "`logit + cosine_weight * (cosine - cosine_center)`, where "
            "`cosine` is the prefilter's; the two constants are in `config.json` under `patentft`."
        )
        use = (
            "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n"
            "model = AutoModelForSequenceClassification.from_pretrained('.')\n"
            "tokenizer = AutoTokenizer.from_pretrained('.')\n"
            "logit = model(**tokenizer(section, patent, return_tensors='pt')).logits[0, 0]"
        )
        library, tags = "transformers", ["patents", "text-classification", "cross-encoder"]
    elif config.objective.kind == "causal":
        intro = "A decoder that has read more text of this field: trained on, by next-token prediction on packed rows."
        use = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
            "model = AutoModelForCausalLM.from_pretrained('.')\n"
            "tokenizer = AutoTokenizer.from_pretrained('.')\n"
            "ids = model.generate(**tokenizer('A method of', return_tensors='pt'), max_new_tokens=50)\n"
            "print(tokenizer.decode(ids[0]))"
        )
        library, tags = "transformers", ["patents", "text-generation", "domain-adaptation"]
    elif config.objective.kind in ("instruct", "dpo"):
        learned = "answers" if config.objective.kind == "instruct" else "which of two answers is the better"
        intro = (
            f"A decoder that was taught {learned}. The prompt must be written as in training: with "
            f"`objective.prompt` of the configuration below."
        )
        use = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
            "model = AutoModelForCausalLM.from_pretrained('.')\n"
            "tokenizer = AutoTokenizer.from_pretrained('.')\n"
            "ids = model.generate(**tokenizer(prompt, return_tensors='pt'), max_new_tokens=100)\n"
            "print(tokenizer.decode(ids[0]))"
        )
        library, tags = "transformers", ["patents", "text-generation", config.objective.kind]
    elif config.objective.kind == "reward":
        intro = "A reward model: of two texts that it is given, the better one has the higher logit."
        use = (
            "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n"
            "model = AutoModelForSequenceClassification.from_pretrained('.')\n"
            "tokenizer = AutoTokenizer.from_pretrained('.')\n"
            "logit = model(**tokenizer(text, return_tensors='pt')).logits[0, 0]"
        )
        library, tags = "transformers", ["patents", "text-classification", "reward-model"]
    else:
        intro = "A bi-encoder: the cosine of a technique's and a patent's vector says how well they match."
        use = "from sentence_transformers import SentenceTransformer\nvectors = SentenceTransformer('.').encode(texts)"
        library, tags = "sentence-transformers", ["patents", "sentence-similarity"]
    if config.adapter.kind == "lora" and not hasattr(OBJECTIVES[config.objective.kind], "finish"):
        intro += " The weights here have the LoRA adapter merged; the adapter alone is in `adapter/`."
    return model_card(
        title=f"{stage.name}: {config.objective.kind} fine-tune of {config.model}",
        intro=intro,
        use=use,
        facts=facts,
        metrics=metrics,
        config=config.model_dump(mode="json"),
        inputs=stage.inputs,
        tags=tags,
        library=library,
    )
