"""How well `learnability` finds the prompts that a policy can still learn from.

First with a policy and a reward whose true variance is known: prompts have pass rates drawn from a Beta distribution
(many solved always or never, as in practice), or normal rewards with a spread of their own. For k rollouts: the bias of
the variance estimate, its rank correlation (Spearman) with the truth, and how many prompts that could teach something
are dropped because k rollouts happened to earn the same, beside the number expected by chance.

Then, without --quick, on the embedded model: 40 instructions x 8 rollouts, rewarded by the embedded reward; how many
prompts have zero variance, as they are and if an answer passes from the median reward on.

    python benchmarks/learnability.py --quick
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

from matrix import cli
from matrix.config import MatrixConfig
from matrix.filtering.base import Facts
from matrix.filtering.learnability import LearnabilityConfig, LearnabilityFilter
from matrix.filtering.reward import Reward
from matrix.filtering.rollouts import Roll
from matrix.filtering.stage import Filter
from matrix.generation.seeds import read_seeds
from matrix.jsonl import write_jsonl
from matrix.records import Conversation, Message, Origin
from matrix.stage import Result
from matrix.training.stage import Import

PROMPTS = 20_000


def estimated(rewards: np.ndarray, config: LearnabilityConfig) -> np.ndarray:
    """The filter's estimate of the variance of each row of `rewards`, shape (prompts, rollouts)."""
    known = LearnabilityFilter(config, Facts(rollout_rewards={str(n): row.tolist() for n, row in enumerate(rewards)}))
    return np.array([known.moments(str(n)).std ** 2 for n in range(len(rewards))])  # type: ignore[union-attr]


def synthetic(samples: int, draw: np.random.Generator) -> dict[str, Any]:
    """Figures for k rollouts under rewards of known variance."""
    from scipy.stats import spearmanr

    rates = draw.beta(0.4, 0.4, PROMPTS)
    passes = (draw.random((PROMPTS, samples)) < rates[:, None]).astype(float)
    spreads = draw.gamma(2.0, 0.5, PROMPTS)
    scores = draw.normal(0.0, spreads[:, None], (PROMPTS, samples))
    found: dict[str, Any] = {"rollouts": samples}
    for name, rewards, true in (("pass", passes, rates * (1 - rates)), ("score", scores, spreads**2)):
        estimates = estimated(rewards, LearnabilityConfig())
        found[f"{name}_bias"] = float((estimates.mean() - true.mean()) / true.mean())
        found[f"{name}_rank"] = float(spearmanr(estimates, true).statistic)
    useful = (rates > 0.05) & (rates < 0.95)
    flat = passes.std(axis=1) == 0
    found["useful_dropped"] = float(flat[useful].mean())
    found["by_chance"] = float((rates**samples + (1 - rates) ** samples)[useful].mean())
    return found


def configured(*overrides: str) -> MatrixConfig:
    """The shipped config with these overrides."""
    cli.register()
    with initialize_config_dir(str(cli.ROOT / "conf"), version_base="1.3"):
        return cli.to_config(compose("config", list(overrides)))


def embedded(folder: Path, prompts: int, samples: int) -> dict[str, Any]:
    """Roll out, reward and filter instructions on the embedded model."""
    c = configured(
        "filter=[learnability]", "reward=embedded", f"rollouts.samples={samples}", "rollouts.decoding.max_tokens=96"
    )
    rows = [
        Conversation(
            id=seed.id, origin=Origin(stage="benchmark"),
            messages=[Message(role="user", content=seed.instruction), Message(role="assistant", content="-")],
        )
        for seed in read_seeds(None)[:prompts]
    ]  # fmt: skip

    def made(stage: Any) -> Result:
        work = folder / stage.name
        work.mkdir()
        stage.run(work)
        (work / "manifest.json").write_text('{"outputs": {}}')
        return Result(stage=stage.name, key=stage.key(), path=work)

    (folder / "rows").mkdir()
    write_jsonl(folder / "rows" / "rows.jsonl", rows)
    source = Result(stage="generate", key="0" * 64, path=folder / "rows")
    base = made(Import(model=c.model, seed=0))
    rollouts = made(Roll(rollouts=c.rollouts, model=c.model, checkpoint=base, rows=source, seed=0))
    assert c.reward
    rewards = made(Reward(reward=c.reward, llm=c.llm, rows=source, rollouts=rollouts, seed=0))
    chain = Filter(filters=c.filters, rows=source, rollout_rewards=rewards, seed=0)
    facts = chain.facts()
    made(chain)
    found = np.array([facts.rollout_rewards[row.id] for row in rows])
    stds, passed = found.std(axis=1, ddof=1), found >= np.median(found)
    return {
        "prompts": len(rows), "rollouts": samples, "zero_variance": int((stds <= 1e-6).sum()),
        "zero_variance_pass": int((passed.all(axis=1) | ~passed.any(axis=1)).sum()),
        "std_median": float(np.median(stds)), "std_max": float(np.max(stds)),
        "funnel": json.loads((folder / "filter" / "funnel.json").read_text()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="synthetic rewards alone")
    options = parser.parse_args()
    draw = np.random.default_rng(0)
    results = [synthetic(samples, draw) for samples in (2, 4, 8, 16)]
    print(f"{'':>8} {'pass or fail':>17} {'normal rewards':>17} {'useful prompts dropped':>24}")
    print(f"{'rollouts':>8} {'bias':>8} {'rank':>8} {'bias':>8} {'rank':>8} {'found':>12} {'by chance':>11}")
    for r in results:
        print(
            f"{r['rollouts']:>8} {r['pass_bias']:>8.2%} {r['pass_rank']:>8.3f} {r['score_bias']:>8.2%} "
            f"{r['score_rank']:>8.3f} {r['useful_dropped']:>12.2%} {r['by_chance']:>11.2%}"
        )
    told: dict[str, Any] = {"benchmark": "learnability", "synthetic": results}
    if not options.quick:
        with tempfile.TemporaryDirectory() as folder:
            told["embedded"] = embedded(Path(folder), 40, 8)
        print("\nembedded model:", told["embedded"])
    print(json.dumps(told))


if __name__ == "__main__":
    main()
