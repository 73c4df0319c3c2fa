from hypothesis import given
from hypothesis import strategies as st

from patentft.train import plan

lengths = st.lists(st.integers(1, 400), min_size=1, max_size=200)


@given(lengths, st.integers(1, 40), st.integers(0, 5), st.integers(0, 3))
def test_every_unit_occurs_once_in_an_epoch(sizes, per_step, seed, epoch):
    steps = plan.steps_of_epoch(sizes, per_step, seed, epoch)
    assert sorted(unit for step in steps for unit in step) == list(range(len(sizes)))
    assert all(1 <= len(step) <= per_step for step in steps)
    assert steps == plan.steps_of_epoch(sizes, per_step, seed, epoch)


def test_epochs_and_seeds_differ():
    sizes = list(range(1, 101))
    first = plan.steps_of_epoch(sizes, 8, 0, 0)
    assert first != plan.steps_of_epoch(sizes, 8, 0, 1)
    assert first != plan.steps_of_epoch(sizes, 8, 1, 0)


def test_steps_are_even_in_length():
    sizes = [length for length in range(10, 330, 10) for _ in range(8)]
    spans = [max(sizes[u] for u in step) - min(sizes[u] for u in step) for step in plan.steps_of_epoch(sizes, 8, 0, 0)]
    assert max(spans) <= 10


@given(lengths, st.integers(1, 7))
def test_ranks_share_a_step(sizes, world):
    step = list(range(len(sizes)))
    dealt = [plan.deal(step, rank, world) for rank in range(world)]
    assert sorted(unit for share in dealt for unit in share) == step
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@given(lengths, st.integers(50, 1000), st.one_of(st.none(), st.integers(1, 5)))
def test_micro_batches_keep_order_and_budget(sizes, budget, largest):
    units = list(range(len(sizes)))
    batches = plan.micro_batches(units, sizes, budget, largest)
    assert [unit for batch in batches for unit in batch] == units
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(sizes[unit] for unit in batch) <= budget
        assert largest is None or len(batch) <= largest


def test_learning_rate():
    factors = [plan.learning_rate_factor(step, 10, 0.2, "linear") for step in range(10)]
    assert factors == [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert plan.learning_rate_factor(9, 10, 0.2, "constant") == 1.0
    cosine = [plan.learning_rate_factor(step, 100, 0.1, "cosine") for step in range(10, 100)]
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[0] == 1.0
    assert 0 < cosine[-1] < 0.001
