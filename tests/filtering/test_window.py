import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix.filtering.window import Unit, Window


def kept(window, values):
    return [v for v, verdict in zip(values, window.judge(values, "x", "unknown"), strict=True) if verdict is None]


def test_quantiles_are_those_of_the_values_at_hand():
    assert kept(Window(low=0.2), [float(v) for v in range(10)]) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert kept(Window(low=0.25, high=0.75), [50.0, 10.0, 30.0, 20.0, 40.0]) == [30.0, 20.0, 40.0]


def test_absolute_bounds_are_inclusive_and_null_is_open():
    assert kept(Window(low=1.0, high=2.0, unit=Unit.absolute), [0.9, 1.0, 1.5, 2.0, 2.1]) == [1.0, 1.5, 2.0]
    assert kept(Window(unit=Unit.absolute), [-1e9, 1e9]) == [-1e9, 1e9]


def test_reasons_say_which_side_and_how_much():
    assert Window(low=1.0, high=2.0, unit=Unit.absolute).judge([0.5, 2.5, None], "gap", "no gap") == [
        ("gap too low", "0.5"), ("gap too high", "2.5"), ("no gap", ""),
    ]  # fmt: skip


def test_nothing_measured_and_nothing_there():
    assert Window(low=0.5).judge([None, None], "x", "unknown") == [("unknown", "")] * 2
    assert Window(low=0.5).judge([], "x", "unknown") == []


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 1))
def test_a_lower_quantile_drops_at_most_its_share(values, low):
    assert len(values) - len(kept(Window(low=low), values)) <= low * len(values) + 1e-6


@pytest.mark.parametrize("wrong", [{"low": -0.1}, {"high": 1.5}, {"low": 0.7, "high": 0.3}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"quantile|above"):
        Window(**wrong)
