"""Where people come from: a synthetic population, a JSONL or CSV file, or a hub dataset (paper section 3.1).

The simulation turns each `Profile` into an anonymised agent; nothing here calls a model.
"""

from __future__ import annotations

import csv
import json
import logging
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

from matrix.jsonl import RowError
from matrix.provenance import file_fingerprint
from matrix.records import Profile
from matrix.simulation.synthetic import synthetic_profile

log = logging.getLogger(__name__)

FIELDS = ("id", "name", "description", "posts")
SUFFIXES = (".jsonl", ".csv")


class UnusableRow(RowError):
    """A row that is not a profile; `reason` is the same for all rows with the same mistake, e.g. `field name`."""

    def __init__(self, place: str, reason: str, detail: str) -> None:
        super().__init__(f"{place}: {reason}{detail}")
        self.reason = reason


class BadRow(StrEnum):
    """What to do with a row that is not a profile."""

    fail = "fail"
    skip = "skip"
    """Log what is wrong with it and go on."""


@dataclass(kw_only=True)
class ProfilesConfig:
    """Source of profiles: `path`, or `dataset`, or with neither a synthetic population.

    The paper takes 1,000 X (Twitter) users that it does not release. Rows are taken from the start of the source, so
    more agents leave those that were there as they are.
    """

    path: str | None = field(default=None, metadata={"identity": file_fingerprint})
    """JSON Lines or CSV file with `name`, `description` and, optionally, `id` and `posts`."""
    dataset: str | None = None
    """Dataset on the hub, or a folder that `datasets.load_dataset` reads."""
    revision: str | None = None
    """Commit, branch or tag of `dataset`."""
    split: str = "train"
    """Split of `dataset`."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our field -> the source's column, where they differ, e.g. {posts: tweets}."""
    separator: str = "|"
    """What stands between two posts in one text cell; a cell that holds a JSON list needs none."""
    on_bad_row: BadRow = BadRow.fail
    """Stop at the first row that is not a profile, or leave such rows out."""

    def __post_init__(self) -> None:
        if self.path and self.dataset:
            raise ValueError(f"profiles.path={self.path} and profiles.dataset={self.dataset}: set one of the two")
        if self.path and Path(self.path).suffix not in SUFFIXES:
            raise ValueError(f"profiles.path={self.path}: need a file that ends in {' or '.join(SUFFIXES)}")
        if self.path and not Path(self.path).is_file():
            raise ValueError(f"profiles.path={self.path}: there is no such file (searched from {Path.cwd()})")
        if unknown := set(self.columns) - set(FIELDS):
            raise ValueError(f"profiles.columns: no field {', '.join(sorted(unknown))}; fields are {', '.join(FIELDS)}")
        if not self.separator:
            raise ValueError('profiles.separator is empty; name the text between two posts, e.g. "|"')


def load_profiles(config: ProfilesConfig, count: int, seed: int, skipped: Counter[str] | None = None) -> list[Profile]:
    """The first `count` profiles of a source; files and datasets are read no further than that.

    Args:
        config: the source.
        count: number of profiles.
        seed: decides who lives in the synthetic population; other sources do not depend on it.
        skipped: where given, the number of rows that were left out is added to it, by what was wrong with them.

    Raises:
        RowError: a row is not a profile (and `on_bad_row=fail`); says where, which field and what was expected.
        ValueError: the source holds fewer than `count` profiles.
    """
    if not config.path and not config.dataset:
        return [synthetic_profile(seed, index) for index in range(count)]
    source = str(config.path or config.dataset)
    with closing(_rows(config)) as rows:
        profiles = list(islice(_good(config, rows, Counter() if skipped is None else skipped), count))
    if len(profiles) < count:
        raise ValueError(
            f"{source} holds {len(profiles)} usable profiles, {count} agents were asked for. "
            f"Set simulator.num_agents={len(profiles)} or give a larger source"
        )
    return profiles


def _rows(config: ProfilesConfig) -> Generator[tuple[str, dict[str, Any] | UnusableRow]]:
    """Place -> row as plain data, or what kept it from being read."""
    if config.dataset:
        from datasets import load_dataset

        stream = load_dataset(config.dataset, split=config.split, revision=config.revision, streaming=True)
        for number, row in enumerate(stream, 1):
            yield f"{config.dataset}:{config.split}:{number}", row
        return
    path = Path(str(config.path))
    with path.open(encoding="utf-8-sig", newline="" if path.suffix == ".csv" else None) as file:
        if path.suffix == ".csv":
            reader = csv.DictReader(file)
            for row in reader:
                place = f"{path}:{reader.line_num}"
                surplus = UnusableRow(
                    place, "more cells than the header has columns", "; put quotes around text with commas"
                )
                yield place, surplus if None in row else {key: value for key, value in row.items() if value}
            return
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                yield place, UnusableRow(place, "not JSON", f" ({error}); expected one object a line")
                continue
            is_object = isinstance(row, dict)
            yield place, row if is_object else UnusableRow(place, "expected a JSON object", f", found {_kind(row)}")


def _good(
    config: ProfilesConfig, rows: Iterator[tuple[str, dict[str, Any] | UnusableRow]], skipped: Counter[str]
) -> Iterator[Profile]:
    seen: dict[str, str] = {}
    for number, (place, row) in enumerate(rows, 1):
        try:
            if isinstance(row, UnusableRow):
                raise row
            profile = _profile(config, place, number, row)
            if profile.id in seen:
                raise UnusableRow(
                    place, "field id", f": {profile.id!r} is taken by {seen[profile.id]}; ids must differ"
                )
        except UnusableRow as error:
            if config.on_bad_row is BadRow.fail:
                raise RowError(f"{error}. Mend the row, or leave such rows out with profiles.on_bad_row=skip") from None
            log.warning("left out: %s", error)
            skipped[error.reason] += 1
            continue
        seen[profile.id] = place
        yield profile


def _profile(config: ProfilesConfig, place: str, number: int, row: dict[str, Any]) -> Profile:
    def column(name: str) -> str:
        return config.columns.get(name, name)

    def text(name: str) -> str:
        value = row.get(column(name))
        if not isinstance(value, str) or not value.strip():
            found = f"found {_kind(value)}" if column(name) in row else f"the row has {', '.join(map(str, row))}"
            raise UnusableRow(
                place,
                f"field {name}",
                f": expected text in column {column(name)!r}, {found}. "
                f"Name another column with +profiles.columns.{name}=<column>",
            )
        return value.strip()

    identifier = row.get(column("id"), f"{number:06}")
    if not isinstance(identifier, str | int):
        raise UnusableRow(place, "field id", f": expected text or a number, found {_kind(identifier)}")
    posts = row.get(column("posts")) or []
    if isinstance(posts, str):
        posts = _split(config, place, posts)
    if not isinstance(posts, list) or not all(isinstance(post, str) for post in posts):
        wrong = next((p for p in posts if not isinstance(p, str)), posts) if isinstance(posts, list) else posts
        found = f"found {_kind(wrong)} {str(wrong)[:40]!r}"
        raise UnusableRow(place, "field posts", f": expected a list of texts, {found}")
    cleaned = [post.strip() for post in posts if post.strip()]
    return Profile(id=str(identifier), name=text("name"), description=text("description"), posts=cleaned)


def _split(config: ProfilesConfig, place: str, cell: str) -> Any:
    if not cell.lstrip().startswith(('["', "[]")):
        return cell.split(config.separator)
    try:
        return json.loads(cell)
    except json.JSONDecodeError as error:
        raise UnusableRow(place, "field posts", f": starts like a JSON list and is none ({error})") from None


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    if isinstance(value, str) and not value.strip():
        return "an empty text"
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
