"""Every option that is shipped composes with the default cell and passes all checks."""

import itertools
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from matrix import cli
from matrix.config import MatrixConfig
from matrix.simulation.grouping import Grouping
from matrix.simulation.modulator import Communication
from matrix.store import Mode

OPTIONS = sorted(cli.ROOT.glob("conf/*/*.yaml"))
PRESETS = sorted(cli.ROOT.glob("experiments/experiment/*.yaml"))
ABLATIONS = sorted(cli.ROOT.glob("experiments/ablation/*.yaml"))
SERVER = {"model": "served", "endpoints": "[http://127.0.0.1:8000/v1]", "source.path": "somebody/rows"}
"""What options for any server, or any file, leave open."""


@pytest.fixture(scope="module", autouse=True)
def composing():
    cli.register()
    with initialize_config_dir(str(cli.ROOT / "conf"), version_base="1.3"):
        yield


def configured(*overrides) -> MatrixConfig:
    return cli.to_config(compose("config", list(overrides)))


def title(path: Path) -> str:
    return f"{path.parent.name}={path.stem}"


def rest(path: Path) -> list[str]:
    """Values for what an option leaves open."""
    return [
        f"{path.parent.name}.{name}={value}"
        for name, value in SERVER.items()
        if re.search(rf'\b{name.rpartition(".")[2]}: "?\?\?\?', path.read_text())
    ]


def test_the_default_cell():
    config = configured()
    assert list(config.filters) == ["length", "language", "dedup", "decontaminate"]
    assert config.recipe.sft
    assert config.recipe.dpo
    assert config.store.root == "outputs/store"


def test_folders_lead_to_one_place():
    assert configured("output_dir=/elsewhere").store.root == "/elsewhere/store"


@pytest.mark.parametrize("path", OPTIONS, ids=title)
def test_an_option(path):
    value = f"[{path.stem}]" if path.parent.name == "filter" else path.stem
    reward = [] if path.parent.name == "reward" else ["reward=embedded"]  # some filters and preferences need one
    config = configured(f"{path.parent.name}={value}", *rest(path), *reward)
    if path.parent.name == "filter":
        assert list(config.filters) == [path.stem]


@pytest.mark.parametrize("path", PRESETS, ids=title)
def test_a_preset(path):
    assert configured(title(path)).name


@pytest.mark.parametrize("path", ABLATIONS, ids=title)
def test_every_cell_of_an_ablation(path):
    grid = compose("config", [title(path)], return_hydra_config=True).hydra
    assert grid.mode.name == "MULTIRUN"
    axes = OverridesParser.create().parse_overrides([f"{name}={value}" for name, value in grid.sweeper.params.items()])
    values = [[f"{a.get_key_element()}={value}" for value in a.sweep_string_iterator()] for a in axes]
    cells = [configured(title(path), *cell) for cell in itertools.product(*values)]
    assert len(cells) > 1
    assert len({cli.cell_id(cell, []) for cell in cells}) == len(cells)
    assert len({cell.name for cell in cells}) == 1


@pytest.mark.parametrize("path", [*OPTIONS, *PRESETS, *ABLATIONS], ids=title)
def test_a_file_opens_with_what_it_is(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ")


def test_values_are_typed_as_documentation_writes_them():
    config = configured("simulator.grouping.kind=random", "simulator.communication=none", "store.mode=refresh")
    assert config.simulator.grouping.kind is Grouping("random")
    assert config.simulator.communication is Communication("none")
    assert config.store.mode is Mode("refresh")


def test_the_order_of_filters_is_that_of_the_command():
    assert list(configured("filter=[dedup,length]").filters) == ["dedup", "length"]
    assert configured("filter=[]").filters == {}


def test_a_chain_can_be_tuned_by_name():
    config = configured("filter=[length,exact]", "filters.length.min_response=40")
    assert config.filters["length"].min_response == 40


def test_checks_of_the_rooms_run():
    with pytest.raises(ValueError, match="need 0 <= min_response <= max_response"):
        configured("filters.length.min_response=40", "filters.length.max_response=4")
    with pytest.raises(ValueError, match=r"recipe\.dpo needs recipe\.sft"):
        configured("recipe.sft=null")
    with pytest.raises(ValueError, match=r"filter margin needs a reward.*reward=embedded"):
        configured("filter=[length,margin]")
    with pytest.raises(ValueError, match=r"best_of_n needs a reward"):
        configured("preference=best_of_n")


@pytest.mark.parametrize("added", ["+simulator.num_agent=3", "+filters.length.min=3", "+colour=red"])
def test_a_field_that_nobody_reads_is_refused(added):
    with pytest.raises(ValueError, match=added[1:].partition("=")[0].replace(".", r"\.")):
        configured(added)


def test_fields_that_are_dictionaries_can_be_added_to():
    config = configured("+simulator.profiles.columns.name=user")
    assert config.simulator.profiles.columns == {"name": "user"}
