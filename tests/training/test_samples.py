"""What a model answers while it is trained."""

import json

import pytest
import torch
from fitting import QUIET, Fitting, same
from transformers import AutoModelForCausalLM

from matrix.training.chat import Renderer
from matrix.training.data import read_examples
from matrix.training.plan import make_plan
from matrix.training.recipe import DPOConfig, LoraConfig, Packing, SFTConfig
from matrix.training.samples import Sampler
from matrix.training.sft import SFT

pytestmark = QUIET


@pytest.fixture
def fitting(tmp_path, base, conversations, tokenizer):
    return lambda name="run", **options: Fitting(tmp_path / name, base, conversations, tokenizer, **options)


def samples(run):
    return [json.loads(line) for line in (run.work / "samples.jsonl").read_text().splitlines()]


def test_the_first_rows_are_answered_at_every_epochs_end(fitting, conversations, tokenizer):
    run = fitting(samples=2, learning_rate=1e-3).run()
    found = samples(run)
    assert [(s["step"], s["row"]) for s in found] == [(3, "c0"), (3, "c1"), (6, "c0"), (6, "c1")]
    first = json.loads((conversations.path / "rows.jsonl").read_text().splitlines()[0])
    asked = [{"role": "user", "content": first["messages"][0]["content"]}]  # the first turn of a chat of two
    assert found[0]["prompt"] == tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)


def test_the_answer_is_what_the_trained_model_says_when_it_is_loaded_elsewhere(fitting, tokenizer):
    run = fitting(samples=1, lora=LoraConfig(rank=2)).run()
    last = samples(run)[-1]
    model = run.module.model.eval()
    ids = torch.tensor([tokenizer.encode(last["prompt"], add_special_tokens=False)])
    answer = []
    while len(answer) < 20:  # one token at a time, everything computed again
        token = model(input_ids=ids, use_cache=False).logits[0, -1].argmax()
        if token in (Renderer(tokenizer).end_of_turn, tokenizer.eos_token_id):
            break
        answer.append(int(token))
        ids = torch.cat([ids, token.view(1, 1)], dim=1)
    assert answer
    assert last["answer"].startswith(tokenizer.decode(answer, skip_special_tokens=True).rstrip("\ufffd"))


@pytest.mark.parametrize("packing", [Packing.isolated, Packing.padded])
def test_asking_changes_nothing_in_training(fitting, packing):
    options = {"held_out": 0.2, "evaluate_every": 2, "lora": LoraConfig(rank=2, dropout=0.2), "packing": packing}
    silent, asked = (fitting(f"{n}", samples=n, **options).run() for n in (0, 2))
    assert same(silent.weights(), asked.weights())
    assert silent.column("loss") == asked.column("loss")
    assert not (silent.work / "samples.jsonl").exists()
    assert [s["step"] for s in samples(asked)] == [2, 2, 4, 4]


def test_held_out_rows_are_asked_where_there_are_some(fitting):
    run = fitting(samples=2, held_out=0.3, epochs=1).run()
    plan = run.module.plan
    held_out = sorted(i for rows in plan.held_out.micro_batches for i in rows)
    assert len(held_out) > 2
    assert [s["row"] for s in samples(run)] == [run.module.examples[i].id for i in held_out[:2]]


class Interrupted(SFT):
    """Is asked to end in the fourth of six steps, after the evaluation in the third."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.trainer.callbacks[0].asked = self.trainer.global_step == 3


def test_a_resumed_training_answers_nothing_twice(fitting):
    whole = fitting("whole", samples=2).run()
    parts = fitting("parts", samples=2, kind=Interrupted).run()
    file = parts.work / "samples.jsonl"
    file.write_text(file.read_text() + file.read_text().replace('"step":3', '"step":6'))  # of a run that was killed
    parts.kind = SFT
    parts.run()
    assert samples(whole) == samples(parts)


def asked(tmp_path, rows, recipe, tokenizer):
    file = rows.path / "rows.jsonl"
    examples = read_examples(file, recipe, Renderer(tokenizer, recipe), 0).examples
    plan = make_plan(examples, recipe, 1, seed=0)
    sampler = Sampler(tmp_path, file, recipe, plan, examples, tokenizer)
    return [(row, tokenizer.decode(prompt)) for row, prompt in sampler.prompts]


def test_a_pair_is_asked_its_whole_prompt(tmp_path, pairs, tokenizer):
    found = asked(tmp_path, pairs, DPOConfig(samples=3), tokenizer)
    rows = [json.loads(line) for line in (pairs.path / "rows.jsonl").read_text().splitlines()][:3]
    for (name, text), row in zip(found, rows, strict=True):
        assert name == row["id"]
        assert text == tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)


def test_legacy_switches_change_no_prompt(tmp_path, conversations, tokenizer):
    plain = asked(tmp_path, conversations, SFTConfig(samples=3), tokenizer)
    legacy = SFTConfig(samples=3, loss_on_all_tokens=True, header_in_completion=True, append_eos=True)
    wrapped = SFTConfig(samples=3, packing=Packing.wrapped, max_length=64)
    assert asked(tmp_path, conversations, legacy, tokenizer) == plain
    assert asked(tmp_path, conversations, wrapped, tokenizer) == plain


def test_a_loaded_checkpoint_answers_alike(fitting, base):
    """`matrix_packed` without segments is `sdpa`."""
    prompt = torch.arange(5, 25)[None]
    mine, other = (
        AutoModelForCausalLM.from_pretrained(base.path / "hf", attn_implementation=name).eval()
        for name in ("matrix_packed", "sdpa")
    )
    answers = [m.generate(prompt, do_sample=False, max_new_tokens=20, eos_token_id=None) for m in (mine, other)]
    assert answers[0].equal(answers[1])
    assert answers[0].shape == (1, 40)
