"""tools/prune.py, and trainings that start from its results, on tiny models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tool_jobs import job

import segzoo
from segzoo.api import create_model
from segzoo.checkpoints.serialization import read_model
from segzoo.cli.app import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.commands import arguments_for
from segzoo.config.cross_checks import training_errors
from segzoo.config.from_checkpoint import load_model
from segzoo.registry import INITS, ConfigError
from segzoo.workflows.benchmark.workload import build_workload

pytestmark = pytest.mark.integration

TINY = ["workers=0", "steps=2", "batch_size=2", "precision=fp32", "device=cpu", "augment=none", "num_val_images=0", "report=false"]
MODEL = ["model=icnet", "backbone.width=0.125"]
DATA = ["data.train_images=4", "data.val_images=2", "data.height=64", "data.width=96"]
FROZEN = ["init.freeze=[c1]", "pruner.exclude=[backbone.c1]", "optim.lr=0.1"]
FAST = ["bench_runtimes=[]", "bench_hw=[64,96]", "sensitivity=false", *TINY]


def train(*overrides):
    from tools.train import train as tool

    return tool(job("train", *TINY, *overrides))


def prune(*overrides):
    from tools.prune import prune as tool

    return tool(job("prune", *FAST, *overrides))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Run directory of a training."""
    folder = tmp_path_factory.mktemp("full") / "run"
    train(*MODEL, *DATA, f"out={folder}")
    return folder


@pytest.fixture(scope="module")
def pruned(full):
    """The same, pruned except for its frozen first stage."""
    folder = full.parent / "pruned"
    result = prune(f"ckpt={full}", f"out={folder}", *FROZEN)
    report = result["report"]
    assert [row["what"] for row in report] == ["before", "pruned", "fine-tuned"]
    assert report[0]["params"] > 2 * report[2]["params"] and (folder / "report.md").is_file()
    return folder


def test_a_frozen_stage_does_not_change(full, pruned):
    before, after = load_model(full).backbone.c1.state_dict(), load_model(pruned).backbone.c1.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    others = zip(load_model(full).backbone.c2.parameters(), load_model(pruned).backbone.c2.parameters(), strict=True)
    assert any(one.shape != other.shape for one, other in others)


def test_a_pruning_resumes_with_the_model_and_data_of_its_checkpoint(full, pruned, capsys):
    result = prune(f"ckpt={full}", f"out={pruned}", *FROZEN, "resume=auto")
    assert "already finished" in capsys.readouterr().out and result["report"][2]["what"] == "fine-tuned"
    with pytest.raises(ConfigError, match="pruner.keep_ratio: 0.5 -> 0.25"):
        prune(f"ckpt={full}", f"out={pruned}", *FROZEN, "pruner.keep_ratio=0.25", "resume=auto")


def test_a_training_from_a_pruned_checkpoint_keeps_its_widths(pruned, capsys):
    again = pruned.parent / "again"
    train(*MODEL, *DATA, f"init.ckpt={pruned}", f"out={again}")
    output = capsys.readouterr().out
    expected, actual = read_model(pruned)[1]["widths"], read_model(again)[1]["widths"]
    assert expected == actual and len(expected) > 50
    models = (segzoo.load(again), create_model("icnet", "resnet50"))
    narrow, wide = (sum(p.numel() for p in model.parameters()) for model in models)
    assert narrow == sum(p.numel() for p in segzoo.load(pruned).parameters()) < wide
    assert "100.0% of the backbone's parameters loaded" in output and "re-initialized:" not in output
    initial = read_model(again / "checkpoints" / "0")[0]
    assert all(torch.equal(tensor, initial[name]) for name, tensor in read_model(pruned)[0].items() if "num_batches" not in name)


def test_a_pruned_checkpoint_initializes_other_classes_but_no_other_model(pruned):
    def initialize(name, classes, **backbone):
        model: Any = create_model(name, {"name": "resnet50", "width": 0.125} | backbone, num_classes=len(classes))
        INITS.build("checkpoint", model, classes, ckpt=str(pruned))
        return model

    classes = tuple(read_model(pruned)[1]["dataset"]["classes"])
    state, model = read_model(pruned)[0], initialize("icnet", ("new", classes[3]), stem="deep")
    scores = [name for name, tensor in model.state_dict().items() if tensor.shape[:1] == (2,) and name.endswith(".bias")]
    assert scores and all(torch.equal(model.state_dict()[name][1], state[name][3]) for name in scores)
    assert model.train()(torch.randn(2, 3, 64, 96)).main.shape[1] == 2
    with pytest.raises(ConfigError, match="was pruned, and its layers are not.*resume=<run> out=<new directory>"):
        initialize("pspnet", classes, stem="deep")


def test_an_untrained_model_can_be_pruned(tmp_path, monkeypatch):
    def benchmark(config):
        model = build_workload(config, **arguments_for(build_workload, config)).model
        row = {"params": sum(p.numel() for p in model.parameters()), "ms_per_image": {"p50": 1.0}, "peak_memory_mb": 1.0}
        return row | {key: config[key] for key in ("precision", "hw")}

    monkeypatch.setattr("segzoo.workflows.prune.stages.run_in_subprocess", benchmark)
    result = prune(*MODEL, "data=parts", *DATA, "bench_runtimes=[eager]", f"out={tmp_path / 'run'}")
    report = result["report"]
    assert report[1]["params"] == report[2]["params"] < 0.5 * report[0]["params"]
    times, after = result["times"], sum(p.numel() for p in segzoo.load(tmp_path / "run").parameters())
    assert times["after"][0]["params"] == after < 0.5 * times["before"][0]["params"]
    assert result["checkpoint_sha256"] is None and read_model(tmp_path / "run")[1]["widths"]


def test_an_ambiguous_starting_point_is_rejected(full):
    for overrides, message in (
        ([], "neither ckpt= nor model= and data= is given"),
        (["model=icnet"], "neither ckpt= nor data= is given"),
        ([f"ckpt={full}", "model=pspnet"], "model.name=pspnet contradicts the checkpoint"),
        ([*MODEL, "data=parts", f"init.ckpt={full}"], f"Set ckpt={full}"),
        ([*MODEL, "data=parts", "distill=teacher"], "Set distill.ckpt="),
        ([f"ckpt={full}", "bench_runtimes=[opnvino]"], "Did you mean 'openvino'"),
    ):
        with pytest.raises(ConfigError) as error:
            prune(*overrides, "dry_run=true")
        assert message in str(error.value)


def test_data_with_another_normalization_is_rejected(full):
    message = (
        r"ckpt=.* was trained on images with mean \[58.8, .*data=parts has mean \[1, 2, 3\].*Set 'data.mean=\[58.8,58.8,58.8\]' '"
    )
    with pytest.raises(ConfigError, match=message):
        prune(f"ckpt={full}", "data=parts", *DATA, "data.mean=[1,2,3]", "dry_run=true")


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["pruner.runtime=opnvino"], "unknown pruner.runtime 'opnvino'. Did you mean 'openvino'"),
        (["pruner.runtime=onnxruntime", "pruner.target_ms=3"], "onnxruntime does not support it. Set pruner.precision=fp32|int8"),
        (["pruner.runtime=eager", "pruner.target_ms=3", "pruner.precision=int8"], "eager does not support it"),
        (["pruner.runtime=onnxruntime", "pruner.target_ms=3", "pruner.precision=fp32"], None),
    ],
)
def test_runtimes_of_a_target_are_checked_before_training(overrides, message):
    errors = training_errors(resolve_config(parse_overrides("train", ["pruner=l1", *MODEL, *overrides]).jobs[0])[0])
    assert not errors if message is None else len(errors) == 1 and message in errors[0], errors


@pytest.mark.parametrize(
    "layer, message",
    [
        ("backbone", "ICNet never calls 'backbone' as a whole. Use a layer inside it, such as backbone."),
        ("pyramids", "has no layer 'pyramids'"),
        ("conv5_4", None),
    ],
)
def test_distilled_layers_are_checked_before_training(full, layer, message):
    overrides = [*MODEL, "distill=teacher", f"distill.ckpt={full}", f"distill.layers=[{layer}]"]
    errors = training_errors(resolve_config(parse_overrides("train", overrides).jobs[0])[0])
    assert not errors if message is None else len(errors) == 1 and message in errors[0], errors
