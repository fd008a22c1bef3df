import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest
from small_cell import configured

from matrix.cell import INVOCATION, cell_id, run_cell
from matrix.config import OnError, Until
from matrix.engines.base import HOW, BudgetReached, ModelConfig
from matrix.filtering.length import LengthConfig
from matrix.generation.scenarios import ScenarioConfig
from matrix.simulation.profiles import ProfilesConfig
from matrix.stage import Result, Stage
from matrix.store import Mode, StoreConfig
from matrix.training.recipe import RecipeConfig


@dataclass(kw_only=True)
class Sow(Stage):
    name: ClassVar[str] = "sow"

    def run(self, work: Path) -> None:
        (work / "rows.jsonl").write_text('"oat"\n"rye"\n')
        (work / "usage.json").write_text('{"calls": 5}')


@dataclass(kw_only=True)
class Reap(Stage):
    """Reads what was sown, writes scores, or ends as it is told."""

    name: ClassVar[str] = "reap"
    field_: Result
    ends: type[BaseException] | None = field(default=None, metadata=HOW)

    def run(self, work: Path) -> None:
        if self.ends:
            raise self.ends("hail on the field")
        rows = (self.field_.path / "rows.jsonl").read_text().splitlines()
        (work / "scores.json").write_text(json.dumps({"benchmarks": [{"rows": len(rows)}]}))


@pytest.fixture
def farm(monkeypatch):
    """A pipeline of two cheap stages in the place of the paper's; `farm["ends"]` is what the second one raises."""
    settings = {"ends": None}

    def run(config, store):
        sown = store.get(Sow(seed=config.seed))
        yield "rows", sown
        yield "scores", store.get(Reap(seed=config.seed, field_=sown, ends=settings["ends"]))

    monkeypatch.setattr("matrix.cell.run", run)
    return settings


def told(folder):
    return json.loads((folder / "result.json").read_text())


class TestDone:
    def test_the_result_tells_everything(self, tmp_path, farm, monkeypatch):
        monkeypatch.setenv(INVOCATION, "f00d")
        folder = tmp_path / "grids" / "tiny" / "seed-3-01234567"
        config = configured(tmp_path, seed=3, name="tiny", label="Tiny")
        assert run_cell(config, folder, ["seed=3", "label=a b"], {"simulator": "toy"}) == "done"
        cell = told(folder)
        assert (cell["name"], cell["cell"], cell["label"]) == ("tiny", "seed-3-01234567", "Tiny")
        assert (cell["status"], cell["stage"], cell["error"], cell["traceback"]) == ("done", None, None, None)
        assert cell["until"] == "evaluate"
        assert cell["overrides"] == ["seed=3", "label=a b"]
        assert cell["command"] == "matrix seed=3 'label=a b'"
        assert cell["choices"] == {"simulator": "toy"}
        assert cell["invocation"] == "f00d"
        assert cell["environment"]["python"]
        assert cell["seconds"] >= 0
        assert cell["scores"] == {"benchmarks": [{"rows": 2}]}
        rows, scores = cell["stages"]
        assert (rows["alias"], rows["stage"], rows["hit"]) == ("rows", "sow", False)
        assert rows["rows"] == {"rows.jsonl": 2}
        assert rows["usage"] == {"calls": 5}
        assert rows["name"] == f"sow-{rows['key'][:12]}"
        assert (Path(rows["path"]) / "rows.jsonl").exists()
        assert (scores["alias"], scores["stage"]) == ("scores", "reap")
        assert sorted(p.name for p in folder.iterdir()) == ["result.json"]

    def test_again_everything_is_a_hit(self, tmp_path, farm):
        for _ in range(2):
            run_cell(configured(tmp_path), tmp_path / "cell", [], {})
        assert [stage["hit"] for stage in told(tmp_path / "cell")["stages"]] == [True, True]


class TestFailed:
    def test_a_failure_is_written_down_and_not_raised(self, tmp_path, farm):
        farm["ends"] = RuntimeError
        assert run_cell(configured(tmp_path), tmp_path / "cell", [], {}) == "failed"
        cell = told(tmp_path / "cell")
        assert (cell["status"], cell["stage"], cell["scores"]) == ("failed", "reap", None)
        assert cell["error"] == "RuntimeError: hail on the field"
        assert "in run\n" in cell["traceback"]
        assert [stage["alias"] for stage in cell["stages"]] == ["rows"]

    def test_the_same_cell_goes_on_later(self, tmp_path, farm):
        farm["ends"] = RuntimeError
        run_cell(configured(tmp_path), tmp_path / "cell", [], {})
        farm["ends"] = None
        assert run_cell(configured(tmp_path), tmp_path / "cell", [], {}) == "done"
        cell = told(tmp_path / "cell")
        assert [stage["hit"] for stage in cell["stages"]] == [True, False]
        assert (cell["error"], cell["traceback"]) == (None, None)

    def test_a_spent_budget_is_a_stop_and_no_failure(self, tmp_path, farm):
        farm["ends"] = BudgetReached
        assert run_cell(configured(tmp_path), tmp_path / "cell", [], {}) == "stopped"
        cell = told(tmp_path / "cell")
        assert (cell["status"], cell["stage"]) == ("stopped", "reap")
        assert cell["error"] == "BudgetReached: hail on the field"

    def test_it_can_be_raised_for_debugging(self, tmp_path, farm):
        farm["ends"] = RuntimeError
        with pytest.raises(RuntimeError, match="hail"):
            run_cell(configured(tmp_path, on_error=OnError("stop")), tmp_path / "cell", [], {})
        assert told(tmp_path / "cell")["status"] == "failed"

    def test_an_interruption_is_written_down_and_raised(self, tmp_path, farm):
        farm["ends"] = KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt):
            run_cell(configured(tmp_path), tmp_path / "cell", [], {})
        cell = told(tmp_path / "cell")
        assert (cell["status"], cell["stage"], cell["error"]) == ("stopped", "reap", None)

    def test_a_killed_cell_shows_how_far_it_got(self, tmp_path, farm):
        """Nothing is written at the end; what stands there is from the last finished stage."""
        farm["ends"] = SystemExit
        with pytest.raises(SystemExit):
            run_cell(configured(tmp_path), tmp_path / "cell", [], {})
        cell = told(tmp_path / "cell")
        assert (cell["status"], [stage["alias"] for stage in cell["stages"]]) == ("running", ["rows"])

    def test_the_papers_pipeline_names_the_stage_that_failed(self, tmp_path):
        people = tmp_path / "people.jsonl"
        people.write_text('{"name": "Ann"}\n')
        config = configured(tmp_path)
        config.simulator.profiles = ProfilesConfig(path=str(people))
        assert run_cell(config, tmp_path / "cell", [], {}) == "failed"
        cell = told(tmp_path / "cell")
        assert cell["stage"] == "simulate"
        assert cell["error"].startswith(f"RowError: {people}:1: field description")
        assert [(stage["alias"], stage["stage"]) for stage in cell["stages"]] == [("base", "import")]


class TestCellId:
    def test_reads_as_what_was_overridden(self, tmp_path):
        config = configured(tmp_path)
        made = cell_id(config, ["simulator=toy", "simulator.num_agents=4", "generator=simple", "++llm.threads=2"])
        assert made.rsplit("-", 1)[0] == "simulator-toy-num_agents-4-generator-simple-threads-2"
        assert len(made.rsplit("-", 1)[1]) == 8
        overrides = ["filter=[length, dedup]", "+generator.requirement='a b/c'"]
        assert re.fullmatch(r"[\w.+-]+", cell_id(config, overrides))

    def test_is_the_same_however_the_cell_is_run(self, tmp_path):
        """So that the same cell, run further or elsewhere, goes on in the same folder."""
        config = configured(tmp_path)
        how = replace(
            config,
            **{"name": "other", "label": "x", "plan": True, "until": Until("filter"), "output_dir": "/elsewhere"},
            store=StoreConfig(root="/elsewhere", mode=Mode("offline")),
            on_error=OnError("stop"),
            llm=replace(config.llm, concurrency=1, threads=3),
        )
        overrides = ["name=other", "label=x", "plan=true", "until=filter", "output_dir=/elsewhere"]
        more = ["store.mode=offline", "++store.root=/elsewhere", "on_error=stop", "hydra.verbose=true", "+ablation=x"]
        assert cell_id(how, overrides + more) == cell_id(config, [])
        assert cell_id(how, ["seed=1", *overrides]) == cell_id(config, ["seed=1"])

    @pytest.mark.parametrize(
        "other",
        [
            {"seed": 1},
            {"filters": {"length": LengthConfig()}},
            {"generator": ScenarioConfig(num_rows=4)},
            {"recipe": RecipeConfig(dpo=None)},
        ],
        ids=lambda fields: next(iter(fields)),
    )
    def test_differs_where_the_result_does(self, tmp_path, other):
        assert cell_id(configured(tmp_path, **other), []) != cell_id(configured(tmp_path), [])

    def test_long_command_lines_make_short_names(self, tmp_path):
        config = configured(tmp_path)
        overrides = [f"simulator.profiles.path=/a/very/long/path/{'x' * 300}/people.jsonl"]
        assert len(cell_id(config, overrides)) <= 70
        assert "/" not in cell_id(config, overrides)


class TestConfig:
    def test_dpo_needs_sft(self, tmp_path):
        with pytest.raises(ValueError, match=r"recipe\.dpo needs recipe\.sft.*recipe\.dpo=null"):
            configured(tmp_path, recipe=RecipeConfig(sft=None))

    def test_an_answer_must_leave_room_for_its_prompt(self, tmp_path):
        small = ModelConfig(model="m", max_context=512)
        with pytest.raises(ValueError, match=r"max_tokens=\d+ leaves no room for a prompt in llm\.max_context=512"):
            configured(tmp_path, llm=small)
