"""The real worker process: trained, killed, resumed, spread over processes, exported."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file
from training_samples import published

from matrix.engines.base import ModelConfig
from matrix.training.machines import Strategy, StrategyConfig
from matrix.training.recipe import (
    DPOConfig,
    ExportType,
    LoraConfig,
    Precision,
    PreferenceLoss,
    SFTConfig,
    TrainingError,
)
from matrix.training.stage import Import, Refer, Train, reference_recipe, worker_command

MODEL = ModelConfig(model="tiny")
LAUNCHERS = Path(__file__).parent / "launchers"
COMMON = {
    "precision": Precision.fp32,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "export_type": ExportType.float32,
}


def uninterrupted_run(work, base, conversations, epochs=67, strategy=Strategy.single, devices=1):
    """Three optimizer steps an epoch, without a checkpoint."""
    recipe = SFTConfig(epochs=epochs, micro_batch_size=2, checkpoint_every=0, **COMMON)
    machines = StrategyConfig(kind=strategy, devices=devices, threads=1)
    stage = Train(recipe=recipe, strategy=machines, base=base, data=conversations, model=MODEL, seed=5)
    stage.run(work)
    return stage, work


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, base, conversations):
    return uninterrupted_run(tmp_path_factory.mktemp("uninterrupted"), base, conversations)


def test_train_leaves_a_checkpoint_result(uninterrupted):
    _, work = uninterrupted
    assert sorted(p.name for p in (work / "hf").iterdir()) == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert json.loads((work / "hf" / "generation_config.json").read_text())["eos_token_id"] == [1, 4]
    summary = json.loads((work / "summary.json").read_text())
    assert (summary["rows"], summary["used"], summary["steps"]) == (11, 11, 201)
    assert summary["last_loss"] < 0.5 * summary["first_loss"]
    header, first, *rest = (line.split(",") for line in (work / "metrics.csv").read_text().splitlines())
    assert len(rest) == 200
    assert float(first[header.index("learning_rate")]) == pytest.approx(1e-3 / 8)  # seven steps of warm-up
    assert sorted(p.name for p in work.iterdir()) == [
        "doctor.json", "doctor.txt", "hf", "logs", "metrics.csv", "summary.json", "usage.json",
    ]  # fmt: skip
    assert list((work / "logs" / "tensorboard").glob("events*"))


def test_killed_and_started_again_ends_with_the_same_bits(uninterrupted, tmp_path):
    kill_and_compare(*uninterrupted, tmp_path)


@pytest.mark.slow  # other forms: benchmarks/resume.py, and without kill -9 test_consolidate.py
def test_two_processes_killed_and_started_again(base, conversations, tmp_path_factory):
    straight = tmp_path_factory.mktemp("straight")
    whole, expected = uninterrupted_run(straight, base, conversations, 14, Strategy.zero2, devices=2)
    kill_and_compare(whole, expected, tmp_path_factory.mktemp("killed"))


def kill_and_compare(whole, expected, tmp_path):
    stage = replace(whole, recipe=replace(whole.recipe, checkpoint_every=3))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "stage.json").write_text(json.dumps(stage.job(tmp_path)))
    command = [*worker_command(stage.strategy), str(tmp_path / "logs" / "stage.json")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as worker:
        for line in worker.stdout:
            if line.startswith('{"step"') and json.loads(line)["step"] >= 20:
                os.killpg(worker.pid, signal.SIGKILL)
                break
    assert worker.returncode == -signal.SIGKILL
    assert not (tmp_path / "hf").exists()
    (kept,) = (p.name for p in (tmp_path / "checkpoints").glob("step-????????"))
    assert int(kept.removeprefix("step-")) >= 18
    stage.run(tmp_path)
    resumed, straight = (load_file(work / "hf" / "model.safetensors") for work in (tmp_path, expected))
    assert all(resumed[name].equal(straight[name]) for name in straight)
    assert timeless(tmp_path / "metrics.csv") == timeless(expected / "metrics.csv")


def timeless(metrics):
    """Lines of metrics.csv without what is measured with a clock."""
    with metrics.open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.endswith("_per_second") and "mfu" not in k} for row in rows]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, base, conversations, pairs):
    """The folder of a training on one process, without DeepSpeed; each kind is made once."""

    @cache
    def made(kind):
        work = tmp_path_factory.mktemp(kind.__name__)
        spread(work, kind, StrategyConfig(kind=Strategy.single, threads=1), base, conversations, pairs)
        return work

    return made


def spread(work, kind, strategy, base, conversations, pairs):
    """Two epochs on the given machines, preference training after a pass for its reference there."""
    shared = {"strategy": strategy, "base": base, "model": MODEL, "seed": 5}
    recipe = kind(epochs=2, micro_batch_size=1, max_length=128, **COMMON)
    if kind is SFTConfig:
        Train(recipe=recipe, data=conversations, **shared).run(work)
        return
    (work / "reference").mkdir()
    Refer(recipe=reference_recipe(recipe), data=pairs, **shared).run(work / "reference")
    reference = published("reference", work / "reference")
    Train(recipe=recipe, data=pairs, reference=reference, **shared).run(work)


@pytest.mark.parametrize(
    ("kind", "strategy", "devices"),
    [pytest.param(DPOConfig, Strategy.zero3, 2, marks=pytest.mark.slow)],
)  # all others: test_strategy.py, and to the last digit benchmarks/training_invariance.py
def test_processes_train_as_one_does(kind, strategy, devices, tmp_path, alone, base, conversations, pairs):
    spread(tmp_path, kind, StrategyConfig(kind=strategy, devices=devices, threads=1), base, conversations, pairs)
    runs = (tmp_path, alone(kind))
    losses = []
    for work in runs:
        with (work / "metrics.csv").open() as file:
            losses.append([(float(row["loss"]), float(row["gradient_norm"])) for row in csv.DictReader(file)])
    weights = [load_file(work / "hf" / "model.safetensors") for work in runs]
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-6, rel=1e-6)
    assert sum(losses[0], ()) == pytest.approx(sum(losses[1], ()), abs=2e-4)
    assert weights[0].keys() == weights[1].keys()
    assert max((weights[0][n] - weights[1][n]).abs().max().item() for n in weights[0]) < 1e-3
    assert sum((weights[0][n] - weights[1][n]).abs().mean().item() for n in weights[0]) < 1e-4


@pytest.mark.parametrize("launch", ["srun", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_ranks_that_were_started_from_outside_find_each_other(launch, tmp_path, base, conversations):
    """Two nodes of one process each, as torchrun and srun start them, here on one machine."""
    recipe = SFTConfig(epochs=1, **COMMON)
    machines = StrategyConfig(kind=Strategy.zero2, num_nodes=2, launcher=[str(LAUNCHERS / launch)], threads=1)
    Train(recipe=recipe, strategy=machines, base=base, data=conversations, model=MODEL, seed=5).run(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["processes"], summary["steps"]) == (2, 3)


def test_failure_repeats_the_end_of_the_log(tmp_path, base, pairs):
    stage = Train(recipe=SFTConfig(**COMMON), base=base, data=pairs, model=MODEL, seed=0)
    with pytest.raises(TrainingError, match=r"sft failed \(exit code 1\)[\s\S]*holds PreferencePairs"):
        stage.run(tmp_path)


INTERRUPTED = """
import signal, sys
from pathlib import Path
from matrix.training.stage import run_process
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit that it is ignored
child = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"
work = Path(sys.argv[1])
run_process([sys.executable, "-c", child], {}, work, "sft")
"""


def test_interrupt_ends_the_worker(tmp_path):
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path)], stderr=subprocess.DEVNULL) as parent:
        log = tmp_path / "logs" / "worker.log"
        while not (log.exists() and log.read_text().strip()):
            assert parent.poll() is None
            time.sleep(0.1)
        parent.send_signal(signal.SIGINT)
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def test_identity_is_recipe_inputs_template_and_not_how(base, conversations, tmp_path):
    def stage(recipe, template=None, **how):
        model = ModelConfig(model="tiny", chat_template=template)
        return Train(recipe=recipe, base=base, data=conversations, model=model, seed=0, strategy=StrategyConfig(**how))

    plain = stage(SFTConfig())
    assert plain.key() == stage(SFTConfig(micro_batch_size=4), devices=2, kind=Strategy.zero2, threads=1).key()
    assert plain.key() != stage(SFTConfig(batch_size=16)).key()
    assert plain.key() != stage(DPOConfig()).key()
    template = tmp_path / "mine.jinja"
    template.write_text("one")
    first = stage(SFTConfig(), str(template)).key()
    template.write_text("two")
    assert len({first, stage(SFTConfig(), str(template)).key(), plain.key()}) == 3
    assert plain.readable() == "sft"


def test_recipes_that_differ_in_loss_and_rate_share_their_reference(base, pairs):
    def key(**what):
        recipe = reference_recipe(DPOConfig(**what))
        return Refer(recipe=recipe, base=base, data=pairs, model=MODEL, seed=0).key()

    assert key() == key(loss=PreferenceLoss.ipo, beta=0.5, learning_rate=1e-6, lora=LoraConfig(), batch_size=32)
    assert len({key(), key(max_length=128), key(loss=PreferenceLoss.kto), key(bos_in_completion=True)}) == 4


def test_import_points_to_what_needs_no_conversion(tmp_path, base):
    hub = Import(model=ModelConfig(model="meta-llama/Meta-Llama-3-8B", revision="8cde5ca"), seed=0)
    hub.run(tmp_path)
    assert json.loads((tmp_path / "reference.json").read_text()) == {
        "model": "meta-llama/Meta-Llama-3-8B",
        "revision": "8cde5ca",
    }
    Import(model=ModelConfig(model=str(base.path / "hf")), seed=0).run(tmp_path)
    assert json.loads((tmp_path / "reference.json").read_text())["model"] == str(base.path / "hf")


def test_worker_command_follows_devices_and_launcher():
    assert worker_command(StrategyConfig()) == [sys.executable, "-m", "matrix.training.worker"]
    assert "--nproc_per_node=4" in worker_command(StrategyConfig(devices=4))
    assert worker_command(StrategyConfig(num_nodes=2, devices=8, launcher=["srun"]))[0] == "srun"
