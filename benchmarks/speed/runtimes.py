"""Sweeps of ``tools/bench.py`` whose rows are kept: ``python -m benchmarks.sweeps article``, about 20 minutes on two cores.

``article`` is the article's closing table again: ICNet as released at 1024x2048 in batches of 1 and 16, every runtime and number format
that runs here. ``trained <run>`` is a trained network on pictures of its own data, for what the formats do to labels that mean something.
``cuda`` is for a machine with a GPU: all five models, with and without compiler and captured graphs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness.result_files import write_result

ROOT = Path(__file__).parents[2]
SWEEPS = {
    "article": ("model=icnet_half", "runtime=openvino,onnxruntime,eager,torch_compile", "precision=bf16,fp32,int8", "batch=1,16"),
    "trained": ("runtime=openvino,onnxruntime", "precision=bf16,fp32,int8", "check=8"),
    "cuda": (
        "model=icnet_half,pspnet,fcn_dilated,parsenet,deeplab_largefov",
        "runtime=eager,torch_compile,cuda_graphs",
        "precision=fp32,bf16,fp16",
        "batch=1,16",
        "device=cuda",
    ),
}
COMMON = ("machine", "versions", "git")  # the same of every row


def main(name: str, ckpt: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        words = [*SWEEPS[name], "interval=0.05", f"hydra.sweep.dir={folder}/sweep", *([f"ckpt={ckpt}"] if ckpt else [])]
        command = [sys.executable, "tools/bench.py", "-m", *words]
        subprocess.run(command, cwd=ROOT, check=True)
        rows = json.loads((Path(folder) / "sweep" / "bench.json").read_text(encoding="utf-8"))
    rows = [{key: value for key, value in row.items() if key not in COMMON} for row in rows]
    packages = ("openvino", "onnxruntime", "nncf")
    said = f"python -m benchmarks.sweeps {name}" + (" runs/quick" if ckpt else "")
    print(write_result(f"{name}_1024x2048", said, rows, packages=packages))


if __name__ == "__main__":
    main(*sys.argv[1:])
