"""The whole experiment on one page: every line opens a room, and every room's work is kept in the store.

Reads: a MatrixConfig. Writes: results in the store. The paper's names stand at the right.
"""

from __future__ import annotations

from collections.abc import Iterator

from matrix.config import MatrixConfig, Until
from matrix.evaluation.stage import Answer, Evaluate
from matrix.filtering.stage import Filter
from matrix.generation.stage import Generate, Prefer
from matrix.simulation.stage import Simulate
from matrix.stage import Result
from matrix.store import Store
from matrix.training.stage import Import, Train


def run(c: MatrixConfig, store: Store) -> Iterator[tuple[str, Result]]:
    """Make one cell, result by result: (name in this page, result)."""
    s = c.seed
    base = model = store.get(Import(model=c.model, seed=s))
    yield "base", base

    if c.recipe.sft:
        society = store.get(Simulate(simulator=c.simulator, llm=c.llm, embedder=c.embedder, seed=s))
        yield "society", society  # MATRIX: agents live, scenarios come out
        if c.until is Until.simulate:
            return
        rows = store.get(Generate(generator=c.generator, llm=c.llm, embedder=c.embedder, society=society, seed=s))
        yield "rows", rows  # MATRIX-Gen-SFT
        if c.until is Until.generate:
            return
        kept = store.get(Filter(filters=c.filters, rows=rows, seed=s))
        yield "kept", kept  # what was dropped is kept too, with its reason
        if c.until is Until.filter:
            return
        model = store.get(Train(recipe=c.recipe.sft, model=c.model, base=base, data=kept, seed=s))
        yield "sft", model  # MATRIX-SFT-Model
        if c.until is Until.sft:
            return

        if c.recipe.dpo:
            pairs = store.get(
                Prefer(
                    preference=c.preference, llm=c.llm, model=c.model, embedder=c.embedder,
                    society=society, sft=model, seed=s,
                )
            )  # fmt: skip
            yield "pairs", pairs  # MATRIX-Gen-DPO: chosen by the aligned LLM, rejected by the SFT model itself
            if c.until is Until.prefer:
                return
            kept_pairs = store.get(Filter(filters=c.filters, rows=pairs, seed=s))
            yield "kept_pairs", kept_pairs
            model = store.get(Train(recipe=c.recipe.dpo, model=c.model, base=model, data=kept_pairs, seed=s))
            yield "tuned", model  # MATRIX-Tuned-Model
            if c.until is Until.dpo:
                return

    answers = store.get(Answer(evaluation=c.evaluation, model=c.model, checkpoint=model, seed=s))
    yield "answers", answers
    reference = None
    if c.evaluation.needs_base():
        reference = store.get(Answer(evaluation=c.evaluation, model=c.model, checkpoint=base, seed=s))
        yield "reference", reference
    scores = store.get(Evaluate(evaluation=c.evaluation, judge=c.judge, answers=answers, reference=reference, seed=s))
    yield "scores", scores
