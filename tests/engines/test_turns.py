"""Where the user's text would stand in a chat template."""

from pathlib import Path

import pytest
from tiny_tokenizer import tiny_tokenizer

from matrix.engines.base import EngineError
from matrix.engines.turns import asks_for_user, up_to_user
from matrix.engines.vllm import prompt_ids
from matrix.records import Message

EMPTY = [Message(role="user", content="")]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(Path(__file__))


def test_only_an_empty_user_message_at_the_end_asks_for_the_users_turn():
    assert asks_for_user(EMPTY)
    assert not asks_for_user([Message(role="user", content="Hello")])
    assert not asks_for_user([*EMPTY, Message(role="assistant", content="")])


def test_the_prompt_ends_where_llama_3_users_begin(tokenizer):
    """The pre-query template of the Magpie paper."""
    text = tokenizer.decode(prompt_ids(tokenizer, EMPTY, None))
    assert text == "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"


def test_earlier_turns_and_system_messages_stand_before_it(tokenizer):
    chat = [Message(role="system", content="Be brief."), Message(role="user", content="Hi"), *EMPTY]
    text = tokenizer.decode(prompt_ids(tokenizer, chat, None))
    assert "Be brief." in text
    assert "Hi<|eot_id|>" in text
    assert text.endswith("user<|end_header_id|>\n\n")


def test_another_chat_ends_where_the_assistant_begins(tokenizer):
    chat = [{"role": "user", "content": "Hi"}]
    expected = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert prompt_ids(tokenizer, [Message(role="user", content="Hi")], None) == expected


def test_a_space_before_the_text_is_left_to_its_first_word():
    assert up_to_user(EMPTY, lambda turns: f"<s>[INST] {turns[-1]['content']} [/INST]") == "<s>[INST]"


def test_a_template_without_the_users_text_is_refused():
    with pytest.raises(EngineError, match="another chat_template"):
        up_to_user(EMPTY, lambda turns: "### Response:")
