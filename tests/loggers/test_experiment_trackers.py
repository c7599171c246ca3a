"""MLflow and W&B runs, read back by their own clients."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from toy_training import make_components, make_run_dir, read_rows, settings

from segzoo.config.build_training import open_loggers
from segzoo.distributed import SINGLE_PROCESS
from segzoo.training import loop
from segzoo.training.components import TrainingSettings

pytestmark = pytest.mark.slow


def train_twice(directory, section, change) -> None:
    """Train 6 steps, then resume after ``change`` up to step 12."""
    for steps in (6, 12):
        run, components = make_run_dir(directory), make_components()
        if run.resume_from:
            change(directory)
        with open_loggers(section, run, components.config, SINGLE_PROCESS) as loggers:
            options = TrainingSettings(**settings(steps=steps, num_val_images=1))
            result = loop.train(components, run, options, SINGLE_PROCESS, loggers)
            run.finish(result)
            loggers.results(result)


def expected_values(directory, key: str) -> list[tuple[int, float]]:
    split, name = key.split("/", 1)
    return [(row["step"], row[name]) for row in read_rows(directory, split) if name in row]


def test_an_mlflow_store_is_read_back_by_its_client(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason='pip install "segzoo[mlflow]"')
    uri = f"sqlite:///{tmp_path}/store/mlflow.db"
    section = {"mlflow": {"tracking_uri": uri, "experiment": "toy"}}
    ids = []
    train_twice(
        tmp_path / "run", section, lambda directory: ids.append(json.loads((directory / "loggers.json").read_text())["mlflow"])
    )
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert [run.info.run_id] == ids and run.info.status == "FINISHED" and run.info.run_name == f"{tmp_path.name}/run"
    assert run.data.params == {"model.name": "toy", "data.label_map.0": "255", "optim.lr": "0.05"}
    for key in ("train/loss", "val/mIoU", "val/IoU/road"):
        history = [(metric.step, metric.value) for metric in client.get_metric_history(ids[0], key)]
        assert history == expected_values(tmp_path / "run", key) and len(history) > 2
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert run.data.metrics["result/miou"] == result["miou"] and run.data.metrics["result/steps"] == 12
    artifacts = {file.path for folder in (None, "eval", "vis") for file in client.list_artifacts(ids[0], folder) if not file.is_dir}
    assert {"result.json", "eval/summary.json", "eval/per_class.csv", "vis/val.png"} <= artifacts
    downloaded = mlflow.artifacts.download_artifacts(run_id=ids[0], artifact_path="result.json", tracking_uri=uri)
    assert json.loads(open(downloaded).read()) == result  # noqa: SIM115


def wandb_records(folder) -> list[dict]:
    """Records of an offline run, as its own client prints them."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    return [json.loads(line) for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()]


def test_an_offline_wandb_run_is_read_back_by_its_client(tmp_path):
    pytest.importorskip("wandb", reason='pip install "segzoo[wandb]"')
    train_twice(tmp_path / "run", {"wandb": {"project": "toy"}}, lambda directory: None)
    parts = [wandb_records(folder) for folder in sorted((tmp_path / "run/wandb").glob("offline-run-*"))]
    runs = [record["run"] for part in parts for record in part if record["type"] == "run"]
    stored = json.loads((tmp_path / "run/loggers.json").read_text())["wandb"]
    assert [run["run_id"] for run in runs] == [stored, stored] and runs[1]["resume"] and runs[0]["project"] == "toy"
    assert runs[0]["display_name"] == f"{tmp_path.name}/run" and runs[0]["config"]["update"]["data"] == {"label_map": {"0": 255}}
    history = [record["history"]["item"] for part in parts for record in part if record["type"] == "history"]
    for key in ("train/loss", "val/mIoU", "val/IoU/road"):
        logged = [(item["_step"], item[key]) for item in history if key in item]
        assert logged == expected_values(tmp_path / "run", key) and len(logged) > 2
    assert any(item.get("images/val/worst._type") == "image-file" for item in history)
    result = json.loads((tmp_path / "run/result.json").read_text())
    summary = {
        key: value for record in parts[1] if record["type"] == "summary" for key, value in record["summary"]["update"].items()
    }
    assert summary["result/miou"] == result["miou"] and parts[1][-1]["exit"]["exit_code"] == 0
    saved = {file["path"] for record in parts[1] if record["type"] == "files" for file in record["files"]["files"]}
    assert {"results/result.json", "results/eval/summary.json", "results/vis/val.png"} <= saved
    (copy,) = (tmp_path / "run/wandb").glob("latest-run/files/results/result.json")
    assert json.loads(copy.read_text()) == result
