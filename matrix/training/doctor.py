"""The pre-flight report of a training: what the rows hold, what will be trained on them and how, and what looks wrong.

The worker writes it beside the checkpoint; `matrix.training.preview` prints it before anything runs.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress

from matrix.training.budget import Memory, Shape, documents, memory
from matrix.training.chat import Renderer, Sequence
from matrix.training.data import Example, Examples
from matrix.training.machines import StrategyConfig
from matrix.training.plan import Plan, rate
from matrix.training.recipe import DPOConfig, Packing, TrainConfig, TrainingError

QUANTILES = {"least": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}


@dataclass(kw_only=True)
class Diagnosis:
    """What `examine` found. Plain numbers: `msgspec.json.encode` writes it."""

    rows: int
    sampled: int
    """Rows that were read; where they are fewer than `rows`, all counts are scaled up from them."""
    used: int
    held_out: int
    dropped: int
    truncated: int
    targets_lost: int
    """Target tokens that were cut off."""
    duplicates: int
    """Rows whose id an earlier one has."""

    tokens: int
    """Of all rows once; both answers of a pair count with their prompt."""
    targets: int
    lengths: dict[str, int]
    """Tokens of a row, of a pair of its longer answer with its prompt: quantiles."""
    shortest: tuple[int, str]
    """Target tokens of the shortest answer, and its row."""
    longest: tuple[int, str]

    begin_of_text: tuple[int, int]
    """Least and most begin-of-text tokens of a sequence."""
    turns: int
    """Trained turns of the assistant."""
    unended: int
    """Those among them whose last trained token is not the end of the turn: the model would not learn to stop."""
    padding_trained: bool
    """Whether the padding token is among the targets; that is right where it also ends a turn."""

    steps: int
    steps_an_epoch: float
    rows_a_step: float
    micro_batches: int
    """That a process computes in a step."""
    processes: int
    efficiency: float
    """Share of the computed tokens that are not padding or waited for."""
    warmup: int
    warmup_replaced: bool
    """Whether `warmup_steps` exceeded a quarter of the steps, so that `warmup_ratio` decided."""
    learning_rate: float
    """At its peak."""
    mean_rate: float
    """Mean over the steps, as a share of the peak."""

    memory: Memory | None
    device_gib: float | None
    warnings: list[str]

    @property
    def warmup_share(self) -> float:
        """Share of the steps with a rising rate."""
        return self.warmup / self.steps


def check(found: Examples, shape: Shape) -> None:
    """Refuse what cannot be trained.

    Raises:
        TrainingError: a row is longer than the model's positions.
    """
    longest = max(found.examples, key=lambda example: example.length)
    if shape.positions and longest.length > shape.positions:
        raise TrainingError(
            f"row {longest.id} has {longest.length} tokens and the model was made for {shape.positions} "
            f"(max_position_embeddings). Set max_length={shape.positions} or less"
        )


def examine(
    found: Examples,
    plan: Plan,
    recipe: TrainConfig,
    strategy: StrategyConfig,
    renderer: Renderer,
    shape: Shape | None = None,
    *,
    bf16: bool = True,
    device_gib: float | None = None,
    sampled: int | None = None,
) -> Diagnosis:
    """Look at the rows and at the plan that was made of them.

    Args:
        found: the rows; an example may stand in it several times, for many that are alike.
        plan: of `found.examples`.
        recipe: what the plan was made with.
        strategy: on what machines.
        renderer: that the rows were tokenised with.
        shape: of the model, for the memory; None leaves it out.
        bf16: arithmetic.
        device_gib: memory of a device.
        sampled: rows that were read; None: all.
    """
    examples = found.examples
    own = list({id(example): example for example in examples}.values())
    scale = len(examples) / len(own)
    sequences = [s for example in own for s in example.sequences]
    lengths = sorted(example.length for example in own)
    answers = sorted((sum(s.targets), example.id) for example in own for s in example.sequences)
    begins = [s.ids.count(renderer.tokenizer.bos_token_id) for s in sequences]
    padding = renderer.tokenizer.pad_token_id
    ends = {renderer.end_of_turn, renderer.eos}
    last = [s.ids[i] for s in sequences for i in _ends(s)]
    largest = max(_computed([examples[i] for i in rows], plan.packed) for s in plan.steps for rows in s.micro_batches)
    diagnosis = Diagnosis(
        rows=found.rows,
        sampled=sampled or found.rows,
        used=len(examples),
        held_out=plan.held_out.rows if plan.held_out else 0,
        dropped=found.dropped,
        truncated=found.truncated,
        targets_lost=found.lost_targets,
        duplicates=round(scale * (len(own) - len({example.id for example in own}))),
        tokens=round(scale * sum(len(s.ids) for s in sequences)),
        targets=round(scale * sum(example.targets for example in own)),
        lengths={name: lengths[round(share * (len(lengths) - 1))] for name, share in QUANTILES.items()},
        shortest=answers[0],
        longest=answers[-1],
        begin_of_text=(min(begins), max(begins)),
        turns=round(scale * len(last)),
        unended=0 if renderer.loss_on_all_tokens else round(scale * sum(token not in ends for token in last)),
        padding_trained=any(padding in s.ids and padding in compress(s.ids, s.targets) for s in sequences),
        steps=len(plan.steps),
        steps_an_epoch=len(plan.steps) / recipe.epochs,
        rows_a_step=statistics.fmean(step.rows for step in plan.steps),
        micro_batches=plan.accumulation,
        processes=plan.world,
        efficiency=plan.efficiency,
        warmup=plan.warmup,
        warmup_replaced=recipe.warmup_steps is not None and plan.warmup != recipe.warmup_steps,
        learning_rate=recipe.learning_rate,
        mean_rate=statistics.fmean(rate(step, plan, recipe) for step in range(len(plan.steps))),
        memory=memory(shape, recipe, strategy, bf16, largest) if shape else None,
        device_gib=device_gib,
        warnings=[],
    )
    diagnosis.warnings = list(_warnings(diagnosis, recipe, shape))
    return diagnosis


def _ends(sequence: Sequence) -> list[int]:
    """Places of the last token of every run of targets."""
    return [found.start() for found in re.finditer(b"\1(?!\1)", bytes(sequence.targets))]


def _computed(examples: list[Example], packed: bool) -> int:
    """Tokens that a device computes for a micro-batch, padding included."""
    spans = documents(examples, packed)
    return sum(q for q, _ in spans) if packed else max((k for _, k in spans), default=0) * len(spans)


def _warnings(d: Diagnosis, recipe: TrainConfig, shape: Shape | None) -> Iterator[str]:
    """What looks wrong, each with what to do about it."""
    trained = d.used - d.held_out
    if d.warmup_share > 0.25 and d.warmup > 1:
        yield f"{d.warmup} of {d.steps} steps ({d.warmup_share:.0%}) are warm-up: lower warmup_ratio or batch_size"
    if d.warmup_replaced:
        yield (
            f"warmup_steps={recipe.warmup_steps} exceeds a quarter of {d.steps} steps, so warmup_ratio="
            f"{recipe.warmup_ratio:g} decides: {d.warmup} steps. Set warmup_steps=null to say so"
        )
    batch = f"batch_size={recipe.batch_size}"
    if d.rows_a_step >= trained > 1:
        yield f"{batch} takes all {trained} rows in one step: lower it, e.g. to {trained // 10 or 1}"
    elif d.steps < 10:
        smaller = recipe.batch_size * d.steps // 30 or 1
        yield f"{d.steps} optimizer steps are few: lower {batch}, e.g. to {smaller}, or raise epochs"
    if d.truncated > 0.05 * d.rows:
        limit = f" (the model takes {shape.positions})" if shape and shape.positions else ""
        yield (
            f"{d.truncated / d.rows:.0%} of the rows are cut at max_length={recipe.max_length}: raise it{limit}, or "
            "drop long rows with the filter `length`"
        )
    if d.dropped:
        yield f"{d.dropped} rows have no answer within max_length={recipe.max_length} and are dropped: raise it"
    if d.duplicates:
        yield f"{d.duplicates} rows repeat the id of another row: give every row an id of its own"
    if isinstance(recipe, DPOConfig) and recipe.learning_rate > 5e-6 and not recipe.lora:
        yield (
            f"learning_rate={recipe.learning_rate:g} is high for preference training of all weights, where 5e-7 to "
            "1e-6 is usual (zephyr, Tulu 3, Magpie): lower it, or train adapters (recipe=lora_24gb)"
        )
    if shape and shape.positions and recipe.max_length > shape.positions:
        yield (
            f"max_length={recipe.max_length} is above the model's {shape.positions} positions, though no row is: set "
            f"max_length={shape.positions}"
        )
    if d.unended > d.truncated and recipe.packing is not Packing.wrapped:
        yield (
            f"{d.unended} of {d.turns} answers do not end with the end-of-turn token, and only {d.truncated} rows are "
            "cut: set another model.chat_template"
        )
    if d.efficiency < 0.6:
        remedy = "set packing=isolated" if recipe.packing is Packing.padded else "raise batch_size or lower devices"
        yield f"{1 - d.efficiency:.0%} of the computation is padding or waiting: {remedy}"
    if d.memory and d.device_gib and d.memory.device > d.device_gib:
        yield (
            f"about {d.memory.device:.1f} GiB are needed and a device has {d.device_gib:.1f}: set "
            "gradient_checkpointing=true, lower max_length, take recipe/strategy=zero3 or zero3_offload, or adapters "
            "(recipe=lora_24gb)"
        )
