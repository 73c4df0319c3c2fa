"""The join as steps that can be done again: deal out each file, join each bucket, forget the shards. Pure; no Ray.

    shards/claims-0003-00012.parquet    rows of file 3 of the claims (partition.py), while they are needed
    shards/claims-0003.json             written when the file is dealt out: how many shards, how many rows
    texts, quarantine, counts/          part i is bucket i

A killed run goes on with the first file or bucket that is not done. When every bucket is, the shards are deleted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from patentft.corpus.join.bucket import InputTally, join_bucket
from patentft.corpus.join.config import JoinConfig
from patentft.corpus.join.partition import read_bucket, shard_schema, shards
from patentft.corpus.read import list_files
from patentft.location import Location
from patentft.stage import Context
from patentft.store import StageFolder

Map = Callable[[Callable[[Any, JoinConfig, StageFolder], None], list[Any], str], None]
"""Runs the function for each of the items, in any order and anywhere; the text is for the progress bar."""


@dataclass(frozen=True)
class DealTask:
    """One file to deal out."""

    name: str
    index: int
    file: Location

    @property
    def done_file(self) -> str:
        return f"shards/{self.name}-{self.index:04d}.json"

    def shard_file(self, number: int) -> str:
        return f"shards/{self.name}-{self.index:04d}-{number:05d}.parquet"


@dataclass(frozen=True)
class BucketTask:
    """One bucket to join."""

    bucket: int
    shards: dict[str, list[str]]  # input -> shard files
    files: dict[str, list[str]]  # input -> names of its files


def run_steps(config: JoinConfig, context: Context, run: Map) -> dict[str, Any]:
    """Tables texts and quarantine. Returns per input read, used, merged, quarantined, orphans_ignored and reasons."""
    folder = context.folder
    missing = [bucket for bucket in range(config.buckets) if not _bucket_done(folder, bucket)]
    if missing:
        files = {name: list_files(source.files) for name, source in config.inputs().items()}
        deals = [DealTask(name, index, file) for name, found in files.items() for index, file in enumerate(found)]
        run(deal_file, [task for task in deals if not _is_dealt(folder, task)], "files dealt into buckets")
        listed: dict[str, list[str]] = {name: [] for name in files}
        for task in deals:
            count = json.loads((folder.location / task.done_file).read_bytes())["shards"]
            listed[task.name] += [task.shard_file(number) for number in range(count)]
        names = {name: [str(file) for file in found] for name, found in files.items()}
        run(join_one, [BucketTask(bucket, listed, names) for bucket in missing], "buckets joined")
        dealt = sum(json.loads((folder.location / task.done_file).read_bytes())["rows"] for task in deals)
        counts = _counts(folder, config)
        assert dealt == sum(counts[name]["read"] for name in files), "rows were lost between the halves of the join"
    folder.discard("shards")
    counts = _counts(folder, config)
    bad = {name: counts[name]["reasons"] for name in config.inputs() if counts[name]["quarantined"]}
    if bad:
        context.progress.warn(f"rows are in {folder.location / 'quarantine'}: {bad}")
    return counts


def _counts_file(bucket: int) -> str:
    return f"counts/bucket-{bucket:05d}.json"


def _bucket_done(folder: StageFolder, bucket: int) -> bool:
    return (
        folder.has_part("texts", bucket)
        and folder.has_part("quarantine", bucket)
        and folder.has_file(_counts_file(bucket))
    )


def _is_dealt(folder: StageFolder, task: DealTask) -> bool:
    if not folder.has_file(task.done_file):
        return False
    count = json.loads((folder.location / task.done_file).read_bytes())["shards"]
    return all(folder.has_file(task.shard_file(number)) for number in range(count))


def deal_file(task: DealTask, config: JoinConfig, folder: StageFolder) -> None:
    """Write the shards of one file that are not written yet, then say that they are all there."""
    rows = number = 0
    for number, (count, data) in enumerate(
        shards(config, task.name, config.inputs()[task.name], task.file, task.index), start=1
    ):
        rows += count
        if not folder.has_file(task.shard_file(number - 1)):
            folder.write_file(task.shard_file(number - 1), data)
    folder.write_file(task.done_file, json.dumps({"shards": number, "rows": rows}).encode())


def join_one(task: BucketTask, config: JoinConfig, folder: StageFolder) -> None:
    """Read one bucket's rows from every shard and write its parts."""
    tables = {name: _bucket_table(name, task.bucket, found, folder) for name, found in task.shards.items()}
    joined = join_bucket(config, tables, task.files)
    counts = {name: asdict(tally) for name, tally in joined.tallies.items()}
    summary = {"inputs": counts, "patents_without_text": joined.patents_without_text, "texts": joined.texts.num_rows}
    folder.write_file(_counts_file(task.bucket), json.dumps(summary, sort_keys=True).encode())
    folder.write_part("quarantine", task.bucket, joined.quarantine)
    folder.write_part("texts", task.bucket, joined.texts)


def _bucket_table(name: str, bucket: int, files: Iterable[str], folder: StageFolder) -> pa.Table:
    found = (read_bucket(folder.location / file, bucket) for file in files)
    wanted = shard_schema(name)
    return pa.concat_tables([wanted.empty_table(), *(part.cast(wanted) for part in found if part is not None)])


def _counts(folder: StageFolder, config: JoinConfig) -> dict[str, Any]:
    totals: dict[str, Any] = {name: asdict(InputTally()) for name in config.inputs()}
    totals |= {"patents_without_text": 0, "texts": 0}
    for bucket in range(config.buckets):
        part = json.loads((folder.location / _counts_file(bucket)).read_bytes())
        for key in ("patents_without_text", "texts"):
            totals[key] += part[key]
        for name, tally in part["inputs"].items():
            reasons = totals[name].pop("reasons")
            for reason, count in tally.pop("reasons").items():
                reasons[reason] = reasons.get(reason, 0) + count
            totals[name] = {key: totals[name][key] + value for key, value in tally.items()} | {"reasons": reasons}
    return totals
