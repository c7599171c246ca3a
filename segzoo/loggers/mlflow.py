"""MLflow: runs in a local SQLite file or on a tracking server."""

from __future__ import annotations

import importlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

from segzoo.io import file_name
from segzoo.loggers._base import LoggedRun, RunLogger, Status
from segzoo.registry import LOGGERS
from segzoo.runs.config_diff import flatten

SQLITE = "sqlite:///"
PARAMS, METRICS = 100, 1000  # that one request may hold
# A server that does not answer must not hold up a training for minutes, which MLflow's own defaults would.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


@LOGGERS.register
def mlflow(
    run: LoggedRun, *, tracking_uri: str = "sqlite:///runs/mlflow.db", experiment: str = "segzoo", run_name: str | None = None
) -> RunLogger:
    """Log settings as params, numbers as metrics and results as artifacts.

    A resumed run continues the same MLflow run. Metrics and params that it already has are not logged again.

    Args:
        run: the run to log.
        tracking_uri: ``sqlite:///<file>``, whose artifacts are stored in the same directory, or the address of a server.
        experiment: name of the experiment, which is created if it is missing.
        run_name: shown name; None takes that of the run directory.
    """
    return MlflowLogger(run, tracking_uri, experiment, run_name or run.name)


class MlflowLogger(RunLogger):
    """Client of an MLflow store, for a single run."""

    id: str

    def __init__(self, run: LoggedRun, tracking_uri: str, experiment: str, run_name: str):
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        artifacts = None
        if tracking_uri.startswith(SQLITE):
            store = Path(tracking_uri.removeprefix(SQLITE)).absolute()
            store.parent.mkdir(parents=True, exist_ok=True)
            artifacts = (store.parent / "mlflow_artifacts" / file_name(experiment)).as_uri()
        self.path = run.path
        self.library = importlib.import_module("mlflow")  # the package, which type checkers confuse with this module
        self.client = self.library.MlflowClient(tracking_uri)
        self.id, params = self._open(run, experiment, run_name, artifacts)
        self.resumed, self.last_steps = self.id == run.id, dict[str, int]()
        self._log_params({_name(key): value for key, value in flatten(run.config).items()}, params)
        shown = f"mlflow ui --backend-store-uri {quote(tracking_uri)}" if artifacts else tracking_uri
        self.hint = f"run {run_name} of experiment {experiment}, shown by {shown}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        new = [
            self.library.entities.Metric(_name(name), float(value), now, step)
            for name, value in values.items()
            if step > self._last_step(_name(name))
        ]
        for start in range(0, len(new), METRICS):
            self.client.log_batch(self.id, metrics=new[start : start + METRICS])

    def results(self, scores: Mapping[str, float], files: Sequence[str]) -> None:
        self.last_steps |= dict.fromkeys((f"result/{key}" for key in scores), -1)  # a longer run replaces them
        self.log({f"result/{key}": value for key, value in scores.items()}, int(scores.get("steps", 0)))
        for file in files:
            self.client.log_artifact(self.id, str(self.path / file), file.rpartition("/")[0] or None)

    def close(self, status: Status) -> None:
        self.client.set_terminated(self.id, status.upper())

    def _open(self, run: LoggedRun, experiment: str, run_name: str, artifacts: str | None) -> tuple[str, Mapping[str, str]]:
        """Continue a run if the store has it, else create one.

        Returns:
            Its id, and the params that it already has.
        """
        if run.id is not None:
            try:
                stored = self.client.get_run(run.id)
                self.client.update_run(run.id, status="RUNNING")
                return run.id, stored.data.params
            except self.library.MlflowException:
                pass  # of another store, or deleted
        return self.client.create_run(self._experiment_id(experiment, artifacts), run_name=run_name).info.run_id, {}

    def _experiment_id(self, name: str, artifacts: str | None) -> str:
        """Create an experiment, or find the one that exists."""
        try:
            return self.client.create_experiment(name, artifact_location=artifacts)
        except self.library.MlflowException:
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return found.experiment_id

    def _log_params(self, params: Mapping[str, object], stored: Mapping[str, str]) -> None:
        """Log params that the run lacks, since params cannot change."""
        new = [self.library.entities.Param(key, str(value)) for key, value in params.items() if key not in stored]
        for start in range(0, len(new), PARAMS):
            self.client.log_batch(self.id, params=new[start : start + PARAMS])

    def _last_step(self, name: str) -> int:
        """Last step at which a metric is stored, -1 if none."""
        if name not in self.last_steps:
            history = self.client.get_metric_history(self.id, name) if self.resumed else []
            self.last_steps[name] = max((metric.step for metric in history), default=-1)
        return self.last_steps[name]


def _name(text: str) -> str:
    """Replace characters of a class name that MLflow does not accept."""
    parts = [re.sub(r"[^\w.\- :]", "_", part) for part in text.split("/")]
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)[:250]
