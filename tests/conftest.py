"""Tests run in several processes (pytest-xdist); each of them, and what it starts, computes in one thread unless told otherwise."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported


@pytest.fixture
def set_threads():
    """Set the number of torch's threads until the end of the test."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
