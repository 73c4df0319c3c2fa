"""Windows: token-exact, on sentence borders, covering everything; for any text and several kinds of tokenizer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from patentft.corpus.bref.windows import CannotCut, covers, cut, passage, sentences

TRAINING = [
    "Dust is removed from the flue-gas by a bag filter. The filter has 12 bags (see Section 4.1.2), e.g. of polyester.",
    "Emissions of HF, HCl and SO2 arise in the kiln; 99 % is bound to lime. Costs: EUR 2.50 per tonne.\n\n• low costs",
]


def trained(kind: str) -> Callable[[list[str]], list[int]]:
    """Counts tokens as WordPiece, byte-level BPE, Unigram with a space before each word, or characters."""
    if kind == "characters":
        return lambda texts: [len(text) for text in texts]
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: trainers.Trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]"])
    elif kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"])
    tokenizer.train_from_iterator(TRAINING * 20, trainer)
    return lambda texts: [len(one.ids) for one in tokenizer.encode_batch(texts, add_special_tokens=False)]


COUNTERS = {kind: trained(kind) for kind in ("characters", "wordpiece", "bytes", "unigram")}

WORDS = st.sampled_from(
    [*" ".join(TRAINING).split(), ".", "\n", "\n\n", "e.g.", "3.5.", "No.", "ﷺ", "é", "x" * 70, "…"]
)
TEXTS = st.one_of(st.text(max_size=300), st.lists(WORDS, max_size=120).map(" ".join))


@given(st.lists(TEXTS, max_size=3), st.sampled_from(sorted(COUNTERS)), st.integers(32, 90), st.integers(0, 16))
@example(["a" * 5000], "bytes", 32, 8)
@example([" " * 5000, "", "\n" * 50], "characters", 32, 8)
@settings(max_examples=150, deadline=None)
def test_windows_cover_every_character_and_hold_no_more_tokens_than_allowed(
    texts: list[str], kind: str, max_tokens: int, overlap: int
) -> None:
    count = COUNTERS[kind]
    found = cut(texts, count, max_tokens=max_tokens, num_special=2, overlap=overlap)
    assert len(found) == len(texts)
    for text, one in zip(texts, found, strict=True):
        assert covers(one.windows, len(text))
        assert (
            "".join(
                text[window.start if index == 0 else max(window.start, one.windows[index - 1].end) : window.end]
                for index, window in enumerate(one.windows)
            )
            == text
        )
        counted = count([text[window.start : window.end] for window in one.windows])
        assert [window.num_tokens for window in one.windows] == [number + 2 for number in counted]
        assert all(window.num_tokens <= max_tokens for window in one.windows)
        if not one.sentences_cut:
            borders = {0, *(end for _, end in sentences(text))}
            assert all(window.start in borders and window.end in borders for window in one.windows)


@given(TEXTS, st.integers(32, 200), st.integers(1, 16))
@settings(max_examples=100, deadline=None)
def test_neighbours_share_the_overlap_where_sentences_allow_it(text: str, max_tokens: int, overlap: int) -> None:
    """Against the rule itself, sentence by sentence, with characters as tokens (they add up exactly)."""
    (one,) = cut([text], COUNTERS["characters"], max_tokens=max_tokens, num_special=0, overlap=overlap)
    if one.sentences_cut:
        return
    spans = sentences(text)
    for window, after in zip(one.windows, one.windows[1:], strict=False):
        whole = [span for span in spans if window.start <= span[0] and span[1] <= window.end]
        nxt = next(span for span in spans if span[0] == window.end)
        shared = [span for span in whole if span[0] >= after.start]
        size = sum(b - a for a, b in shared)
        if size < overlap:  # then one sentence more does not go: half a window, all of the window, or the next one
            more = whole[len(whole) - len(shared) - 1]
            longer = size + more[1] - more[0]
            assert longer > max_tokens // 2 or len(shared) + 1 == len(whole) or longer + nxt[1] - nxt[0] > max_tokens
        # and no sentence more than needed
        assert size - (shared[0][1] - shared[0][0] if shared else 0) < overlap


def test_windows_are_as_full_as_sentences_allow() -> None:
    text = "".join(f"Sentence {n:02d} here. " for n in range(20))  # 18 characters each, its space included
    (one,) = cut([text], COUNTERS["characters"], max_tokens=60, num_special=2, overlap=10)
    assert [(w.start // 18, w.end // 18) for w in one.windows] == [(n, n + 3) for n in range(0, 18, 2)] + [(18, 20)]


def test_a_sentence_that_no_window_holds_is_cut_between_words_and_counted() -> None:
    text = "Short one. " + "word " * 100 + ". Short two."
    (one,) = cut([text], COUNTERS["characters"], max_tokens=64, num_special=0, overlap=8)
    assert one.sentences_cut == 1
    assert all(text[w.start - 1].isspace() for w in one.windows[1:])


def test_a_character_that_no_window_holds_is_an_error() -> None:
    with pytest.raises(CannotCut, match="alone has 40 tokens"):
        cut(["a"], lambda texts: [40 * len(text) for text in texts], max_tokens=16, num_special=2, overlap=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two? Three! Four", ["One. ", "Two? ", "Three! ", "Four"]),
        ("See e.g. Germany and Fig. 3 of No. 4. Then more.", ["See e.g. Germany and Fig. 3 of No. 4. ", "Then more."]),
        ("Up to 3.5 kg. of lime. ‘Quoted.’ Next", ["Up to 3.5 kg. of lime. ", "‘Quoted.’ ", "Next"]),
        ("a line\nanother\n\n• item", ["a line\n", "another\n\n", "• item"]),
        ("3.5. Installations for it. More", ["3.5. Installations for it. ", "More"]),
        ("In 2005. The", ["In 2005. ", "The"]),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert [text[a:b] for a, b in sentences(text)] == expected


def test_long_runs_take_linear_time() -> None:
    """Quadratic matching would take hours on these."""
    for text in ("." * 3_000_000, " " * 3_000_000, "\n " * 1_000_000, "e.g. " * 300_000):
        spans = sentences(text)
        assert spans[0][0] == 0
        assert spans[-1][1] == len(text)


@given(TEXTS, st.integers(0, 400), st.integers(1, 200))
def test_a_passage_is_whole_sentences_about_its_place(text: str, around: int, limit: int) -> None:
    found = passage(text, min(around, max(len(text) - 1, 0)), limit)
    assert found in text
    if len(text) > limit:
        longest = max(end - start for start, end in sentences(text))
        assert len(found) <= max(limit, longest)
    else:
        assert found == text
