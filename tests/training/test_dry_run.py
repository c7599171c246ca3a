"""Advice when memory runs out, and estimates of a dry run."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from toy_training import Toy, ToyData, make_components, make_run_dir, settings, train

from segzoo.checkpoints.store import list_checkpoints
from segzoo.cli.training import format_requirements
from segzoo.device import Precision
from segzoo.registry import PRUNERS
from segzoo.runs.run_dir import RunDir
from segzoo.training import dry_run
from segzoo.training.components import TrainingSettings
from segzoo.training.dry_run import MEMORY_MARGIN, OutOfMemory, estimate_resources, largest_fitting_batch, suggest_settings

CPU = torch.device("cpu")


class OutOfMemoryModel(Toy):
    """Raises a device's out-of-memory error in its n-th training step."""

    def __init__(self, error: BaseException, when: int = 3):
        super().__init__()
        self.error, self.remaining = error, when

    def forward(self, x):
        self.remaining -= self.training
        if self.remaining == 0:
            raise self.error
        return super().forward(x)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("NCCL error in: NCCLUtils.hpp:317, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
]


def test_activation_checkpointing_is_suggested_first(tmp_path):
    for checkpoint, expected in ((False, "Try backbone.checkpoint=true"), (True, "Try batch_size=2")):
        components = make_components(model=OutOfMemoryModel(ERRORS[0]))
        components.config["backbone"] = {"checkpoint": checkpoint}
        with pytest.raises(OutOfMemory, match=expected):
            train(components, make_run_dir(tmp_path / str(checkpoint)), **settings())


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "driver", "cublas", "cudnn", "nccl"])
def test_the_message_names_the_settings_and_suggests_smaller_ones(tmp_path, error):
    components = make_components(model=OutOfMemoryModel(error))
    with pytest.raises(
        OutOfMemory, match=r"batch_size=4.*crop=None.*grad_accum_steps=1.*Try batch_size=2 grad_accum_steps=2"
    ) as error_info:
        train(components, make_run_dir(tmp_path), **settings(save_every=2))
    assert "dry_run=true" in str(error_info.value) and list_checkpoints(tmp_path) == [0, 2]


@pytest.mark.parametrize(
    ("batch_size", "suggested"), [(5, "batch_size=1 grad_accum_steps=10"), (9, "batch_size=3 grad_accum_steps=6")]
)
def test_the_suggestion_takes_the_same_step(batch_size, suggested):
    text = suggest_settings(
        make_components(),
        TrainingSettings(**settings(batch_size=batch_size, grad_accum_steps=2)),
        Precision("fp32", torch.device("cpu")),
    )
    assert f"Try {suggested}, which takes the same step" in text


def test_a_single_image_that_does_not_fit_needs_a_smaller_crop(tmp_path):
    components = make_components(model=OutOfMemoryModel(ERRORS[0]))
    components.config["augment"] = {"crop": [713, 713]}
    with pytest.raises(OutOfMemory, match=r"Try 'augment.crop=\[481,481\]'"):
        train(components, make_run_dir(tmp_path), **settings(batch_size=1))


@pytest.mark.parametrize(("batch_size", "suggested"), [(12, 2), (3, 1)])
def test_a_dry_run_without_enough_memory_suggests_less_than_it_tried(batch_size, suggested):
    components = make_components(model=OutOfMemoryModel(ERRORS[0], when=1))
    with pytest.raises(OutOfMemory, match=f"Try batch_size={suggested} grad_accum_steps={batch_size // suggested}") as caught:
        train(components, RunDir(Path("none")), **settings(batch_size=batch_size, dry_run=True))
    assert "resume" not in str(caught.value)


def test_a_gpu_that_answers_no_further_call_is_named_without_its_memory(monkeypatch):
    def fail(device):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    text = suggest_settings(make_components(), TrainingSettings(**settings()), Precision("fp32", torch.device("cuda")))
    assert text.startswith("out of memory on cuda with batch_size=4")


def test_other_errors_are_not_converted(tmp_path):
    components = make_components(model=OutOfMemoryModel(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="^shapes do not match$"):
        train(components, make_run_dir(tmp_path), **settings())


@example(batch=1, per_image=5e-324, base=920000001.0, available=1e9)
@given(batch=st.integers(1, 64), per_image=st.floats(0, 1e10), base=st.floats(0, 1e11), available=st.floats(1e9, 1e11))
def test_a_suggested_batch_fits_into_memory(batch, per_image, base, available):
    peak = base + per_image * batch
    suggested = largest_fitting_batch(batch, peak, per_image, available)
    assert 1 <= suggested <= batch
    if suggested == batch:
        assert peak <= MEMORY_MARGIN * available or batch == 1
    elif suggested > 1:
        assert base + per_image * suggested <= MEMORY_MARGIN * available * (1 + 1e-9)


def test_a_dry_run_writes_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    needs = train(make_components(), RunDir(tmp_path / "none"), **settings(dry_run=True))
    assert needs["fits"] and needs["batch_size"] == 4 and 0 < needs["peak_gb"] < needs["have_gb"] and needs["step_s"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prunes_the_model_first():
    components = make_components()
    components.pruner = PRUNERS.build("l1", keep_ratio=0.5, start=0.0)
    train(components, RunDir(Path()), **settings(dry_run=True))
    assert components.model.get_parameter("backbone.0.weight").shape[0] == 4


def test_deterministic_is_turned_on_and_off(tmp_path):
    train(make_components(), make_run_dir(tmp_path / "a"), **settings(steps=1, deterministic=True))
    assert torch.are_deterministic_algorithms_enabled()
    train(make_components(), make_run_dir(tmp_path / "b"), **settings(steps=1))
    assert not torch.are_deterministic_algorithms_enabled()
    assert re.fullmatch(r"\d+", (tmp_path / "a/checkpoints/last").read_text().strip())


def test_memory_and_time_are_extrapolated_to_the_whole_step(monkeypatch):
    peaks, seconds = iter([2e9, 3e9]), itertools.count()
    monkeypatch.setattr(dry_run, "peak_memory", lambda device: next(peaks))
    monkeypatch.setattr(dry_run, "total_memory", lambda device: 8e9)
    monkeypatch.setattr(dry_run, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    options = settings(dry_run=True, batch_size=8, grad_accum_steps=3, steps=600)
    needs = train(make_components(), RunDir(Path()), **options)  # on batches of 2 and 4, one second for each step
    expected = {"peak_gb": 5.0, "have_gb": 8.0, "batch_size": 8, "step_s": 6.0, "hours": 1.0}
    assert needs["fits"] and {key: needs[key] for key in expected} == pytest.approx(expected)


def test_a_batch_of_one_image_is_measured_alone(monkeypatch):
    peaks, seconds = iter([2e9]), itertools.count()
    monkeypatch.setattr(dry_run, "peak_memory", lambda device: next(peaks))
    monkeypatch.setattr(dry_run, "total_memory", lambda device: 8e9)
    monkeypatch.setattr(dry_run, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    components = make_components(train_set=ToyData(10, vary=True))  # whose images differ in size, so that two make no batch
    needs = train(components, RunDir(Path()), **settings(dry_run=True, batch_size=1, grad_accum_steps=3))
    assert (needs["peak_gb"], needs["step_s"], needs["batch_size"]) == (2.0, 3.0, 1)
    assert "It does not fit: use a smaller augment.crop" in format_requirements(needs | {"fits": False}, 1)


def test_epochs_of_several_processes_are_shorter():
    def steps(ranks: int) -> float:
        options = settings(dry_run=True, batch_size=2, steps=None, epochs=8.0)
        needs = estimate_resources(make_components(), TrainingSettings(**options), Precision("fp32", CPU), ranks)
        return needs["hours"] / needs["step_s"] * 3600

    assert steps(1) == pytest.approx(40) and steps(2) == pytest.approx(20)
