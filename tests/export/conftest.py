"""The exported network that the tests share.

An export takes half a minute.
"""

from __future__ import annotations

import pytest
from small_exports import Exported, export_once, shared_root


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Exported:
    """A checkpoint and its bundle, exported once per session."""
    pytest.importorskip("onnxscript", reason='pip install -e ".[export]"')
    return export_once(shared_root(tmp_path_factory.getbasetemp()))
