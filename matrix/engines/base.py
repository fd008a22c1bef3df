"""The LanguageModel protocol and the config of anything that can serve one.

Rooms call `async with open_model(config, journal=...) as model` and know nothing else about engines.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import msgspec

from matrix.engines.sources import source_identity, template_identity
from matrix.records import Message

Priority = tuple[int, ...]
"""Urgency of a call among those that wait for a place; lower goes first. It changes no result."""

HOW: dict[str, Any] = {"identity": False}
"""Metadata of a field that says how something runs, not what it computes."""


class EngineName(StrEnum):
    """Adapters; `auto` takes vLLM where CUDA and vLLM are present, OpenVINO otherwise."""

    auto = "auto"
    openvino = "openvino"
    vllm = "vllm"
    openai = "openai"
    scripted = "scripted"


@dataclass(kw_only=True)
class ModelConfig:
    """A language model: what it is (model, revision, template) and how it is run (engine and below)."""

    model: str = field(metadata={"identity": source_identity})
    """Hub id, local folder, GGUF file, or `package:<module>/<path>` for a file that an installed package carries."""
    revision: str | None = None
    """Commit, branch or tag on the hub; for `package:` the version that must be installed."""
    chat_template: str | None = field(default=None, metadata={"identity": template_identity})
    """Jinja file that replaces the tokenizer's template: a name in `matrix/training/templates/` or a path."""
    max_context: int = 8192
    """Most tokens of prompt and completion together; a call beyond it is refused before it is sent."""
    trust_remote_code: bool = False
    """Let a hub repository run its own Python. Off unless a config says so."""
    dtype: str = "auto"
    """Weights while serving on a GPU: `auto`, `bfloat16`, `float16`, `float32`."""

    engine: EngineName = field(default=EngineName.auto, metadata=HOW)
    endpoints: list[str] = field(default_factory=list, metadata=HOW)
    """Base URLs (`http://host:port/v1`) for `engine=openai`; calls are spread over them."""
    served_name: str | None = field(default=None, metadata=HOW)
    """Model name that the endpoint expects; default: `model`."""
    api_key_env: str = field(default="OPENAI_API_KEY", metadata=HOW)
    """Environment variable that holds the key; keys are read from nowhere else."""
    concurrency: int = field(default=64, metadata=HOW)
    """Most calls in flight."""
    timeout: float = field(default=600.0, metadata=HOW)
    """Seconds before a call to an endpoint is given up and retried."""
    retries: int = field(default=5, metadata=HOW)
    """Further tries of a failed call to an endpoint."""
    threads: int = field(default=0, metadata=HOW)
    """CPU threads of an in-process engine; 0: all cores that this process may use."""
    cache_gib: float = field(default=1.0, metadata=HOW)
    """GiB of KV cache for `engine=openvino`."""
    gpu_memory_utilization: float = field(default=0.9, metadata=HOW)
    """Share of GPU memory that vLLM may take."""
    tensor_parallel_size: int = field(default=1, metadata=HOW)
    """GPUs that vLLM splits the model over."""
    budget_tokens: int = field(default=0, metadata=HOW)
    """Prompt and completion tokens after which a stage stops, to go on with a larger budget; 0: no limit."""
    budget_hours: float = field(default=0.0, metadata=HOW)
    """The same for the wall time of one run of a stage."""
    budget_money: float = field(default=0.0, metadata=HOW)
    """The same for money, at the prices below."""
    price_in: float = field(default=0.0, metadata=HOW)
    """Money per million prompt tokens, for the plan and the budget."""
    price_out: float = field(default=0.0, metadata=HOW)
    """Money per million completion tokens."""

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {self.concurrency}")
        if min(self.budget_tokens, self.budget_hours, self.budget_money) < 0:
            raise ValueError("budget_tokens, budget_hours and budget_money must not be negative; 0 is no limit")
        if self.budget_money and not (self.price_in or self.price_out):
            raise ValueError("budget_money needs price_in and price_out, in money per million tokens")
        if self.engine is EngineName.openai and not self.endpoints:
            raise ValueError("engine=openai needs endpoints, e.g. llm.endpoints=[http://127.0.0.1:8000/v1]")

    def serving(self, folder: Path) -> ModelConfig:
        """The same, with the checkpoint that lies in `folder`."""
        return dataclasses.replace(self, model=str(folder), revision=None)

    @property
    def name(self) -> str:
        """Model and revision: what the journal and every row call this model."""
        return f"{self.model}@{self.revision}" if self.revision else self.model


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How one completion is drawn. The seed is explicit: the same call with the same seed is the same call."""

    seed: int
    temperature: float = 0.7
    """0 is greedy."""
    top_p: float = 1.0
    max_tokens: int = 256
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for every time that it stands in the completion, as in the OpenAI API."""
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    """Single tokens to score: `Completion.choice_logprobs` holds their log-probabilities as first token."""
    json_schema: dict[str, Any] | None = None
    """JSON schema that the completion must follow, on engines with structured output."""


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A finished call."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    """`stop` or `length`."""
    cached_tokens: int = 0
    """Prompt tokens that the engine took from its prefix cache."""
    choice_logprobs: dict[str, float] = {}
    """Natural log-probability of each of `Sampling.choices`; one that the engine did not report is missing."""


class ContextOverflow(ValueError):
    """Prompt and completion do not fit the model's context; raised before anything is sent."""


class EngineError(RuntimeError):
    """An engine or endpoint failed for good; says what was tried and what to do next."""


class BudgetReached(EngineError):
    """A budget is spent; all calls that were sent are finished and kept."""


class LanguageModel(Protocol):
    """A chat in, a completion out. Safe to call from many tasks of one event loop at once."""

    name: str
    max_context: int

    async def chat(self, messages: list[Message], sampling: Sampling, priority: Priority = ()) -> Completion:
        """Complete a chat that ends with a user message; if that is empty, write what the user would say.

        Raises:
            ContextOverflow: prompt plus `max_tokens` exceed `max_context`.
            EngineError: the engine gave up.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` under this model's tokenizer (an upper estimate where none is at hand)."""
        ...

    async def close(self) -> None:
        """Free everything, accelerator memory included."""
        ...
