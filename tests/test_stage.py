import dataclasses
import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix.engines.base import HOW
from matrix.provenance import file_fingerprint
from matrix.stage import Estimate, Result, Stage, canonical, full_config, identity

CONTENT = {"identity": file_fingerprint}


class Colour(StrEnum):
    red = "red"
    green = "green"


@dataclass(kw_only=True)
class Inner:
    size: int = 3
    colour: Colour = Colour.red
    threads: int = field(default=0, metadata=HOW)


@dataclass(kw_only=True)
class Outer:
    rate: float
    inner: Inner = field(default_factory=Inner)
    chain: dict[str, Inner] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    source: str | None = field(default=None, metadata=CONTENT)


@dataclass(kw_only=True)
class Cook(Stage):
    """A stage that is never run here."""

    name: ClassVar[str] = "cook"
    outer: Outer
    upstream: Result | None = None

    def run(self, work: Path) -> None:
        raise AssertionError("a key needs no run")


def result(key: str, path: str = "somewhere") -> Result:
    return Result(stage="shop", key=key * 64, path=Path(path))


def cook(seed: int = 0, upstream: Result | None = None, **fields) -> Cook:
    return Cook(seed=seed, outer=Outer(**{"rate": 0.5, **fields}), upstream=upstream)


class TestIdentity:
    def test_is_what_differs_from_the_defaults(self):
        assert identity(Outer(rate=0.5)) == {"type": "Outer", "rate": 0.5}
        assert identity(Outer(rate=0.5, inner=Inner(colour=Colour.green))) == {
            "type": "Outer",
            "rate": 0.5,
            "inner": {"type": "Inner", "colour": "green"},
        }

    def test_leaves_out_how_it_is_run(self):
        assert identity(Inner(threads=8)) == identity(Inner())
        assert cook(inner=Inner(threads=8)).key() == cook().key()
        assert cook(chain={"a": Inner(threads=8)}).key() == cook(chain={"a": Inner()}).key()

    def test_a_new_knob_at_its_default_does_not_void_old_results(self):
        before = dataclasses.make_dataclass("Knobs", [("a", int, field(default=1))])
        after = dataclasses.make_dataclass("Knobs", [("a", int, field(default=1)), ("b", int, field(default=2))])
        assert identity(before(a=5)) == identity(after(a=5))
        assert identity(before(a=5)) != identity(after(a=5, b=3))

    def test_the_order_of_a_chain_counts(self):
        one, two = {"a": Inner(), "b": Inner(size=1)}, {"b": Inner(size=1), "a": Inner()}
        assert cook(chain=one).key() != cook(chain=two).key()
        assert cook(chain=one).key() == cook(chain=dict(one)).key()

    def test_the_order_counts_where_the_chain_is_the_default_but_for_it(self):
        default = {"a": 1, "b": 2}
        chained = dataclasses.make_dataclass("Chained", [("chain", dict, field(default_factory=default.copy))])
        assert identity(chained(chain={"b": 2, "a": 1})) != identity(chained())
        assert identity(chained(chain={"a": 1, "b": 2})) == {"type": "Chained"}

    def test_the_variant_counts_where_the_fields_are_the_same(self):
        other = dataclasses.make_dataclass("Other", [("size", int, field(default=3))])
        assert cook(chain={"a": Inner()}).key() != cook(chain={"a": other()}).key()

    def test_a_file_stands_for_its_content(self, tmp_path):
        one, two = tmp_path / "one", tmp_path / "two"
        one.write_text("people")
        two.write_text("people")
        assert cook(source=str(one)).key() == cook(source=str(two)).key()
        assert str(tmp_path) not in canonical(cook(source=str(one)).identity())
        before = cook(source=str(two)).key()
        two.write_text("others")
        assert cook(source=str(two)).key() != before

    def test_is_json(self):
        stage = cook(chain={"a": Inner(colour=Colour.green)}, names=["é"], upstream=result("a"))
        text = canonical(stage.identity())
        assert json.loads(text) == stage.identity()
        assert "é" in text

    @given(st.dictionaries(st.text(), st.integers() | st.lists(st.text())))
    def test_canonical_text_does_not_depend_on_the_order_of_fields(self, value):
        assert canonical(value) == canonical(dict(reversed(value.items())))


class TestKey:
    def test_is_the_one_that_stored_results_have(self):
        """A changed key voids every stored result; change it on purpose only."""
        stage = cook(names=["x"], chain={"a": Inner(colour=Colour.green)}, upstream=result("a"), seed=3)
        assert stage.key()[:16] == "d4bf3640b1f46294"

    @pytest.mark.parametrize(
        "other",
        [cook(seed=1), cook(rate=0.6), cook(names=["a"]), cook(inner=Inner(size=4)), cook(upstream=result("a"))],
    )
    def test_follows_everything_that_decides_the_result(self, other):
        assert other.key() != cook().key()
        assert len(other.key()) == 64

    def test_follows_the_version_and_the_prompts(self, monkeypatch):
        before = cook().key()
        monkeypatch.setattr(Cook, "version", 2)
        raised = cook().key()
        monkeypatch.setattr(Cook, "prompts", "matrix.simulation")
        assert len({before, raised, cook().key()}) == 3
        assert "act.jinja" in cook().identity()["prompts"]

    def test_chains_through_the_keys_of_inputs_and_not_their_place(self):
        assert cook(upstream=result("a")).key() != cook(upstream=result("b")).key()
        assert cook(upstream=result("a", "here")).key() == cook(upstream=result("a", "there")).key()
        assert cook(upstream=result("a")).inputs() == {"upstream": result("a")}
        assert cook().inputs() == {}


def test_full_config_has_every_field():
    stage = cook(chain={"a": Inner()}, upstream=result("a"), inner=Inner(threads=8))
    small = {"size": 3, "colour": "red", "threads": 0}
    assert full_config(stage) == {
        "seed": 0,
        "outer": {
            "rate": 0.5,
            "inner": {**small, "threads": 8},
            "chain": {"a": small},
            "names": [],
            "source": None,
        },
        "upstream": "shop-aaaaaaaaaaaa",
    }


def test_a_stage_that_asks_no_model_costs_nothing():
    assert cook().estimate() == Estimate(calls=0, tokens_in=0, tokens_out=0, money=0.0)
