import json
import logging
import re

import pytest

from matrix.progress import Progress, Usage, show


def test_a_line_says_it_all():
    before = Usage(calls=2, tokens_in=100, tokens_out=50)  # of an interrupted run: no part of this run's speed
    progress = Progress("simulate", 40, done=10, in_flight=3, note="loss 1.2", usage=before)
    u = progress.usage
    u.calls, u.replayed, u.tokens_in, u.tokens_out, u.tokens_cached = 8, 2, 4100, 1050, 3075
    progress.started -= 100
    parts = progress.line().split(" | ")
    assert parts[0] == "simulate 10/40"
    assert parts[1] == "8 calls, 3 in flight, 2 replayed"
    assert re.fullmatch(r"(39|40) tok/s in, 10 out, 75% cached", parts[2])
    assert parts[3:] == ["ETA 5:00", "1:40", "loss 1.2"]


def test_a_line_without_model_calls_and_without_an_end():
    progress = Progress("train", 0)
    progress.started -= 3725
    assert progress.line() == "train 0/0 | 1:02:05"


def test_counting():
    progress = Progress("filter", 5)
    progress.advance()
    progress.advance(4)
    assert progress.line().startswith("filter 5/5 | ")
    assert "ETA" not in progress.line()


def test_usage_is_kept_and_goes_on_after_an_interruption(tmp_path):
    with pytest.raises(RuntimeError, match="killed"), show("simulate", 3, tmp_path) as progress:
        progress.usage.calls += 2
        progress.usage.tokens_in += 70
        raise RuntimeError("killed")
    assert json.loads((tmp_path / "usage.json").read_text())["calls"] == 2
    with show("simulate", 3, tmp_path) as progress:
        progress.usage.calls += 1
        progress.usage.replayed += 2
    kept = json.loads((tmp_path / "usage.json").read_text())
    assert (kept["calls"], kept["replayed"], kept["tokens_in"]) == (3, 2, 70)


def test_without_a_terminal_lines_are_logged(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("matrix.progress.REFRESH_LOG", 0.01)
    with caplog.at_level(logging.INFO, "matrix.progress"), show("simulate", 2, tmp_path) as progress:
        while len(caplog.messages) < 2:
            pass
        progress.advance(2)
    assert caplog.messages[0].startswith("simulate 0/2")
    assert caplog.messages[-1].startswith("simulate 2/2")
