"""Output directories are created, taken over, resumed or rejected."""

from __future__ import annotations

import json
import multiprocessing
import os
from contextlib import suppress
from typing import Literal

import pytest
import yaml

from segzoo.config.checks.output import output_errors
from segzoo.registry import ConfigError
from segzoo.runs import output_dir, replaced_results
from segzoo.runs.locks import lock_directory
from segzoo.runs.open_run import open_run
from segzoo.runs.output_dir import create_output_dir, create_prediction_dir
from segzoo.runs.run_dir import RESULT_FILES

CONFIG = {"ckpt": "runs/first", "source": "images", "flip": False, "device": "auto", "out": None, "overwrite": False}


def create(tool, out, config=CONFIG, checkpoint="abc", **settings):
    return create_output_dir(tool, "toy", config, checkpoint_sha256=checkpoint, out=str(out), **settings)


class Killed(BaseException):
    """Stands for SIGKILL."""


def interrupt(tool, out, *files, config=CONFIG, **settings):
    """Leave a directory as a killed tool does."""
    with pytest.raises(Killed), create(tool, out, config, **settings) as output:
        for name in files:
            (output.path / name).parent.mkdir(exist_ok=True)
            (output.path / name).write_text("partial")
        raise Killed


@pytest.mark.parametrize("tool", RESULT_FILES)
def test_a_result_is_replaced_only_on_request(tmp_path, tool, capsys):
    with create(tool, tmp_path / "out") as output:
        assert yaml.safe_load((output.path / "config.yaml").read_text()) == CONFIG
        assert json.loads((output.path / "env.json").read_text())["checkpoint_sha256"] == "abc"
        (output.path / RESULT_FILES[tool]).write_text("{}")
    with pytest.raises(ConfigError, match=rf"already holds results of tools/{tool}.py .*overwrite=true"), create(tool, output.path):
        pass
    assert capsys.readouterr().out == f"output directory: {output.path}\n"
    with create(tool, output.path, CONFIG | {"flip": True}, overwrite=True) as again:
        assert again == output and not (again.path / RESULT_FILES[tool]).exists()


def test_a_directory_without_a_result_is_taken_over(tmp_path):
    interrupt("export", tmp_path / "out", "model.onnx")
    with create("export", tmp_path / "out", CONFIG | {"flip": True}) as output:
        assert not (output.path / "model.onnx").exists() and not output.resumed  # nothing proved that file
    with create("eval", tmp_path / "new") as output:
        assert output.path.is_dir()


def test_an_interrupted_prediction_is_resumed_with_equal_settings_only(tmp_path):
    out = tmp_path / "out"
    interrupt("predict", out, "labels/a.png", "overlays/a.png")
    with create("predict", out, CONFIG | {"device": "cpu"}) as output:
        assert output.resumed and (out / "labels/a.png").is_file()
    for config, checkpoint, difference in ((CONFIG | {"flip": True}, "abc", "flip: False -> True"), (CONFIG, "xyz", "abc -> xyz")):
        message = f"interrupted prediction with other settings .*{difference}.*overwrite=true"
        with pytest.raises(ConfigError, match=message), create("predict", out, config, checkpoint):
            pass
    with create("predict", out, CONFIG | {"flip": True}, overwrite=True) as output:
        assert not output.resumed and not (out / "labels").exists() and not (out / "overlays").exists()


def test_only_new_keeps_a_finished_prediction(tmp_path):
    def new(out, config=CONFIG, only: Literal["all", "new"] = "new", **settings):
        return create_prediction_dir("toy", config | {"only": only}, "abc", out=out, only=only, **settings)

    out = tmp_path / "out"
    with new(str(out)) as output:
        assert not output.resumed
        (out / "labels").mkdir()
        (out / "labels/a.png").write_text("label")
        (out / "predict.json").write_text("{}")
    with pytest.raises(ConfigError, match="or label only images without results: only=new"), new(str(out), only="all"):
        pass
    with new(str(out)) as output:
        assert output.resumed and (out / "labels/a.png").is_file() and not (out / "predict.json").exists()
    with new(str(out), only="all") as output:
        assert output.resumed, "which was interrupted"
        (out / "predict.json").write_text("{}")
    with pytest.raises(ConfigError, match="a prediction with other settings .*flip"), new(str(out), CONFIG | {"flip": True}):
        pass
    assert (out / "predict.json").is_file()
    with pytest.raises(ConfigError, match="only=new: set out"), new(None):
        pass
    with pytest.raises(ConfigError, match="only=new keeps the results, and overwrite=true"), new(str(out), overwrite=True):
        pass


@pytest.mark.parametrize("overwrite", [False, True])
def test_labels_of_another_origin_are_never_touched(tmp_path, overwrite):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.png").write_text("ground truth")
    message = "labels/ of something else.*Set another out"
    with pytest.raises(ConfigError, match=message), create("predict", tmp_path, overwrite=overwrite):
        pass
    assert [path.name for path in tmp_path.iterdir() if path.name != "run.lock"] == ["labels"]


def test_a_run_and_a_result_never_share_a_directory(tmp_path):
    run = open_run("train", "toy", CONFIG, out=str(tmp_path / "run"))
    run.finish({})
    for overwrite in (False, True):
        with (
            pytest.raises(ConfigError, match="already holds a run. Set another out"),
            create("eval", run.path, overwrite=overwrite),
        ):
            pass
    with create("eval", tmp_path / "scores") as output:
        (output.path / "summary.json").write_text("{}")
    for resume in ("none", "auto"):
        with pytest.raises(ConfigError, match=r"already holds results of tools/eval.py \(summary.json\). Set another out"):
            open_run("train", "toy", CONFIG, out=str(output.path), resume=resume)


def lockable_elsewhere(path):
    """Return True if another process could lock a directory."""
    process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(lock_directory(path) is None))
    process.start()
    process.join()
    return process.exitcode == 0


def test_a_directory_is_locked_until_the_tool_ends(tmp_path):
    with create("eval", tmp_path / "out") as output:
        assert not lockable_elsewhere(output.path)
    assert lockable_elsewhere(output.path)


def test_a_failed_tool_without_results_leaves_no_directory(tmp_path):
    out = tmp_path / "scores"
    with pytest.raises(ValueError, match="no model"), create("eval", out):
        raise ValueError("no model")
    assert not out.exists()
    out.mkdir()  # the user's own, such as a mounted disk
    with pytest.raises(ValueError, match="no model"), create("eval", out):
        raise ValueError("no model")
    assert out.is_dir()
    interrupt("eval", out, "per_class.csv")
    assert {path.name for path in out.iterdir()} == {"per_class.csv", "config.yaml", "env.json", "run.lock"}


def test_without_out_a_directory_is_named_by_tool_and_time(tmp_path):
    with create_output_dir("eval", "toy", CONFIG, tmp_path) as output:
        assert output.path.parent == tmp_path / "eval/toy"


def test_only_new_continues_in_a_folder_of_results(tmp_path):
    """The early check of the command lets it pass."""
    with create_prediction_dir("toy", CONFIG, "abc", out=str(tmp_path / "out"), only="all") as output:
        (output.path / "predict.json").write_text("{}")
    config = {"out": str(tmp_path / "out"), "only": "all"}
    (error,) = output_errors("predict", config)
    assert "or label only images without results: only=new" in error
    assert output_errors("predict", config | {"only": "new"}) == []


def finish_and_replace(tool, out, end):
    """Write results, then start to replace them and call ``end``."""
    with create(tool, out) as output:
        for name in ("report.html", RESULT_FILES[tool]):
            (output.path / name).write_text("old")
    with create(tool, out, CONFIG | {"flip": True}, overwrite=True) as output:
        (output.path / "report.html").write_text("partial")
        end(output.path)


def killed_process(path):
    os._exit(9)


def failed_tool(path):
    raise Killed


@pytest.mark.parametrize("tool", ["eval", "bench", "leaderboard", "compare"])
@pytest.mark.parametrize("end", [killed_process, failed_tool])
def test_results_that_are_to_be_replaced_come_back_unless_new_ones_are_complete(tmp_path, tool, end):
    out = tmp_path / "out"
    if end is killed_process:
        process = multiprocessing.get_context("fork").Process(target=finish_and_replace, args=(tool, out, end))
        process.start()
        process.join(60)
        assert process.exitcode == 9
        with pytest.raises(ConfigError, match="overwrite=true"), create(tool, out):
            pass
    else:
        with pytest.raises(Killed):
            finish_and_replace(tool, out, end)
    assert [(out / name).read_text() for name in ("report.html", RESULT_FILES[tool])] == ["old", "old"]
    assert yaml.safe_load((out / "config.yaml").read_text()) == CONFIG and not list(out.glob(".repl*"))
    finish_and_replace(tool, tmp_path / "other", lambda path: (path / RESULT_FILES[tool]).write_text("new"))
    assert (tmp_path / "other" / RESULT_FILES[tool]).read_text() == "new" and not list((tmp_path / "other").glob(".repl*"))


@pytest.mark.parametrize("moves", range(12))
def test_results_survive_a_stop_between_any_two_moves(tmp_path, monkeypatch, moves):
    """A process that stops after some moves of files, there or back, loses none of them."""
    out, old = tmp_path / "out", {"summary.json": "old", "per_image.csv": "old", "report.html": "old"}
    with create("eval", out) as output:
        for name, text in old.items():
            (output.path / name).write_text(text)
    with pytest.raises(Killed), create("eval", out, overwrite=True) as output:
        (output.path / "report.html").write_text("partial")
        monkeypatch.setattr(replaced_results, "restore", lambda *args: None)
        monkeypatch.setattr(output_dir, "restore", lambda *args: None)  # as after SIGKILL
        raise Killed
    monkeypatch.undo()
    left, move = [moves], os.replace

    def stopping(source, target):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        move(source, target)

    monkeypatch.setattr(os, "replace", stopping)
    with suppress(Killed), create("eval", out, CONFIG | {"flip": True}, overwrite=True) as output:
        (output.path / "summary.json").write_text("new")
    monkeypatch.undo()
    with suppress(ConfigError), create("eval", out):
        pass
    assert (out / "summary.json").read_text() in ("old", "new")
    if (out / "summary.json").read_text() == "old":
        assert {name: (out / name).read_text() for name in old} == old and not list(out.glob(".repl*"))


def test_another_tool_takes_no_directory_whose_results_are_set_aside(tmp_path):
    (tmp_path / "out" / ".replaced-eval").mkdir(parents=True)
    for tool in ("bench", "leaderboard"):
        with pytest.raises(ConfigError, match="already holds results of tools/eval.py"), create(tool, tmp_path / "out"):
            pass
