import hashlib
import itertools
import json
import logging
from collections import Counter
from importlib.resources import files

import msgspec
import pytest
import yaml

from matrix.jsonl import RowError
from matrix.records import Profile
from matrix.simulation.profiles import BadRow, ProfilesConfig, load_profiles
from matrix.simulation.synthetic import material, synthetic_profile
from matrix.stage import identity

GOOD = [
    {"id": "a", "name": "Ann", "description": "Baker in Riga", "posts": ["Rye day.", "Oven is hot."]},
    {"id": "b", "name": "Bo", "description": "Night nurse", "posts": []},
    {"id": 3, "name": "Cy", "description": "Beekeeper"},
]
AS_PROFILES = [
    Profile(id="a", name="Ann", description="Baker in Riga", posts=["Rye day.", "Oven is hot."]),
    Profile(id="b", name="Bo", description="Night nurse"),
    Profile(id="3", name="Cy", description="Beekeeper"),
]


def jsonl(tmp_path, *rows, name="people.jsonl"):
    path = tmp_path / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def csv_file(tmp_path, text):
    path = tmp_path / "people.csv"
    path.write_text(text)
    return str(path)


PEOPLE = [synthetic_profile(0, index) for index in range(2000)]


class TestSynthetic:
    def test_two_thousand_people_differ(self):
        assert len({p.id for p in PEOPLE}) == 2000
        assert len({p.name for p in PEOPLE}) == 2000
        assert len({p.description for p in PEOPLE}) == 2000
        first = [set(p.posts) for p in PEOPLE[:130]]
        shared = [len(a & b) / min(len(a), len(b)) for a, b in itertools.combinations(first, 2)]
        assert max(shared) < 0.6  # same interests and few posts
        assert sum(shared) / len(shared) < 0.02

    @pytest.mark.parametrize("seed", [1, 7, 2**40])
    def test_two_thousand_people_differ_whatever_the_seed(self, seed):
        people = [synthetic_profile(seed, index) for index in range(2000)]
        for distinct in ({p.name for p in people}, {p.description for p in people}, {tuple(p.posts) for p in people}):
            assert len(distinct) == 2000

    def test_all_ten_major_groups_have_a_sensible_share(self):
        folder = files("matrix.simulation") / "data" / "occupations"
        group = {
            occupation["title"].lower(): file.name[:6]
            for file in folder.iterdir()
            for occupation in yaml.safe_load(file.read_text())
        }
        shares = Counter(group[person.description.split(",")[0].lower()] for person in PEOPLE)
        assert set(shares) == {f"isco_{number}" for number in range(10)}
        assert all(0.02 < share / len(PEOPLE) < 0.25 for share in shares.values())
        ages = [int(person.description.split(", ")[1]) for person in PEOPLE]
        assert min(ages) == 20
        assert max(ages) == 66
        assert len({person.description.split(", from ")[1].split(".")[0] for person in PEOPLE}) >= 60

    def test_texts_are_short_enough_for_small_models(self):
        for person in PEOPLE:
            assert len(person.description.split()) <= 60
            assert 5 <= len(person.posts) <= 20
            assert len(set(person.posts)) == len(person.posts)
            assert all(3 <= len(post.split()) <= 25 and "{" not in post for post in person.posts)

    def test_every_occupation_is_dealt_once_a_round(self):
        jobs = [person.description.split(",")[0].lower() for person in PEOPLE]
        everything = sorted(o.title.lower() for o in material().occupations)
        assert len(set(everything)) >= 120
        assert sorted(jobs[:130]) == everything
        assert sorted(jobs[130:260]) == everything
        assert jobs[:130] != jobs[130:260]

    def test_posts_come_from_the_persons_own_life(self):
        phrases = {o.title.lower(): {phrase for _, phrase in o.phrases()} for o in material().occupations}
        for person in PEOPLE[:130]:
            mine = phrases[person.description.split(",")[0].lower()]
            about_work = sum(any(p.lower() in post.lower() for p in mine) for post in person.posts)
            assert about_work >= len(person.posts) * 0.5 - 1

    def test_a_person_depends_on_seed_and_index_alone(self):
        config = ProfilesConfig()
        few, many = load_profiles(config, 5, seed=7), load_profiles(config, 300, seed=7)
        assert few == many[:5]
        assert load_profiles(config, 5, seed=8) != few

    def test_the_population_is_the_one_that_stored_societies_were_made_of(self):
        """A changed population is another experiment: raise `Simulate.version`, then put the new digest here."""
        digest = hashlib.sha256(msgspec.json.encode(PEOPLE)).hexdigest()
        assert digest[:16] == "29e7a18e133b121d"


class TestFiles:
    def test_jsonl(self, tmp_path):
        path = jsonl(tmp_path, GOOD[0], "", GOOD[1], GOOD[2])
        assert load_profiles(ProfilesConfig(path=path), 3, seed=0) == AS_PROFILES

    def test_csv_with_lists_and_separators(self, tmp_path):
        text = (
            'id,name,description,posts\na,Ann,Baker in Riga,"[""Rye day."", ""Oven is hot.""]"\n'
            "b,Bo,Night nurse,\n3,Cy,Beekeeper,[Swarm] caught | Honey!\n"
        )
        loaded = load_profiles(ProfilesConfig(path=csv_file(tmp_path, text)), 3, seed=0)
        assert loaded[:2] == AS_PROFILES[:2]
        assert loaded[2].posts == ["[Swarm] caught", "Honey!"]

    def test_columns_can_be_renamed_and_ids_made(self, tmp_path):
        row = {"user": "Ann", "bio": "Baker in Riga", "tweets": ["Rye day.", " Oven is hot. ", ""]}
        config = ProfilesConfig(
            path=jsonl(tmp_path, row), columns={"name": "user", "description": "bio", "posts": "tweets"}
        )
        (profile,) = load_profiles(config, 1, seed=0)
        assert profile == msgspec.structs.replace(AS_PROFILES[0], id="000001")

    def test_reading_stops_when_there_are_enough(self, tmp_path):
        path = jsonl(tmp_path, GOOD[0], "this line is never reached")
        assert load_profiles(ProfilesConfig(path=path), 1, seed=0) == AS_PROFILES[:1]

    def test_a_dataset_folder_is_streamed(self, tmp_path):
        rows = [{**row, "id": str(row["id"]), "posts": row.get("posts", [])} for row in GOOD]
        jsonl(tmp_path, *rows, name="train.jsonl")
        config = ProfilesConfig(dataset=str(tmp_path))
        assert load_profiles(config, 2, seed=0) == AS_PROFILES[:2]

    @pytest.mark.parametrize(
        ("row", "complaint"),
        [
            ({"name": "D", "posts": []}, r"field description: expected text in column 'description', the row has name"),
            ({"name": " ", "description": "x"}, "field name: expected text in column 'name', found an empty text"),
            ({"name": "D", "description": 7}, "field description: expected text .* found a number"),
            ({"name": "D", "description": "x", "posts": '["a"'}, "field posts: starts like a JSON list"),
            (
                {"name": "D", "description": "x", "posts": ["a", 3]},
                "field posts: expected a list of texts, found a num",
            ),
            (
                {"name": "D", "description": "x", "posts": {"a": 1}},
                "field posts: expected a list of texts, found an ob",
            ),
            ({"name": "D", "description": "x", "id": ["y"]}, "field id: expected text or a number, found a list"),
            ({"name": "D", "description": "x", "id": "a"}, r"field id: 'a' is taken by .*people\.jsonl:1"),
            ([1], "expected a JSON object, found a list"),
            ("{oops", "not JSON"),
        ],
    )
    def test_a_bad_row_is_named_or_left_out(self, tmp_path, caplog, row, complaint):
        path = jsonl(tmp_path, GOOD[0], row, GOOD[1])
        with pytest.raises(RowError, match=rf"people\.jsonl:2: {complaint}.*on_bad_row=skip"):
            load_profiles(ProfilesConfig(path=path), 2, seed=0)
        skipped: Counter[str] = Counter()
        with caplog.at_level(logging.WARNING):
            kept = load_profiles(ProfilesConfig(path=path, on_bad_row=BadRow.skip), 2, seed=0, skipped=skipped)
        assert kept == AS_PROFILES[:2]
        ((reason, number),) = skipped.items()
        assert (number, complaint.startswith(reason)) == (1, True)
        assert "left out" in caplog.text

    def test_unquoted_commas_in_csv_are_noticed(self, tmp_path):
        path = csv_file(tmp_path, "name,description\nAnn,Baker, in Riga\n")
        with pytest.raises(RowError, match=r"people\.csv:2: more cells than the header.*quotes"):
            load_profiles(ProfilesConfig(path=path), 1, seed=0)

    def test_rows_left_out_are_counted_by_what_was_wrong(self, tmp_path):
        wrong = [{"name": "D"}, {"name": "E", "description": 1}, {"name": "", "description": "x"}, "{oops", [1]]
        path = jsonl(tmp_path, *wrong, GOOD[0], GOOD[0], GOOD[1], "never read")
        skipped: Counter[str] = Counter()
        load_profiles(ProfilesConfig(path=path, on_bad_row=BadRow.skip), 2, seed=0, skipped=skipped)
        assert skipped == {
            "field description": 2, "field name": 1, "not JSON": 1, "expected a JSON object": 1, "field id": 1
        }  # fmt: skip

    def test_too_few_profiles(self, tmp_path):
        with pytest.raises(ValueError, match=r"holds 3 usable profiles, 4 agents.*num_agents=3"):
            load_profiles(ProfilesConfig(path=jsonl(tmp_path, *GOOD)), 4, seed=0)


class TestConfig:
    def test_the_content_of_the_file_is_its_identity(self, tmp_path):
        here = ProfilesConfig(path=jsonl(tmp_path, *GOOD))
        moved = ProfilesConfig(path=jsonl(tmp_path, *GOOD, name="moved.jsonl"))
        other = ProfilesConfig(path=jsonl(tmp_path, *GOOD[:2], name="other.jsonl"))
        assert identity(here) == identity(moved) != identity(other)
        assert "path" not in identity(ProfilesConfig())

    def test_mistakes_are_refused_with_a_way_out(self, tmp_path):
        path = jsonl(tmp_path, *GOOD)
        for wrong, complaint in [
            ({"path": path, "dataset": "x/y"}, "set one of the two"),
            ({"path": str(tmp_path / "none.jsonl")}, "no such file"),
            ({"path": str(tmp_path / "people.xlsx")}, r"ends in \.jsonl or \.csv"),
            ({"columns": {"bio": "text"}}, "fields are id, name, description, posts"),
            ({"separator": ""}, "separator is empty"),
        ]:
            with pytest.raises(ValueError, match=complaint):
                ProfilesConfig(**wrong)
