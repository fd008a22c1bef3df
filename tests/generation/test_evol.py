import json
from collections import Counter

import pytest
from rival_fakes import asked, generated
from society_fakes import FakeModel

from matrix.generation.evol import EvolConfig, Operation
from matrix.generation.scenarios import CATEGORIES
from matrix.generation.seeds import SHIPPED, Seed, read_seeds
from matrix.generation.sources import SourceError
from matrix.jsonl import read_jsonl


def rewritten(_, dice):
    return " ".join(dice.choices(["bake", "rye", "loaf", "oven", "salt", "slow", "warm", "crust", "flour"], k=12)) + "?"


def model(**replies):
    return FakeModel(**({"evol_depth": rewritten, "evol_breadth": rewritten} | replies))


@pytest.fixture
def two(tmp_path):
    path = tmp_path / "two.jsonl"
    path.write_text(
        '{"instruction": "Bake some bread.", "category": "baking"}\n{"instruction": "Fix my old bicycle."}\n'
    )
    return str(path)


def test_every_evolution_starts_from_the_one_before(two):
    made = model()
    rows, _ = generated(EvolConfig(num_rows=6, rounds=3, seeds=two, operations=[Operation.deepen]), made)
    texts = [row.messages[0].content for row in rows]
    parents = [prompt.rpartition("Task: ")[2].split("\n")[0] for prompt in asked(made, "evol_depth")]
    first = {row.origin.instruction for row in rows[:3]}
    assert sorted(parents) == sorted([*texts[:2], *texts[3:5], "Bake some bread.", "Fix my old bicycle."])
    assert len(first) == 1
    assert first != {row.origin.instruction for row in rows[3:]}
    assert [row.style for row in rows] == ["deepen", "deepen > deepen", "deepen > deepen > deepen"] * 2


def test_rows_say_where_they_come_from(two):
    rows, _ = generated(EvolConfig(num_rows=12, rounds=2, seeds=two), model())
    assert {row.origin.instruction for row in rows} == {"two-00000", "two-00001"}
    assert {(r.category, r.kind) for r in rows if r.origin.instruction == "two-00000"} == {("baking", "evol")}
    for row in rows:
        last = row.style.split(" > ")[-1]
        assert list(row.origin.templates) == ["evol_breadth.jinja" if last == "breadth" else "evol_depth.jinja"]


def test_all_operations_have_their_turn():
    rows, _ = generated(EvolConfig(num_rows=80, rounds=1), model())
    assert set(Counter(row.style for row in rows)) == set(Operation)
    assert len({row.origin.instruction for row in rows}) == 66


def test_each_operation_has_its_own_prompt():
    made = model()
    generated(EvolConfig(num_rows=60, rounds=1), made)
    hows = {prompt.partition("How: ")[2].split("\n")[0] for prompt in asked(made, "evol_depth")}
    assert len(hows) == 4
    assert "" not in hows
    assert all("How: " not in prompt for prompt in asked(made, "evol_breadth"))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Bake some bread.", "no different"),
        ("Harder version: bake some bread.", "no different"),
        ("The rewritten task is to bake bread in a cold oven.", "rewriting"),
        ("Bake it. It grows by 10 to 30 words at most.", "words of the prompt"),
        ("I'm sorry, but I cannot help with ovens.", "refusal"),
        ("  ", "three words"),
    ],
)
def test_failed_evolutions_are_eliminated_and_kept(tmp_path, text, error):
    (tmp_path / "one.jsonl").write_text('{"instruction": "Bake some bread."}\n')
    config = EvolConfig(num_rows=1, max_tries=1, seeds=str(tmp_path / "one.jsonl"), operations=[Operation.constraints])
    rows, asker = generated(config, model(evol_depth=text))
    assert rows == []
    assert [error in failure.error for failure in asker.failures] == [True, True]


def test_a_chain_goes_on_from_its_last_good_task(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"instruction": "Bake some bread."}\n')
    made = model(evol_depth="I cannot do that.")
    config = EvolConfig(
        num_rows=4, rounds=12, seeds=str(tmp_path / "one.jsonl"), operations=[Operation.breadth, Operation.deepen]
    )
    rows, asker = generated(config, made)
    assert [row.style for row in rows] == [" > ".join(["breadth"] * n) for n in range(1, 5)]
    assert asker.failures


@pytest.mark.parametrize(
    ("answer", "kept"),
    [("Sorry, I have no idea.", 0), ("It is what it is.", 0), ("Sorry about that. " + "Knead it well. " * 40, 1)],
)
def test_a_task_without_an_answer_is_eliminated(two, answer, kept):
    rows, asker = generated(EvolConfig(num_rows=1, max_tries=1, seeds=two), model(response=answer))
    assert len(rows) == kept
    assert [failure.purpose for failure in asker.failures] == ["response"] * (1 - kept)


@pytest.mark.parametrize("shuffle", [1, 2])
@pytest.mark.parametrize("window", [1, 5, 64])
def test_order_of_answers_and_concurrency_change_nothing(shuffle, window):
    config = EvolConfig(num_rows=14)
    assert generated(config, model(), window=window)[0] == generated(config, model())[0]
    assert (
        generated(config, FakeModel(shuffle, 3, evol_depth=rewritten, evol_breadth=rewritten))[0]
        == (generated(config, model())[0])
    )


def test_shipped_seeds_cover_all_categories():
    seeds = read_seeds(None)
    assert len({seed.id for seed in seeds}) == len(seeds) == 66
    assert {seed.category for seed in seeds} == set(CATEGORIES)
    assert seeds == read_jsonl(SHIPPED, Seed)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Bake bread."},
        {"instruction": "Bake", "input": "bread", "output": "Done."},
        {"conversations": [{"from": "gpt", "value": "Hi"}, {"from": "human", "value": "Bake bread."}]},
        {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Bake bread."}]},
        {"prompt": "Bake bread."},
    ],
    ids=lambda row: next(iter(row)),
)
def test_seeds_may_have_any_usual_form(tmp_path, row):
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    (seed,) = read_seeds(str(tmp_path / "mine.jsonl"))
    assert (seed.id, " ".join(seed.instruction.split()).rstrip(".")) == ("mine-00000", "Bake bread")


def test_a_file_without_tasks_is_refused(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"text": "once upon a time"}\n')
    with pytest.raises(SourceError, match="no row of it has a task"):
        read_seeds(str(tmp_path / "mine.jsonl"))
    with pytest.raises(SourceError, match="there is no file"):
        read_seeds(str(tmp_path / "missing.jsonl"))


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"operations": []}], ids=str)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EvolConfig(**wrong)
