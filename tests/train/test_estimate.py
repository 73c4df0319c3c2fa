"""Memory and time before a run: known numbers, and what autograd really keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, MistralConfig

from patentft import pipeline
from patentft.config import ConfigError, build
from patentft.models import gpus, load
from patentft.models.text_attention import Segments
from patentft.objectives.encoded import SpecialTokens
from patentft.objectives.packed import ArrayRows
from patentft.objectives.table import OBJECTIVES
from patentft.train import estimate, rehearse, sizing, worker
from patentft.train.config import TrainConfig
from patentft.train.estimate import Memory, largest_rows, memory
from patentft.train.rehearse import KINDS, Weights, prepare
from tests.tiny import save_tiny_bert, save_tiny_llama, small_pipeline

SHAPE: dict[str, Any] = {"hidden_size": 4096, "intermediate_size": 14336}
SHAPE |= {"num_attention_heads": 32, "num_key_value_heads": 8}
NOTHING: dict[str, float] = dict.fromkeys(KINDS, 0)


def config(objective: str = "causal", **changes) -> TrainConfig:
    packed = ("packed", "packed_valid")
    names = packed if objective == "causal" else ("data", "roles", "pairs", "techniques")
    return build(TrainConfig, {**dict.fromkeys(names, "x"), "model": "m", "objective": {"kind": objective}, **changes})


def of(weights: Weights, settings: TrainConfig, workers: int = 1, *, gpu: bool = True) -> Memory:
    return memory(weights, NOTHING, settings, workers, gpu=gpu, kept=True)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    LlamaConfig(vocab_size=128256, num_hidden_layers=32, **SHAPE).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"))


def test_parameters_of_llama_3_1_8b_are_known_without_its_weights(llama):
    weights = prepare(config(), llama).weights
    assert weights.total == weights.trainable == 8_030_261_248
    assert weights.blocks == 32
    held = of(weights, config())
    assert held.weights == pytest.approx(4 * 8_030_261_248, rel=1e-6)
    assert held.moments == 8 * 8_030_261_248


def test_lora_of_mistral_7b_trains_what_peft_says(tmp_path):
    MistralConfig(vocab_size=32000, num_hidden_layers=4, **SHAPE).save_pretrained(tmp_path)  # of 32: an eighth
    weights = prepare(config(adapter={"kind": "lora", "rank": 16}, precision="bf16"), str(tmp_path)).weights
    assert weights.trainable == 41_943_040 // 8
    outside = 2 * 32000 * 4096 + 4096
    base = outside + (7_241_732_096 - outside) // 8
    assert weights.total - weights.trainable == base
    held = of(weights, config(adapter={"kind": "lora"})).weights
    assert held == pytest.approx(2 * base + 4 * weights.trainable, rel=1e-6)  # the frozen base is in bfloat16


def test_nf4_with_double_quantization_takes_4_127_bits_a_weight():
    assert pytest.approx(8 * rehearse.NF4_BYTES, abs=1e-3) == 4.127  # arXiv:2305.14314, section 3
    assert pytest.approx(8 * rehearse.NF4_SINGLE_BYTES, abs=1e-9) == 4.5


def kept_by_autograd(module: torch.nn.Module, batch, weights) -> int:
    """Bytes of the different storages that a forward pass saves, weights left out."""
    own = {each.untyped_storage()._cdata for each in weights}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(batch)
        total = sum(seen.values())
    assert out.requires_grad
    return total


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_rehearsal_keeps_what_a_real_pass_keeps(tiny, adapter, checkpointing, monkeypatch):
    torch.set_num_threads(1)
    settings = config(adapter={"kind": adapter}, activation_checkpointing=checkpointing)
    objective = OBJECTIVES["causal"]
    rows = ArrayRows(torch.ones(3, 40).int().numpy(), torch.ones(3, 40).int().numpy())
    batch = objective.collate(rows, objective.units(rows, settings.objective, 0, 0), SpecialTokens())
    real = worker.build(settings, tiny).train()
    rehearsal = prepare(settings, tiny)
    expected = kept_by_autograd(real, batch, [*real.parameters(), *real.buffers()])
    # a rehearsal's tensors have no numbers to tell the texts by
    monkeypatch.setattr(Segments, "of", lambda ids, causal: Segments([[(ids.shape[1], True)]] * len(ids), causal))
    with rehearsal.mode:
        fake = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in batch.items()}
        module = rehearsal.module
        assert kept_by_autograd(module, fake, [*module.parameters(), *module.buffers()]) == expected


def test_a_pass_holds_more_with_more_rows_and_less_with_checkpointing(tiny):
    whole, again = (prepare(config(activation_checkpointing=on), tiny) for on in (False, True))

    def held(rehearsal: rehearse.Rehearsal, rows: int, where: rehearse.Where = "gpu") -> rehearse.Pass:
        return rehearsal.run(rows, 64, rows * 64, where, keep_gradients=True)

    one, two, four = (held(whole, rows) for rows in (1, 2, 4))
    assert one.nbytes < two.nbytes < four.nbytes
    assert four.nbytes - two.nbytes == pytest.approx(2 * (two.nbytes - one.nbytes), rel=0.02)
    assert held(again, 4).held["activations"] < 0.5 * four.held["activations"]
    few = whole.run(4, 64, 16, "gpu", keep_gradients=True)  # logits for 16 tokens of 256
    assert few.held["logits"] < 0.2 * four.held["logits"]
    assert held(whole, 2, "cpu").nbytes > 0


@pytest.mark.parametrize("objective", ["rank", "contrastive"])
def test_encoders_can_be_rehearsed(objective, tmp_path):
    tiny_bert = save_tiny_bert(tmp_path)
    short, long = (
        prepare(config(objective), tiny_bert).run(4, tokens, 1, "cpu", keep_gradients=False).nbytes
        for tokens in (32, 64)
    )
    assert 2 * short < long < 4.2 * short  # attention's part grows with the square


def test_what_is_divided_and_what_is_not(llama):
    weights = prepare(config(), llama).weights
    ddp, fsdp = of(weights, config(), 8), of(weights, config(strategy={"kind": "fsdp"}), 8)
    assert fsdp.weights == ddp.weights / 8
    assert fsdp.moments == ddp.moments / 8
    assert ddp.buffers == ddp.gradients  # DDP reduces copies
    assert fsdp.buffers < ddp.buffers
    zero = [of(weights, config(strategy={"kind": "deepspeed", "zero": stage}), 8) for stage in (1, 2, 3)]
    assert zero[0].gradients == ddp.gradients
    assert zero[1].gradients == ddp.gradients / 8
    assert zero[1].weights == ddp.weights
    assert zero[2].weights == ddp.weights / 8
    assert all(each.moments == ddp.moments / 8 for each in zero)
    offloaded = of(weights, config(strategy={"kind": "fsdp", "offload": True}), 8)
    assert offloaded.weights == offloaded.moments == 0 < offloaded.buffers
    small = of(weights, config(optimizer={"kind": "adamw_8bit"}))
    assert small.moments < 0.26 * ddp.moments


def test_flop_of_a_token_is_six_times_the_weights_that_multiply(llama):
    rehearsal = prepare(config(), llama)
    weights = rehearsal.weights
    flop = estimate.flop_per_token(weights, config(), 1, 1.0)
    multiply = weights.total - 128256 * 4096  # all but the embedding, which is looked up
    assert flop == pytest.approx(6 * multiply, rel=1e-3)
    again = estimate.flop_per_token(weights, config(activation_checkpointing=True), 1, 0.0)
    assert again == pytest.approx(4 / 3 * estimate.flop_per_token(weights, config(), 1, 0.0), rel=1e-9)


@pytest.mark.parametrize("unit", [1, 5])
@pytest.mark.parametrize("limit", [0.5, 3.0, 100.0, 5000.0])
def test_the_largest_micro_batch_is_that_of_a_search_through_all(unit, limit):
    def peak(rows: int) -> float:
        return max(2.0 + 0.31 * rows, 0.5 + 0.4 * rows)  # bends upwards

    best = max((rows for rows in range(unit, 20_000, unit) if peak(rows) <= limit), default=0)
    assert largest_rows(peak, limit, 8, unit) == best


def test_gpus_are_known_by_the_names_people_use():
    assert gpus.gpu_of("NVIDIA H100 80GB")[0] == "h100-80"
    assert gpus.gpu_of("RTX 4090")[0] == "rtx-4090"
    assert gpus.gpu_of("4gb")[1].memory_gib < 4
    with pytest.raises(ConfigError, match="did you mean 'h100-80'"):
        gpus.gpu_of("h1000")


def test_the_report_says_what_is_missing_and_what_fits(tmp_path):
    (tmp_path / "model").mkdir()
    given = small_pipeline(tmp_path / "run", save_tiny_bert(tmp_path / "model"))

    def said(stage: str | None, gpu: str | None, **changes) -> str:
        loaded = pipeline.parse(given | {"scorer": {**given["scorer"], **changes}})
        return sizing.report(loaded.out, {step.name: step.config for step in loaded.steps}, stage, gpu)

    text = said(None, "4gb")
    assert "4gb                 fits" in text
    assert "stage 'pairs' has not run" in text
    assert "5 rows of 96 tokens" in said("scorer", None, micro_batch_tokens=100)  # a match and its four negatives
    with pytest.raises(ConfigError, match="did you mean 'scorer'"):
        said("scorrer", None)


def test_a_model_that_is_not_there_is_not_fetched():
    with pytest.raises(ConfigError, match="hf download no-such/model"):
        load.config_folder("no-such/model")


def test_advice_begins_with_what_changes_nothing(tiny):
    text = sizing.advice(config(micro_batch_tokens=4096), tiny, 256, 1)
    free = ("activation_checkpointing: true", "micro_batch_tokens: 2048")
    assert max(text.index(setting) for setting in free) < text.index("precision: bf16")
    assert text.count(";") == 3  # the head, and three settings


def test_advice_names_nothing_that_is_refused(tiny):
    """FSDP cannot divide moments of 8 bits."""
    few = {"micro_batch_tokens": 128, "workers": 2, "activation_checkpointing": True, "precision": "bf16"}
    assert "adamw_8bit" in sizing.advice(config(**few), tiny, 256, 2)
    assert "adamw_8bit" not in sizing.advice(config(**few, strategy={"kind": "fsdp"}), tiny, 256, 2)
