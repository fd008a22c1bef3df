"""Homophily groups: size-constrained k-means over profile embeddings (paper section 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from matrix.engines.embedder import Vectors


class Grouping(StrEnum):
    """`homophily` is the paper's; `random` has the same sizes with shuffled members; `single` is one group of all."""

    homophily = "homophily"
    random = "random"
    single = "single"


@dataclass(kw_only=True)
class GroupingConfig:
    """How agents form groups."""

    kind: Grouping = Grouping.homophily
    num_groups: int = 200
    """K (paper section 3.2: 200)."""
    min_size: int = 1
    max_size: int = 10
    """Agents in a group (paper section 3.2: 1 to 10)."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_size <= self.max_size or self.num_groups < 1:
            raise ValueError(
                f"1 <= min_size <= max_size and num_groups >= 1 are needed, not min_size={self.min_size}, "
                f"max_size={self.max_size}, num_groups={self.num_groups}"
            )

    def check(self, num_agents: int) -> None:
        """Raise ValueError when `num_agents` agents cannot form such groups."""
        low, high = self.num_groups * self.min_size, self.num_groups * self.max_size
        if self.kind is not Grouping.single and not low <= num_agents <= high:
            groups = min(math.ceil(num_agents / min(5, self.max_size)), num_agents // self.min_size)
            raise ValueError(
                f"{self.num_groups} groups of {self.min_size} to {self.max_size} hold {low} to {high} agents, not "
                f"{num_agents}. Try simulator.grouping.num_groups={max(groups, 1)}"
            )


def assign_groups(vectors: Vectors, config: GroupingConfig, seed: int) -> list[int]:
    """Group index of every agent; groups are numbered by their first member. Same vectors and seed, same groups.

    Args:
        vectors: unit vectors, shape (agents, dimension).
    """
    config.check(len(vectors))
    if config.kind is Grouping.single:
        return [0] * len(vectors)
    from k_means_constrained import KMeansConstrained

    clusters = KMeansConstrained(
        n_clusters=config.num_groups, size_min=config.min_size, size_max=config.max_size, random_state=seed, n_init=4
    ).fit_predict(vectors.astype(np.float64))
    if config.kind is Grouping.random:
        clusters = np.random.default_rng(seed).permutation(clusters)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(cluster), len(numbers)) for cluster in clusters]


def cohesion(vectors: Vectors, groups: list[int]) -> dict[str, float]:
    """Mean cosine similarity of agent pairs within and across groups, and the number of pairs within."""
    similar = vectors @ vectors.T
    labels = np.asarray(groups)
    upper = np.triu(np.ones_like(similar, dtype=bool), k=1)
    same = (labels[:, None] == labels[None, :]) & upper
    other = upper & ~same
    return {
        "within": float(similar[same].mean()) if same.any() else 0.0,
        "across": float(similar[other].mean()) if other.any() else 0.0,
        "pairs_within": int(same.sum()),
    }


def plane(vectors: Vectors) -> list[list[float]]:
    """First two principal components of the vectors, for drawing; signs fixed so that the picture is repeatable."""
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2].sum(axis=1, keepdims=True) + 1e-12)
    points = centred @ axes.T
    return [[round(float(x), 5) for x in (*row, 0.0, 0.0)[:2]] for row in points]
