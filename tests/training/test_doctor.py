import copy
import dataclasses
import json
import re

import msgspec
import pytest
from training_samples import conversation, pair, sentence

from matrix.jsonl import write_jsonl
from matrix.records import Conversation, Message, Origin
from matrix.training.budget import Shape
from matrix.training.chat import Renderer, Sequence
from matrix.training.data import Example, Examples, read_examples
from matrix.training.doctor import check, examine
from matrix.training.findings import printable
from matrix.training.machines import StrategyConfig
from matrix.training.plan import make_plan
from matrix.training.preview import SAMPLE, preview
from matrix.training.recipe import DPOConfig, LoraConfig, Packing, SFTConfig, TrainingError

SHAPE = Shape(
    parameters=100_000, active=65_000, outside=32_768, layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16,
    intermediate=128, vocab=512, positions=256, adapted={"q_proj": 256},
)  # fmt: skip


@pytest.fixture
def diagnose(tokenizer, tmp_path):
    """Rows and a recipe to a diagnosis, and to what was found on the way."""

    def diagnosed(rows, recipe, world=1, **options):
        write_jsonl(tmp_path / "rows.jsonl", rows)
        renderer = Renderer(tokenizer, recipe)
        found = read_examples(tmp_path / "rows.jsonl", recipe, renderer, 0)
        plan = make_plan(found.examples, recipe, world, 0)
        strategy = StrategyConfig(devices=world)
        return examine(found, plan, recipe, strategy, renderer, SHAPE, **options), found

    return diagnosed


def warned(diagnosis, words) -> bool:
    return any(re.search(words, warning) for warning in diagnosis.warnings)


def test_the_counts_are_those_of_rows_and_plan(diagnose):
    recipe = SFTConfig(max_length=256, epochs=3, batch_size=4, held_out=0.1, packing=Packing.padded)
    d, found = diagnose([conversation(i) for i in range(20)], recipe, world=2)
    assert (d.rows, d.sampled, d.used, d.held_out, d.dropped, d.truncated, d.duplicates) == (20, 20, 20, 2, 0, 0, 0)
    assert d.tokens == sum(len(e.sequences[0].ids) for e in found.examples)
    assert d.targets == sum(e.targets for e in found.examples)
    assert d.lengths["least"] == min(e.length for e in found.examples)
    assert d.lengths["most"] == max(e.length for e in found.examples)
    assert (d.steps, d.steps_an_epoch, d.micro_batches, d.processes) == (15, 5, 2, 2)
    assert d.turns == 20 + 7  # every third row has two
    assert d.unended == 0
    assert d.begin_of_text == (1, 1)
    assert 0 < d.efficiency < 1
    assert d.mean_rate == pytest.approx(0.5, abs=0.05)
    told = json.loads(msgspec.json.encode(d))
    assert told["memory"]["weights"] * 2**30 == 4 * SHAPE.parameters
    assert told["shortest"][0] < told["longest"][0]


def test_a_recipe_for_many_rows_on_few_is_told_so(diagnose):
    """Magpie's 100 warm-up steps and 32 packs a step, on rows enough for ten steps."""
    d, _ = diagnose([conversation(i) for i in range(40)], SFTConfig(max_length=256, warmup_steps=100))
    assert d.warmup_replaced
    assert warned(d, "warmup_steps=100 exceeds a quarter of 10 steps.*warmup_ratio=0.03 decides: 1 step")
    d, _ = diagnose([conversation(i) for i in range(40)], SFTConfig(max_length=256, warmup_ratio=0.5))
    assert d.warmup_share == 0.5
    assert warned(d, r"5 of 10 steps \(50%\) are warm-up")
    d, _ = diagnose([conversation(i) for i in range(40)], SFTConfig(max_length=256, batch_size=20))
    assert warned(d, "4 optimizer steps are few: lower batch_size=20, e.g. to 2")
    d, _ = diagnose([conversation(i) for i in range(4)], SFTConfig(max_length=256))
    assert warned(d, "batch_size=8 takes all 4 rows")


def test_a_sound_training_has_no_warnings(diagnose):
    d, _ = diagnose([conversation(i) for i in range(120)], SFTConfig(max_length=256), device_gib=1.0)
    assert d.warnings == []


def test_what_truncation_takes_is_counted(diagnose):
    d, found = diagnose([conversation(i) for i in range(40)], SFTConfig(max_length=40))
    assert d.truncated == found.truncated > d.dropped == found.dropped > 0
    assert d.targets_lost == found.lost_targets > 0
    assert 0 < d.unended <= d.truncated
    assert warned(d, r"% of the rows are cut at max_length=40: raise it \(the model takes 256\)")
    assert warned(d, f"{d.dropped} rows have no answer within max_length=40")
    assert not warned(d, "end-of-turn")


def test_an_answer_without_its_end_is_found(diagnose, tokenizer):
    _, found = diagnose([conversation(i) for i in range(40)], SFTConfig(max_length=256))
    whole = found.examples[0].sequences[0]
    last = max(i for i, target in enumerate(whole.targets) if target)
    cut = Sequence(whole.ids[:last], whole.targets[:last])
    odd = Examples([*found.examples[1:], Example("odd", (cut,))], rows=40)
    recipe = SFTConfig(max_length=256)
    plan = make_plan(odd.examples, recipe, 1, 0)
    d = examine(odd, plan, recipe, StrategyConfig(), Renderer(tokenizer))
    assert d.unended == 1
    assert d.memory is None
    assert warned(d, "1 of 54 answers do not end with the end-of-turn token")


@pytest.mark.parametrize(("padding", "trained"), [("<|end_of_text|>", False), ("<|eot_id|>", True)])
def test_padding_that_ends_turns_is_seen_as_a_target(diagnose, tokenizer, padding, trained):
    recipe = SFTConfig(max_length=256)
    _, found = diagnose([conversation(i) for i in range(9)], recipe)
    padded = copy.deepcopy(tokenizer)
    padded.pad_token = padding
    plan = make_plan(found.examples, recipe, 1, 0)
    assert examine(found, plan, recipe, StrategyConfig(), Renderer(padded)).padding_trained is trained


def test_rows_of_one_id_are_told(diagnose):
    d, _ = diagnose([*(conversation(i) for i in range(40)), conversation(3)], SFTConfig(max_length=256))
    assert d.duplicates == 1
    assert warned(d, "1 rows repeat the id of another row")


def test_the_rate_of_sft_is_too_high_for_preferences_on_all_weights(diagnose):
    rows = [pair(i) for i in range(20)]
    assert warned(diagnose(rows, DPOConfig(max_length=256))[0], "learning_rate=2e-05 is high for preference training")
    slow = DPOConfig(max_length=256, learning_rate=5e-7)
    adapters = DPOConfig(max_length=256, lora=LoraConfig(targets=["q_proj"]))
    assert not any(warned(diagnose(rows, recipe)[0], "learning_rate") for recipe in (slow, adapters))


def test_legacy_switches_are_not_taken_for_mistakes(diagnose):
    everything = SFTConfig(max_length=256, loss_on_all_tokens=True, append_eos=True)
    d, _ = diagnose([conversation(i) for i in range(120)], everything)
    assert d.warnings == []
    legacy = DPOConfig(max_length=256, bos_in_completion=True, append_eos=True, learning_rate=5e-7)
    d, _ = diagnose([pair(i) for i in range(40)], legacy)
    assert d.warnings == []
    assert d.begin_of_text == (2, 2)


def test_memory_beyond_the_device_is_told(diagnose):
    d, _ = diagnose([conversation(i) for i in range(120)], SFTConfig(max_length=256), device_gib=0.001)
    assert warned(d, "GiB are needed and a device has 0.0: set gradient_checkpointing=true")


def test_a_row_longer_than_the_model_is_refused(diagnose):
    _, found = diagnose([conversation(i) for i in range(9)], SFTConfig(max_length=256))
    check(found, SHAPE)
    longest = max(found.examples, key=lambda e: e.length)
    with pytest.raises(TrainingError, match=rf"row {longest.id} has {longest.length} tokens.* Set max_length=50 or"):
        check(found, dataclasses.replace(SHAPE, positions=50))


def test_the_report_is_plain_text_but_for_a_terminal(diagnose, tokenizer):
    d, found = diagnose([pair(i) for i in range(9)], DPOConfig(max_length=256))
    plain, coloured = (printable(d, found.examples, tokenizer, colour) for colour in (False, True))
    assert "\x1b[" in coloured
    assert "\x1b[" not in plain
    assert "rows           9 of 9; 0 held out, 0 dropped" in plain
    assert "end of turn    trained in all 18 turns" in plain
    assert "! learning_rate=2e-05" in plain
    assert "chosen" in plain
    assert "rejected" in plain


def test_a_preview_reads_some_rows_and_counts_all(base, tmp_path):
    total = 2 * SAMPLE
    write_jsonl(tmp_path / "rows.jsonl", [conversation(i) for i in range(total)])
    text = preview(
        tmp_path / "rows.jsonl", base.path, None, False, SFTConfig(max_length=256, batch_size=16), StrategyConfig(), 0
    )
    assert f"{total:,} of {total:,} (estimated from {SAMPLE:,}); 0 held out, 0 dropped" in text
    assert f"steps          {2 * total // 16}, {total // 16} an epoch, of 16 rows" in text
    assert "memory" in text
    assert "⟦" in text
    assert "\x1b[" not in text


def test_a_preview_says_why_training_would_not_start(base, tmp_path):
    answer = Message(role="assistant", content=sentence(0, 300))
    row = Conversation(id="long", messages=[Message(role="user", content="A"), answer], origin=Origin(stage="a-0"))
    write_jsonl(tmp_path / "rows.jsonl", [row])
    arguments = (tmp_path / "rows.jsonl", base.path, None, False)
    with pytest.raises(TrainingError, match="row long has .* Set max_length=256 or less"):
        preview(*arguments, SFTConfig(), StrategyConfig(), 0)
    with pytest.raises(TrainingError, match="2 processes"):
        preview(*arguments, SFTConfig(max_length=256), StrategyConfig(devices=2), 0)
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(TrainingError, match="no rows"):
        preview(*arguments, SFTConfig(), StrategyConfig(), 0)
