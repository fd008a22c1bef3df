"""The command line as a person meets it: what it refuses, what it shows, and how a sweep lives with a failed cell."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from society_fakes import script

from matrix import cli

TESTS = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "COLUMNS": "160"}
WITHOUT_EMBEDDINGS = """
import matrix.simulation.stage
from society_fakes import HashedWords
matrix.simulation.stage.Embedder = HashedWords
from matrix.cli import main
main()
"""
"""The command with an embedder that needs no model; loading one takes longer than all of these tests."""


def matrix(folder, *arguments, program=("-m", "matrix")):
    """Run the command in `folder`."""
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def small(folder, rules=None):
    """A cell of four people on the scripted engine, as overrides; its model to tune is a folder."""
    (folder / "model").mkdir(exist_ok=True)
    rules = rules or script(
        folder / "rules.json",
        anonymise='{"role": "Baker", "description": "Bakes bread in a small town."}',
        plan="1. Buy the flour.\n2. Heat the oven.",
        route='{"indices": [0], "reason": "They share a shop."}',
    )
    return [
        *(f"llm.model={rules}", "llm.revision=null", "llm.engine=scripted"),
        *("simulator.num_agents=4", "simulator.num_scenarios=2", "simulator.grouping.kind=single"),
        *(f"model.model={folder / 'model'}", "model.revision=null", "generator.num_rows=4", "analysis=false"),
    ]


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """What is printed about a command that Hydra cannot compose; in this process, since nothing else happens."""
    monkeypatch.chdir(tmp_path)
    for name in (cli.INVOCATION, "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["matrix", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        assert list(tmp_path.iterdir()) == []
        return capsys.readouterr().err

    return run


class TestRefused:
    @pytest.mark.parametrize(
        ("typed", "complaint", "meant"),
        [
            ("simulatr.num_agents=3", "simulatr", "simulator.num_agents"),
            ("simulator.num_agent=3", "num_agent", "simulator.num_agents"),
            ("simulator.groupin.kind=random", "groupin", "simulator.grouping.kind"),
            ("recipe.sft.epoch=1", "epoch", "recipe.sft.epochs"),
            ("filters.length.min_respnse=1", "min_respnse", "filters.length.min_response"),
            ("sed=1", "sed", "seed"),
            ("simulator=tony", "simulator/tony", "simulator/toy"),
            ("experiment=demos", "experiment/demos", "experiment/demo"),
        ],
    )
    def test_a_name_that_is_not_there(self, refused, typed, complaint, meant):
        told = refused(typed)
        assert told.startswith("matrix: ")
        assert complaint in told
        suggested = re.search(r"Did you mean (.*)\?", told).group(1).replace("=", "/").split(", ")
        assert meant in suggested
        assert "Traceback" not in told
        assert "\nAll " in told

    def test_an_unknown_option_comes_with_the_known_ones(self, refused):
        told = refused("simulator=tony")
        assert all(path.stem in told for path in (cli.ROOT / "conf" / "simulator").glob("*.yaml"))

    @pytest.mark.parametrize(
        ("typed", "complaint"),
        [
            ("simulator.num_agents=many", "'many' of type 'str' could not be converted to Integer"),
            ("simulator.grouping.kind=loose", "'loose', expected one of [homophily, random, single]"),
            ("store.mode=offlne", "'offlne', expected one of [reuse, refresh, offline, plan]"),
            ("simulator.num_agents=[", "simulator.num_agents=["),
        ],
    )
    def test_a_value_that_cannot_be(self, refused, typed, complaint):
        assert complaint in refused(typed)

    def test_a_field_added_with_plus(self, tmp_path):
        done = matrix(tmp_path, "+simulator.num_agent=3", "plan=true")
        assert done.returncode == 2
        assert "simulator.num_agent" in done.stderr
        assert "Did you mean simulator.num_agents" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""

    def test_a_value_that_a_room_refuses(self, tmp_path):
        done = matrix(tmp_path, "recipe.sft=null", "plan=true")
        assert done.returncode == 2
        assert "matrix: recipe.dpo needs recipe.sft" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("values", ["16,many", "16,0"])
    def test_a_wrong_value_anywhere_in_a_sweep_before_the_first_cell(self, tmp_path, values):
        done = matrix(tmp_path, "-m", f"simulator.num_agents={values}", "plan=true")
        assert done.returncode == 2
        assert "num_agents" in done.stderr
        assert "import-" not in done.stdout
        assert not list(tmp_path.glob("outputs/grids/*/*/"))

    @pytest.mark.parametrize("sweep", [[], ["-m"]])
    def test_two_ablations_at_once(self, tmp_path, sweep):
        done = matrix(tmp_path, *sweep, "ablation=filters,filters", "plan=true")
        assert done.returncode == 2
        assert "ablation" in done.stderr
        assert "import-" not in done.stdout


def test_help_is_quick_and_names_everything(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = matrix(tmp_path, "--help", program=("-X", "importtime", "-m", "matrix"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert after.ru_utime - before.ru_utime < 5
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "omegaconf" in imported
    heavy = {"torch", "transformers", "openvino", "lightning", "deepspeed", "datasets", "sklearn", "pandas", "pyarrow"}
    assert not imported & heavy
    for path in (*cli.ROOT.glob("conf/*/*.yaml"), *cli.ROOT.glob("experiments/*/*.yaml")):
        assert re.search(rf"^{path.parent.name}: .*\b{path.stem}\b", done.stdout, re.MULTILINE)


def test_a_plan_of_a_grid_runs_nothing(tmp_path):
    done = matrix(tmp_path, "ablation=filters", "plan=true", *small(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("│ society") == 4
    assert len(set(re.findall(r"simulate-\w{12}", done.stdout))) == 1
    kept = set(re.findall(r"│ kept .*(filter-\w{12})", done.stdout))
    assert len(kept) == 3  # a filter of pairs leaves the rows of SFT alone
    assert len(set(re.findall(r"filter-\w{12}", done.stdout)) - kept) == 4
    # Rollouts of SFT rows and of pairs, whatever else is in the chain.
    assert len(set(re.findall(r"rollout-\w{12}", done.stdout))) == 2
    assert not (tmp_path / "outputs" / "store").exists()
    assert not list(tmp_path.glob("outputs/**/result.json"))


class Sweep:
    """Three cells that differ in a filter; the second asks for a language that the filter does not know."""

    def __init__(self, folder):
        self.folder = folder
        self.grid = folder / "outputs" / "grids" / "tongues"
        self.command = [
            *("-m", "filter=[language]", "filters.language.languages=[en],[xx],[en,de]"),
            *("name=tongues", "until=filter", *small(folder)),
        ]

    def run(self):
        return matrix(self.folder, *self.command, program=("-c", WITHOUT_EMBEDDINGS))

    def cells(self):
        return {
            tuple(cell["overrides"][1].partition("=")[2].strip("[]").split(",")): cell
            for cell in (json.loads(file.read_text()) for file in self.grid.glob("*/result.json"))
        }

    def stored(self, stage):
        return {path: path.stat().st_mtime_ns for path in self.folder.glob(f"outputs/store/{stage}/*/manifest.json")}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    made = Sweep(tmp_path_factory.mktemp("sweep"))
    made.first = made.run()
    return made


class TestSweep:
    def test_one_failed_cell_stops_no_other(self, sweep):
        assert sweep.first.returncode == 1, sweep.first.stderr
        assert {name: cell["status"] for name, cell in sweep.cells().items()} == {
            ("en",): "done",
            ("xx",): "failed",
            ("en", "de"): "done",
        }

    def test_the_failure_is_a_row_with_its_reason(self, sweep):
        failed = sweep.cells()[("xx",)]
        assert failed["stage"] == "filter"
        assert failed["error"].startswith("ValueError: languages: no such code: xx")
        assert "Traceback" in failed["traceback"]
        assert [stage["alias"] for stage in failed["stages"]] == ["base", "society", "rows"]
        assert "failed" in sweep.first.stdout
        assert "Traceback" not in sweep.first.stderr

    def test_shared_stages_run_once(self, sweep):
        assert len(sweep.stored("simulate")) == len(sweep.stored("generate")) == len(sweep.stored("import")) == 1
        assert len(sweep.stored("filter")) == 2
        hits = [[stage["hit"] for stage in cell["stages"]] for cell in sweep.cells().values()]
        assert sorted(hits) == [[False] * 4, [True] * 3, [True] * 3 + [False]]

    def test_cells_know_what_they_are(self, sweep):
        cell = sweep.cells()[("en", "de")]
        assert (cell["name"], cell["until"]) == ("tongues", "filter")
        assert cell["choices"]["generator"] == "demo"
        assert cell["command"].startswith("matrix 'filter=[language]' ")
        assert cell["stages"][2]["rows"]["rows.jsonl"] > 0
        assert cell["stages"][1]["usage"]["calls"] > 0
        assert "languages-en-de" in cell["cell"] or "language" in cell["cell"]
        assert len({c["invocation"] for c in sweep.cells().values()}) == 1

    def test_the_report_is_written(self, sweep):
        (report,) = re.findall(r"Report: (\S+)", sweep.first.stdout)
        assert (sweep.folder / report).exists()

    def test_the_same_command_again_runs_only_what_is_missing(self, sweep):
        stages = ("import", "simulate", "generate", "filter")
        before = {stage: sweep.stored(stage) for stage in stages}
        again = sweep.run()
        assert again.returncode == 1
        assert {stage: sweep.stored(stage) for stage in stages} == before
        cells = sweep.cells()
        assert len(cells) == len(list(sweep.grid.glob("*/result.json"))) == 3
        assert all(stage["hit"] for cell in cells.values() for stage in cell["stages"])
        assert cells[("xx",)]["status"] == "failed"


def test_an_interrupted_cell_says_so(tmp_path):
    """The script is a pipe that nobody writes to, so the engine waits for it until the signal comes."""
    pipe = tmp_path / "rules.json"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "matrix", *small(tmp_path, pipe)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit that it is ignored
    ) as process:  # fmt: skip
        writer = None
        while writer is None and process.poll() is None:
            try:
                writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads yet
                time.sleep(0.05)
        assert writer is not None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        os.close(writer)
        try:
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Interrupted. What is finished is kept" in told
    assert "Traceback" not in told
    (file,) = tmp_path.glob("outputs/grids/run/*/result.json")
    cell = json.loads(file.read_text())
    assert (cell["status"], cell["stage"]) == ("stopped", "simulate")
    assert [stage["alias"] for stage in cell["stages"]] == ["base"]


def test_a_single_cell_that_fails(tmp_path):
    people = tmp_path / "people.jsonl"
    people.write_text('{"name": "Ann"}\n')
    done = matrix(tmp_path, f"simulator.profiles.path={people}", *small(tmp_path))
    assert done.returncode == 1
    assert f"{people}:1: field description" in done.stdout + done.stderr
    (file,) = tmp_path.glob("outputs/grids/run/*/result.json")
    assert json.loads(file.read_text())["status"] == "failed"


def test_a_failure_can_be_debugged(tmp_path):
    people = tmp_path / "people.jsonl"
    people.write_text('{"name": "Ann"}\n')
    done = matrix(tmp_path, f"simulator.profiles.path={people}", "on_error=stop", *small(tmp_path))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "load_profiles" in done.stderr
