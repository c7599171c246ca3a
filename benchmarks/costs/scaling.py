"""Cost against pixels, batch, classes and files, with fitted exponents.

ICNet half in fp32 with random weights. An exponent of 1 means that the cost is proportional, 0 that it is constant. The sizes of a row
are interleaved; each round gives a fit of log(time) over log(size), and the rounds give its interval.

- prediction: ``model.predict``, from the bytes of an image to its labels.
- training step: forward, loss, backward and SGD.
- loss at label size: cross-entropy of logits at 1/8, with gradients.
- listing files: a new data set of ``data=folder`` finds its pairs of files. Shuffling is the order of an epoch. A first batch is what a
  resumed run waits for before its first step: the order of its epoch and two images.

About 7 minutes on one core with AVX2. The result file is written only if no option narrows the selection.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.harness.interleaved_timing import mean_interval, time_interleaved
from benchmarks.harness.models import NETWORKS
from benchmarks.harness.result_files import write_result
from benchmarks.harness.training_steps import build_step, random_batch
from segzoo.data.balance.sampling import Shuffle
from segzoo.data.loader import train_batches
from segzoo.registry import DATA, LOSSES
from segzoo.types import Logits
from segzoo.workflows.benchmark.workload import benchmark_images, build_workload

PIXELS = ((256, 512), (512, 1024), (1024, 2048), (2048, 4096))
BATCHES, CLASSES, FILES = (1, 2, 4, 8, 16), (2, 19, 50, 150), (100, 1_000, 10_000, 100_000, 1_000_000)
IMAGES_SEEN = (1, 1_000, 1_000_000, 1_000_000_000)  # before the run was resumed
BATCH_SIZE, CLASS_SIZE = (256, 512), (512, 1024)  # heights and widths
LARGEST = max(IMAGES_SEEN)
LINKS = 50_000  # to one file, below the limit of ext4
Calls = Mapping[int, Callable[[], object]]  # size -> what is timed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that narrow the selection."""
    parser.add_argument("--against", nargs="+", choices=SERIES, default=list(SERIES), help="default: all")
    parser.add_argument("--largest", type=int, default=LARGEST, help="leave out larger sizes")
    parser.add_argument("--seconds", type=float, default=8.0, help="for the largest size of each row; default: 8")


def by_pixels(largest: int) -> Iterator[tuple[str, Calls]]:
    """Prediction and training step by pixels of an image."""
    workload = build_workload(NETWORKS["icnet_half"], num_classes=19)
    workload.model.fuse_for_inference_()
    sizes = {math.prod(hw): hw for hw in PIXELS if math.prod(hw) <= largest}
    images = {size: benchmark_images(workload.images, 1, hw=hw)[0] for size, hw in sizes.items()}
    yield "prediction", {size: lambda image=image: workload.model.predict(image) for size, image in images.items()}
    yield "training step", _training_steps({size: random_batch(hw, 1) for size, hw in sizes.items()})


def by_batch(largest: int) -> Iterator[tuple[str, Calls]]:
    """Prediction and training step by images of 256x512."""
    workload = build_workload(NETWORKS["icnet_half"], num_classes=19)
    workload.model.fuse_for_inference_()
    images = benchmark_images(workload.images, max(BATCHES), hw=BATCH_SIZE)
    yield "prediction", {n: lambda n=n: workload.model.predict(images[:n], batch_size=n) for n in BATCHES}
    yield "training step", _training_steps({n: random_batch(BATCH_SIZE, n) for n in BATCHES})


def by_classes(largest: int) -> Iterator[tuple[str, Calls]]:
    """Prediction and loss by classes, at 512x1024."""
    models = {n: build_workload(NETWORKS["icnet_half"], num_classes=n) for n in CLASSES if n <= largest}
    image = benchmark_images(models[CLASSES[0]].images, 1, hw=CLASS_SIZE)[0]
    for workload in models.values():
        workload.model.fuse_for_inference_()
    yield "prediction", {n: lambda model=workload.model: model.predict(image) for n, workload in models.items()}
    loss = LOSSES.build("cross_entropy", (), True)
    heads = {n: torch.randn(1, n, CLASS_SIZE[0] // 8 + 1, CLASS_SIZE[1] // 8 + 1, requires_grad=True) for n in CLASSES}
    labels = {n: torch.randint(0, n, (1, *CLASS_SIZE)) for n in CLASSES}
    yield "loss at label size", {n: lambda n=n: loss(Logits(heads[n]), labels[n]).backward() for n in CLASSES}


def by_files(largest: int) -> Iterator[tuple[str, Calls]]:
    """Listing, shuffling and the first batch by files of a data set."""
    counts = [n for n in FILES if n <= largest]
    with tempfile.TemporaryDirectory() as folder:
        roots = {n: _write_pairs(Path(folder) / str(n), n) for n in counts}
        yield "listing files", {n: lambda root=root: _data(root).scan() for n, root in roots.items()}
        yield "shuffling", {n: lambda n=n: Shuffle(n).epoch(0, 1)(0) for n in counts}
        listed = {n: _data(root) for n, root in roots.items()}
        for dataset in listed.values():
            dataset.scan()
        yield "first batch", {n: lambda n=n: _first_batch(listed[n], 3 * n + n // 2) for n in counts}


def by_images_seen(largest: int) -> Iterator[tuple[str, Calls]]:
    """The first batch of a resumed run by images seen before."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = _data(_write_pairs(Path(folder), 1_000))
        dataset.scan()
        yield "first batch", {seen: lambda seen=seen: _first_batch(dataset, seen) for seen in IMAGES_SEEN}


SERIES = {"pixels": by_pixels, "batch": by_batch, "classes": by_classes, "files": by_files, "images_seen": by_images_seen}


def measure(against: str, what: str, calls: Calls, seconds: float) -> dict[str, Any]:
    """Time all sizes interleaved and fit the exponent."""
    taken = time_interleaved(calls, seconds=seconds, min_rounds=3, max_rounds=10)
    medians = [1000 * statistics.median(times) for times in taken.values()]
    rounds = len(next(iter(taken.values())))
    return {"against": against, "what": what, "sizes": list(calls), "ms": medians, "rounds": rounds} | fit_exponent(taken)


def fit_exponent(taken: Mapping[int, list[float]]) -> dict[str, float]:
    """Fit times to a power of the size in each round.

    Args:
        taken: size -> seconds of at least three rounds.

    Returns:
        ``exponent``, the mean over the rounds, with ``low`` and ``high`` of its 95 % interval.
    """
    logs = np.log(list(taken))
    slopes = [float(np.polyfit(logs, np.log(times), 1)[0]) for times in zip(*taken.values(), strict=True)]
    return dict(zip(("exponent", "low", "high"), mean_interval(slopes), strict=True))


def main(args: argparse.Namespace) -> None:
    """Measure the selected rows."""
    rows = []
    for against in args.against:
        for what, calls in SERIES[against](args.largest):
            kept = {size: call for size, call in calls.items() if size <= args.largest}
            rows.append(measure(against, what, kept, args.seconds))
            print(rows[-1], flush=True)
    if args.against == list(SERIES) and args.largest == LARGEST:
        print(write_result("scaling", args.command, rows))


def _training_steps(batches: Mapping[int, tuple[torch.Tensor, torch.Tensor]]) -> Calls:
    _, step = build_step("icnet_half", "segzoo")
    return {size: lambda batch=batch: step(*batch) for size, batch in batches.items()}


def _write_pairs(root: Path, count: int) -> Path:
    """Write a data set of links to a few small files."""
    for folder in ("images", "labels"):
        (root / folder / "train").mkdir(parents=True)
    for number in range(count):
        for folder, mode in (("images", "RGB"), ("labels", "L")):
            path = root / folder / "train" / f"{number:07}.png"
            if number % LINKS == 0:
                Image.new(mode, (64, 64)).save(path)
            else:
                os.link(root / folder / "train" / f"{number - number % LINKS:07}.png", path)
    return root


def _data(root: Path) -> Any:
    return DATA.build("folder", "train", root=str(root), classes=("one", "other"))


def _first_batch(dataset: Any, images_seen: int) -> None:
    with closing(train_batches(dataset, None, batch_size=2, workers=0, seed=0, images_seen=images_seen)) as batches:
        next(batches)
