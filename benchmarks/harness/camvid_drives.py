"""Drives of CamVid, as data sets and as blocks of dependent frames.

CamVid's validation images lie inside a training drive. A whole drive that is held out shows how a network does on another one. Successive
frames look alike, so intervals that draw single frames are too narrow.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segzoo.evaluation.bootstrap import counts_by_group
from segzoo.workflows.compare.evaluations import read_evaluation

FRAME_BLOCKS = r"^(.+)\d$"  # up to five successive validation images: 0016E5_0796 of 0016E5_07961 to 0016E5_07969
TRAIN_DRIVES = ("0001TP", "0006R0", "0016E5")  # of the training split; 0001TP was filmed at dusk


def camvid_folder() -> Path:
    """The complete data set."""
    return (Path(os.environ["SEGZOO_DATA"]) / "camvid").absolute()


def counts_by_block(folder: Path) -> np.ndarray:
    """Sum the counts of an evaluation directory over blocks of frames.

    Shapes:
        (blocks, 3, K), as ``sum_groups`` returns them.
    """
    evaluation = read_evaluation(folder, folder.name)
    assert evaluation.image_names is not None
    return counts_by_group(evaluation.counts, evaluation.image_names, FRAME_BLOCKS)


def drive_images(camvid: Path, *drives: str) -> list[str]:
    """Names of the training images of drives, in order."""
    return sorted(path.stem for path in (camvid / "train").iterdir() if path.name.startswith(drives))


def link_drives(root: Path, camvid: Path, train: Sequence[str], scored: str | None) -> list[str]:
    """Link a data set of some training images and return its overrides.

    Args:
        root: receives links and lists.
        camvid: the complete data set.
        train: names of the training images.
        scored: drive whose training images are the validation images; None: those of the validation split.
    """
    root.mkdir(parents=True, exist_ok=True)
    source = "val" if scored is None else "train"
    val = drive_images(camvid, scored) if scored else sorted(path.stem for path in (camvid / "val").iterdir())
    for split, folder, names in (("train", "train", train), ("val", source, val)):
        for end in ("", "annot"):
            if not (root / f"{split}{end}").is_symlink():
                (root / f"{split}{end}").symlink_to(camvid / f"{folder}{end}")
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")
    return [f"data.root={root}", f"data.title=camvid_{root.name}", "data.lists='{split}.txt'"]
