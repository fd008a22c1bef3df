"""Best of n: which of the samples are picked."""

import pytest

from matrix.filtering.rollouts import RolloutConfig
from matrix.generation.preference import BestOfNConfig, Candidate, Pick, Rejected, picked
from matrix.generation.scenarios import ScenarioConfig
from matrix.jsonl import read_jsonl, write_jsonl
from matrix.records import Conversation, Failure, Message, Origin, PreferencePair, Rollout, Score
from matrix.stage import Result

ORIGIN = Origin(stage="generate-test")


def candidates(*rewards):
    return [Candidate(reward, f"answer {number}") for number, reward in enumerate(rewards)]


def test_best_and_worst():
    assert picked(candidates(2.0, 5.0, 1.0), Rejected.worst) == ((5.0, "answer 1"), (1.0, "answer 2"))


def test_two_deviations_below_the_mean_is_not_the_outlier():
    rewards = [0.0, 1.0, 1.2, 0.8, 1.1, 0.9, 1.0, 1.3, 0.7, 1.0, -3.0]
    best, rejected = picked(candidates(*rewards), Rejected.sigma)
    assert best.reward == 1.3
    assert rejected.reward == -3.0 or rejected.reward == 0.0
    mean = sum(rewards) / len(rewards)
    spread = (sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)) ** 0.5
    assert rejected.reward == min(rewards, key=lambda r: abs(r - (mean - 2 * spread)))


def test_the_first_of_equals_and_a_single_answer():
    assert picked(candidates(1.0, 1.0), Rejected.worst) == ((1.0, "answer 0"), (1.0, "answer 0"))
    assert picked(candidates(1.0), Rejected.sigma)[0] == picked(candidates(1.0), Rejected.sigma)[1]


@pytest.fixture
def stored(tmp_path):
    """Two prompts, three samples each; one of the first has no reward, those of the second are worth the same."""

    def result(stage, name, rows):
        folder = tmp_path / f"{stage}-{name}"
        folder.mkdir()
        write_jsonl(folder / name, rows)
        return Result(stage=stage, key=stage[0] * 64, path=folder)

    def row(name):
        messages = [Message(role="user", content=f"{name}?"), Message(role="assistant", content=f"{name} by the LLM")]
        return Conversation(id=name, messages=messages, kind="complex", category="math", origin=ORIGIN)

    rollouts = [Rollout(row=r, index=i, text=f"{r} sample {i}", origin=ORIGIN) for r in ("p", "q") for i in range(3)]
    rewards = {("p", 0): 2.0, ("p", 1): -1.0, ("q", 0): 1.0, ("q", 1): 1.0, ("q", 2): 1.0}
    return {
        "rows": result("generate", "rows.jsonl", [row("p"), row("q")]),
        "rewards": result(
            "reward", "rewards.jsonl", [Score(row=r, part="response", reward=v) for r, v in (("p", 3.0), ("q", 1.0))]
        ),
        "rollouts": result("rollout", "rollouts.jsonl", rollouts),
        "rollout_rewards": result(
            "scored", "rewards.jsonl",
            [Score(row=r, part="rollout", index=i, reward=v) for (r, i), v in rewards.items()],
        ),
    }  # fmt: skip


def picks(stored, work, **config):
    work.mkdir()
    preference = BestOfNConfig(generator=ScenarioConfig(), rollouts=RolloutConfig(samples=3), **config)
    Pick(preference=preference, seed=0, **stored).run(work)
    return read_jsonl(work / "rows.jsonl", PreferencePair), read_jsonl(work / "failures.jsonl", Failure)


def test_pairs_of_samples_and_the_llms_own_answer(stored, tmp_path):
    pairs, failures = picks(stored, tmp_path / "work")
    assert [(p.id, p.chosen, p.rejected, p.category) for p in pairs] == [("p", "p by the LLM", "p sample 1", "math")]
    assert [m.content for m in pairs[0].prompt] == ["p?"]
    assert [(f.id, f.purpose) for f in failures] == [("q", "pick")]


def test_samples_alone(stored, tmp_path):
    pairs, _ = picks(stored, tmp_path / "work", include_response=False)
    assert [(p.chosen, p.rejected) for p in pairs] == [("p sample 0", "p sample 1")]
