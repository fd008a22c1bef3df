"""MatrixConfig: every room's config in one tree, and the checks that concern more than one room."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from matrix.engines.base import HOW, ModelConfig
from matrix.engines.embedder import EmbedderConfig
from matrix.evaluation.config import EvaluationConfig
from matrix.filtering.base import FilterConfig, Need
from matrix.filtering.reward import RewardConfig
from matrix.filtering.rollouts import RolloutConfig
from matrix.filtering.stage import needs
from matrix.filtering.tags import TaggingConfig
from matrix.generation.base import GeneratorConfig
from matrix.generation.preference import BestOfNConfig, PreferenceConfig
from matrix.simulation.config import SimulatorConfig
from matrix.store import StoreConfig
from matrix.training.machines import LoggerConfig
from matrix.training.recipe import RecipeConfig


class Until(StrEnum):
    """The last stage that a run makes; later ones are left for another run or machine."""

    simulate = "simulate"
    generate = "generate"
    filter = "filter"
    sft = "sft"
    prefer = "prefer"
    dpo = "dpo"
    evaluate = "evaluate"


class OnError(StrEnum):
    """`record`: a failed cell writes its error and the sweep goes on. `stop`: raise it, for debugging."""

    record = "record"
    stop = "stop"


@dataclass(kw_only=True)
class MatrixConfig:
    """One cell of the grid. Fields up to `evaluation` decide results; the rest say how the run is made."""

    seed: int = 0
    """Every stage, agent and call derives its own seed from it."""
    simulator: SimulatorConfig
    generator: GeneratorConfig
    preference: PreferenceConfig
    filters: dict[str, FilterConfig] = field(default_factory=dict)
    """The filter chain, in order; the same chain cleans SFT rows and preference pairs."""
    tagging: TaggingConfig = field(default_factory=TaggingConfig)
    """How an LLM labels rows, for filters that need tags."""
    reward: RewardConfig | None = None
    """What answers are worth, for filters that need rewards and for best-of-n pairs."""
    rollouts: RolloutConfig = field(default_factory=RolloutConfig)
    """How the model that is about to be trained is sampled, for filters that need rollouts."""
    recipe: RecipeConfig
    evaluation: EvaluationConfig
    llm: ModelConfig
    """The aligned LLM behind agents, modulators, instructions and responses (paper: Llama-3-8B-Instruct)."""
    responder: ModelConfig | None = None
    """The model that answers the instructions, e.g. a reasoning model; null: `llm`."""
    model: ModelConfig
    """The model to tune (paper: Llama-3-8B)."""
    judge: ModelConfig
    """The judge of the evaluation (paper: GPT-4-Turbo 1106)."""
    embedder: EmbedderConfig

    name: str = field(default="run", metadata=HOW)
    """Grid that the cell belongs to: `outputs/grids/<name>/`."""
    label: str = field(default="", metadata=HOW)
    """Row label in tables; default: what varies over the grid."""
    store: StoreConfig = field(default_factory=StoreConfig, metadata=HOW)
    until: Until = field(default=Until.evaluate, metadata=HOW)
    plan: bool = field(default=False, metadata=HOW)
    """Print what would run, why, and what it would cost; run nothing."""
    logger: LoggerConfig = field(default_factory=LoggerConfig, metadata=HOW)
    """Where the metrics of training are shown."""
    analysis: bool = field(default=True, metadata=HOW)
    """Describe the kept rows and pairs (lengths, diversity, overlap with evaluation) for the report."""
    on_error: OnError = field(default=OnError.record, metadata=HOW)
    output_dir: str = field(default="outputs", metadata=HOW)
    """Root of `store/` and `grids/`."""
    experiment: Any = field(default=None, metadata=HOW)
    """Name of the preset that was chosen."""
    ablation: Any = field(default=None, metadata=HOW)
    """Name of the grid that was chosen."""

    def __post_init__(self) -> None:
        if self.recipe.dpo and not self.recipe.sft:
            raise ValueError(
                "recipe.dpo needs recipe.sft: rejected answers are sampled from the SFT model (paper section 4.1). "
                "Set recipe.sft, or recipe.dpo=null"
            )
        answers = ("responder", self.responder) if self.responder else ("llm", self.llm)
        longest = [
            ("simulator.birth", self.simulator.birth, "llm", self.llm),
            ("simulator.acting", self.simulator.acting, "llm", self.llm),
            ("generator.response", self.generator.response, *answers),
            *(("preference.generator.response", g.response, *answers) for g in self.preference.writes()),
        ]
        for name, decoding, model, served in longest:
            if decoding.max_tokens >= served.max_context:
                raise ValueError(
                    f"{name}.max_tokens={decoding.max_tokens} leaves no room for a prompt in "
                    f"{model}.max_context={served.max_context}"
                )
        if self.reward is None and {Need.rewards, Need.rollouts} & needs(self.filters):
            asking = [name for name, config in self.filters.items() if {Need.rewards, Need.rollouts} & config.needs]
            raise ValueError(f"filter {', '.join(asking)} needs a reward; choose one, e.g. reward=embedded")
        if self.reward is None and isinstance(self.preference, BestOfNConfig):
            raise ValueError("preference=best_of_n needs a reward; choose one, e.g. reward=embedded")

    def needs_society(self) -> bool:
        """Whether any generator of this cell reads a simulation."""
        writing = [self.generator, *(self.preference.writes() if self.recipe.dpo else [])]
        return any(generator.needs_society for generator in writing)
