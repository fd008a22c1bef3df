"""The steps of the pipeline that take several results: rows measured and filtered, preference pairs, training."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from matrix.analysis.stage import Analyse
from matrix.config import MatrixConfig
from matrix.evaluation.collect import Collect
from matrix.filtering.base import FilterConfig, Need
from matrix.filtering.likelihood import Likely
from matrix.filtering.reward import Reward
from matrix.filtering.rollouts import Roll, RolloutConfig
from matrix.filtering.sanity import Sanity
from matrix.filtering.stage import Filter, needs
from matrix.filtering.tags import Tag
from matrix.generation.pair_datasets import DatasetPairsConfig, ImportPairs
from matrix.generation.preference import BestOfNConfig, Pick, PolicyPairsConfig
from matrix.generation.stage import Generate, Prefer
from matrix.stage import Result
from matrix.store import Store
from matrix.training.recipe import DPOConfig, SFTConfig
from matrix.training.stage import Refer, Train, reference_recipe

Steps = Generator[tuple[str, Result], None, Result]
"""Results as they are made, (name in this page, result), and the one that the rest goes on from."""


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
        made["tags"] = store.get(Tag(tagging=tagging, llm=c.llm, rows=rows, expected_rows=expected, seed=s))
        yield f"{name}tags", made["tags"]
    if {Need.rewards, Need.rollouts} & need:
        yield f"{name}sanity", trusted(c, store)
    if Need.rewards in need:
        made["rewards"] = reward(c, store, rows, None, expected)
        yield f"{name}rewards", made["rewards"]
    if Need.rollouts in need:
        rollouts = roll(c, store, rows, c.rollouts, policy, expected)
        yield f"{name}rollouts", rollouts
        made["rollout_rewards"] = reward(c, store, rows, rollouts, expected * c.rollouts.samples)
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


def train(c: MatrixConfig, store: Store, recipe: SFTConfig | DPOConfig, base: Result, data: Result) -> Steps:
    """A model tuned on rows, or on pairs against what the base makes of them."""
    shared: dict[str, Any] = {
        "strategy": c.recipe.strategy, "logger": c.logger, "model": c.model, "base": base, "data": data, "seed": c.seed,
    }  # fmt: skip
    reference = None
    if isinstance(recipe, DPOConfig) and recipe.loss.needs_reference:
        reference = store.get(Refer(recipe=reference_recipe(recipe), **shared))
        yield "pair_reference", reference
    return store.get(Train(recipe=recipe, reference=reference, **shared))


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
