"""Text from a decoder: the same alone and in any batch, as transformers writes it, as PEFT writes it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from patentft.config import ConfigError
from patentft.generate.interface import Prompt, Settings
from patentft.generate.local import LocalModel, _batches, _choose, load_local
from tests.generate.taught import QUESTIONS, user_text
from tests.tiny import save_tiny_bert, save_tiny_chat, save_tiny_decoder

CPU = torch.device("cpu")
GREEDY = Settings(max_new_tokens=24)
DRAWN = Settings(max_new_tokens=16, temperature=1.0, top_p=0.9, seed=3)


def local(folder: str, **options) -> LocalModel:
    return load_local(folder, template=options.pop("template", "chat"), identity="test", device=CPU, **options)


def prompts(number: int = len(QUESTIONS)) -> list[Prompt]:
    texts = [user_text(context, question) for context, question, _ in QUESTIONS]
    texts += [f"{text} And then?" for text in texts]
    return [
        Prompt(f"question {index}", ({"role": "user", "content": text},)) for index, text in enumerate(texts[:number])
    ]


def test_it_says_what_it_was_taught(taught):
    found = local(taught).generate(prompts(), GREEDY)
    assert [completion.text for completion in found] == [answer for _, _, answer in QUESTIONS]
    assert all(completion.finished for completion in found)


def test_greedy_answers_are_those_of_transformers(taught):
    """transformers' generate, one prompt at a time, on questions that the model does not know."""
    model, asked = AutoModelForCausalLM.from_pretrained(taught), prompts(12)
    tokenizer = AutoTokenizer.from_pretrained(taught)
    found = local(taught).generate(asked, GREEDY)
    for prompt, completion in zip(asked, found, strict=True):
        messages = [dict(message) for message in prompt.messages]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        wanted = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
        )[0, ids.shape[1] :]
        assert completion.answer_tokens == len(wanted)
        assert completion.text == tokenizer.decode(wanted, skip_special_tokens=True).strip()
        assert completion.prompt_tokens == ids.shape[1]


@pytest.mark.parametrize("settings", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_an_answer_does_not_depend_on_its_batch(taught, settings):
    asked = prompts(12)
    alone = [local_answer for prompt in asked for local_answer in local(taught).generate([prompt], settings)]
    assert len({completion.answer_tokens for completion in alone}) > 1  # rows end at different steps
    for budget in (100, 400, 10_000):
        assert local(taught, tokens_per_batch=budget).generate(asked, settings) == alone
    assert local(taught).generate(asked[::-1], settings) == alone[::-1]


def test_draws_are_the_seeds_and_the_attempts(taught):
    model = local(taught)
    hot = Settings(max_new_tokens=16, temperature=2.0)
    texts = [model.generate(prompts(), hot.model_copy(update={"seed": seed})) for seed in (0, 0, 1)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    first, again = (model.generate([Prompt("q", prompts()[0].messages, attempt)], hot) for attempt in (0, 1))
    assert first != again


def test_draws_follow_the_probabilities_up_to_top_p():
    import numpy as np

    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(20_000, 1)
    draws = [np.random.default_rng(seed) for seed in range(len(logits))]
    counts = np.bincount(_choose(logits, draws, Settings(temperature=1.0)), minlength=4) / len(logits)
    assert np.abs(counts - [0.5, 0.3, 0.15, 0.05]).max() < 0.02
    kept = np.bincount(_choose(logits, draws, Settings(temperature=1.0, top_p=0.7)), minlength=4) / len(logits)
    assert np.abs(kept - [0.625, 0.375, 0, 0]).max() < 0.02  # .5 alone does not reach .7
    assert set(_choose(logits, draws, Settings(temperature=1.0, top_p=1e-9))) == {0}
    warm = np.bincount(_choose(logits, draws, Settings(temperature=2.0)), minlength=4) / len(logits)
    wanted = np.sqrt([0.5, 0.3, 0.15, 0.05])
    assert np.abs(warm - wanted / wanted.sum()).max() < 0.02


def test_batches_hold_every_row_once_within_the_budget():
    lengths = [5, 100, 7, 3, 40, 40, 9]
    batches = _batches(lengths, 10, 110)
    assert sorted(row for batch in batches for row in batch) == list(range(7))
    assert all(len(batch) == 1 or len(batch) * (max(lengths[row] for row in batch) + 10) <= 110 for batch in batches)
    assert batches[0] == [1]


def test_a_prompt_that_leaves_no_room_is_named(taught):
    long = Prompt("question Q17", ({"role": "user", "content": "filter " * 300},))
    with pytest.raises(ConfigError, match=r"question Q17: its prompt has \d+ tokens, .* model takes 256 in all"):
        local(taught).generate([*prompts(), long], GREEDY)


def test_what_cannot_write_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot write text: it is no decoder"):
        local(save_tiny_bert(tmp_path), template="plain")
    (tmp_path / "llama").mkdir()
    with pytest.raises(ConfigError, match=r"prompt\.template is chat, but .* no chat template"):
        local(save_tiny_decoder(tmp_path / "llama", "llama"))


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "qwen3"])
def test_other_families_write_alike_alone_and_in_a_batch(tmp_path, kind):
    """Mistral with a sliding window that is shorter than the prompts."""
    changes = {"sliding_window": 8} if kind == "mistral" else {}
    model = local(save_tiny_decoder(tmp_path, kind, initializer_range=0.3, **changes), template="plain")
    asked = prompts(12)
    assert model.generate(asked, GREEDY) == [model.generate([prompt], GREEDY)[0] for prompt in asked]


def adapted(folder: str, target: Path, kind: str) -> str:
    """An adapter with random weights on the taught model, saved by PEFT."""
    from peft import LoraConfig as PeftLora
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    torch.manual_seed(1)
    configs = {
        "lora": PeftLora(task_type="CAUSAL_LM", r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"]),
        "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
        "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    }
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), configs[kind])
    model.peft_config["default"].base_model_name_or_path = folder
    model.save_pretrained(target)
    return str(target)


@pytest.mark.parametrize("kind", ["lora", "prompt", "prefix"])
def test_an_adapter_writes_what_peft_writes(taught, tmp_path, kind):
    import peft

    model = local(adapted(taught, tmp_path / kind, kind))
    asked = prompts(12)
    found = model.generate(asked, GREEDY)
    assert found == [model.generate([prompt], GREEDY)[0] for prompt in asked]
    wrapped = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(taught), tmp_path / kind).eval()
    for prompt, completion in zip(asked, found, strict=True):
        ids = torch.tensor([model.prompt_ids(prompt)])
        for _ in range(24):  # no cache: the whole text each time
            with torch.inference_mode():
                logits = wrapped(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
            token = logits[:, -1].argmax(-1)
            ids = torch.cat([ids, token[:, None]], dim=1)
            if int(token) in model.ends:
                break
        assert completion.answer_tokens == ids.shape[1] - completion.prompt_tokens
        wanted = model.tokenizer.decode(ids[0, completion.prompt_tokens :], skip_special_tokens=True)
        assert completion.text == wanted.strip()
    if kind == "lora":
        assert [c.text for c in found] != [c.text for c in local(taught).generate(asked, GREEDY)]


def test_the_likely_first_tokens_are_those_of_the_forward(tmp_path):
    model = local(save_tiny_chat(tmp_path))
    written = model.generate(prompts(2), Settings(max_new_tokens=2, first_token_logprobs=4))
    for asked, completion in zip(prompts(2), written, strict=True):
        logits = model.model(torch.tensor([model.prompt_ids(asked)])).logits[0, -1].float()
        expected = torch.log_softmax(logits, dim=-1)
        assert completion.first_token is not None
        assert sum(map(math.exp, completion.first_token.values())) == pytest.approx(
            float(expected.topk(4).values.exp().sum()), abs=1e-5
        )
    assert model.generate(prompts(1), Settings(max_new_tokens=1))[0].first_token is None
