"""What training leaves behind as it goes, when it is killed, asked to end, or goes wrong."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from fitting import QUIET, Fitting, same
from safetensors.torch import load_file

from matrix.engines.base import ModelConfig
from matrix.training.budget import documents, flops, shape_of
from matrix.training.machines import LoggerConfig, Strategy, StrategyConfig, Tracker
from matrix.training.recipe import ExportType, Keep, Precision, Schedule, SFTConfig, TrainingError
from matrix.training.recorder import Utilisation, last_checkpoint
from matrix.training.sft import SFT
from matrix.training.stage import Train
from matrix.training.worker import main

pytestmark = QUIET
TIMED = ("tokens_per_second", "targets_per_second", "mfu", "mfu_causal")


@pytest.fixture
def fitting(tmp_path, base, conversations, tokenizer):
    return lambda name="run", **options: Fitting(tmp_path / name, base, conversations, tokenizer, **options)


@pytest.fixture(autouse=True)
def own_handler():
    """Of pytest, not of the training before."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) == before  # a training gives it back
    signal.signal(signal.SIGTERM, before)


class Watched(SFT):
    """Keeps the weights after every optimizer step."""

    def on_train_start(self):
        super().on_train_start()
        self.seen = {0: self.state()}

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if (batch_idx + 1) % self.plan.accumulation == 0:
            self.seen[self.trainer.global_step] = self.state()

    def state(self):
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}


class Killed(SFT):
    """Dies in the sixth step."""

    def on_train_batch_start(self, batch, batch_idx):
        if self.trainer.global_step == 5:
            raise RuntimeError("killed")


def resumed(run, kind=SFT):
    run.kind = kind
    return run.run()


def untimed(run):
    return [{k: v for k, v in row.items() if k not in TIMED} for row in run.table()]


def test_tables_of_a_killed_training_are_those_of_one_that_was_not(fitting):
    options = {"held_out": 0.2, "evaluate_every": 1, "batch_size": 2, "keep": Keep.best, "checkpoint_every": 2}
    whole, killed = fitting("whole", **options).run(), fitting("killed", kind=Killed, **options)
    with pytest.raises(RuntimeError, match="killed"):
        killed.run()
    assert last_checkpoint(killed.work).name == "step-00000004"
    assert killed.column("step") == [1, 2, 3, 4, 5]
    assert resumed(killed).trainer.global_step == 8
    assert untimed(whole) == untimed(killed)
    assert whole.table("held_out.csv") == killed.table("held_out.csv")
    assert whole.column("step", "held_out.csv") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert same(whole.weights(), killed.weights())
    assert same(load_file(whole.recorder.best), load_file(killed.recorder.best))


def test_without_a_checkpoint_tables_begin_anew(fitting):
    run = fitting(kind=Killed, held_out=0.2, batch_size=2)
    with pytest.raises(RuntimeError, match="killed"):
        run.run()
    assert resumed(run).column("step") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert run.column("step", "held_out.csv") == [4, 8]


LOSSES = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.0, 5: 1.0, 6: 0.5}


class Scripted(Watched):
    """Has these held-out losses."""

    def evaluate(self):
        return {"loss": LOSSES[self.trainer.global_step]}


def test_training_ends_early_within_an_epoch(fitting):
    run = fitting(kind=Scripted, held_out=0.2, evaluate_every=1, patience=2, keep=Keep.best, epochs=3).run()
    assert run.column("step") == [1, 2, 3, 4]  # two steps an epoch
    assert run.column("loss", "held_out.csv") == [3.0, 2.0, 2.5, 2.0]
    assert not run.recorder.interrupted
    best = load_file(run.recorder.best)
    assert all(best[name].equal(tensor) for name, tensor in run.module.seen[2].items())


def test_a_training_that_ended_early_is_not_gone_on_with(fitting):
    """It is killed while it exports."""
    options = {"held_out": 0.2, "evaluate_every": 1, "patience": 2, "epochs": 3, "checkpoint_every": 1}
    run = fitting(kind=Scripted, **options).run()
    assert last_checkpoint(run.work).name == "step-00000003"
    assert resumed(run, Scripted).column("step") == [1, 2, 3, 4]


def test_a_held_out_loss_that_is_not_finite_is_the_highest(fitting, monkeypatch):
    monkeypatch.setitem(LOSSES, 1, math.nan)
    run = fitting(kind=Scripted, held_out=0.2, evaluate_every=1, keep=Keep.best).run()
    best = load_file(run.recorder.best)
    assert all(best[name].equal(tensor) for name, tensor in run.module.seen[2].items())


class Unstable(Watched):
    """Has no finite loss in some steps."""

    bad = frozenset({3})

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * math.nan if self.trainer.global_step + 1 in self.bad else loss


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_step_without_a_finite_gradient_is_left_out(fitting, clip):
    run = fitting(kind=Unstable, gradient_clip=clip).run()
    seen = run.module.seen
    assert [step for step in range(1, 7) if same(seen[step], seen[step - 1])] == [3]
    assert run.column("skipped") == [0, 0, 1, 1, 1, 1]
    assert [math.isfinite(norm) for norm in run.column("gradient_norm")] == [True, True, False, True, True, True]
    state = run.trainer.optimizers[0].state[next(run.module.parameters())]
    assert state["step"] == 5
    assert all(tensor.isfinite().all() for tensor in state.values())


class Stuck(Unstable):
    """Has no finite loss from the second step on, and is asked to end in the fourth."""

    bad = frozenset(range(2, 9))

    def on_train_batch_start(self, batch, batch_idx):
        self.trainer.callbacks[0].asked = self.trainer.global_step == 3


def test_training_that_no_longer_moves_is_given_up_also_when_it_was_resumed(fitting):
    run = fitting(kind=Stuck, batch_size=2).run()
    assert run.recorder.interrupted
    assert run.column("skipped") == [0, 1, 2, 3]
    with pytest.raises(TrainingError, match=r"steps 2 to 6 have no finite gradient.*Lower learning_rate"):
        resumed(run, Stuck)
    assert run.column("skipped") == [0, 1, 2, 3, 4, 5]


class Asked(SFT):
    """Gets SIGTERM within the second step, of which there are six."""

    def on_train_batch_start(self, batch, batch_idx):
        if self.trainer.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_asked_to_end_it_finishes_the_step_and_goes_on_later(fitting):
    whole, parts = fitting("whole").run(), fitting("parts", kind=Asked).run()
    assert parts.recorder.interrupted
    assert last_checkpoint(parts.work).name == "step-00000002"
    assert parts.column("step") == [1, 2]
    assert not resumed(parts).recorder.interrupted
    assert untimed(whole) == untimed(parts)
    assert same(whole.weights(), parts.weights())


class AskedEarly(SFT):
    """Gets SIGTERM before the first step, when Lightning's handler is in place already."""

    def train_dataloader(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().train_dataloader()


def test_asked_to_end_before_the_first_step_it_is_not_done(fitting):
    run = fitting(kind=AskedEarly).run()
    assert run.recorder.interrupted
    assert resumed(run).column("step") == [1, 2, 3, 4, 5, 6]


class AskedLate(SFT):
    """Gets SIGTERM within the last step."""

    def on_train_batch_start(self, batch, batch_idx):
        if self.trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)


def test_asked_to_end_in_the_last_step_it_is_done(fitting):
    run = fitting(kind=AskedLate, checkpoint_every=1).run()
    assert not run.recorder.interrupted
    assert run.trainer.global_step == 6
    assert last_checkpoint(run.work).name == "step-00000005"


def test_utilisation_counts_what_a_step_computes(fitting):
    run = fitting().run()
    assert all(math.isnan(row["mfu"]) and math.isnan(row["mfu_causal"]) for row in run.table())  # of a CPU
    used = Utilisation(run.trainer, run.module)
    used.peak, used.shape = 1e9, shape_of(run.module.model.config)
    step = run.module.plan.steps[1]
    examples = [run.module.examples[i] for rows in step.micro_batches for i in rows]
    work = flops(used.shape, documents(examples, True), step.targets)
    assert used.of(2, 0.5) == pytest.approx((work.full / 0.5e9, work.causal / 0.5e9))
    assert used.of(2, 1.0)[0] == pytest.approx(used.of(2, 0.5)[0] / 2)


RECIPE = SFTConfig(
    precision=Precision.fp32, batch_size=4, epochs=50, learning_rate=1e-3, export_type=ExportType.float32,
    checkpoint_every=0, ema=0.99, held_out=0.2, evaluate_every=25, samples=1,
)  # fmt: skip


def staged(base, conversations, recipe=RECIPE):
    return Train(
        recipe=recipe, strategy=StrategyConfig(kind=Strategy.single, threads=1), base=base, data=conversations,
        logger=LoggerConfig(tracker=Tracker.none), model=ModelConfig(model="tiny"), seed=5,
    )  # fmt: skip


def finished(stage, work):
    """What the worker makes of a stage, in this process."""
    (work / "logs").mkdir(parents=True, exist_ok=True)
    file = work / "logs" / "stage.json"
    file.write_text(json.dumps(stage.job(work)))
    threads = torch.get_num_threads()
    assert main(file) == 0
    torch.set_num_threads(threads)
    return load_file(work / "hf" / "model.safetensors")


STAGE = """
import pickle, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit that it is ignored
stage, work = pickle.load(open(sys.argv[1], "rb"))
stage.run(work)
"""


def test_interrupted_twice_it_ends_with_the_same_files(tmp_path, base, conversations):
    """Ctrl-C while the stage waits for its worker; then SIGTERM to a worker."""
    import pickle

    stage, work, whole = staged(base, conversations), tmp_path / "parts", tmp_path / "whole"
    work.mkdir()
    (tmp_path / "stage.pickle").write_bytes(pickle.dumps((stage, work)))

    def steps():
        table = work / "metrics.csv"
        return len(table.read_text().splitlines()) - 1 if table.exists() else 0

    def until(process, step):
        while steps() < step:
            assert process.poll() is None
            time.sleep(0.02)

    waiting = subprocess.Popen([sys.executable, "-c", STAGE, str(tmp_path / "stage.pickle")], stderr=subprocess.PIPE)
    until(waiting, 10)
    waiting.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in waiting.communicate()[1]
    assert waiting.returncode == -signal.SIGINT
    first = steps()
    assert last_checkpoint(work).name == f"step-{first:08}"
    assert first < 80

    command = [sys.executable, "-m", "matrix.training.worker", str(work / "logs" / "stage.json")]
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(worker, first + 10)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == 143
    assert not (work / "hf").exists()

    mine, other = finished(stage, work), finished(stage, whole)
    assert mine.keys() == other.keys()
    assert all(mine[name].equal(tensor) for name, tensor in other.items())
    for name in ("held_out.csv", "samples.jsonl"):
        assert (work / name).read_text() == (whole / name).read_text()
    assert not (work / "checkpoints").exists()


def test_the_best_weights_are_exported(tmp_path, base, conversations, tokenizer):
    recipe = replace(
        RECIPE, epochs=2, learning_rate=0.1, schedule=Schedule.constant, evaluate_every=1, keep=Keep.best, ema=0.0
    )
    exported = finished(staged(base, conversations, recipe), tmp_path / "whole")
    losses = [float(line.split(",")[1]) for line in (tmp_path / "whole" / "held_out.csv").read_text().split()[1:]]
    best = 1 + losses.index(min(losses))
    assert 1 < best < len(losses)  # else this shows nothing
    again = Fitting(tmp_path / "again", base, conversations, tokenizer, kind=Watched, seed=5)
    again.recipe = recipe
    again.run()
    assert all(again.module.seen[best][name].equal(tensor) for name, tensor in exported.items())
