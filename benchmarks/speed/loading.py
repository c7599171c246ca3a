"""Speed of loading training images compared with peer libraries.

Images of 1024x2048 with 19 classes, from the files to augmented crops of 713x713: random scale from 0.5 to 2, crop, flip and color jitter,
on one core without worker processes. Calls are interleaved, and every side gets the same files in the same order.

- mmsegmentation: LoadImageFromFile, LoadAnnotations, RandomResize, RandomCrop, RandomFlip and PhotoMetricDistortion, as in its configs.
- torchvision: decoding by Pillow, then v2's RandomResize, RandomCrop, RandomHorizontalFlip and ColorJitter on tensors of uint8.
- ``decoding`` is the time to decode both files with OpenCV, the limit of every pipeline without a cache.

Needs the extra ``peers``. The images are CamVid's, enlarged, so SEGZOO_DATA is needed too.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.harness.interleaved_timing import compare_to_peer, time_interleaved
from benchmarks.harness.mmseg_import import import_mmseg
from benchmarks.harness.result_files import write_result
from segzoo.config.build import build_data
from segzoo.data.balance.sampling import derive_seed
from segzoo.data.image_io import read_image
from segzoo.transforms.augment import standard

HW, CROP, NUM_CLASSES, IMAGES = (1024, 2048), (713, 713), 19, 12
SECONDS, MIN_ROUNDS = 40, 8
JITTER = 0.3
CLASSES = tuple(f"class {index}" for index in range(NUM_CLASSES))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: both formats are measured."""


def write_images(folder: Path, suffix: str) -> list[tuple[str, str]]:
    """Write enlarged CamVid images with masks, and return their paths."""
    camvid = Path(os.environ.get("SEGZOO_DATA", "data")) / "camvid"
    pairs = []
    for number, path in enumerate(sorted((camvid / "train").iterdir())[:: 367 // IMAGES][:IMAGES]):
        image = cv2.resize(read_image(path)[..., ::-1], HW[::-1], interpolation=cv2.INTER_CUBIC)
        mask = np.array(Image.open(camvid / "trainannot" / f"{path.stem}.png"))
        mask = cv2.resize(mask, HW[::-1], interpolation=cv2.INTER_NEAREST)
        files = folder / "images/train" / f"{number}{suffix}", folder / "labels/train" / f"{number}.png"
        for file, pixels in zip(files, (image, mask), strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), pixels)
        pairs.append((str(files[0]), str(files[1])))
    return pairs


def segzoo_pipeline(folder: Path, cache: str) -> Callable[[int], Any]:
    """Return segzoo's reading and augmentation of one image."""
    dataset = build_data({"name": "folder", "root": str(folder), "classes": list(CLASSES), "cache": cache}, "train")
    augment = standard(dataset.info, crop=CROP, color_jitter=JITTER)
    draws = iter(range(10**9))
    return lambda index: augment(dataset[index], derive_seed(0, next(draws), index))


def mmseg_pipeline(pairs: list[tuple[str, str]]) -> Callable[[int], Any]:
    """Return mmsegmentation's reading and augmentation of one image."""
    import_mmseg()
    from mmcv.transforms import Compose, RandomFlip, RandomResize  # pyright: ignore[reportMissingImports]
    from mmengine.registry import init_default_scope  # pyright: ignore[reportMissingImports]
    from mmseg.datasets.transforms import (  # pyright: ignore[reportMissingImports]
        LoadAnnotations,
        PhotoMetricDistortion,
        RandomCrop,
    )
    from mmcv.transforms import LoadImageFromFile  # pyright: ignore[reportMissingImports]  # isort: skip

    init_default_scope("mmseg")
    transform = Compose(
        [
            LoadImageFromFile(),
            LoadAnnotations(),
            RandomResize(scale=HW[::-1], ratio_range=(0.5, 2.0), keep_ratio=True),
            RandomCrop(crop_size=CROP, cat_max_ratio=1.0),
            RandomFlip(prob=0.5),
            PhotoMetricDistortion(),
        ]
    )
    return lambda index: transform(
        {"img_path": pairs[index][0], "seg_map_path": pairs[index][1], "seg_fields": [], "reduce_zero_label": False}
    )


def torchvision_pipeline(pairs: list[tuple[str, str]]) -> Callable[[int], Any]:
    """Return a pipeline of torchvision's transforms v2."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomResize(HW[0] // 2, 2 * HW[0], antialias=True),
            v2.RandomCrop(CROP, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: 255}),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(JITTER, JITTER, JITTER, JITTER / 5),
        ]
    )

    def load(index: int) -> Any:
        image, mask = (np.array(Image.open(path)) for path in pairs[index])
        return transform(tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)), tv_tensors.Mask(torch.from_numpy(mask)))

    return load


def decode(pair: tuple[str, str]) -> None:
    """Decode an image and its mask with OpenCV."""
    cv2.imread(pair[0])
    cv2.imread(pair[1], cv2.IMREAD_GRAYSCALE)


def repeat(load: Callable[[int], Any]) -> Callable[[], Any]:
    """Return a call that loads the next image, over and over."""
    order = cycle(range(IMAGES))
    return lambda: load(next(order))


def measure(suffix: str) -> list[dict[str, Any]]:
    """Time all pipelines on files of one format."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        pairs = write_images(Path(name), suffix)
        segzoo = {f"segzoo, cache={cache}": segzoo_pipeline(Path(name), cache) for cache in ("none", "disk")}
        for index in range(IMAGES):
            segzoo["segzoo, cache=disk"](index)  # writes the cache
        peers = {"mmsegmentation": mmseg_pipeline(pairs), "torchvision v2": torchvision_pipeline(pairs)}
        calls = {label: repeat(load) for label, load in (segzoo | peers).items()}
        calls["decoding"] = repeat(lambda index: decode(pairs[index]))
        taken = time_interleaved(calls, seconds=SECONDS, min_rounds=MIN_ROUNDS, max_rounds=6 * IMAGES)
        for pipeline in segzoo:
            for peer in (*peers, "decoding"):
                case = {"format": suffix[1:], "pipeline": pipeline, "peer": peer, "hw": list(HW), "crop": list(CROP)}
                rows.append(case | compare_to_peer(taken[pipeline], taken[peer]))
                print(rows[-1], flush=True)
    return rows


def main(args: argparse.Namespace) -> None:
    """Time both formats on one core."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    rows = [row for suffix in (".png", ".jpg") for row in measure(suffix)]
    print(write_result("loading_1024x2048", args.command, rows, packages=("mmsegmentation", "mmcv-lite", "albumentations")))
