"""`matrix-report DIR`: writes report.html, figures/ and leaderboard.md and .csv of a grid, and prints its leaderboard.

Called by hand and by `matrix` after every run; works on a grid that is not finished.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matrix.report.cells import GridError, read_grid
from matrix.report.leaderboard import leaderboard
from matrix.report.tables import as_csv, as_markdown, as_table


def write_report(grid: Path) -> Path:
    """Write the report's files into a grid folder and return the path of report.html.

    Raises:
        GridError: the folder is not a grid.
    """
    from matrix.report.html import render

    read = read_grid(grid)
    board = leaderboard(read)
    (grid / "leaderboard.md").write_text(f"# {read.name}\n\n{as_markdown(board)}", encoding="utf-8")
    (grid / "leaderboard.csv").write_text(as_csv(board), encoding="utf-8")
    report = grid / "report.html"
    report.write_text(render(read, grid / "figures"), encoding="utf-8")
    return report


def print_table(grid: Path) -> None:
    """Print the leaderboard of a grid folder.

    Raises:
        GridError: the folder is not a grid.
    """
    from rich.console import Console

    read = read_grid(grid)
    Console().print(as_table(leaderboard(read), read.name))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 2 where the folder is not a grid."""
    parser = argparse.ArgumentParser(
        prog="matrix-report",
        description="Write report.html, leaderboard.md, leaderboard.csv and figures/ (training, as SVG) into a grid "
        "folder and print the table.",
    )
    parser.add_argument("grid", type=Path, metavar="DIR", help="a grid folder, e.g. outputs/grids/demo")
    path = parser.parse_args(argv).grid
    try:
        report = write_report(path)
    except GridError as error:
        print(f"matrix-report: {error}", file=sys.stderr)
        return 2
    print_table(path)
    print(f"\nReport: {report}")
    return 0
