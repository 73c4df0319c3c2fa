"""A score stage's shards by each engine, in this process: what an actor does, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from patentft import schema
from patentft.config import ConfigError, build
from patentft.location import Location
from patentft.objectives.prompts import Prompter, asked_pair
from patentft.scoring.engines import ENGINES
from patentft.scoring.plan import RowShards
from patentft.scoring.prompt import ScorePrompt
from patentft.scoring.run import ScoreConfig, ShardScorer
from patentft.scoring.shards import Candidates, Shards, TextFile
from patentft.store import StageFolder, open_stage
from tests.tiny import save_tiny_chat

STAGES = {"data": "corpus", "candidates": "search", "techniques": "techniques", "model": "scorer"}
PROMPT = {"max_tokens": 250, "patent_tokens": 60, "answer_tokens": "first"}
SECTIONS = {
    ("T1", 0): "Bag filters. Flue gas flows through bags, which hold back the dust.",
    ("T1", 1): "Bag filters. Bags are cleaned with compressed air, in pulses.",
    ("T2", 0): "Scrubbers. Lime is sprayed into the gas.",
    ("T3", 0): "Membranes.",
}
PATENTS = {f"P{n}": "A device " + "with a filter of cloth " * (1 + n % 3) + f"number {n}" for n in range(9)}


def candidates() -> pa.Table:
    """Every technique with every patent, the best chunk changing from row to row."""
    rows = [(technique, patent) for technique in ("T1", "T2", "T3") for patent in PATENTS]
    columns = {
        "technique_id": [technique for technique, _ in rows],
        "patent_id": [patent for _, patent in rows],
        "role": ["all"] * len(rows),
        "rank": [n % len(PATENTS) for n in range(len(rows))],
        "cosine": [0.5] * len(rows),
        "chunk": [n % 2 if technique == "T1" else 0 for n, (technique, _) in enumerate(rows)],
    }
    return pa.table(columns, schema=schema.CANDIDATES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return save_tiny_chat(tmp_path_factory.mktemp("chat"))


def config(**engine: Any) -> ScoreConfig:
    values = {"kind": "torch", "prompt": PROMPT, **engine}
    return build(ScoreConfig, {**STAGES, "engine": values, "pairs_per_shard": 8, "tokens_per_batch": 256})


def searched(folder: Path) -> StageFolder:
    """The candidates in three parts."""
    stage = open_stage(Location(folder), "search", {}, {})
    for part in range(3):
        stage.write_part("candidates", part, candidates().slice(part * 10, 10))
    stage.finish()
    return stage


def shards_of(stage: StageFolder, config: ScoreConfig) -> Shards:
    found = Candidates(stage)
    grouped = ENGINES[config.engine.kind].GROUPED
    patents = TextFile(len(found.patent_ids))
    patents.write(range(len(found.patent_ids)), [PATENTS[name] for name in found.patent_ids.to_pylist()])
    return Shards(
        found, RowShards(len(found), found.section if grouped else None, config.pairs_per_shard), SECTIONS, patents
    )


def scored(
    folder: Path, model: str, config: ScoreConfig, order: list[int] | None = None
) -> dict[tuple[str, str], float]:
    """Every shard's part, written by one actor in the given order and read back."""
    stage = open_stage(Location(folder / "scores"), "score", {"folder": str(folder)}, {})
    actor = ShardScorer(config, model, ENGINES["torch"], stage)
    table = candidates()
    shards = shards_of(searched(folder / "search"), config)
    for index in order or range(len(shards.rows)):
        counts = actor.score(index, shards.table(index))
        assert counts["prompts"] == shards.rows.size(index)
        assert counts["sections_cut"] == counts["patents_cut"] == 0
    shards.close()
    parts = [stage.read_part(stage.entry("logits", index)) for index in range(len(shards.rows))]
    rows = pa.concat_tables(parts)
    keys = zip(rows["technique_id"].to_pylist(), rows["patent_id"].to_pylist(), strict=True)
    found = dict(zip(keys, rows["cross_logit"].to_pylist(), strict=True))
    assert len(found) == rows.num_rows == table.num_rows
    return found


@torch.inference_mode()
def by_training(model: str, prompt: ScorePrompt) -> dict[tuple[str, str], float]:
    """Log-odds as objective instruct computes them: its prompt, the logits where the two answers first differ."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    decoder = AutoModelForCausalLM.from_pretrained(model).eval()
    prompter = Prompter(tokenizer, prompt.prompt, prompt.max_tokens)
    found = {}
    for row in candidates().to_pylist():
        section = SECTIONS[row["technique_id"], row["chunk"]]
        example = prompter.encode(asked_pair(prompt, "pair", section, PATENTS[row["patent_id"]]))
        yes, no = example.answers
        place = next(place for place, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b)
        logits = decoder(input_ids=torch.tensor([example.prompt + yes[:place]])).logits[0, -1]
        found[row["technique_id"], row["patent_id"]] = float(logits[yes[place]] - logits[no[place]])
    return found


@pytest.mark.parametrize("template", ["chat", "plain"])
@pytest.mark.parametrize("share_prefix", [True, False])
def test_torch_scores_are_those_of_training(model: str, template: str, share_prefix: bool, tmp_path: Path) -> None:
    chosen = config(prompt={**PROMPT, "prompt": {"template": template}}, share_prefix=share_prefix)
    found = scored(tmp_path / "scores", model, chosen)
    wanted = by_training(model, chosen.engine.prompt)  # type: ignore[union-attr]
    assert np.std(list(wanted.values())) > 0.01
    assert found == pytest.approx(wanted, abs=1e-4)


def test_shards_in_any_order_give_the_same_bits(model: str, tmp_path: Path) -> None:
    first = scored(tmp_path / "first", model, config())
    assert scored(tmp_path / "second", model, config(), [3, 5, 1, 0, 4, 2]) == first
    other = build(ScoreConfig, {**config().model_dump(), "pairs_per_shard": 5, "tokens_per_batch": 90})
    assert scored(tmp_path / "other", model, other) == pytest.approx(first, abs=1e-4)


def test_shards_keep_a_sections_pairs_together(tmp_path: Path) -> None:
    stage = searched(tmp_path)
    shards = shards_of(stage, config())
    tables = [shards.table(index) for index in range(len(shards.rows))]
    sections = [
        set(zip(table["technique_id"].to_pylist(), table["chunk"].to_pylist(), strict=True)) for table in tables
    ]
    assert sections == [{("T1", 0)}, {("T1", 1)}, {("T2", 0)}, {("T2", 0)}, {("T3", 0)}, {("T3", 0)}]
    for table in tables:
        for row in table.to_pylist():
            assert row["section"] == SECTIONS[row["technique_id"], row["chunk"]]
            assert row["patent"] == PATENTS[row["patent_id"]]
    plain = shards_of(stage, build(ScoreConfig, {**STAGES, "pairs_per_shard": 8}))
    found = pa.concat_tables([plain.table(index).select(schema.CANDIDATES.names) for index in range(4)])
    assert found.to_pylist() == candidates().to_pylist()
    shards.close()
    plain.close()


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 9))
def test_row_shards(groups: list[int], size: int) -> None:
    shards = RowShards(len(groups), np.array(groups, np.int32), size)
    rows = [row for shard in shards for row in shard.tolist()]
    order = list(dict.fromkeys(groups))
    assert rows == sorted(range(len(groups)), key=lambda row: (order.index(groups[row]), row))
    assert all(1 <= len(shard) <= size for shard in shards)
    assert [shards.size(number) for number in range(len(shards))] == [len(shard) for shard in shards]


def test_what_was_cut_is_counted(model: str) -> None:
    from patentft.scoring.engines import Settings

    chosen = config(prompt={**PROMPT, "max_tokens": 150, "patent_tokens": 20})
    engine = ENGINES["torch"].load(chosen.engine, model, torch.device("cpu"), Settings(384, 224, 256, "scores.engine"))
    sections = [SECTIONS["T1", 0] * 3, "Dust."]
    _, counts = engine.logits(sections, ["A filter of cloth, of felt, of fibres and of metal, in a housing"] * 2)
    assert (counts["prompts"], counts["sections_cut"], counts["patents_cut"]) == (2, 1, 2)
    assert engine.logits(["Dust."], ["A filter"])[1]["sections_cut"] == 0


def test_engines_are_the_ones_that_a_config_can_name() -> None:
    assert sorted(ENGINES) == ["cross_encoder", "torch"]
    assert build(ScoreConfig, STAGES).engine.kind == "cross_encoder"
    with pytest.raises(ConfigError, match=r"engine torch does not read max_tokens: set engine\.prompt\.max_tokens"):
        build(ScoreConfig, {**STAGES, "engine": {"kind": "torch"}, "max_tokens": 96})
    whole = build(ScoreConfig, {**STAGES, "engine": {"kind": "torch", "prompt": "bref_expert"}})
    assert build(ScoreConfig, whole.model_dump()) == whole  # the resolved configuration holds the prompt's text
