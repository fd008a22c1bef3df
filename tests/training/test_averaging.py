"""The moving average of the weights."""

import json

import pytest
import torch
from fitting import QUIET, Fitting, same
from safetensors.torch import load_file

from matrix.engines.base import ModelConfig
from matrix.training.averaging import AVERAGE, averaged, exchange, follow
from matrix.training.machines import LoggerConfig, Strategy, StrategyConfig, Tracker
from matrix.training.recipe import ExportType, LoraConfig, Precision, SFTConfig
from matrix.training.sft import SFT
from matrix.training.stage import Train

pytestmark = QUIET


class Watched(SFT):
    """Keeps the weights after every optimizer step."""

    def on_train_start(self):
        super().on_train_start()
        self.seen = []

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if (batch_idx + 1) % self.plan.accumulation == 0:
            self.seen.append([p.detach().clone() for p in self.parameters() if p.requires_grad])


@pytest.fixture
def fitting(tmp_path, base, conversations, tokenizer):
    return lambda name="run", **options: Fitting(tmp_path / name, base, conversations, tokenizer, **options)


def expected(seen, decay):
    average = seen[0]
    for t, weights in enumerate(seen[1:], 2):
        d = min(decay, (1 + t) / (10 + t))
        average = [d * a + (1 - d) * w for a, w in zip(average, weights, strict=True)]
    return average


@pytest.mark.parametrize("lora", [LoraConfig(rank=0), LoraConfig(rank=2)])
def test_the_average_of_the_trained_weights_is_what_training_leaves(fitting, lora):
    run = fitting(ema=0.4, lora=lora, kind=Watched).run()
    left = [p for p in run.module.parameters() if p.requires_grad]
    assert len(run.module.seen) == 6
    for mine, theirs in zip(left, expected(run.module.seen, 0.4), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-7)
        assert mine.dtype is torch.float32
    assert any(not p.equal(last) for p, last in zip(left, run.module.seen[-1], strict=True))


def test_training_itself_does_not_see_the_average(fitting):
    plain = fitting("plain", kind=Watched, held_out=0.2, evaluate_every=1).run()
    average = fitting("average", kind=Watched, held_out=0.2, evaluate_every=1, ema=0.9).run()
    for mine, theirs in zip(plain.module.seen, average.module.seen, strict=True):
        assert all(a.equal(b) for a, b in zip(mine, theirs, strict=True))
    losses = [run.column("loss", "held_out.csv") for run in (plain, average)]
    assert losses[0][0] == losses[1][0]  # the first average is the first weights
    assert losses[0][1:] != losses[1][1:]


def test_a_resumed_average_is_the_same_to_the_bit(fitting):
    whole = fitting("whole", ema=0.9).run()
    parts = fitting("parts", ema=0.9, kind=Interrupted).run()
    assert parts.recorder.interrupted
    parts.kind = SFT
    parts.run()
    assert same(whole.weights(), parts.weights())


class Interrupted(SFT):
    """Is asked to end in the second of six steps."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.trainer.callbacks[0].asked = self.trainer.global_step == 1


def test_exchanging_twice_changes_no_bit(fitting):
    run = fitting(ema=0.9).run()
    before = run.weights()
    exchange(run.module)
    assert not same(before, run.weights())
    with averaged(run.module):
        assert same(before, run.weights())
    exchange(run.module)
    assert same(before, run.weights())


def test_a_step_without_gradient_is_not_averaged():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    follow(optimizer, 0.5)
    optimizer.step()
    assert not optimizer.state
    for _ in range(2):
        weight.grad = torch.ones(3)
        optimizer.step()
    average = optimizer.state[weight][AVERAGE].clone()
    weight.grad = None
    optimizer.step()
    assert optimizer.state[weight][AVERAGE].equal(average)
    assert not average.equal(weight)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [Strategy.zero2])
def test_processes_that_share_a_training_leave_the_same_average(strategy, tmp_path, base, conversations):
    recipe = SFTConfig(
        precision=Precision.fp32, batch_size=4, learning_rate=1e-3, export_type=ExportType.float32, ema=0.9,
        held_out=0.2, evaluate_every=1, samples=2,
    )  # fmt: skip
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for work, machines in (
        (alone, StrategyConfig(kind=Strategy.single, threads=1)),
        (shared, StrategyConfig(kind=strategy, devices=2, threads=1)),
    ):
        work.mkdir()
        Train(
            recipe=recipe, strategy=machines, base=base, data=conversations, model=ModelConfig(model="tiny"), seed=5,
            logger=LoggerConfig(tracker=Tracker.none),
        ).run(work)  # fmt: skip
    mine, other = (load_file(work / "hf" / "model.safetensors") for work in (alone, shared))
    assert mine.keys() == other.keys()
    assert all(torch.allclose(tensor, other[name], atol=1e-4) for name, tensor in mine.items())
    losses = [[line.split(",") for line in (w / "held_out.csv").read_text().splitlines()[1:]] for w in (alone, shared)]
    for (step, loss), (their_step, theirs) in zip(*losses, strict=True):
        assert step == their_step
        assert float(loss) == pytest.approx(float(theirs), abs=1e-4)
    samples = [list(map(json.loads, (w / "samples.jsonl").read_text().splitlines())) for w in (alone, shared)]
    assert [(s["step"], s["row"], s["prompt"]) for s in samples[0]] == [
        (s["step"], s["row"], s["prompt"]) for s in samples[1]
    ]  # answers may part where two tokens are about equally likely
