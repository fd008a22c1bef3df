"""The variants of every config that comes in several kinds: name of the schema -> dataclass.

An option of such a group (`conf/<group>/*.yaml`) starts from `/schema/<group>/<name>`, and sets what differs. A new
variant is a dataclass in its room, a line here and an option there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matrix.filtering.decontaminate import DecontaminateConfig
from matrix.filtering.dedup import DedupConfig
from matrix.filtering.deita import DeitaConfig
from matrix.filtering.ifd import IfdConfig
from matrix.filtering.language import LanguageConfig
from matrix.filtering.learnability import LearnabilityConfig
from matrix.filtering.leftovers import LeftoversConfig
from matrix.filtering.length import LengthConfig
from matrix.filtering.policy import ImplicitGapConfig, OnPolicyConfig
from matrix.filtering.reward_models import ClassifierReward, ImplicitReward, JudgeReward
from matrix.filtering.rewarded import MarginConfig, RewardedConfig, RipConfig, SigmaConfig
from matrix.filtering.semantic import SemanticDedupConfig
from matrix.filtering.tagged import CategoriesConfig, DifficultyConfig, QualityConfig, SafetyConfig
from matrix.generation.code import CodeConfig
from matrix.generation.dataset import DatasetConfig
from matrix.generation.dialogue import DialogueConfig
from matrix.generation.evol import EvolConfig
from matrix.generation.magpie import MagpieConfig
from matrix.generation.pair_datasets import DatasetPairsConfig
from matrix.generation.preference import BestOfNConfig, PolicyPairsConfig
from matrix.generation.reasoning import ReasoningConfig
from matrix.generation.safety import SafetyConfig as SafetyRowsConfig
from matrix.generation.scenarios import ScenarioConfig
from matrix.generation.self_instruct import SelfInstructConfig

VARIANTS: dict[str, Mapping[str, type[Any]]] = {
    "filter": {
        "length": LengthConfig,
        "language": LanguageConfig,
        "dedup": DedupConfig,
        "semantic": SemanticDedupConfig,
        "leftovers": LeftoversConfig,
        "decontaminate": DecontaminateConfig,
        "quality": QualityConfig,
        "difficulty": DifficultyConfig,
        "categories": CategoriesConfig,
        "safety": SafetyConfig,
        "deita": DeitaConfig,
        "ifd": IfdConfig,
        "rewarded": RewardedConfig,
        "learnability": LearnabilityConfig,
        "margin": MarginConfig,
        "sigma": SigmaConfig,
        "rip": RipConfig,
        "implicit_gap": ImplicitGapConfig,
        "onpolicy": OnPolicyConfig,
    },
    "generator": {
        "scenario": ScenarioConfig,
        "code": CodeConfig,
        "safety": SafetyRowsConfig,
        "dialogue": DialogueConfig,
        "reasoning": ReasoningConfig,
        "magpie": MagpieConfig,
        "evol": EvolConfig,
        "self_instruct": SelfInstructConfig,
        "dataset": DatasetConfig,
    },
    "preference": {"policy": PolicyPairsConfig, "best_of_n": BestOfNConfig, "dataset": DatasetPairsConfig},
    "reward": {"classifier": ClassifierReward, "judge": JudgeReward, "implicit": ImplicitReward},
}
