"""The article's closing table again: ``python -m benchmarks.article``, about 20 minutes on two cores.

ICNet as released at 1024x2048 in batches of 1 and 16, every runtime and number format that runs here, by ``tools/bench.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from benchmarks.results import write_result

ROOT = Path(__file__).parents[1]
WORDS = (
    "model=icnet_half",
    "runtime=openvino,onnxruntime,eager,torch_compile",
    "precision=bf16,fp32,int8",
    "batch=1,16",
    "interval=0.05",
)
COMMON = ("machine", "versions")  # the same of every row


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "tools/bench.py", "-m", *WORDS, f"hydra.sweep.dir={folder}/sweep"]
        subprocess.run(command, cwd=ROOT, check=True)
        rows = json.loads((Path(folder) / "sweep" / "bench.json").read_text(encoding="utf-8"))
    rows = [{key: value for key, value in row.items() if key not in COMMON} for row in rows]
    packages = ("openvino", "onnxruntime", "nncf")
    found = {package: metadata.version(package) for package in packages}
    print(write_result("article_1024x2048", "python -m benchmarks.article", rows, more_versions=found))


if __name__ == "__main__":
    main()
