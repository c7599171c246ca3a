"""tools/serve.py as a process: a checkpoint and a token, up to SIGTERM."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx2", reason="needs the extra dev")

from small_service import decoded, encoded, pattern
from tiny_run import TINY_RUN

import segzoo

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TOKEN = "a-long-token-of-letters"


def tool(name: str, *overrides: str) -> list[str]:
    return [sys.executable, f"tools/{name}.py", *overrides]


def test_a_checkpoint_is_served_until_a_signal(tmp_path):
    run, environment = tmp_path / "run", os.environ | {"OMP_NUM_THREADS": "1", "SEGZOO_TOKEN": TOKEN}
    training = tool("train", "model=icnet", "backbone.width=0.125", *TINY_RUN, f"out={run}")
    subprocess.run(training, cwd=ROOT, env=environment, check=True, capture_output=True)
    command = tool("serve", f"models={{a: {run}, b: {run}}}", "port=0", "device=cpu")
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        address = next(match[1] for line in lines if (match := re.search(r"serving at (http://127\.0\.0\.1:\d+)", line)))
        image = pattern(0, 72, 96)
        request = Request(f"{address}/predict?output=labels&model=b", encoded(image), {"Authorization": f"Bearer {TOKEN}"})
        labels = decoded(urlopen(request, timeout=60).read())
        with pytest.raises(HTTPError, match="401"):
            urlopen(f"{address}/metrics", timeout=60)
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
    assert process.returncode == 0 and "SIGTERM: answering the 0 images in progress" in rest and "1 images labeled" in rest
    assert np.array_equal(labels, segzoo.load(run, device="cpu").predict(image).labels)
