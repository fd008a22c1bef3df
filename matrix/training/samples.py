"""What a model answers while it is trained (`samples` of a recipe): `samples.jsonl`, for the reader.

`matrix.training.recorder` asks at every evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from matrix.jsonl import iter_jsonl
from matrix.records import Conversation, Message, PreferencePair, Sample
from matrix.training.chat import Renderer
from matrix.training.data import Example
from matrix.training.plan import Plan
from matrix.training.recipe import DPOConfig, TrainConfig

if TYPE_CHECKING:
    from matrix.training.module import Trained

NEW_TOKENS = 128
"""Longest answer, in tokens."""


class Sampler:
    """Answers a few prompts greedily and writes the answers down.

    The prompts are those of the first held-out rows, of the first rows where none are held out: what comes before the
    last answer of a pair, and before the first one of a conversation.

    Args:
        work: the stage's folder.
        rows: its file of rows.
        recipe: how many prompts, and what the rows are.
        plan: which rows are held out.
        examples: what the plan's indices mean.
        tokenizer: with the chat template of training.
    """

    def __init__(
        self, work: Path, rows: Path, recipe: TrainConfig, plan: Plan, examples: list[Example], tokenizer: Any
    ) -> None:
        self.file, self.tokenizer = work / "samples.jsonl", tokenizer
        self.renderer = Renderer(tokenizer)
        held_out = sorted(i for batch in plan.held_out.micro_batches for i in batch) if plan.held_out else None
        wanted = {examples[i].id for i in (held_out or range(len(examples)))[: recipe.samples]}
        chats = _chats(rows, isinstance(recipe, DPOConfig))
        found = list(islice(((row, chat) for row, chat in chats if row in wanted), len(wanted)))
        # The blocks of packing=wrapped are no rows.
        found = found or list(islice(_chats(rows, isinstance(recipe, DPOConfig)), recipe.samples))
        self.prompts = [(row, self._prompt(chat)) for row, chat in found]

    def _prompt(self, chat: list[Message]) -> list[int]:
        (sequence,) = self.renderer.sequences([chat], last=True)
        return sequence.ids[: sequence.targets.index(True)]

    def start(self, step: int) -> None:
        """Forget what was answered after `step`, from where training goes on."""
        kept = [line for line in _lines(self.file) if step and msgspec.json.decode(line)["step"] <= step]
        self.file.write_bytes(b"".join(kept))

    def write(self, module: Trained, step: int) -> None:
        """Append the answers of the model as it is; one process does, and none of the others is needed.

        Greedy decoding draws no random number, so training goes on as if nobody had asked.
        """
        end = self.renderer.end_of_turn
        stops = sorted({end, self.tokenizer.eos_token_id} - {None})
        greedy: Any = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "eos_token_id": stops, "pad_token_id": end}
        # Compiled layers would be compiled again for every length.
        with module.measuring(), torch.compiler.set_stance("force_eager"), self.file.open("ab") as file:
            for row, prompt in self.prompts:
                ids = torch.tensor([prompt], device=module.device)
                whole = module.model.generate(ids, attention_mask=torch.ones_like(ids), **greedy)[0]
                answer = self.tokenizer.decode(whole[len(prompt) :], skip_special_tokens=True)
                sample = Sample(step=step, row=row, prompt=self.tokenizer.decode(prompt), answer=answer)
                file.write(msgspec.json.encode(sample) + b"\n")


def _chats(rows: Path, pairs: bool) -> Iterator[tuple[str, list[Message]]]:
    """Every row's id and its chat, up to the answer that is asked for."""
    if pairs:
        for pair in iter_jsonl(rows, PreferencePair):
            yield pair.id, [*pair.prompt, Message(role="assistant", content=pair.chosen)]
        return
    for row in iter_jsonl(rows, Conversation):
        first = next(i for i, message in enumerate(row.messages) if message.role == "assistant")
        yield row.id, row.messages[: first + 1]


def _lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines(keepends=True) if file.exists() else []
