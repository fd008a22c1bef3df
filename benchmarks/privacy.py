"""What of a person's identifiers is left after anonymisation, and what looking for them costs.

Identifiers of every kind are planted in the descriptions and posts of synthetic people; the detectors mask every text,
and the planted strings are searched for in what remains. With `--llm N` the embedded language model brings the first N
of these people to life, rewrite and detectors together, and every text of the agents is searched.

    python benchmarks/privacy.py --quick
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml

from matrix.engines.base import ModelConfig
from matrix.engines.opening import open_model
from matrix.progress import Progress
from matrix.prompting import Asker
from matrix.simulation.agent import bring_to_life
from matrix.simulation.config import SimulatorConfig
from matrix.simulation.privacy import Kind, mask
from matrix.simulation.synthetic import synthetic_profile

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from planting import Planted, left, planted_profile

EMBEDDED = Path(__file__).parents[1] / "conf" / "llm" / "embedded.yaml"


def detectors(people: list[Planted]) -> dict[str, Counter[str]]:
    """What is planted, what the detectors say they masked, and what of the planted is left."""
    masked: Counter[str] = Counter()
    remaining: Counter[str] = Counter()
    for profile, identifiers in people:
        texts = [mask(text, profile.name) for text in (profile.description, *profile.posts)]
        masked += sum((kinds for _, kinds in texts), Counter())
        remaining += left(identifiers, [text for text, _ in texts])
    return {"planted": planted(people), "masked": masked, "left": remaining}


def planted(people: list[Planted]) -> Counter[str]:
    """How many identifiers of each kind."""
    return Counter(kind.value for person in people for kind, _ in person.identifiers)


def microseconds(texts: list[tuple[str, str]]) -> float:
    """CPU time of masking one of `texts` (text and name)."""
    start = time.process_time()
    for text, name in texts:
        mask(text, name)
    return (time.process_time() - start) * 1e6 / len(texts)


async def brought_to_life(people: list[Planted]) -> dict[str, Counter[str]]:
    """The same as `detectors` for the texts of agents that the embedded model made."""
    c = SimulatorConfig()
    with tempfile.TemporaryDirectory() as folder:
        model_config = ModelConfig(**yaml.safe_load(EMBEDDED.read_text()))
        async with open_model(
            model_config, Path(folder) / "journal.jsonl", Progress("benchmark", len(people))
        ) as model:
            asker = Asker("matrix.simulation", model, "benchmark")
            lives = await asyncio.gather(
                *(
                    bring_to_life(asker, number, person.profile, 0, c.plan_steps, c.max_posts, c.birth)
                    for number, person in enumerate(people)
                )
            )
    remaining: Counter[str] = Counter()
    for life, person in zip(lives, people, strict=True):
        texts = [
            life.name,
            life.description,
            life.personality,
            life.goal,
            *life.plan,
            *life.posts,
            *life.memory.entries,
        ]
        remaining += left(person.identifiers, texts)
    return {"planted": planted(people), "masked": sum((a.masked for a in lives), Counter()), "left": remaining}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 profiles instead of 5000")
    parser.add_argument("--llm", type=int, default=0, metavar="N", help="profiles for the embedded model, seconds each")
    options = parser.parse_args()
    people = [planted_profile(0, index) for index in range(500 if options.quick else 5000)]

    found = {"detectors": detectors(people)}
    if options.llm:
        found["rewrite and detectors"] = asyncio.run(brought_to_life(people[: options.llm]))
    ordinary = [synthetic_profile(0, index) for index in range(len(people))]
    cost = {
        "ordinary": microseconds([(post, person.name) for person in ordinary for post in person.posts]),
        "planted": microseconds([(post, person.profile.name) for person in people for post in person.profile.posts]),
    }
    for title, counts in found.items():
        print(f"{title}\n{'kind':8} {'planted':>8} {'masked':>8} {'left':>6}")
        for kind in Kind:
            print(f"{kind:8} {counts['planted'][kind]:8} {counts['masked'][kind]:8} {counts['left'][kind]:6}")
        print()
    print(f"microseconds a post: {cost['ordinary']:.1f} ordinary, {cost['planted']:.1f} with planted identifiers")
    summary = {title: {name: dict(count) for name, count in counts.items()} for title, counts in found.items()}
    rounded = {name: round(value, 1) for name, value in cost.items()}
    print(json.dumps({"benchmark": "privacy", "profiles": len(people), **summary, "microseconds_per_text": rounded}))


if __name__ == "__main__":
    main()
