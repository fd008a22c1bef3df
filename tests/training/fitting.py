"""Trainings in this process, as a worker does them, for tests of what they leave behind."""

import csv
from pathlib import Path

import pytest

from matrix.training.chat import Renderer
from matrix.training.data import read_examples
from matrix.training.machines import LoggerConfig, StrategyConfig, Tracker
from matrix.training.module import Source
from matrix.training.plan import make_plan
from matrix.training.recipe import Precision, SFTConfig
from matrix.training.samples import Sampler
from matrix.training.sft import SFT
from matrix.training.worker import fit

QUIET = [
    # Lightning 2.6 calls what torch 2.13 deprecates, and advises on loader workers and loggers.
    pytest.mark.filterwarnings("ignore:.*treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]
COMMON = {"precision": Precision.fp32, "batch_size": 4, "epochs": 2, "learning_rate": 1e-2, "checkpoint_every": 0}
"""Of eleven rows: three steps an epoch."""


class Fitting:
    """One training of the tiny model; `run` again goes on from its last checkpoint."""

    def __init__(self, work: Path, base, rows, tokenizer, kind=SFT, tracker=Tracker.none, seed=0, **recipe):
        self.work, self.base, self.rows, self.tokenizer, self.kind = work, base, rows, tokenizer, kind
        self.seed = seed
        self.recipe = SFTConfig(**(COMMON | recipe))
        self.logger = LoggerConfig(tracker=tracker)
        (work / "checkpoints").mkdir(parents=True)

    def run(self):
        recipe, file = self.recipe, self.rows.path / "rows.jsonl"
        examples = read_examples(file, recipe, Renderer(self.tokenizer, recipe), 0).examples
        plan = make_plan(examples, recipe, 1, self.seed)
        module = self.kind(Source(name=str(self.base.path / "hf")), recipe, StrategyConfig(), plan, examples, 1)
        sampler = Sampler(self.work, file, recipe, plan, examples, self.tokenizer) if recipe.samples else None
        self.module = module
        self.trainer, self.recorder = fit(module, self.work, self.logger, self.seed, sampler)
        return self

    def table(self, name="metrics.csv"):
        with (self.work / name).open() as file:
            return [{key: float(cell or "nan") for key, cell in row.items()} for row in csv.DictReader(file)]

    def column(self, column, name="metrics.csv"):
        return [row[column] for row in self.table(name)]

    def weights(self):
        return {name: p.detach().clone() for name, p in self.module.model.named_parameters()}


def same(mine, other):
    """Whether two models have the same bits."""
    return mine.keys() == other.keys() and all(mine[name].equal(other[name]) for name in mine)
