"""What `patentft plan-score` says of a pipeline's score stages before they run.

    finished stages' tables, or what the stages before are set to -> pairs of each section
    the corpus' texts by the model's tokenizer, or given lengths  -> tokens of prefix and suffix
    the model's config.json                                       -> FLOP of a token

Nothing runs, nothing is fetched, and no weights are read.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported: a type checker sees none of them)

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from patentft import schema
from patentft.config import Config, ConfigError, nearest
from patentft.corpus.text import patent_text, technique_text
from patentft.location import Location
from patentft.models.gpus import Gpu, gpu_of
from patentft.models.load import config_folder, load_tokenizer_and_limit, model_config
from patentft.scoring.cost import Lengths, Shape, Work, work
from patentft.scoring.plan import Ints, common_tokens
from patentft.store import StageFolder, finished_stage, load_stage, open_stage

DEFAULT_GPUS = ("h100-80", "a100-80", "l4")
SAMPLED_TECHNIQUES = 24
SAMPLED_PATENTS = 96
GIB = 2**30


@dataclass(frozen=True)
class Given:
    """What the user says instead of what a stage would."""

    techniques: int | None = None
    patents: int | None = None
    prefix_tokens: float | None = None
    suffix_tokens: float | None = None


@dataclass(frozen=True)
class Pairs:
    """How many pairs each section has, and where that is from."""

    counts: Ints
    source: str


Stages = Mapping[str, tuple[str, Config]]
"""A pipeline's stages by name, in order: (kind, config)."""


def report(
    out: Location,
    stages: Stages,
    stage: str | None = None,
    gpu_names: Sequence[str] = (),
    prices: Sequence[float] = (),
    given: Given = Given(),
) -> str:
    """out: the run's folder. prices: an hour of each GPU.

    Raises ConfigError for unknown names, and where the number of pairs or the model cannot be known.
    """
    names = [name for name, (kind, _) in stages.items() if kind == "score"]
    if not names:
        raise ConfigError("the pipeline has no stage of kind score, so there is nothing to plan")
    if stage is not None and stage not in names:
        raise ConfigError(f"--stage {stage!r}: no score stage is called so{nearest(stage, names)}")
    gpus = [gpu_of(name) for name in gpu_names or DEFAULT_GPUS]
    if prices and len(prices) != len(gpus):
        raise ConfigError(f"{len(prices)} --price-per-hour for {len(gpus)} GPUs: give --gpu and its price in pairs")
    costs = list(prices) or [None] * len(gpus)
    return "\n\n".join(
        _of_stage(out, stages, name, list(zip(gpus, costs, strict=True)), given)
        for name in names
        if stage in (None, name)
    )


def _of_stage(
    out: Location, stages: Stages, name: str, gpus: list[tuple[tuple[str, Gpu], float | None]], given: Given
) -> str:
    config: Any = stages[name][1]
    decoder = config.engine.kind == "torch"
    shares = decoder and config.engine.share_prefix
    pairs = pairs_of(out, stages, config.candidates, given)
    folder = config_folder(_reference(out, stages, config.model))
    shape = shape_of(folder)
    lengths, measured = lengths_of(out, stages, config, folder, given)
    found = work(pairs.counts, lengths, shape, config.pairs_per_shard, causal=decoder)
    sections = int((pairs.counts > 0).sum())
    lines = [
        f"{name}: {config.engine.kind}, {config.model}",
        f"  pairs               {found.pairs:,} of {sections:,} sections: {pairs.source}",
        f"  shards              {found.shards:,} of up to {config.pairs_per_shard:,} pairs",
        f"  tokens of a pair    {_split(lengths, shares)}: {measured}",
        f"  tokens, each whole  {found.tokens.unshared:,.0f}",
    ]
    if shares:
        lines += [
            f"  prefixes shared     {found.tokens.shared:,.0f}: {found.ratio:.2f} times fewer "
            f"({found.ceiling:.2f} if every section's were read once, and nothing else were shared)",
        ]
    else:
        lines.append(f"  prefixes shared     no: {'share_prefix is false' if decoder else 'a cross-encoder cannot'}")
    flop = found.flop_shared if shares else found.flop_unshared
    lines.append(f"  FLOP                {flop:.3g} ({shape.matrix:,} weights in {shape.blocks} blocks)")
    bf16 = decoder and config.engine.dtype in ("bfloat16", "float16")
    lines += [_gpu_line(gpu, price, flop, bf16, found) for gpu, price in gpus]
    logits, scores = disk_of(found.pairs, config.pairs_per_shard)
    lines.append(f"  disk                {_bytes(logits)} of LOGITS, {_bytes(scores)} of SCORES")
    return "\n".join(lines)


def _split(lengths: Lengths, shares: bool) -> str:
    if not shares:
        return f"{lengths.whole:,.1f}"
    common = f" (of them {lengths.parent:,.0f} the same for all)" if lengths.parent else ""
    return f"{lengths.prefix:,.1f} shared{common} + {lengths.suffix:,.1f} own"


def _gpu_line(gpu: tuple[str, Gpu], price: float | None, flop: float, bf16: bool, found: Work) -> str:
    name, card = gpu
    hours = card.hours(flop, bf16=bf16)
    rate = card.bf16_tflops if bf16 else card.fp32_tflops
    money = f"; {_short(hours * price)} at {price:g} an hour" if price is not None else ""
    speed = found.pairs / (hours * 3600)
    return (
        f"  {name:<20}{_short(hours)} GPU-hours, {speed:,.0f} pairs/s{money} ({rate:g} TFLOP/s in "
        f"{'bf16' if bf16 else 'fp32'} at an assumed utilization of {card.utilization:.0%})"
    )


def _short(number: float) -> str:
    return f"{number:,.2f}" if number >= 0.1 else f"{number:.2g}"


def _bytes(number: float) -> str:
    return f"{number / GIB:,.2f} GiB" if number > GIB / 10 else f"{number / 2**20:,.2f} MiB"


# ---- pairs


def pairs_of(out: Location, stages: Stages, name: str, given: Given) -> Pairs:
    """The pairs that stage `name` gives, or will give at most."""
    folder = _finished(out, name)
    if folder is not None:
        return Pairs(_counted(folder), f"stage {name} is finished")
    kind, config = stages[name]
    settings: Any = config
    if kind == "shortlist":
        before = pairs_of(out, stages, _candidates_of(stages, settings.scores), given)
        if settings.top_k is not None:
            return Pairs(np.minimum(before.counts, settings.top_k), f"top_k of {name}; {before.source}")
        if settings.pairs is not None:
            share = min(1.0, settings.pairs / max(1, int(before.counts.sum())))
            fewer = np.floor(before.counts * share).astype(np.int64)
            return Pairs(fewer, f"pairs of {name}, evenly; {before.source}")
        return Pairs(before.counts, f"at most: the recall of {name} leaves fewer; {before.source}")
    techniques, source = _techniques(out, stages, settings, given)
    patents = given.patents or _rows(out, stages, settings.data, "patents")
    each = min(settings.top_k, patents) if patents else settings.top_k
    return Pairs(np.full(techniques, each, np.int64), f"at most: top_k of {name} for {source}")


def _candidates_of(stages: Stages, name: str) -> str:
    config: Any = stages[name][1]
    return config.candidates


def _techniques(out: Location, stages: Stages, config: Any, given: Given) -> tuple[int, str]:
    """How many are searched for, and who says so."""
    if given.techniques is not None:
        return given.techniques, f"{given.techniques:,} techniques, as given"
    roles = getattr(config, "roles", None)
    sides = getattr(config, "evaluate", None)
    if roles is None and hasattr(config, "routes"):  # a union looks at what its routes do
        route: Any = stages[config.routes[0]][1]
        roles, sides = getattr(route, "roles", None), getattr(route, "evaluate", None)
    split = _finished(out, roles) if roles is not None else None
    if split is not None:
        found = sum(role in (sides or ()) for role in split.read("technique_roles", ["role"])["role"].to_pylist())
        return found, f"the {found:,} techniques of stage {roles}"
    number = _rows(out, stages, config.data, "techniques")
    if number is None:
        raise ConfigError(f"stage {config.data!r} has not run, so nobody knows how many techniques: give --techniques")
    return number, f"{number:,} techniques" + (f" (stage {roles} will leave fewer)" if roles is not None else "")


def _rows(out: Location, stages: Stages, name: str, table: str) -> int | None:
    folder = _finished(out, name)
    if folder is not None:
        assert folder.manifest is not None
        return folder.manifest.tables[table]["rows"]
    kind, config = stages[name]
    return getattr(config, table) if kind == "synth" else None


def _counted(folder: StageFolder) -> Ints:
    """Pairs of each section (technique and chunk)."""
    counts: Counter[tuple[str, int]] = Counter()
    for part in folder.iter_parts("candidates", ["technique_id", "chunk"]):
        found = part.group_by(["technique_id", "chunk"]).aggregate([([], "count_all")])
        for row in found.to_pylist():
            counts[row["technique_id"], row["chunk"]] += row["count_all"]
    return np.array(list(counts.values()), np.int64)


def _finished(out: Location, name: str) -> StageFolder | None:
    return finished_stage(out / name) if load_stage(out / name) is not None else None


# ---- tokens


def lengths_of(out: Location, stages: Stages, config: Any, folder: str, given: Given) -> tuple[Lengths, str]:
    """Mean tokens of a pair, and where they are from."""
    decoder = config.engine.kind == "torch"
    settings = config.engine.prompt if decoder else config
    data = _finished(out, config.data)
    if given.prefix_tokens is not None or given.suffix_tokens is not None:
        if given.prefix_tokens is None or given.suffix_tokens is None:
            raise ConfigError("give --prefix-tokens and --suffix-tokens, both or none")
        return Lengths(given.prefix_tokens, given.suffix_tokens), "as given"
    if data is None:
        most = Lengths(settings.max_tokens - settings.patent_tokens, settings.patent_tokens)
        return most, f"at most: stage {config.data} has not run, so there is no text to count"
    sections, patents = _sample(data, config)
    source = f"mean of {len(sections):,} sections and {len(patents):,} patents"
    tokenizer, _ = load_tokenizer_and_limit(folder)
    if decoder:
        from patentft.scoring.prompt import PairPrompter

        prompter = PairPrompter(tokenizer, config.engine.prompt)
        groups = [prompter.group("a sample", section, patents) for section in sections]
        prefix = float(np.mean([len(group.prefix) for group in groups]))
        suffix = float(np.mean([len(each) for group in groups for each in group.suffixes]))
        parent = common_tokens([group.prefix for group in groups]) if len(groups) > 1 else 0
        return Lengths(prefix, suffix, min(parent, prefix)), source
    from patentft.objectives.rank import encode_pairs

    first = [section for section in sections for _ in patents]
    encoded, _ = encode_pairs(first, patents * len(sections), tokenizer, settings.max_tokens, settings.patent_tokens)
    return Lengths(0.0, float(np.mean(encoded.lengths("input_ids")))), source


def _sample(data: StageFolder, config: Any) -> tuple[list[str], list[str]]:
    """Texts drawn evenly: sections whole, as the engine cuts them."""
    rng = np.random.default_rng([config.seed, 11])
    techniques = data.read("techniques")
    rows = np.sort(rng.permutation(techniques.num_rows)[:SAMPLED_TECHNIQUES])
    entries = data.parts("patents")
    weights = np.array([entry.rows or 0 for entry in entries], float)
    found: list[str] = []
    for part in np.unique(rng.choice(len(entries), 4, p=weights / weights.sum())).tolist():
        table = data.read_part(entries[part])
        chosen = np.sort(rng.permutation(table.num_rows)[: SAMPLED_PATENTS // 4])
        found += patent_text(table.take(pa.array(chosen)), config.text)
    return technique_text(techniques.take(pa.array(rows))), found


# ---- the model


def shape_of(folder: str) -> Shape:
    """From the model's config.json: its blocks are made without memory, and their matrices counted."""
    import torch
    from torch import nn
    from transformers import AutoModel

    from patentft.models.blocks import find_blocks

    settings = model_config(folder)
    with torch.device("meta"):
        model = AutoModel.from_config(settings)
    _, blocks = find_blocks(model)
    matrix = sum(
        parameter.numel()
        for inner in blocks.modules()
        for parameter in inner.parameters(recurse=False)
        if parameter.ndim == 2 and not isinstance(inner, nn.Embedding)
    )
    text = settings.get_text_config()
    heads = text.num_attention_heads
    return Shape(matrix, len(blocks), heads * (getattr(text, "head_dim", None) or text.hidden_size // heads))


def _reference(out: Location, stages: Stages, model: str) -> str:
    """A model reference; of an earlier train stage its export, or until that is there what it starts from."""
    while model in stages:
        export = out / model / "export"
        if export.is_local and load_stage(out / model) is not None:
            return str(export)
        config: Any = stages[model][1]
        if not hasattr(config, "model"):
            raise ConfigError(f"stage {model!r} makes the model and has not run: run it first")
        model = config.model
    return model


# ---- disk


def disk_of(pairs: int, pairs_per_shard: int) -> tuple[float, float]:
    """Bytes of LOGITS with its ledger, and of SCORES: parts of such rows, written and measured."""
    with tempfile.TemporaryDirectory() as temporary:
        stage = open_stage(Location(temporary), "score", {}, {})
        shard = stage.write_part("logits", 0, _rows_like("logits", min(pairs_per_shard, pairs)))
        ledger = sum(stage.location.sizes()[name] for name in stage.location.sizes() if name.startswith("ledger/"))
        some = min(pairs, 20_000)
        scores = stage.write_part("scores", 0, _rows_like("scores", some), rows_per_group=10_000)
    return -(-pairs // pairs_per_shard) * (shard.bytes + ledger), scores.bytes * pairs / some


def _rows_like(table: str, number: int) -> pa.Table:
    rng = np.random.default_rng(0)
    techniques = pa.array([f"CER:::4.{n // 200 // 50}.{n // 200 % 50}" for n in range(number)])
    patents = pc.binary_join_element_wise("EP", pa.array(rng.integers(1_000_000, 4_000_000, number)).cast("string"), "")
    columns: dict[str, Any] = {"technique_id": techniques, "patent_id": patents, "role": pa.array(["test"] * number)}
    for field in schema.TABLES[table]:
        if pa.types.is_floating(field.type):
            columns[field.name] = pa.array(rng.standard_normal(number, dtype=np.float32))
        elif field.name not in columns:
            columns[field.name] = pa.array(rng.integers(0, 4, number), field.type)
    names = schema.TABLES[table].names
    return pa.table({name: columns[name] for name in names}, schema=schema.TABLES[table])
