"""Several ranks train like one process: same weights, scores and run directory.

They run on the CPU with Gloo.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from toy_training import Toy, balance, make_components, make_run_dir, settings, train

from segzoo.checkpoints.serialization import read_model, read_trainer
from segzoo.config.checks.early import early_errors
from segzoo.config.commands import COMMANDS
from segzoo.distributed import SINGLE_PROCESS, init_distributed
from segzoo.registry import PRUNERS, ConfigError

TRAIN = """
import shutil
from pathlib import Path
import torch
from dataclasses import replace
from toy_training import SETTINGS, Toy, balance, make_components
from segzoo.runs.run_dir import RunDir
from segzoo.checkpoints.store import latest_valid
from toy_training import train
from segzoo.distributed import init_distributed
torch.set_num_threads(1)

def copy_until(source, directory, step):
    drop = lambda _, names: [n for n in names if n in ("last", "best") or n.isdigit() and int(n) > step]
    shutil.copytree(source, directory, ignore=drop)

def run_job(directory, changes, norm=False, drop=0.0, pruner="", resume_of=None, balanced=False):
    directory = Path(directory)
    if dist.is_main:
        copy_until(resume_of[0], directory, resume_of[1]) if resume_of else directory.mkdir(parents=True, exist_ok=True)
    dist.run_on_rank0(lambda: None)
    run = RunDir(directory, latest_valid(directory)[0])
    torch.manual_seed(3)
    components = make_components(model=Toy(norm=norm, drop=drop))
    if balanced:
        balance(components)
    if pruner:
        from segzoo.registry import PRUNERS
        values = torch.arange(8.0) * (1 - 2 * dist.rank)  # rank 0 would prune the first filters, rank 1 the last
        importance = lambda model, *_: lambda slot: values[: len(model.get_parameter(slot.name))]
        components.pruner = replace(PRUNERS.build(pruner, keep_schedule=[0.75, 0.5], start=0.25), importance=importance)
    print(dist.rank, train(components, run, dist, **SETTINGS | changes)["miou"])

with init_distributed("cpu") as dist:
    for job in {jobs}:
        run_job(**job)
"""


def train_on_two_ranks(*jobs: dict[str, Any]) -> list[str]:
    """Train on two ranks, job after job, and return their outputs.

    A job has a ``directory``, ``changes`` of the settings, and optionally ``norm`` and ``drop`` of the model, a ``pruner``, with which
    each rank by itself would prune other channels, ``resume_of``: another directory and the step to resume it from, and ``balanced`` to sum
    several losses and draw images of rare classes.
    """
    return run_ranks(TRAIN.format(jobs=[{key: str(v) if isinstance(v, Path) else v for key, v in job.items()} for job in jobs]))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("grad_accum_steps", "balanced", "compile"),
    [
        (2, True, False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, False, False), (2, False, False), (2, False, True))),
    ],
)
def test_two_ranks_train_like_one_process_with_the_whole_batch(tmp_path, grad_accum_steps, balanced, compile):
    """Two ranks end with the weights of one process.

    Labels have different numbers of ignored pixels, so a mean of the ranks' means would differ. The model has neither batch norm nor
    dropout, whose statistics and random numbers differ between ranks.
    """
    options: dict[str, Any] = {"steps": 8, "eval_every": 4, "grad_accum_steps": grad_accum_steps}
    changes = options | {"batch_size": 2, "workers": 0}
    outputs = train_on_two_ranks({"directory": tmp_path / "two", "changes": changes | {"compile": compile}, "balanced": balanced})
    torch.manual_seed(3)
    single = make_components(model=Toy(norm=False, drop=0.0))
    if balanced:
        balance(single)
    result = train(single, make_run_dir(tmp_path / "one"), **settings(**options, batch_size=4))
    assert {
        line.split()[1] for output in outputs for line in output.splitlines() if line[0] in "01" and len(line.split()) == 2
    } == {str(result["miou"])}
    two, one = (read_model(tmp_path / name / "checkpoints/8")[0] for name in ("two", "one"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)
    scores = [json.loads((tmp_path / name / "eval/summary.json").read_text()) for name in ("two", "one")]
    assert scores[0]["miou"] == scores[1]["miou"] and scores[0]["images"] == scores[1]["images"] == 3
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], rel=1e-5)


EVALUATE = """
import json
import torch
from toy_training import INFO, Toy, ToyData
from segzoo.distributed import init_distributed
from segzoo.evaluation.evaluator import evaluate
from segzoo.evaluation.scores.build import build_scores
from segzoo.inference.protocol import InferenceProtocol

def score(dist):
    torch.manual_seed(1)
    scores = build_scores(INFO, scores=("boundary_iou", "trimap", "boundary_f", "calibration", "blobs"), defects=("tree",))
    protocol, data = InferenceProtocol(crop=(16, 16), flip=True), ToyData(5, first=100, vary=True)
    result = evaluate(Toy(), data, INFO, protocol=protocol, distributed=dist, extra=scores, device="cpu", workers=0)
    return json.dumps([result.confusion.tolist(), result.protocol, {name: each.values for name, each in result.extra.items()}])

if __name__ == "__main__":
    torch.set_num_threads(1)
    with init_distributed("cpu") as dist:
        print(score(dist))
"""


@pytest.mark.integration
def test_two_ranks_score_like_one_process():
    one: dict[str, Any] = {}
    exec(EVALUATE, one)
    expected = one["score"](SINGLE_PROCESS)
    assert [output.splitlines()[-1] for output in run_ranks(EVALUATE)] == [expected] * 2


@pytest.mark.integration
def test_two_ranks_prune_the_same_channels_and_resume(tmp_path):
    options: dict[str, Any] = {"steps": 8, "eval_every": 4, "save_every": 1, "keep_checkpoints": 99}
    job = {"changes": options | {"batch_size": 2, "workers": 0}, "pruner": "l1"}
    resume_of = (str(tmp_path / "two"), 4)  # between the two stages
    train_on_two_ranks(job | {"directory": tmp_path / "two"}, job | {"directory": tmp_path / "resumed", "resume_of": resume_of})
    torch.manual_seed(3)
    single = make_components(model=Toy(norm=False, drop=0.0))
    importance = torch.arange(8.0)
    single.pruner = dataclasses.replace(
        PRUNERS.build("l1", keep_schedule=[0.75, 0.5], start=0.25),
        importance=lambda model, *_: lambda slot: importance[: len(model.get_parameter(slot.name))],
    )
    train(single, make_run_dir(tmp_path / "one"), **settings(**options, batch_size=4))
    one, two, resumed = (read_model(tmp_path / name / "checkpoints/8") for name in ("one", "two", "resumed"))
    assert one[1]["widths"] == two[1]["widths"] == {"backbone.0": 4}
    for name, tensor in one[0].items():
        torch.testing.assert_close(two[0][name], tensor, rtol=1e-4, atol=1e-6)
        assert torch.equal(two[0][name], resumed[0][name])


@pytest.mark.crash
def test_two_ranks_resume_bit_for_bit_with_their_own_random_numbers(tmp_path):
    options = {"steps": 6, "eval_every": 3, "save_every": 3, "workers": 0, "batch_size": 2}
    job = {"changes": options, "norm": True, "drop": 0.2}
    resume_of = (str(tmp_path / "whole"), 3)  # as if killed after step 3
    train_on_two_ranks(job | {"directory": tmp_path / "whole"}, job | {"directory": tmp_path / "resumed", "resume_of": resume_of})
    whole, resumed = (read_model(tmp_path / name / "checkpoints/6")[0] for name in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    states = read_trainer(tmp_path / "whole/checkpoints/6")["rng"]
    assert len(states) == 2 and not torch.equal(states[0]["cpu"], states[1]["cpu"])


@pytest.mark.crash
def test_fewer_ranks_can_resume_a_run(tmp_path, capsys):
    train_on_two_ranks({"directory": tmp_path, "changes": {"steps": 4, "eval_every": 4, "workers": 0, "batch_size": 2}})
    components = make_components(model=Toy(norm=False, drop=0.0))
    train(components, make_run_dir(tmp_path), **settings(steps=6))
    assert "2 processes wrote the checkpoint and 1 resume from it, after 16 images" in capsys.readouterr().out
    assert read_trainer(tmp_path / "checkpoints/6")["images_seen"] == 24


OPEN = """
from pathlib import Path
from segzoo.runs.open_run import open_run_distributed
from segzoo.distributed import init_distributed
with init_distributed("cpu") as dist:
    try:
        run = open_run_distributed(dist, "train", "toy", {{"lr": 1 + {differ} * dist.rank}}, Path({root!r}), out={out!r})
        print(dist.rank, run.path, run.lock is not None)
    except Exception as error:
        print(dist.rank, type(error).__name__, error)
"""


@pytest.mark.crash
def test_all_ranks_share_one_run_directory_or_one_error(tmp_path):
    zero, one = run_ranks(OPEN.format(differ=0, root=str(tmp_path), out=None))
    assert zero.splitlines()[-1].split()[1] == one.splitlines()[-1].split()[1]
    assert zero.split()[-1] == "True" and one.split()[-1] == "False"
    for text in run_ranks(OPEN.format(differ=1, root=str(tmp_path), out=None)):
        assert "ConfigError rank 1 was started with other settings" in text
    (tmp_path / "file").write_text("")
    for text in run_ranks(OPEN.format(differ=0, root=str(tmp_path), out=str(tmp_path / "file" / "run"))):
        assert "ConfigError out=" in text


NAN = """
from pathlib import Path
import torch
from ranks import run_ranks
from toy_training import Toy, ToyLoss, make_components, make_run_dir, settings
from toy_training import train
from segzoo.distributed import init_distributed
class NanLoss(ToyLoss):
    calls = 0
    def terms(self, logits, label, weight=None):
        self.calls += 1
        factor = float("nan") if self.rank == 1 and self.calls == 2 else 1.0
        return super().terms(logits, label, weight) * factor
with init_distributed("cpu") as dist:
    loss = NanLoss(); loss.rank = dist.rank
    components = make_components(model=Toy(), loss=loss)
    directory = Path({directory!r})
    if dist.is_main: make_run_dir(directory)
    dist.run_on_rank0(lambda: None)
    train(components, make_run_dir(directory), dist, **settings(steps=3, batch_size=2, max_nonfinite_steps=1))
"""


@pytest.mark.crash
def test_a_nonfinite_loss_on_one_rank_skips_the_step_on_all(tmp_path):
    zero, one = run_ranks(NAN.format(directory=str(tmp_path)))
    line = next(line for line in zero.splitlines() if "step skipped (1 in a row, at most 1 allowed)" in line)
    assert "the loss is nan at step 2, on toy" in line and line.count("toy") == 2  # only the two images of rank 1
    assert "skipped" not in one
    assert all(tensor.isfinite().all() for tensor in read_model(tmp_path / "checkpoints/3")[0].values())


MIXED = """
import os, torch
from segzoo.distributed import init_distributed
if os.environ["RANK"] == "1":
    torch.cuda.is_available, torch.cuda.device_count, torch.cuda.set_device = lambda: True, lambda: 2, lambda index: None
try:
    with init_distributed("auto"):
        pass
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.integration
def test_ranks_with_cuda_among_others_without_end_with_an_error():
    for output in run_ranks(MIXED):
        assert output.splitlines()[-1].startswith("ConfigError some ranks have CUDA and others do not")


@pytest.fixture
def group(monkeypatch):
    """A process group in name only.

    Returns the calls of its functions.
    """
    calls: list[str] = []
    variables = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    store.set("restart_0/cuda_1", "False")
    monkeypatch.setattr("segzoo.distributed.rendezvous", lambda *args, **settings: iter([(store, 0, 2)]))
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *args, name=name, **settings: calls.append(name))
    return calls


def test_an_error_ends_a_rank_without_waiting_for_the_others(group):
    with init_distributed("cpu") as dist:
        assert (dist.rank, dist.size) == (0, 2)
    assert group == ["init_process_group", "destroy_process_group"]
    with pytest.raises(ZeroDivisionError), init_distributed("cpu"):
        raise ZeroDivisionError
    assert group[2:] == ["init_process_group"]  # NCCL would wait for collectives in destroy_process_group


def test_missing_variables_of_torchrun_are_named(group, monkeypatch):
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("MASTER_PORT")
    with (
        pytest.raises(ConfigError, match="WORLD_SIZE=2 asks for 2 processes, but RANK, MASTER_PORT are not set.*torchrun"),
        init_distributed("cpu"),
    ):
        pass


def test_tools_of_a_single_process_reject_torchrun(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = "tools/leaderboard.py runs in a single process. Start python tools/leaderboard.py instead of torchrun."
    assert early_errors("leaderboard", {"runs": ["."]}) == [words]
    assert all(f"tools/{tool}.py" in str(early_errors(tool, {})) for tool in set(COMMANDS) - {"train", "eval", "predict"})
    assert "init.ckpt=x and the model=" in early_errors("prune", {"ckpt": "x", "pruner": {"name": "l1"}})[0]
    assert "with the same settings, pruner=l1 pruner.start=0" in early_errors("prune", {"pruner": {"name": "l1"}})[0]
    assert "torchrun" not in str(early_errors("eval", {"ckpt": "parts"}))


@pytest.mark.slow
def test_a_sweep_under_torchrun_is_rejected():
    command = [sys.executable, "tools/train.py", "-m", "model=fcn,pspnet"]
    process = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=os.environ | {"WORLD_SIZE": "2"}, capture_output=True, text=True
    )
    assert process.returncode == 1 and "-m under torchrun" in process.stderr
    assert ConfigError.__name__ in process.stderr


def test_a_single_restarted_process_counts_its_restarts(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    with init_distributed("cpu") as dist:
        assert (dist.rank, dist.size, dist.restarts) == (0, 1, 2)


def test_restarts_on_several_machines_are_rejected(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"--max-restarts=3 on 2 machines.*resume=auto"), init_distributed("cpu"):
        pass
