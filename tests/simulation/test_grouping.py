"""Groups keep their bounds, hold alike people, and are the same again; figures equal those of all pairs."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from society_fakes import HashedWords
from threadpoolctl import threadpool_limits

from matrix.simulation.grouping import (
    EXACT_ROWS,
    Grouping,
    GroupingConfig,
    assign_groups,
    cohesion,
    plane,
    similarity_sample,
)

TRADES = ["bread oven flour", "ward patient night", "sail harbour tide", "hive honey bee"]


def crowd(count):
    """Unit vectors of people of four trades, taking turns."""
    return HashedWords().embed([f"{TRADES[i % 4]} person{i}" for i in range(count)])


def cloud(count, dimension=24, seed=0):
    """Unit vectors around count / 8 centres that share a direction."""
    draw = np.random.default_rng(seed)
    centres = 0.5 + draw.standard_normal((max(count // 8, 1), dimension))
    vectors = centres[draw.integers(len(centres), size=count)] + 0.5 * draw.standard_normal((count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("agents", "groups", "low", "high"), [(20, 5, 1, 10), (20, 5, 4, 4), (23, 6, 3, 4), (9, 9, 1, 1)]
)
@pytest.mark.parametrize("kind", ["homophily", "random"])
def test_sizes_are_kept_and_groups_repeat(agents, groups, low, high, kind):
    config = GroupingConfig(kind=Grouping(kind), num_groups=groups, min_size=low, max_size=high)
    found = assign_groups(crowd(agents), config, seed=7)
    sizes = Counter(found)
    assert len(sizes) == groups
    assert all(low <= size <= high for size in sizes.values())
    assert found == assign_groups(crowd(agents), config, seed=7)


def test_groups_are_numbered_by_first_member():
    found = assign_groups(crowd(20), GroupingConfig(num_groups=5, min_size=2), seed=1)
    assert list(dict.fromkeys(found)) == [0, 1, 2, 3, 4]


def test_homophily_puts_alike_people_together():
    found = assign_groups(crowd(20), GroupingConfig(num_groups=4, min_size=2), seed=1)
    assert found == [0, 1, 2, 3] * 5


def test_random_has_the_sizes_of_homophily_and_other_members():
    config = GroupingConfig(num_groups=4, min_size=2)
    shuffled = GroupingConfig(kind=Grouping("random"), num_groups=4, min_size=2)
    alike, mixed = (assign_groups(crowd(20), c, seed=1) for c in (config, shuffled))
    assert sorted(Counter(alike).values()) == sorted(Counter(mixed).values())
    assert cohesion(crowd(20), alike)["within"] > cohesion(crowd(20), mixed)["within"] + 0.2


def test_single_is_one_group_whatever_its_size():
    assert assign_groups(crowd(30), GroupingConfig(kind=Grouping("single")), seed=1) == [0] * 30


@pytest.mark.parametrize(("agents", "low", "high"), [(16, 1, 3), (16, 6, 8), (1000, 1, 10), (7, 7, 9)])
def test_impossible_sizes_are_refused_with_a_number_that_works(agents, low, high):
    with pytest.raises(ValueError, match="num_groups=") as error:
        GroupingConfig(num_groups=5000, min_size=low, max_size=high).check(agents)
    groups = int(str(error.value).rpartition("=")[2])
    GroupingConfig(num_groups=groups, min_size=low, max_size=high).check(agents)


@pytest.mark.parametrize(
    "wrong", [{"block_size": 0}, {"min_size": 0}, {"min_size": 5, "max_size": 4}, {"num_groups": 0}]
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GroupingConfig(**wrong)


@st.composite
def bounds(draw):
    """Agents, and a config of small blocks whose bounds they can keep, often just so."""
    low = draw(st.integers(1, 5))
    high = draw(st.integers(low, low + 4))
    groups = draw(st.integers(1, 25))
    agents = draw(st.sampled_from([low * groups, high * groups]) | st.integers(low * groups, high * groups))
    size = draw(st.integers(1, 40))
    return agents, GroupingConfig(num_groups=groups, min_size=low, max_size=high, block_size=size)


@given(bounds(), st.sampled_from([1, 2, 5]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_blocks_keep_all_bounds(case, dimension):
    agents, config = case
    sizes = Counter(assign_groups(cloud(agents, dimension), config, seed=3))
    assert sorted(sizes) == list(range(config.num_groups))
    assert all(config.min_size <= size <= config.max_size for size in sizes.values())


@pytest.mark.parametrize("kind", ["homophily", "random"])
def test_one_block_is_no_block(kind):
    whole, same = (GroupingConfig(kind=Grouping(kind), num_groups=30, block_size=size) for size in (2000, 120))
    assert assign_groups(cloud(120), whole, seed=5) == assign_groups(cloud(120), same, seed=5)


def test_blocks_lose_little_likeness():
    vectors = cloud(400)
    whole, blocks, shuffled = (
        cohesion(vectors, assign_groups(vectors, GroupingConfig(kind=Grouping(kind), num_groups=80, **size), seed=1))
        for kind, size in [("homophily", {}), ("homophily", {"block_size": 50}), ("random", {"block_size": 50})]
    )
    chance, best = shuffled["within"], whole["within"]
    assert chance == pytest.approx(shuffled["across"], abs=0.05)
    assert blocks["within"] > chance + 0.8 * (best - chance)


def test_random_has_the_sizes_of_homophily_in_blocks_too():
    alike, mixed = (
        assign_groups(cloud(200), GroupingConfig(kind=Grouping(kind), num_groups=40, block_size=60), seed=1)
        for kind in ("homophily", "random")
    )
    assert sorted(Counter(alike).values()) == sorted(Counter(mixed).values())
    assert alike != mixed


def test_blocks_do_not_hang_on_the_number_of_threads():
    config = GroupingConfig(num_groups=60, block_size=100)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(assign_groups(cloud(300, 64), config, seed=2))
    assert found[0] == found[1]


def test_blocks_do_not_hang_on_the_hash_seed():
    script = (
        "import numpy as np; from matrix.simulation.grouping import GroupingConfig, assign_groups; "
        "vectors = np.random.default_rng(0).standard_normal((90, 8)).astype(np.float32); "
        "print(assign_groups(vectors, GroupingConfig(num_groups=20, block_size=40), seed=2))"
    )
    first, second = (
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": number},
            capture_output=True,
            check=True,
        ).stdout
        for number in ("1", "2")
    )
    assert first == second != b""


def test_identical_people_are_cut_into_blocks_by_index():
    vectors = np.ones((40, 4), dtype=np.float32) / 2
    config = GroupingConfig(num_groups=20, min_size=2, max_size=2, block_size=2)
    assert assign_groups(vectors, config, seed=1) == [i // 2 for i in range(40)]


def test_cohesion_averages_pairs():
    vectors = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    assert cohesion(vectors, [0, 0, 1]) == {"within": 1.0, "across": 0.0, "pairs_within": 1}
    assert cohesion(vectors, [0, 1, 2]) == {"within": 0.0, "across": pytest.approx(1 / 3), "pairs_within": 0}
    assert cohesion(vectors, [0, 0, 0]) == {"within": pytest.approx(1 / 3), "across": 0.0, "pairs_within": 3}


@pytest.mark.parametrize("agents", [2, 37, 700])
def test_cohesion_is_that_of_all_pairs(agents):
    vectors, groups = cloud(agents), np.random.default_rng(1).integers(0, max(agents // 5, 2), size=agents)
    similar = vectors.astype(np.float64) @ vectors.T
    pairs = np.triu(np.ones_like(similar, dtype=bool), k=1)
    same = pairs & (groups[:, None] == groups[None, :])
    found = cohesion(vectors, groups.tolist())
    assert found["pairs_within"] == same.sum()
    assert found["within"] == pytest.approx(similar[same].mean() if same.any() else 0.0, abs=1e-9)
    assert found["across"] == pytest.approx(similar[pairs & ~same].mean() if (pairs & ~same).any() else 0.0, abs=1e-9)


def test_cohesion_of_more_agents_than_a_chunk_holds():
    vectors, groups = cloud(10_000, 4), np.arange(10_000) % 7
    expected = [vectors[groups == group].astype(np.float64) for group in range(7)]
    similar = [(members @ members.T)[np.triu_indices(len(members), k=1)] for members in expected]
    found = cohesion(vectors, groups.tolist())
    assert found["within"] == pytest.approx(np.concatenate(similar).mean(), abs=1e-9)
    assert found["pairs_within"] == sum(map(len, similar))


def test_similarity_sample_is_ordered_by_group_and_is_the_same_again():
    vectors = cloud(300)
    groups = assign_groups(vectors, GroupingConfig(num_groups=60), seed=1)
    agents, similar = similarity_sample(vectors, groups, seed=4, limit=50)
    assert len(set(agents)) == 50
    assert agents == sorted(agents, key=lambda agent: (groups[agent], agent))
    np.testing.assert_allclose(similar, vectors[agents] @ vectors[agents].T, atol=5.1e-4)
    assert (agents, similar) == similarity_sample(vectors, groups, seed=4, limit=50)
    assert agents != similarity_sample(vectors, groups, seed=5, limit=50)[0]


def test_similarity_sample_takes_a_small_society_whole():
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    assert similarity_sample(vectors, [1, 0, 1], seed=4) == ([1, 0, 2], [[1, 0, 0.8], [0, 1, 0.6], [0.8, 0.6, 1]])


@pytest.mark.parametrize("count", [1, 2, 12])
def test_plane_has_two_coordinates_an_agent(count):
    points = plane(crowd(count))
    assert np.shape(points) == (count, 2)
    assert np.isfinite(points).all()
    assert points == plane(crowd(count))


@pytest.mark.parametrize("agents", [16, EXACT_ROWS, EXACT_ROWS + 1, 9000])
def test_plane_is_that_of_the_singular_value_decomposition(agents):
    vectors = cloud(agents, 12).astype(np.float64)
    centred = vectors - vectors.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    expected = centred @ (axes * np.sign(axes.sum(axis=1, keepdims=True))).T
    np.testing.assert_allclose(plane(vectors.astype(np.float32)), expected, atol=1.1e-5)
