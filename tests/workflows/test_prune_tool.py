"""tools/prune.py and what trains on from what it leaves: the tools' own functions, on networks of a few thousand parameters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import segzoo
from segzoo.api import create_model
from segzoo.checkpoints.serialization import read_model
from segzoo.cli.app import Job, resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config import from_checkpoint
from segzoo.config.commands import arguments_for
from segzoo.config.cross_checks import training_errors
from segzoo.config.from_checkpoint import check_same_normalization
from segzoo.config.validate import validation_errors
from segzoo.registry import INITS, ConfigError
from segzoo.workflows.benchmark.workload import build_workload

TINY = ["workers=0", "steps=2", "batch_size=2", "precision=fp32", "device=cpu", "augment=none", "num_val_images=0"]
NETWORK = ["model=icnet", "backbone.width=0.125"]
DATA = ["data.train_images=4", "data.val_images=2", "data.height=64", "data.width=96"]
FAST = ["bench_runtimes=[]", "bench_hw=[64,96]", "sensitivity=false", *TINY]


def job(frame, *words):
    reading = parse_overrides(frame, words)
    assert not reading.errors, reading.errors
    config, recorded = resolve_config(reading.jobs[0])
    assert not (faults := validation_errors(frame, config)), faults
    return Job(config, recorded, dict.fromkeys(("model", "backbone", "data"), "tiny"), None)


def train(*words):
    from tools.train import train as tool

    return tool(job("train", *TINY, *words))


def prune(*words):
    from tools.prune import prune as tool

    return tool(job("prune", *FAST, *words))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A trained run."""
    folder = tmp_path_factory.mktemp("full") / "run"
    train(*NETWORK, *DATA, f"out={folder}")
    return folder


@pytest.fixture(scope="module")
def cut(full):
    """The same, pruned with its first stage frozen and left as wide as it was."""
    folder = full.parent / "cut"
    said = prune(f"ckpt={full}", f"out={folder}", "init.freeze=[c1]", "pruner.exclude=[backbone.c1]", "optim.lr=0.1")
    assert [row["what"] for row in said["report"]] == ["before", "pruned", "fine-tuned"]
    assert said["report"][0]["params"] > 2 * said["report"][2]["params"] and (folder / "report.md").is_file()
    return folder


def test_the_tool_prunes_and_a_frozen_stage_stays_as_it_was(full, cut):
    before, after = segzoo.load(full).backbone.c1.state_dict(), segzoo.load(cut).backbone.c1.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    others = zip(segzoo.load(full).backbone.c2.parameters(), segzoo.load(cut).backbone.c2.parameters(), strict=True)
    assert any(one.shape != other.shape for one, other in others)


def test_a_pruned_checkpoint_is_trained_on_as_narrow_as_it_is(cut, capsys):
    again = cut.parent / "again"
    train(*NETWORK, *DATA, f"init.ckpt={cut}", f"out={again}")
    said = capsys.readouterr().out
    kept, found = read_model(cut)[1]["widths"], read_model(again)[1]["widths"]
    assert kept == found and len(kept) > 50
    narrow, wide = (sum(p.numel() for p in net.parameters()) for net in (segzoo.load(again), create_model("icnet", "resnet50")))
    assert narrow == sum(p.numel() for p in segzoo.load(cut).parameters()) < wide
    assert "100.0% of the backbone's parameters loaded" in said and "re-initialized:" not in said
    started = read_model(again / "checkpoints" / "0")[0]
    assert all(torch.equal(tensor, started[name]) for name, tensor in read_model(cut)[0].items() if "num_batches" not in name)


def test_narrow_widths_with_other_classes_and_other_networks(cut):
    def begin(name, classes, **trunk):
        model: Any = create_model(name, {"name": "resnet50", "width": 0.125} | trunk, num_classes=len(classes))
        INITS.build("checkpoint", model, classes, ckpt=str(cut))
        return model

    theirs = tuple(read_model(cut)[1]["dataset"]["classes"])
    state, model = read_model(cut)[0], begin("icnet", ("new", theirs[3]), stem="deep")
    scores = [name for name, tensor in model.state_dict().items() if tensor.shape[:1] == (2,) and name.endswith(".bias")]
    assert scores and all(torch.equal(model.state_dict()[name][1], state[name][3]) for name in scores)
    assert model.train()(torch.randn(2, 3, 64, 96)).main.shape[1] == 2
    with pytest.raises(ConfigError, match="was pruned, and its layers are not.*resume=<run> out=<new folder>"):
        begin("pspnet", theirs, stem="deep")


def test_a_network_that_no_run_made_is_pruned_as_a_training_begins_with_it(tmp_path, monkeypatch):
    def timed(config):
        net = build_workload(config, **arguments_for(build_workload, config)).model
        ours = {"params": sum(p.numel() for p in net.parameters()), "ms_per_image": {"p50": 1.0}, "peak_memory_mb": 1.0}
        return ours | {key: config[key] for key in ("precision", "hw")}

    monkeypatch.setattr("segzoo.workflows.prune.stages.measured_apart", timed)
    said = prune(*NETWORK, "data=parts", *DATA, "bench_runtimes=[eager]", f"out={tmp_path / 'cut'}")
    assert said["report"][1]["params"] == said["report"][2]["params"] < 0.5 * said["report"][0]["params"]
    times, after = said["times"], sum(p.numel() for p in segzoo.load(tmp_path / "cut").parameters())
    assert times["after"][0]["params"] == after < 0.5 * times["before"][0]["params"]
    assert said["checkpoint_sha256"] is None and read_model(tmp_path / "cut")[1]["widths"]


def test_a_start_that_is_not_clear_is_refused(full):
    for words, told in (
        ([], "neither ckpt= nor model= and data= is given"),
        (["model=icnet"], "neither ckpt= nor data= is given"),
        ([f"ckpt={full}", "model=pspnet"], "model.name=pspnet contradicts the checkpoint"),
        ([*NETWORK, "data=parts", f"init.ckpt={full}"], f"Say ckpt={full}"),
        ([*NETWORK, "data=parts", "distill=teacher"], "Say distill.ckpt="),
        ([f"ckpt={full}", "bench_runtimes=[opnvino]"], "Did you mean 'openvino'"),
    ):
        with pytest.raises(ConfigError) as refused:
            prune(*words, "dry_run=true")
        assert told in str(refused.value)


def test_pictures_normalised_otherwise_than_the_network_knows_are_refused(full, monkeypatch):
    meta: Any = read_model(full)[1]
    other = SimpleNamespace(info=SimpleNamespace(name="other", mean=(1.0, 2.0, 3.0), std=tuple(meta["dataset"]["std"])))
    monkeypatch.setattr(from_checkpoint, "build_data", lambda section, split: other)
    told = r"mean \[1.0, 2.0, 3.0\] and std .*, the checkpoint's .*Say data.mean=\[58.8,58.8,58.8\] data.std=\[48.9,"
    with pytest.raises(ConfigError, match=told):
        check_same_normalization(meta, {"name": "folder", "mean": [1.0, 2.0, 3.0]})


@pytest.mark.parametrize(
    "words, told",
    [
        (["pruner.runtime=opnvino"], "unknown pruner.runtime 'opnvino'. Did you mean 'openvino'"),
        (["pruner.runtime=onnxruntime", "pruner.target_ms=3"], "onnxruntime does not run in it. Say pruner.precision=fp32|int8"),
        (["pruner.runtime=eager", "pruner.target_ms=3", "pruner.precision=int8"], "eager does not run in it"),
        (["pruner.runtime=onnxruntime", "pruner.target_ms=3", "pruner.precision=fp32"], None),
    ],
)
def test_what_times_are_wanted_in_is_known_beforehand(words, told):
    found = training_errors(resolve_config(parse_overrides("train", ["pruner=l1", *NETWORK, *words]).jobs[0])[0])
    assert not found if told is None else len(found) == 1 and told in found[0], found


@pytest.mark.parametrize(
    "layer, told",
    [
        ("backbone", "ICNet never runs, as a whole, 'backbone'. Name a layer within it, such as backbone."),
        ("pyramids", "has no layer 'pyramids'"),
        ("conv5_4", None),
    ],
)
def test_layers_that_cannot_be_compared_are_known_beforehand(full, layer, told):
    words = [*NETWORK, "distill=teacher", f"distill.ckpt={full}", f"distill.layers=[{layer}]"]
    found = training_errors(resolve_config(parse_overrides("train", words).jobs[0])[0])
    assert not found if told is None else len(found) == 1 and told in found[0], found
