"""Homophily groups: size-constrained k-means over profile embeddings (paper section 3.2).

The society asks for groups once its agents have their personas, and writes down how much alike their members are.
Constrained k-means is a minimum-cost flow over agents x groups edges, so large societies are first cut into blocks of
similar agents that are clustered one by one. Nothing here holds all vectors twice, or anything for a pair of agents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from matrix.engines.embedder import Vectors

Rows = NDArray[np.intp]

CHUNK = 8192
"""Vectors that are held in double precision at once."""
EXACT_ROWS = 4096
"""Agents up to which the plane comes from the singular value decomposition of all vectors."""
REFINEMENTS = 6
"""Rounds of 2-means when a block is cut in two; twice as many make groups no more alike."""


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
    block_size: int = 2000
    """Most agents that are clustered at once; more are cut into blocks of similar agents first (the paper's 1,000 never
    are). Time grows with agents x block_size and memory with block_size squared; larger blocks make groups slightly
    more alike (figures: benchmarks/grouping.py)."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_size <= self.max_size or self.num_groups < 1:
            raise ValueError(
                f"1 <= min_size <= max_size and num_groups >= 1 are needed, not min_size={self.min_size}, "
                f"max_size={self.max_size}, num_groups={self.num_groups}"
            )
        if self.block_size < 1:
            raise ValueError(f"block_size must be at least 1 agent, not {self.block_size}; 2000 is the default")

    def check(self, num_agents: int) -> None:
        """Raise ValueError when `num_agents` agents cannot form such groups."""
        low, high = self.num_groups * self.min_size, self.num_groups * self.max_size
        if self.kind is not Grouping.single and not low <= num_agents <= high:
            groups = min(math.ceil(num_agents / min(5, self.max_size)), num_agents // self.min_size)
            raise ValueError(
                f"{self.num_groups} groups of {self.min_size} to {self.max_size} hold {low} to {high} agents, not "
                f"{num_agents}. Try simulator.grouping.num_groups={max(groups, 1)}"
            )


def load_clustering(config: GroupingConfig) -> None:
    """Import what `assign_groups` imports: a second that need not pass while agents wait for their groups."""
    if config.kind is not Grouping.single:
        import k_means_constrained  # noqa: F401


def assign_groups(vectors: Vectors, config: GroupingConfig, seed: int) -> list[int]:
    """Group index of every agent; groups are numbered by their first member. Same vectors and seed, same groups.

    Up to `config.block_size` agents are clustered at once, as in the paper (section 3.2); more are clustered in blocks.
    `random` clusters as well: it is compared with `homophily`, whose sizes nothing cheaper foretells.

    Args:
        vectors: unit vectors, shape (agents, dimension).

    Raises:
        ValueError: so many agents cannot form such groups; says how many groups they can form.
    """
    config.check(len(vectors))
    if config.kind is Grouping.single:
        return [0] * len(vectors)
    from k_means_constrained import KMeansConstrained

    clusters = np.empty(len(vectors), dtype=np.int32)
    first = 0
    for rows, groups in blocks(vectors, np.arange(len(vectors)), config.num_groups, config.block_size):
        clusters[rows] = first + KMeansConstrained(
            n_clusters=groups,
            size_min=config.min_size,
            size_max=min(config.max_size, len(rows)),
            random_state=seed,
            n_init=4,
        ).fit_predict(vectors[rows].astype(np.float64))
        first += groups
    if config.kind is Grouping.random:
        clusters = np.random.default_rng(seed).permutation(clusters)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(cluster), len(numbers)) for cluster in clusters]


def blocks(vectors: Vectors, rows: Rows, groups: int, size: int) -> Iterator[tuple[Rows, int]]:
    """Cut agents in two until no block has more than `size`: the rows of every block, and its share of the groups.

    A cut is made by 2-means: agents are sorted by their projection on the line between two means, which at first is the
    main axis of an even sample, and cut where the parts' means are furthest apart. A part with g of the K groups gets
    floor(n g / K) of the n agents (the other one the rest), so that both can keep any bounds that the whole can keep.
    Takes time in proportion to agents x log(agents / size).

    Args:
        vectors: unit vectors, shape (all agents, dimension).
        rows: agents to cut, ascending.
        groups: number of groups that they will form.
        size: most agents in a block that has more than one group.
    """
    if len(rows) <= size or groups == 1:
        yield rows, groups
        return
    # No part is smaller than a quarter: outliers must not peel off one by one.
    shares = np.arange(max(groups // 4, 1), groups - max(groups // 4, 1) + 1)
    cuts = len(rows) * shares // groups
    sample = vectors[rows[:: math.ceil(len(rows) / 1024)]].astype(np.float64)
    axis = _main_axes(np.linalg.svd(sample - sample.mean(axis=0), full_matrices=False)[2])[0]
    for _ in range(REFINEMENTS):
        # Rounded, so that the last bits, which hang on the number of threads, put no one elsewhere.
        places = np.concatenate([vectors[rows[span]] @ axis for span in _spans(len(rows))]).round(9)
        order = np.argsort(places, kind="stable")
        left = np.cumsum(places[order] - places.mean())[cuts - 1]
        best = int(np.argmax(left**2 / (cuts * (len(rows) - cuts))))
        cut = int(cuts[best])
        weights = np.full(len(rows), -1 / (len(rows) - cut))
        weights[order[:cut]] = 1 / cut
        axis = sum((weights[span] @ vectors[rows[span]] for span in _spans(len(rows))), start=np.zeros(len(axis)))
    yield from blocks(vectors, rows[np.sort(order[:cut])], int(shares[best]), size)
    yield from blocks(vectors, rows[np.sort(order[cut:])], groups - int(shares[best]), size)


def _spans(count: int) -> Iterator[slice]:
    """Slices of at most `CHUNK` that cover range(count)."""
    return (slice(start, start + CHUNK) for start in range(0, count, CHUNK))


def _main_axes(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first two rows, with the signs fixed so that results are repeatable."""
    signs: NDArray[np.float64] = np.sign(axes[:2].sum(axis=1, keepdims=True) + 1e-12)
    return axes[:2] * signs


def cohesion(vectors: Vectors, groups: list[int]) -> dict[str, float]:
    """Mean cosine similarity of agent pairs within and across groups, and the number of pairs within.

    Similarities of all pairs in a set add up to (|sum of vectors|^2 - sum of |vector|^2) / 2: no pair is ever formed.

    Args:
        vectors: unit vectors, shape (agents, dimension).
        groups: group index of every agent.
    """
    labels = np.asarray(groups)
    sizes = np.bincount(labels)
    sums = np.zeros((len(sizes), vectors.shape[1]))
    squares = 0.0
    for span in _spans(len(labels)):
        order = np.argsort(labels[span], kind="stable")
        chunk = vectors[span][order].astype(np.float64)
        present, first = np.unique(labels[span][order], return_index=True)
        sums[present] += np.add.reduceat(chunk, first)
        squares += float(np.vdot(chunk, chunk))
    within = (np.vdot(sums, sums) - squares) / 2
    everyone = sums.sum(axis=0)
    across = (np.vdot(everyone, everyone) - squares) / 2 - within
    pairs = int((sizes * (sizes - 1) // 2).sum())
    others = len(labels) * (len(labels) - 1) // 2 - pairs
    return {
        "within": float(within / pairs) if pairs else 0.0,
        "across": float(across / others) if others else 0.0,
        "pairs_within": pairs,
    }


def similarity_sample(
    vectors: Vectors, groups: list[int], seed: int, limit: int = 100
) -> tuple[list[int], list[list[float]]]:
    """Cosine similarities of agents drawn at random (paper figure 6: 100 of them).

    Args:
        vectors: unit vectors, shape (agents, dimension).
        groups: group index of every agent.
        seed: decides who is drawn.
        limit: most agents to draw; a smaller society is taken whole.

    Returns:
        Indices of the agents, ordered by (group, index), and the matrix of their similarities, to 3 decimals.
    """
    drawn = np.random.default_rng(seed).choice(len(vectors), size=min(limit, len(vectors)), replace=False)
    agents = sorted(drawn.tolist(), key=lambda agent: (groups[agent], agent))
    chosen = vectors[agents].astype(np.float64)
    return agents, (chosen @ chosen.T).round(3).tolist()


def plane(vectors: Vectors) -> list[list[float]]:
    """First two principal components of the vectors, for drawing; signs fixed so that the picture is repeatable.

    Args:
        vectors: shape (agents, dimension).

    Returns:
        Two coordinates an agent, to 5 decimals.
    """
    if len(vectors) <= EXACT_ROWS:
        centred = vectors - vectors.mean(axis=0)
        _, _, axes = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
        points = centred @ _main_axes(axes).T
    else:
        mean = vectors.mean(axis=0, dtype=np.float64)
        scatter = np.zeros((vectors.shape[1], vectors.shape[1]))
        for span in _spans(len(vectors)):
            chunk = vectors[span] - mean
            scatter += chunk.T @ chunk
        _, axes = np.linalg.eigh(scatter)
        points = np.concatenate([(vectors[span] - mean) @ _main_axes(axes.T[::-1]).T for span in _spans(len(vectors))])
    return [[round(float(x), 5) for x in (*row, 0.0, 0.0)[:2]] for row in points]
