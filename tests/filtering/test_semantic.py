import numpy as np
import pytest

from matrix.filtering import semantic
from matrix.filtering.base import Facts
from matrix.filtering.dedup import Part
from matrix.filtering.semantic import SemanticDedupConfig, first_of
from matrix.records import Conversation, Message, Origin

ORIGIN = Origin(stage="generate-test")


class Angles:
    """Embeds a number as the unit vector of that many degrees."""

    def embed(self, texts: list[str]) -> np.ndarray:
        radians = np.radians([float(text) for text in texts])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def asked(*angles: str, answers: str = "") -> list[Conversation]:
    return [
        Conversation(
            id=f"row{n}",
            messages=[Message(role="user", content=angle), Message(role="assistant", content=answers or str(90 * n))],
            origin=ORIGIN,
        )
        for n, angle in enumerate(angles)
    ]


def drops(rows, **knobs):
    return SemanticDedupConfig(**knobs).build(Facts(embedder=Angles())).judge(rows)


def test_the_first_is_kept_and_the_nearest_named():
    same = [("same meaning", "row0"), ("same meaning", "row1")]
    assert drops(asked("0", "60", "10", "50", "120")) == [None, None, *same, None]  # cos 25.8 degrees = 0.9


def test_a_chain_of_small_steps_does_not_swallow_a_topic():
    assert [bool(verdict) for verdict in drops(asked("0", "20", "40", "60"))] == [False, True, False, True]


def test_the_part_that_is_compared():
    rows = asked("0", "0", "0")
    assert [bool(v) for v in drops(rows)] == [False, True, True]
    assert [bool(v) for v in drops(rows, part=Part.response)] == [False, False, False]


def test_equal_texts_reach_a_threshold_of_one():
    assert [bool(v) for v in drops(asked("33", "33", "34"), threshold=1.0)] == [False, True, False]


def test_no_rows():
    assert drops([]) == []


@pytest.mark.parametrize(("block", "step"), [(7, 5), (64, 3), (1000, 1000)])
def test_blocks_find_what_a_plain_search_finds(monkeypatch, block, step):
    monkeypatch.setattr(semantic, "BLOCK", block)
    monkeypatch.setattr(semantic, "STEP", step)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept: list[int] = []
    expected = []
    for row, vector in enumerate(vectors):
        similar = [float(vector @ vectors[other]) for other in kept]
        if similar and max(similar) >= 0.7:
            expected.append(kept[int(np.argmax(similar))])
        else:
            kept.append(row)
            expected.append(-1)
    assert 20 < len(kept) < 280
    assert first_of(vectors.copy(), 0.7) == expected


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="threshold must lie in"):
        SemanticDedupConfig(threshold=0)
    with pytest.raises(ValueError, match="embedder=minilm"):
        SemanticDedupConfig().build(Facts())
