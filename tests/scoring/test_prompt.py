"""Prefix and suffixes are the ids of the prompt that training writes; answers are one token each, or refused."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from patentft.config import Config, ConfigError, build
from patentft.objectives import instruct
from patentft.objectives.instruct import InstructConfig
from patentft.objectives.texts import PairTexts
from patentft.scoring.prompt import Example, PairPrompter, PromptField, ScorePrompt, load_prompt
from tests.tiny import CHAT_TEMPLATE, bpe_tokenizer, tiny_tokenizer

PLAIN = {"template": "plain"}
SECTION = "Bag filters. Flue gas flows through fabric bags, which hold back the dust. " * 2
PATENTS = [
    "A device with (fine) bags",
    "é – odd letters at the beginning",
    "42 bags",
    "\n  A patent that begins with a line break",
    "A device with (fine) bags of another cloth, which is cleaned with compressed air in pulses",
]


def byte_level(words: tuple[str, ...] = ("Yes", "No", "ĠYes", "ĠNo", "yes", "no")) -> Any:
    """The tiny byte-level BPE, in which these words are one token each."""
    tokenizer = bpe_tokenizer()
    tokenizer.add_tokens([AddedToken(word.replace("Ġ", " "), normalized=False) for word in words])
    return tokenizer


def pieces() -> Any:
    """A tokenizer of the SentencePiece kind: spaces are part of words, and a text gets one in front."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    texts = [SECTION, *PATENTS, "Technique: Patent: Answer: Yes No Answer only Yes or No. engineer you are an"] * 5
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {"bytes": byte_level(), "pieces": pieces()}


def trained_ids(tokenizer: Any, config: ScorePrompt, section: str, patents: list[str]) -> list[list[int]]:
    """What objective instruct trains on: the prompts without their answers."""
    count = len(patents)
    texts = PairTexts(
        sections=[section] * count, patents=patents, technique_ids=["T"] * count, patent_ids=["P"] * count,
        label=[n % 2 for n in range(count)], group=[0] * count, weight=[1.0] * count, cosine=[0.5] * count,
        similar=frozenset(),
    )  # fmt: skip
    shared = {name: getattr(config, name) for name in InstructConfig.model_fields if name in ScorePrompt.model_fields}
    encoded, _ = instruct.encode(texts, tokenizer, InstructConfig(**shared))
    lengths = encoded["prompt_tokens"].tolist()
    return [encoded.row("input_ids", row).tolist()[:length] for row, length in enumerate(lengths)]


@pytest.mark.parametrize("template", ["plain", "chat"])
@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_the_prompt_is_the_one_that_training_writes(tokenizers: dict[str, Any], kind: str, template: str) -> None:
    tokenizer = tokenizers[kind]
    config = ScorePrompt(
        prompt={"template": template, "system": "You are an engineer."},  # type: ignore[arg-type]
        max_tokens=400, patent_tokens=60, section_label="Process", answer_tokens="first",
    )  # fmt: skip
    prompter = PairPrompter(tokenizer, config)
    found = prompter.group("T1", SECTION, PATENTS)
    lead = len(prompter.answers.lead)
    prompts = [(found.prefix + suffix)[: -lead or None] for suffix in found.suffixes]
    assert prompts == trained_ids(tokenizer, config, SECTION, PATENTS)
    assert prompter.counts["sections_cut"] == 0
    assert tokenizer.decode(found.prefix).endswith("Patent:" if kind == "bytes" else "Patent")  # ":▁" is one piece
    assert all(found.suffixes)


def test_the_boundary_is_moved_where_tokens_would_join() -> None:
    """A tokenizer with one token for the label's end and the space after it: it is not cut in two."""
    tokenizer = byte_level(("Yes", "No", "atent: "))
    config = ScorePrompt(prompt=PLAIN, max_tokens=400, patent_tokens=60, answer_tokens="first")  # type: ignore[arg-type]
    prompter = PairPrompter(tokenizer, config)
    found = prompter.group("T1", SECTION, PATENTS)
    lead = len(prompter.answers.lead)
    prompts = [(found.prefix + suffix)[: -lead or None] for suffix in found.suffixes]
    assert prompts == trained_ids(tokenizer, config, SECTION, PATENTS)
    assert tokenizer.decode(found.prefix).endswith("\n\nP")
    assert prompter.counts["boundaries_moved"] == len(PATENTS)


def test_a_tokenizer_that_reads_the_beginning_by_the_end_is_refused() -> None:
    tokenizer = bpe_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("useful(?=(.|\n)*42 bags)"), "of use")
    config = ScorePrompt(prompt=PLAIN, max_tokens=400, patent_tokens=60, answer_tokens="first")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"T1: the prompt's \d+ tokens before the patent .* choose another model"):
        PairPrompter(tokenizer, config).group("T1", SECTION, PATENTS)


def test_a_long_section_is_cut_the_same_for_every_patent_and_the_question_stays(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["bytes"]
    config = ScorePrompt(max_tokens=190, patent_tokens=30, answer_tokens="first")
    prompter = PairPrompter(tokenizer, config)
    found = prompter.group("T1", SECTION * 5, PATENTS)
    assert prompter.group("T1", SECTION * 5, PATENTS[:1]).prefix == found.prefix
    assert prompter.counts["sections_cut"] == prompter.counts["prompts"] == len(PATENTS) + 1
    assert prompter.counts["patents_cut"] == 1
    text = tokenizer.decode(found.prefix)
    assert config.question.replace("{yes}", "Yes").replace("{no}", "No") in text
    assert "Bag filters. Flue" in text
    for suffix in found.suffixes:
        assert len(found.prefix) + len(suffix) < config.max_tokens
        assert tokenizer.decode(suffix).endswith("<|im_end|>\n<|im_start|>assistant\n")
    with pytest.raises(
        ConfigError, match=r"T1: without any section the prompt has \d+ tokens more than prompt.max_tok"
    ):
        PairPrompter(
            tokenizer, build(ScorePrompt, {"max_tokens": 60, "patent_tokens": 30, "answer_tokens": "first"})
        ).group("T1", SECTION, PATENTS)


def test_examples_are_turns_before_the_question_and_shared(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["bytes"]
    shown = [
        Example(section="Scrubbers", patent="A scrubber", helps=True),
        Example(section="Lime", patent="A car", helps=False),
    ]
    found = PairPrompter(tokenizer, ScorePrompt(examples=shown, answer_tokens="first")).group("T1", SECTION, PATENTS)
    text = tokenizer.decode(found.prefix)
    ask = "Is the patent useful for the pollution abatement technique? Answer only Yes or No."
    assert text.startswith(
        f"<|im_start|>user\n{ask}\n\nTechnique: Scrubbers\n\nPatent: A scrubber<|im_end|>\n"
        f"<|im_start|>assistant\nYes<|im_end|>\n"
        f"<|im_start|>user\n{ask}\n\nTechnique: Lime\n\nPatent: A car<|im_end|>\n<|im_start|>assistant\nNo<|im_end|>\n"
    )


def test_reasoning_is_off() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "assistant\n",
        "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}",
    ).replace(
        "{{ message['content'] | trim }}",
        "{% if message['role'] == 'assistant' %}<think></think>{% endif %}{{ message['content'] | trim }}",
    )
    found = PairPrompter(tokenizer, ScorePrompt(answer_tokens="first")).group("T1", SECTION, PATENTS)
    assert tokenizer.decode(found.suffixes[0]).endswith("assistant\n<think></think>")


def tokens(tokenizer: Any, **keys: Any) -> tuple[list[str], list[str]]:
    answers = PairPrompter(tokenizer, build(ScorePrompt, keys)).answers
    return tuple(tokenizer.convert_ids_to_tokens(list(each)) for each in (answers.yes, answers.no))  # type: ignore[return-value]


def test_answers_are_the_tokens_of_training_and_of_other_spellings(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["bytes"]
    assert tokens(tokenizer) == (["Yes"], ["No"])
    assert tokens(tokenizer, prompt=PLAIN) == ([" Yes"], [" No"])
    assert tokens(tokenizer, also_yes=["yes", "Yes"], also_no=["no"]) == (["Yes", "yes"], ["No", "no"])
    assert tokens(tokenizers["pieces"], prompt=PLAIN, answer_tokens="first") == (["▁Ye"], ["▁"])


def test_what_both_answers_begin_with_is_read_before_them() -> None:
    """As training looks where the two answers first differ."""
    tokenizer = bpe_tokenizer()
    prompter = PairPrompter(tokenizer, build(ScorePrompt, {"prompt": PLAIN, "answer_tokens": "first"}))
    lead = list(prompter.answers.lead)
    assert tokenizer.convert_ids_to_tokens(lead) == ["Ġ"]
    found = prompter.group("T1", SECTION, PATENTS)
    assert all(suffix[-1:] == lead for suffix in found.suffixes)
    with pytest.raises(ConfigError, match=r"prompt\.also_yes: 'useful' does not begin with the tokens of"):
        tokens(tokenizer, prompt=PLAIN, answer_tokens="first", also_yes=["useful"])


def test_answers_of_several_tokens_and_those_that_begin_alike_are_refused(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["bytes"]
    with pytest.raises(ConfigError, match=r"prompt\.yes: 'Useful' is \d+ tokens.*or set prompt\.answer_tokens: first"):
        tokens(tokenizer, yes="Useful")
    with pytest.raises(ConfigError, match=r"prompt\.also_no: 'Never'"):
        tokens(tokenizer, also_no=["Never"])
    with pytest.raises(ConfigError, match=r"both a yes and a no begin with the token 'Yes'"):
        tokens(tokenizer, also_no=["Yes"])
    ends = tokens(bpe_tokenizer(), yes="It is", no="It is not", answer_tokens="first")
    assert ends[0] == ["<|im_end|>"]
    assert tokens(bpe_tokenizer(), answer_tokens="first") == (["Y"], ["N"])


def test_without_a_chat_template_the_remedy_is_named(tmp_path: Any) -> None:
    from transformers import AutoTokenizer

    tiny_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match=r"score\.prompt\.template is chat.*set score\.prompt\.template: plain"):
        PairPrompter(AutoTokenizer.from_pretrained(tmp_path), ScorePrompt(), "score")


class Stage(Config):
    prompt: PromptField = ScorePrompt()


def test_prompts_are_read_by_name_by_file_or_in_place(tmp_path: Any) -> None:
    expert = load_prompt("bref_expert")
    assert "expert of environmental regulation" in (expert.prompt.system or "")
    assert expert.section_label == "Pollution Abatement Process"
    assert build(Stage, {"prompt": "bref_expert"}).prompt == expert
    path = tmp_path / "own.yaml"
    path.write_text('question: Does it help?\n"yes": Ja\n"no": Nein\nexamples: [{section: a, patent: b, helps: yes}]\n')
    own = build(Stage, {"prompt": str(path)}).prompt
    assert (own.yes, own.examples[0].helps) == ("Ja", True)
    assert build(Stage, {"prompt": {"question": "Does it help?"}}).prompt.question == "Does it help?"
    with pytest.raises(ConfigError, match="prompt 'expert' is neither a YAML file nor one of: bref_expert"):
        load_prompt("expert")
    with pytest.raises(ConfigError, match="queston: unknown key; did you mean 'question'"):
        build(Stage, {"prompt": {"queston": "?"}})
    with pytest.raises(ConfigError, match="neither a YAML file"):
        build(Stage, {"prompt": "expert"})


def test_the_shipped_prompt_fits_a_tokenizer(tokenizers: dict[str, Any]) -> None:
    found = PairPrompter(tokenizers["bytes"], load_prompt("bref_expert")).group("T1", SECTION, PATENTS)
    assert "Answer only Yes or No." in tokenizers["bytes"].decode(found.prefix)
