"""Trained networks on CamVid compared with intervals and verdicts.

Each run is evaluated under three protocols: whole images, three scales with flipping, and with a CRF. Per protocol, ``tools/compare.py``
compares the runs on the same validation images; runs that differ only in their seed count as one model. With whole images, two further
models stand in the table: the label maps that ``tools/predict.py`` wrote for the first run, as a folder of PNGs of unknown origin, and its
ONNX file. Both have to come out as not resolved from the first run.

About 25 minutes for four runs on one core. Finished evaluations in the output directory are not repeated. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from benchmarks.harness.camvid_drives import FRAME_BLOCKS, camvid_folder
from benchmarks.harness.result_files import read_json, write_result
from benchmarks.harness.tool_runs import run_tool, run_unless_finished
from segzoo.messages import format_override

PROTOCOLS = {
    "whole": ("protocol=whole",),
    "multi-scale": ("protocol=whole", "protocol.scales=[0.75,1.0,1.25]", "protocol.flip=true"),
    "crf": ("protocol=deeplab_crf",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the trained networks, the output directory and the protocols."""
    parser.add_argument(
        "run", nargs="+", type=Path, help="run directories of ICNet, PSPNet, FCN, ... on data=camvid, seeds included"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for evaluations, predictions and comparisons")
    parser.add_argument(
        "--input-hw", nargs=2, type=int, metavar=("H", "W"), help="resize images first, for runs of experiment=history: 180 240"
    )
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS), help="only these; all by default")


def evaluate(run: Path, protocol: str, size: list[str], out: Path) -> Path:
    """Evaluate a run, and return the evaluation directory."""
    folder = out / protocol / run.name
    run_unless_finished(folder / "summary.json", "eval", f"ckpt={run}", *PROTOCOLS[protocol], *size)
    return folder


def outside_words(run: Path, size: list[str], out: Path) -> list[str]:
    """Write a run's label maps and ONNX file.

    Returns:
        The words that add them to a comparison.
    """
    images = camvid_folder() / "val"
    run_unless_finished(out / "png" / "predict.json", "predict", f"ckpt={run}", f"source={images}", "overlays=none", *size)
    run_unless_finished(out / "onnx" / "export.json", "export", f"ckpt={run}", "format=onnx", "output=both")
    return [f"preds={{png: {out / 'png'}}}", str(out / "onnx" / "model.onnx"), *size]


def compare(folders: list[Path], more: list[str], out: Path) -> dict[str, Any]:
    """Compare evaluations and return the rows without single images.

    Successive frames are drawn together, as they are not independent.
    """
    overwrite, blocks = (out / "compare.json").exists(), shlex.split(format_override("group_by", FRAME_BLOCKS))
    run_tool("compare", *map(str, folders), *more, *blocks, f"out={out}", f"overwrite={str(overwrite).lower()}")
    return with_seeds(read_json(out / "compare.json"))


def with_seeds(result: dict[str, Any]) -> dict[str, Any]:
    """Return a comparison without single images, with the scores of seeds."""
    pairs = [{key: value for key, value in pair.items() if key != "changed_images"} for pair in result["pairs"]]
    models = [{key: value for key, value in model.items() if key != "evaluations"} for model in result["models"]]
    scores = [[evaluation["miou"] for evaluation in model["evaluations"]] for model in result["models"]]
    return {**result, "pairs": pairs, "models": [model | {"seeds": own} for model, own in zip(models, scores, strict=True)]}


def main(args: argparse.Namespace) -> None:
    """Evaluate the runs under each protocol, and compare them."""
    rows, out = {}, args.out.absolute()
    size = [f"protocol.input_hw=[{','.join(map(str, args.input_hw))}]"] if args.input_hw else []
    for protocol in args.protocol:
        folders = [evaluate(run.absolute(), protocol, size, out) for run in args.run]
        more = outside_words(args.run[0].absolute(), size, out) if protocol == "whole" else []
        rows[protocol] = compare(folders, more, out / f"compare_{protocol}")
    print(write_result("compare_camvid", args.command, rows))
