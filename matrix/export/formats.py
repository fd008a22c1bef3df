"""The formats of an exported data set, and the files of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from matrix.records import Conversation, Message, Tags
from matrix.rows import TrainingRow

Columns = dict[str, Any]
HUMAN = {"user": "human", "assistant": "gpt"}
"""ShareGPT's names of the roles; `system` is the same."""


class Format(StrEnum):
    """What a row looks like, and whose format it is."""

    datasets = "datasets"
    """All that is known of a row, in Parquet; the chats are as in `trl`."""
    trl = "trl"
    """`messages` for SFT; `prompt`, `chosen` and `rejected` for DPO (TRL's conversational format)."""
    sharegpt = "sharegpt"
    """`conversations: [{from, value}]`; pairs with `chosen` and `rejected` beside it (as LLaMA-Factory reads them)."""
    messages = "messages"
    """OpenAI's fine-tuning files: `messages`; `input`, `preferred_output` and `non_preferred_output` for pairs."""


def trl(row: TrainingRow) -> Columns:
    """A row as SFTTrainer or DPOTrainer takes it."""
    if isinstance(row, Conversation):
        return {"messages": _chat(row.messages)}
    return {"prompt": _chat(row.prompt), "chosen": _answer(row.chosen), "rejected": _answer(row.rejected)}


def sharegpt(row: TrainingRow) -> Columns:
    """A row with ShareGPT's names."""
    if isinstance(row, Conversation):
        return {"conversations": [_said(m.role, m.content) for m in row.messages]}
    turns = [_said(m.role, m.content) for m in row.prompt]
    return {
        "conversations": turns,
        "chosen": _said("assistant", row.chosen),
        "rejected": _said("assistant", row.rejected),
    }


def messages(row: TrainingRow) -> Columns:
    """A row as OpenAI's fine-tuning takes it."""
    if isinstance(row, Conversation):
        return trl(row)
    return {
        "input": {"messages": _chat(row.prompt)},
        "preferred_output": _answer(row.chosen),
        "non_preferred_output": _answer(row.rejected),
    }


def full(row: TrainingRow) -> Columns:
    """A row with everything that is known of where it came from."""
    origin = msgspec.structs.asdict(row.origin)
    origin["model"] = public_name(row.origin.model)
    origin["templates"] = json.dumps(origin["templates"])  # one type whatever the templates are called
    return msgspec.structs.asdict(row) | trl(row) | {"origin": origin}


def public_name(text: str) -> str:
    """A path of this machine as its last name, for a model or file that strangers read of; anything else as it is."""
    return Path(text).name if text.startswith(("/", "~")) else text


ROWS: dict[Format, Callable[[TrainingRow], Columns]] = {
    Format.datasets: full,
    Format.trl: trl,
    Format.sharegpt: sharegpt,
    Format.messages: messages,
}
FILES = {
    Format.datasets: ["data/{part}/train-00000-of-00001.parquet"],
    Format.trl: ["trl/{part}.parquet", "trl/{part}.jsonl"],
    Format.sharegpt: ["sharegpt/{part}.jsonl"],
    Format.messages: ["messages/{part}.jsonl"],
}
"""Paths in the exported folder; the first one is what `load_dataset(folder, NAME)` reads."""


def config_name(kind: Format, part: str) -> str:
    """What `load_dataset(folder, NAME)` calls the rows of a part in a format: `sft`, `trl_sft`, ..."""
    return part if kind is Format.datasets else f"{kind}_{part}"


def write_part(
    folder: Path, kind: Format, part: str, rows: Iterable[TrainingRow], tags: dict[str, Tags] | None = None
) -> list[str]:
    """Write the files of one format and return their paths in `folder`. Same rows, same bytes.

    Args:
        folder: the data set's folder.
        kind: the format.
        part: `sft` or `dpo`.
        rows: its rows.
        tags: an LLM's tags by row id, as a column of `datasets`.
    """
    columns = [ROWS[kind](row) for row in rows]
    files = [file.format(part=part) for file in FILES[kind]]
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if file.endswith(".parquet"):
            _write_parquet(folder / file, columns, tags if kind is Format.datasets else None)
        else:
            with (folder / file).open("wb") as lines:
                lines.writelines(msgspec.json.encode(one) + b"\n" for one in columns)
    return files


def _write_parquet(path: Path, columns: list[Columns], tags: dict[str, Tags] | None) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(columns)
    if tags:
        # Typed by hand: a tag that no row has would otherwise be a column of no type.
        names = {f.name: pyarrow.string() if f.type is str else pyarrow.float64() for f in msgspec.structs.fields(Tags)}
        del names["id"]
        found = [tags.get(row["id"]) for row in columns]
        values = [one and {name: getattr(one, name) for name in names} for one in found]
        table = table.append_column("tags", pyarrow.array(values, pyarrow.struct(list(names.items()))))
    pyarrow.parquet.write_table(table, path)


def _chat(turns: list[Message]) -> list[Columns]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _answer(text: str) -> list[Columns]:
    return [{"role": "assistant", "content": text}]


def _said(role: str, text: str) -> Columns:
    return {"from": HUMAN.get(role, role), "value": text}
