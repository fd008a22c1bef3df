"""The scorer's process: one JSON line with chats in, one with a `Measured` for each out.

`python -m matrix.filtering.scoring JOB`, started by `matrix.filtering.scorer`. It ends when its input does, however the
parent ended. Never imported by the rest of the package.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from typing import Any

import msgspec
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from matrix.filtering.scorer import Head, Job, Measured
from matrix.records import Message
from matrix.training.batch import collate
from matrix.training.chat import Renderer, Sequence
from matrix.training.data import Example
from matrix.training.export import load_tokenizer
from matrix.training.logprobs import TokenLogps, check_logps, sequence_sums


class Loaded:
    """A model and its tokenizer on a device."""

    def __init__(self, job: Job, kind: Any) -> None:
        self.job = job
        source = (job.source, job.revision)
        gguf = {"gguf_file": job.gguf} if job.gguf else {}
        self.tokenizer = load_tokenizer(source, job.chat_template, job.trust_remote_code, **gguf)
        device = ("cuda" if torch.cuda.is_available() else "cpu") if job.device == "auto" else job.device
        dtype = "float32" if job.dtype == "auto" and device == "cpu" else job.dtype
        self.model, info = kind.from_pretrained(
            job.source, revision=job.revision, trust_remote_code=job.trust_remote_code, dtype=dtype,
            output_loading_info=True, **gguf,
        )  # fmt: skip
        if missing := sorted(info["missing_keys"]):
            raise ValueError(f"{job.source} has no weights for {', '.join(missing[:3])}: it is not a {kind.__name__}")
        self.model.to(device).eval()
        self.device = device

    def cut(self, sequence: Sequence) -> Sequence:
        """The first token, on which models lean, and as many of the last as fit the context."""
        over = len(sequence.ids) - self.job.max_context
        if over <= 0:
            return sequence
        return Sequence([sequence.ids[0], *sequence.ids[over + 1 :]], [False, *sequence.targets[over + 1 :]])

    def padded(self, rows: list[list[Any]], fill: Any) -> Tensor:
        """Rows as one tensor (rows, longest), filled on the right."""
        longest = max(len(row) for row in rows)
        return torch.tensor([row + [fill] * (longest - len(row)) for row in rows], device=self.device)


class Classifier(Loaded):
    """A reward model: one number for a whole chat."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, AutoModelForSequenceClassification)
        if not self.tokenizer.chat_template:
            raise ValueError(f"{job.source} has no chat template; set reward.model.chat_template, e.g. llama3")
        self.padding = self.model.config.get_text_config().pad_token_id

    def score(self, chats: list[list[Message]]) -> list[Measured]:
        """The model's output for every chat."""
        whole = [self._sequence(chat) for chat in chats]
        kept = [self.cut(sequence) for sequence in whole]
        # Without a padding token the model cannot tell where a padded chat ends.
        groups = [kept] if self.padding is not None else [[sequence] for sequence in kept]
        values = [value for group in groups for value in self._values([sequence.ids for sequence in group])]
        return [
            Measured(value=value, tokens=len(short.ids), cut=len(full.ids) - len(short.ids))
            for value, short, full in zip(values, kept, whole, strict=True)
        ]

    def _sequence(self, chat: list[Message]) -> Sequence:
        turns = [{"role": message.role, "content": message.content} for message in chat]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        ids = self.tokenizer.encode(text, add_special_tokens=False)  # the template writes them
        return Sequence(ids, [False] * len(ids))

    def _values(self, rows: list[list[int]]) -> list[float]:
        ids = self.padded(rows, self.padding or 0)
        output = self.model(input_ids=ids, attention_mask=self.padded([[1] * len(row) for row in rows], 0))
        found = getattr(output, "score", None)  # ArmoRM's gated sum of its objectives
        values = output.logits if found is None else found
        if values.numel() != len(rows):
            raise ValueError(f"{self.job.source} gives {values.shape[-1]} numbers for a chat; a reward model gives one")
        return [float(value) for value in values.flatten().float().cpu()]


class Causal(Loaded):
    """A language model: the log-probability of the last answer."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, AutoModelForCausalLM)
        self.renderer = Renderer(self.tokenizer)
        self.logps = TokenLogps(self.model)
        check_logps(self.logps)

    def score(self, chats: list[list[Message]]) -> list[Measured]:
        """Sums over the tokens of the last answer, softmax in float32 and sum in float64."""
        whole = [last_answer(self.renderer.sequence(chat)) for chat in chats]
        kept = [self.cut(sequence) for sequence in whole]
        batch = collate([Example("", (sequence,)) for sequence in kept], list(range(len(kept))), packed=False)
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        sums = sequence_sums(self.logps(batch).double(), batch["owner"], len(kept)).cpu()
        return [
            Measured(value=float(value), tokens=sum(short.targets), cut=len(full.ids) - len(short.ids))
            for value, short, full in zip(sums, kept, whole, strict=True)
        ]


def last_answer(sequence: Sequence) -> Sequence:
    """The same tokens with the last assistant turn alone as target; targets of two turns never touch."""
    end = max(i for i, target in enumerate(sequence.targets) if target)
    start = next((i for i in range(end, -1, -1) if not sequence.targets[i]), -1)
    return Sequence(sequence.ids, [start < i <= end for i in range(len(sequence.ids))])


def main() -> None:
    """Load the model of the job in the first argument and answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then ends this process
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not stand between the answers
    job = msgspec.json.decode(sys.argv[1], type=Job)
    torch.set_num_threads(job.threads)
    with torch.no_grad():
        model = Classifier(job) if job.head is Head.reward else Causal(job)
        for line in sys.stdin.buffer:
            measured = model.score(msgspec.json.decode(line, type=list[list[Message]]))
            if not all(math.isfinite(found.value) for found in measured):
                raise ValueError(f"{job.source} gives numbers that are none in {model.model.dtype}; set another dtype")
            out.write(msgspec.json.encode(measured) + b"\n")
            out.flush()


if __name__ == "__main__":
    main()
