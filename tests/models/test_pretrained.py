"""Networks shared through folders and the Hugging Face Hub."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from varied_networks import vary_batch_norms_

import segzoo
from segzoo.checkpoints.serialization import add_scores, state_dict_hash
from segzoo.checkpoints.writing import save_checkpoint
from segzoo.config.from_checkpoint import load_checkpoint
from segzoo.registry import ConfigError
from segzoo.types import DatasetInfo

INFO = DatasetInfo("parts", ("background", "bolt|nut", "<i>x</i>"), ((0, 0, 0), (200, 0, 0), (0, 0, 250)), label_map={0: 0, 7: 1})
BACKBONE = {"name": "resnet50", "width": 0.125}
CONFIG = {
    "model": {"name": "icnet"},
    "backbone": BACKBONE | {"weights": "imagenet"},
    "loss": {"name": "cross_entropy"},
    "data": {"name": "folder", "root": "/secret/customer"},
}
PROTOCOL = {"mode": "whole", "data": "parts", "images": 12, "names": "abcd1234", "ground_truth": "1234abcd", "precision": "fp32"}
SCORES = {"miou": 0.8125, "per_class": {"background": {"iou": 0.97}, "bolt|nut": {"iou": 0.655}, "<i>x</i>": {"iou": None}}}
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint directory with scores."""
    torch.manual_seed(0)
    model = segzoo.create_model("icnet", backbone=BACKBONE, num_classes=3).eval()
    vary_batch_norms_(model)
    directory = save_checkpoint(tmp_path_factory.mktemp("run"), 7, model, {}, CONFIG, INFO, {})
    add_scores(directory, SCORES | {"protocol": PROTOCOL, "protocol_id": "0a1b2c3d"})
    return directory


def test_a_saved_network_is_loaded_again_with_its_card(checkpoint, tmp_path):
    model = segzoo.load(checkpoint, device="cpu", runtime="eager")
    folder = model.save_pretrained(tmp_path / "new" / "parts", license="apache-2.0")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "manifest.json", "model.safetensors"]
    again = segzoo.from_pretrained(folder, device="cpu")
    assert state_dict_hash(again) == state_dict_hash(model) and again.info == INFO
    assert (again.predict(IMAGE).labels == model.predict(IMAGE).labels).all() and not again.training
    assert load_checkpoint(ckpt=str(folder))[2]["config"]["model"] == CONFIG["model"], "all tools take it"
    assert json.loads((folder / "config.json").read_text())["dataset"]["classes"] == list(INFO.classes)
    assert all(b"secret" not in path.read_bytes() for path in folder.iterdir())
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: segzoo\n") and "\nlicense: apache-2.0\n" in card
    for part in (
        "mIoU 81.25 % on 12 validation images",
        "0a1b2c3d",
        '"ground_truth": "1234abcd"',
        "`icnet` on the backbone `resnet50`",
    ):
        assert part in card
    assert "| 1 | bolt\\|nut | `#c80000` | 65.5 |\n| 2 | &lt;i&gt;x&lt;/i&gt; | `#0000fa` | none |\n" in card
    assert "started from pretrained weights" in card and "trained for 7 steps" in card
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ConfigError, match="was changed or damaged after it was written"):
        segzoo.from_pretrained(folder)


def test_scores_belong_to_their_weights(checkpoint, tmp_path):
    model = segzoo.load(checkpoint, device="cpu", runtime="eager")
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    card = (model.save_pretrained(tmp_path) / "README.md").read_text()
    assert "No score is known" in card and "81.25" not in card and "IoU %" not in card and "# license: choose one" in card
    assert "scores" not in json.loads((tmp_path / "manifest.json").read_text())


@pytest.mark.integration
def test_half_precision_halves_the_file_and_drops_scores_of_other_weights(checkpoint, tmp_path):
    model = segzoo.load(checkpoint, device="cpu", runtime="eager")
    folder = model.save_pretrained(tmp_path / "half", precision="fp16")
    full = (checkpoint / "model.safetensors").stat().st_size
    assert (folder / "model.safetensors").stat().st_size < 0.6 * full
    again = segzoo.load(folder, device="cpu", runtime="eager")
    for name, tensor in model.state_dict().items():
        rounded = tensor.half().float() if tensor.dim() > 1 else tensor
        assert torch.equal(again.state_dict()[name], rounded) and again.state_dict()[name].dtype == tensor.dtype
    assert "scores" not in json.loads((folder / "manifest.json").read_text()), "rounding changed the weights"
    add_scores(folder, SCORES | {"protocol": PROTOCOL, "protocol_id": "0a1b2c3d"})
    scored = segzoo.load(folder, device="cpu", runtime="eager")
    card = scored.save_pretrained(tmp_path / "again", precision="fp16") / "README.md"
    assert "mIoU 81.25 % on 12" in card.read_text(), "rounded once, the weights stay the same"
    with torch.no_grad():
        next(parameter for parameter in model.parameters() if parameter.dim() > 1).fill_(1e5)
    with pytest.raises(ConfigError, match="fp16 holds numbers up to 65504, and these exceed it. Save in fp32."):
        model.save_pretrained(tmp_path / "large", precision="fp16")
    assert not (tmp_path / "large").exists()


def test_settings_of_generated_data_are_saved(checkpoint, tmp_path):
    model = segzoo.load(checkpoint, device="cpu", runtime="eager")
    assert model.origin is not None
    for section, kept in (
        ({"name": "parts", "height": 96, "objects": [3, 5]}, True),
        ({"name": "mine", "lists": ["/a/b.txt"]}, False),
    ):
        model.origin["config"]["data"] = section
        config = json.loads((model.save_pretrained(tmp_path) / "config.json").read_text())["config"]
        assert config.get("data") == (section if kept else None)


def test_networks_of_other_widths_are_saved(checkpoint, tmp_path):
    model = segzoo.load(checkpoint, device="cpu", runtime="eager")
    assert model.origin is not None
    name = next(iter(model.origin["channels"]))
    model.origin["channels"][name] += 8  # as if it had been pruned since
    folder = model.save_pretrained(tmp_path)
    assert list(json.loads((folder / "config.json").read_text())["widths"]) == [name]
    assert state_dict_hash(segzoo.from_pretrained(folder, device="cpu")) == state_dict_hash(model)


def test_a_network_without_configuration_or_classes_is_rejected(checkpoint, tmp_path):
    created = segzoo.create_model("icnet", backbone=BACKBONE, num_classes=3)
    with pytest.raises(ConfigError, match="set model.info to the DatasetInfo"):
        created.save_pretrained(tmp_path / "x")
    created.info = DatasetInfo("x", ("a", "b"), ((0, 0, 0), (1, 1, 1)))
    with pytest.raises(ConfigError, match="model.info has 2 classes and the network 3"):
        created.save_pretrained(tmp_path / "x")
    created.info = INFO
    with pytest.raises(ConfigError, match="precision='float16': weights are saved in fp32 or fp16"):
        created.save_pretrained(tmp_path / "x", precision="float16")  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "x").exists()
    assert segzoo.from_pretrained(created.save_pretrained(tmp_path / "x"), device="cpu").info == INFO
    fused = segzoo.load(checkpoint, device="cpu", runtime="eager")
    fused.fuse_for_inference_()
    with pytest.raises(ConfigError, match="or it was fused for inference"):
        fused.save_pretrained(tmp_path / "y")
    assert not (tmp_path / "y").exists()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that is a folder, with the calls it received."""
    huggingface_hub = pytest.importorskip("huggingface_hub", reason='pip install -e ".[hub]"')
    store, calls = tmp_path / "hub", []

    class Api:
        def create_repo(self, repo_id, *, private, exist_ok):
            calls.append(("create", repo_id, private, exist_ok))
            return f"https://hub/{repo_id}"

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            calls.append(("upload", commit_message))
            shutil.copytree(folder_path, store / repo_id)

    def snapshot_download(repo_id, *, revision, allow_patterns):
        calls.append(("download", revision, allow_patterns))
        if not (store / repo_id).is_dir():
            raise OSError("404 Client Error.\n\nRepository Not Found")
        return str(store / repo_id)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_the_hub_holds_the_same_network(checkpoint, hub, tmp_path):
    model = segzoo.load(checkpoint, device="cpu", runtime="eager")
    assert model.push_to_hub("me/parts", private=True, message="First") == "https://hub/me/parts"
    assert 'segzoo.from_pretrained("me/parts")' in (tmp_path / "hub" / "me" / "parts" / "README.md").read_text()
    again = segzoo.from_pretrained("me/parts", revision="v1", device="cpu")
    assert state_dict_hash(again) == state_dict_hash(model)
    needed = ["model.safetensors", "manifest.json"]
    assert hub == [("create", "me/parts", True, True), ("upload", "First"), ("download", "v1", needed)]
    with pytest.raises(
        ConfigError, match="me/other is not a folder, and cannot be downloaded .*: 404 Client Error. Repository Not Found"
    ):
        segzoo.from_pretrained("me/other")


def test_missing_folders_and_packages_are_named(checkpoint, monkeypatch):
    for wrong in ("nowhere", "a/b/c", "../x", "https://hub/a", Path("/nowhere/parts")):
        with pytest.raises(ConfigError, match="is neither a folder nor a repository <owner>/<name>"):
            segzoo.from_pretrained(wrong)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (
        lambda: segzoo.from_pretrained("a/b"),
        lambda: segzoo.load(checkpoint, device="cpu", runtime="eager").push_to_hub("a/b"),
    ):
        with pytest.raises(ConfigError, match=r'huggingface_hub: pip install "segzoo\[hub\]"'):
            call()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "float32"}, "precision='float32': expected one of auto, fp32, bf16, fp16"),
        ({"precision": None}, "precision=None: expected one of"),
        ({"device": "cuda:1"}, "device='cuda:1': expected one of auto, cpu, cuda. The environment variable CUDA_VISIBLE_DEVICES"),
        ({"runtime": ""}, "runtime='' is not known, expected one of eager"),
    ],
)
def test_unknown_settings_are_rejected(checkpoint, settings, message):
    with pytest.raises(ConfigError, match=message):
        segzoo.load(checkpoint, **{"device": "cpu", **settings})


@pytest.mark.parametrize("count", [0, -1, "3", 2.0, None])
def test_the_number_of_classes_is_checked(count):
    with pytest.raises(ConfigError, match="num_classes=.*: expected an integer"):
        segzoo.create_model("icnet", backbone=BACKBONE, num_classes=count)


def test_numbers_of_numpy_are_numbers(checkpoint):
    assert segzoo.create_model("icnet", backbone=BACKBONE, num_classes=np.int64(3)).num_classes == 3  # type: ignore[arg-type]
    images = [np.zeros((64, 64, 3), np.uint8)] * 2
    assert len(segzoo.load(checkpoint, device="cpu").predict(images, batch_size=np.int64(2))) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", ["eager", pytest.param("onnxruntime", marks=pytest.mark.integration)])
def test_loading_leaves_the_random_numbers_of_the_caller_alone(checkpoint, runtime):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    segzoo.load(checkpoint, device="cpu", runtime=runtime)
    assert torch.equal(torch.rand(3), expected)


def test_networks_predict_under_another_default_type(checkpoint):
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    expected = segzoo.load(checkpoint, device="cpu").predict(image).labels
    torch.set_default_dtype(torch.float64)
    try:
        assert (segzoo.load(checkpoint, device="cpu").predict(image).labels == expected).all()
    finally:
        torch.set_default_dtype(torch.float32)
