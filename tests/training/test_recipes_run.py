"""Every shipped recipe really trains: its own SFT and DPO, composed from its YAML, on a tiny model."""

import csv
from dataclasses import replace
from math import isfinite

import pytest
import yaml
from fitting import QUIET
from hydra import compose, initialize_config_dir

from matrix import cli
from matrix.training.job import Job, prepare
from matrix.training.machines import LoggerConfig, Tracker
from matrix.training.recipe import Precision
from matrix.training.stage import reference_recipe
from matrix.training.worker import fit

pytestmark = QUIET
FILES = sorted(cli.ROOT.glob("conf/recipe/*.yaml"))
OWN = [(file.stem, kind) for file in FILES for kind in ("sft", "dpo") if yaml.safe_load(file.read_text()).get(kind)]
"""What a recipe has from another one is trained there."""
SIZES = {"max_length": 64, "batch_size": 16, "epochs": 3, "precision": Precision.fp32}
"""All rows in every step, so that the loss of one is comparable with the next."""


@pytest.fixture(scope="module", autouse=True)
def composing():
    cli.register()
    with initialize_config_dir(str(cli.ROOT / "conf"), version_base="1.3"):
        yield


@pytest.mark.parametrize(("name", "kind"), OWN)
def test_a_shipped_recipe_trains(name, kind, tmp_path, base, conversations, pairs):
    recipe = cli.to_config(compose("config", [f"recipe={name}", "recipe/strategy=single"])).recipe
    step = getattr(recipe, kind)
    prompt = {"max_prompt_length": 24} if kind == "dpo" and step.max_prompt_length else {}
    step = replace(step, **SIZES, **prompt)

    def run(step, **what):
        job = Job(
            work=str(tmp_path), base=str(base.path), chat_template=None, trust_remote_code=False, seed=0,
            rows=str((conversations if kind == "sft" else pairs).path / "rows.jsonl"),
            strategy=recipe.strategy, **{kind: step}, **what,
        )  # fmt: skip
        fit(prepare(job).module, tmp_path, LoggerConfig(tracker=Tracker.none), 0)

    reference = tmp_path / "reference.jsonl"
    if kind == "dpo" and step.loss.needs_reference:
        run(reference_recipe(step), refer=True)
    run(step, reference=str(reference) if reference.exists() else None)
    with (tmp_path / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert all(map(isfinite, losses))
    first, second, third = losses
    assert first > second > third
