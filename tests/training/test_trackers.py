"""Where the metrics of training are shown besides their table."""

from importlib.util import find_spec

import pytest
from fitting import QUIET, Fitting

from matrix.training.machines import LoggerConfig, Tracker
from matrix.training.recipe import TrainingError
from matrix.training.sft import SFT
from matrix.training.trackers import trackers

pytestmark = QUIET


class Interrupted(SFT):
    """Is asked to end in the second of three steps."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.trainer.callbacks[0].asked = self.trainer.global_step == 1


def tracked(folder, base, conversations, tokenizer, tracker, location=None):
    """Three steps, resumed after the second, with an evaluation at the end."""
    options = {"epochs": 1, "batch_size": 3, "held_out": 0.2, "tracker": tracker}
    run = Fitting(folder / "sft-0123abcd.partial", base, conversations, tokenizer, kind=Interrupted, **options)
    run.logger.location = location
    run.run()
    run.kind = SFT
    return run.run()


def test_none_leaves_no_folder(tmp_path, base, conversations, tokenizer):
    run = tracked(tmp_path, base, conversations, tokenizer, Tracker.none)
    assert trackers(LoggerConfig(tracker=Tracker.none), tmp_path) == []
    assert sorted(p.name for p in run.work.iterdir()) == ["checkpoints", "held_out.csv", "metrics.csv"]


def test_tensorboard_shows_what_the_table_holds(tmp_path, base, conversations, tokenizer):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tracked(tmp_path, base, conversations, tokenizer, Tracker.tensorboard)
    events = EventAccumulator(str(run.work / "logs" / "tensorboard"))
    events.Reload()
    columns = {*run.table()[0]} - {"step", "mfu", "mfu_causal"}  # of a CPU none is known
    assert {*events.Tags()["scalars"]} == columns | {"held_out/loss"}
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(run.column("loss"))
    (held_out,) = events.Scalars("held_out/loss")
    assert (held_out.step, held_out.value) == (3, pytest.approx(run.column("loss", "held_out.csv")[0]))


def test_mlflow_keeps_one_run_of_a_resumed_training(tmp_path, base, conversations, tokenizer, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # given back after the test
    run = tracked(tmp_path, base, conversations, tokenizer, Tracker.mlflow)
    losses = [*(run.work / "logs" / "mlruns").glob("*/*/metrics/loss")]
    assert len(losses) == 1
    values = [line.split() for line in losses[0].read_text().splitlines()]  # time, value, step
    assert [int(step) for _, _, step in values] == [1, 2, 3]
    assert [float(value) for _, value, _ in values] == pytest.approx(run.column("loss"))
    assert (losses[0].parents[1] / "tags" / "mlflow.runName").read_text() == "sft-0123abcd"
    assert (losses[0].parent / "held_out" / "loss").exists()


def test_wandb_offline_stays_in_the_logs(tmp_path, base, conversations, tokenizer, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tracked(tmp_path, base, conversations, tokenizer, Tracker.wandb, "offline")
    found = [p.name for p in (run.work / "logs" / "wandb").glob("offline-run-*/run-*.wandb")]
    assert found == 2 * ["run-sft-0123abcd.wandb"]  # one id, by which the service joins the parts


@pytest.mark.parametrize("tracker", [Tracker.wandb, Tracker.mlflow])
def test_a_missing_package_is_told(tracker, tmp_path):
    if find_spec(tracker):
        pytest.skip("it is not missing")
    with pytest.raises(TrainingError, match=rf"logger={tracker} needs its package: pip install 'matrix-gen\[trackers"):
        trackers(LoggerConfig(tracker=tracker), tmp_path)
