from itertools import pairwise

import pytest
import torch

from matrix.training.batch import MicroBatches, collate
from matrix.training.plan import make_plan
from matrix.training.recipe import Packing, SFTConfig


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_every_target_is_picked_from_the_token_before_it(packed, kind, sft_examples, dpo_examples):
    examples = sft_examples if kind == "sft" else dpo_examples
    batch = collate(examples, [2, 0, 4], packed)
    sequences = [s for i in (2, 0, 4) for s in examples[i].sequences]
    flat_ids, flat_positions = batch["ids"].flatten(), batch["position_ids"].flatten()
    for number, sequence in enumerate(sequences):
        mine = batch["owner"] == number
        places = [t for t, target in enumerate(sequence.targets) if target]
        assert batch["labels"][mine].tolist() == [sequence.ids[t] for t in places]
        assert flat_ids[batch["picks"][mine]].tolist() == [sequence.ids[t - 1] for t in places]
        assert flat_positions[batch["picks"][mine]].tolist() == [t - 1 for t in places]
    assert len(batch["labels"]) == sum(sum(s.targets) for s in sequences)


def test_packed_pairs_hold_their_prompt_once_and_their_segments_read_it(dpo_examples):
    batch = collate(dpo_examples, [1, 3], packed=True)
    pairs = [dpo_examples[i] for i in (1, 3)]
    assert batch["ids"].shape == (1, sum(p.tokens - p.prefix for p in pairs))
    assert all(p.prefix > 5 for p in pairs)
    q, k = batch["cu_seq_lens_q"].tolist(), batch["cu_seq_lens_k"].tolist()
    ids, keys = batch["ids"][0], batch["ids"][0][batch["kv_index"]]
    for number, sequence in enumerate(s for p in pairs for s in p.sequences):
        assert keys[k[number] : k[number + 1]].tolist() == sequence.ids
        own = ids[q[number] : q[number + 1]].tolist()
        assert own == sequence.ids[-len(own) :]
    assert batch["max_length_q"] == max(b - a for a, b in pairwise(q))
    assert batch["max_length_k"] == max(p.length for p in pairs)


def test_packed_rows_need_no_index_of_keys(sft_examples):
    batch = collate(sft_examples, [1, 3], packed=True)
    assert batch["kv_index"] is None
    assert batch["cu_seq_lens_q"].equal(batch["cu_seq_lens_k"])
    assert batch["ids"].shape == (1, sft_examples[1].tokens + sft_examples[3].tokens)


@pytest.mark.parametrize("packed", [True, False])
def test_no_batch_holds_floats_and_an_empty_one_has_no_target(packed, dpo_examples):
    for rows in ([2, 0], []):
        batch = collate(dpo_examples, rows, packed)
        assert not any(isinstance(v, torch.Tensor) and v.is_floating_point() for v in batch.values())
    assert batch["ids"].shape == (1, 1)
    assert len(batch["picks"]) == len(batch["labels"]) == len(batch["owner"]) == 0


def test_ranks_share_the_steps_and_resume_skips_whole_ones(sft_examples):
    recipe = SFTConfig(epochs=1, batch_size=4, packing=Packing.padded)
    plan = make_plan(sft_examples, recipe, 2, seed=0)
    seen = [list(MicroBatches(sft_examples, plan, rank, 0)) for rank in (0, 1)]
    assert [len(batches) for batches in seen] == [6, 6]
    rows = [row for pair in zip(*seen, strict=True) for batch in pair for row in batch["rows"].tolist()]
    assert sorted(rows) == list(range(11))
    assert len(seen[1][-1]["rows"]) == 0
    assert {(b["step_rows"], b["step_targets"]) for b in seen[0][:2]} == {(plan.steps[0].rows, plan.steps[0].targets)}
    rest = list(MicroBatches(sft_examples, plan, 0, 2))
    assert [b["rows"].tolist() for b in rest] == [b["rows"].tolist() for b in seen[0][4:]]
