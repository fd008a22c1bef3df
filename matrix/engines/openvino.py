"""OpenVINO GenAI in this process: continuous batching on the CPU, with results that do not depend on the batch.

One thread owns the pipeline. What makes the same call give the same tokens, and the same log-probabilities to the last
bit, alone or beside any others:

- weights in F16 (`gguf.in_f16`), f32 activations and KV cache, no dynamic quantization;
- the way in which `batching` lets requests in.

One difference is left: a later turn of a chat reuses what the earlier answer put into the cache token by token. After a
restart it is computed as one prompt, and its log-probabilities can differ by some 1e-5.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Self

from matrix.engines.base import Completion, EngineError, ModelConfig, Sampling
from matrix.engines.batching import Batcher
from matrix.engines.gguf import in_f16
from matrix.engines.limits import require_room
from matrix.engines.sources import openvino_source, read_template
from matrix.engines.turns import asks_for_user, up_to_user
from matrix.records import Message

if TYPE_CHECKING:
    import openvino
    import openvino_genai


class OpenVinoTokenizer:
    """The tokenizer and chat template of a GGUF file or OpenVINO IR; loads in 2 to 3 seconds, without the weights."""

    def __init__(self, config: ModelConfig) -> None:
        import openvino_genai

        self._tokenizer = openvino_genai.Tokenizer(openvino_source(config.model, config.revision))
        if template := read_template(config.chat_template):
            self._tokenizer.set_chat_template(template)

    def prompt(self, messages: list[Message]) -> openvino.Tensor:
        """Token ids of a chat, shape (1, tokens), ending where the assistant begins, or an empty user's turn."""
        render = self._tokenizer.apply_chat_template
        if asks_for_user(messages):
            return self.encode(up_to_user(messages, lambda turns: render(turns, add_generation_prompt=False)))
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return self.encode(render(turns, add_generation_prompt=True))

    def encode(self, text: str) -> openvino.Tensor:
        """Token ids of a text, shape (1, tokens), without special tokens around it."""
        return self._tokenizer.encode(text, add_special_tokens=False).input_ids

    def count(self, text: str) -> int:
        """Number of tokens of a text."""
        return self.encode(text).shape[1] if text else 0

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self._tokenizer.decode(ids))


class OpenVinoEngine:
    """Serves one model to many tasks of one event loop."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._tokenizer = OpenVinoTokenizer(config)
        source = openvino_source(config.model, config.revision)
        with TemporaryDirectory() as folder:
            if source.suffix == ".gguf":
                source = in_f16(source, Path(folder))
            self._batcher = Batcher(source, config)

    @classmethod
    async def start(cls, config: ModelConfig) -> Self:
        """Load the model (seconds) and start serving."""
        try:
            engine = await asyncio.to_thread(cls, config)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO could not load {config.model}: {error}") from error
        engine._batcher.start()
        return engine

    async def chat(self, messages: list[Message], sampling: Sampling) -> Completion:
        """Complete a chat; see `LanguageModel.chat`. `cached_tokens` stays 0: OpenVINO does not tell."""
        ids = self._tokenizer.prompt(messages)
        require_room(ids.shape[1], sampling, self._config)
        if sampling.choices:
            return await self._score(ids, sampling)
        output = await self._batcher.answer(ids, self._generation(sampling))
        tokens, length = output.generated_ids, output.finish_reason.name == "LENGTH"
        text = self._tokenizer.decode(tokens)
        return Completion(
            text=text if length or self._batcher.ends.intersection(tokens[-1:]) else _cut(text, sampling.stop),
            prompt_tokens=ids.shape[1],
            completion_tokens=len(tokens),
            finish_reason="length" if length else "stop",
        )

    async def _score(self, ids: openvino.Tensor, sampling: Sampling) -> Completion:
        """Log-probability of each choice as first token: the grammar forces it, the report is from before the force.

        One after another, so that all but the first find the prompt in the prefix cache.
        """
        scores: dict[str, float] = {}
        for choice in sampling.choices:
            tokens = self._tokenizer.encode(choice).data[0].tolist()
            if len(tokens) != 1:
                raise EngineError(
                    f"choice {choice!r} is {len(tokens)} tokens of {self._config.name}; choices must be one"
                )
            output = await self._batcher.answer(ids, self._forced(choice))
            if output.generated_ids[:1] == tokens:  # otherwise a shorter token with the same beginning came first
                scores[choice] = output.generated_log_probs[0]
        return Completion(
            text=max(scores, key=scores.__getitem__, default=""),
            prompt_tokens=ids.shape[1],
            completion_tokens=1,
            finish_reason="stop",
            choice_logprobs=scores,
        )

    def _generation(self, sampling: Sampling) -> openvino_genai.GenerationConfig:
        import openvino_genai as genai

        generation = genai.GenerationConfig()
        generation.apply_chat_template = False
        generation.max_new_tokens = sampling.max_tokens
        generation.stop_token_ids = self._batcher.ends
        generation.rng_seed = sampling.seed
        if sampling.temperature > 0:
            generation.do_sample = True
            generation.temperature = sampling.temperature
            generation.top_p = sampling.top_p
        generation.frequency_penalty = sampling.frequency_penalty
        if sampling.stop:
            # Left in the output and cut from the text: what is taken out here are whole tokens, which may hold more.
            generation.stop_strings = set(sampling.stop)
            generation.include_stop_str_in_output = True
        if sampling.json_schema is not None:
            generation.structured_output_config = genai.StructuredOutputConfig(
                json_schema=json.dumps(sampling.json_schema)
            )
        return generation

    def _forced(self, choice: str) -> openvino_genai.GenerationConfig:
        import openvino_genai as genai

        generation = self._generation(Sampling(seed=0, temperature=0.0, max_tokens=1))
        generation.logprobs = 1
        generation.structured_output_config = genai.StructuredOutputConfig(grammar=f"root ::= {json.dumps(choice)}")
        return generation

    async def close(self) -> None:
        """End after the step that is being made, drop what is unfinished and free the model."""
        await self._batcher.close()


def _cut(text: str, stops: tuple[str, ...]) -> str:
    """The text before the first stop string, of which the end may be missing at the end of the text."""
    found = [at for at in map(text.find, stops) if at >= 0]
    begun = [len(text) - n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return text[: min(found or begun, default=len(text))]
