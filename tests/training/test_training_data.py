import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_tokenizer import SPECIAL
from training_samples import conversation, pair

from matrix.jsonl import RowError, write_jsonl
from matrix.records import Message, Origin, PreferencePair
from matrix.training.chat import Renderer, Sequence
from matrix.training.data import Example, read_examples
from matrix.training.recipe import DPOConfig, Packing, SFTConfig, TrainingError

CHATML = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '<|eot_id|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
words = st.text(max_size=20) | st.sampled_from([*SPECIAL, "<|", "eot_id|>", "<|eot_id", " ", "\n\n", "é", "🙂"])
texts = st.lists(words, min_size=1, max_size=6).map("".join)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def chat(*said: str) -> list[Message]:
    return [Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(said)]


def plain(messages):
    return [{"role": m.role, "content": m.content} for m in messages]


def trained(sequence):
    return [i for i, target in zip(sequence.ids, sequence.targets, strict=True) if target]


def with_template(tokenizer, template):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


@pytest.fixture
def rows(tmp_path):
    def write(*rows):
        write_jsonl(tmp_path / "rows.jsonl", rows)
        return tmp_path / "rows.jsonl"

    return write


def read(path, recipe, tokenizer, seed=0):
    return read_examples(path, recipe, Renderer(tokenizer, recipe), seed)


def whole_pair(tokenizer, **switches):
    """A pair's sequences before anything is cut."""
    renderer = Renderer(tokenizer, DPOConfig(**switches))
    chats = [[*pair(0).prompt, Message(role="assistant", content=text)] for text in (pair(0).chosen, pair(0).rejected)]
    return renderer.sequences(chats, last=True)


# ---- which tokens


def test_only_answers_and_their_end_of_turn_are_trained(tokenizer):
    sequence = Renderer(tokenizer).sequence(chat("one", "two", "three", "four"))
    assert tokenizer.decode(trained(sequence)) == "two<|eot_id|>four<|eot_id|>"
    header = tokenizer.convert_tokens_to_ids("<|end_header_id|>")
    assert header in sequence.ids
    assert header not in trained(sequence)
    assert Renderer(tokenizer).end_of_turn == tokenizer.convert_tokens_to_ids("<|eot_id|>")


def test_ids_are_the_template_as_a_whole_with_one_begin_of_text(tokenizer):
    messages = chat("one two", "three 45", "six", "seven")
    sequence = Renderer(tokenizer).sequence(messages)
    assert sequence.ids == tokenizer.apply_chat_template(plain(messages), return_dict=False)
    assert sequence.ids.count(tokenizer.bos_token_id) == 1


def test_what_follows_the_end_of_turn_and_what_follows_the_last_answer_are_not_trained(tokenizer):
    chatml = with_template(tokenizer, CHATML)
    sequence = Renderer(chatml).sequence(chat("a", "b", "c"))
    assert chatml.decode(trained(sequence)) == "b<|eot_id|>"
    assert chatml.decode(sequence.ids) == "user: a<|eot_id|>\nassistant: b<|eot_id|>\n"


@quick
@given(said=st.lists(texts, min_size=2, max_size=6).filter(lambda said: len(said) % 2 == 0))
def test_whatever_people_write_stays_text(tokenizer, said):
    """Control tokens are those of the template: as many as around harmless words, and nobody can type one."""
    sequence = Renderer(tokenizer).sequence(chat(*said))
    control = set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    harmless = Renderer(tokenizer).sequence(chat(*["word"] * len(said)))
    assert [i for i in sequence.ids if i in control] == [i for i in harmless.ids if i in control]
    assert tokenizer.decode(sequence.ids) == tokenizer.apply_chat_template(plain(chat(*said)), tokenize=False)
    answers = "".join(answer.strip() + "<|eot_id|>" for answer in said[1::2])
    assert tokenizer.decode(trained(sequence)) == answers


@quick
@given(question=texts, answer=texts)
def test_answers_begin_where_the_prompt_ends(tokenizer, question, answer):
    """The tokens before an answer are those of the prompt on its own, for a template that trims nothing."""
    renderer = Renderer(with_template(tokenizer, CHATML))
    sequence = renderer.sequence(chat(question, answer))
    start = sequence.targets.index(True)
    # The same prompt before an answer that nothing can merge with: a digit.
    other = renderer.sequence(chat(question, "7"))
    assert sequence.ids[:start] == other.ids[: other.targets.index(True)]
    assert renderer.tokenizer.decode(trained(sequence)) == answer + "<|eot_id|>"


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_tokenizers_that_put_a_space_before_text(scheme):
    """Llama 2 and Mistral: an answer in the middle of a text has no such space of its own."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme, split=False)
    said = ["Hello there, how are you?", "I am fine, thank you", "Good", "Bye now"]
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    backend.train_from_iterator([*said, "[INST] [/INST]"], trainer)
    backend.add_special_tokens([AddedToken("<|end|>", rstrip=True, special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}<|end|>\n{% endif %}{% endfor %}"
    )
    sequence = Renderer(tokenizer).sequence(chat(*said))
    assert sequence.ids == tokenizer.apply_chat_template(plain(chat(*said)), return_dict=False)
    assert tokenizer.convert_ids_to_tokens(trained(sequence)).count("<|end|>") == 2
    first = sequence.targets.index(True)
    assert sequence.ids[:first] == tokenizer.apply_chat_template(plain(chat(said[0])), return_dict=False)


def test_a_begin_of_text_that_opens_every_turn_is_allowed_and_a_double_one_is_not(tokenizer):
    with pytest.raises(TrainingError, match="twice"):
        Renderer(with_template(tokenizer, "{{ bos_token }}" + tokenizer.chat_template))
    opens = with_template(
        tokenizer,
        "{% for m in messages %}{{ bos_token + m.role + ' ' + m.content + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ bos_token + 'assistant ' }}{% endif %}",
    )
    sequence = Renderer(opens).sequence(chat("a", "b", "c", "d"))
    assert sequence.ids.count(opens.bos_token_id) == 4


# ---- templates that cannot be trained with


def test_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    forgetful = with_template(
        tokenizer,
        "{% for m in messages %}{{ m.role + (m.content if loop.last else '') + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}",
    )
    with pytest.raises(TrainingError, match="not prefix-preserving"):
        Renderer(forgetful).sequence(chat("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (None, "has no chat template"),
        ("{% for m in messages %}{{ m.content }} {% endfor %}", "no special token"),
        (CHATML.replace("eot_id", "im_end"), r"'.*<\|im_end\|>\\n', which has no special token.*<\|end_of_text\|>"),
        ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}<|eot_id|>{% endif %}{% endfor %}", "nothing"),
        ("{{ raise_exception('system message is missing') }}", "refuses .*system message is missing"),
    ],
)
def test_templates_without_what_is_needed_say_what_to_set(tokenizer, template, told):
    with pytest.raises(TrainingError, match=told) as caught:
        Renderer(with_template(tokenizer, template))
    assert "chat_template" in str(caught.value)


def test_chats_without_a_prompt_or_without_an_answer_are_refused(tokenizer):
    with pytest.raises(TrainingError, match="begins with the assistant"):
        Renderer(tokenizer).sequence([Message(role="assistant", content="Hi")])
    with pytest.raises(TrainingError, match="'Hi' has no assistant's turn"):
        Renderer(tokenizer).sequence(chat("Hi"))


@pytest.mark.parametrize(
    ("switch", "recipe"), [("append_eos", SFTConfig), ("append_eos", DPOConfig), ("bos_in_completion", DPOConfig)]
)
def test_switches_for_tokens_that_the_tokenizer_does_not_have(tokenizer, switch, recipe):
    bare = with_template(tokenizer, CHATML)
    bare.bos_token = bare.eos_token = None
    assert Renderer(bare, recipe()).sequence(chat("a", "b"))
    with pytest.raises(TrainingError, match=f"set {switch}=false"):
        Renderer(bare, recipe(**{switch: True}))


# ---- legacy switches


def test_switches_of_sft(tokenizer):
    messages = chat("one", "two", "three", "four")
    for switches, expected in [
        ({"append_eos": True}, "two<|eot_id|>four<|eot_id|><|end_of_text|>"),
        (
            {"header_in_completion": True},
            "".join(f"<|start_header_id|>assistant<|end_header_id|>\n\n{text}<|eot_id|>" for text in ("two", "four")),
        ),
        (
            {"loss_on_all_tokens": True, "append_eos": True},
            tokenizer.apply_chat_template(plain(messages), tokenize=False).removeprefix("<|begin_of_text|>")
            + "<|end_of_text|>",
        ),
    ]:
        sequence = Renderer(tokenizer, SFTConfig(**switches)).sequence(messages)
        assert tokenizer.decode(trained(sequence)) == expected
        assert not sequence.targets[0]


def test_end_of_text_is_not_appended_twice(tokenizer):
    ends = with_template(tokenizer, tokenizer.chat_template.replace("<|eot_id|>", "<|end_of_text|>"))
    sequence = Renderer(ends, SFTConfig(append_eos=True)).sequence(chat("a", "b"))
    assert ends.decode(trained(sequence)) == "b<|end_of_text|>"


def test_a_pair_as_the_handbook_rendered_it(tokenizer):
    """Prompt without generation prompt; answers rendered on their own, with begin-of-text; end-of-text behind them."""
    switches = {"bos_in_completion": True, "header_in_completion": True, "append_eos": True}
    for sequence, text in zip(whole_pair(tokenizer, **switches), (pair(0).chosen, pair(0).rejected), strict=True):
        prompt = tokenizer.apply_chat_template(plain(pair(0).prompt), return_dict=False)
        answer = tokenizer.apply_chat_template([{"role": "assistant", "content": text}], return_dict=False)
        assert sequence.ids == [*prompt, *answer, tokenizer.eos_token_id]
        assert trained(sequence) == [*answer, tokenizer.eos_token_id]
        assert sequence.ids.count(tokenizer.bos_token_id) == 2


# ---- files


def test_pairs_share_their_prompt_and_train_the_last_answer_alone(tokenizer, rows):
    later = PreferencePair(
        id="later", prompt=chat("one", "two", "three"), chosen="four", rejected="five six", origin=Origin(stage="x")
    )
    first, second = read(rows(pair(0), later), DPOConfig(max_length=256), tokenizer).examples
    for example, row in ((first, pair(0)), (second, later)):
        chosen, rejected = example.sequences
        assert example.prefix == chosen.targets.index(True) == rejected.targets.index(True)
        assert chosen.ids[: example.prefix] == rejected.ids[: example.prefix]
        assert tokenizer.decode(chosen.ids[example.prefix :]) == row.chosen + "<|eot_id|>"
        assert tokenizer.decode(trained(rejected)) == row.rejected + "<|eot_id|>"
    assert first.targets == sum(map(sum, (s.targets for s in first.sequences)))


def test_prefix_ends_where_sequences_part_or_a_target_begins():
    def example(*rows):
        return Example("x", tuple(Sequence(ids, [i >= start for i in range(len(ids))]) for ids, start in rows))

    assert example(([1, 2, 3, 4], 2)).prefix == 0
    assert example(([1, 2, 3, 4], 3), ([1, 2, 3, 5], 3)).prefix == 3
    assert example(([1, 2, 3, 4], 2), ([1, 2, 3, 5], 3)).prefix == 2
    assert example(([1, 2, 3, 4], 3), ([1, 9, 3, 5], 3)).prefix == 1


@pytest.mark.parametrize("recipe", [SFTConfig, DPOConfig])
@pytest.mark.parametrize("limit", [10, 16, 20, 30, 60, 256])
def test_nothing_is_lost_without_a_count(tokenizer, rows, recipe, limit):
    made = conversation if recipe is SFTConfig else pair
    path = rows(*(made(i) for i in range(8)))
    whole = read(path, recipe(max_length=256), tokenizer)
    assert (whole.rows, whole.truncated, whole.dropped, whole.lost_targets) == (8, 0, 0, 0)
    try:
        cut = read(path, recipe(max_length=limit), tokenizer)
    except TrainingError as error:
        assert f"max_length={limit}" in str(error)
        assert all(min(s.targets.index(True) for s in e.sequences) >= limit for e in whole.examples)
        return
    assert cut.rows == len(cut.examples) + cut.dropped == 8
    assert cut.truncated == sum(example.length > limit for example in whole.examples)
    assert all(any(s.targets) and len(s.ids) <= limit for example in cut.examples for s in example.sequences)
    kept = sum(example.targets for example in cut.examples)
    assert cut.lost_targets == sum(example.targets for example in whole.examples) - kept


def legacy_row(prompt, answers, size, kept):
    """TRL 0.9's `tokenize_row` (`truncation_mode="keep_end"`), written down once more."""
    longer = max(map(len, answers))
    if len(prompt) + longer > size:
        prompt = prompt[-kept:]
    if len(prompt) + longer > size:
        answers = [answer[: size - kept] for answer in answers]
    return [prompt + answer for answer in answers]


@given(
    prompt=st.integers(2, 40),
    answers=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.integers(3, 60),
    data=st.data(),
)
@settings(max_examples=300, deadline=None)
def test_legacy_truncation_is_that_of_trl(prompt, answers, size, data):
    from matrix.training.data import _cut

    kept = data.draw(st.integers(1, size - 1))
    ids = [list(range(prompt)) + list(range(100 * (n + 1), 100 * (n + 1) + length)) for n, length in enumerate(answers)]
    found = _cut(
        [Sequence(row, [i >= prompt for i in range(len(row))]) for row in ids],
        DPOConfig(max_length=size, max_prompt_length=kept),
    )
    assert [s.ids for s in found] == legacy_row(ids[0][:prompt], [row[prompt:] for row in ids], size, kept)
    for sequence in found:
        assert sequence.targets == [i >= 100 for i in sequence.ids]


def test_legacy_truncation_of_a_file_is_counted(tokenizer, rows):
    path = rows(*(pair(i) for i in range(6)))
    whole = read(path, DPOConfig(max_length=256), tokenizer)
    cut = read(path, DPOConfig(max_length=24, max_prompt_length=8), tokenizer)
    assert cut.truncated == 6
    assert cut.dropped == 0
    assert all(example.prefix == 8 for example in cut.examples)
    assert cut.lost_targets == sum(e.targets for e in whole.examples) - sum(e.targets for e in cut.examples) > 0


@pytest.mark.parametrize("all_tokens", [False, True])
def test_wrapped_rows_are_one_stream_in_blocks(tokenizer, rows, all_tokens):
    path = rows(*(conversation(i) for i in range(11)))
    switches = {"loss_on_all_tokens": all_tokens, "append_eos": True}
    recipe = SFTConfig(max_length=50, packing=Packing.wrapped, **switches)
    found = read(path, recipe, tokenizer, seed=1)
    single = {e.id: e.sequences[0] for e in read(path, SFTConfig(max_length=256, **switches), tokenizer).examples}
    stream = [token for example in found.examples for token in example.sequences[0].ids]
    assert [example.id for example in found.examples] == [f"block-{i}" for i in range(len(found.examples))]
    assert all(example.length == 50 and not example.sequences[0].targets[0] for example in found.examples)
    total = sum(len(s.ids) for s in single.values())
    assert len(stream) == total - total % 50
    # Every row is in it, whole, but what did not fill the last block.
    text = tokenizer.decode(stream)
    missing = [name for name, s in single.items() if tokenizer.decode(s.ids) not in text]
    assert len(missing) == found.truncated == 1
    targets = sum(example.targets for example in found.examples)
    if all_tokens:
        assert targets == len(stream) - len(found.examples)
        assert found.lost_targets == total - targets
    else:
        assert found.lost_targets == sum(sum(s.targets) for s in single.values()) - targets
    assert stream != [t for e in read(path, recipe, tokenizer, seed=2).examples for t in e.sequences[0].ids]
    with pytest.raises(TrainingError, match="do not fill one block"):
        read(path, SFTConfig(max_length=100_000, packing=Packing.wrapped), tokenizer)


def test_max_rows_draws_with_the_seed(tokenizer, rows):
    path = rows(*(conversation(i) for i in range(8)))
    draws = [[e.id for e in read(path, SFTConfig(max_rows=3), tokenizer, seed).examples] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == 3


def test_rows_for_the_other_training_and_no_rows_say_what_to_do(tokenizer, rows):
    with pytest.raises(TrainingError, match=r"rows.jsonl holds PreferencePairs, and recipe.sft .*recipe.sft=null"):
        read(rows(pair(0)), SFTConfig(), tokenizer)
    with pytest.raises(TrainingError, match=r"rows.jsonl holds Conversations, and recipe.dpo .*recipe.dpo=null"):
        read(rows(conversation(0)), DPOConfig(), tokenizer)
    with pytest.raises(TrainingError, match=r"rows.jsonl has no rows .*Loosen the filters"):
        read(rows(), SFTConfig(), tokenizer)
    broken = rows()
    broken.write_text('{"neither": 1}\n')
    with pytest.raises(RowError, match="Conversation"):
        read(broken, SFTConfig(), tokenizer)
