"""The thread that owns an OpenVINO GenAI pipeline; lets requests in so that no answer depends on what runs beside it.

- A *companion* sequence is decoded in every step. Matrix products with a single row take another kernel, with another
  order of summation, than those with two rows or more; the companion sees to it that there are always two.
- No prompt is ever split over steps and no sequence is ever preempted: a request enters only when its whole prompt fits
  the step and all its tokens fit the KV cache.
- Every prompt is first put into the prefix cache by a request for one token, so that every answer starts in the same
  way: from a cached prompt of which the last token is computed again. Started cold, it would take another kernel. Equal
  prompts do this one after the other, because an answer takes the last block of its prompt out of the cache.
"""

from __future__ import annotations

import asyncio
import math
import os
import queue
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from matrix.engines.base import EngineError, ModelConfig

if TYPE_CHECKING:
    import openvino
    import openvino_genai

BLOCK = 32
"""Tokens of one KV-cache block on the CPU."""
PREFILL = 1024
"""Prompt tokens that may enter in one step; a longer prompt enters alone."""
COMPANION_TOKENS = 256
"""Length of a companion; it is then replaced by a new one."""


class _Stage(Enum):
    """How far a call is."""

    WARMING = auto()
    """Its prompt is on the way into the prefix cache."""
    STARTING = auto()
    """The answer's request was made, but no step yet."""
    ANSWERING = auto()


@dataclass(eq=False)
class _Call:
    ids: openvino.Tensor
    config: openvino_genai.GenerationConfig
    blocks: int
    answer: asyncio.Future[openvino_genai.GenerationOutput]
    prompt: bytes
    stage: _Stage = _Stage.WARMING
    handle: Any = None


class Batcher:
    """Continuous batching of requests from one event loop."""

    def __init__(self, source: Path, config: ModelConfig) -> None:
        import openvino_genai as genai

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
        self._config = config
        self._pipeline = genai.ContinuousBatchingPipeline(source, scheduler, "CPU", properties)
        defaults = self._pipeline.get_config()
        self.ends: set[int] = {defaults.eos_token_id, *defaults.stop_token_ids}
        """Token ids that end an answer."""
        self._sent = 0
        self._companion = self._add_companion()
        self._pipeline.step()
        # The only sequence holds one block: its share tells how many there are.
        self._free = round(100 / self._pipeline.get_metrics().cache_usage) - _blocks(COMPANION_TOKENS) - 1
        self._inbox: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = Thread(target=self._serve, name="openvino", daemon=True)
        self._broken: str | None = None

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    async def answer(
        self, ids: openvino.Tensor, generation: openvino_genai.GenerationConfig
    ) -> openvino_genai.GenerationOutput:
        """The output of one request.

        Raises:
            EngineError: it can never fit the KV cache, or the pipeline stopped working.
        """
        if self._broken:
            raise EngineError(self._broken)
        blocks = _blocks(ids.shape[1] + generation.max_new_tokens)
        if blocks > self._free:
            raise EngineError(
                f"a call of up to {blocks * BLOCK} tokens does not fit the KV cache of {self._free * BLOCK}; "
                f"raise cache_gib (now {self._config.cache_gib})"
            )
        answer = asyncio.get_running_loop().create_future()
        self._inbox.put(_Call(ids, generation, blocks, answer, ids.data.tobytes()))
        output: openvino_genai.GenerationOutput = await answer
        return output

    async def close(self) -> None:
        """End the thread after the step that it is in, drop what is unfinished and free the model."""
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    # Everything below runs in the thread. `step` keeps the interpreter's lock, so the event loop runs between two steps
    # only: steps are kept short by PREFILL.

    def _serve(self) -> None:
        waiting: list[_Call] = []
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

    def _collect(self, waiting: list[_Call], idle: bool) -> bool:
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

    def _admit(self, waiting: list[_Call], running: list[_Call]) -> None:
        if self._companion.get_status().name != "RUNNING":
            self._companion = self._add_companion()
            return  # it must be decoding before a new prompt can be a step of one row
        held = sum(call.blocks for call in running)
        entering = {call.prompt for call in running if call.stage is not _Stage.ANSWERING}
        tokens = 0
        for call in list(waiting):
            if len(running) == self._config.concurrency or held + call.blocks > self._free:
                return
            if call.prompt in entering:
                continue
            size = call.ids.shape[1]
            if tokens and tokens + size > PREFILL:
                return
            waiting.remove(call)
            if not call.answer.cancelled():
                call.handle = self._add(call.ids, _greedy(1))
                held += call.blocks
                tokens += size
                running.append(call)
                entering.add(call.prompt)

    def _add(
        self, ids: openvino.Tensor, generation: openvino_genai.GenerationConfig
    ) -> openvino_genai.GenerationHandle:
        self._sent += 1
        return self._pipeline.add_request(self._sent, ids, generation)

    def _add_companion(self) -> openvino_genai.GenerationHandle:
        import openvino

        generation = _greedy(COMPANION_TOKENS - BLOCK)
        generation.ignore_eos = True
        return self._add(openvino.Tensor(np.array([[1, 2, 3, 4]])), generation)

    def _dropped(self, call: _Call) -> bool:
        if call.answer.cancelled():
            call.handle.cancel()
            return True
        return False

    def _delivered(self, call: _Call) -> bool:
        status = call.handle.get_status().name
        if status == "RUNNING":
            if call.stage is _Stage.STARTING:
                call.stage = _Stage.ANSWERING
            return False
        if status == "FINISHED" and call.stage is _Stage.WARMING:
            call.handle = self._add(call.ids, call.config)
            call.stage = _Stage.STARTING
            return False
        if status == "FINISHED":
            output = call.handle.read_all()[0]
            _tell(call.answer, lambda answer: answer.set_result(output))
        else:
            error = EngineError(f"OpenVINO gave a call up ({status}): the KV cache is full; raise cache_gib")
            _tell(call.answer, lambda answer: answer.set_exception(error))
        return True


def _greedy(tokens: int) -> openvino_genai.GenerationConfig:
    import openvino_genai as genai

    generation = genai.GenerationConfig()
    generation.apply_chat_template = False
    generation.max_new_tokens = tokens
    return generation


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK) + 1


def _tell(answer: asyncio.Future[Any], how: Callable[[asyncio.Future[Any]], None]) -> None:
    """Settle a future of the event loop from the engine's thread."""
    answer.get_loop().call_soon_threadsafe(lambda: None if answer.done() else how(answer))
