import hashlib

import msgspec
import pytest

from matrix.jsonl import RowError, iter_jsonl, read_jsonl, write_jsonl, write_parquet
from matrix.records import Conversation, Message, Origin, PreferencePair, Profile

ORIGIN = Origin(stage="generate-0123456789ab", model="m@1", templates={"b.jinja": "2", "a.jinja": "1"}, seed=7)
ROWS = [
    Conversation(
        id=f"sft-{number}",
        messages=[Message(role="user", content="Wie spät ist es?"), Message(role="assistant", content='"Drei"\n時')],
        origin=ORIGIN,
    )
    for number in range(3)
]
PAIRS = [
    PreferencePair(
        id="pair-0", prompt=[Message(role="user", content="Hi")], chosen="Hello!", rejected="no", origin=ORIGIN
    )
]
PEOPLE = [Profile(id="a", name="Ann", description="Baker", posts=["Rye day."])]


@pytest.mark.parametrize("rows", [ROWS, PAIRS, PEOPLE], ids=lambda rows: type(rows[0]).__name__)
def test_rows_come_back_as_they_were(tmp_path, rows):
    assert write_jsonl(tmp_path / "rows.jsonl", rows) == len(rows)
    assert read_jsonl(tmp_path / "rows.jsonl", type(rows[0])) == rows


def test_same_rows_same_bytes(tmp_path):
    """The bytes are pinned: fingerprints of stored results hang on them."""
    other = msgspec.structs.replace(
        ROWS[0], origin=msgspec.structs.replace(ORIGIN, templates={"a.jinja": "1", "b.jinja": "2"})
    )
    write_jsonl(tmp_path / "one.jsonl", [ROWS[0]])
    write_jsonl(tmp_path / "two.jsonl", [other])
    written = (tmp_path / "one.jsonl").read_bytes()
    assert written == (tmp_path / "two.jsonl").read_bytes()
    assert hashlib.sha256(written).hexdigest()[:16] == "fb21a1f83e74c76e"


def test_fields_at_their_default_are_not_written(tmp_path):
    write_jsonl(
        tmp_path / "rows.jsonl", [Message(role="user", content="Hi"), Profile(id="a", name="A", description="d")]
    )
    assert (tmp_path / "rows.jsonl").read_text().splitlines() == [
        '{"role":"user","content":"Hi"}',
        '{"id":"a","name":"A","description":"d"}',
    ]


def test_empty_lines_are_passed_over_and_unknown_fields_too(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"role":"user","content":"Hi","added_later":1}\n\n')
    assert read_jsonl(path, Message) == [Message(role="user", content="Hi")]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"role":"user"}', "missing required field `content`"),
        (b'{"role":"user","content":7}', r"Expected `str`, got `int` - at `\$\.content`"),
        (b'{"role":"user","content":"cut sho', "malformed"),
        (b"[1]", "Expected `object`, got `array`"),
        (b'{"role":"user","content":"\xff"}', "invalid|can't decode"),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_field(tmp_path, line, complaint):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"role":"user","content":"Hi"}\n\n' + line + b"\n")
    rows = iter_jsonl(path, Message)
    assert next(rows) == Message(role="user", content="Hi")
    with pytest.raises(RowError, match=rf"rows\.jsonl:3: .*({complaint}).*Expected one Message as JSON: role, content"):
        next(rows)


def test_parquet_is_read_by_pyarrow_with_nested_fields(tmp_path):
    import pyarrow.parquet

    write_parquet(tmp_path / "rows.parquet", ROWS)
    table = pyarrow.parquet.read_table(tmp_path / "rows.parquet")
    assert table.column_names == list(Conversation.__struct_fields__)
    row = table.to_pylist()[0]
    assert row["messages"] == [{"role": m.role, "content": m.content} for m in ROWS[0].messages]
    assert row["origin"]["templates"] == [{"key": "b.jinja", "value": "2"}, {"key": "a.jinja", "value": "1"}]
    assert row["origin"]["seed"] == 7
    assert row["kind"] == ""


def test_rows_with_different_fields_set_make_one_table(tmp_path):
    import pyarrow.parquet

    rows = [PAIRS[0], msgspec.structs.replace(PAIRS[0], id="pair-1", style="short", rejected_model="train-1")]
    write_parquet(tmp_path / "rows.parquet", rows)
    read = pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [row["style"] for row in read] == ["", "short"]
    assert [row["rejected_model"] for row in read] == ["", "train-1"]


def test_no_rows_make_files_too(tmp_path):
    import pyarrow.parquet

    assert write_jsonl(tmp_path / "rows.jsonl", []) == 0
    assert read_jsonl(tmp_path / "rows.jsonl", Conversation) == []
    write_parquet(tmp_path / "rows.parquet", [])
    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").num_rows == 0


def test_parquet_is_read_by_datasets(tmp_path, monkeypatch):
    """In a process of its own: the import is heavy, and the cache is told where to be before it."""
    import subprocess
    import sys

    write_parquet(tmp_path / "rows.parquet", ROWS)
    code = (
        "import sys, datasets; rows = datasets.Dataset.from_parquet(sys.argv[1], cache_dir=sys.argv[2]);"
        "print(rows[2]['id'], rows[0]['messages'][1]['content'])"
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    command = [sys.executable, "-c", code, tmp_path / "rows.parquet", tmp_path / "cache"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == 'sft-2 "Drei"\n時\n'
