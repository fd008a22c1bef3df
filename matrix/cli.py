"""The console script `matrix`: composes configs with Hydra, makes cells, prints the table, sets the exit code.

The only file that imports Hydra. `conf/` holds the groups, `experiments/` the presets and grids; in a wheel both lie
inside the package. Exit codes: 0 all cells done, 1 a cell failed, 2 the command is wrong, 130 interrupted.
"""

from __future__ import annotations

import copy
import os
import re
import sys
import uuid
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from matrix.cell import INVOCATION, cell_id, run_cell
from matrix.config import MatrixConfig
from matrix.filtering.dedup import DedupConfig
from matrix.filtering.language import LanguageConfig
from matrix.filtering.length import LengthConfig

PACKAGE = Path(__file__).parent
ROOT = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent
GRIDS: dict[Path, bool] = {}
"""Grid folders of this command -> whether it is a sweep."""


class Experiments(SearchPathPlugin):
    """Puts `experiments/` on the search path, whatever the working directory (unlike `hydra.searchpath: file://...`)."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add it behind `conf/`."""
        search_path.append("matrix", f"file://{ROOT / 'experiments'}")


class Sweep(Callback):
    """Learns the grid's folder, whatever launcher runs its cells, and refuses a sweep over grids."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the first cell."""
        chosen = [o for o in config.hydra.overrides.task if re.match(r"\+?ablation=.*,", o)]
        if chosen:
            raise CommandError(
                f"{chosen[0]}: Hydra reads a grid's axes before it sweeps. Start one command per ablation"
            )
        GRIDS[Path(config.hydra.sweep.dir)] = True


class CommandError(ValueError):
    """The command line asks for something that cannot be."""


def to_config(composed: DictConfig) -> MatrixConfig:
    """The composed config as dataclasses; every `__post_init__` check runs here."""
    with read_write(composed), open_dict(composed):
        composed.pop("hydra", None)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, MatrixConfig)
    return config


def _cell_id(*, _root_: DictConfig) -> str:
    return cell_id(to_config(copy.deepcopy(_root_)), list(_root_.hydra.overrides.task))


def register() -> None:
    """Tell Hydra the schema, the search path and the cell folder's name; safe to call twice."""
    Plugins.instance().register(Experiments)
    OmegaConf.register_new_resolver("cell_id", _cell_id, replace=True)
    store = ConfigStore.instance()
    store.store(name="schema", node=MatrixConfig)
    for name, node in (("length", LengthConfig), ("language", LanguageConfig), ("dedup", DedupConfig)):
        store.store(group="schema/filter", name=name, node=node)
    # Hydra finds callbacks by this key and in no other way.
    store.store(group="hydra/callbacks", name="sweep", node={"sweep": {"_target_": "matrix.cli.Sweep"}})


@hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="config")
def application(composed: DictConfig) -> str:
    """One cell. Returns its status; `main` makes the exit code of all of them."""
    config = to_config(composed)
    settings = HydraConfig.get()
    overrides = list(settings.overrides.task)
    folder = Path(settings.runtime.output_dir)
    GRIDS.setdefault(folder.parent, False)
    if config.plan:
        from rich.console import Console

        from matrix.plan import make_plan, plan_table

        Console().print(plan_table(folder.name, make_plan(config)))
        return "planned"
    choices = {k: v for k, v in settings.runtime.choices.items() if isinstance(v, str) and "/" not in k}
    return run_cell(config, folder, overrides, choices)


def main() -> None:
    """Run the command line and exit."""
    os.environ[INVOCATION] = uuid.uuid4().hex
    # With this set Hydra raises what went wrong instead of printing a trace of its own and exiting.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    register()
    try:
        application()
    except (HydraException, OmegaConfBaseException, ValueError, FileNotFoundError) as error:
        if os.environ.get("MATRIX_DEBUG"):
            raise
        sys.exit(_explained(error))
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept: the same command goes on from here.", file=sys.stderr)
        sys.exit(130)
    sys.exit(_report())


def _report() -> int:
    """Write and print the table of every grid that this command worked on; 1 if one of its cells failed."""
    import json

    from matrix.report.main import print_table, write_report

    failed = False
    for grid in GRIDS:
        results = [json.loads(file.read_text()) for file in sorted(grid.glob("*/result.json"))]
        mine = [r for r in results if r["invocation"] == os.environ[INVOCATION]]
        if not mine:
            continue
        failed |= any(r["status"] == "failed" for r in mine)
        report = write_report(grid)
        print_table(grid)
        print(f"\nReport: {report}")
    return int(failed)


def _explained(error: Exception) -> int:
    """Print what was wrong, what is allowed and what is nearest; the exit code."""
    text = str(error).split("\n    full_key")[0]
    cause: BaseException | None = error
    while cause is not None and cause.__cause__ is not None:
        cause = cause.__cause__
        if isinstance(cause, ValueError | OmegaConfBaseException) and str(cause) not in text:
            text += f"\n{cause}"
    text = re.sub(r"\nTo append to your config use .*", "", text)
    print(f"matrix: {text}", file=sys.stderr)
    wrong = re.search(r"override '([^']+)'|Key '([^']+)' (?:is )?not in|Could not find '([^']+)'", text)
    if wrong:
        word = next(group for group in wrong.groups() if group)
        near = get_close_matches(word, _names(), n=3, cutoff=0.6)
        near = near or [
            name
            for name in _names()
            if name.split(".")[-1] in get_close_matches(word.split(".")[-1], [n.split(".")[-1] for n in _names()], n=1)
        ]
        if near:
            print(f"Did you mean {', '.join(near)}?", file=sys.stderr)
        print("All names: matrix --cfg job; all options: matrix --help", file=sys.stderr)
    return 2


def _names() -> list[str]:
    """Config groups, `group/option` of every option, and every field's dotted path."""
    options = [
        file.relative_to(base).with_suffix("")
        for base in (ROOT / "conf", ROOT / "experiments")
        for file in base.glob("*/*.yaml")
    ]
    paths = [o.as_posix() for o in options]

    def walk(node: Any, prefix: str) -> None:
        for key in node:
            name = f"{prefix}{key}"
            paths.append(name)
            child = node._get_node(key) if isinstance(node, DictConfig) else None
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
                walk(child, f"{name}.")

    walk(OmegaConf.structured(MatrixConfig), "")
    return sorted({*paths, *(p.split("/")[0] for p in paths)})
