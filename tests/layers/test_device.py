"""Devices and the number formats that they compute in."""

from __future__ import annotations

import pytest
import torch

from segzoo.device import Precision, pick_precision, pick_workers


@pytest.mark.parametrize(
    ("has_amx", "has_avx512_bf16", "picked"),
    [(True, True, "bf16"), (False, True, "bf16"), (True, False, "bf16"), (False, False, "fp32")],
)
def test_auto_is_bf16_on_processors_that_multiply_in_it(has_amx, has_avx512_bf16, picked, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_avx512_bf16)
    assert pick_precision("auto", torch.device("cpu")) == picked
    assert pick_precision("fp32", torch.device("cpu")) == "fp32"


def test_auto_asks_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert pick_precision("auto", torch.device("cuda")) == "bf16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)  # a T4
    assert pick_precision("auto", torch.device("cuda")) == "fp32"


@pytest.mark.parametrize(("workers", "device", "cores", "processes"), [
    ("auto", "cpu", 2, 0),
    ("auto", "cpu", 4, 0),
    ("auto", "cpu", 5, 2),
    ("auto", "cuda", 2, 2),
    (3, "cpu", 2, 3),
    (0, "cuda", 16, 0),
])  # fmt: skip
def test_loading_processes_leave_few_cores_to_the_network(monkeypatch, workers, device, cores, processes):
    monkeypatch.setattr("segzoo.device.cpu_cores", lambda: cores)
    assert pick_workers(workers, torch.device(device)) == processes


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_fp32_on_a_gpu_is_no_tf32(monkeypatch, name):
    """The layers of bf16 that stay fp32 would otherwise depend on the networks that ran before."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    Precision("fp32", torch.device("cpu"))
    assert torch.backends.cudnn.allow_tf32
    Precision(name, torch.device("cuda"))
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
