"""Which scenarios serve a requirement, and whose turn it is to ask (paper section 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from matrix.engines.embedder import Embedder
from matrix.records import Scenario


def retrieve(
    scenarios: list[Scenario], requirement: str, count: int | None, embedder: Embedder, diversity: float = 0.0
) -> list[Scenario]:
    """The `count` scenarios that serve a requirement best, best first; all of them in their own order for None.

    The paper does not say how scenarios are retrieved (section 2). Ours is maximal marginal relevance (Carbonell and
    Goldstein, 1998): the next one has the highest (1 - diversity) x similarity to the requirement - diversity x
    similarity to the nearest one already taken, both cosines of summary embeddings.

    Args:
        diversity: 0 (relevance alone) to 1.
    """
    if count is None or count >= len(scenarios):
        return scenarios
    vectors = embedder.embed([requirement, *(s.summary for s in scenarios)])
    relevance, vectors = vectors[1:] @ vectors[0], vectors[1:]
    if not diversity:
        return [scenarios[i] for i in np.argsort(-relevance, kind="stable")[:count]]
    nearest = np.zeros(len(scenarios), dtype=np.float32)
    taken: list[int] = []
    for _ in range(count):
        score = (1 - diversity) * relevance - diversity * nearest
        score[taken] = -np.inf
        taken.append(best := int(np.argmax(score)))
        similar = vectors @ vectors[best]
        nearest = similar if len(taken) == 1 else np.maximum(nearest, similar)
    return [scenarios[i] for i in taken]


def turns(
    scenarios: Sequence[Scenario], wanted: int, most: int, max_rows_per_agent: int | None
) -> list[tuple[Scenario, str]]:
    """Whose turn it is, candidate by candidate: (scenario, agent id), at most `most` of them.

    Every agent of every scenario has a turn before any has two. The first `wanted` are spread evenly over all
    scenarios, late ones too. With `max_rows_per_agent` nobody has more turns than that, and the list may end early.
    """
    places = [(s, agent) for s in scenarios for agent in s.agents]
    if wanted < len(places):
        spread = [i * len(places) // wanted for i in range(wanted)]
        rest = sorted(set(range(len(places))).difference(spread))
        places = [places[i] for i in (*spread, *rest)]
    had: Counter[str] = Counter()
    order: list[tuple[Scenario, str]] = []
    while len(order) < most:
        before = len(order)
        for scenario, agent in places:
            if max_rows_per_agent is None or had[agent] < max_rows_per_agent:
                had[agent] += 1
                order.append((scenario, agent))
        if len(order) == before:
            break
    return order[:most]
