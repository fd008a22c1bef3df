"""The card of an exported data set: what it is, how it came to be, with which models, and how to make it again.

What the card of a model (model_card.py) tells in the same way stands here too.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import yaml

from matrix.engines.base import HOW, ModelConfig
from matrix.export.formats import public_name
from matrix.export.licences import licence
from matrix.export.source import Part, Source
from matrix.jsonl import iter_jsonl
from matrix.records import Conversation, Tags
from matrix.report.library import Stored
from matrix.training.recipe import TrainConfig
from matrix.training.stage import Train

LABELS = ("kind", "category", "complexity", "style")
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
PACKAGES = ("torch", "transformers", "vllm", "openvino-genai", "openai", "sentence-transformers")
MOST_VALUES = 15
"""Values of a column or tag that the card lists."""


def _how(kind: type) -> set[str]:
    return {field.name for field in fields(kind) if field.metadata == HOW}


SERVED, TRAINED, STAGE = _how(ModelConfig), _how(TrainConfig), _how(Train)
"""How models were served and trained, addresses of endpoints and machines among it: not for those who read a card."""


def card(
    source: Source, configs: Mapping[str, str], files: Sequence[str], tags: Mapping[str, Tags], license_id: str
) -> str:
    """The text of README.md, with the header that the hub and `load_dataset` read.

    Args:
        source: what was exported.
        configs: name -> file, of everything that `load_dataset(folder, name)` is to read; the first is the default.
        files: all files of the data set.
        tags: an LLM's tags by row id; empty if there are none.
        license_id: licence of the data set; empty: unknown.
    """
    results, gone = source.lineage()
    manifest = source.parts[0].result.manifest
    counts = {part.name: columns(part) for part in source.parts}
    return fill(
        "card.md.jinja",
        header=_header(source, configs, tags, license_id),
        source=source,
        configs=configs,
        files=files,
        license_id=license_id,
        columns=counts,
        society=any("society" in values for values in counts.values()),
        command=shown_command(source.command),
        export_command=f"matrix-export {place(source.name)} FOLDER",
        tags={part.name: distribution(part, tags) for part in source.parts} if tags else {},
        results=results,
        gone=gone,
        funnels={r.name: funnel for r in results if (funnel := read_json(r, "funnel.json"))},
        generations={r.name: told for r in results if (told := read_json(r, "generation.json"))},
        models=models(results),
        origins=dict.fromkeys(place for result in results for place in _sources(result.manifest["config"])),
        settings=settings(results),
        environment=manifest["environment"],
        versions=versions(manifest),
    )


def fill(template: str, header: Mapping[str, Any], **values: Any) -> str:
    """A card: its header in YAML, and a template of this folder."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown
    )
    environment.filters["cell"] = _cell
    dumped = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    return environment.get_template(template).render(header=dumped, **values)


def place(name: str) -> str:
    """What to type for a result or a cell."""
    return f"outputs/grids/{name}" if "/" in name else name


def settings(results: Sequence[Stored]) -> dict[str, str]:
    """The configs of results as JSON, by name: all that decides them."""
    return {r.name: json.dumps(shown(r.manifest["config"]), indent=1, ensure_ascii=False) for r in results}


def versions(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The packages that matter most, of those that a result was made with."""
    return {n: v for n in PACKAGES if (v := manifest["environment"]["packages"].get(n))}


def tags_of(source: Source) -> dict[str, Tags]:
    """The tags of the rows, by row id: those that a filter of the lineage read, or else those measured of the rows."""
    found: dict[str, Tags] = {}
    for part in source.parts:
        chain = part.result.manifest["identity"]["inputs"]
        read_from = {part.result.manifest["key"], chain.get("rows")}
        tagged = [r for r in source.library.results.values() if (r.path / "tags.jsonl").exists()]
        named = [r for r in tagged if r.manifest["key"] == chain.get("tags")]
        others = [r for r in tagged if read_from & set(r.manifest["identity"]["inputs"].values())]
        for result in (named or others)[:1]:
            ids = {row.id for row in part.read()}
            found |= {t.id: t for t in iter_jsonl(result.path / "tags.jsonl", Tags) if t.id in ids}
    return found


def columns(part: Part) -> dict[str, list[tuple[str, int]]]:
    """How often each value of the rows' labels occurs: {column: [(value, rows)]}, most frequent first."""
    others = ("society", "written by", "rejected answer by")
    counts: dict[str, Counter[str]] = {name: Counter() for name in (*LABELS, *others)}
    for row in part.read():
        for name in LABELS:
            counts[name][getattr(row, name)] += 1
        counts["society"][row.origin.society] += 1
        counts["written by"][public_name(row.origin.model)] += 1
        if not isinstance(row, Conversation):
            counts["rejected answer by"][row.rejected_model] += 1
    return {name: count.most_common(MOST_VALUES) for name, count in counts.items() if set(count) - {""}}


def distribution(part: Part, tags: Mapping[str, Tags]) -> dict[str, list[tuple[str, int]]]:
    """How often each tag occurs among the rows of a part; scores are rounded to whole numbers."""
    counts: dict[str, Counter[str]] = {f.name: Counter() for f in msgspec.structs.fields(Tags) if f.name != "id"}
    for found in (tags[row.id] for row in part.read() if row.id in tags):
        for name, count in counts.items():
            value = getattr(found, name)
            count["" if value is None else str(round(value) if isinstance(value, float) else value)] += 1
    return {name: count.most_common(MOST_VALUES) for name, count in counts.items() if set(count) - {""}}


def models(results: Sequence[Stored]) -> list[tuple[str, str, str, str]]:
    """Every model behind the results: (model and revision, used as, licence, where that was read)."""
    used: dict[tuple[str, str | None], dict[str, list[str]]] = {}
    for result in results:
        for role, model in _models("", result.manifest["config"]):
            stages = used.setdefault((model["model"], model["revision"]), {}).setdefault(role, [])
            if result.stage not in stages:
                stages.append(result.stage)
    rows = []
    for (name, revision), roles in used.items():
        full = public_name(name) + (f"@{revision}" if revision else "")
        rows.append((full, "; ".join(f"{r} of {', '.join(s)}" for r, s in roles.items()), *licence(name, revision)))
    return rows


def _header(source: Source, configs: Mapping[str, str], tags: Mapping[str, Tags], license_id: str) -> dict[str, Any]:
    rows = sum(part.rows for part in source.parts)
    languages = _languages(source, tags)
    synthetic = all(row.origin.model for part in source.parts for row in part.read())
    return {
        "license": license_id or "unknown",
        **({"language": languages} if languages else {}),
        "task_categories": ["text-generation"],
        "size_categories": [next((word for most, word in SIZES.items() if rows < most), "n>10M")],
        "tags": [*(["synthetic"] if synthetic else []), "matrix-gen", *(part.name for part in source.parts)],
        "configs": [
            {
                "config_name": name,
                **({"default": True} if place == 0 else {}),
                "data_files": [{"split": "train", "path": file}],
            }
            for place, (name, file) in enumerate(configs.items())
        ],
    }


def _languages(source: Source, tags: Mapping[str, Tags]) -> list[str]:
    """Tagged languages of at least one row in a hundred, or else those that a filter let through."""
    counts = Counter(found.language for found in tags.values() if found.language)
    if counts:
        return [language for language, rows in counts.most_common() if rows * 100 >= counts.total()]
    chains = (part.result.manifest["config"].get("filters", {}) for part in source.parts)
    passed = (config.get("languages") or [] for chain in chains for config in chain.values())
    return list(dict.fromkeys(language for languages in passed for language in languages))


def read_json(result: Stored, name: str) -> Any:
    """A JSON file of a result, None where it has none."""
    file = result.path / name
    return json.loads(file.read_text()) if file.exists() else None


def _models(role: str, config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Role -> config, of every model in a stage's config."""
    if isinstance(config, dict):
        if isinstance(config.get("model"), str) and "revision" in config:
            yield role, config
        for name, item in config.items():
            yield from _models(name, item)


def _sources(config: Any) -> Iterator[str]:
    """Files and data sets that a config reads."""
    if isinstance(config, dict):
        revision = f"@{config['revision']}" if config.get("revision") else ""
        for name in ("dataset", "path", "seeds"):
            if isinstance(config.get(name), str) and config[name]:
                yield f"{public_name(config[name])}{revision}"
        for item in config.values():
            yield from _sources(item)


def shown(value: Any) -> Any:
    """A config as strangers may see it: what decides results, and of local paths the last name only."""
    if isinstance(value, dict):
        hidden = SERVED if {"model", "revision"} <= set(value) else set()
        hidden = hidden | (TRAINED if "learning_rate" in value else set()) | (STAGE if "recipe" in value else set())
        return {name: shown(item) for name, item in value.items() if name not in hidden}
    if isinstance(value, list):
        return [shown(item) for item in value]
    return public_name(value) if isinstance(value, str) else value


def shown_command(command: str) -> str:
    """A command line without how and where things were run."""
    words = [word.partition("=") for word in shlex.split(command)]
    return shlex.join(name + equals + public_name(value) for name, equals, value in words if not _is_how(name))


def _is_how(name: str) -> bool:
    """Whether a setting, e.g. `recipe.sft.micro_batch_size`, says how and not what."""
    path = re.split(r"[./]", name.lstrip("+~"))
    if path[0] in ("logger", "store") or path[:2] == ["recipe", "strategy"]:
        return True
    return path[-1] in (TRAINED if path[0] == "recipe" else SERVED)


def _cell(value: object) -> str:
    """Text for a cell of a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ")
