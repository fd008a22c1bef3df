"""What is asked, how it is answered, and how it is judged: the configs of AlpacaEval 2 and Arena-Hard v0.1.

Read by `stage.py`. The classes' defaults are the official protocol; `conf/evaluation/` holds the shipped settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from matrix.engines.base import HOW
from matrix.evaluation.questions import BASE, EMBEDDED, fetch, pin


@dataclass(kw_only=True)
class AnsweringConfig:
    """Questions, and how the model under test answers them (the paper does not state its decoding)."""

    questions: str = field(default=EMBEDDED, metadata=HOW)
    """`embedded` (the small set that comes with the package), a file, a folder that holds `questions.jsonl` or
    `question.jsonl`, or `hf://datasets/<owner>/<name>@<40-digit commit>/<file>`. AlpacaEval's JSON, Arena-Hard's
    JSON Lines and our own JSON Lines (`records.Question`) are read. What counts for the result is `questions_pin`."""
    questions_pin: str | None = None
    """sha256 that the file must have. Left out, it is that of the local file; for `hf://` the commit stands for it."""
    max_questions: int = 0
    """Ask this many, spread evenly over the set; 0: all. Every question keeps its position in the full set."""
    temperature: float
    """0 is greedy. Official: 0.7 for AlpacaEval 2, 0 for Arena-Hard."""
    top_p: float = 1.0
    max_tokens: int = 4096
    """Longest answer in tokens. Official: 4096 for both."""

    def __post_init__(self) -> None:
        self.questions_pin = pin(self.questions, self.questions_pin)
        if self.max_questions < 0 or self.max_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "answers needs max_questions >= 0, max_tokens >= 1, temperature >= 0 and 0 < top_p <= 1, "
                f"not {self.max_questions}, {self.max_tokens}, {self.temperature} and {self.top_p}"
            )


class LengthControl(StrEnum):
    """Regression of alpaca-eval behind the length-controlled win rate.

    `V1` is the official one: it knows how hard each of the 805 official instructions is, and is held to the baseline's
    behaviour by calibration rows. `length_controlled_minimal` needs neither and fits any question set.
    """

    length_controlled_v1 = "length_controlled_v1"
    length_controlled_minimal = "length_controlled_minimal"


@dataclass(kw_only=True)
class AlpacaEvalConfig:
    """AlpacaEval 2: one judgement a question, from the probabilities of the two model identifiers (paper, Table 2)."""

    name: ClassVar[str] = "alpaca_eval2"

    answers: AnsweringConfig
    reference: str = field(default=BASE, metadata=HOW)
    """`base`: the answers of the untuned model, given under the same settings; else a file of answers (sources as for
    `answers.questions`). Official: `alpaca_eval_gpt4_baseline.json`, which also holds the questions."""
    reference_pin: str | None = None
    """As `questions_pin`, for `reference`."""
    length_control: LengthControl = LengthControl.length_controlled_v1
    calibration: str = field(
        default="hf://datasets/tatsu-lab/alpaca_eval@2edc6fad8be6b14ea7230aabfd08188da6b8b814/df_gamed.csv",
        metadata=HOW,
    )
    """`df_gamed.csv`: difficulties and calibration rows; read for `length_controlled_v1` only."""
    calibration_pin: str | None = None
    """As `questions_pin`, for `calibration`."""

    def __post_init__(self) -> None:
        self.reference_pin = pin(self.reference, self.reference_pin)
        if self.length_control is LengthControl.length_controlled_v1:
            self.calibration_pin = pin(self.calibration, self.calibration_pin)


class Verdict(StrEnum):
    """`text`: the judge explains and ends with a label (official). `choices`: for judges too small to do that.

    With `choices` the judge is asked for one letter in both orders of the answers, and the log-odds of A against B are
    averaged over the orders, so that a constant liking for the first answer cancels out. There are no 3-fold verdicts.
    """

    text = "text"
    choices = "choices"


@dataclass(kw_only=True)
class ArenaHardConfig:
    """Arena-Hard v0.1: two games a question with the answers' order exchanged (paper, Table 2)."""

    name: ClassVar[str] = "arena_hard_v0.1"

    answers: AnsweringConfig
    reference: str = field(default=BASE, metadata=HOW)
    """As for AlpacaEval 2. Official: the answers of gpt-4-0314."""
    reference_pin: str | None = None
    """As `questions_pin`, for `reference`."""
    verdict: Verdict = Verdict.text
    judge_temperature: float = 0.0
    judge_max_tokens: int = 4096
    """Longest judgement in tokens, for `verdict=TEXT`."""
    tie_band: float = 0.02
    """For `verdict=choices`: a probability within 0.5 +- this is a tie."""

    def __post_init__(self) -> None:
        self.reference_pin = pin(self.reference, self.reference_pin)
        if self.judge_temperature < 0 or self.judge_max_tokens < 1 or not 0 <= self.tie_band < 0.5:
            raise ValueError(
                "arena_hard needs judge_temperature >= 0, judge_max_tokens >= 1 and 0 <= tie_band < 0.5, "
                f"not {self.judge_temperature}, {self.judge_max_tokens} and {self.tie_band}"
            )


@dataclass(kw_only=True)
class EvaluationConfig:
    """The benchmarks of one evaluation; one that is null is not run."""

    alpaca_eval2: AlpacaEvalConfig | None = None
    arena_hard: ArenaHardConfig | None = None
    bootstrap_rounds: int = 1000
    """Resamples of questions behind every interval."""
    failed_calls: int = 0
    """Judge calls that may fail for good (an endpoint that refuses a text) before the stage stops. A stopped stage
    keeps what it has, and the same command asks only for the rest; failures within this number count as unjudged."""

    def __post_init__(self) -> None:
        if not (self.alpaca_eval2 or self.arena_hard):
            raise ValueError("evaluation needs alpaca_eval2 or arena_hard, e.g. evaluation=demo")
        if self.bootstrap_rounds < 1 or self.failed_calls < 0:
            raise ValueError(
                f"bootstrap_rounds >= 1 and failed_calls >= 0 are needed, not {self.bootstrap_rounds} and "
                f"{self.failed_calls}"
            )

    def fetch(self) -> None:
        """Have every file of questions, references and calibration at hand, so that none is missed after hours of work.

        Raises:
            EvaluationError: one is not there or not the pinned one.
        """
        for benchmark in self.benchmarks():
            fetch(benchmark.answers.questions, benchmark.answers.questions_pin)
            if benchmark.reference != BASE:
                fetch(benchmark.reference, benchmark.reference_pin)
            if (
                isinstance(benchmark, AlpacaEvalConfig)
                and benchmark.length_control is LengthControl.length_controlled_v1
            ):
                fetch(benchmark.calibration, benchmark.calibration_pin)

    def benchmarks(self) -> list[AlpacaEvalConfig | ArenaHardConfig]:
        """The benchmarks that are run."""
        return [benchmark for benchmark in (self.alpaca_eval2, self.arena_hard) if benchmark]

    def needs_base(self) -> bool:
        """Whether a benchmark compares with the untuned model's own answers."""
        return any(benchmark.reference == BASE for benchmark in self.benchmarks())

    def answering(self) -> EvaluationConfig:
        """This config with all that concerns judging at its default: two that answer alike are equal."""
        alpaca, arena = self.alpaca_eval2, self.arena_hard
        return EvaluationConfig(
            alpaca_eval2=AlpacaEvalConfig(answers=alpaca.answers) if alpaca else None,
            arena_hard=ArenaHardConfig(answers=arena.answers) if arena else None,
        )
