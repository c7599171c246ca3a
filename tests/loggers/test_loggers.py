"""Choosing loggers, and running them so that none can stop a run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from segzoo.cli.compose import resolve_config
from segzoo.cli.help import help_text
from segzoo.cli.overrides import parse_overrides
from segzoo.config.build_training import open_loggers
from segzoo.config.checks import early
from segzoo.config.sections import section_errors
from segzoo.distributed import SINGLE_PROCESS
from segzoo.loggers._base import LoggedRun, RunLogger
from segzoo.loggers.group import LoggerGroup
from segzoo.loggers.mlflow import _name
from segzoo.loggers.tensorboard import tensorboard
from segzoo.runs.config_diff import config_hash, diff_configs
from segzoo.runs.run_dir import RunDir


def chosen(*overrides: str) -> dict:
    parsed = parse_overrides("train", overrides)
    assert not parsed.errors, parsed.errors
    return resolve_config(parsed.jobs[0])[0]["logger"]


def test_several_loggers_are_chosen_by_a_list():
    assert chosen() == {"tensorboard": {}} and chosen("logger=none") == {}
    both = chosen("logger=[tensorboard,mlflow]", "logger.mlflow.experiment=parts")
    assert list(both) == ["tensorboard", "mlflow"] and both["mlflow"]["experiment"] == "parts"
    assert section_errors("logger", both) == []
    assert parse_overrides("train", ["logger=[tensorboard,wandb]"]).changed == ["'logger=[tensorboard,wandb]'"]
    assert len(parse_overrides("train", ["logger=[tensorboard,wandb],none"], sweep=True).jobs) == 2
    assert "logger: mlflow, none, tensorboard, wandb" in help_text("train", "", ["logger=[tensorboard,wandb]"])


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("logger=tensorbord", "unknown logger 'tensorbord'. Did you mean 'tensorboard'? Valid: mlflow, none, tensorboard, wandb."),
        ("logger=[wandb,mlflaw]", "unknown logger 'mlflaw'. Did you mean 'mlflow'? Valid: mlflow, none, tensorboard, wandb."),
        (
            "logger=mlflow,wandb",
            "logger=mlflow,wandb: several values for a single run. Write a list to use all of them, 'logger=[mlflow,wandb]', or add -m to "
            "sweep.",
        ),
    ],
)
def test_errors_of_the_choice(override, error):
    assert parse_overrides("train", [override]).errors == [error]


def test_errors_of_the_settings():
    (error,) = section_errors("logger", {"wandb": {"mode": "off"}})
    assert error.startswith("logger.wandb.mode='off': expected one of offline, online.")
    (error,) = section_errors("logger", {"mlflow": 5})
    assert error == "logger.mlflow=5: expected a table of settings. Choose it with logger=mlflow."
    assert section_errors("logger", None)[0].startswith("logger is missing. Choose one: logger=")


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setattr(early, "is_installed", lambda package: False)
    config = {"logger": {"tensorboard": {}, "mlflow": {}, "wandb": {}}}
    assert early._logger_errors(config) == [
        'logger=mlflow needs a package that is not installed: pip install "segzoo[mlflow]".',
        'logger=wandb needs a package that is not installed: pip install "segzoo[wandb]".',
    ]


def test_the_loggers_are_no_part_of_the_configuration_that_a_run_is_resumed_by():
    first, second = ({"steps": 5, "logger": logger} for logger in ({"tensorboard": {}}, {"mlflow": {"experiment": "a"}}))
    assert config_hash(first) == config_hash(second) == config_hash({"steps": 5}) and diff_configs(first, second) == []
    assert [difference.key for difference in diff_configs(first, second | {"steps": 6})] == ["steps"]


class Memory(RunLogger):
    """Logger that keeps its calls, and fails at one of them."""

    def __init__(self, run: LoggedRun, fail: str = ""):
        self.calls, self.fail, self.id = [], fail, run.id or "new"
        if fail == "open":
            raise OSError("no\nserver")

    def _record(self, *call):
        self.calls.append(call)
        if call[0] == self.fail:
            raise RuntimeError("full")

    def log(self, values, step):
        self._record("log", dict(values), step)

    def image(self, tag, image, step):
        self._record("image", tag, image.shape, step)

    def results(self, scores, files):
        self._record("results", dict(scores), list(files))

    def close(self, status):
        self._record("close", status)


@pytest.mark.parametrize("fail", ["open", "log", "image", "results", "close"])
def test_a_logger_that_fails_is_off_and_the_others_go_on(tmp_path, capsys, fail):
    opened: dict[str, Memory] = {}

    def build(name, failing):
        def opener(run):
            opened[name] = Memory(run, failing)
            return opened[name]

        return opener

    (tmp_path / "result.json").write_text("{}")
    with LoggerGroup(LoggedRun(tmp_path, {}), {"bad": build("bad", fail), "good": build("good", "")}) as group:
        group.log({"train/loss": 1.0}, 1)
        group.image("images/val/a", np.zeros((4, 5, 3), np.uint8), 1)
        group.results({"miou": 0.5, "steps": 3, "finished": True, "error": None, "protocol_id": "abc"})
    expected = [
        ("log", {"train/loss": 1.0}, 1),
        ("image", "images/val/a", (4, 5, 3), 1),
        ("results", {"miou": 0.5, "steps": 3.0}, ["result.json"]),
        ("close", "finished"),
    ]
    assert opened["good"].calls == expected
    reason = "OSError: no server" if fail == "open" else "RuntimeError: full"
    assert capsys.readouterr().err == f"warning: logger bad is off from here on, it failed with {reason}\n"
    if fail != "open":
        names = [call[0] for call in expected]
        rest = [] if fail == "close" else [("close", "failed")]
        assert opened["bad"].calls[: names.index(fail) + 1] == expected[: names.index(fail) + 1]
        assert opened["bad"].calls[names.index(fail) + 1 :][: len(rest)] == rest


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "killed"), (SystemExit, "killed"), (ValueError, "failed")])
def test_loggers_are_told_how_the_run_ended(tmp_path, error, status):
    logger = Memory(LoggedRun(tmp_path, {}))
    with pytest.raises(error), LoggerGroup(LoggedRun(tmp_path, {}), {"memory": lambda run: logger}):
        raise error
    assert logger.calls == [("close", status)]


def test_a_resumed_run_keeps_the_ids_of_its_loggers(tmp_path):
    (tmp_path / "loggers.json").write_text(json.dumps({"memory": "stale", "other": "kept"}))
    assert LoggerGroup(LoggedRun(tmp_path, {}), {"memory": Memory}).loggers["memory"].id == "new"
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"memory": "new"}
    (tmp_path / "loggers.json").write_text(json.dumps({"memory": "first", "other": "kept"}))
    assert LoggerGroup(LoggedRun(tmp_path, {}, resumed=True), {"memory": Memory}).loggers["memory"].id == "first"
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"memory": "first", "other": "kept"}


def test_tensorboard_files_can_be_read_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_loggers({"tensorboard": {}}, RunDir(tmp_path), {"steps": 5}, SINGLE_PROCESS) as group:
        for step in (1, 2, 3):
            group.log({"train/loss": float(step)}, step)
        group.image("images/val/a", np.zeros((4, 5, 3), np.uint8), 3)
    resumed = RunDir(tmp_path, tmp_path / "checkpoints/2")
    with open_loggers({"tensorboard": {}}, resumed, {"steps": 5}, SINGLE_PROCESS) as group:
        group.log({"train/loss": 30.0}, 3)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert events.Tags()["tensors"] == ["config/text_summary"]
    assert not (tmp_path / "loggers.json").exists()


def test_only_rank_0_logs(tmp_path):
    class Rank1:
        is_main = False

    assert open_loggers({"tensorboard": {}}, RunDir(tmp_path), {}, Rank1()).loggers == {} and not list(tmp_path.iterdir())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("val/IoU/road", "val/IoU/road"),
        ("a(b),100%", "a_b__100_"),
        ("val/IoU/..", "val/IoU/_"),
        ("//x", "_/_/x"),
        ("Straße", "Straße"),
    ],
)
def test_names_that_mlflow_accepts(name, accepted):
    assert _name(name) == accepted


def test_steps_after_the_first_checkpoint_are_purged(tmp_path):
    """A run that is killed before its second checkpoint resumes at step 0."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for number, resumed in enumerate((False, True)):
        logger = tensorboard(LoggedRun(tmp_path, {}, step=0, resumed=resumed))
        for step in (1, 2):
            logger.log({"loss": float(10 * number + step)}, step)
        logger.close("finished")
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(1, 11.0), (2, 12.0)]
