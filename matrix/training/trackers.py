"""Where the metrics of training are shown besides `metrics.csv`: Lightning's loggers, chosen by `logger=`."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from matrix.training.machines import LoggerConfig, Tracker
from matrix.training.recipe import TrainingError


def trackers(config: LoggerConfig, work: Path) -> list[Any]:
    """Lightning loggers; everything that they keep on this machine is in `work/logs/`.

    A training that is resumed goes on in its own curves.

    Args:
        config: which tracker, and where it reports to.
        work: the stage's folder; its name is the run's name.

    Raises:
        TrainingError: the tracker's package is not installed.
    """
    logs, name = work / "logs", work.name.removesuffix(".partial")
    if config.tracker is Tracker.none:
        return []
    logs.mkdir(exist_ok=True)
    if config.tracker is Tracker.tensorboard:
        from lightning.pytorch.loggers import TensorBoardLogger

        return [TensorBoardLogger(logs, name=None, version="tensorboard")]
    if not find_spec(config.tracker.value):
        raise TrainingError(
            f"logger={config.tracker} needs its package: pip install 'matrix-gen[trackers]', or set logger=tensorboard"
        )
    if config.tracker is Tracker.wandb:
        return [_wandb(config, logs, name)]
    from lightning.pytorch.loggers import MLFlowLogger

    if config.location is None:
        # A folder is all that is needed here; MLflow recommends a database, which needs more packages.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    run = logs / "mlflow-run"
    logger = MLFlowLogger(
        experiment_name=config.project, run_name=name, save_dir=str(logs / "mlruns"), tracking_uri=config.location,
        run_id=run.read_text() if run.exists() else None,
    )  # fmt: skip
    rank_zero_only(run.write_text)(str(logger.run_id))
    return [logger]


def _wandb(config: LoggerConfig, logs: Path, name: str) -> Any:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    class Finished(WandbLogger):
        """Ends its run with the training; a worker that is one of several leaves without Python's clean-up."""

        @rank_zero_only
        def finalize(self, status: str) -> None:
            super().finalize(status)
            wandb.finish(int(status != "success"))

    offline = config.location == "offline"
    return Finished(name=name, id=name, save_dir=logs, project=config.project, offline=offline, resume="allow")
