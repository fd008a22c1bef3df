"""vLLM in this process: its asynchronous engine with prefix caching, for models on a CUDA GPU.

vLLM gives the same answer to the same seeded call in every batch only with the environment variable
`VLLM_BATCH_INVARIANT=1` (GPUs of compute capability 8.0 and up, at some cost in speed). Finished calls are in the
journal either way.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Self

from matrix.engines.base import Completion, EngineError, ModelConfig, Sampling
from matrix.engines.limits import require_room
from matrix.engines.sources import hub_source, read_template
from matrix.engines.turns import asks_for_user, up_to_user
from matrix.records import Message


def load_tokenizer(config: ModelConfig) -> Any:
    """The model's `transformers` tokenizer."""
    from transformers import AutoTokenizer

    source, revision = hub_source(config.model, config.revision)
    return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=config.trust_remote_code)


def token_counter(config: ModelConfig) -> Callable[[str], int]:
    """Exact number of tokens of a text."""
    tokenizer = load_tokenizer(config)
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def prompt_ids(tokenizer: Any, messages: list[Message], template: str | None) -> list[int]:
    """Token ids of a chat, ending where the assistant begins, or an empty user's turn.

    Args:
        tokenizer: of `transformers`.
        messages: the chat.
        template: replaces the tokenizer's own chat template.
    """

    def render(turns: list[dict[str, str]], assistant: bool = False) -> str:
        text: str = tokenizer.apply_chat_template(
            turns, chat_template=template, add_generation_prompt=assistant, tokenize=False
        )
        return text

    if asks_for_user(messages):
        text = up_to_user(messages, render)
    else:
        text = render([{"role": message.role, "content": message.content} for message in messages], assistant=True)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def engine_arguments(config: ModelConfig, known: set[str], version: str) -> dict[str, Any]:
    """What vLLM is started with, checked against the arguments that the installed version knows.

    Raises:
        EngineError: the installed version lacks one of them.
    """
    source, revision = hub_source(config.model, config.revision)
    arguments = {
        "model": source,
        "revision": revision,
        "tokenizer_revision": revision,
        "trust_remote_code": config.trust_remote_code,
        "dtype": config.dtype,
        "max_model_len": config.max_context,
        "max_num_seqs": config.concurrency,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "tensor_parallel_size": config.tensor_parallel_size,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
    }
    if unknown := sorted(arguments.keys() - known):
        raise EngineError(
            f"vLLM {version} has no engine argument {', '.join(unknown)}. Type: pip install 'matrix-gen[vllm]', "
            "which pins a version that has"
        )
    return arguments


class VllmEngine:
    """Serves one model to many tasks of one event loop."""

    def __init__(self, config: ModelConfig, engine: Any) -> None:
        self._config = config
        self._engine = engine
        self._tokenizer = load_tokenizer(config)
        self._template = read_template(config.chat_template)
        self._ids = itertools.count()

    @classmethod
    async def start(cls, config: ModelConfig) -> Self:
        """Load the model (minutes for large ones) and start serving.

        Raises:
            EngineError: vLLM is missing, too old or too new, or could not load the model.
        """
        try:
            import vllm
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise EngineError(
                f"engine=vllm: {error}. Type: pip install 'matrix-gen[vllm]', or use engine=openvino"
            ) from error
        known = {field.name for field in dataclasses.fields(vllm.AsyncEngineArgs)}
        arguments = engine_arguments(config, known, vllm.__version__)
        try:
            engine = AsyncLLM.from_engine_args(vllm.AsyncEngineArgs(**arguments))
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineError(f"vLLM could not load {config.model}: {error}") from error
        return cls(config, engine)

    async def chat(self, messages: list[Message], sampling: Sampling) -> Completion:
        """Complete a chat; see `LanguageModel.chat`."""
        from vllm.exceptions import VLLMError

        ids = prompt_ids(self._tokenizer, messages, self._template)
        require_room(len(ids), sampling, self._config)
        choices = self._choice_ids(sampling)
        parameters = _parameters(sampling, list(choices.values()))
        try:
            async for result in self._engine.generate({"prompt_token_ids": ids}, parameters, str(next(self._ids))):
                final = result
        except VLLMError as error:
            raise EngineError(
                f"vLLM gave a call up: {error}. Finished calls are in the journal: type the same command again"
            ) from error
        output = final.outputs[0]
        scores: dict[str, float] = {}
        if choices:
            first = output.logprobs[0]
            scores = {choice: first[token].logprob for choice, token in choices.items() if token in first}
        return Completion(
            text=max(scores, key=scores.__getitem__) if scores else output.text,
            prompt_tokens=len(ids),
            completion_tokens=len(output.token_ids),
            finish_reason="length" if output.finish_reason == "length" else "stop",
            cached_tokens=final.num_cached_tokens or 0,
            choice_logprobs=scores,
        )

    def _choice_ids(self, sampling: Sampling) -> dict[str, int]:
        found: dict[str, int] = {}
        for choice in sampling.choices:
            ids = self._tokenizer.encode(choice, add_special_tokens=False)
            if len(ids) != 1:
                raise EngineError(f"choice {choice!r} is {len(ids)} tokens of {self._config.name}; choices must be one")
            found[choice] = ids[0]
        return found

    async def close(self) -> None:
        """End vLLM's processes, which frees the GPU."""
        self._engine.shutdown()


def _parameters(sampling: Sampling, choice_ids: list[int]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    schema = sampling.json_schema
    return SamplingParams(
        seed=sampling.seed,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        frequency_penalty=sampling.frequency_penalty,
        max_tokens=1 if choice_ids else sampling.max_tokens,
        stop=list(sampling.stop),
        logprob_token_ids=choice_ids or None,
        structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
