"""Runs a generator that needs no society through the stream, on a fake model."""

import asyncio

from society_fakes import FakeModel, HashedWords

from matrix.generation.base import GeneratorConfig, Materials
from matrix.generation.stream import Stream
from matrix.progress import Progress
from matrix.prompting import Asker


def generated(config: GeneratorConfig, model: FakeModel, seed: int = 1, window: int = 16):
    """The rows, and the asker with its failures."""
    asker = Asker("matrix.generation", model, "generate-test")
    materials = Materials(
        asker=asker, responder=model, embedder=HashedWords(), society=None, seed=seed, prefix="sft"
    )  # fmt: skip
    stream = Stream(config, materials, config.build(materials), Progress("test", 1), window)
    return asyncio.run(stream.rows()), asker


def asked(model: FakeModel, kind: str) -> list[str]:
    """The prompts of one purpose."""
    return [prompt for purpose, prompt, _ in model.calls if purpose == kind]
