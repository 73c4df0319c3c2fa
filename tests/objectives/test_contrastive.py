"""The gradient of a step must not depend on micro-batches or ranks, and what is no negative must never be one."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from patentft.config import ConfigError, build
from patentft.models.adapters.full import FullConfig
from patentft.models.adapters.lora import LoraConfig
from patentft.models.adapters.table import adapt
from patentft.models.backbone import Loading
from patentft.objectives import contrastive
from patentft.objectives.contrastive import BiEncoder, Block, ContrastiveConfig
from patentft.objectives.encoded import Encoded, SpecialTokens
from patentft.objectives.texts import PairTexts, PlainTexts, PreferenceTexts
from patentft.train.across import Across, gather_rows
from patentft.train.config import TrainConfig
from tests.tiny import save_tiny_bert, save_tiny_llama, save_tiny_mpnet


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # of matrices this small, more only wait for each other


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_bert(tmp_path_factory.mktemp("tiny"))


def tokenizer_of(folder: str):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def pair_texts() -> PairTexts:
    """Matches, and a near miss of a technique each. T0 ~ T1 (similar); P2 is matched to both T2 and T3."""
    rows = [
        ("T0", "P0", 1, 0), ("T0", "P3", 0, 0), ("T1", "P1", 1, 1), ("T1", "P3", 0, 1),
        ("T2", "P2", 1, 2), ("T3", "P2", 1, 3), ("T4", "P3", 1, 4), ("T4", "P0", 0, 4), ("T5", "P5", 1, 5),
    ]  # fmt: skip
    words = ["catalyst", "dust", "water gas", "filter", "sludge bed", "furnace"]
    return PairTexts(
        sections=[f"section on {words[int(t[1])]} " * (1 + int(t[1]) % 3) for t, *_ in rows],
        patents=[f"a {words[int(p[1])]} device " * (1 + int(p[1]) % 2) for _, p, *_ in rows],
        technique_ids=[t for t, *_ in rows],
        patent_ids=[p for _, p, *_ in rows],
        label=[label for *_, label, _ in rows],
        group=[group for *_, group in rows],
        weight=[1.0] * len(rows),
        cosine=[0.5] * len(rows),
        similar=frozenset({("T0", "T1"), ("T1", "T0")}),
    )


TRIPLES = PreferenceTexts(
    preference_ids=["a", "b", "c"],
    contexts=[None, "a document", None],
    questions=["which filter", "which gas", "which filter"],
    chosen=["a dust filter", "flue gas", "a water filter"],
    rejected=["a furnace", "a dust filter", "a dust filter"],
)
PLAIN = PlainTexts([str(n) for n in range(6)], ["dust", "gas", "water bed", "a filter", "lime acid", "dust"])


def collated(encoded: Encoded, config: ContrastiveConfig, shares: list[list[int]]) -> list[dict[str, torch.Tensor]]:
    """A batch of each list of unit numbers."""
    units = contrastive.units(encoded, config, 0, 0)
    return [contrastive.collate(encoded, [units[number] for number in share], SpecialTokens()) for share in shares]


def model_of(folder: str, config: ContrastiveConfig, dropout: float = 0.0) -> torch.nn.Module:
    torch.manual_seed(0)
    return contrastive.wrap(contrastive.build(folder, config, Loading(dropout)), config).train()


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.grad is not None}


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest of all parameters, by the largest gradient."""
    assert a.keys() == b.keys()
    scale = max(float(each.abs().max()) for each in a.values())
    return max(float((a[name] - b[name]).abs().max()) for name in a) / scale


# The loss


def slow_loss(queries, texts, allowed, config):
    """The definition, a query and a text at a time."""
    total = 0.0
    dims = config.matryoshka_dims or [queries.shape[1]]
    for dim in dims:
        q, t = (v[:, :dim] / np.linalg.norm(v[:, :dim], axis=1, keepdims=True) for v in (queries, texts))
        cosines = q @ t.T / config.temperature
        for i in range(len(q)):
            row = math.log(sum(math.exp(cosines[i, j]) for j in range(len(t)) if allowed[i, j])) - cosines[i, i]
            column = math.log(sum(math.exp(cosines[j, i]) for j in range(len(q)) if allowed[j, i])) - cosines[i, i]
            total += ((row + column) / 2 if config.symmetric else row) / len(dims)
    return total


def random_block(seed: int, matches: int = 7, texts: int = 11, dim: int = 8):
    """(queries, texts, block, allowed (S, P) by the definition)."""
    rng = np.random.default_rng(seed)
    vectors = [rng.normal(size=(count, dim)) for count in (matches, texts)]
    vectors = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in vectors]
    number, group = rng.integers(0, 5, matches), rng.permutation(matches)
    owner = np.where(np.arange(texts) < matches, -1, rng.integers(-1, matches, texts))
    excluded = [(column, int(each)) for column in range(texts) for each in rng.integers(0, 9, 2)]
    allowed = np.array(
        [
            [
                i == j or ((j, number[i]) not in excluded and (owner[j] < 0 or owner[j] == group[i]))
                for j in range(texts)
            ]
            for i in range(matches)
        ]
    )
    tensors = [torch.from_numpy(each) for each in (number, group, owner)]
    return *vectors, Block(*tensors, torch.tensor(excluded)), allowed


@pytest.mark.parametrize("changes", [{}, {"symmetric": False}, {"matryoshka_dims": [2, 5, 8]}])
@pytest.mark.parametrize("elements", [2**24, 24])  # 24: two rows at a time
def test_loss_equals_the_slow_reference(changes, elements, monkeypatch) -> None:
    monkeypatch.setattr(contrastive, "ELEMENTS", elements)
    config = ContrastiveConfig(temperature=0.1, **changes)
    queries, texts, block, allowed = random_block(3)
    assert not allowed.all()
    assert block.allowed(slice(0, 7), slice(0, 11)).numpy().tolist() == allowed.tolist()
    pieces = contrastive.block_loss(torch.from_numpy(queries), torch.from_numpy(texts), block, config)
    assert float(sum(pieces)) == pytest.approx(slow_loss(queries, texts, allowed, config), rel=1e-9)


def test_false_negatives_are_masked(tiny: str) -> None:
    config = ContrastiveConfig(near_negatives=True)
    texts = pair_texts()
    encoded, counts = contrastive.encode(texts, tokenizer_of(tiny), config)
    assert counts == {"matches": 6, "negatives": 3, "queries_cut": 0, "texts_cut": 0}
    units = contrastive.units(encoded, config, 0, 0)
    shares = [[4, 0], [1, 2, 3], [5]]  # whichever way they are divided
    described = [contrastive._described(batch) for batch in collated(encoded, config, shares)]
    block, query, text = contrastive._block(*contrastive._joined(described))
    matched = [units[number].rows[0] for share in shares for number in share]
    columns = matched + [row for share in shares for number in share for row in units[number].rows[1:]]
    assert (len(query), len(text)) == (6, 9)
    like = {("T0", "T1"), ("T1", "T0")}
    own = {"P0": {"T0"}, "P1": {"T1"}, "P2": {"T2", "T3"}, "P3": {"T4"}, "P5": {"T5"}}
    allowed = block.allowed(slice(0, 6), slice(0, 9))
    for i, row in enumerate(matched):
        technique = texts.technique_ids[row]
        for j, column in enumerate(columns):
            patent = texts.patent_ids[column]
            bad = any(technique == mine or (technique, mine) in like for mine in own[patent])
            other_group = not texts.label[column] and texts.group[column] != texts.group[row]
            assert allowed[i, j] == (i == j or not (bad or other_group)), (technique, patent)


def test_triples_share_their_rejected_answers_but_for_an_answer_of_the_same_question(tiny: str) -> None:
    config = ContrastiveConfig()
    encoded, counts = contrastive.encode(TRIPLES, tokenizer_of(tiny), config)
    assert counts["contexts_not_used"] == 1
    assert (counts["matches"], counts["negatives"]) == (3, 3)
    (batch,) = collated(encoded, config, [[0, 1, 2]])
    block, _, _ = contrastive._block(*contrastive._described(batch))
    # texts: three chosen, three rejected; questions 0 and 2 are one, and "a dust filter" answers it
    assert block.allowed(slice(0, 3), slice(0, 6)).int().tolist() == [
        [1, 1, 0, 1, 0, 0],
        [1, 1, 1, 1, 1, 1],
        [0, 1, 1, 1, 0, 0],
    ]
    with pytest.raises(ConfigError, match=r"near_negatives is for pairs"):
        contrastive.encode(TRIPLES, tokenizer_of(tiny), ContrastiveConfig(near_negatives=True))


def test_what_is_cut_is_counted(tiny: str) -> None:
    config = ContrastiveConfig(section_tokens=6, patent_tokens=5)
    encoded, counts = contrastive.encode(pair_texts(), tokenizer_of(tiny), config)
    assert max(encoded.lengths("query")) == 6
    assert max(encoded.lengths("text")) == 5
    whole = tokenizer_of(tiny)
    rows = [row for row, label in enumerate(pair_texts().label) if label]
    for name, texts, limit in (("queries", pair_texts().sections, 6), ("texts", pair_texts().patents, 5)):
        assert counts[f"{name}_cut"] == sum(len(whole(texts[row])["input_ids"]) > limit for row in rows) > 0


# The step


def reference(model: torch.nn.Module, batch: dict[str, torch.Tensor], config: ContrastiveConfig) -> float:
    """Gradient of the mean loss, with one graph over everything and a mask made one pair at a time."""
    vectors = model(batch)
    matches = len(batch["query_ids"])
    queries, texts = vectors[:matches], vectors[matches:]
    excluded = set(map(tuple, batch["excluded"].tolist()))
    allowed = torch.tensor(
        [
            [
                i == j or ((j, number) not in excluded and owner in (-1, group))
                for j, owner in enumerate(batch["owner"].tolist())
            ]
            for i, (number, group) in enumerate(
                zip(batch["query_number"].tolist(), batch["query_group"].tolist(), strict=True)
            )
        ]
    )
    logits = torch.where(allowed, queries @ texts.T / config.temperature, -torch.inf)
    target = torch.arange(matches)
    loss = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits[:, :matches].T, target)) / 2
    loss.backward()
    return float(loss.detach())


def across_of(model: torch.nn.Module, rank: int = 0, world: int = 1, share: float = 1.0) -> Across:
    """What the loop gives, for DDP, FSDP or none."""

    def around(last: bool):
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(last)
        return nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()

    return Across(
        rank, world, share, lambda tensor: gather_rows(tensor, world), around, lambda loss, last: loss.backward()
    )


NEAR = ContrastiveConfig(near_negatives=True)
WHOLE = [list(range(6))]


def test_accumulation_does_not_move_loss_and_gradient(tiny: str) -> None:
    encoded, _ = contrastive.encode(pair_texts(), tokenizer_of(tiny), NEAR)
    model = model_of(tiny, NEAR)
    wanted = reference(model, collated(encoded, NEAR, WHOLE)[0], NEAR)
    wanted_gradients = gradients(model)
    for shares in (WHOLE, [[0, 1, 2], [3, 4, 5]], [[5], [3, 1], [0], [2, 4]]):
        again = model_of(tiny, NEAR)
        batches = collated(encoded, NEAR, shares)
        total = sum(contrastive.weight(batch, NEAR) for batch in batches)
        found = contrastive.step(again, batches, NEAR, total, across_of(again))
        assert found == pytest.approx(wanted, rel=1e-5)
        assert difference(gradients(again), wanted_gradients) < 1e-5


RANKS = {
    "one each": [[[0, 1, 2]], [[3, 4, 5]]],
    "many each": [[[5], [3, 1]], [[0], [2, 4]]],
    "uneven": [[[5], [3], [1, 2]], [[0, 4]]],
    "one idle": [[[5, 3], [1, 2, 0, 4]], []],
    "one idle, one pass": [WHOLE[0:1], []],
}


def sharded(model: torch.nn.Module, mesh: DeviceMesh) -> torch.nn.Module:
    """FSDP2: parameters are gathered in every forward, so a rank that makes fewer passes would stop the others."""
    for layer in model.encoder.encoder.layer:  # type: ignore[union-attr]
        fully_shard(layer, mesh=mesh)  # type: ignore[arg-type]
    return fully_shard(model, mesh=mesh)


def step_in_group(rank: int, folder: str, tiny: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    encoded, _ = contrastive.encode(pair_texts(), tokenizer_of(tiny), NEAR)
    mesh = init_device_mesh("cpu", (2,))
    found = {}
    for name, shares in RANKS.items():
        for strategy in ("ddp", "fsdp"):
            plain = model_of(tiny, NEAR)
            model = DistributedDataParallel(plain) if strategy == "ddp" else sharded(plain, mesh)
            mine = collated(encoded, NEAR, shares[rank] or [[0]])
            across = across_of(model, rank, 2, 1.0 if shares[rank] else 0.0)
            loss = contrastive.step(model, mine, NEAR, 6.0, across)
            parts = gradients(model).items()
            whole = {key: each.full_tensor() if isinstance(each, DTensor) else each for key, each in parts}
            found[f"{name}, {strategy}"] = (loss, whole)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()  # neither leaves while the other still talks to it
    dist.destroy_process_group()


def test_ranks_do_not_move_loss_and_gradient(tiny: str, tmp_path: Path) -> None:
    encoded, _ = contrastive.encode(pair_texts(), tokenizer_of(tiny), NEAR)
    model = model_of(tiny, NEAR)
    wanted = reference(model, collated(encoded, NEAR, WHOLE)[0], NEAR)
    multiprocessing.spawn(step_in_group, (str(tmp_path), tiny), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert len(found) == 2 * len(RANKS)
        for name, (loss, of_rank) in found.items():
            assert loss == pytest.approx(wanted, rel=1e-5), name
            assert difference(of_rank, gradients(model)) < 1e-5, name


def test_the_second_pass_has_the_dropout_of_the_first(tiny: str) -> None:
    encoded, _ = contrastive.encode(pair_texts(), tokenizer_of(tiny), NEAR)
    batches = collated(encoded, NEAR, [[0, 1, 2], [3, 4, 5]])
    cached, uncached = model_of(tiny, NEAR, 0.2), model_of(tiny, NEAR, 0.2)
    torch.manual_seed(7)
    found = contrastive.step(cached, batches, NEAR, 6.0, across_of(cached))
    after = torch.rand(1)
    torch.manual_seed(7)
    vectors = [uncached(batch) for batch in batches]
    assert torch.rand(1) == after
    joined = torch.cat(vectors)
    block, query, text = contrastive._block(*contrastive._joined([contrastive._described(batch) for batch in batches]))
    loss = sum(contrastive.block_loss(joined[query], joined[text], block, NEAR)) / 6.0
    loss.backward()  # type: ignore[union-attr]
    assert found == pytest.approx(float(loss.detach()), rel=1e-6)
    assert difference(gradients(cached), gradients(uncached)) < 1e-5


def test_an_autocast_around_the_whole_step_keeps_every_gradient(tiny: str) -> None:
    encoded, _ = contrastive.encode(pair_texts(), tokenizer_of(tiny), NEAR)
    found = []
    for shares in (WHOLE, [[0, 1, 2], [3, 4, 5]]):
        model = model_of(tiny, NEAR)
        with torch.autocast("cpu", torch.bfloat16):
            contrastive.step(model, collated(encoded, NEAR, shares), NEAR, 6.0, across_of(model))
        found.append(gradients(model))
    assert found[0].keys() == {name for name, p in model_of(tiny, NEAR).named_parameters() if p.requires_grad}
    assert difference(found[1], found[0]) < 0.05  # bf16


@pytest.mark.parametrize("dims", [[], [4, 16, 32]])
@pytest.mark.parametrize("texts", [pair_texts(), TRIPLES, PLAIN], ids=["pairs", "triples", "plain"])
def test_it_learns(tiny: str, texts, dims: list[int]) -> None:
    config = ContrastiveConfig(matryoshka_dims=dims, temperature=0.2)
    encoded, _ = contrastive.encode(texts, tokenizer_of(tiny), config)
    model = model_of(tiny, config, 0.1)
    optimizer = torch.optim.AdamW(contrastive.parameter_groups(model, 2e-3, 0.0, config))
    count = len(contrastive.units(encoded, config, 0, 0))
    batches = collated(encoded, config, [list(range(0, count, 2)), list(range(1, count, 2))])
    losses = []
    for number in range(12):
        torch.manual_seed(number)
        losses.append(contrastive.step(model, batches, config, float(count), across_of(model)))
        optimizer.step()
        optimizer.zero_grad()
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_plain_texts_need_dropout(tiny: str) -> None:
    config = ContrastiveConfig()
    encoded, counts = contrastive.encode(PLAIN, tokenizer_of(tiny), config)
    assert counts["matches"] == 6
    (batch,) = collated(encoded, config, WHOLE)
    block, _, _ = contrastive._block(*contrastive._described(batch))
    twins = torch.ones(6, 6)
    twins[0, 5] = twins[5, 0] = 0  # "dust" twice
    assert torch.equal(block.allowed(slice(0, 6), slice(0, 6)).float(), twins)
    model = model_of(tiny, config)
    with pytest.raises(ConfigError, match=r"every dropout rate of the model is 0: set dropout"):
        contrastive.step(model, [batch], config, 6.0, across_of(model))
    model = model_of(tiny, config, 0.1)
    vectors = model(batch)
    assert not torch.equal(vectors[:6], vectors[6:])
    one, two = (contrastive.predict(model.eval(), batch, config)["vectors"] for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one[:6], one[6:])
    assert not model.training


def test_a_decoder_by_its_last_token_does_not_see_padding(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path)
    config = ContrastiveConfig(pooling="last")
    model = model_of(folder, config).eval()
    assert contrastive.has_dropout(model_of(folder, config, 0.1))
    assert not contrastive.has_dropout(model)
    encoded, _ = contrastive.encode(pair_texts(), tokenizer_of(folder), config)
    (together,) = collated(encoded, config, WHOLE)
    alone = [model(batch) for batch in collated(encoded, config, [[number] for number in range(6)])]
    assert not together["query_mask"].all()
    torch.testing.assert_close(model(together)[:6], torch.cat([each[:1] for each in alone]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model(together)[6:], torch.cat([each[1:] for each in alone]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("save", [save_tiny_bert, save_tiny_mpnet, save_tiny_llama])
@pytest.mark.parametrize("adapter", [FullConfig(), LoraConfig(rank=2)], ids=["full", "lora"])
def test_every_trained_parameter_gets_a_gradient(save, adapter, tmp_path: Path) -> None:
    """DDP waits for all of them; BERT's and MPNet's poolers are not used."""
    folder = save(tmp_path)
    plain = contrastive.build(folder, NEAR, Loading(0.0))
    model = contrastive.wrap(adapt(plain, adapter, contrastive.task(plain, NEAR)), NEAR)
    encoded, _ = contrastive.encode(pair_texts(), tokenizer_of(folder), NEAR)
    contrastive.step(model, collated(encoded, NEAR, [[0, 1, 2], [3, 4, 5]]), NEAR, 6.0, across_of(model))
    assert gradients(model).keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert gradients(model)


def test_virtual_tokens_are_not_pooled(tiny: str) -> None:
    import peft

    prompt = peft.PromptTuningConfig(task_type=peft.TaskType.FEATURE_EXTRACTION, num_virtual_tokens=3)
    encoder = peft.get_peft_model(contrastive.build(tiny, NEAR, Loading(0.0)), prompt)  # type: ignore[arg-type]
    ids, mask = torch.tensor([[2, 9, 3], [2, 3, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    found = BiEncoder(encoder, "cls").embed(ids, mask)
    torch.testing.assert_close(found, functional.normalize(hidden[:, 3], dim=-1))


def test_settings_that_cannot_be_are_named(tiny: str) -> None:
    with pytest.raises(ConfigError, match=r"matryoshka_dims holds 64: the model's vectors have 32 dimensions"):
        model_of(tiny, ContrastiveConfig(matryoshka_dims=[16, 64]))
    values = {"texts": "t", "text_roles": "r", "model": "m", "objective": {"kind": "contrastive"}}
    assert build(TrainConfig, values).input == "plain"
    with pytest.raises(ConfigError, match=r"units_per_step is 1: objective contrastive compares the units of a step"):
        build(TrainConfig, {**values, "units_per_step": 1})


# The valid side


@pytest.mark.parametrize("elements", [2**24, 24])
def test_metrics_equal_the_slow_reference(elements, monkeypatch) -> None:
    monkeypatch.setattr(contrastive, "ELEMENTS", elements)
    config = ContrastiveConfig(temperature=0.1, matryoshka_dims=[3, 8])
    queries, texts, block, allowed = random_block(5)
    texts[3] = texts[0]  # of equal cosine with every query
    parts = []
    for rows, extra in (([0, 1, 2], [7, 8]), ([3, 4, 5, 6], [9, 10])):  # two batches of predictions
        columns = [*rows, *extra]
        kind = [0] * len(rows) + [1] * len(rows) + [2] * len(extra)
        number = [*block.query_number[rows].tolist(), *[0] * len(columns)]
        group = [*block.query_group[rows].tolist(), *block.owner[columns].tolist()]
        excluded = [(len(rows) + columns.index(c), n) for c, n in block.excluded.tolist() if c in columns]
        parts.append(
            {
                "vectors": np.concatenate([queries[rows], texts[columns]]).astype(np.float32),
                "rows": np.stack([kind, number, group], axis=1),
                "excluded": np.array(excluded).reshape(-1, 2),
            }
        )
    found = contrastive.metrics(parts, config)
    for dim, name in ((8, "mrr"), (3, "mrr.3"), (8, "mrr.8")):
        q, t = (v[:, :dim] / np.linalg.norm(v[:, :dim], axis=1, keepdims=True) for v in (queries, texts))
        cosines = q @ t.T
        ranks = []
        for i in range(7):
            others = [cosines[i, j] for j in range(11) if allowed[i, j] and j != i]
            equal = sum(abs(other - cosines[i, i]) < 1e-9 for other in others)
            ranks.append(1 + sum(other > cosines[i, i] + 1e-9 for other in others) + equal / 2)
        assert found[name] == pytest.approx(np.mean(1 / np.array(ranks)), rel=1e-6)
        if dim == 8:
            for k in (1, 5, 20):
                assert found[f"recall_at_{k}"] == pytest.approx(np.mean([rank <= k for rank in ranks]))
    assert found["loss"] == pytest.approx(slow_loss(queries, texts, allowed, config) / 7, rel=1e-5)
    assert found["alignment"] == pytest.approx(np.mean([np.sum((queries[i] - texts[i]) ** 2) for i in range(7)]))
    distinct = np.delete(texts, 3, axis=0)
    apart = [np.exp(-2 * np.sum((a - b) ** 2)) for i, a in enumerate(distinct) for b in distinct[:i]]
    assert found["uniformity"] == pytest.approx(math.log(np.mean(apart)), rel=1e-5)


def test_a_model_that_gives_one_vector_to_all_ranks_nothing() -> None:
    rows = np.array([[0, n, n] for n in range(9)] + [[1, 0, -1]] * 9)
    part = {"vectors": np.ones((18, 4), np.float32) / 2, "rows": rows, "excluded": np.zeros((0, 2), np.int64)}
    found = contrastive.metrics([part], ContrastiveConfig())
    assert found["mrr"] == pytest.approx(1 / 5)  # the mean rank of nine
    assert (found["recall_at_1"], found["recall_at_5"], found["uniformity"]) == (0.0, 1.0, 0.0)


def test_metrics_of_a_run_do_not_depend_on_batches(tiny: str) -> None:
    encoded, _ = contrastive.encode(pair_texts(), tokenizer_of(tiny), NEAR)
    model = model_of(tiny, NEAR).eval()
    found = [
        contrastive.metrics([contrastive.predict(model, b, NEAR) for b in collated(encoded, NEAR, shares)], NEAR)
        for shares in (WHOLE, [[4, 0], [1, 2, 3], [5]])
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-5)
