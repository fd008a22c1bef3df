"""The whole experiment on one page: every line opens a room, and every room's work is kept in the store.

Reads: a MatrixConfig. Writes: results in the store. The paper's names stand at the right.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

from matrix.analysis.stage import Analyse
from matrix.config import MatrixConfig, Until
from matrix.evaluation.collect import Collect
from matrix.evaluation.stage import Answer, Evaluate
from matrix.filtering.base import FilterConfig, Need
from matrix.filtering.likelihood import Likely
from matrix.filtering.reward import Reward
from matrix.filtering.rollouts import Roll, RolloutConfig
from matrix.filtering.sanity import Sanity
from matrix.filtering.stage import Filter, for_conversations, needs
from matrix.filtering.tags import Tag
from matrix.generation.pair_datasets import DatasetPairsConfig, ImportPairs
from matrix.generation.preference import BestOfNConfig, Pick, PolicyPairsConfig
from matrix.generation.stage import Generate, Prefer
from matrix.simulation.stage import Simulate
from matrix.stage import Result
from matrix.store import Store
from matrix.training.stage import Import, Train

Steps = Generator[tuple[str, Result], None, Result]
"""Results as they are made, (name in this page, result), and the one that the rest goes on from."""


def run(c: MatrixConfig, store: Store) -> Iterator[tuple[str, Result]]:
    """Make one cell, result by result: (name in this page, result)."""
    s = c.seed
    base = model = store.get(Import(model=c.model, seed=s))
    yield "base", base

    if c.recipe.sft:
        society = None
        if c.needs_society():
            society = store.get(Simulate(simulator=c.simulator, llm=c.llm, embedder=c.embedder, seed=s))
            yield "society", society  # MATRIX: agents live, scenarios come out
        if c.until is Until.simulate:
            return
        rows = store.get(
            Generate(
                generator=c.generator, llm=c.llm, responder=c.responder, embedder=c.embedder, society=society, seed=s
            )
        )  # fmt: skip
        yield "rows", rows  # MATRIX-Gen-SFT
        if c.until is Until.generate:
            return
        kept = yield from refine(
            c, store, "kept", "", for_conversations(c.filters), rows, c.generator.num_rows, policy=base, reference=base
        )  # fmt: skip
        if c.until is Until.filter:
            return
        model = store.get(Train(recipe=c.recipe.sft, model=c.model, base=base, data=kept, seed=s))
        yield "sft", model  # MATRIX-SFT-Model
        if c.until is Until.sft:
            return

        if c.recipe.dpo:
            pairs = yield from prefer(c, store, society, sft=model)
            yield "pairs", pairs  # MATRIX-Gen-DPO: chosen by the aligned LLM, rejected by the SFT model itself
            if c.until is Until.prefer:
                return
            kept_pairs = yield from refine(
                c, store, "kept_pairs", "pair_", c.filters, pairs, c.preference.num_pairs, policy=model, reference=base
            )  # fmt: skip
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


def refine(
    c: MatrixConfig, store: Store, alias: str, name: str, filters: dict[str, FilterConfig], rows: Result, expected: int,
    policy: Result, reference: Result,
) -> Steps:  # fmt: skip
    """Measure what the filters need to know of the rows, and filter them.

    Measurements are results of their own: all filters, and all cells with the same rows and model, share them.

    Args:
        alias: name of what is kept.
        name: put before the names of what is measured.
        expected: number of rows, for the plan.
        policy: the model that is about to be trained on the rows.
        reference: what it was tuned from.
    """
    s, need, made = c.seed, needs(filters), dict[str, Result]()
    if Need.tags in need:
        tagging = c.tagging.with_tags(tag for config in filters.values() for tag in config.reads)
        made["tags"] = store.get(Tag(tagging=tagging, llm=c.llm, rows=rows, num_rows=expected, seed=s))
        yield f"{name}tags", made["tags"]
    if {Need.rewards, Need.rollouts} & need:
        yield f"{name}sanity", trusted(c, store)
    if Need.rewards in need:
        made["rewards"] = reward(c, store, rows, None, expected)
        yield f"{name}rewards", made["rewards"]
    if Need.rollouts in need:
        made["rollouts"] = roll(c, store, rows, c.rollouts, policy, expected)
        yield f"{name}rollouts", made["rollouts"]
        made["rollout_rewards"] = reward(c, store, rows, made["rollouts"], expected * c.rollouts.samples)
        yield f"{name}rollout_rewards", made["rollout_rewards"]
    if Need.likelihoods in need:
        made["likelihoods"] = store.get(Likely(model=c.model, checkpoint=policy, rows=rows, seed=s))
        yield f"{name}likelihoods", made["likelihoods"]
    if Need.reference in need:
        made["reference"] = store.get(Likely(model=c.model, checkpoint=reference, rows=rows, seed=s))
        yield f"{name}reference_likelihoods", made["reference"]
    if Need.questions in need:
        made["questions"] = store.get(Collect(evaluation=c.evaluation, seed=s))
    embedder = c.embedder if Need.embeddings in need else None
    kept = store.get(Filter(filters=filters, rows=rows, embedder=embedder, seed=s, **made))
    yield alias, kept  # what was dropped is kept too, with its reason
    if c.analysis:
        known = {key: made[key] for key in ("tags", "rewards", "questions") if key in made}
        yield f"{name}analysis", store.get(Analyse(rows=kept, embedder=c.embedder, seed=s, **known))
    return kept


def prefer(c: MatrixConfig, store: Store, society: Result | None, sft: Result) -> Steps:
    """Preference pairs for the model that SFT has just made."""
    s, p = c.seed, c.preference
    if isinstance(p, PolicyPairsConfig):
        return store.get(
            Prefer(
                preference=p, llm=c.llm, responder=c.responder, model=c.model, embedder=c.embedder, society=society,
                sft=sft, seed=s,
            )
        )  # fmt: skip
    if isinstance(p, DatasetPairsConfig):
        return store.get(ImportPairs(preference=p, seed=s))
    assert isinstance(p, BestOfNConfig)
    prompts = store.get(
        Generate(
            generator=p.generator, prefix="pair", llm=c.llm, responder=c.responder, embedder=c.embedder,
            society=society, seed=s,
        )
    )  # fmt: skip
    yield "prompts", prompts
    yield "best_sanity", trusted(c, store)
    rewards = reward(c, store, prompts, None, p.num_pairs)
    yield "prompt_rewards", rewards
    samples = roll(c, store, prompts, p.rollouts, sft, p.num_pairs)
    yield "samples", samples
    sample_rewards = reward(c, store, prompts, samples, p.num_pairs * p.rollouts.samples)
    yield "sample_rewards", sample_rewards
    return store.get(
        Pick(preference=p, rows=prompts, rewards=rewards, rollouts=samples, rollout_rewards=sample_rewards, seed=s)
    )


def roll(c: MatrixConfig, store: Store, rows: Result, rollouts: RolloutConfig, policy: Result, expected: int) -> Result:
    """What the policy says to the rows' prompts."""
    return store.get(
        Roll(rollouts=rollouts, model=c.model, checkpoint=policy, rows=rows, expected_rows=expected, seed=c.seed)
    )


def trusted(c: MatrixConfig, store: Store) -> Result:
    """That the reward tells good from bad where everybody can; it raises otherwise."""
    assert c.reward
    return store.get(Sanity(reward=c.reward, llm=c.llm, seed=c.seed))


def reward(c: MatrixConfig, store: Store, rows: Result, rollouts: Result | None, expected: int) -> Result:
    """What the answers of the rows, or the rollouts, are worth."""
    assert c.reward
    return store.get(
        Reward(reward=c.reward, llm=c.llm, rows=rows, rollouts=rollouts, expected_answers=expected, seed=c.seed)
    )
