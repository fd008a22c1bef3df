"""Sanity: can the reward be trusted? It scores pairs of answers of which anybody would prefer the first.

Forty obvious pairs show only that a reward is not nonsense. Made once for a reward, before anything else is scored.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from matrix.filtering.reward import RewardError, RewardStage
from matrix.jsonl import read_jsonl
from matrix.progress import show
from matrix.provenance import derive_seed, sha256_file
from matrix.records import Message, Row
from matrix.stage import Estimate

PAIRS = Path(__file__).parent / "obvious_pairs.jsonl"


class ObviousPair(Row, frozen=True, kw_only=True):
    """Two answers to a prompt, of which anybody would prefer the first."""

    kind: str
    """What is wrong with the bad one. In half of the pairs of a kind it is the longer one."""
    prompt: str
    good: str
    bad: str


@dataclass(kw_only=True)
class Sanity(RewardStage):
    """Writes sanity.json: accuracy on the obvious pairs, by kind, and the pairs that were told wrong."""

    name: ClassVar[str] = "sanity"

    def identity(self) -> dict[str, Any]:
        """With the pairs."""
        return super().identity() | {"pairs": sha256_file(PAIRS)}

    def estimate(self) -> Estimate:
        """Two answers a pair."""
        return self.asked(2 * len(read_jsonl(PAIRS, ObviousPair)))

    def run(self, work: Path) -> None:
        """Score the obvious pairs.

        Raises:
            RewardError: fewer than `reward.min_accuracy` of them are told apart.
            EngineError: a model failed; finished scores are kept.
        """
        asyncio.run(self._run(work))

    async def _run(self, work: Path) -> None:
        pairs = read_jsonl(PAIRS, ObviousPair)
        chats = {
            f"obvious-{i:02}/{side}": [
                Message(role="user", content=pair.prompt),
                Message(role="assistant", content=text),
            ]
            for i, pair in enumerate(pairs)
            for side, text in (("good", pair.good), ("bad", pair.bad))
        }
        with show("sanity", 0, work) as progress:
            async with self.reward.open(self.llm, derive_seed(self.seed, self.name), work, progress) as model:
                found = await model.rewards(chats)
        rewards = [(found.get(f"obvious-{i:02}/good"), found.get(f"obvious-{i:02}/bad")) for i in range(len(pairs))]
        ahead = [good is not None and bad is not None and good > bad for good, bad in rewards]
        right = Counter(pair.kind for pair, first in zip(pairs, ahead, strict=True) if first)
        kinds = {kind: right[kind] / count for kind, count in Counter(pair.kind for pair in pairs).items()}
        accuracy = sum(ahead) / len(pairs)
        sanity = {
            "accuracy": accuracy,
            "min_accuracy": self.reward.min_accuracy,
            "pairs": len(pairs),
            "kinds": kinds,
            "longer_is_better": sum(len(pair.good) > len(pair.bad) for pair in pairs) / len(pairs),
            "wrong": [
                {"kind": pair.kind, "prompt": pair.prompt, "good": good, "bad": bad}
                for pair, (good, bad), first in zip(pairs, rewards, ahead, strict=True)
                if not first
            ],
        }
        (work / "sanity.json").write_text(json.dumps(sanity, indent=1, ensure_ascii=False))
        if accuracy < self.reward.min_accuracy:
            worst = ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(kinds.items(), key=lambda k: k[1])[:3])
            raise RewardError(
                f"{type(self.reward).__name__} puts the better answer ahead in {accuracy:.0%} of {len(pairs)} obvious "
                f"pairs; at least {self.reward.min_accuracy:.0%} are asked for (worst: {worst}). See "
                f"{work / 'sanity.json'}. Choose another reward, or take it as it is: "
                f"reward.min_accuracy={int(accuracy * 1000) / 1000:g}"
            )
