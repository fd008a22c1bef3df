"""The length-controlled win rate of AlpacaEval 2: the package's regressions, fitted on rows that carry their position.

The package's own reader of the calibration file is not used: it fetches the file from the hub when the judge has been
paid, and looks difficulties up by row number, so that a subset or another order of questions is silently wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matrix.evaluation.config import AlpacaEvalConfig, LengthControl
from matrix.evaluation.intervals import Floats, interval, resamples
from matrix.evaluation.questions import EvaluationError, Pair, fetch
from matrix.evaluation.side_effects import undone

MIN_ROWS = 5
"""The package chooses its penalty in five folds, so a regression needs as many judged questions."""
ROUNDS = 100
"""Refits behind the interval (some 10 ms each)."""


@dataclass(frozen=True)
class LengthControlled:
    """A fitted length regression."""

    win_rate: float
    standard_error: float
    """As the package defines it: of the predictions over questions, without the error of judge and fit."""
    penalty: float
    """C, chosen by cross-validation. Its folds depend on library versions, so it may differ between machines."""
    interval: list[float]
    """Central 95% of refits on resampled questions at this C."""


def calibration(config: AlpacaEvalConfig, pairs: Sequence[Pair]) -> Any:
    """The rows of df_gamed.csv as a data frame, checked to cover every question; None for `length_controlled_minimal`.

    Raises:
        EvaluationError: the file cannot be had, lacks a column or does not know a question's position.
    """
    if config.length_control is LengthControl.length_controlled_minimal:
        return None
    import pandas as pd

    try:
        path = fetch(config.calibration, config.calibration_pin)
    except EvaluationError as error:
        raise EvaluationError(
            f"{error} as evaluation.alpaca_eval2.calibration, or set "
            "evaluation.alpaca_eval2.length_control=length_controlled_minimal"
        ) from error
    rows = pd.read_csv(path)
    columns = ["preference", "index", "std_delta_len", "instruction_difficulty", "not_gamed_baseline"]
    if missing := [c for c in columns if c not in rows]:
        raise EvaluationError(f"{path} lacks the columns {', '.join(missing)} of alpaca-eval's df_gamed.csv")
    if unknown := sorted({p.index for p in pairs} - set(rows["index"])):
        raise EvaluationError(
            f"{path} knows no difficulty of question {unknown[0]}: length_controlled_v1 fits only the 805 official "
            "questions in their order. Set evaluation.alpaca_eval2.length_control=length_controlled_minimal for others"
        )
    return rows[columns]


def length_controlled(
    preferences: Floats, delta: Floats, indices: Sequence[int], kind: LengthControl, gamed: Any, seed: int
) -> LengthControlled | None:
    """The win rate that the regression predicts for answers of equal length, in percent.

    Args:
        preferences: 0..1 for every question, NaN where there is no judgement.
        delta: characters of the reference answer minus characters of the model's.
        indices: positions of the questions in the full set.
        kind: which regression.
        gamed: from `calibration`; None for `length_controlled_minimal`.
        seed: of the resamples behind the interval.

    Returns:
        None where nothing can be fitted: fewer than `MIN_ROWS` judged questions, no difference in length, or judgements
        so few and noisy that the penalty takes every coefficient to zero (which would read as 50% for any model).
    """
    import pandas as pd
    import sklearn

    if np.isfinite(preferences).sum() < MIN_ROWS or not delta.std() > 0:
        return None
    rows = pd.DataFrame({"preference": preferences, "index": list(indices), "std_delta_len": delta / delta.std(ddof=1)})
    rows = rows.assign(not_gamed_baseline=True, instruction_difficulty=0.0)
    if gamed is not None:
        difficulty = gamed.drop_duplicates("index").set_index("index")["instruction_difficulty"]
        rows["instruction_difficulty"] = rows["index"].map(difficulty)

    with undone(), sklearn.config_context():  # fitting switches metadata routing on for the whole process
        from alpaca_eval.metrics.glm_winrate import GLM_INFO, fit_LogisticRegressionCV, make_dmatrix_for_model

        info = GLM_INFO[kind.value]
        strength = info["regularize_to_baseline_lambda"]
        train = pd.concat([gamed, rows]) if strength else rows
        data, test = make_dmatrix_for_model(train, rows.assign(std_delta_len=0), formula=info["formula"])
        # There are two calibration rows for every question, so each counts half of the strength.
        weights = np.where(train["not_gamed_baseline"], 1.0, strength / 2) if strength else None
        known = data["preference"].notna().to_numpy()
        calibrating = np.arange(len(data) - len(rows))

        def fit(drawn: NDArray[np.int64], folds: dict[str, Any]) -> tuple[Any, Floats]:
            taken = np.concatenate([calibrating, len(calibrating) + drawn])
            taken = taken[known[taken]]
            chosen = weights if weights is None else weights[taken]
            model = fit_LogisticRegressionCV(data.iloc[taken], "preference", sample_weight=chosen, **folds)
            return model, model.predict_proba(test.iloc[drawn])[:, 1]

        model, predicted = fit(np.arange(len(rows)), info["kwargs"])
        if not model.coef_.any():
            return None
        penalty = float(model.C_[0])
        judged = known[len(calibrating) :]
        samples = [drawn for drawn in resamples(len(rows), ROUNDS, seed) if judged[drawn].any()]
        refits = [fit(drawn, {"n_splits": 0, "C": penalty})[1].mean() for drawn in samples]
    return LengthControlled(
        win_rate=float(predicted.mean() * 100),
        standard_error=float(predicted.std(ddof=1) / len(predicted) ** 0.5 * 100),
        penalty=penalty,
        interval=interval(np.array(refits) * 100),
    )
