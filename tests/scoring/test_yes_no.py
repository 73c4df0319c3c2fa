"""Log-odds equal those of the plain forward's logits, whatever the grouping, the order and the budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patentft.config import ConfigError
from patentft.scoring.prefix_cache import FAMILIES, PrefixDecoder
from patentft.scoring.prompt import AnswerTokens, Prompts, ScorePrompt
from patentft.scoring.yes_no import YesNoScorer, bytes_per_token, load_yes_no, tokens_that_fit
from tests.scoring.test_prefix_cache import decoder, text
from tests.tiny import save_tiny_chat

ANSWERS = AnswerTokens((17,), (23,))
SPELLINGS = AnswerTokens((17, 18, 19), (23, 29))
SYSTEM, CHAPTERS = text(18, 1), [text(20, 2), text(25, 3)]
GROUPS = [
    Prompts(
        SYSTEM + CHAPTERS[n // 3] + text(6 + 5 * n, 10 + n),
        [text(3 + (7 * row) % 11, 100 * n + row) for row in range(1 + 2 * n)],
    )
    for n in range(6)
]


@torch.inference_mode()
def by_logits(model: Any, groups: Sequence[Prompts], answers: AnswerTokens = ANSWERS) -> list[list[float]]:
    """One prompt at a time, through the model's own head."""
    found = []
    for group in groups:
        odds = []
        for suffix in group.suffixes:
            logits = model(input_ids=torch.tensor([group.prefix + suffix])).logits[0, -1].double()
            odds.append(float(logits[list(answers.yes)].logsumexp(0) - logits[list(answers.no)].logsumexp(0)))
        found.append(odds)
    return found


def assert_equal(found: Sequence[Any], wanted: Sequence[Any], room: float = 1e-4) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=room)


@pytest.fixture(scope="module")
def llama() -> Any:
    return decoder("llama")


@pytest.fixture(scope="module")
def wanted(llama: Any) -> list[list[float]]:
    return by_logits(llama, GROUPS)


@pytest.mark.parametrize("answers", [ANSWERS, SPELLINGS], ids=["one", "several"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_scores_equal_the_plain_forward(kind: str, answers: AnswerTokens) -> None:
    model = decoder(kind)
    wanted = by_logits(model, GROUPS, answers)
    assert np.std(np.concatenate(wanted)) > 0.1
    scorer = YesNoScorer(model, answers, 64)
    assert_equal(scorer.log_odds(GROUPS), wanted)
    assert_equal(YesNoScorer(model, answers, 200, share_prefix=False).log_odds(GROUPS), wanted)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(len(GROUPS))), st.integers(1, 300), st.booleans(), st.randoms())
def test_grouping_order_and_budget_do_not_matter(
    llama: Any, wanted: list[list[float]], order: list[int], budget: int, apart: bool, random: Any
) -> None:
    """apart: a group may come in several pieces, as where a shard ends inside it."""
    rows = [(group, row) for group in order for row in range(len(GROUPS[group].suffixes))]
    random.shuffle(rows) if apart else None
    cuts = [place for place, row in enumerate(rows) if place == 0 or rows[place - 1][0] != row[0]]
    pieces = [rows[start:stop] for start, stop in zip(cuts, [*cuts[1:], len(rows)], strict=True)]
    groups = [Prompts(GROUPS[piece[0][0]].prefix, [GROUPS[g].suffixes[row] for g, row in piece]) for piece in pieces]
    found = YesNoScorer(llama, ANSWERS, budget).log_odds(groups)
    assert_equal(found, [[wanted[group][row] for group, row in piece] for piece in pieces])


def test_the_same_shard_gives_the_same_bits(llama: Any) -> None:
    first, second = (YesNoScorer(llama, ANSWERS, 64).log_odds(GROUPS) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_tokens_are_read_once(llama: Any) -> None:
    """System text and chapter once each, sections once, suffixes without padding."""
    scorer = YesNoScorer(llama, ANSWERS, 10_000)
    scorer.log_odds(GROUPS)
    system_and_chapters = sum(len(SYSTEM) + len(chapter) for chapter in CHAPTERS)
    own = sum(len(group.prefix) for group in GROUPS) - 3 * system_and_chapters
    assert scorer.counts["prefix_tokens"] == system_and_chapters + own
    assert scorer.counts["suffix_tokens"] == sum(len(suffix) for group in GROUPS for suffix in group.suffixes)
    assert scorer.counts["batches"] == 2  # one for each chapter
    assert scorer.counts["unshared_tokens"] == sum(len(g.prefix + suffix) for g in GROUPS for suffix in g.suffixes)


def test_caps_of_the_logits_are_kept() -> None:
    """Gemma 2 caps its attention too, so its prefixes cannot be shared; Gemma 3 may cap its logits alone."""
    for kind, share_prefix in (("gemma3_text", True), ("gemma2", False)):
        model = decoder(kind, final_logit_softcapping=2.0)
        wanted = by_logits(model, GROUPS)
        assert_equal(YesNoScorer(model, ANSWERS, 300, share_prefix).log_odds(GROUPS), wanted)
    with pytest.raises(ConfigError, match=r"set share_prefix: false"):
        YesNoScorer(model, ANSWERS, 300)


def test_a_model_that_scales_its_logits_is_refused() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.GraniteConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, logits_scaling=4.0, initializer_range=0.3, pad_token_id=0,
    )  # fmt: skip
    model = transformers.GraniteForCausalLM(config).eval()
    with pytest.raises(ConfigError, match="type 'granite' does more to its logits than its output layer"):
        YesNoScorer(model, ANSWERS, 64, share_prefix=False)


def test_an_adapted_output_layer_is_refused() -> None:
    import peft

    model = peft.get_peft_model(decoder("llama"), peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
    with pytest.raises(ConfigError, match=r"output layer is a \w+: merge the adapter"):
        YesNoScorer(model, ANSWERS, 64)


@pytest.mark.parametrize("share_prefix", [True, False])
def test_out_of_memory_halves_the_budget(
    llama: Any, wanted: list[list[float]], share_prefix: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = YesNoScorer(llama, ANSWERS, 4096, share_prefix)
    forward = llama.model.forward

    def small(input_ids: torch.Tensor, **options: Any) -> Any:
        if input_ids.numel() > 150:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
        return forward(input_ids=input_ids, **options)

    monkeypatch.setattr(llama.model, "forward", small)
    assert_equal(scorer.log_odds(GROUPS), wanted)
    assert scorer.counts["halved"] == 5
    assert scorer.tokens_per_batch == 128

    def broken(**options: Any) -> Any:
        raise RuntimeError("another error")

    monkeypatch.setattr(llama.model, "forward", broken)
    with pytest.raises(RuntimeError, match="another error"):
        scorer.log_odds(GROUPS)

    def none(**options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(llama.model, "forward", none)
    with pytest.raises(ConfigError, match="one prompt alone does not fit"):
        scorer.log_odds(GROUPS)


def test_bytes_of_a_token_bound_what_a_batch_allocates() -> None:
    """Measured as the peak of what torch allocates in a call, on a model whose layers outweigh the rest."""
    from torch.profiler import ProfilerActivity, profile

    model = decoder("llama", hidden_size=256, intermediate_size=512, head_dim=64, num_hidden_layers=2)
    reader = PrefixDecoder(model)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        reader.prefixes([text(100, 1), text(100, 2)], [None, None])
    held, peak = 0, 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    bound = 200 * bytes_per_token(model.config, torch.float32)
    assert bound / 3 < peak < bound


def test_budgets_under_a_memory_limit() -> None:
    import transformers

    config = transformers.LlamaConfig(num_key_value_heads=8, intermediate_size=14336)  # Llama 3.1 8B
    each = bytes_per_token(config, torch.bfloat16)
    assert each == 2 * (10 * 4096 + 3 * 14336 + 3 * 4096 + 2 * 32 * 1024)
    assert tokens_that_fit(config, torch.bfloat16, 8 * 2**30, 10**6) == 8 * 2**30 // each
    assert tokens_that_fit(config, torch.bfloat16, 8 * 2**30, 2048) == 2048
    assert tokens_that_fit(config, torch.bfloat16, 1, 2048) == 1


PATENTS = ["A bag filter for flue gas", "A catalyst bed, heated with steam", "A membrane"]


def test_a_folder_is_loaded_with_its_prompts(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = save_tiny_chat(tmp_path)
    prompt = ScorePrompt(max_tokens=200, patent_tokens=40, answer_tokens="first")
    scorer, prompter = load_yes_no(folder, prompt, device=torch.device("cpu"), memory_limit_gib=1e-3)
    assert 1 < scorer.tokens_per_batch < 2048
    groups = [prompter.group("T1", "Dust is held back by bags.", PATENTS), prompter.group("T2", "Steam.", PATENTS[:1])]
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert_equal(scorer.log_odds(groups), by_logits(model, groups, prompter.answers))
    with pytest.raises(ConfigError, match=r"score\.prompt\.max_tokens is 1,024, but the model takes 256: lower it"):
        load_yes_no(folder, ScorePrompt(), device=torch.device("cpu"), setting="score.prompt")


def test_an_adapter_and_a_quantized_folder_score(tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    from patentft.models.quantize import write_quantized

    folder = save_tiny_chat(tmp_path / "base", hidden=64)
    prompt = ScorePrompt(max_tokens=200, patent_tokens=40, answer_tokens="first")
    torch.manual_seed(2)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config).eval()
    wrapped.save_pretrained(str(tmp_path / "adapter"))  # without a tokenizer: its base's is taken
    scorer, prompter = load_yes_no(str(tmp_path / "adapter"), prompt, device=torch.device("cpu"))
    groups = [prompter.group("T1", "Dust is held back by bags.", PATENTS)]
    assert_equal(scorer.log_odds(groups), by_logits(wrapped, groups, prompter.answers))
    write_quantized(Path(folder), tmp_path / "nf4", "nf4", AutoModelForCausalLM)
    quantized, _ = load_yes_no(str(tmp_path / "nf4"), prompt, device=torch.device("cpu"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "nf4").eval()
    assert_equal(quantized.log_odds(groups), by_logits(plain, groups, prompter.answers))
