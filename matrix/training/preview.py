"""What `plan=true` says of a training whose rows are there: the doctor's report, from tokenizer and config alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from matrix.engines.sources import hub_source
from matrix.provenance import derive_seed
from matrix.training.budget import shape_of
from matrix.training.chat import Renderer
from matrix.training.data import Examples, read_examples
from matrix.training.doctor import check, examine
from matrix.training.findings import printable
from matrix.training.machines import StrategyConfig
from matrix.training.plan import make_plan
from matrix.training.recipe import DPOConfig, Precision, SFTConfig

SAMPLE = 2000
"""Rows that a preview reads."""


def preview(
    rows: Path,
    base: Path,
    chat_template: str | None,
    trust_remote_code: bool,
    recipe: SFTConfig | DPOConfig,
    strategy: StrategyConfig,
    seed: int,
) -> str:
    """The report before anything runs, from tokenizer and config; of more than `SAMPLE` rows as many are read.

    Args:
        rows: rows.jsonl to train on.
        base: folder of the checkpoint result to start from.
        chat_template: as in `ModelConfig`.
        trust_remote_code: as in `ModelConfig`.
        recipe: what to train.
        strategy: on what machines.
        seed: of the training stage.

    Raises:
        TrainingError: the training would end before it starts.
    """
    from transformers import AutoConfig

    from matrix.training.export import load_tokenizer

    name, revision = source = hub_source(str(base))
    tokenizer = load_tokenizer(source, chat_template, trust_remote_code)
    renderer = Renderer(tokenizer, recipe)
    few = dataclasses.replace(recipe, max_rows=min(recipe.max_rows or SAMPLE, SAMPLE))
    found = read_examples(rows, few, renderer, derive_seed(seed, "rows"))
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    shape = shape_of(config, trust_remote_code)
    check(found, shape)
    with rows.open("rb") as lines:
        there = sum(1 for _ in lines)
    whole = _scaled(found, min(recipe.max_rows or there, there))
    plan = make_plan(whole.examples, recipe, strategy.world, seed)
    bf16 = recipe.precision is not Precision.fp32
    diagnosis = examine(whole, plan, recipe, strategy, renderer, shape, bf16=bf16, sampled=found.rows)
    return printable(diagnosis, found.examples, tokenizer)


def _scaled(found: Examples, rows: int) -> Examples:
    """As if `rows` rows had been read that are like those of `found`."""
    share = rows / found.rows
    if share <= 1:
        return found
    count = round(share * len(found.examples))
    return Examples(
        [found.examples[i % len(found.examples)] for i in range(count)],
        rows=rows,
        truncated=round(share * found.truncated),
        dropped=round(share * found.dropped),
        lost_targets=round(share * found.lost_targets),
    )
