"""Prediction of label maps and overlays for unlabeled images."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import nn

from segzoo.data.dataset_info import hidden_ids
from segzoo.data.image_io import printable, read_image
from segzoo.device import DeviceName, Precision, PrecisionName, pick_device
from segzoo.inference.image_source import find_images
from segzoo.inference.protocol import SINGLE_PASS, InferenceProtocol, check_label_size
from segzoo.inference.segment import segment_image
from segzoo.inference.submission import LabelFormat, Submission, make_submission
from segzoo.io import write_atomically
from segzoo.layers.modes import channels_last, eval_mode
from segzoo.layers.normalize import normalize
from segzoo.progress import with_progress
from segzoo.registry import Range
from segzoo.types import DataError, DatasetInfo, PlainDict
from segzoo.visualization.drawing import overlay, with_legend
from segzoo.visualization.label_png import write_label_png

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@torch.no_grad()
def predict_images(
    model: nn.Module,
    info: DatasetInfo,
    output_dir: Path,
    protocol: InferenceProtocol = SINGLE_PASS,
    resumed: bool = False,
    *,
    source: str,
    device: DeviceName = "auto",
    precision: PrecisionName = "fp32",
    format: LabelFormat = "index",
    overlays: Literal["png", "jpg", "none"] = "png",
    alpha: Annotated[float, Range(0, 1)] = 0.5,
    hide: tuple[str, ...] | None = None,
) -> PlainDict:
    """Write a label map and an overlay for every image found.

    The files are ``labels/<name>.png`` (see ``write_labels``) and ``overlays/<name>.<png|jpg>``, written atomically. An image that cannot
    be read, is too small or has too long a name does not stop the run: the error is raised after all other images are done.

    Args:
        model, info, protocol: as in ``evaluate``.
        output_dir, resumed: directory of the results, and whether it holds some of this prediction, whose images are skipped.
        source: an image, a folder or a quoted glob pattern.
        device, precision: as in ``evaluate``.
        format: form of the label maps, see ``make_submission``. With another than ``index``, an archive for the server is written.
        overlays: file format of the overlays. ``none`` skips them.
        alpha, hide: opacity of the class colors in overlays, 0 to 1, and classes that stay clear. None hides the background class.

    Returns:
        Numbers of ``images`` and of those ``done_before``, ``folder`` of the results, ``seconds``, sentences on ``skipped`` files.

    Raises:
        ConfigError: if the source contains no image, a hidden class does not exist, or the protocol labels images at another size.
        DataError: if images could not be labeled. The message lists all of them.
        OSError: if the disk is full or read-only.
    """
    check_label_size(protocol)
    layer_precision = Precision(precision, pick_device(device))
    submission = make_submission(info, format)
    images, skipped = find_images(source, output_dir, resumed)
    tasks = [(path, _result_files(output_dir, name, overlays)) for path, name in images]
    missing = [(path, files) for path, files in tasks if not (resumed and _is_complete(files))]
    label = partial(_label_image, model, info=info, protocol=protocol, precision=layer_precision)
    write = partial(_write_results, info=info, alpha=alpha, hidden=hidden_ids(info, hide), submission=submission)
    start = time.perf_counter()
    with eval_mode(model.to(layer_precision.device)), channels_last(model):
        errors = _predict_all(missing, label, write)
    if errors:
        raise DataError("\n".join([_failed_summary(len(errors), len(images)), *errors, *skipped]))
    done_before, seconds = len(images) - len(missing), round(time.perf_counter() - start, 2)
    result = {"images": len(images), "done_before": done_before, "folder": str(output_dir), "seconds": seconds, "skipped": skipped}
    return result if submission is None else result | submission.pack(output_dir, [files[0] for _, files in tasks], skipped)


def _predict_all(tasks: list[tuple[Path, list[Path]]], label: Callable, write: Callable) -> list[str]:
    """Label all images and write the results.

    Args:
        tasks: each image and the files of its results.
        label, write: ``_label_image`` and ``_write_results`` with their settings.

    Returns:
        The errors of the images that failed.
    """
    errors = []
    for path, files in with_progress(tasks, len(tasks), "images", "predicting"):
        try:
            write(files, *label(path))
        except (ValueError, OSError) as error:
            errors.append(_image_error(path, error))
    return errors


def _result_files(output_dir: Path, name: str, overlays: str) -> list[Path]:
    """List the paths of an image's label map and overlay."""
    label = output_dir / "labels" / f"{name}.png"
    return [label] if overlays == "none" else [label, output_dir / "overlays" / f"{name}.{overlays}"]


def _is_complete(files: list[Path]) -> bool:
    try:
        return all(file.stat().st_size for file in files)
    except OSError:  # missing
        return False


def _write_results(
    files: list[Path],
    image: np.ndarray,
    label: np.ndarray,
    info: DatasetInfo,
    alpha: float,
    hidden: Sequence[int],
    submission: Submission | None,
) -> None:
    """Write the files of ``_result_files``, the label map last."""
    for overlay_path in files[1:]:
        write_overlay(overlay_path, image, label, info, alpha, hidden)
    if submission is None:
        write_labels(files[0], label, info)
    else:
        submission.write_label(files[0], label)


def _image_error(path: Path, error: ValueError | OSError) -> str:
    """Describe why one image could not be labeled.

    It is unreadable, too small for the model, or its name too long for its results.

    Raises:
        OSError: the disk is full or read-only, so all other images would fail as well.
    """
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        raise error
    return str(error) if isinstance(error, DataError) else f"{printable(path)}: {error}"


def _failed_summary(num_failed: int, num_images: int) -> str:
    return f"{num_failed} of {num_images} images could not be labeled ({num_images - num_failed} are done):"


def _label_image(
    model: nn.Module, path: Path, info: DatasetInfo, protocol: InferenceProtocol, precision: Precision
) -> tuple[np.ndarray, np.ndarray]:
    """Read one image and label it.

    Shapes:
        -> image (H, W, 3) uint8, class ids (H, W)
    """
    image = read_image(path)
    batch = torch.from_numpy(image)[None]
    x = normalize(batch, info, precision.device)
    return image, segment_image(model, x, batch, protocol, precision)[0].cpu().numpy()


def write_labels(path: Path, label: np.ndarray, info: DatasetInfo) -> None:
    """Write (H, W) class ids in the colors of the data set."""
    write_label_png(path, label, info.palette)


def write_overlay(path: Path, image: np.ndarray, label: np.ndarray, info: DatasetInfo, alpha: float, hidden: Sequence[int]) -> None:
    """Write the image with its regions tinted and outlined, above a legend.

    The suffix of ``path`` chooses PNG or JPEG. The legend lists the visible classes of the label map.
    """
    from PIL import Image

    tinted = overlay(image, label, info.palette, hidden, alpha)
    drawn = Image.fromarray(with_legend(tinted, [label], info.classes, info.palette, hidden))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        write_atomically(path, lambda file: drawn.save(file, "JPEG", quality=92), durable=False)
    else:
        write_atomically(path, lambda file: drawn.save(file, "PNG"), durable=False)
