"""Tag: the stage in which an LLM says of every row what kind of task it is, how well it is put and how hard it is.

Reads the rows of an upstream result; the filters of `matrix.filtering.tagged` and `matrix.filtering.deita` read what it
writes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from matrix.engines.base import HOW, ModelConfig, Sampling
from matrix.engines.opening import open_model
from matrix.filtering.language import NOT_PROSE, LanguageConfig
from matrix.jsonl import write_jsonl
from matrix.progress import show
from matrix.prompting import Asker, Decoding, Unparsable, expected, fields_schema, json_fields
from matrix.provenance import derive_seed
from matrix.records import Failure, Message, Tags
from matrix.rows import TrainingRow, count_rows, instruction, preferred, read_rows
from matrix.stage import Estimate, Result, Stage


class TagName(StrEnum):
    """What can be said of a row: the fields of `Tags`."""

    category = "category"
    quality = "quality"
    difficulty = "difficulty"
    safety = "safety"
    language = "language"
    complexity = "complexity"
    response_quality = "response_quality"


LABELS: dict[TagName, list[str]] = {
    TagName.category: [
        "Information seeking", "Reasoning", "Planning", "Editing", "Coding & Debugging", "Math", "Data analysis",
        "Creative writing", "Role playing", "Advice seeking", "Brainstorming", "Others",
    ],
    TagName.quality: ["very poor", "poor", "average", "good", "excellent"],
    TagName.difficulty: ["very easy", "easy", "medium", "hard", "very hard"],
    TagName.safety: ["safe", "unsafe"],
}  # fmt: skip
"""Magpie's labels, in the order in which the prompts list them, from A on."""
SCORES = "123456"
"""DEITA's scale, of `complexity` and `response_quality`."""

PROMPT_TOKENS, INSTRUCTION_TOKENS, RESPONSE_TOKENS = 180, 80, 450
"""Behind the plan's estimates: fixed text of a prompt, a typical instruction and response."""
NOTHING = "N/A"
"""Stands for instruction and response in a content-free prompt."""


class How(StrEnum):
    """How the LLM gives its answer."""

    choices = "choices"
    """Log-probabilities of the options as first token: the likeliest label, the expected score. Where an engine reports
    none, the one token that it wrote is the answer."""
    text = "text"
    """JSON with the name of one option, for endpoints that refuse log-probabilities; scores are then whole numbers."""


class Calibration(StrEnum):
    """What is taken off the log-probabilities of the options."""

    none = "none"
    content_free = "content_free"
    """Those after a prompt about nothing: small models prefer an option for its place and its letter. A model that can
    tell calls nothing a very poor instruction, rightly, and this would take it for such a preference."""


@dataclass(kw_only=True)
class TaggingConfig:
    """Labels after Magpie (arXiv 2406.08464, section 3) and scores after DEITA (arXiv 2312.15685, section 2).

    Estimator: one LLM's immediate judgement on prompts of ours. Magpie lets its LLM explain itself first; DEITA has two
    scorers trained on ChatGPT's rankings, whose expected score over 1..6 is taken as here. The language is py3langid's.
    Cost: one call for each row and tag but the language; with `calibration` one more for each tag.
    """

    tags: list[TagName] = field(default_factory=list)
    """What is asked for; the rest stays empty. In a run the tags that its filters read come on top."""
    how: How = How.choices
    """How the LLM answers."""
    calibration: Calibration = Calibration.none
    """Contextual calibration (Zhao et al., arXiv 2102.09690), of `how=choices`."""
    decoding: Decoding = field(default_factory=lambda: Decoding(temperature=0.0, top_p=1.0, max_tokens=32))
    """Sampling of `how=text`."""

    def __post_init__(self) -> None:
        if len(set(self.tags)) < len(self.tags):
            raise ValueError(f"tags must name any of {', '.join(TagName)}, each once, not {self.tags}")
        if self.calibration is not Calibration.none and self.how is How.text:
            raise ValueError("calibration needs log-probabilities: set how=choices, or calibration=none")

    @property
    def asked(self) -> list[TagName]:
        """The tags that cost calls."""
        return [tag for tag in self.tags if tag is not TagName.language]

    def with_tags(self, more: Iterable[str]) -> TaggingConfig:
        """The same, with these tags too."""
        wanted = {*self.tags, *more}
        return dataclasses.replace(self, tags=[tag for tag in TagName if tag in wanted])


@dataclass(kw_only=True)
class Tag(Stage):
    """Writes tags.jsonl (`Tags`, one a row, in the order of the rows), failures.jsonl and counts.json.

    counts.json holds how often each label was given and each tag could not be had: `{"labels": {tag: {label: number}},
    "missing": {tag: number}}`.
    """

    name: ClassVar[str] = "tag"
    prompts: ClassVar[str | None] = "matrix.filtering"

    tagging: TaggingConfig
    llm: ModelConfig
    rows: Result
    """A result with `rows.jsonl` of `Conversation` or `PreferencePair`."""
    expected_rows: int = field(default=0, metadata=HOW)
    """For the plan, as long as the upstream rows are not there to be counted."""

    def prompt_names(self) -> list[str]:
        """One a tag, and what they have in common."""
        return [*self.tagging.asked, "answer"]

    def readable(self) -> str:
        """The tags."""
        return "-".join(self.tagging.tags)[:40]

    def estimate(self) -> Estimate:
        """One call for each row and tag; calibration is not worth mentioning."""
        c, number = self.tagging, count_rows(self.rows.path / "rows.jsonl", self.expected_rows)
        answer = 1 if c.how is How.choices else 8
        return expected(
            *(
                (self.llm, number, PROMPT_TOKENS + INSTRUCTION_TOKENS + RESPONSE_TOKENS * _reads_response(tag), answer)
                for tag in c.asked
            )
        )

    def run(self, work: Path) -> None:
        """Ask for every tag of every row; finished calls are in `work/journal.jsonl`.

        Raises:
            RowError: a line of the upstream file is not a row.
        """
        asyncio.run(self._run(work))

    async def _run(self, work: Path) -> None:
        rows = read_rows(self.rows.path / "rows.jsonl")
        language = _languages() if TagName.language in self.tagging.tags else None
        places = asyncio.Semaphore(self.llm.concurrency)  # no more prompts in memory than can be under way
        with show("tag", len(rows), work) as progress:
            async with open_model(self.llm, work / "journal.jsonl", progress) as model:
                asker = Asker("matrix.filtering", model, f"{self.name}-{self.key()[:12]}")
                tagger = Tagger(self.tagging, asker, derive_seed(self.seed, self.name))
                await tagger.calibrate()

                async def one(row: TrainingRow) -> Tags:
                    async with places:
                        tags = await tagger.tags(row, language(instruction(row)) if language else "")
                    progress.advance()
                    return tags

                tagged = await asyncio.gather(*map(one, rows))
        write_jsonl(work / "tags.jsonl", tagged)
        write_jsonl(work / "failures.jsonl", asker.sorted_failures())
        given = {tag: Counter(getattr(tags, tag) for tags in tagged) for tag in self.tagging.tags}
        labels = {tag: dict(sorted((k, n) for k, n in had.items() if k)) for tag, had in given.items() if is_label(tag)}
        missing = {tag: had[""] + had[None] for tag, had in given.items()}
        (work / "counts.json").write_text(json.dumps({"labels": labels, "missing": missing}, indent=1))


@dataclass
class Tagger:
    """Tags rows with one model."""

    config: TaggingConfig
    asker: Asker
    seed: int
    """Of every call, so that equal rows are asked for once."""
    prior: dict[TagName, dict[str, float]] = field(default_factory=dict)
    """Log-probability of each option after a prompt about nothing."""

    async def calibrate(self) -> None:
        """Ask for `prior`, if the config wants it."""
        if self.config.calibration is Calibration.content_free:
            nothing = {"instruction": NOTHING, "response": NOTHING}
            found = await asyncio.gather(*(self._choose(tag, nothing) for tag in self.config.asked))
            self.prior = {tag: scores for tag, (_, scores) in zip(self.config.asked, found, strict=True)}

    async def tags(self, row: TrainingRow, language: str) -> Tags:
        """All tags of a row that are asked for; one that cannot be had is empty, and why is in the asker's failures."""
        found = await asyncio.gather(*(self._tag(row, tag) for tag in self.config.asked))
        return Tags(id=row.id, language=language, **dict(zip(self.config.asked, found, strict=True)))

    async def _tag(self, row: TrainingRow, tag: TagName) -> Any:
        p = await self.probabilities(row, tag)
        if tag in LABELS:
            return LABELS[tag][options(tag).index(max(p, key=p.__getitem__))] if p else ""
        return round(sum(int(option) * share for option, share in p.items()), 4) if p else None

    async def probabilities(self, row: TrainingRow, tag: TagName) -> dict[str, float]:
        """Option -> probability; of one option alone where only a text was to be had, empty where nothing was."""
        values: dict[str, Any] = {"instruction": instruction(row)} | (
            {"response": preferred(row)} if _reads_response(tag) else {}
        )
        if self.config.how is How.text:
            schema = fields_schema(answer={"type": "string", "enum": LABELS.get(tag) or list(SCORES)})
            option = await self.asker.ask(
                tag.value, row.id, self.seed, self.config.decoding, parser(tag), schema, json=True, **values
            )
            return {option: 1.0} if option else {}
        text, scores = await self._choose(tag, values)
        if not scores:
            try:
                return {parser(tag)(text): 1.0}
            except Unparsable as error:
                self.asker.failures.append(Failure(id=row.id, purpose=tag.value, text=text, error=str(error)))
                return {}
        prior = self.prior.get(tag, {})
        lowest = min(prior.values(), default=0.0)  # of what an endpoint did not report: at most this
        scores = {option: score - prior.get(option, lowest) for option, score in scores.items()}
        best = max(scores.values())
        shares = {option: math.exp(score - best) for option, score in scores.items()}
        return {option: share / sum(shares.values()) for option, share in shares.items()}

    async def _choose(self, tag: TagName, values: dict[str, str]) -> tuple[str, dict[str, float]]:
        """The model's first token, and the log-probabilities of all options where the engine reports them."""
        prompt = self.asker.render(tag.value, 1, {"json": False, **values})
        sampling = Sampling(seed=self.seed, temperature=0.0, max_tokens=1, choices=options(tag))
        completion = await self.asker.model.chat([Message(role="user", content=prompt)], sampling)
        return completion.text, completion.choice_logprobs


def is_label(tag: TagName) -> bool:
    """Whether a tag is a word rather than a score."""
    return tag in LABELS or tag is TagName.language


def options(tag: TagName) -> tuple[str, ...]:
    """What the prompt calls its options: letters for labels, digits for scores."""
    return tuple("ABCDEFGHIJKL"[: len(LABELS[tag])] if tag in LABELS else SCORES)


def parser(tag: TagName) -> Callable[[str], str]:
    """The reader of an answer: `{"answer": "hard"}`, `hard`, `D`, `D: hard`, or a sentence with just one label in it.

    What it returns is an option. It raises `Unparsable`.
    """
    names = dict(zip(map(str.lower, LABELS.get(tag, SCORES)), options(tag), strict=True))
    words = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))  # `very hard` before `hard`
    letter = re.compile(rf"\W*([{''.join(options(tag))}])(?:[.:)/]|\W*$)")

    def parse(text: str) -> str:
        with suppress(Unparsable):  # no JSON: the text itself
            text = str(json_fields(text).get("answer", ""))
        if found := letter.match(text):
            return found[1]
        if len(said := set(re.findall(rf"(?<!\w)(?:{words})(?!\w)", text.lower()))) == 1:
            return names[said.pop()]
        raise Unparsable(f"expected one of {', '.join(LABELS.get(tag) or SCORES)}")

    return parse


def _reads_response(tag: TagName) -> bool:
    return tag is TagName.response_quality


def _languages() -> Callable[[str], str]:
    """Text -> ISO 639-1 code, if one is likely enough for the language filter to go by."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def language(text: str) -> str:
        code, confidence = identifier.classify(NOT_PROSE.sub(" ", text).strip())
        return str(code) if confidence >= LanguageConfig.min_confidence else ""

    return language
