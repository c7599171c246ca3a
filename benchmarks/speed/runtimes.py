"""Latency in every runtime and precision, as a sweep of tools/bench.py.

article: ICNet as released at 1024x2048 with batches of 1 and 16, as in the article's closing table. About 20 minutes on two cores.
trained: a trained network on images of its own data, which shows the effect of the precision on meaningful labels. Needs --ckpt.
cuda: all five models on a GPU, eager, compiled and with CUDA graphs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.harness.result_files import read_json, write_result
from benchmarks.harness.tool_runs import run_tool

SWEEPS = {
    "article": ("model=icnet_half", "runtime=openvino,onnxruntime,eager,torch_compile", "precision=bf16,fp32,int8", "batch=1,16"),
    "trained": ("runtime=openvino,onnxruntime", "precision=bf16,fp32,int8", "num_check_images=8"),
    "cuda": (
        "model=icnet_half,pspnet,fcn_dilated,parsenet,deeplab_largefov",
        "runtime=eager,torch_compile,cuda_graphs",
        "precision=fp32,bf16,fp16",
        "batch=1,16",
        "device=cuda",
    ),
}
SHARED_KEYS = ("machine", "versions", "git")  # the result file holds them once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sweep and its checkpoint."""
    parser.add_argument("sweep", choices=SWEEPS)
    parser.add_argument("--ckpt", help="run directory or checkpoint, for the sweep 'trained'")


def main(args: argparse.Namespace) -> None:
    """Run one sweep and keep its rows."""
    if (args.sweep == "trained") != (args.ckpt is not None):
        raise SystemExit("The sweep 'trained' needs --ckpt; the others have random weights and do not accept it.")
    with tempfile.TemporaryDirectory() as folder:
        ckpt = [f"ckpt={args.ckpt}"] if args.ckpt else []
        run_tool("bench", "-m", *SWEEPS[args.sweep], "ci_half_width=0.05", f"hydra.sweep.dir={folder}/sweep", *ckpt)
        rows = read_json(Path(folder) / "sweep" / "bench.json")
    rows = [{key: value for key, value in row.items() if key not in SHARED_KEYS} for row in rows]
    print(write_result(f"{args.sweep}_1024x2048", args.command, rows, packages=("openvino", "onnxruntime", "nncf")))
