"""SimulatorConfig: size and rules of a society, every open point of the paper's section 3 a knob."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from matrix.engines.base import HOW
from matrix.prompting import Decoding
from matrix.simulation.grouping import Grouping, GroupingConfig
from matrix.simulation.memory import MemoryConfig
from matrix.simulation.modulator import Communication
from matrix.simulation.profiles import ProfilesConfig


class Closes(StrEnum):
    """When a scenario ends; the paper has both (section 3.3 and appendix B.3, which agree for groups of three)."""

    steps = "steps"
    everyone = "everyone"


class Turns(StrEnum):
    """Whether an agent knows what was done before it in the same scenario.

    `in_turn`: agents act one after another, each on what it was told of the actions before. `at_once`: they act at the
    same time and hear of it afterwards (paper section 3.3: agents run concurrently); fewer calls wait for one another.
    """

    in_turn = "in_turn"
    at_once = "at_once"


@dataclass(kw_only=True)
class SimulatorConfig:
    """Size and rules of a society."""

    num_agents: int = 1000
    """N (paper section 3.1: 1000)."""
    profiles: ProfilesConfig = field(default_factory=ProfilesConfig)
    grouping: GroupingConfig = field(default_factory=GroupingConfig)
    communication: Communication = Communication.structured
    communication_from: dict[int, Communication] = field(default_factory=dict)
    """Round -> communication from that round on, e.g. {3: random}: an intervention in a society that is the same until
    then."""
    num_scenarios: int = 10000
    """Scenarios wanted of the society (paper figure 4b: 100 to 10,000); fewer if all goals are reached before."""
    scenario_closes: Closes = Closes.steps
    steps_per_scenario: int = 3
    """Actions of a scenario with `scenario_closes=steps` (paper appendix B.3: 3)."""
    turns: Turns = Turns.in_turn
    exchange_lag: int = 1
    """Rounds until an action is heard of in other groups (paper section 3.3: the following scenario, 1). With 2, groups
    run ahead of each other by a scenario, and none waits for the slowest."""
    plan_steps: int = 8
    """Steps of an agent's plan (paper table 15 shows 8)."""
    reactions_advance_plan: bool = False
    """Whether a reaction counts as a step of the plan. If not, an agent that always hears news never gets to its goal
    (paper: not stated)."""
    route_candidates: int = 50
    """Members that a modulator may choose from in a group that is larger, by similarity of their profiles with the
    action (paper: groups of at most 10; matters for `grouping.kind=single`)."""
    share_candidates: int = 8
    """Groups that a modulator may choose from when it passes an action on, by embedding similarity (paper: all others,
    whose memories do not fit a context; 0: never share)."""
    share_reach: int = 0
    """Groups that a modulator knows of at all, those of the most similar people (0: all, as in the paper). A group
    waits only for groups that know of it, and work grows linearly with the society."""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    max_observations: int = 8
    """Most news that an agent reacts to at once, the newest; older news goes into its memory unanswered."""
    max_posts: int = 6
    """Past posts in the prompts that make an agent; all of them go into its memory."""
    birth: Decoding = field(default_factory=lambda: Decoding(max_tokens=512))
    """Sampling of role, personality, goal and plan."""
    acting: Decoding = field(default_factory=lambda: Decoding(max_tokens=128))
    """Sampling of actions, scenario summaries and digests of memories."""
    routing: Decoding = field(default_factory=lambda: Decoding(temperature=0.2, max_tokens=96))
    """Sampling of the modulators' decisions."""
    fork_from: str | None = field(default=None, metadata=HOW)
    """Name or key of a stored simulation (`simulate-0123456789ab`): calls that both societies make are taken from its
    journal. It changes no result, only what it costs."""

    def __post_init__(self) -> None:
        if self.num_agents < 1 or self.steps_per_scenario < 1 or self.plan_steps < 1 or self.num_scenarios < 1:
            raise ValueError("num_agents, num_scenarios, steps_per_scenario and plan_steps must be at least 1")
        if self.route_candidates < 2:
            raise ValueError("route_candidates must be at least 2; communication=none keeps agents from hearing news")
        if min(self.share_candidates, self.share_reach, self.max_posts) < 0:
            raise ValueError("share_candidates, share_reach and max_posts must not be negative")
        if self.max_observations < 1:
            raise ValueError("max_observations must be at least 1; communication=none keeps agents from hearing news")
        if self.exchange_lag < 1:
            raise ValueError("exchange_lag must be at least 1: a scenario cannot hear of what happens beside it")
        if wrong := [r for r in self.communication_from if r < 0]:
            raise ValueError(f"communication_from: rounds are counted from 0, not {wrong}")
        self.grouping.check(self.num_agents)

    def communication_in(self, round_: int) -> Communication:
        """Who is told of actions in a round."""
        changes = [since for since in self.communication_from if since <= round_]
        return self.communication_from[max(changes)] if changes else self.communication

    @property
    def group_size(self) -> float:
        """Mean number of agents in a group."""
        single = self.grouping.kind is Grouping.single
        return self.num_agents if single else self.num_agents / self.grouping.num_groups

    @property
    def scenario_size(self) -> float:
        """Mean number of actions in a scenario, while nobody has reached the goal."""
        return self.steps_per_scenario if self.scenario_closes is Closes.steps else self.group_size
