from matrix.jsonl import write_jsonl
from matrix.records import Conversation, Message, Origin, PreferencePair
from matrix.rows import answers, instruction, preferred, prompt, read_rows, responses, row_type

TURNS = [
    ("system", "Be brief."),
    ("user", "Why?"),
    ("assistant", "Because."),
    ("user", "Really?"),
    ("assistant", "Yes."),
]
MESSAGES = [Message(role=role, content=content) for role, content in TURNS]
ORIGIN = Origin(stage="test")
CHAT = Conversation(id="c", messages=MESSAGES, origin=ORIGIN)
PAIR = PreferencePair(id="p", prompt=MESSAGES[:-1], chosen="Yes.", rejected="No.", origin=ORIGIN)


def test_what_is_asked_and_answered_in_a_dialogue():
    assert instruction(CHAT) == instruction(PAIR) == "Why?\n\nReally?"
    assert prompt(CHAT) == prompt(PAIR) == MESSAGES[:-1]
    assert (preferred(CHAT), preferred(PAIR)) == ("Because.\n\nYes.", "Yes.")
    assert (responses(CHAT), responses(PAIR)) == (["Because.\n\nYes."], ["Yes.", "No."])
    assert (answers(CHAT), answers(PAIR)) == ({"response": "Yes."}, {"chosen": "Yes.", "rejected": "No."})


def test_files_of_either_type_are_told_apart(tmp_path):
    for row, kind in ((CHAT, Conversation), (PAIR, PreferencePair)):
        write_jsonl(tmp_path / "rows.jsonl", [row, row])
        assert row_type(tmp_path / "rows.jsonl") is kind
        assert read_rows(tmp_path / "rows.jsonl") == [row, row]
    (tmp_path / "rows.jsonl").write_text("")
    assert read_rows(tmp_path / "rows.jsonl") == []
