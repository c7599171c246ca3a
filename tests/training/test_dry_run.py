"""Running out of memory ends in a proposal that fits, and a rehearsal says beforehand what a step needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from toy_training import Toy, make_components, make_run_dir, settings, train

from segzoo.checkpoints.store import list_checkpoints
from segzoo.registry import PRUNERS
from segzoo.runs.run_dir import RunDir
from segzoo.training.dry_run import MEMORY_MARGIN, OutOfMemory, largest_fitting_batch


class Greedy(Toy):
    """Runs out of memory in its n-th training step, the way a device does."""

    def __init__(self, error: BaseException, when: int = 3):
        super().__init__()
        self.error, self.left = error, when

    def forward(self, x):
        self.left -= self.training
        if self.left == 0:
            raise self.error
        return super().forward(x)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu"])
def test_the_message_names_the_settings_and_proposes_smaller_ones(tmp_path, error):
    components = make_components(model=Greedy(error))
    with pytest.raises(
        OutOfMemory, match=r"batch_size=4.*crop=None.*grad_accum_steps=1.*Try batch_size=2 grad_accum_steps=2"
    ) as stopped:
        train(components, make_run_dir(tmp_path), **settings(save_every=2))
    assert "dry_run=true" in str(stopped.value) and list_checkpoints(tmp_path) == [0, 2]


def test_one_picture_that_does_not_fit_needs_a_smaller_crop(tmp_path):
    components = make_components(model=Greedy(ERRORS[0]))
    components.config["augment"] = {"crop": [713, 713]}
    with pytest.raises(OutOfMemory, match=r"Try augment.crop=\[481,481\]"):
        train(components, make_run_dir(tmp_path), **settings(batch_size=1))


def test_other_errors_stay_what_they_are(tmp_path):
    components = make_components(model=Greedy(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="^shapes do not match$"):
        train(components, make_run_dir(tmp_path), **settings())


@example(batch=1, each=5e-324, base=920000001.0, have=1e9)
@given(batch=st.integers(1, 64), each=st.floats(0, 1e10), base=st.floats(0, 1e11), have=st.floats(1e9, 1e11))
def test_a_proposed_batch_fits_and_one_more_does_not(batch, each, base, have):
    need = base + each * batch
    found = largest_fitting_batch(batch, need, each, have)
    assert 1 <= found <= batch
    if found == batch:
        assert need <= MEMORY_MARGIN * have or batch == 1
    elif found > 1:
        assert base + each * found <= MEMORY_MARGIN * have * (1 + 1e-9)


def test_a_rehearsal_predicts_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    needs = train(make_components(), RunDir(tmp_path / "none"), **settings(dry_run=True))
    assert needs["fits"] and needs["batch_size"] == 4 and 0 < needs["peak_gb"] < needs["have_gb"] and needs["step_s"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_rehearsal_is_of_the_network_that_runs():
    components = make_components()
    components.pruner = PRUNERS.build("l1", keep_ratio=0.5, start=0.0)
    train(components, RunDir(Path()), **settings(dry_run=True))
    assert components.model.get_parameter("backbone.0.weight").shape[0] == 4


def test_deterministic_is_switched_on_and_off(tmp_path):
    train(make_components(), make_run_dir(tmp_path / "a"), **settings(steps=1, deterministic=True))
    assert torch.are_deterministic_algorithms_enabled()
    train(make_components(), make_run_dir(tmp_path / "b"), **settings(steps=1))
    assert not torch.are_deterministic_algorithms_enabled()
    assert re.fullmatch(r"\d+", (tmp_path / "a/checkpoints/last").read_text().strip())
