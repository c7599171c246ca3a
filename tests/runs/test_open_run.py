"""Run directories: new, resumed, finished or rejected."""

from __future__ import annotations

import json
import multiprocessing
from importlib import metadata

import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toy_training import INFO, Toy

from segzoo.checkpoints.store import delete_old
from segzoo.checkpoints.writing import save_checkpoint
from segzoo.cli.compose import compose, hydra_composer, resolve_config
from segzoo.config.checks.early import early_errors
from segzoo.distributed import Distributed
from segzoo.registry import ConfigError
from segzoo.runs.config_diff import NEWER_SETTINGS, config_hash, diff_configs, flatten
from segzoo.runs.open_run import open_run, open_run_distributed
from segzoo.runs.output_dir import create_output_dir
from segzoo.runs.resume_checks import check_resume, check_same_job
from segzoo.runs.run_dir import write_metadata

CONFIG = {"model": {"name": "toy"}, "steps": 10, "workers": 2, "device": "auto", "resume": "none", "out": None}


def start(root, config=CONFIG, **settings):
    return open_run("train", "toy-none-toy", config, root, **settings)


def add_step(run, step):
    return save_checkpoint(run.path, step, Toy(), {"step": step}, CONFIG, INFO, {})


def kill(run):
    """Leave the run as a killed process does, with its lock released."""
    run.close()


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_new_run_records_configuration_and_environment(tmp_path, capsys):
    run = start(tmp_path)
    assert run.path.parent == tmp_path / "train/toy-none-toy" and run.resume_from is None and not run.finished
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == CONFIG
    env = json.loads((run.path / "env.json").read_text())
    assert env["versions"]["torch"] and env["machine"]["threads"] >= 1 and {"command", "git", "time"} <= env.keys()
    assert capsys.readouterr().out.startswith(f"new run: {run.path}")


def test_another_configuration_is_described_by_its_parts_and_the_command(tmp_path):
    run = start(tmp_path)
    add_step(run, 1)
    kill(run)
    env = json.loads((run.path / "env.json").read_text())
    (run.path / "env.json").write_text(json.dumps(env | {"command": ["tools/train.py", "model=toy", "augment.crop=[64, 64]"]}))
    other = CONFIG | {"model": {"name": "icnet", "bins": [1, 2]}, "seed": 3}
    with pytest.raises(ConfigError) as error:
        check_resume(other, out=str(run.path), resume="auto")
    assert "(model.name: toy -> icnet)" in str(error.value) and "bins" not in str(error.value)
    assert str(error.value).endswith("with the changes: python tools/train.py model=toy 'augment.crop=[64, 64]'")
    (run.path / "env.json").write_text(json.dumps({"command": 3}))
    with pytest.raises(ConfigError, match=r"\(seed: absent -> 3\).* starts from its weights.$"):
        check_resume(CONFIG | {"seed": 3}, out=str(run.path), resume="auto")


def test_runs_of_the_same_second_get_separate_directories(tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda *args: "2026-01-02_03-04-05")
    runs = [start(tmp_path) for _ in range(11)]
    assert len({run.path for run in runs}) == 11
    for run in runs:
        add_step(run, 1)
        kill(run)
    assert start(tmp_path, resume="auto").path.name == "2026-01-02_03-04-05-11"  # not -9, which is last in text order


def test_checkpoints_and_settings_of_other_programs_are_left_alone(tmp_path):
    (tmp_path / "a/checkpoints/5000").mkdir(parents=True)
    (tmp_path / "a/checkpoints/5000/weights.pth").write_bytes(b"w")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/config.yaml").write_text("lr: 0.1\n")
    for folder, found in (
        ("a", r"checkpoints of another program \(checkpoints/5000/weights.pth\)"),
        ("b", "config.yaml of another"),
    ):
        for resume in ("none", "auto"):
            with pytest.raises(ConfigError, match=rf"{folder} already holds .*{found}"):
                start(tmp_path, out=str(tmp_path / folder), resume=resume)
    assert (tmp_path / "a/checkpoints/5000/weights.pth").read_bytes() == b"w"
    assert (tmp_path / "b/config.yaml").read_text() == "lr: 0.1\n" and not (tmp_path / "b/run.lock").exists()


def test_a_sweep_does_not_continue_another_job(tmp_path):
    run = start(tmp_path, CONFIG | {"optim": {"lr": 0.1}}, out=str(tmp_path / "0"))
    add_step(run, 3)
    kill(run)
    check_same_job(tmp_path / "0", CONFIG | {"optim": {"lr": 0.1}, "steps": 20, "eval_every": 4})  # a longer sweep
    check_same_job(tmp_path / "1", CONFIG)
    with pytest.raises(ConfigError, match=r"0 holds the run of another job \(optim.lr: 0.1 -> 0.2\).*another hydra.sweep.dir"):
        check_same_job(tmp_path / "0", CONFIG | {"optim": {"lr": 0.2}})


def test_auto_resumes_the_newest_unfinished_run_of_the_same_configuration(tmp_path, capsys):
    first, second, other, empty = start(tmp_path), start(tmp_path), start(tmp_path, CONFIG | {"steps": 20}), start(tmp_path)
    for run in (first, second, other):
        add_step(run, 3)
    for run in (first, second, other, empty):
        kill(run)
    again = start(tmp_path, CONFIG | {"workers": 7, "device": "cpu", "resume": "auto"}, resume="auto")
    assert again.path == second.path and again.resume_from == second.path / "checkpoints/3"
    assert f"resumed at step 3: {second.path}" in capsys.readouterr().out
    again.finish({"miou": 0.5})
    third = start(tmp_path, resume="auto")
    assert third.path == first.path
    third.fail(RuntimeError("two\nlines"))
    assert json.loads((first.path / "result.json").read_text()) == {"finished": False, "error": "RuntimeError: two lines"}
    assert start(tmp_path, resume="auto").path == first.path


def test_auto_without_a_run_starts_a_new_one(tmp_path, capsys):
    assert start(tmp_path, resume="auto").resume_from is None
    assert "new run, no unfinished run of this configuration" in capsys.readouterr().out


def test_out_is_created_rejected_or_resumed(tmp_path, capsys):
    out = str(tmp_path / "mine")
    run = start(tmp_path, out=out, resume="auto")
    assert run.path == tmp_path / "mine" and "nothing to resume" in capsys.readouterr().out
    add_step(run, 0)
    add_step(run, 4)
    kill(run)
    with pytest.raises(ConfigError, match=r"already holds a run.*resume=auto"):
        start(tmp_path, out=out)
    flip_bit(run.path / "checkpoints/4/model.safetensors")
    run = start(tmp_path, out=out, resume="auto")
    assert run.resume_from == run.path / "checkpoints/0" and "skipped" in run.message and "checksum" in run.message
    run.finish({"miou": 0.5})
    capsys.readouterr()
    again = start(tmp_path, out=out, resume="auto")
    assert again.finished and again.result == {"miou": 0.5, "finished": True} and "nothing to do" in capsys.readouterr().out


def test_auto_rejects_an_out_of_another_configuration(tmp_path):
    run = start(tmp_path, out=str(tmp_path / "mine"))
    add_step(run, 1)
    kill(run)
    changed = CONFIG | {"steps": 20, "seed": 1}
    with pytest.raises(ConfigError, match=r"another configuration \(seed: absent -> 1\).*Set another out.*init.ckpt="):
        start(tmp_path, changed, out=str(tmp_path / "mine"), resume="auto")


def test_auto_resumes_a_longer_run_at_another_rate_in_place(tmp_path):
    config = CONFIG | {"optim": {"name": "sgd", "lr": 0.1}, "schedule": {"name": "poly", "start": 0}}
    out = str(tmp_path / "mine")
    run = start(tmp_path, config, out=out)
    add_step(run, 10)
    run.finish({})
    assert start(tmp_path, config, out=out, resume="auto").finished
    slower = config | {"optim": {"name": "sgd", "lr": 0.01}}
    with pytest.raises(ConfigError, match=r"finished at step 10.*\(optim.lr: 0.1 -> 0.01\).*Make it longer"):
        start(tmp_path, slower, out=out, resume="auto")
    with pytest.raises(ConfigError, match=r"steps=8: the run in .* is at step 10 already"):
        start(tmp_path, slower | {"steps": 8}, out=out, resume="auto")
    assert json.loads((run.path / "result.json").read_text())["finished"]  # the rejected commands changed nothing
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == config
    longer = start(tmp_path, slower | {"steps": 20}, out=out, resume="auto")
    assert longer.resume_from == run.path / "checkpoints/10" and not longer.finished
    assert "steps: 10 -> 20, optim.lr: 0.1 -> 0.01 (schedule.start=10 would begin the schedule anew)" in longer.message
    kill(longer)
    assert yaml.safe_load((run.path / "config.yaml").read_text())["steps"] == 20


def test_another_optimizer_cannot_resume(tmp_path):
    run = start(tmp_path, CONFIG | {"optim": {"name": "sgd"}}, out=str(tmp_path / "mine"))
    add_step(run, 1)
    kill(run)
    adamw = CONFIG | {"optim": {"name": "adamw"}}
    for options in ({"resume": "auto", "out": str(run.path)}, {"resume": str(run.path)}, {"resume": str(run.path), "out": "new"}):
        with pytest.raises(ConfigError, match=r"optim.name: sgd -> adamw.*init.ckpt="):
            start(tmp_path, adamw, **options)


def test_a_directory_without_a_checkpoint_is_taken_over(tmp_path):
    out = tmp_path / "mine"
    run = start(tmp_path, out=str(out))
    (out / "checkpoints/0").mkdir(parents=True)  # killed while it wrote its first checkpoint
    run.fail(ValueError("data.root is wrong"))
    with pytest.raises(ConfigError, match="in use by another process"):
        hold_while(out, lambda: start(tmp_path, CONFIG | {"seed": 1}, out=str(out)))
    corrected = start(tmp_path, CONFIG | {"seed": 1}, out=str(out))
    assert corrected.resume_from is None and not (out / "result.json").exists()
    kill(corrected)
    assert "new run, nothing to resume" in start(tmp_path, CONFIG | {"seed": 2}, out=str(out), resume="auto").message
    assert yaml.safe_load((out / "config.yaml").read_text())["seed"] == 2


def test_a_run_with_only_damaged_checkpoints_is_rejected(tmp_path):
    run = start(tmp_path, out=str(tmp_path / "mine"))
    flip_bit(add_step(run, 1) / "trainer.pt")
    kill(run)
    with pytest.raises(ConfigError, match="every checkpoint is damaged"):
        start(tmp_path, out=str(tmp_path / "mine"), resume="auto")


def test_a_path_is_resumed_in_place_or_forked(tmp_path):
    run = start(tmp_path)
    old, new = add_step(run, 2), add_step(run, 5)
    kill(run)
    resumed = start(tmp_path, CONFIG | {"steps": 20}, resume=str(run.path))
    assert resumed.path == run.path and resumed.resume_from == new
    assert "settings differ: steps: 10 -> 20" in resumed.message
    kill(resumed)
    with pytest.raises(ConfigError, match=r"5 is newer.*out=<new directory>"):
        start(tmp_path, resume=str(old))
    fork = start(tmp_path, resume=str(old), out=str(tmp_path / "fork"))
    assert fork.path == tmp_path / "fork" and fork.resume_from == old
    resumed.finish({})
    same = CONFIG | {"steps": 20}
    assert start(tmp_path, same, resume=str(run.path)).finished
    for name, changed in (("seed", {"seed": 1}), ("data", {"data": {"seed": 1}})):  # one run is scored on one data set
        with pytest.raises(ConfigError, match=rf"another configuration \({name}.*absent -> .*1.*cannot change within a run"):
            start(tmp_path, same | changed, resume=str(run.path))
        kill(start(tmp_path, same | changed, resume=str(run.path), out=str(tmp_path / f"other-{name}")))


def test_files_of_a_run_may_move(tmp_path):
    run = start(tmp_path, CONFIG | {"data": {"root": "here", "seed": 0}})
    add_step(run, 2)
    kill(run)
    kill(start(tmp_path, CONFIG | {"data": {"root": "there", "seed": 0}}, resume=str(run.path)))


def test_a_run_of_another_version_says_so(tmp_path):
    run = start(tmp_path)
    add_step(run, 2)
    kill(run)
    assert "segzoo" not in start_and_kill(tmp_path, run).message
    (run.path / "env.json").write_text('{"versions": {"segzoo": "0.0.9"}}')
    assert start_and_kill(tmp_path, run).message.endswith(
        f"; trained so far with segzoo 0.0, from now on with {metadata.version('segzoo').rpartition('.')[0]}"
    )


def start_and_kill(tmp_path, run):
    again = start(tmp_path, resume=str(run.path))
    kill(again)
    return again


def test_a_fork_takes_its_weights_from_one_place(tmp_path):
    run = start(tmp_path, CONFIG | {"init": {"ckpt": "first"}})
    add_step(run, 2)
    kill(run)
    kill(start(tmp_path, CONFIG | {"init": {"ckpt": "first"}}, resume=str(run.path), out=str(tmp_path / "same")))
    kill(start(tmp_path, resume=str(run.path), out=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match=r"continues with the weights of that run.*ckpt: .* -> other"):
        start(tmp_path, CONFIG | {"ckpt": "other"}, resume=str(run.path), out=str(tmp_path / "fork"))  # of tools/prune.py
    for name, key in (("init", "ckpt"), ("backbone", "weights")):
        with pytest.raises(ConfigError, match=rf"continues with the weights of that run.*{name}.{key}: .* -> other"):
            start(tmp_path, CONFIG | {name: {key: "other"}}, resume=str(run.path), out=str(tmp_path / "fork"))


def test_paths_without_a_checkpoint_are_rejected(tmp_path):
    with pytest.raises(ConfigError, match="expected none, auto, or a run or checkpoint directory"):
        start(tmp_path, resume=str(tmp_path))
    run = start(tmp_path)
    flip_bit(add_step(run, 2) / "model.safetensors")
    kill(run)
    for path in (run.path, run.path / "checkpoints/2"):
        with pytest.raises(ConfigError, match=r"no usable checkpoint.*checksum differs"):
            start(tmp_path, resume=str(path))


def test_the_checkpoints_of_a_run_are_no_place_for_another(tmp_path):
    run = start(tmp_path)
    add_step(run, 2)
    kill(run)
    for out in ("checkpoints", "checkpoints/new", "checkpoints/2/deep"):
        with pytest.raises(ConfigError, match="is within the checkpoints of the run"):
            start(tmp_path, out=str(run.path / out))
    for out in (run.path / "further", run.path / "checkpoints/../beside", tmp_path / "project/checkpoints/new"):
        kill(start(tmp_path, out=str(out)))


def test_an_out_that_cannot_be_created_is_rejected(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be created"):
        start(tmp_path, out=str(tmp_path / "file"))


def hold(path, ready, release):
    from segzoo.runs.locks import lock_directory

    lock = lock_directory(path)
    ready.set()
    release.wait(60)
    del lock


def hold_while(path, call):
    """Call a function while another process holds the lock of a directory."""
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(path, ready, release))
    other.start()
    try:
        assert ready.wait(60)
        return call()
    finally:
        release.set()
        other.join()


def test_a_run_directory_has_one_writer(tmp_path, capsys):
    run = start(tmp_path)
    add_step(run, 1)
    kill(run)
    with pytest.raises(ConfigError, match="in use by another process"):
        hold_while(run.path, lambda: start(tmp_path, out=str(run.path), resume="auto"))
    assert hold_while(run.path, lambda: start(tmp_path, resume="auto")).path != run.path
    assert "not resumed, in use by another process" in capsys.readouterr().out
    assert start(tmp_path, out=str(run.path), resume="auto").resume_from is not None


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("fcn-resnet50-x/../../../..ESCAPED", "fcn-resnet50-x_.._.._.._..ESCAPED"),
        ("../..", "_.."),
        ("..", "_"),
        ("/etc", "_etc"),
        ("a\nb\0c\u202e", "a_b_c_"),
        ("Prüfung 部品", "Prüfung_部品"),
        ("x" * 300, "x" * 60),
        ("", "_"),
    ],
)
def test_a_title_from_data_is_never_a_path(tmp_path, title, name):
    with create_output_dir("predict", title, CONFIG, tmp_path / "runs") as output:
        assert output.path.parent == tmp_path / "runs/predict" / name
    assert open_run("train", title, CONFIG, tmp_path / "runs").path.parent == tmp_path / "runs/train" / name


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1, 1) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
    max_leaves=6,
)
CONFIGS = st.dictionaries(st.sampled_from(["model", "steps", "workers", "out"]), VALUES, max_size=4)


@settings(deadline=None)  # a busy machine is no failure
@given(CONFIGS, CONFIGS)
@example({"model": [False], "steps": {}}, {"model": [0], "steps": {}})
@example({"data": {"cache": "none", "root": "a"}}, {"data": {"cache": "disk", "root": "a"}})
@example({"backbone": {"name": "vgg16"}}, {"backbone": {"name": "vgg16", "checkpoint": True}})
def test_configs_have_equal_hashes_exactly_if_nothing_differs(one, other):
    assert (config_hash(one) == config_hash(other)) == (diff_configs(one, other) == [])
    stored = yaml.safe_load(yaml.safe_dump(one))
    assert config_hash(stored) == config_hash(one)


def test_a_run_from_before_a_setting_existed_has_its_default():
    with hydra_composer() as hydra:
        defaults = flatten(resolve_config(compose(hydra, "train", ["data=camvid"]))[1])
    assert {key: defaults[key] for key in NEWER_SETTINGS} == NEWER_SETTINGS
    old, new = (
        {"steps": 5, "init": {"name": "checkpoint"}},
        {"steps": 5, "init": {"name": "checkpoint", "narrow": "none"}, "compile": False},
    )
    assert diff_configs(old, new) == [] and config_hash(old) == config_hash(new)
    changed = new | {"init": {"name": "checkpoint", "narrow": "l1"}, "compile": True}
    assert {difference.text for difference in diff_configs(old, changed)} == {"compile: False -> True", "init.narrow: none -> l1"}


def test_a_run_resumes_with_another_cache():
    assert diff_configs({"data": {"name": "folder"}}, {"data": {"name": "folder", "cache": "disk"}}) == []


def test_equal_products_are_equal_steps(tmp_path):
    config = CONFIG | {"steps": None, "epochs": 10, "batch_size": 4, "grad_accum_steps": 1}
    run = start(tmp_path, config)
    add_step(run, 4)
    kill(run)
    out = str(run.path)
    with pytest.raises(ConfigError, match="batch_size: 4 -> 2.*Keep the product of batch_size and grad_accum_steps"):
        start(tmp_path, config | {"batch_size": 2}, out=out, resume="auto")
    again = start(tmp_path, config | {"batch_size": 2, "grad_accum_steps": 2}, out=out, resume="auto")
    assert again.resume_from == run.path / "checkpoints/4"
    kill(again)


@pytest.mark.parametrize("progress", [False, True])
def test_a_finished_run_stays_finished_if_it_cannot_be_continued(tmp_path, progress):
    run = start(tmp_path)
    add_step(run, 10)
    run.finish({"miou": 0.5})
    before = {name: (run.path / name).read_text() for name in ("result.json", "config.yaml")}
    longer = start(tmp_path, CONFIG | {"steps": 20}, out=str(run.path), resume="auto")
    assert not (run.path / "result.json").exists()
    with pytest.raises(OSError, match="no data"), longer:
        if progress:
            add_step(longer, 12)
        raise OSError("no data")
    after = {name: (run.path / name).read_text() for name in before}
    assert ("OSError: no data" in after["result.json"] and "steps: 20" in after["config.yaml"]) if progress else after == before


def test_a_restarted_fork_resumes_itself(tmp_path):
    run = start(tmp_path)
    add_step(run, 4)
    kill(run)
    settings = {"out": str(tmp_path / "fork"), "resume": str(run.path)}
    with open_run_distributed(Distributed(), "train", "toy", CONFIG, tmp_path, **settings) as fork:
        assert fork.resume_from == run.path / "checkpoints/4"
        add_step(fork, 6)
    with open_run_distributed(Distributed(restarts=1), "train", "toy", CONFIG, tmp_path, **settings) as again:
        assert again.resume_from == tmp_path / "fork/checkpoints/6"


def test_a_run_on_the_cpu_does_not_touch_the_gpu(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 9)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: asked.append("name") or "GPU")
    for device, gpu in (("cpu", None), ("auto", "GPU")):
        write_metadata(tmp_path, {"device": device})
        assert json.loads((tmp_path / "env.json").read_text())["machine"]["gpu"] == gpu
        assert bool(asked) == (gpu is not None)


@pytest.fixture
def torchrun(monkeypatch):
    """Start this process as torchrun does, for a run id, agent and number of restarts."""

    def start_by(run_id, agent, restarts):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        monkeypatch.setattr("os.getppid", lambda: agent)
        return Distributed(restarts=restarts)

    return start_by


def test_a_restart_continues_what_this_torchrun_has_begun(tmp_path, torchrun):
    def start_distributed(*process):
        return open_run_distributed(torchrun(*process), "train", "toy", CONFIG, tmp_path)

    with start_distributed("none", 100, 0) as abandoned:
        add_step(abandoned, 5)
    with start_distributed("none", 200, 0) as first:
        assert first.path != abandoned.path
    with start_distributed("none", 200, 1) as again:  # killed before its first checkpoint
        assert again.path == first.path and again.resume_from is None
        add_step(again, 2)
    with start_distributed("none", 200, 2) as third:
        assert third.resume_from == first.path / "checkpoints/2"
    for process in (("none", 300, 1), ("other", 200, 1)):  # killed before they had a directory
        with start_distributed(*process) as other:
            assert other.path not in (abandoned.path, first.path) and other.resume_from is None


def test_a_restart_continues_from_the_newest_checkpoint_in_place(tmp_path, torchrun):
    run = start(tmp_path)
    named = add_step(run, 2)
    kill(run)
    with open_run_distributed(torchrun("a", 100, 0), "train", "toy", CONFIG, tmp_path, resume=str(named)) as first:
        assert first.resume_from == named
        newest = add_step(first, 5)
    torchrun("a", 200, 1)  # on another machine
    check_resume(CONFIG, resume=str(named))
    with open_run_distributed(torchrun("a", 100, 1), "train", "toy", CONFIG, tmp_path, resume=str(named)) as again:
        assert again.resume_from == newest
    delete_old(run.path, 1)
    torchrun("a", 100, 2)
    check_resume(CONFIG, resume=str(named))
    assert not named.exists() and early_errors("train", {"resume": str(named)}) == []
    save_checkpoint(run.path, 2, Toy(), {"step": 2}, CONFIG, INFO, {})
    for process in (("a", 100, 0), ("b", 100, 1)):
        torchrun(*process)
        with pytest.raises(ConfigError, match="5 is newer"):
            check_resume(CONFIG, resume=str(named))
