"""Ablations of the five networks, with intervals.

Each group varies one idea of a paper: skip connections, context, dilation, pyramid pooling, the cascade and its guidance. Networks are
trained from scratch by ``experiment=history_tenth`` and scored as in ``accuracy/history``. The first network of a group is that study's own,
with as many seeds, and its runs are used again if both studies get the same directory. The CRF refines the labels of trained networks.

About an hour per seed on one core with AVX512_BF16, plus that of the history's runs. An interrupted study continues where it stopped if it is given the same output directory. Needs
SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.accuracy.compare_camvid import compare, evaluate
from benchmarks.accuracy.history import INPUT, INPUT_OVERRIDE, ROWS, train
from benchmarks.harness.result_files import without_path, write_result
from benchmarks.harness.tool_runs import run_unless_finished
from segzoo.evaluation.bootstrap import LEVEL
from segzoo.evaluation.model_comparison import holm
from segzoo.workflows.compare.comparison import NOT_RESOLVED


class Network(NamedTuple):
    """A network of a group.

    Attributes:
        run: name of its runs, without the seed.
        title: what distinguishes it in its group.
        overrides: of tools/train.py.
        seeds: number of runs, None for that of the command line.
    """

    run: str
    title: str
    overrides: tuple[str, ...]
    seeds: int | None = None


def history_row(name: str, title: str) -> Network:
    """Return a network of the history study."""
    return Network(name, title, ROWS[name].overrides, ROWS[name].seeds)


LARGEFOV, PSPNET, ICNET = ("model=deeplab_largefov",), ("model=pspnet",), ("model=icnet",)
GROUPS = {  # all networks of a group are compared with the first
    "skip connections": (
        history_row("fcn", "FCN-8s"),
        Network("fcn16s", "FCN-16s", ("model=fcn", "model.stride=16")),
        Network("fcn32s", "FCN-32s", ("model=fcn", "model.stride=32")),
    ),
    "global context": (
        history_row("parsenet", "ParseNet, global feature added late"),
        Network("parsenet_early", "global feature concatenated early", ("model=parsenet", "model.fusion=early")),
        Network("parsenet_local", "none: LargeFOV without its pool", (*LARGEFOV, "model.average_pool=false")),
    ),
    "dilation": (
        history_row("deeplab_largefov", "LargeFOV, dilation 12"),
        *(Network(f"largefov_d{rate}", f"dilation {rate}", (*LARGEFOV, f"model.dilation={rate}")) for rate in (4, 8, 24)),
    ),
    "output stride": (
        history_row("deeplab_largefov", "LargeFOV, stride 8, dilation 12"),
        Network("largefov_os16", "stride 16, dilation 6", (*LARGEFOV, "model.output_stride=16", "model.dilation=6")),
        Network("largefov_os32", "stride 32, dilation 3", (*LARGEFOV, "model.output_stride=32", "model.dilation=3")),
    ),
    "pyramid pooling": (
        history_row("pspnet", "PSPNet, average over grids 1, 2, 3, 6"),
        Network("pspnet_max", "maximum over grids 1, 2, 3, 6", (*PSPNET, "model.pool=max")),
        Network("pspnet_global", "average over grid 1", (*PSPNET, "model.bins=[1]")),
        Network("pspnet_none", "no pyramid", (*PSPNET, "model.bins=[]")),
    ),
    "cascade": (
        history_row("icnet", "ICNet, three resolutions"),
        Network("icnet_two", "without full resolution", (*ICNET, "model.branches=24")),
        Network("icnet_one", "lowest resolution only", (*ICNET, "model.branches=4")),
    ),
    "label guidance": (
        history_row("icnet", "ICNet, guidance 0.16 and 0.4"),
        Network("icnet_unguided", "no guidance", (*ICNET, "model.guidance=[0,0]")),
    ),
}
CRF = (history_row("deeplab_largefov", "LargeFOV"), history_row("deeplab_largefov_vgg", "LargeFOV on VGG16"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the output directory and the number of seeds."""
    parser.add_argument("out", type=Path, help="directory for the runs and their scores; may be that of accuracy/history --tenth")
    parser.add_argument("--seeds", type=int, default=2, help="of each network that is not in the history study (default: 2)")
    parser.add_argument("--train-only", action="store_true", help="score nothing, and write no result")


def score_with_crf(run: Path, out: Path) -> Path:
    """Evaluate a run with the CRF, and return the evaluation directory."""
    folder = out / "post_crf" / f"crf-{run.name}"  # names of compared folders have to differ
    run_unless_finished(folder / "summary.json", "eval", f"ckpt={run}", "post=crf", INPUT_OVERRIDE)
    return folder


def compare_with_first(
    titles: list[str], evaluations: list[list[Path]], others: list[Path], words: list[str], out: Path
) -> list[dict[str, Any]]:
    """Compare the seeds of each title with those of the first.

    The spread between seeds is estimated from these and from other networks. p-values are corrected for the pairs of the titles alone.
    """
    runs = [folder.name for folder in evaluations[0]]
    base = runs[0].rpartition("-")[0] if len(runs) > 1 else runs[0]
    own = [folder for seeds in evaluations for folder in seeds]
    compared = compare([*own, *(folder for folder in others if folder not in own)], [f"baseline={base}", *words], out)
    pairs = [None, *corrected(compared["pairs"][: len(titles) - 1])]
    return [
        {"network": title, "miou": model["miou"], "miou_interval": model["interval"], "seeds": model["seeds"], "pair": pair}
        for title, model, pair in zip(titles, compared["models"], pairs, strict=False)  # others come last
    ]


def corrected(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Correct p-values and verdicts for the number of these pairs."""
    p_values = holm(np.array([pair["single_p_value"] for pair in pairs]))
    return [
        {"difference": pair["difference"], "interval": pair["interval"], "p_value": float(p_value)}
        | {"verdict": "resolved" if p_value < 1 - LEVEL else NOT_RESOLVED}
        for pair, p_value in zip(pairs, p_values, strict=True)
    ]


def main(args: argparse.Namespace) -> None:
    """Train, score and compare the networks of every group."""
    out, groups = args.out.absolute(), {}
    networks = (*itertools.chain(*GROUPS.values()), *CRF)
    runs = {
        network.run: train(network.run, network.overrides, "history_tenth", range(network.seeds or args.seeds), out)
        for network in networks
    }
    if args.train_only:
        return
    scores = {name: [evaluate(run, "whole", [INPUT_OVERRIDE], out) for run in own] for name, own in runs.items()}
    others = list({folder: None for networks in GROUPS.values() for folder in scores[networks[0].run]})
    for group, networks in GROUPS.items():
        titles, folder = [network.title for network in networks], out / "ablations" / group.replace(" ", "_")
        groups[group] = compare_with_first(titles, [scores[network.run] for network in networks], others, [], folder)
    for network in CRF:
        refined = [score_with_crf(run, out) for run in runs[network.run]]
        titles, folder = [network.title, "with the CRF"], out / "ablations" / f"crf_{network.run}"
        groups[f"CRF: {network.title}"] = compare_with_first(titles, [scores[network.run], refined], others, ["force=true"], folder)
    content = {"groups": groups, "input_hw": INPUT}
    print(write_result("ablations", without_path(args.command, args.out), content))
