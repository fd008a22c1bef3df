"""OpenVINO GenAI in this process: continuous batching on the CPU, with results that do not depend on the batch.

One thread owns the pipeline. What makes the same call give the same tokens, and the same log-probabilities to the last
bit, alone or beside any others:

- weights in F16 (`gguf.in_f16`), f32 activations and KV cache, no dynamic quantization;
- a *companion* sequence that is decoded in every step. Matrix products with a single row take another kernel, with
  another order of summation, than those with two rows or more; the companion sees to it that there are always two;
- no prompt is ever split over steps and no sequence is ever preempted: a call enters only when its whole prompt fits
  the step and all its tokens fit the KV cache;
- every prompt is first put into the prefix cache by a request for one token, so that every answer starts in the same
  way: from a cached prompt of which the last token is computed again. Started cold, it would take another kernel.

One difference is left: a later turn of a chat reuses what the earlier answer put into the cache token by token. After a
restart it is computed as one prompt, and its log-probabilities can differ by some 1e-5.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import queue
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any, Self

from matrix.engines.base import Completion, EngineError, ModelConfig, Sampling
from matrix.engines.gguf import in_f16
from matrix.engines.limits import require_room
from matrix.engines.sources import openvino_source, read_template
from matrix.records import Message

if TYPE_CHECKING:
    import openvino
    import openvino_genai

BLOCK = 32
"""Tokens of one KV-cache block on the CPU."""
PREFILL = 1024
"""Prompt tokens that may enter in one step; a longer prompt enters alone."""
COMPANION_TOKENS = 256
"""Length of a companion; it is then replaced by a new one."""


class OpenVinoTokenizer:
    """The tokenizer and chat template of a GGUF file or OpenVINO IR; loads in 2 to 3 seconds, without the weights."""

    def __init__(self, config: ModelConfig) -> None:
        import openvino_genai

        self._tokenizer = openvino_genai.Tokenizer(openvino_source(config.model, config.revision))
        if template := read_template(config.chat_template):
            self._tokenizer.set_chat_template(template)

    def prompt(self, messages: list[Message]) -> openvino.Tensor:
        """Token ids of a chat, shape (1, tokens), ending where the assistant begins."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return self.encode(self._tokenizer.apply_chat_template(turns, add_generation_prompt=True))

    def encode(self, text: str) -> openvino.Tensor:
        """Token ids of a text, shape (1, tokens), without special tokens around it."""
        return self._tokenizer.encode(text, add_special_tokens=False).input_ids

    def count(self, text: str) -> int:
        """Number of tokens of a text."""
        return self.encode(text).shape[1] if text else 0

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self._tokenizer.decode(ids))


@dataclass(eq=False)
class _Call:
    ids: openvino.Tensor
    config: openvino_genai.GenerationConfig
    blocks: int
    answer: asyncio.Future[openvino_genai.GenerationOutput]
    handle: Any = None


class OpenVinoEngine:
    """Serves one model to many tasks of one event loop."""

    def __init__(self, config: ModelConfig) -> None:
        import openvino_genai as genai

        self._config = config
        self._tokenizer = OpenVinoTokenizer(config)
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = math.ceil(config.cache_gib)  # whole GiB are all that it takes
        scheduler.enable_prefix_caching = True
        scheduler.max_num_seqs = config.concurrency + 1
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_batched_tokens = max(PREFILL, config.max_context) + config.concurrency + 1
        properties = {
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
            "INFERENCE_NUM_THREADS": config.threads or len(os.sched_getaffinity(0)),
        }
        source = openvino_source(config.model, config.revision)
        with TemporaryDirectory() as folder:
            if source.suffix == ".gguf":
                source = in_f16(source, Path(folder))
            self._pipeline = genai.ContinuousBatchingPipeline(source, scheduler, "CPU", properties)
        defaults = self._pipeline.get_config()
        self._ends = {defaults.eos_token_id, *defaults.stop_token_ids}
        self._sent = 0
        self._companion = self._add_companion()
        self._pipeline.step()
        # The only sequence holds one block: its share tells how many there are.
        self._free = round(100 / self._pipeline.get_metrics().cache_usage) - _blocks(COMPANION_TOKENS) - 1
        self._inbox: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = Thread(target=self._serve, name="openvino", daemon=True)
        self._broken: str | None = None

    @classmethod
    async def start(cls, config: ModelConfig) -> Self:
        """Load the model (seconds) and start serving."""
        try:
            engine = await asyncio.to_thread(cls, config)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO could not load {config.model}: {error}") from error
        engine._thread.start()
        return engine

    async def chat(self, messages: list[Message], sampling: Sampling) -> Completion:
        """Complete a chat; see `LanguageModel.chat`. `cached_tokens` stays 0: OpenVINO does not tell."""
        ids = self._tokenizer.prompt(messages)
        require_room(ids.shape[1], sampling, self._config)
        if sampling.choices:
            return await self._score(ids, sampling)
        output = await self._generate(ids, self._generation(sampling))
        tokens, length = output.generated_ids, output.finish_reason.name == "LENGTH"
        text = self._tokenizer.decode(tokens)
        return Completion(
            text=text if length or self._ends.intersection(tokens[-1:]) else _cut(text, sampling.stop),
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
            output = await self._generate(ids, self._forced(choice))
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
        generation.stop_token_ids = self._ends
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

    async def _generate(
        self, ids: openvino.Tensor, generation: openvino_genai.GenerationConfig
    ) -> openvino_genai.GenerationOutput:
        await self._submit(ids, self._generation(Sampling(seed=0, temperature=0.0, max_tokens=1)))
        return await self._submit(ids, generation)

    async def _submit(
        self, ids: openvino.Tensor, generation: openvino_genai.GenerationConfig
    ) -> openvino_genai.GenerationOutput:
        if self._broken:
            raise EngineError(self._broken)
        blocks = _blocks(ids.shape[1] + generation.max_new_tokens)
        if blocks > self._free:
            raise EngineError(
                f"a call of up to {blocks * BLOCK} tokens does not fit the KV cache of {self._free * BLOCK}; "
                f"raise cache_gib (now {self._config.cache_gib})"
            )
        answer = asyncio.get_running_loop().create_future()
        self._inbox.put(_Call(ids, generation, blocks, answer))
        output: openvino_genai.GenerationOutput = await answer
        return output

    async def close(self) -> None:
        """End the thread after the step that it is in, drop what is unfinished and free the model."""
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    # Everything below runs in the engine's thread. `step` keeps the interpreter's lock, so the event loop runs between
    # two steps only: steps are kept short by PREFILL.

    def _serve(self) -> None:
        waiting: deque[_Call] = deque()
        running: list[_Call] = []
        try:
            while self._collect(waiting, idle=not (waiting or running)):
                running = [call for call in running if not self._dropped(call)]
                self._admit(waiting, running)
                self._pipeline.step()
                running = [call for call in running if not self._delivered(call)]
            for handle in [self._companion, *(call.handle for call in running)]:
                handle.cancel()
            self._pipeline.step()  # gives their cache blocks back
            reason = "the engine was closed"
        except RuntimeError as error:
            reason = (
                f"OpenVINO stopped working: {error}. Finished calls are in the journal: type the same command again"
            )
        self._broken = reason
        for call in [*running, *waiting]:
            _tell(call.answer, lambda answer: answer.set_exception(EngineError(reason)))
        del self._companion, self._pipeline

    def _collect(self, waiting: deque[_Call], idle: bool) -> bool:
        """Take in new calls, waiting for one if there is nothing else to do; False when the engine shall close."""
        while True:
            try:
                call = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if call is None:
                return False
            waiting.append(call)
            idle = False

    def _admit(self, waiting: deque[_Call], running: list[_Call]) -> None:
        if self._companion.get_status().name != "RUNNING":
            self._companion = self._add_companion()
            return  # it must be decoding before a new prompt can be a step of one row
        held = sum(call.blocks for call in running)
        tokens = 0
        entered: set[bytes] = set()
        for call in list(waiting):
            tokens += call.ids.shape[1]
            full = len(running) == self._config.concurrency or held + call.blocks > self._free
            if full or (entered and tokens > PREFILL):
                return
            prompt = call.ids.data.tobytes()
            if prompt in entered:
                continue  # equal prompts share a cache block, and two that write it in one step disturb each other
            waiting.remove(call)
            if not call.answer.cancelled():
                call.handle = self._add(call.ids, call.config)
                held += call.blocks
                running.append(call)
                entered.add(prompt)

    def _add(
        self, ids: openvino.Tensor, generation: openvino_genai.GenerationConfig
    ) -> openvino_genai.GenerationHandle:
        self._sent += 1
        return self._pipeline.add_request(self._sent, ids, generation)

    def _add_companion(self) -> openvino_genai.GenerationHandle:
        generation = self._generation(Sampling(seed=0, temperature=0.0, max_tokens=COMPANION_TOKENS - BLOCK))
        generation.ignore_eos = True
        generation.stop_token_ids = set()
        return self._add(self._tokenizer.encode("a b c d"), generation)

    def _dropped(self, call: _Call) -> bool:
        if call.answer.cancelled():
            call.handle.cancel()
            return True
        return False

    def _delivered(self, call: _Call) -> bool:
        status = call.handle.get_status().name
        if status == "RUNNING":
            return False
        if status == "FINISHED":
            output = call.handle.read_all()[0]
            _tell(call.answer, lambda answer: answer.set_result(output))
        else:
            error = EngineError(f"OpenVINO gave a call up ({status}): the KV cache is full; raise cache_gib")
            _tell(call.answer, lambda answer: answer.set_exception(error))
        return True


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK) + 1


def _cut(text: str, stops: tuple[str, ...]) -> str:
    """The text before the first stop string, of which the end may be missing at the end of the text."""
    found = [at for at in map(text.find, stops) if at >= 0]
    begun = [len(text) - n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return text[: min(found or begun, default=len(text))]


def _tell(answer: asyncio.Future[Any], how: Callable[[asyncio.Future[Any]], None]) -> None:
    """Settle a future of the event loop from the engine's thread."""
    answer.get_loop().call_soon_threadsafe(lambda: None if answer.done() else how(answer))
