"""Reading weight files: wrappers, prefixes, run directories and unusable files."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from weight_files import loadable_names, random_state, write_run

from segzoo.checkpoints.paths import resolve_weight_file
from segzoo.checkpoints.serialization import read_metadata
from segzoo.registry import BACKBONES, ConfigError
from segzoo.weights import load_backbone, read_weights

WRAP = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"lr": 0.1}},
    "ddp": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "both": lambda s: {"model": {f"module._orig_mod.{k}": v for k, v in s.items()}},
    "mmengine": lambda s: {"state_dict": {"c1.weight": torch.zeros(3)}, "ema_state_dict": {f"module.{k}": v for k, v in s.items()}},
    "timm": lambda s: {"arch": "resnet50", "state_dict": {"c1.weight": torch.zeros(3)}, "state_dict_ema": s, "epoch": 3},
    "nested": lambda s: {"model": {"state_dict": s}, "optimizer": {"state": {0: {"momentum": torch.ones(1)}}}},
    "lightning": lambda s: {"state_dict": {f"model.net.{k}": v for k, v in s.items()}, "hyper_parameters": {"model": "fcn"}},
    "ema without weights": lambda s: {"model": s, "ema": {"decay": 0.99}},
}
KEYS = {"state_dict": "state_dict", "model": "model", "both": "model", "mmengine": "ema_state_dict", "timm": "state_dict_ema"}
KEYS |= {"nested": "model.state_dict", "lightning": "state_dict", "ema without weights": "model"}


@pytest.mark.parametrize("wrap", WRAP)
def test_wrappers_and_prefixes_are_removed(tmp_path, wrap):
    state = {"c1.weight": torch.randn(3), "c1.bias": torch.randn(3)}
    torch.save(WRAP[wrap](state), tmp_path / "net.pth")
    loaded, _, key = read_weights(tmp_path / "net.pth")
    assert list(loaded) == list(state)
    assert key == KEYS.get(wrap, "")
    assert all(torch.equal(loaded[k], state[k]) for k in state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_become_those_of_the_model(tmp_path, capsys, dtype):
    backbone = BACKBONES.build("resnet50", width=0.125)
    state = random_state(backbone)
    torch.save({"model_ema": {f"backbone.{name}": tensor.to(dtype) for name, tensor in state.items()}}, tmp_path / "net.pth")
    load_backbone(backbone, str(tmp_path / "net.pth"))
    loaded = backbone.state_dict()
    assert all(torch.equal(loaded[name], state[name].to(dtype).float()) for name in loadable_names(backbone))
    assert "taken from 'model_ema' in the file" in capsys.readouterr().out


def test_integers_are_no_weights(tmp_path):
    torch.save({"0.weight": torch.ones(3, 2, dtype=torch.int8)}, tmp_path / "net.pth")
    with pytest.raises(ConfigError, match="0.weight is quantized. Save the weights of the float model"):
        read_weights(tmp_path / "net.pth")


def test_a_submodule_named_module_keeps_its_name(tmp_path):
    torch.save({"module.weight": torch.ones(1), "head.weight": torch.ones(1)}, tmp_path / "net.pth")
    assert list(read_weights(str(tmp_path / "net.pth")).tensors) == ["module.weight", "head.weight"]


class Evil:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        (
            "evil.pth",
            lambda p: torch.save({"w": torch.ones(1), "x": Evil()}, p),
            r"cannot be read as weights \(it holds an object of [\w.]+\)\. .*tensors only",
        ),
        (
            "protocol4.pth",
            lambda p: torch.save({"w": torch.ones(1)}, p, pickle_protocol=4),
            r"cannot be read as weights \(it holds more than tensors, or is of another version of pickle\)",
        ),
        ("image.png", lambda p: Image.new("L", (4, 4)).save(p), r"cannot be read as weights \(it is not a file of torch.save\)"),
        ("text.txt", lambda p: p.write_text("hello world"), r"cannot be read as weights \(it is not a file of torch.save\)"),
        ("truncated.pth", lambda p: p.write_bytes(b"PK\x03\x04 half"), "cannot be read as weights"),
        ("empty.pth", lambda p: p.write_bytes(b""), "cannot be read as weights"),
        ("truncated.safetensors", lambda p: p.write_bytes(b"\x09" * 20), "cannot be read as safetensors"),
        ("list.pth", lambda p: torch.save([torch.ones(1)], p), "holds no tensors by name"),
        ("numbers.pth", lambda p: torch.save({"epoch": 3}, p), "holds no tensors by name"),
    ],
)
def test_unusable_files_are_rejected_by_name(tmp_path, capsys, name, write, message):
    write(tmp_path / name)
    with pytest.raises(ConfigError, match=f"(?s){name}.*{message}"):
        read_weights(tmp_path / name)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "value"),
    [("", 1), ("checkpoints", 1), ("checkpoints/best", 1), ("checkpoints/last", 2), ("checkpoints/0000200", 2)],
)
def test_run_and_checkpoint_directories(tmp_path, path, value):
    run = write_run(tmp_path, {"w": torch.ones(2)})
    assert read_weights(run / path).tensors["w"].tolist() == [value, value]
    assert read_metadata(run / path)["step"] == 100 * value
    assert resolve_weight_file(run / path).name == "model.safetensors"


def test_paths_without_weights_are_rejected(tmp_path):
    with pytest.raises(ConfigError, match="missing.pth does not exist"):
        read_weights(tmp_path / "missing.pth")
    with pytest.raises(ConfigError, match="neither a run directory nor a checkpoint directory"):
        read_weights(tmp_path)
    run = write_run(tmp_path, {"w": torch.ones(2)})
    (tmp_path / "secret").mkdir()
    save_file({"w": torch.ones(1)}, tmp_path / "secret" / "model.safetensors")
    for step in ("0000300", "../../secret", ""):
        (run / "checkpoints" / "best").write_text(step)
        with pytest.raises(ConfigError, match="best names step"):
            read_weights(run)


def test_files_of_other_libraries_have_no_metadata(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors", {"format": "pt"})
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pth")
    assert read_metadata(tmp_path / "a.safetensors") == read_metadata(tmp_path / "a.pth") == {}
