"""The length regression: equal to the package's own on the official set, and sane where that does not reach."""

import numpy as np
import pytest

from matrix.evaluation.config import AlpacaEvalConfig, AnsweringConfig, LengthControl
from matrix.evaluation.length_control import calibration, length_controlled
from matrix.evaluation.questions import EvaluationError, Pair
from matrix.evaluation.side_effects import undone
from matrix.records import Answer, Question


def config(path):
    return AlpacaEvalConfig(answers=AnsweringConfig(temperature=0.7), calibration=str(path))


def at(index):
    answer = Answer(id="q", instruction="i", output="", generator="")
    return Pair(Question(id="q", instruction="i"), index, answer, answer)


def test_equals_the_package_on_the_official_set(reference_data, monkeypatch):
    """The package's own function is given the file that it would download."""
    rows = reference_data.json("alpaca_eval/annotations_gpt-3.5-turbo-1106")
    path = reference_data.root / "alpaca_eval" / "df_gamed_reconstructed.csv"
    with undone():
        import sklearn
        from alpaca_eval.metrics import glm_winrate

        monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda **_: str(path))
        with sklearn.config_context():
            theirs = glm_winrate.get_length_controlled_winrate(rows, save_weights_dir=None)
    delta = np.array([len(r["output_1"]) - len(r["output_2"]) for r in rows], float)
    gamed = calibration(config(path), [at(i) for i in range(len(rows))])
    preferences = np.array([r["preference"] - 1 for r in rows])
    ours = length_controlled(preferences, delta, range(len(rows)), LengthControl.length_controlled_v1, gamed, 0)
    assert ours.win_rate == pytest.approx(theirs["length_controlled_winrate"], abs=1e-9)
    assert ours.standard_error == pytest.approx(theirs["lc_standard_error"], abs=1e-9)


def test_minimal_takes_the_length_out():
    """A judge that likes long answers and nothing else gives the longer model 50% once length is controlled."""
    rng = np.random.default_rng(0)
    delta = rng.normal(-300, 400, size=400)
    preferences = 1 / (1 + np.exp(2 * np.tanh(delta / delta.std(ddof=1))))
    found = length_controlled(preferences, delta, range(400), LengthControl.length_controlled_minimal, None, 0)
    assert preferences.mean() > 0.6
    assert found.win_rate == pytest.approx(50, abs=1)
    assert found.interval[0] <= found.win_rate <= found.interval[1]


@pytest.mark.parametrize(
    ("preferences", "delta"),
    [([0.1, 0.9, 0.5, 0.2], [1.0, 2.0, 3.0, 4.0]), ([0.1] * 8, [5.0] * 8), ([np.nan] * 8, list(range(8)))],
)
def test_too_little_to_fit_is_none(preferences, delta):
    arrays = np.array(preferences), np.array(delta, float)
    assert length_controlled(*arrays, range(len(delta)), LengthControl.length_controlled_minimal, None, 0) is None


def test_fits_the_demo_sized_set_alike_every_time():
    rng = np.random.default_rng(1)
    preferences, delta = 0.4 + 0.6 * rng.random(24), rng.normal(0, 100, 24)
    found = [
        length_controlled(preferences, delta, range(24), LengthControl.length_controlled_minimal, None, 3)
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert 60 < found[0].win_rate < 80


def test_noise_that_the_penalty_takes_to_zero_is_none_and_not_fifty():
    rng = np.random.default_rng(0)
    found = length_controlled(
        0.45 + 0.1 * rng.random(24), rng.normal(0, 100, 24), range(24), LengthControl.length_controlled_minimal, None, 0
    )
    assert found is None


def test_calibration_is_checked_before_anything_is_judged(tmp_path):
    path = tmp_path / "df_gamed.csv"
    path.write_text("preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline\n0.5,0,0.1,0.2,False\n")
    assert len(calibration(config(path), [at(0)])) == 1
    with pytest.raises(
        EvaluationError, match=r"knows no difficulty of question 7.*length_control=length_controlled_minimal"
    ):
        calibration(config(path), [at(0), at(7)])
    wrong = config(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(EvaluationError, match=r"has sha256 .* not the pinned"):
        calibration(wrong, [at(0)])
    with pytest.raises(EvaluationError, match="lacks the columns preference"):
        calibration(config(path), [at(0)])
