"""Reading weight files: wrappers, prefixes, run directories and unusable files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from weight_files import write_run

from segzoo.checkpoints.paths import resolve_weight_file
from segzoo.checkpoints.serialization import read_metadata
from segzoo.registry import ConfigError
from segzoo.weights import read_state

WRAP = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"lr": 0.1}},
    "ddp": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "both": lambda s: {"model": {f"module._orig_mod.{k}": v for k, v in s.items()}},
}


@pytest.mark.parametrize("wrap", WRAP)
def test_wrappers_and_prefixes_are_removed(tmp_path, wrap):
    state = {"c1.weight": torch.randn(3), "c1.bias": torch.randn(3)}
    torch.save(WRAP[wrap](state), tmp_path / "net.pth")
    loaded = read_state(tmp_path / "net.pth")
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[k], state[k]) for k in state)


def test_a_submodule_named_module_keeps_its_name(tmp_path):
    torch.save({"module.weight": torch.ones(1), "head.weight": torch.ones(1)}, tmp_path / "net.pth")
    assert list(read_state(str(tmp_path / "net.pth"))) == ["module.weight", "head.weight"]


class Evil:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("evil.pth", lambda p: torch.save({"w": torch.ones(1), "x": Evil()}, p), "cannot be read as weights.*tensors only"),
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
        read_state(tmp_path / name)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "value"),
    [("", 1), ("checkpoints", 1), ("checkpoints/best", 1), ("checkpoints/last", 2), ("checkpoints/0000200", 2)],
)
def test_run_and_checkpoint_directories(tmp_path, path, value):
    run = write_run(tmp_path, {"w": torch.ones(2)})
    assert read_state(run / path)["w"].tolist() == [value, value]
    assert read_metadata(run / path)["step"] == 100 * value
    assert resolve_weight_file(run / path).name == "model.safetensors"


def test_paths_without_weights_are_rejected(tmp_path):
    with pytest.raises(ConfigError, match="missing.pth does not exist"):
        read_state(tmp_path / "missing.pth")
    with pytest.raises(ConfigError, match="neither a run directory nor a checkpoint directory"):
        read_state(tmp_path)
    run = write_run(tmp_path, {"w": torch.ones(2)})
    (tmp_path / "secret").mkdir()
    save_file({"w": torch.ones(1)}, tmp_path / "secret" / "model.safetensors")
    for step in ("0000300", "../../secret", ""):
        (run / "checkpoints" / "best").write_text(step)
        with pytest.raises(ConfigError, match="best names step"):
            read_state(run)


def test_files_of_other_libraries_have_no_metadata(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors", {"format": "pt"})
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pth")
    assert read_metadata(tmp_path / "a.safetensors") == read_metadata(tmp_path / "a.pth") == {}
