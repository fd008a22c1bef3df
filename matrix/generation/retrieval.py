"""Which scenarios serve a requirement: cosine similarity of summaries with the requirement text (paper section 2)."""

from __future__ import annotations

import numpy as np

from matrix.engines.embedder import Embedder
from matrix.records import Scenario


def retrieve(scenarios: list[Scenario], requirement: str, count: int | None, embedder: Embedder) -> list[Scenario]:
    """The `count` scenarios nearest to the requirement, best first; all of them in their own order for None.

    The paper does not say how scenarios are retrieved (section 2); embedding similarity is our choice.
    """
    if count is None or count >= len(scenarios):
        return scenarios
    vectors = embedder.embed([requirement, *(s.summary for s in scenarios)])
    order = np.argsort(-(vectors[1:] @ vectors[0]), kind="stable")
    return [scenarios[i] for i in order[:count]]
