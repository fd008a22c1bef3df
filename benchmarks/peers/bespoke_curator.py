"""bespokelabs-curator: one `curator.LLM` a step, the second over the first one's data set.

Its files (requests, responses, arrow) are written as always; only the reuse of earlier results is off. Without limits
of its own it would slow down to what unknown servers are said to bear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contender import INSTRUCTION_TOKENS, RESPONSE_TOKENS, Task, compete


def prepare(task: Task) -> Callable[[list[str]], int]:
    """Two LLM objects; each asks the server once when it is made."""
    from bespokelabs import curator
    from datasets import Dataset

    class Step(curator.LLM):  # type: ignore[misc]
        """Reads one column and adds another."""

        reads: str
        adds: str

        def prompt(self, row: dict[str, Any]) -> Any:
            return row[self.reads]

        def parse(self, row: dict[str, Any], response: str) -> dict[str, Any]:
            return {**row, self.adds: response}

    class Instruct(Step):
        reads, adds = "prompt", "instruction"

    class Respond(Step):
        reads, adds = "instruction", "response"

    limits = {
        "base_url": task.url, "api_key": "none", "max_concurrent_requests": task.concurrency,
        "max_requests_per_minute": 10**7, "max_tokens_per_minute": 10**10,
    }  # fmt: skip
    instruct, respond = (
        step(
            model_name="model", backend="openai", backend_params=limits,
            generation_params={"temperature": 0.7, "max_tokens": max_tokens},
        )
        for step, max_tokens in ((Instruct, INSTRUCTION_TOKENS), (Respond, RESPONSE_TOKENS))
    )  # fmt: skip

    def work(prompts: list[str]) -> int:
        instructions = instruct(Dataset.from_dict({"prompt": prompts}), working_dir=f"{task.folder}/instructions")
        rows = respond(instructions.dataset, working_dir=f"{task.folder}/responses").dataset
        return sum(bool(row["instruction"] and row["response"]) for row in rows)

    return work


if __name__ == "__main__":
    compete(prepare)
