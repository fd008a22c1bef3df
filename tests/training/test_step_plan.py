from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix.training.chat import Sequence
from matrix.training.data import Example
from matrix.training.plan import make_plan, pack, rate
from matrix.training.recipe import BatchUnit, DPOConfig, Packing, Schedule, SFTConfig, TrainingError


def example(number, length, targets=1):
    return Example(str(number), (Sequence(list(range(length)), [i >= length - targets for i in range(length)]),))


def rows(step):
    return sorted(chain(*step.micro_batches))


def sft(**fields):
    return SFTConfig(**{"epochs": 2, "batch_size": 4, "max_length": 64} | fields)


CUTS = [
    (Packing.isolated, 1, 1), (Packing.isolated, 4, 1), (Packing.isolated, 1, 2),
    (Packing.padded, 1, 1), (Packing.padded, 3, 1), (Packing.padded, 2, 2),
]  # fmt: skip


def test_steps_do_not_depend_on_how_they_are_cut(sft_examples):
    plans = [
        (micro, world, make_plan(sft_examples, sft(packing=packing, micro_batch_size=micro), world, seed=3))
        for packing, micro, world in CUTS
    ]
    (_, _, first), *_ = plans
    for micro, world, plan in plans:
        assert [rows(s) for s in plan.steps] == [rows(s) for s in first.steps]
        counts, expected = ([(s.rows, s.targets, s.tokens) for s in p.steps] for p in (plan, first))
        assert counts == expected
        assert all(len(step.micro_batches) == plan.accumulation * world for step in plan.steps)
        if not plan.packed:
            assert all(len(batch) <= micro for step in plan.steps for batch in step.micro_batches)


def test_every_epoch_has_every_row_once_and_its_own_order(sft_examples):
    plan = make_plan(sft_examples, sft(), 1, seed=3)
    steps = [rows(step) for step in plan.steps]
    assert len(steps) == 6
    assert sorted(chain(*steps[:3])) == sorted(chain(*steps[3:])) == list(range(11))
    assert steps[:3] != steps[3:]
    assert plan == make_plan(sft_examples, sft(), 1, seed=3) != make_plan(sft_examples, sft(), 1, seed=4)


def test_counts_are_of_the_whole_step_and_of_chosen_answers(sft_examples, dpo_examples):
    step = make_plan(sft_examples, sft(), 1, seed=0).steps[-1]
    assert step.targets == sum(sft_examples[i].targets for i in rows(step))
    assert step.tokens == sum(sft_examples[i].tokens for i in rows(step))
    for packing in (Packing.isolated, Packing.padded):
        steps = make_plan(dpo_examples, DPOConfig(epochs=1, batch_size=4, packing=packing), 1, seed=0).steps
        assert [s.rows for s in steps] == [4, 2]
        chosen = [sum(sum(dpo_examples[i].sequences[0].targets) for i in rows(s)) for s in steps]
        assert [s.targets for s in steps] == chosen
        shared = (packing is Packing.isolated) * sum(dpo_examples[i].prefix for i in rows(steps[0]))
        assert steps[0].tokens == sum(dpo_examples[i].tokens for i in rows(steps[0])) - shared


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_packs_fit_and_no_row_is_lost(lengths, batch_size, micro, world):
    examples = [example(i, n) for i, n in enumerate(lengths)]
    recipe = sft(epochs=1, batch_size=batch_size, micro_batch_size=micro)
    if world > min(len(lengths), batch_size):
        with pytest.raises(TrainingError, match=f"{world} processes cannot share"):
            make_plan(examples, recipe, world, seed=1)
        return
    plan = make_plan(examples, recipe, world, seed=1)
    assert sorted(chain(*(rows(step) for step in plan.steps))) == list(range(len(examples)))
    for batch in chain(*(step.micro_batches for step in plan.steps)):
        assert len(batch) < 2 or sum(lengths[i] for i in batch) <= micro * 64
    assert 0 < plan.efficiency <= 1


def test_packing_is_close_to_the_least_number_of_packs():
    lengths = [(i * 7919) % 900 + 100 for i in range(2000)]
    packs = pack(list(range(2000)), lengths, 4096)
    assert len(packs) <= 1.01 * sum(lengths) / 4096 + 1


def test_packs_are_about_equal():
    lengths = [(i * 7919) % 900 + 100 for i in range(128)]
    plan = make_plan([example(i, n) for i, n in enumerate(lengths)], sft(batch_size=64, max_length=4096), 2, seed=1)
    assert plan.efficiency > 0.98


def test_a_batch_of_packs_holds_as_many_rows_as_fit(sft_examples):
    recipe = sft(batch_unit=BatchUnit.packs, batch_size=2, max_length=128, epochs=1)
    plan = make_plan(sft_examples, recipe, 1, seed=1)
    assert sorted(chain(*(rows(step) for step in plan.steps))) == list(range(11))
    assert all(len(step.micro_batches) <= 2 and step.tokens <= 256 for step in plan.steps)
    assert len(plan.steps) < len(make_plan(sft_examples, sft(batch_size=2, epochs=1), 1, seed=1).steps)


def test_held_out_rows_are_never_trained(sft_examples):
    plan = make_plan(sft_examples, sft(held_out=0.2), 1, seed=3)
    trained = set(chain(*(rows(step) for step in plan.steps)))
    assert plan.held_out.rows == 3
    assert trained.isdisjoint(rows(plan.held_out))
    assert trained | set(rows(plan.held_out)) == set(range(11))
    assert plan.evaluations == {2, 4}
    assert make_plan(sft_examples, sft(held_out=0.2, evaluate_every=3), 1, seed=3).evaluations == {3, 4}
    assert make_plan(sft_examples, sft(), 1, seed=3).held_out is None


def test_rate_warms_up_and_follows_its_schedule():
    examples = [example(i, 4) for i in range(100)]

    def course(**fields):
        recipe = SFTConfig(epochs=1, batch_size=1, **fields)
        plan = make_plan(examples, recipe, 1, seed=0)
        return [rate(step, plan, recipe) for step in range(101)]

    rates = course(warmup_ratio=0.1)
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert rates[:11] == sorted(rates[:11])
    assert course(warmup_ratio=0.1, schedule=Schedule.linear)[55] == pytest.approx(0.5)
    assert course(warmup_ratio=0.1, min_rate=0.1)[100] == pytest.approx(0.1)
    assert set(course(warmup_ratio=0.0, schedule=Schedule.constant)) == {1}


def test_a_warm_up_for_more_rows_than_there_are_gives_way_to_the_ratio():
    examples = [example(i, 4) for i in range(100)]
    for steps, expected in ((25, 25), (26, 10), (None, 10)):
        recipe = SFTConfig(epochs=1, batch_size=1, warmup_ratio=0.1, warmup_steps=steps)
        assert make_plan(examples, recipe, 1, seed=0).warmup == expected


def test_without_rows_there_is_no_plan():
    with pytest.raises(TrainingError, match="no row"):
        make_plan([], sft(), 1, seed=0)
