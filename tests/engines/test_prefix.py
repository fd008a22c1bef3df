import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix.engines import prefix
from matrix.engines.prefix import BLOCK, PrefixMeter
from matrix.records import Message


def share(meter: PrefixMeter, *texts: str) -> float:
    return meter.share([Message(role="user", content=text) for text in texts])


def test_only_what_stands_at_the_start_of_an_earlier_prompt_counts() -> None:
    meter, fixed = PrefixMeter(), "f" * 3 * BLOCK
    assert share(meter, fixed + "a" * BLOCK) == 0
    assert share(meter, fixed + "b" * BLOCK) == 3 / 4
    assert share(meter, fixed + "b" * BLOCK) == 1
    assert share(meter, "x" + fixed) == 0


@given(st.lists(st.text("ab", max_size=6), max_size=20))
def test_every_earlier_prompt_counts(prompts: list[str]) -> None:
    meter, earlier = PrefixMeter(), set[str]()
    for prompt in prompts:
        alike = max((n for n in range(len(prompt) + 1) if prompt[:n] in earlier), default=0)
        assert share(meter, "".join(letter * BLOCK for letter in prompt)) == alike / max(len(prompt), 1)
        earlier |= {prompt[:n] for n in range(1, len(prompt) + 1)}


def test_blocks_are_whole() -> None:
    meter = PrefixMeter()
    share(meter, "a" * (BLOCK - 1))
    assert share(meter, "a" * (BLOCK - 1)) == 0
    assert share(meter, "") == 0


def test_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "KEPT", 2 * BLOCK)
    meter = PrefixMeter()
    for letter in "abcdef":
        share(meter, letter * BLOCK)
    assert [share(meter, letter * BLOCK) for letter in "fa"] == [1, 0]


def test_what_is_used_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "KEPT", 2 * BLOCK)
    meter = PrefixMeter()
    share(meter, "a" * BLOCK)
    assert [share(meter, "a" * BLOCK + letter * BLOCK) for letter in "bcdefg"] == [1 / 2] * 6
