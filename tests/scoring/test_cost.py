"""The cost of a scoring job: known numbers, and a slow count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patentft import pipeline, schema
from patentft.config import ConfigError
from patentft.location import Location
from patentft.progress import duration
from patentft.scoring.cost import Lengths, Shape, work
from patentft.scoring.plan import GroupShards
from patentft.scoring.quote import Given, disk_of, pairs_of, report, shape_of
from patentft.store import open_stage
from tests.tiny import save_tiny_bert, save_tiny_chat, small_pipeline

LLAMA_8B = Shape(matrix=6_979_321_856, blocks=32, width=4096)


def test_a_known_job():
    found = work(np.full(4200, 200), Lengths(700, 200), LLAMA_8B, pairs_per_shard=1000)
    assert (found.pairs, found.shards) == (840_000, 840)
    assert found.tokens.unshared == 756_000_000
    assert found.tokens.shared == 4200 * 700 + 840_000 * 200
    assert round(found.ratio, 2) == round(found.ceiling, 2) == 4.42
    # 2 FLOP for a weight and a token, and 2 % more for attention
    assert found.flop_shared / (2 * LLAMA_8B.matrix * found.tokens.shared) == pytest.approx(1.030, abs=0.002)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 5)),
    st.integers(1, 12),
)
def test_work_is_what_a_walk_over_the_shards_counts(counts: list[int], sizes: tuple[int, int, int], size: int):
    parent, rest, suffix = sizes
    shape, lengths = Shape(7, 3, 2), Lengths(parent + rest, suffix, parent)
    found = work(counts, lengths, shape, size)
    tokens = attended = 0.0
    for shard in GroupShards([count for count in counts if count], size):
        tokens += parent
        attended += parent**2 / 2
        for piece in shard:
            tokens += rest
            attended += rest * (parent + rest / 2)
            for _ in range(piece.start, piece.stop):
                tokens += suffix
                attended += suffix * (parent + rest + suffix / 2)
    assert found.tokens.shared == pytest.approx(tokens)
    assert found.flop_shared == pytest.approx(2 * 7 * tokens + 4 * 2 * 3 * attended)
    whole = sum(counts) * (parent + rest + suffix)
    assert found.flop_unshared == pytest.approx(2 * 7 * whole + 4 * 2 * 3 * whole * (parent + rest + suffix) / 2)


def test_disk_is_that_of_such_rows():
    logits, scores = disk_of(1_000_000, 500)
    assert 15e6 < logits < 60e6
    assert 15e6 < scores < 40e6
    assert disk_of(2_000_000, 500)[0] == pytest.approx(2 * logits)


def test_durations_for_a_person_who_waits():
    shown = [duration(seconds) for seconds in (0.4, 98, 100, 5900, 6000, 86_400 * 3 + 7200)]
    assert shown == ["0 s", "98 s", "2 min", "98 min", "1 h 40 min", "3 d 2 h"]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Location, dict]:
    folder = tmp_path_factory.mktemp("plan")
    values = small_pipeline(folder / "run", save_tiny_bert(folder / "bert"), search={"top_k": 5})
    del values["pairs"], values["scorer"], values["scores"]["max_tokens"], values["scores"]["patent_tokens"]
    prompt = {"max_tokens": 250, "patent_tokens": 60, "answer_tokens": "first"}
    values["scores"] |= {"model": save_tiny_chat(folder / "chat"), "engine": {"kind": "torch", "prompt": prompt}}
    loaded = pipeline.parse(values)
    return loaded.out, {step.name: (step.stage.kind, step.config) for step in loaded.steps}


def test_a_plan_before_and_after_stages_have_run(stages: tuple[Location, dict]):
    out, known = stages
    text = report(out, known, gpu_names=["H100", "l4"], prices=[3.0, 0.5])
    assert "80 of 16 sections: at most: top_k of search for 16 techniques (stage split will leave fewer)" in text
    assert "190.0 shared + 60.0 own: at most: stage corpus has not run" in text
    assert "h100-80" in text
    assert " at 3 an hour" in text
    assert "(67 TFLOP/s in fp32 at an assumed utilization of 35%)" in text

    from patentft.stage import Context

    corpus = open_stage(out / "corpus", "synth", {}, {})
    corpus.finish(dict(pipeline.kinds()["synth"].run(known["corpus"][1], Context(corpus))))
    rows = [
        {"technique_id": f"T{t}", "patent_id": f"P{p}", "role": "test", "rank": p, "cosine": 0.5, "chunk": p % 2}
        for t in range(3)
        for p in range(4)
    ]
    search = open_stage(out / "search", "search", {}, {})
    search.write_part("candidates", 0, pa.Table.from_pylist(rows, schema=schema.CANDIDATES))
    search.finish()
    text = report(out, known)
    assert "12 of 6 sections: stage search is finished" in text
    assert "mean of 16 sections and" in text
    assert "the same for all" in text
    text = report(out, known, given=Given(prefix_tokens=700, suffix_tokens=200))
    assert "tokens, each whole  10,800\n" in text
    assert "6,600: 1.64 times fewer (1.64 if every" in text


def test_what_cannot_be_planned(stages: tuple[Location, dict]):
    out, known = stages
    with pytest.raises(ConfigError, match=r"--stage 'score': no score stage is called so.*scores"):
        report(out, known, stage="score")
    with pytest.raises(ConfigError, match="give --gpu and its price in pairs"):
        report(out, known, prices=[1.0])
    with pytest.raises(ConfigError, match="both or none"):
        report(out, known, given=Given(prefix_tokens=5))
    with pytest.raises(ConfigError, match="no stage of kind score"):
        report(out, {name: stage for name, stage in known.items() if name != "scores"})


def test_pairs_of_a_cascade(tmp_path: Path):
    from tests.scoring.test_cascade_page import TEXT, yaml

    loaded = pipeline.parse({**yaml.safe_load(TEXT), "out": str(tmp_path)})
    known = {step.name: (step.stage.kind, step.config) for step in loaded.steps}
    assert int(pairs_of(loaded.out, known, "both", Given()).counts.sum()) == 72 * 100
    assert "at most: the recall of best leaves fewer" in pairs_of(loaded.out, known, "best", Given()).source
    kind, config = known["best"]
    for update, wanted in (({"recall": None, "top_k": 7}, 72 * 7), ({"recall": None, "pairs": 720}, 720)):
        known["best"] = (kind, config.model_copy(update=update))
        assert int(pairs_of(loaded.out, known, "best", Given()).counts.sum()) == wanted
    assert int(pairs_of(loaded.out, known, "both", Given(techniques=10, patents=3)).counts.sum()) == 30


def test_a_shape_is_counted_from_the_config_alone(tmp_path: Path):
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2
    )
    config.save_pretrained(tmp_path)
    found = shape_of(str(tmp_path))
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48
    assert found == Shape(3 * layer, 3, 32)
    assert not list(tmp_path.glob("*.safetensors"))
