from collections import Counter

import numpy as np
import pytest
from society_fakes import HashedWords

from matrix.simulation.grouping import Grouping, GroupingConfig, assign_groups, cohesion, plane

TRADES = ["bread oven flour", "ward patient night", "sail harbour tide", "hive honey bee"]


def crowd(count):
    """Unit vectors of people of four trades, taking turns."""
    return HashedWords().embed([f"{TRADES[i % 4]} person{i}" for i in range(count)])


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


@pytest.mark.parametrize("wrong", [{"min_size": 0}, {"min_size": 5, "max_size": 4}, {"num_groups": 0}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GroupingConfig(**wrong)


def test_cohesion_averages_pairs():
    vectors = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    assert cohesion(vectors, [0, 0, 1]) == {"within": 1.0, "across": 0.0, "pairs_within": 1}
    assert cohesion(vectors, [0, 1, 2]) == {"within": 0.0, "across": pytest.approx(1 / 3), "pairs_within": 0}


@pytest.mark.parametrize("count", [1, 2, 12])
def test_plane_has_two_coordinates_an_agent(count):
    points = plane(crowd(count))
    assert np.shape(points) == (count, 2)
    assert np.isfinite(points).all()
    assert points == plane(crowd(count))
