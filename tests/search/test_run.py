"""The stages on a Ray cluster: embed and search end to end, resuming, a killed actor, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from patentft import schema
from patentft.config import Config, ConfigError, build, content
from patentft.location import Location
from patentft.progress import Progress
from patentft.search.embed import EmbedConfig
from patentft.search.prefilter import SearchConfig
from patentft.stage import Context, Stage
from patentft.store import StageFolder, open_stage
from tests.search.tiny_bert import WORDS

pytestmark = pytest.mark.ray

NUM_PATENTS, NUM_TECHNIQUES, PART = 90, 24, 20


def finish(root: Path, name: str, tables: dict[str, list[pa.Table]]) -> StageFolder:
    """A finished stage with the given parts."""
    folder = open_stage(Location(root / name), "corpus", {"name": name}, {})
    for table, parts in tables.items():
        for index, part in enumerate(parts):
            folder.write_part(table, index, part.cast(schema.TABLES[table]))
    folder.finish()
    return folder


def corpus(root: Path) -> StageFolder:
    rng = np.random.default_rng(0)

    def words(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(low, high)))

    patents = pa.table(
        {
            "patent_id": [f"EP{i:03}" for i in range(NUM_PATENTS)],
            "title": [words(2, 6) for _ in range(NUM_PATENTS)],
            "abstract": [words(5, 90) for _ in range(NUM_PATENTS)],
            "claims": pa.nulls(NUM_PATENTS, pa.list_(pa.string())),
            "year": pa.array([2000 + i % 10 for i in range(NUM_PATENTS)], pa.int32()),
            "codes": pa.array([["B01D53/56"] if i % 3 else ["C04B1/00"] for i in range(NUM_PATENTS)]),
        }
    )
    techniques = pa.table(
        {
            "technique_id": [f"CER:::{i}" for i in range(NUM_TECHNIQUES)],
            "document": ["CER"] * NUM_TECHNIQUES,
            "section": [str(i) for i in range(NUM_TECHNIQUES)],
            "title": [words(2, 4) for _ in range(NUM_TECHNIQUES)],
            "text": [words(20, 200) for _ in range(NUM_TECHNIQUES)],
        }
    )
    matches = pa.table(
        {
            "technique_id": [f"CER:::{i % NUM_TECHNIQUES}" for i in range(60)] + ["CER:::gone"],
            "patent_id": [f"EP{i:03}" for i in range(60)] + ["EP000"],
        }
    )
    parts = [patents.slice(start, PART) for start in range(0, NUM_PATENTS, PART)]
    return finish(root, "corpus", {"patents": parts, "techniques": [techniques], "matches": [matches]})


def split(root: Path) -> StageFolder:
    def roles(names: list[str], ids: list[str]) -> pa.Table:
        return pa.table({"id": ids, "role": [names[i % len(names)] for i in range(len(ids))]})

    return finish(
        root,
        "split",
        {
            "patent_roles": [roles(["train", "valid", "test", "unused"], [f"EP{i:03}" for i in range(NUM_PATENTS)])],
            "technique_roles": [roles(["train", "valid", "test"], [f"CER:::{i}" for i in range(NUM_TECHNIQUES)])],
        },
    )


def run(root: Path, name: str, stage: Stage, values: dict, inputs: list[StageFolder], model: str = "") -> StageFolder:
    """What the pipeline does for a stage."""
    config: Config = build(stage.config, values)
    ids = {each.name: each.manifest.id for each in inputs if each.manifest}
    folder = open_stage(Location(root / name), stage.kind, content(config), ids)
    if not folder.done:
        context = Context(folder, {each.name: each for each in inputs}, {model: model}, Progress(quiet=True))
        folder.finish(stage.run(config, context))
    return folder


def embed(root: Path, data: StageFolder, model: str, table: str, **values: Any) -> StageFolder:
    from patentft.search.run import EMBED

    common = {"data": "corpus", "table": table, "model": model, "overlap_tokens": 8, "cpus_per_worker": 0.5}
    return run(root, table, EMBED, common | values, [data], model)


@pytest.fixture(scope="module")
def stages(ray_cluster, tmp_path_factory: pytest.TempPathFactory, tiny_bert: str) -> dict[str, StageFolder]:
    root = tmp_path_factory.mktemp("runs")
    data = corpus(root)
    embedded = {table: embed(root, data, tiny_bert, table) for table in ("patents", "techniques")}
    return {"corpus": data, "split": split(root), **embedded}


def search(root: Path, stages: dict[str, StageFolder], **values: Any) -> StageFolder:
    from patentft.search.run import SEARCH

    base = {"patents": "patents", "techniques": "techniques", "data": "corpus", "top_k": 7, "cpus_per_worker": 0.5}
    return run(root, "search", SEARCH, base | values, list(stages.values()))


def scores_of(stages: dict[str, StageFolder], aggregate: str = "max") -> tuple[list[str], list[str], np.ndarray]:
    """Technique ids, patent ids and (T, N) scores, by brute force over the stored chunks."""
    sides = []
    for name in ("techniques", "patents"):
        table = stages[name].read("embeddings")
        ids = list(dict.fromkeys(table["id"].to_pylist()))
        vectors, row_ids = np.stack(table["vector"].to_numpy()), np.asarray(table["id"].to_pylist())
        sides.append((ids, [vectors[row_ids == each] for each in ids]))
    (techniques, ours), (patents, theirs) = sides
    reduce = np.max if aggregate == "max" else np.mean
    return techniques, patents, np.asarray([[reduce(a @ b.T) for b in theirs] for a in ours])


def test_embeddings_part_by_part(stages: dict[str, StageFolder]) -> None:
    source, embedded = stages["corpus"], stages["patents"]
    assert len(embedded.parts("embeddings")) == len(source.parts("patents")) == 5
    for mine, theirs in zip(embedded.iter_parts("embeddings"), source.iter_parts("patents"), strict=True):
        assert list(dict.fromkeys(mine["id"].to_pylist())) == theirs["patent_id"].to_pylist()
    counts = embedded.manifest.counts
    assert counts["texts"] == NUM_PATENTS
    assert counts["chunks"] == embedded.read("embeddings").num_rows > NUM_PATENTS
    assert counts["texts_over_limit"] > 0
    assert (counts["dimension"], counts["max_tokens"], counts["pooling"]) == (32, 64, "mean")


@pytest.mark.parametrize("aggregate", ["max", "mean"])
def test_search_equals_brute_force(stages: dict[str, StageFolder], tmp_path: Path, aggregate: str) -> None:
    found = search(tmp_path, stages, aggregate=aggregate, workers=2)
    techniques, patents, scores = scores_of(stages, aggregate)
    rows = found.read("candidates").to_pylist()
    assert len(rows) == NUM_TECHNIQUES * 7
    for number, technique in enumerate(techniques):
        mine = rows[number * 7 : number * 7 + 7]
        best = np.argsort(-scores[number], kind="stable")[:7]
        assert {row["technique_id"] for row in mine} == {technique}
        assert [row["rank"] for row in mine] == list(range(7))
        assert [row["patent_id"] for row in mine] == [patents[i] for i in best]
        np.testing.assert_allclose([row["cosine"] for row in mine], scores[number, best], atol=1e-6)
    assert max(row["chunk"] for row in rows) > 0
    ranks = found.read("ranks").to_pylist()
    assert len(ranks) == 60  # the match of an unknown technique is left out
    for row in ranks:
        t, p = techniques.index(row["technique_id"]), patents.index(row["patent_id"])
        assert row["rank_in_technique"] == (scores[t] > scores[t, p] + 1e-6).sum()
        assert row["rank_in_patent"] == (scores[:, p] > scores[t, p] + 1e-6).sum()
        assert (row["num_patents"], row["num_techniques"], row["role"]) == (NUM_PATENTS, NUM_TECHNIQUES, "all")
    counts = found.manifest.counts
    assert counts["pairs_possible"] == NUM_PATENTS * NUM_TECHNIQUES
    assert counts["pairs_kept"] == NUM_TECHNIQUES * 7
    recall = counts["roles"]["all"]["recall"]["patents_of_a_technique"]["10"]
    assert recall["found"] == sum(row["rank_in_technique"] < 10 for row in ranks)
    assert recall["relevant"] == 60


def test_workers_do_not_change_the_rows(stages: dict[str, StageFolder], tmp_path: Path) -> None:
    one, two = (search(tmp_path / str(n), stages, workers=n) for n in (1, 2))
    assert one.manifest.id == two.manifest.id


def test_a_role_searches_its_own_side(stages: dict[str, StageFolder], tmp_path: Path) -> None:
    found = search(tmp_path, stages, roles="split", evaluate=["test", "valid"], top_k=1000)
    technique_role = dict(zip(*stages["split"].read("technique_roles").to_pydict().values(), strict=True))
    patent_role = dict(zip(*stages["split"].read("patent_roles").to_pydict().values(), strict=True))
    rows = found.read("candidates").to_pylist()
    for role in ("test", "valid"):
        pairs = {(row["technique_id"], row["patent_id"]) for row in rows if row["role"] == role}
        techniques = [each for each, its in technique_role.items() if its == role]
        patents = [each for each, its in patent_role.items() if its in (role, "unused")]
        assert pairs == {(t, p) for t in techniques for p in patents}  # k is above the pool: all pairs
    assert {row["role"] for row in rows} == {"test", "valid"}
    for row in found.read("ranks").to_pylist():
        assert technique_role[row["technique_id"]] == row["role"]
        assert patent_role[row["patent_id"]] in (row["role"], "unused")


def test_filters_by_code_and_year_and_what_they_lose(stages: dict[str, StageFolder], tmp_path: Path) -> None:
    found = search(tmp_path, stages, codes=["C04B"], year_from=2005, top_k=1000)
    kept = {f"EP{i:03}" for i in range(NUM_PATENTS) if i % 3 == 0 and i % 10 >= 5}
    assert set(found.read("candidates")["patent_id"].to_pylist()) == kept
    role = found.manifest.counts["roles"]["all"]
    assert (role["patents"], role["patents_filtered_out"]) == (len(kept), NUM_PATENTS - len(kept))
    lost = sum(f"EP{i:03}" not in kept for i in range(60))
    assert role["recall"]["relevant_pairs_filtered_out"] == lost
    assert role["recall"]["relevant_pairs"] == 60
    assert found.read("ranks").num_rows == 60 - lost


def test_no_known_match_leaves_an_empty_ranks_part(stages: dict[str, StageFolder], tmp_path: Path) -> None:
    tables = {name: [stages["corpus"].read(name)] for name in ("patents", "techniques")}
    data = finish(tmp_path, "corpus", {**tables, "matches": [schema.MATCHES.empty_table()]})
    found = search(tmp_path, {**stages, "corpus": data})
    assert found.read("ranks").num_rows == 0
    assert "no known match" in found.manifest.counts["roles"]["all"]["recall"]["note"]


def test_a_role_of_something_not_embedded_is_refused(stages: dict[str, StageFolder], tmp_path: Path) -> None:
    for table, message in (
        (
            "technique_roles",
            r"1 techniques have role 'valid' in stage 'split' but no embedding in stage 'techniques' \('X",
        ),
        ("patent_roles", r"1 patents have role 'valid or unused' .* no embedding in stage 'patents' \('X"),
    ):
        tables = {name: [stages["split"].read(name)] for name in ("patent_roles", "technique_roles")}
        extra = pa.table({"id": ["X1"], "role": ["valid"]}, schema=schema.ROLES)
        tables[table] = [pa.concat_tables([*tables[table], extra])]
        other = finish(tmp_path / table, "split", tables)
        with pytest.raises(ConfigError, match=message):
            search(tmp_path / table, {**stages, "split": other}, roles="split")


def test_embeddings_of_two_models_are_refused(stages: dict[str, StageFolder], tmp_path: Path) -> None:
    from tests.search.tiny_bert import build_bert

    other = str(build_bert(tmp_path / "bert", size=16))
    techniques = embed(tmp_path, stages["corpus"], other, "techniques")
    with pytest.raises(ConfigError, match=r"32 dimensions \(stage 'patents'.*16 \(stage 'techniques'"):
        search(tmp_path, {**stages, "techniques": techniques})


def test_filters_need_the_data_that_was_embedded(stages: dict[str, StageFolder], tmp_path: Path) -> None:
    tables = {name: list(stages["corpus"].iter_parts(name)) for name in ("techniques", "matches")}
    patents = list(stages["corpus"].iter_parts("patents"))
    data = finish(tmp_path, "corpus", {**tables, "patents": patents[::-1]})
    with pytest.raises(ConfigError, match="set data to the stage that was embedded: 'corpus'"):
        search(tmp_path, {**stages, "corpus": data}, codes=["B01D"])


def test_embedding_resumes_at_the_missing_parts(stages: dict[str, StageFolder], tmp_path: Path, tiny_bert: str) -> None:
    whole = stages["patents"]
    shutil.copytree(whole.location.path, tmp_path / "patents")
    kept = tmp_path / "patents" / "embeddings" / "part-00000.parquet"
    before = kept.stat().st_mtime_ns
    for path in ("manifest.json", "embeddings/part-00002.parquet", "ledger/counts--part-00003.json.json"):
        (tmp_path / "patents" / path).unlink()
    again = embed(tmp_path, stages["corpus"], tiny_bert, "patents", workers=2)
    assert kept.stat().st_mtime_ns == before
    assert again.manifest.counts == whole.manifest.counts
    assert [entry.sha256 for entry in again.manifest.files] == [entry.sha256 for entry in whole.manifest.files]


def test_search_resumes_at_the_missing_role(stages: dict[str, StageFolder], tmp_path: Path) -> None:
    whole = search(tmp_path, stages, roles="split")
    folder = Path(whole.location.path)
    before = (folder / "candidates" / "part-00000.parquet").stat().st_mtime_ns
    for path in ("manifest.json", "ranks/part-00001.parquet"):
        (folder / path).unlink()
    again = search(tmp_path, stages, roles="split")
    assert (folder / "candidates" / "part-00000.parquet").stat().st_mtime_ns == before
    assert again.manifest.id == whole.manifest.id
    assert again.manifest.counts == whole.manifest.counts


class _DiesOnce:
    """An encoder whose process is killed at its first part, as a preempted node would be."""

    def __init__(self, marker: str, **arguments: Any) -> None:
        from patentft.search.run import _EmbedActor

        self.marker, self.actor = marker, _EmbedActor(**arguments)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if not os.path.exists(self.marker):
            Path(self.marker).write_text("killed")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.actor(batch)


def test_a_killed_actor_costs_no_part(
    stages: dict[str, StageFolder], tmp_path: Path, tiny_bert: str, monkeypatch
) -> None:
    """Two actors that ask for both CPUs, so that Ray Data's own tasks would starve (ray#44687); one of them dies."""
    from patentft.search import run as module

    marker, map_parts = str(tmp_path / "killed"), module._map_parts

    def with_a_death(indices, actor, arguments, **options):
        return map_parts(indices, _DiesOnce, {**arguments, "marker": marker}, **options)

    monkeypatch.setattr(module, "_map_parts", with_a_death)
    patents = embed(tmp_path, stages["corpus"], tiny_bert, "patents", workers=2, cpus_per_worker=1)
    assert Path(marker).exists()
    assert [entry.sha256 for entry in patents.manifest.files] == [
        entry.sha256 for entry in stages["patents"].manifest.files
    ]


def test_an_error_in_an_actor_says_what_to_do(stages: dict[str, StageFolder], tmp_path: Path, tiny_bert: str) -> None:
    with pytest.raises(ConfigError, match="over the encoder's limit of 64"):
        embed(tmp_path, stages["corpus"], tiny_bert, "patents", max_tokens=100)


def test_resources_are_not_part_of_the_hash() -> None:
    embed_config = build(EmbedConfig, {"data": "d", "table": "patents", "model": "m"})
    search_config = build(SearchConfig, {"patents": "p", "techniques": "t", "data": "d", "workers": 3})
    fields = {"workers", "cpus_per_worker", "gpus_per_worker", "tokens_per_batch"}
    assert not fields & (content(embed_config).keys() | content(search_config).keys())
    assert {"dtype", "pooling", "prefix"} <= content(embed_config).keys()
