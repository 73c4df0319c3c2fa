"""What a score stage's driver holds of its pairs, against plain lists and dicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from patentft import schema
from patentft.config import ConfigError
from patentft.corpus.text import patent_text
from patentft.location import Location
from patentft.scoring.shards import Candidates, TextFile, chosen_swaps, patent_file
from patentft.store import StageFolder, open_stage


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """Techniques in no order, one of them over two parts; the same patents for all."""
    rng = np.random.default_rng(0)
    return [
        {
            "technique_id": f"T{technique}",
            "patent_id": f"P{patent:03}",
            "role": "valid" if technique < 4 else "test",
            "rank": rank,
            "cosine": float(np.float32(rng.random())),
            "chunk": int(rng.integers(3)),
        }
        for technique in rng.permutation(12).tolist()
        for rank, patent in enumerate(rng.choice(60, 25, replace=False).tolist())
    ]


@pytest.fixture(scope="module")
def stage(rows: list[dict], tmp_path_factory: pytest.TempPathFactory) -> StageFolder:
    folder = open_stage(Location(tmp_path_factory.mktemp("search")), "search", {}, {})
    for part, low in enumerate(range(0, len(rows), 70)):
        folder.write_part("candidates", part, pa.Table.from_pylist(rows[low : low + 70], schema.CANDIDATES))
    folder.finish()
    return folder


def test_pairs_as_numbers(rows: list[dict], stage: StageFolder) -> None:
    found = Candidates(stage)
    sections = list(dict.fromkeys((row["technique_id"], row["chunk"]) for row in rows))
    assert found.sections == sections
    assert found.patent_ids.to_pylist() == list(dict.fromkeys(row["patent_id"] for row in rows))
    for row, section, patent, role in zip(rows, found.section, found.patent, found.role, strict=True):
        assert found.sections[section] == (row["technique_id"], row["chunk"])
        assert found.patent_ids[int(patent)].as_py() == row["patent_id"]
        assert found.roles[role] == row["role"]
    chosen = np.random.default_rng(1).permutation(len(rows))[:90]
    assert found.take(chosen).to_pylist() == [rows[row] for row in chosen.tolist()]


def test_known_matches(rows: list[dict], stage: StageFolder) -> None:
    matches = [(rows[row]["technique_id"], rows[row]["patent_id"]) for row in (3, 80, 81, 299)]
    matches += [("T1", "absent"), ("absent", "P001"), ("T1", "P001")]
    table = pa.table(
        {"technique_id": [technique for technique, _ in matches], "patent_id": [patent for _, patent in matches]}
    )
    chosen = np.arange(len(rows))[::-1]
    wanted = [(rows[row]["technique_id"], rows[row]["patent_id"]) in matches for row in chosen.tolist()]
    assert Candidates(stage).matched(chosen, table).tolist() == wanted


def as_before(rows: list[dict], matched: set[tuple[str, str]], count: int, seed: int) -> list[tuple[int, str]]:
    """The swaps as they were chosen from lists: a run that goes on must choose them again."""
    side = [place for place, row in enumerate(rows) if row["role"] == "test"]
    pairs = [(rows[place]["technique_id"], rows[place]["patent_id"]) for place in side]
    rng = np.random.default_rng([seed, 7])
    techniques = sorted({technique for technique, _ in pairs})
    positive = [row for row, pair in enumerate(pairs) if pair in matched]
    negative = [row for row, pair in enumerate(pairs) if pair not in matched]
    half = min(len(positive), count // 2)
    chosen = sorted(
        [positive[i] for i in rng.choice(len(positive), half, replace=False)]
        + [negative[i] for i in rng.choice(len(negative), min(len(negative), count - half), replace=False)]
    )
    others = []
    for row in chosen:
        other = techniques[int(rng.integers(len(techniques)))]
        while other == pairs[row][0]:
            other = techniques[int(rng.integers(len(techniques)))]
        others.append((side[row], other))
    return others


@pytest.mark.parametrize("count", [1, 7, 40, 500])
def test_swaps_are_those_of_a_slow_choice(rows: list[dict], stage: StageFolder, count: int) -> None:
    matched = {(row["technique_id"], row["patent_id"]) for row in rows[::9]}
    table = pa.table({"technique_id": [each for each, _ in matched], "patent_id": [each for _, each in matched]})
    for seed in range(4):
        assert chosen_swaps(Candidates(stage), table, count, seed) == as_before(rows, matched, count, seed)


def test_texts_lie_on_disk_and_come_back(tmp_path: Path) -> None:
    data = open_stage(Location(tmp_path), "corpus", {}, {})
    texts = ["", "Filter für Staub", "x" * 70_000, "A scrubber 水"]
    rows = [{"patent_id": f"P{n}", "title": text, "abstract": "gas" * n} for n, text in enumerate(texts)]
    whole = pa.Table.from_pylist(rows, schema=schema.PATENTS)
    for part in range(2):
        data.write_part("patents", part, whole.slice(2 * part, 2))
    data.finish()
    file = patent_file(data, ["title", "abstract"], pa.array(["P3", "P0", "P2", "P1"]))
    wanted = dict(zip((f"P{n}" for n in range(4)), patent_text(whole, ["title", "abstract"]), strict=True))
    assert file.read(np.array([1, 0, 2, 0, 3])).to_pylist() == [wanted[name] for name in ("P0", "P3", "P2", "P3", "P1")]
    assert file.read(np.array([], np.int32)).to_pylist() == []
    file.close()
    with pytest.raises(ConfigError, match=r"has no patent 'P7' \(and 1 more\)"):
        patent_file(data, ["title"], pa.array(["P0", "P9", "P7"]))


def test_a_text_file_knows_what_it_lacks() -> None:
    file = TextFile(3)
    file.write([2], ["two"])
    assert file.absent().tolist() == [0, 1]
    file.close()
