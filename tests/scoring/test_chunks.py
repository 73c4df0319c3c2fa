"""The technique's chunk goes with its pair from CANDIDATES through LOGITS to SCORES, without Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from patentft import schema
from patentft.location import Location
from patentft.scoring.run import ScoreConfig, ShardScorer, _finish
from patentft.stage import Context
from patentft.store import open_stage


def test_the_chunk_of_a_pair_is_kept(tmp_path: Path):
    rows = [
        {"technique_id": f"T{t}", "patent_id": f"P{p}", "role": "all", "rank": p, "cosine": 0.5, "chunk": (t + p) % 3}
        for t in range(3)
        for p in range(4)
    ]
    candidates = pa.Table.from_pylist(rows, schema=schema.CANDIDATES)
    data = open_stage(Location(tmp_path / "corpus"), "corpus", {}, {})
    data.write_part("matches", 0, schema.MATCHES.empty_table())
    data.finish({})
    folder = open_stage(Location(tmp_path / "scores"), "score", {}, {})
    config = ScoreConfig(data="corpus", candidates="c", techniques="t", model="m", calibration="none", cosine_weight=0)
    read: list[str] = []

    def logits(sections: list[str], patents: list[str]):
        read.extend(sections)
        return np.arange(len(sections), dtype=np.float32), {"pairs": len(sections)}

    engine = SimpleNamespace(load=lambda *_: SimpleNamespace(logits=logits))
    shard = ShardScorer(config, "m", engine, folder)
    sections = pa.array([f"{row['technique_id'][1:]} {row['chunk']}" for row in rows])
    whole = candidates.append_column("section", sections).append_column("patent", candidates["patent_id"])
    for index in range(2):
        assert shard.score(index, whole.slice(6 * index, 6)) == {"pairs": 6}
    assert read == sections.to_pylist()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    _finish(config, Context(folder, {"corpus": data}, {"m": str(tmp_path / "m")}), 2)
    folder.finish({})
    for table in ("logits", "scores"):
        found = folder.read(table).to_pylist()
        names = ("technique_id", "patent_id", "chunk")
        assert [[row[name] for name in names] for row in found] == [[row[name] for name in names] for row in rows]
