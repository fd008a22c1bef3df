"""`matrix-explain ROW_ID`: walks from a row back to what it grew out of, and on to what was trained on it.

Reads the store alone (library.py): a row's `Origin` points back (instruction, scenario, agent, society), the inputs in
the manifests point on (what was measured of it, filters that kept or dropped it, train stages that consumed it).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrix.records import Action, Agent, Drop, Failure, Origin, Profile, Row, Scenario
from matrix.report.library import Library, Stored
from matrix.report.measured import measured
from matrix.report.samples import TrainingRow

if TYPE_CHECKING:
    from rich.tree import Tree

MOST_HOLDERS = 3
"""Stage results that are shown for one id; beyond it one is to be named."""
MOST_GROWN = 12
LONGEST = 400
"""Characters of one text."""


def tree(library: Library, result: Stored, row: Row) -> Tree:
    """All that is known of a row."""
    from rich.tree import Tree

    root = Tree(_text(f"{getattr(row, 'id', '')}  in {result.name}", "bold"))
    root.add(_text(f"folder: {result.path}", "dim"))
    if isinstance(row, TrainingRow):
        _training_row(library, root, result, row)
    elif isinstance(row, Scenario):
        _scenario(root, result, row)
        _grown(library, root, result, row.id)
    elif isinstance(row, Action):
        _action(root, result, row)
        if scenario := result.one("scenarios.jsonl", row.scenario, Scenario):
            _scenario(root.add(_text(f"scenario {scenario.id}, group {scenario.group}")), result, scenario)
        _agent(root, result, row.agent)
    elif isinstance(row, Agent):
        _agent(root, result, row.id)
        _grown(library, root, result, row.id)
    elif isinstance(row, Profile):
        root.add(_text("the profile's text stays in the store; these agents were made from it:", "dim"))
        for agent in result.mentions("agents.jsonl", row.id, Agent):
            _agent(root, result, agent.id)
    return root


def _training_row(library: Library, node: Tree, result: Stored, row: TrainingRow) -> None:
    _said(node, "instruction", row.instruction)
    _said(node, "preferred answer" if row.chosen else "answer", row.response)
    if row.rejected:
        _said(node, f"rejected answer, by {row.rejected_model}", row.rejected)
    if row.tags or row.requirement:
        node.add(_text(f"asked for: {row.tags}" + (f"; requirement: {row.requirement}" if row.requirement else "")))
    _origin(node, row.origin)
    for fact, details in measured(library, result, row.id):
        branch = node.add(_text(fact))
        for detail in details:
            branch.add(_text(_cut(detail), "dim"))
    for failure in result.mentions("failures.jsonl", row.id, Failure):
        _said(node, f"unusable {failure.purpose} ({failure.error})", failure.text)
    if row.origin.instruction:
        branch = node.add(_text(f"instruction taken from {row.origin.instruction}"))
        for source, item in library.holders(row.origin.instruction):
            if isinstance(item, TrainingRow):
                _training_row(library, branch, source, item)
    society = library.results.get(row.origin.society)
    if society:
        if scenario := society.one("scenarios.jsonl", row.origin.scenario, Scenario):
            _scenario(
                node.add(_text(f"scenario {scenario.id}, group {scenario.group}, in {society.name}")), society, scenario
            )
        _agent(node, society, row.origin.agent)
    elif row.origin.society:
        node.add(_text(f"{row.origin.society} is not in the store any more", "red"))
    _fate(library, node.add(_text("what became of it", "bold")), result, row)


def _fate(library: Library, node: Tree, result: Stored, row: TrainingRow) -> None:
    for chain in library.read_by(result, "filter"):
        drop = chain.one("drops.jsonl", row.id, Drop)
        if drop:
            value = f" ({drop.value})" if drop.value else ""
            node.add(_text(f"dropped by {drop.filter}: {drop.reason}{value}, in {chain.name}", "red"))
        elif chain.one("rows.jsonl", row.id, TrainingRow):
            funnel = json.loads((chain.path / "funnel.json").read_text())
            names = ", ".join(step["filter"] for step in funnel) or "an empty chain"
            _fate(library, node.add(_text(f"kept by {names}, in {chain.name}", "green")), chain, row)
    for train in library.read_by(result, "train"):
        node.add(_text(f"trained on by {train.name} ({train.path})", "green"))
    if not node.children:
        node.add(_text("nothing yet: no filter or train stage has read it", "dim"))


def _scenario(node: Tree, result: Stored, scenario: Scenario) -> None:
    _said(node, "summary", scenario.summary)
    actions = {action.id: action for action in result.mentions("actions.jsonl", scenario.id, Action)}
    for name in scenario.actions:
        if name in actions:
            _action(node.add(_text(f"action {name}")), result, actions[name])
    _origin(node, scenario.origin)


def _action(node: Tree, result: Stored, action: Action) -> None:
    agent = result.one("agents.jsonl", action.agent, Agent)
    node.add(_text(f"{agent.name if agent else action.agent}: {action.text}"))
    for observation in action.observations:
        _said(node, "in reaction to", observation)
    if not action.observations and agent and 0 <= action.plan_step < len(agent.plan):
        _said(node, "plan step", agent.plan[action.plan_step])
    heard = [f"agent {name}" for name in action.aware] + [f"group {group}" for group in action.shared]
    if heard:
        node.add(_text(f"heard by {', '.join(heard)}" + (f": {action.reason}" if action.reason else ""), "dim"))
    _origin(node, action.origin)


def _agent(node: Tree, result: Stored, name: str) -> None:
    agent = result.one("agents.jsonl", name, Agent)
    if agent is None:
        return
    branch = node.add(_text(f"agent {agent.id}: {agent.name}, group {agent.group}"))
    for title in ("description", "personality", "goal"):
        _said(branch, title, getattr(agent, title))
    plan = branch.add(_text("plan"))
    for step in agent.plan:
        plan.add(_text(_cut(step)))
    branch.add(_text(f"made from profile {agent.profile}"))
    _origin(branch, agent.origin)


def _grown(library: Library, node: Tree, society: Stored, name: str) -> None:
    """The training rows that grew out of a scenario or an agent."""
    for result in library.results.values():
        if result.stage in ("generate", "prefer"):
            rows = result.mentions("rows.jsonl", name, TrainingRow)
            rows = [r for r in rows if r.origin.society == society.name and name in (r.origin.scenario, r.origin.agent)]
            if rows:
                branch = node.add(_text(f"{len(rows)} rows grew out of it in {result.name}"))
                for row in rows[:MOST_GROWN]:
                    branch.add(_text(f"{row.id}: {_cut(row.instruction, 90)}"))


def _origin(node: Tree, origin: Origin) -> None:
    templates = ", ".join(f"{name} {digest}" for name, digest in origin.templates.items())
    words = [f"model {origin.model}" if origin.model else "", f"seed {origin.seed}", templates]
    node.add(_text("origin: " + "; ".join(word for word in words if word), "dim"))


def _said(node: Tree, title: str, text: str) -> None:
    node.add(_text(f"{title}: {_cut(text)}"))


def _cut(text: str, most: int = LONGEST) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]} …"


def _text(text: str, style: str = "") -> Any:
    """Text that is never read as markup."""
    from rich.text import Text

    return Text(text, style)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 2 where the id is unknown or in too many stage results."""
    parser = argparse.ArgumentParser(
        prog="matrix-explain",
        description="Walk from a row back to the instruction, scenario, actions, agents and profile that it grew out "
        "of, and on to the filters and training runs that used it.",
    )
    parser.add_argument("id", metavar="ROW_ID", help="e.g. sft-00012, pair-00007, g02-s01, g02-s01-t2, a0003")
    parser.add_argument("--store", type=Path, default=Path("outputs/store"), help="default: %(default)s")
    parser.add_argument("--stage", default="", help="only this stage result, e.g. generate-1a2b3c4d5e6f or generate")
    arguments = parser.parse_args(argv)
    library = Library(arguments.store)
    if not library.results:
        return _refuse(
            f"no stage results in {arguments.store}. Name the store with --store, e.g. --store outputs/store"
        )
    every = library.holders(arguments.id)
    found = [(result, row) for result, row in every if result.name.startswith(arguments.stage)]
    places = ", ".join(result.name for result, _ in every)
    if not every:
        near = ", ".join(library.nearest(arguments.id))
        return _refuse(
            f"no row {arguments.id} in {arguments.store}. " + (f"Nearest: {near}" if near else "No id there is like it")
        )
    if not found:
        return _refuse(f"no row {arguments.id} in --stage {arguments.stage}. It is in {places}")
    if len(found) > MOST_HOLDERS:
        return _refuse(f"{arguments.id} is in {len(found)} stage results: {places}. Name one with --stage")

    from rich.console import Console

    console = Console()
    for result, row in found:
        console.print(tree(library, result, row))
    if len(found) > 1:
        console.print(_text(f"{arguments.id} is in {len(found)} stage results; name one with --stage", "yellow"))
    return 0


def _refuse(message: str) -> int:
    print(f"matrix-explain: {message}", file=sys.stderr)
    return 2
