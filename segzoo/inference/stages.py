"""Stages of a prediction: reading, the network and writing."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from segzoo.data.channels.sample_bits import leaves_bits_unused
from segzoo.device import Precision
from segzoo.inference.large.reader import LargeImage
from segzoo.inference.outputs.confidence import Confidence, ConfidenceMap
from segzoo.inference.outputs.image_report import ImageReport
from segzoo.inference.outputs.result_files import ResultFiles
from segzoo.inference.pipeline import MAX_THREADS, Stage, helper_threads
from segzoo.inference.prediction.inputs import batch_limit
from segzoo.inference.protocol import InferenceProtocol
from segzoo.inference.segment import labels_itself, segment_batch
from segzoo.inference.sources._base import Item, Source, SourceEnded
from segzoo.layers.normalize import normalize
from segzoo.types import DataError, DatasetInfo

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
PARALLEL_PIXELS = 2**22  # of the images that a CPU labels at the same time, two of 1024 x 2048
IMAGES_PER_THREAD = 4  # fewer are labeled one after the other


@dataclass
class Task:
    """An image on its way through the stages.

    Attributes:
        item: the image to read.
        image: its pixels (H, W, C). None before it was read, after its results are written, and if it cannot be read.
        large: the opened image, if it is too large to hold.
        label, confidence: class ids (H, W), and their confidence map (H, W) uint8.
        report: what it shows.
        frame: its overlay (H, W, 3) uint8, if that is for a video.
        error: why it could not be labeled, or why there is no further image.
        is_dark: its file stores 16 bits and hardly uses them, see ``leaves_bits_unused``.
        is_end: there is no further image.
        seconds: time spent on it, without waiting.
    """

    item: Item
    image: np.ndarray | None = None
    large: LargeImage | None = None
    label: np.ndarray | None = None
    confidence: np.ndarray | None = None
    report: ImageReport | None = None
    frame: np.ndarray | None = None
    error: str | None = None
    is_dark: bool = False
    is_end: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Network:
    """A network and how it labels images."""

    model: nn.Module
    info: DatasetInfo
    protocol: InferenceProtocol
    precision: Precision
    batch: int | None  # images of one size per forward pass
    confidence: Confidence

    @torch.no_grad()
    def label(self, tasks: list[Task]) -> list[Task]:
        """Label images of one size.

        Shapes:
            images (H, W, C) -> class ids (H, W) each
        """
        pixels = [task.image for task in tasks if task.image is not None]
        if not pixels:
            return tasks
        start, images = time.perf_counter(), torch.from_numpy(pixels[0][None] if len(pixels) == 1 else np.stack(pixels))
        maps = [ConfidenceMap(self.confidence) for _ in tasks] if self.confidence != "none" else None
        try:
            x = self._input(images)
            labels = segment_batch(self.model, x, images, self.protocol, self.precision, maps).cpu().numpy()
        except (ValueError, OSError) as error:  # such as too small for the model
            for task in tasks:
                task.error = image_error(task.item, error)
            return tasks
        for index, task in enumerate(tasks):
            task.label, task.confidence = labels[index], maps[index].pixels() if maps else None
            task.seconds += (time.perf_counter() - start) / len(tasks)
        return tasks

    def _input(self, images: torch.Tensor) -> torch.Tensor:
        """Normalize images, unless the network does.

        Shapes:
            (N, H, W, C) -> (N, C, H, W)
        """
        if labels_itself(self.model, self.protocol):
            return images.permute(0, 3, 1, 2)
        return normalize(images, self.info, self.precision.device)

    def parallel_batches(self, source: Source) -> int:
        """Number of batches that are labeled at the same time.

        Layers on small feature maps do not keep several cores busy. So on a CPU each batch has its share of the cores, if the network can
        follow that, runs once per image, and there are enough images.
        """
        once = self.protocol.single or labels_itself(self.model, self.protocol)
        if self.precision.device.type != "cpu" or source.is_live or not once or not getattr(self.model, "divides_cores", False):
            return 1
        threads = min(torch.get_num_threads(), MAX_THREADS)
        return threads if source.total is None or source.total >= IMAGES_PER_THREAD * threads else 1

    def batch_size(self, image: np.ndarray) -> int:
        """Number of images per forward pass."""
        if self.batch is not None:
            return self.batch
        if self.precision.device.type == "cpu":
            return 1
        return batch_limit(*image.shape[:2])


def make_stages(is_sequence: bool, networks: int = 1) -> tuple[Stage, Stage, Stage]:
    """Create the stages of reading, the network and writing.

    Args:
        is_sequence: images can only be read one after the other.
        networks: number of batches that are labeled at the same time.
    """
    threads = helper_threads()
    return Stage("reading", 1 if is_sequence else threads), Stage("network", networks), Stage("writing", threads)


def run_stages(
    items: Iterable[Item],
    stages: tuple[Stage, Stage, Stage],
    network: Network,
    files: ResultFiles,
    label_large: Callable[[Task], Task],
) -> Generator[Task]:
    """Read, label and write all images, and yield them in order.

    Args:
        items: the images.
        stages: those of ``make_stages``.
        network: labels images.
        files: what is written.
        label_large: labels an image that is too large to hold, and writes its results meanwhile.
    """
    reading, labeling, writing = stages
    cores = torch.get_num_threads()

    def needs_all(tasks: list[Task]) -> bool:
        pixels = sum(task.image.shape[0] * task.image.shape[1] for task in tasks if task.image is not None)
        return labeling.threads > 1 and (tasks[0].large is not None or pixels * labeling.threads > PARALLEL_PIXELS)

    def label(tasks: list[Task]) -> list[Task]:
        count = cores if needs_all(tasks) else cores // labeling.threads
        if torch.get_num_threads() != count:
            torch.set_num_threads(count)
        return network.label(tasks) if tasks[0].large is None else [label_large(tasks[0])]

    batches = _same_size(reading.map(_read, items), network)
    labeled = (task for tasks in labeling.map(label, batches, needs_all) for task in tasks)
    try:
        yield from writing.map(partial(_write, files), labeled)
    finally:
        if labeling.threads > 1:
            torch.set_num_threads(cores)  # else threads that start later would have the share of one batch


def _read(item: Item) -> Task:
    """Read an image, and keep an error in the task."""
    start = time.perf_counter()
    try:
        image = item.read()
    except SourceEnded as error:
        return Task(item, error=str(error), is_end=True)
    except (ValueError, OSError) as error:
        return Task(item, error=image_error(item, error))
    if isinstance(image, LargeImage):
        return Task(item, large=image, seconds=time.perf_counter() - start)
    dark = image is not None and item.path is not None and leaves_bits_unused(image, item.path)
    return Task(item, image, is_dark=dark, is_end=image is None, seconds=time.perf_counter() - start)


def _same_size(tasks: Iterable[Task], network: Network) -> Iterator[list[Task]]:
    """Group successive images of one size, up to the last one."""
    group: list[Task] = []
    for task in tasks:
        if task.is_end and task.error is None:
            break
        shape = None if task.image is None else task.image.shape
        if group and shape != group[0].image.shape:  # type: ignore[union-attr]
            yield group
            group = []
        group.append(task)
        if task.image is None or len(group) >= network.batch_size(task.image):
            yield group
            group = []
        if task.is_end:
            break
    if group:
        yield group


def _write(files: ResultFiles, task: Task) -> Task:
    """Write the results of an image and drop its pixels."""
    start = time.perf_counter()
    if task.image is not None and task.label is not None:
        try:
            task.report = files.report(task.label)
            task.frame = files.write(task.item, task.image, task.label, task.confidence)
        except (ValueError, OSError) as error:  # such as too long a name
            task.error = image_error(task.item, error)
    task.image = task.label = task.confidence = None
    task.seconds += time.perf_counter() - start
    return task


def image_error(item: Item, error: ValueError | OSError) -> str:
    """Describe why an image could not be labeled.

    It is unreadable, too small for the model, or its name too long for its results.

    Raises:
        OSError: the disk is full or read-only, so all other images would fail as well.
    """
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        raise error
    return str(error) if isinstance(error, DataError) else f"{item.origin}: {error}"
