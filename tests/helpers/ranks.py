"""Processes of one group on the CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HELPERS = Path(__file__).parent


def run_ranks(code: str, size: int = 2, codes: Sequence[int] | None = None) -> list[str]:
    """Run code in ``size`` processes of one group.

    Args:
        code: Python code.
        size: number of processes.
        codes: their expected exit codes. None means that all succeed.

    Returns:
        The output of each process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(size):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
        env = os.environ | {k: str(v) for k, v in ranks.items()} | {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(HELPERS)}
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        processes.append(process)
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == list(codes or [0] * size), "\n".join(outputs)
    return outputs
