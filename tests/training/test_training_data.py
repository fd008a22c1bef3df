import copy

import pytest
from training_samples import conversation, pair

from matrix.jsonl import write_jsonl
from matrix.records import Message
from matrix.training.data import Renderer, read_examples
from matrix.training.recipe import TrainingError


def chat(*texts: str) -> list[Message]:
    return [Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts)]


def test_only_answers_and_their_end_of_turn_are_trained(tokenizer):
    sequence = Renderer(tokenizer).sequence(chat("one", "two", "three", "four"))
    trained = [i for i, target in zip(sequence.ids, sequence.targets, strict=True) if target]
    assert tokenizer.decode(trained) == "two<|eot_id|>four<|eot_id|>"
    header = tokenizer.convert_tokens_to_ids("<|end_header_id|>")
    assert header in sequence.ids
    assert header not in trained


def test_ids_are_the_template_as_a_whole_with_one_begin_of_text(tokenizer):
    messages = chat("one two", "three 45", "six", "seven")
    sequence = Renderer(tokenizer).sequence(messages)
    plain = [{"role": m.role, "content": m.content} for m in messages]
    assert sequence.ids == tokenizer.apply_chat_template(plain, return_dict=False)
    assert sequence.ids.count(tokenizer.bos_token_id) == 1


def test_text_after_the_end_of_turn_is_not_trained(tokenizer):
    chatml = copy.deepcopy(tokenizer)
    chatml.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '<|eot_id|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    sequence = Renderer(chatml).sequence(chat("a", "b"))
    assert chatml.decode([i for i, t in zip(sequence.ids, sequence.targets, strict=True) if t]) == "b<|eot_id|>"
    assert chatml.decode(sequence.ids).endswith("<|eot_id|>\n")


def test_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    forgetful = copy.deepcopy(tokenizer)
    forgetful.chat_template = (
        "{% for m in messages %}{{ m.role + (m.content if loop.last else '') + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}"
    )
    with pytest.raises(TrainingError, match="not prefix-preserving"):
        Renderer(forgetful).sequence(chat("a", "b", "c", "d"))


def test_missing_template_and_missing_end_of_turn_say_what_to_set(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(TrainingError, match="has no chat template"):
        Renderer(bare)
    bare.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    with pytest.raises(TrainingError, match="special token"):
        Renderer(bare)


def test_double_begin_of_text_is_refused(tokenizer):
    doubled = copy.deepcopy(tokenizer)
    doubled.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    with pytest.raises(TrainingError, match="twice"):
        Renderer(doubled)


def test_truncation_is_counted_and_leaves_no_example_without_target(tokenizer, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [conversation(i) for i in range(8)])
    renderer = Renderer(tokenizer)
    whole = read_examples(tmp_path / "rows.jsonl", False, renderer, 256, None, 0)
    assert (whole.rows, whole.truncated, whole.dropped) == (8, 0, 0)
    prompts = [example.sequences[0].targets.index(True) for example in whole.examples]
    limit = sorted(prompts)[4]
    cut = read_examples(tmp_path / "rows.jsonl", False, renderer, limit, None, 0)
    assert cut.dropped == sum(prompt >= limit for prompt in prompts) > 0
    assert cut.truncated == sum(example.length > limit for example in whole.examples)
    assert all(example.targets > 0 and example.length <= limit for example in cut.examples)
    with pytest.raises(TrainingError, match="max_length"):
        read_examples(tmp_path / "rows.jsonl", False, renderer, 5, None, 0)


def test_max_rows_draws_with_the_seed(tokenizer, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [conversation(i) for i in range(8)])
    draws = [
        [e.id for e in read_examples(tmp_path / "rows.jsonl", False, Renderer(tokenizer), 256, 3, seed).examples]
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == 3


def test_pairs_share_their_prompt(tokenizer, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [pair(0)])
    (example,) = read_examples(tmp_path / "rows.jsonl", True, Renderer(tokenizer), 256, None, 0).examples
    chosen, rejected = example.sequences
    start = chosen.targets.index(True)
    assert chosen.ids[:start] == rejected.ids[:start]
    assert tokenizer.decode(chosen.ids[start:]) == pair(0).chosen + "<|eot_id|>"
    assert tokenizer.decode(rejected.ids[start:]) == pair(0).rejected + "<|eot_id|>"
