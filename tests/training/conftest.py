"""Fixtures of the training tests."""

from __future__ import annotations

import pytest
from toy_training import make_components, make_run_dir, settings, train, weights_hash


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """Directory, hash of the weights and result of an uninterrupted run."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    components = make_components()
    result = train(components, make_run_dir(directory), **settings())
    return directory, weights_hash(components.model), result
