"""Tracking with MLflow (train.mlflow): parameters, the figures of every epoch, and the files of a run.

true keeps everything in mlruns/ beside the runs (`mlflow ui --backend-store-uri runs/mlruns` shows it); any other
value is the address of a tracking server, such as http://localhost:5000. mlflow.json in the run directory says which
MLflow run it is, so that a run that is resumed goes on with it.
"""

import importlib.util
import json
import os
import time
from pathlib import Path
from typing import Any

import config as configuration
from config import Config, ConfigError, PipelineError, from_project
from config.commandline import log
from train.run import Run, flat_settings, write_text

MAX_PARAMETER = 500  # characters that every tracking server takes
ARTIFACTS = (
    "config.toml",
    "classes.csv",
    "features.json",
    "split.csv",
    "history.csv",
    "metrics.json",
    "per_class.csv",
    "hardware.csv",
)


def require_mlflow(config: Config) -> None:
    """Raise a ConfigError if train.mlflow is on and the mlflow package is missing."""
    if config.train.mlflow and importlib.util.find_spec("mlflow") is None:
        raise ConfigError(
            f"train.mlflow={configuration.toml_value(config.train.mlflow)} needs the mlflow package. Install it: "
            "pip install mlflow-skinny, or leave train.mlflow=false."
        )


def open_tracking(config: Config, folder: Path) -> "Tracking | None":
    """Return the tracking of a run, or None where train.mlflow is off.

    Raises:
        PipelineError: if the server cannot be reached.
    """
    if not config.train.mlflow:
        return None
    import mlflow

    if config.train.mlflow is True:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # the store of files is not the default any more
        address = (from_project(config.train.folder) / "mlruns").resolve().as_uri()
    else:
        address = config.train.mlflow
    try:
        return Tracking(mlflow.MlflowClient(tracking_uri=address), address, config, folder)
    except Exception as error:  # whatever the client of that kind of address raises
        raise PipelineError(f"train.mlflow: {address} cannot be used: {_first_line(error)}") from None


class Tracking:
    """One MLflow run. Once it is open, a server that fails costs a line in the log, not the training."""

    def __init__(self, client: Any, address: str, config: Config, folder: Path) -> None:
        """Go on with the MLflow run of a run directory, or start one."""
        self.client, self.folder = client, folder
        self.weights = Run(folder).best_weights(config.train.monitor).name
        note = folder / "mlflow.json"
        known = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
        self.sent = 0  # epochs that the server has
        if known.get("address") == address:
            self.run_id = str(known["run_id"])
            steps = [point.step for point in client.get_metric_history(self.run_id, "loss")]
            self.sent = max(steps, default=0)
        if known.get("address") == address and (Run(folder).has_state() or not self.sent):
            client.update_run(self.run_id, status="RUNNING")
        else:
            name = config.corpus_dir.name
            experiment = client.get_experiment_by_name(name)
            experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
            tags = {"network": config.model.network, "recipe": config.features.recipe, "corpus": name}
            self.sent = 0  # of a training that was thrown away
            self.run_id = client.create_run(experiment_id, run_name=folder.name, tags=tags).info.run_id
            write_text(note, json.dumps({"address": address, "run_id": self.run_id}))
        has = client.get_run(self.run_id).data.params  # a start may have been cut off among them
        for key, value in parameters(config).items():
            if key not in has:
                client.log_param(self.run_id, key, value)

    def log_epochs(self, history: list[dict[str, float]]) -> None:
        """Send the epochs that the server does not have."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        try:
            for row in history[self.sent :]:
                step = int(row["epoch"])
                metrics = [Metric(key, float(value), now, step) for key, value in row.items() if key != "epoch"]
                self.client.log_batch(self.run_id, metrics=metrics)
                self.sent = step
        except Exception as error:
            log(f"MLflow did not take the figures, the next epoch tries again: {_first_line(error)}")

    def finish(self) -> None:
        """Send the files of the run and close it."""
        try:
            for name in (*ARTIFACTS, self.weights):
                if (self.folder / name).exists():
                    self.client.log_artifact(self.run_id, str(self.folder / name))
            self.client.set_terminated(self.run_id)
        except Exception as error:
            log(f"MLflow did not take the files of the run: {_first_line(error)}")


def parameters(config: Config) -> dict[str, str]:
    """Return the resolved configuration as flat text, section.key -> value; what is longer than allowed is cut."""
    tree = {section: table for section, table in configuration.to_dict(config).items() if section != "tune"}
    return {
        key: (value if isinstance(value, str) else configuration.toml_value(value))[:MAX_PARAMETER]
        for key, value in flat_settings(tree).items()
    }


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
