from itertools import chain

import torch

from matrix.training.plan import MicroBatches, collate, make_plan


def test_steps_do_not_depend_on_how_they_are_cut(sft_examples):
    plans = {(m, w): make_plan(sft_examples, 2, 4, m, w, seed=3) for m, w in [(1, 1), (4, 1), (2, 2), (3, 1)]}
    rows = {cut: [sorted(chain(*step.micro_batches)) for step in plan.steps] for cut, plan in plans.items()}
    assert all(steps == rows[1, 1] for steps in rows.values())
    assert len({tuple(step.normaliser for step in plan.steps) for plan in plans.values()}) == 1
    for (micro, world), plan in plans.items():
        assert all(len(step.micro_batches) == plan.accumulation * world for step in plan.steps)
        assert all(len(batch) <= micro for step in plan.steps for batch in step.micro_batches)


def test_every_epoch_has_every_row_once_and_its_own_order(sft_examples):
    plan = make_plan(sft_examples, 2, 4, 2, 1, seed=3)
    rows = [sorted(chain(*step.micro_batches)) for step in plan.steps]
    assert len(plan.steps) == 6
    assert sorted(chain(*rows[:3])) == sorted(chain(*rows[3:])) == list(range(11))
    assert rows[:3] != rows[3:]
    assert plan == make_plan(sft_examples, 2, 4, 2, 1, seed=3) != make_plan(sft_examples, 2, 4, 2, 1, seed=4)


def test_normaliser_counts_targets_for_sft_and_pairs_for_dpo(sft_examples, dpo_examples):
    step = make_plan(sft_examples, 1, 4, 2, 1, seed=0).steps[-1]
    assert step.normaliser == sum(sft_examples[i].targets for batch in step.micro_batches for i in batch)
    assert [s.normaliser for s in make_plan(dpo_examples, 1, 4, 2, 1, seed=0).steps] == [4, 2]


def test_collation_pads_right_and_marks_targets_from_masks_not_ids(dpo_examples):
    batch = collate(dpo_examples, [2, 0], 7)
    chosen, rejected = dpo_examples[2].sequences
    assert batch["ids"].shape[0] == 4
    assert batch["ids"][0, : len(chosen.ids)].tolist() == chosen.ids
    assert batch["ids"][2, : len(rejected.ids)].tolist() == rejected.ids
    assert batch["targets"].sum() == dpo_examples[2].targets + dpo_examples[0].targets
    assert not batch["targets"][0, len(chosen.ids) :].any()
    assert not any(isinstance(v, torch.Tensor) and v.is_floating_point() for v in batch.values())


def test_ranks_share_the_steps_and_resume_skips_whole_ones(sft_examples):
    plan = make_plan(sft_examples, 1, 4, 1, 2, seed=0)
    seen = [list(MicroBatches(sft_examples, plan, rank, 2, 0)) for rank in (0, 1)]
    assert [len(batches) for batches in seen] == [6, 6]
    rows = [row for pair in zip(*seen, strict=True) for batch in pair for row in batch["rows"].tolist()]
    assert sorted(rows) == list(range(11))
    assert len(seen[1][-1]["rows"]) == 0
    assert seen[1][-1]["targets"].sum() == 0
    rest = list(MicroBatches(sft_examples, plan, 0, 2, 2))
    assert [b["rows"].tolist() for b in rest] == [b["rows"].tolist() for b in seen[0][4:]]
