"""Which pairs go on to the next level, and what is said of those that do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft import schema, stats
from patentft.config import ConfigError, build
from patentft.location import Location
from patentft.scoring.shortlist import SHORTLIST, ShortlistConfig, largest_k, least_k
from patentft.stage import Context
from patentft.store import StageFolder, open_stage


def world(folder: Path, seed: int = 0) -> tuple[dict[str, StageFolder], list[dict]]:
    """Scores of 9 techniques (T0-T5 valid, the others test) in three parts, with ties, and their known matches."""
    rng = np.random.default_rng(seed)
    scores = open_stage(Location(folder / "scores"), "score", {}, {})
    rows: list[dict] = []
    for part in range(3):
        own = []
        for technique in range(3 * part, 3 * part + 3):
            for patent in rng.choice(40, 5 + technique, replace=False):
                row = {"technique_id": f"T{technique}", "patent_id": f"P{patent}", "chunk": int(rng.integers(3))}
                row |= {"role": "valid" if technique < 6 else "test", "cosine": float(np.float32(rng.random()))}
                own.append({**row, "cross_logit": 0.0, "log_odds": float(rng.integers(-3, 3))})
        order = rng.permutation(len(own))  # a technique's rows stand in one part, in any order
        rows += [own[place] for place in order]
        table = pa.Table.from_pylist([own[place] for place in order], schema=schema.SCORES)
        scores.write_part("scores", part, table)
    scores.finish({})
    matches = [rows[place] for place in rng.choice(len(rows), 25, replace=False)]
    data = open_stage(Location(folder / "corpus"), "corpus", {}, {})
    names = ("technique_id", "patent_id")
    known = [{name: row[name] for name in names} for row in matches]
    known.append({"technique_id": "T1", "patent_id": "never scored"})
    data.write_part("matches", 0, pa.Table.from_pylist(known, schema=schema.MATCHES))
    data.finish({})
    for row in rows:
        row["known"] = {name: row[name] for name in names} in known
    return {"scores": scores, "corpus": data}, rows


def shortlist(folder: Path, inputs: dict[str, StageFolder], **values) -> tuple[dict, list[dict]]:
    config = build(ShortlistConfig, {"scores": "scores", "data": "corpus", **values})
    stage = open_stage(Location(folder), "shortlist", {"values": values}, {})
    counts = dict(SHORTLIST.run(config, Context(stage, inputs)))
    stage.finish(counts)
    return counts, stage.read("candidates").to_pylist()


def ranked(rows: list[dict]) -> dict[str, list[dict]]:
    techniques = dict.fromkeys(row["technique_id"] for row in rows)
    return {
        t: sorted((r for r in rows if r["technique_id"] == t), key=lambda r: (-r["log_odds"], r["patent_id"]))
        for t in techniques
    }


def test_the_best_of_each_technique_go_on_with_their_chunk(tmp_path):
    inputs, rows = world(tmp_path)
    counts, found = shortlist(tmp_path / "out", inputs, top_k=4)
    best = ranked(rows)
    assert len(found) == 36
    for technique, own in best.items():
        mine = [row for row in found if row["technique_id"] == technique]
        assert [row["rank"] for row in mine] == [0, 1, 2, 3]
        for name in ("patent_id", "role", "cosine", "chunk"):
            assert [row[name] for row in mine] == [row[name] for row in own[:4]]
    assert (counts["k"], counts["techniques"], counts["pairs_in"], counts["pairs_out"]) == (4, 9, len(rows), 36)
    for role in ("valid", "test"):
        known = [(rank, row) for own in best.values() for rank, row in enumerate(own) if row["known"]]
        ranks = [rank for rank, row in known if row["role"] == role]
        kept = sum(rank < 4 for rank in ranks)
        said = counts["matches"][role]
        assert (said["relevant"], said["kept"], said["lost"]) == (len(ranks), kept, len(ranks) - kept)
        assert said["lower_bound"] == stats.recall_lower_bound(kept, len(ranks))
        assert said["recall_at"]["5"] == pytest.approx(np.mean([rank < 5 for rank in ranks]))


def test_k_for_a_recall_is_chosen_on_the_valid_side_alone(tmp_path):
    inputs, rows = world(tmp_path)
    known = [(rank, row) for own in ranked(rows).values() for rank, row in enumerate(own) if row["known"]]
    ranks = sorted(rank for rank, row in known if row["role"] == "valid")
    counts, _ = shortlist(tmp_path / "share", inputs, recall=0.8, certified=False)
    assert counts["k_chosen_on"] == "valid"
    assert counts["k"] == ranks[-(-len(ranks) * 8 // 10) - 1] + 1
    counts, _ = shortlist(tmp_path / "bound", inputs, recall=0.6)
    assert counts["matches"]["valid"]["lower_bound"] >= 0.6
    smaller, _ = shortlist(tmp_path / "less", inputs, top_k=counts["k"] - 1)
    assert smaller["matches"]["valid"]["lower_bound"] < 0.6
    with pytest.raises(ConfigError, match=r"known matches cannot certify a recall of 0\.99 .*: 299 can"):
        shortlist(tmp_path / "most", inputs, recall=0.99)


def test_k_for_a_budget(tmp_path):
    inputs, _ = world(tmp_path)
    counts, found = shortlist(tmp_path / "out", inputs, pairs=60)
    assert len(found) == counts["pairs_out"] <= 60
    assert shortlist(tmp_path / "more", inputs, top_k=counts["k"] + 1)[0]["pairs_out"] > 60
    with pytest.raises(ConfigError, match="less than one for each of 9 techniques"):
        shortlist(tmp_path / "few", inputs, pairs=8)


def test_parts_that_are_there_are_left_and_the_same_come_out(tmp_path):
    inputs, _ = world(tmp_path)
    _, found = shortlist(tmp_path / "out", inputs, top_k=3)
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "ledger" / "candidates-00001.json").unlink()
    _, again = shortlist(tmp_path / "out", inputs, top_k=3)
    assert again == found


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(0, 200))
def test_the_largest_k_is_that_of_trying_all(sizes, more):
    pairs = len(sizes) + more
    fitting = [k for k in range(1, max(sizes) + 1) if sum(min(k, size) for size in sizes) <= pairs]
    assert largest_k(np.array(sizes), pairs) == max(fitting)


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.floats(0.01, 0.95), st.sampled_from([None, 0.9]))
def test_the_least_k_is_that_of_trying_all(ranks, recall, confidence):
    def enough(k: int) -> bool:
        found = sum(rank < k for rank in ranks)
        share = found / len(ranks)
        return (share if confidence is None else stats.recall_lower_bound(found, len(ranks), confidence)) >= recall

    fitting = [k for k in range(1, 52) if enough(k)]
    if fitting:
        assert least_k(np.array(ranks), recall, confidence) == fitting[0]
    else:
        with pytest.raises(ConfigError, match="cannot certify"):
            least_k(np.array(ranks), recall, confidence)


def test_choosing_k_on_the_same_pairs_keeps_the_confidence():
    """The true recall at the chosen k is below the wanted one in no more than 1 - confidence of all draws."""
    rng = np.random.default_rng(0)
    share = 0.15 * 0.85 ** np.arange(60)
    share /= share.sum()  # of a match at each rank: the truth
    failed = []
    for _ in range(200):
        ranks = rng.choice(60, 150, p=share)
        failed.append(share[: least_k(ranks, 0.9, 0.9)].sum() < 0.9)
    assert np.mean(failed) <= 0.1 + 2 * np.sqrt(0.1 * 0.9 / 200)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "set one of top_k, recall and pairs; got none"),
        ({"top_k": 3, "pairs": 9}, "got top_k and pairs"),
        ({"recall": 1.0}, "no number of matches certifies a recall of 1"),
    ],
)
def test_what_makes_no_sense_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        build(ShortlistConfig, {"scores": "s", "data": "d", **values})
