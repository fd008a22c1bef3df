"""This project: the Generate stage as an experiment runs it, with journal, near-duplicate check, rows and Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from contender import INSTRUCTION_TOKENS, RESPONSE_TOKENS, Task, compete

from matrix.engines.base import EngineName, ModelConfig
from matrix.engines.embedder import EmbedderConfig
from matrix.generation.scenarios import ScenarioConfig
from matrix.generation.stage import Generate
from matrix.jsonl import read_jsonl
from matrix.prompting import Decoding
from matrix.records import Conversation
from matrix.stage import Result


def prepare(task: Task) -> Callable[[list[str]], int]:
    """The stage for the task's server."""

    def work(prompts: list[str]) -> int:
        """The stage writes its own prompts: of the list only the length counts."""
        folder = Path(task.folder) / f"rows{len(prompts)}"
        folder.mkdir(parents=True)
        Generate(
            generator=ScenarioConfig(
                num_rows=len(prompts),
                instruction=Decoding(temperature=0.8, max_tokens=INSTRUCTION_TOKENS),
                response=Decoding(temperature=0.7, max_tokens=RESPONSE_TOKENS),
            ),
            llm=ModelConfig(
                model="model", engine=EngineName.openai, endpoints=[task.url], concurrency=task.concurrency
            ),
            embedder=EmbedderConfig(model="none"),  # all scenarios are used, so nothing is embedded
            society=Result(stage="simulate", key="0" * 64, path=Path(task.society)),
            seed=1,
        ).run(folder)
        return len(read_jsonl(folder / "rows.jsonl", Conversation))

    return work


if __name__ == "__main__":
    compete(prepare)
