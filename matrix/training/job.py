"""What a worker is told to do, and what it makes of that before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from matrix.engines.sources import hub_source
from matrix.provenance import derive_seed
from matrix.training.chat import Renderer
from matrix.training.data import Examples, read_examples
from matrix.training.dpo import DPO, Referring, mismatched
from matrix.training.export import load_tokenizer
from matrix.training.machines import LoggerConfig, StrategyConfig
from matrix.training.module import Source, Trained
from matrix.training.plan import make_plan
from matrix.training.recipe import DPOConfig, PreferenceLoss, SFTConfig
from matrix.training.sft import SFT


@dataclass(kw_only=True)
class Job:
    """What a worker is to do; `sft` or `dpo` is set."""

    work: str
    base: str
    """Folder of the checkpoint result to start from."""
    rows: str
    chat_template: str | None
    trust_remote_code: bool
    seed: int
    strategy: StrategyConfig
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    sft: SFTConfig | None = None
    dpo: DPOConfig | None = None
    reference: str | None = None
    """What the base says of the pairs; `matrix.training.stage.Refer` made it."""
    refer: bool = False
    """Do not train: measure the pairs under the base."""

    @property
    def recipe(self) -> SFTConfig | DPOConfig:
        """The one that is set."""
        recipe = self.dpo or self.sft
        assert recipe is not None
        return recipe


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A job whose rows are read and planned; its weights are not loaded yet."""

    module: Trained
    found: Examples
    renderer: Renderer


def prepare(job: Job) -> Prepared:
    """Read the tokenizer and the rows, and plan the training.

    Raises:
        TrainingError: there is nothing to train on, or not in this way.
    """
    recipe, work = job.recipe, Path(job.work)
    name, revision = hub_source(job.base)
    source = Source(name=name, revision=revision, trust_remote_code=job.trust_remote_code)
    renderer = Renderer(load_tokenizer((name, revision), job.chat_template, job.trust_remote_code), recipe)
    found = read_examples(Path(job.rows), recipe, renderer, derive_seed(job.seed, "rows"))
    examples = found.examples
    if isinstance(recipe, DPOConfig) and recipe.loss is PreferenceLoss.kto:
        examples = [*examples, *mismatched(examples, recipe.max_length)]
    # The reference is that of mismatched answers too; none of them is trained on.
    plan = make_plan(examples if job.refer else found.examples, recipe, job.strategy.world, job.seed)
    shared = (source, recipe, job.strategy, plan, examples, derive_seed(job.seed, "weights"))
    module: Trained
    if job.refer:
        module = Referring(work / "reference.jsonl", *shared)
    elif job.dpo:
        module = DPO(Path(job.reference) if job.reference else None, *shared)
    else:
        module = SFT(*shared)
    return Prepared(module=module, found=found, renderer=renderer)
