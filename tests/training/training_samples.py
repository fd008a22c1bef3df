"""Small deterministic rows for the training tests."""

import json
from pathlib import Path

from matrix.records import Conversation, Message, Origin, PreferencePair
from matrix.stage import Result

TEXT = "Base of all rows; fields at their default are not written. A stage reads directories of typed rows"
WORDS = TEXT.split()


def sentence(start: int, length: int) -> str:
    return " ".join(WORDS[(start + i * (1 + start % 3)) % len(WORDS)] for i in range(length))


def conversation(i: int) -> Conversation:
    turns = [("user", sentence(i, 3 + i % 4)), ("assistant", sentence(i + 5, 2 + 5 * (i % 4)))]
    if i % 3 == 0:
        turns += [("user", sentence(i + 2, 2)), ("assistant", sentence(i + 7, 3))]
    return Conversation(
        id=f"c{i}", messages=[Message(role=r, content=c) for r, c in turns], origin=Origin(stage="generate-0")
    )


def pair(i: int) -> PreferencePair:
    return PreferencePair(
        id=f"p{i}",
        prompt=[Message(role="user", content=sentence(i, 4))],
        chosen=sentence(i + 3, 3 + i % 5),
        rejected=sentence(i + 9, 8 - i % 5),
        origin=Origin(stage="prefer-0"),
    )


def published(stage: str, folder: Path) -> Result:
    (folder / "manifest.json").write_text(json.dumps({"outputs": {}}))
    return Result(stage=stage, key=stage[0] * 64, path=folder)
