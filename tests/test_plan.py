import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from small_cell import configured

from matrix.config import Until
from matrix.engines.base import ModelConfig
from matrix.filtering.learnability import LearnabilityConfig
from matrix.filtering.length import LengthConfig
from matrix.filtering.reward_models import ImplicitReward
from matrix.filtering.rewarded import MarginConfig
from matrix.filtering.tagged import QualityConfig
from matrix.generation.magpie import MagpieConfig
from matrix.generation.pair_datasets import DatasetPairsConfig
from matrix.generation.preference import BestOfNConfig
from matrix.generation.scenarios import ScenarioConfig
from matrix.generation.sources import SourceConfig
from matrix.pipeline import run
from matrix.plan import make_plan, plan_table
from matrix.store import Mode, Store, StoreConfig
from matrix.training.recipe import RecipeConfig
from matrix.training.stage import Import

IMPLICIT = ImplicitReward(policy=ModelConfig(model="a/policy"))
ALL = [
    "base", "society", "rows", "kept", "analysis", "sft", "pairs", "kept_pairs", "pair_analysis", "pair_reference",
    "tuned", "answers", "reference", "scores",
]  # fmt: skip


def aliases(config):
    return [stage.alias for stage in make_plan(config)]


def shown(stages):
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(plan_table("cell", stages))
    return console.export_text()


class TestStages:
    def test_of_the_whole_experiment(self, tmp_path):
        assert aliases(configured(tmp_path)) == ALL

    @pytest.mark.parametrize(
        ("until", "last"),
        [
            ("simulate", "society"),
            ("generate", "rows"),
            ("filter", "analysis"),
            ("sft", "sft"),
            ("prefer", "pairs"),
            ("dpo", "tuned"),
            ("evaluate", "scores"),
        ],
    )
    def test_until(self, tmp_path, until, last):
        assert aliases(configured(tmp_path, until=Until(until))) == ALL[: ALL.index(last) + 1]

    def test_without_dpo(self, tmp_path):
        without = [a for a in ALL if a not in ("pairs", "kept_pairs", "pair_analysis", "pair_reference", "tuned")]
        assert aliases(configured(tmp_path, recipe=RecipeConfig(dpo=None))) == without

    def test_without_training_the_model_is_judged_against_itself(self, tmp_path):
        stages = make_plan(configured(tmp_path, recipe=RecipeConfig(sft=None, dpo=None)))
        assert [stage.alias for stage in stages] == ["base", "answers", "reference", "scores"]
        assert stages[1].name == stages[2].name
        assert stages[2].hit

    def test_no_society_for_generators_that_need_none(self, tmp_path):
        config = configured(tmp_path, generator=MagpieConfig(), recipe=RecipeConfig(dpo=None))
        assert aliases(config)[:3] == ["base", "rows", "kept"]
        assert "society" in aliases(configured(tmp_path, generator=MagpieConfig()))  # for the pairs

    def test_what_filters_need_is_measured_before_them(self, tmp_path):
        chain = {"learnability": LearnabilityConfig(), "margin": MarginConfig(), "quality": QualityConfig()}
        config = configured(tmp_path, filters=chain, reward=IMPLICIT, until=Until.dpo)
        measured = ["tags", "sanity", "rollouts", "rollout_rewards", "kept", "analysis"]
        of_pairs = ["tags", "sanity", "rewards", "rollouts", "rollout_rewards"]
        assert aliases(config) == [
            *("base", "society", "rows", *measured, "sft", "pairs"),
            *(f"pair_{name}" for name in of_pairs), "kept_pairs", "pair_analysis", "pair_reference", "tuned",
        ]  # fmt: skip

    def test_best_of_n_is_prompts_samples_and_rewards(self, tmp_path):
        preference = BestOfNConfig(generator=ScenarioConfig(num_rows=3))
        made = aliases(configured(tmp_path, preference=preference, reward=IMPLICIT, until=Until.prefer))
        assert made[-6:] == ["prompts", "best_sanity", "prompt_rewards", "samples", "sample_rewards", "pairs"]

    def test_pairs_of_a_data_set(self, tmp_path):
        preference = DatasetPairsConfig(source=SourceConfig(path="somebody/pairs"))
        stages = make_plan(configured(tmp_path, preference=preference, until=Until.prefer))
        assert (stages[-1].alias, stages[-1].name[:6]) == ("pairs", "pairs-")

    def test_keys_chain(self, tmp_path):
        """A changed filter leaves the society and its rows alone, and nothing after it."""
        neighbours = ({}, {"filters": {"length": LengthConfig()}}, {"seed": 1})
        plans = [make_plan(configured(tmp_path, **fields)) for fields in neighbours]
        base, filtered, seeded = ({stage.alias: stage.name for stage in plan} for plan in plans)
        changed = {alias for alias in ALL if base[alias] != filtered[alias]}
        assert changed == set(ALL) - {"base", "society", "rows", "reference"}
        assert not set(base.values()) & set(seeded.values())


class TestCost:
    def test_nothing_runs(self, tmp_path):
        make_plan(configured(tmp_path))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]

    def test_a_miss_has_an_estimate_and_a_hit_costs_nothing(self, tmp_path):
        config = configured(tmp_path)
        stages = {stage.alias: stage for stage in make_plan(config)}
        assert not any(stage.hit for stage in stages.values())
        assert stages["society"].estimate.calls > config.simulator.num_agents
        assert stages["rows"].estimate.calls == 2 * config.generator.num_rows
        assert stages["base"].seconds is None
        Store(config.store).get(Import(model=config.model, seed=config.seed))
        base = make_plan(config)[0]
        assert (base.hit, base.seconds, base.why) == (True, 0.0, "")

    def test_hours_follow_the_speed_of_stored_results(self, tmp_path):
        config = configured(tmp_path)
        manifest = {"identity": {}, "seconds": 10.0, "usage": {"tokens_out": 50}}
        (tmp_path / "store" / "simulate" / "earlier").mkdir(parents=True)
        (tmp_path / "store" / "simulate" / "earlier" / "manifest.json").write_text(json.dumps(manifest))
        society = make_plan(config)[1]
        assert society.seconds == pytest.approx(society.estimate.tokens_out / 5)

    def test_hours_of_a_stage_without_tokens_are_the_mean(self, tmp_path):
        for number, seconds in enumerate((10.0, 20.0)):
            folder = tmp_path / "store" / "train" / str(number)
            folder.mkdir(parents=True)
            manifest = {"identity": {}, "seconds": seconds, "usage": {}}
            (folder / "manifest.json").write_text(json.dumps(manifest))
        assert {s.alias: s.seconds for s in make_plan(configured(tmp_path))}["sft"] == 15.0

    def test_money(self, tmp_path):
        config = configured(tmp_path)
        priced = replace(config, llm=replace(config.llm, price_in=1.0, price_out=2.0))
        society = make_plan(priced)[1]
        e = society.estimate
        assert e.money == pytest.approx((e.tokens_in + 2 * e.tokens_out) / 1e6)


class TestTable:
    def test_tells_hit_or_miss_and_why(self, tmp_path):
        config = configured(tmp_path)
        Store(config.store).get(Import(model=replace(config.model, dtype="bfloat16"), seed=0))
        text = shown(make_plan(config))
        lines = {line.split()[1]: line for line in text.splitlines() if line.startswith("│")}
        assert "miss" in lines["base"]
        assert "nearest is model-" in text
        assert "config.model.dtype: bfloat16 -> None" in " ".join(text.split())
        Store(config.store).get(Import(model=config.model, seed=0))
        assert "hit" in next(line for line in shown(make_plan(config)).splitlines() if line.startswith("│ base"))

    def test_money_has_its_column_beside_hits_too(self, tmp_path):
        config = configured(tmp_path, llm=ModelConfig(model="m", price_out=1000.0))
        Store(config.store).get(Import(model=config.model, seed=0))
        stages = make_plan(config)
        rows = [line.split("│")[1:-1] for line in shown(stages).splitlines() if line.startswith("│")]
        base, society = rows[:2]
        assert [cell.strip() for cell in base[3:]] == [""] * 5
        assert float(society[-1]) == pytest.approx(stages[1].estimate.money, abs=0.01)


def test_the_plan_is_what_the_pipeline_does(tmp_path):
    """Plan and run walk the same page: the same names in the same order."""
    config = configured(tmp_path)
    planned = [(stage.alias, stage.name) for stage in make_plan(config)]
    store = Store(StoreConfig(root=config.store.root, mode=Mode("plan")))
    assert planned == [(alias, result.name) for alias, result in run(config, store)]
