"""The real worker process: trained, killed, resumed, spread over processes, exported."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from matrix.engines.base import ModelConfig
from matrix.stage import full_config
from matrix.training.recipe import DPOConfig, ExportType, Precision, SFTConfig, Strategy, TrainingError
from matrix.training.stage import Import, Train, worker_command

MODEL = ModelConfig(model="tiny")
COMMON = {
    "precision": Precision.fp32,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "export_type": ExportType.float32,
    "threads": 1,
}


def uninterrupted_run(work, base, conversations, **how):
    """201 optimizer steps without a checkpoint."""
    recipe = SFTConfig(epochs=67, micro_batch_size=2, checkpoint_every=0, **COMMON, **how)
    stage = Train(recipe=recipe, base=base, data=conversations, model=MODEL, seed=5)
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
    assert sorted(p.name for p in work.iterdir()) == ["hf", "logs", "metrics.csv", "summary.json", "usage.json"]
    assert list((work / "logs" / "tensorboard").glob("events*"))


def test_killed_and_started_again_ends_with_the_same_bits(uninterrupted, tmp_path):
    kill_and_compare(*uninterrupted, tmp_path)


@pytest.mark.slow
def test_killed_and_started_again_under_deepspeed(base, conversations, tmp_path_factory):
    straight = tmp_path_factory.mktemp("straight")
    whole, expected = uninterrupted_run(straight, base, conversations, strategy=Strategy.zero2)
    kill_and_compare(whole, expected, tmp_path_factory.mktemp("killed"))


def kill_and_compare(whole, expected, tmp_path):
    stage = replace(whole, recipe=replace(whole.recipe, checkpoint_every=3))
    (tmp_path / "logs").mkdir()
    job = {
        "work": str(tmp_path), "base": str(stage.base.path), "rows": str(stage.data.path / "rows.jsonl"),
        "chat_template": None, "trust_remote_code": False, "seed": stage.seed, "sft": full_config(stage.recipe),
    }  # fmt: skip
    (tmp_path / "logs" / "stage.json").write_text(json.dumps(job))
    command = [*worker_command(stage.recipe), str(tmp_path / "logs" / "stage.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
        for line in worker.stdout:
            if line.startswith('{"step"') and json.loads(line)["step"] >= 20:
                worker.kill()
                break
    assert worker.returncode == -signal.SIGKILL
    assert not (tmp_path / "hf").exists()
    (kept,) = (p.name for p in (tmp_path / "checkpoints").glob("step-????????"))
    assert int(kept.removeprefix("step-")) >= 18
    stage.run(tmp_path)
    resumed, straight = (load_file(work / "hf" / "model.safetensors") for work in (tmp_path, expected))
    assert all(resumed[name].equal(straight[name]) for name in straight)
    metrics = [(work / "metrics.csv").read_text().splitlines() for work in (tmp_path, expected)]
    without_speed = [[line.rsplit(",", 1)[0] for line in lines] for lines in metrics]
    assert without_speed[0] == without_speed[1]


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        (SFTConfig, Strategy.zero2),
        pytest.param(SFTConfig, Strategy.zero3, marks=pytest.mark.slow),
        pytest.param(SFTConfig, Strategy.ddp, marks=pytest.mark.slow),
        pytest.param(DPOConfig, Strategy.zero2, marks=pytest.mark.slow),
        pytest.param(DPOConfig, Strategy.zero3, marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one_does(kind, strategy, tmp_path, base, conversations, pairs):
    data = conversations if kind is SFTConfig else pairs
    losses, weights = [], []
    for name, how in [("two", {"devices": 2, "strategy": strategy}), ("one", {"strategy": Strategy.single})]:
        (tmp_path / name).mkdir()
        recipe = kind(epochs=2, micro_batch_size=1, **COMMON, **how)
        Train(recipe=recipe, base=base, data=data, model=MODEL, seed=5).run(tmp_path / name)
        lines = [line.split(",") for line in (tmp_path / name / "metrics.csv").read_text().splitlines()]
        norm = lines[0].index("gradient_norm")
        losses.append([(float(line[1]), float(line[norm])) for line in lines[1:]])
        weights.append(load_file(tmp_path / name / "hf" / "model.safetensors"))
    assert sum(losses[0], ()) == pytest.approx(sum(losses[1], ()), abs=2e-4)
    assert weights[0].keys() == weights[1].keys()
    assert max((weights[0][n] - weights[1][n]).abs().max().item() for n in weights[0]) < 1e-3
    assert sum((weights[0][n] - weights[1][n]).abs().mean().item() for n in weights[0]) < 1e-4


def test_failure_repeats_the_end_of_the_log(tmp_path, base, pairs):
    stage = Train(recipe=SFTConfig(**COMMON), base=base, data=pairs, model=MODEL, seed=0)
    with pytest.raises(TrainingError, match=r"sft failed \(exit code 1\)[\s\S]*Expected one Conversation as JSON"):
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
    def stage(recipe, template=None):
        model = ModelConfig(model="tiny", chat_template=template)
        return Train(recipe=recipe, base=base, data=conversations, model=model, seed=0)

    plain = stage(SFTConfig())
    assert plain.key() == stage(SFTConfig(micro_batch_size=4, devices=2, strategy=Strategy.zero2, threads=1)).key()
    assert plain.key() != stage(SFTConfig(batch_size=16)).key()
    assert plain.key() != stage(DPOConfig()).key()
    template = tmp_path / "mine.jinja"
    template.write_text("one")
    first = stage(SFTConfig(), str(template)).key()
    template.write_text("two")
    assert len({first, stage(SFTConfig(), str(template)).key(), plain.key()}) == 3
    assert plain.readable() == "sft"


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
    assert worker_command(SFTConfig()) == [sys.executable, "-m", "matrix.training.worker"]
    assert "--nproc_per_node=4" in worker_command(SFTConfig(devices=4))
    assert worker_command(SFTConfig(num_nodes=2, devices=8, launcher=["srun"]))[0] == "srun"
