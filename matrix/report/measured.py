"""What was measured of a row, in words for `matrix-explain`: tags, rewards, rollouts, likelihoods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev

from matrix.records import Likelihood, Rollout, Score, Tags
from matrix.report.library import Library, Stored

MOST_ROLLOUTS = 4
"""Rollouts whose text is shown."""
PARTS = ("response", "chosen", "rejected")


def measured(library: Library, result: Stored, row: str) -> Iterator[tuple[str, list[str]]]:
    """Every measurement of a row of `result`, and what belongs to it: one line each."""
    for tagged in library.read_by(result, "tag"):
        if tags := tagged.one("tags.jsonl", row, Tags):
            had = {name: getattr(tags, name) for name in tags.__struct_fields__ if name != "id"}
            words = [f"{name.replace('_', ' ')} {value}" for name, value in had.items() if value not in ("", None)]
            yield f"tagged {', '.join(words) or 'with nothing'}, in {tagged.name}", []
    scored = library.read_by(result, "reward")
    for reward in scored:
        own = {score.part: score.reward for score in _scores(reward, row) if score.part in PARTS}
        if own:
            words = [f"{part} {own[part]:.4g}" for part in PARTS if part in own]
            if "chosen" in own and "rejected" in own:
                words.append(f"margin {own['chosen'] - own['rejected']:.4g}")
            yield f"reward: {', '.join(words)}, in {reward.name}", []
    for rolled in library.read_by(result, "rollout"):
        rollouts = [r for r in rolled.mentions("rollouts.jsonl", row, Rollout) if r.row == row]
        if not rollouts:
            continue
        yield f"{len(rollouts)} rollouts of {rollouts[0].origin.model}, in {rolled.name}", _texts(rollouts)
        for reward in scored:
            if reward.manifest["identity"]["inputs"].get("rollouts") == rolled.manifest["key"]:
                rewards = [score.reward for score in _scores(reward, row)]
                if len(rewards) > 1:
                    spread = f"mean {fmean(rewards):.4g}, standard deviation {stdev(rewards):.4g}"
                    every = ", ".join(f"{value:.4g}" for value in rewards)
                    yield f"rewards of the rollouts: {spread}, in {reward.name}", [every]
    for likely in library.read_by(result, "likelihood"):
        found = [item for item in likely.mentions("likelihoods.jsonl", row, Likelihood) if item.row == row]
        for item in found:
            given, alone = item.logp / item.tokens, item.logp_alone / item.tokens
            yield (
                f"log-probability a token of {item.part} ({item.tokens} tokens): {given:.3f} given the prompt, "
                f"{alone:.3f} without, in {likely.name}",
                [],
            )


def _scores(result: Stored, row: str) -> list[Score]:
    return [score for score in result.mentions("rewards.jsonl", row, Score) if score.row == row]


def _texts(rollouts: Sequence[Rollout]) -> list[str]:
    shown = [rollout.text for rollout in rollouts[:MOST_ROLLOUTS]]
    more = len(rollouts) - len(shown)
    return [*shown, f"and {more} more"] if more else shown
