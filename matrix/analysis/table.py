"""One flat line a row: what `rows.parquet` holds and every distribution is counted from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_type_hints

import msgspec

from matrix.analysis.verbs import request
from matrix.records import Conversation, PreferencePair, Tags
from matrix.rows import TrainingRow, instruction, preferred
from matrix.texts import WORD


class Line(msgspec.Struct, kw_only=True):
    """What is known of a row; columns that Magpie's data sets have are called as there (arXiv 2406.08464)."""

    id: str
    instruction: str
    """All user turns."""
    response: str
    """All assistant turns; of a pair the chosen answer."""
    rejected: str = ""
    task_category: str = ""
    input_quality: str = ""
    difficulty: str = ""
    safety: str = ""
    language: str = ""
    instruct_reward: float | None = None
    """Reward of the response."""
    rejected_reward: float | None = None
    margin: float | None = None
    """Reward of the chosen answer less that of the rejected one."""
    min_neighbor_distance: float | None = None
    """Cosine distance of the instruction to the nearest other instruction."""
    input_length: int
    """Characters."""
    output_length: int
    instruction_words: int
    """Words, or Chinese or Japanese characters."""
    response_words: int
    rejected_words: int | None = None
    turns: int
    """Messages of users."""
    verb: str = ""
    """What is asked for (`matrix.analysis.verbs`)."""
    object: str = ""
    kind: str = ""
    """Generator variant, and what was asked of it:"""
    requested_category: str = ""
    complexity: str = ""
    style: str = ""
    agent: str = ""
    scenario: str = ""
    evaluation_ngrams: float | None = None
    """Largest share of an evaluation question's word n-grams that the instruction holds (`matrix.analysis.overlap`)."""
    evaluation_cosine: float | None = None
    """Cosine to the nearest evaluation question."""
    x: float | None = None
    """Place on the map: first two principal components of the instructions' embeddings."""
    y: float | None = None
    dropped_by: str = ""
    """Name of the filter, of a row that was dropped; such rows are not in `rows.parquet`."""


def line(row: TrainingRow, tags: Tags | None, rewards: dict[str, float], dropped_by: str = "") -> Line:
    """The line of a row, with what was measured of it."""
    asked, answer = instruction(row), preferred(row)
    rejected = row.rejected if isinstance(row, PreferencePair) else ""
    chat = row.messages if isinstance(row, Conversation) else row.prompt
    reward, other = rewards.get("response", rewards.get("chosen")), rewards.get("rejected")
    verb, noun = request(asked)
    return Line(
        id=row.id, instruction=asked, response=answer, rejected=rejected,
        task_category=tags.category if tags else "", input_quality=tags.quality if tags else "",
        difficulty=tags.difficulty if tags else "", safety=tags.safety if tags else "",
        language=tags.language if tags else "",
        instruct_reward=reward, rejected_reward=other,
        margin=reward - other if reward is not None and other is not None else None,
        input_length=len(asked), output_length=len(answer),
        instruction_words=len(WORD.findall(asked)), response_words=len(WORD.findall(answer)),
        rejected_words=len(WORD.findall(rejected)) if isinstance(row, PreferencePair) else None,
        turns=sum(message.role == "user" for message in chat), verb=verb, object=noun,
        kind=row.kind, requested_category=row.category, complexity=row.complexity, style=row.style,
        agent=row.origin.agent, scenario=row.origin.scenario, dropped_by=dropped_by,
    )  # fmt: skip


def write_table(path: Path, lines: Sequence[Line]) -> None:
    """Write lines as Parquet; a column has its type even where nothing was measured."""
    import pyarrow
    import pyarrow.parquet

    types = {str: pyarrow.string(), int: pyarrow.int64(), int | None: pyarrow.int64(), float | None: pyarrow.float64()}
    columns = {name: types[hint] for name, hint in get_type_hints(Line).items() if name != "dropped_by"}
    schema = pyarrow.schema(list(columns.items()))
    rows = [{name: getattr(item, name) for name in columns} for item in lines]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)
