"""Prediction of unlabeled images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated

from torch import nn

from segzoo.data.channels.sample_bits import UNUSED_BITS
from segzoo.device import DeviceName, Precision, PrecisionName, pick_device, place_on
from segzoo.distributed import SINGLE_PROCESS, Distributed
from segzoo.inference.large.stage import LargeImages
from segzoo.inference.outputs.image_table import ImageTable
from segzoo.inference.outputs.polygon_files import write_coco
from segzoo.inference.outputs.result_files import ResultFiles
from segzoo.inference.outputs.video_file import VideoFile
from segzoo.inference.pipeline import Stage, shares, slowest
from segzoo.inference.protocol import SINGLE_PASS, InferenceProtocol, check_label_size
from segzoo.inference.sources._base import Item, Source
from segzoo.inference.stages import Network, Task, make_stages, run_stages
from segzoo.layers.modes import channels_last, eval_mode
from segzoo.progress import with_progress
from segzoo.registry import Range
from segzoo.runs.signals import StopSignal
from segzoo.types import DataError, DatasetInfo, PlainDict

STOP_WORDS = "finishing the images in progress", "the images in progress are labeled again when the prediction is resumed"
MAX_SENTENCES = 8  # images of a prediction that are described one by one


def predict_images(
    model: nn.Module,
    info: DatasetInfo,
    source: Source,
    files: ResultFiles,
    protocol: InferenceProtocol = SINGLE_PASS,
    resumed: bool = False,
    distributed: Distributed = SINGLE_PROCESS,
    *,
    batch: Annotated[int, Range(1, 64)] | None = None,
    tile: Annotated[int, Range(64, 16384)] | None = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "fp32",
) -> PlainDict:
    """Write the results of every image of a source, and ``images.csv``.

    Reading, the network and writing overlap. An image that cannot be read, is too small or has too long a name does not stop the others.

    Args:
        model, info, protocol, device, precision: as in ``evaluate``.
        source: the images. It is closed at the end.
        files: what is written for each of them.
        resumed: the output directory holds some of this prediction, whose images are skipped.
        distributed: the ranks. Each takes every n-th image of a source that all of them list alike.
        batch: images of one size per forward pass. None means 1 on a CPU, and as many as fit 4 megapixels on CUDA, at most 16.
        tile: size in pixels of the tiles of large images that are labeled as a whole. None chooses it by the available memory.

    Returns:
        See ``PredictionLog.result``. Rank 0 summarizes the images of all ranks, and the others return nothing.

    Raises:
        ConfigError: the protocol labels images at another size.
        DataError: images could not be labeled, or the source ended early. The message, on rank 0, lists all of them.
        OSError: the disk is full or read-only.
        KeyboardInterrupt, SystemExit: after a stop signal, unless the source is live. The same prediction can be resumed.
    """
    check_label_size(protocol)
    network = Network(model, info, protocol, Precision(precision, place_on(model, pick_device(device))), batch, files.confidence)
    stages = make_stages(source.is_sequence, network.parallel_batches(source))
    table = ImageTable(files.folder / "images.csv", files.columns, resumed, distributed)
    video = VideoFile(files.folder / "overlays", source.fps)
    log = PredictionLog(source, files, table, stages, distributed)
    try:
        with eval_mode(model), channels_last(model), StopSignal(*STOP_WORDS) as stop:
            large = LargeImages(model, protocol, network.precision, files, tile, lambda: stop.requested)
            with closing(run_stages(log.missing(resumed, stop), stages, network, files, large.label)) as tasks:
                for task in with_progress(tasks, log.share, "images", "predicting", lambda: f"limited by {slowest(stages).name}"):
                    if task.frame is not None:
                        video.add(task.item.name, task.frame)
                    log.add(task)
        if not source.is_live:
            stop.check("stopped. Run the same command again to label the remaining images.")
        table.finish(log.names)
    finally:
        video.close()
        table.close()
        source.close()
    idle = tile is not None and distributed.size == 1 and not large.found and not log.done_before
    log.merge(f"tile={tile} had no effect: no image is large." if idle else large.note)
    return log.result() if distributed.is_main else {}


@dataclass
class PredictionLog:
    """Results of a prediction so far."""

    source: Source
    files: ResultFiles
    table: ImageTable
    stages: tuple[Stage, Stage, Stage]
    distributed: Distributed = SINGLE_PROCESS
    start: float = field(default_factory=time.perf_counter)
    done_before: int = 0
    labeled: int = 0
    errors: dict[str, str] = field(default_factory=dict)  # of images by name
    ended: str | None = None  # why the source ended early
    sentences: dict[str, str] = field(default_factory=dict)
    dark: list[str] = field(default_factory=list)  # labeled images that leave bits unused
    note: str | None = None  # on large images

    @property
    def names(self) -> list[str]:
        """Names of all images in their order, if the source knows them."""
        return [item.name for item in self.source.items] if isinstance(self.source.items, list) else []

    @property
    def share(self) -> int | None:
        """Number of images of this rank, if it is known."""
        total = self.source.total
        return None if total is None else len(range(self.distributed.rank, total, self.distributed.size))

    def missing(self, resumed: bool, stop: StopSignal) -> Iterator[Item]:
        """Yield this rank's images without results until a stop signal arrives."""
        for item in islice(self.source.items, self.distributed.rank, None, self.distributed.size):
            if stop.requested:
                return
            if resumed and self.files.is_complete(item.name) and self.table.has(item.name, item.origin):
                self.done_before += 1
                continue
            self.table.drop(item.name)
            yield item

    def add(self, task: Task) -> None:
        """Record an image whose results are written, or its error."""
        if task.is_end:
            self.ended = task.error
            return
        start: list[object] = [task.item.name, task.item.origin]
        if task.error is not None or task.report is None:
            self.errors[task.item.name] = str(task.error)
            self.table.add([*start, "error", task.error, "", *[""] * len(self.files.columns)])
            return
        self.labeled += 1
        self.dark += [task.item.name] if task.is_dark else []
        verdict = "" if not self.files.rules else "fail" if task.report.failures else "pass"
        row = [*start, verdict, "; ".join(task.report.failures), round(1000 * task.seconds, 1), *task.report.cells()]
        self.table.add(row)
        if self.labeled <= MAX_SENTENCES:
            failed = f": fail ({row[3]})" if task.report.failures else f": {verdict}" if verdict else ""
            self.sentences[task.item.name] = f"{task.item.name}: {task.report.sentence()} in {row[4]:.0f} ms{failed}"

    def merge(self, note: str | None) -> None:
        """Add the counts, times and texts of all ranks.

        Args:
            note: this rank's sentence on large images, if it had some.
        """
        self.note = next(filter(None, self.distributed.gather(note)), None)
        if self.distributed.size == 1:
            return
        times = [(stage.seconds, stage.threads) for stage in self.stages]
        ranks = self.distributed.gather((self.done_before, self.labeled, times, self.errors, self.sentences, self.dark))
        self.done_before, self.labeled = sum(rank[0] for rank in ranks), sum(rank[1] for rank in ranks)
        for stage, per_rank in zip(self.stages, zip(*(rank[2] for rank in ranks), strict=True), strict=True):
            stage.seconds, stage.threads = (sum(values) for values in zip(*per_rank, strict=True))
        self.errors = self._in_order([rank[3] for rank in ranks])
        self.sentences = self._in_order([rank[4] for rank in ranks])
        self.dark = [name for rank in ranks for name in rank[5]]

    def _in_order(self, texts: list[dict[str, str]]) -> dict[str, str]:
        """Join texts by image name in the order of the images."""
        joined = {name: text for own in texts for name, text in own.items()}
        return {name: joined[name] for name in self.names if name in joined}

    def result(self) -> PlainDict:
        """Summarize the prediction.

        Returns:
            Numbers of ``images``, of those ``done_before`` and of those that ``failed`` by the rules, ``folder`` of the results,
            ``seconds``, ``images_per_second``, ``time_shares`` of reading, network and writing, which of them is the limit
            (``limited_by``), ``sentences`` on up to eight images, on ``skipped`` files and others (``notes``), and the COCO file (``polygons``) and the
            archive for a server (``submission``), if they are written.

        Raises:
            DataError: images could not be labeled, or the source ended early.
        """
        source, finished = self.source, self.done_before + self.labeled
        if self.errors or self.ended:
            total = finished + len(self.errors)
            summary = [f"{len(self.errors)} of {total} images could not be labeled ({finished} are done):"] if self.errors else []
            ended = [f"{self.ended} {finished} images are done."] if self.ended else []
            raise DataError("\n".join([*ended, *summary, *self.errors.values(), *source.skipped]))
        seconds = time.perf_counter() - self.start
        result = {
            "images": finished,
            "done_before": self.done_before,
            "folder": str(self.files.folder),
            "seconds": round(seconds, 2),
        }
        result |= {"images_per_second": round(self.labeled / seconds, 3), "limited_by": slowest(self.stages).name}
        result |= {"time_shares": shares(self.stages), "skipped": source.skipped}
        notes = [self.note] if self.note else []
        notes += [f"of {finished} images, {len(self.dark)} (first {self.dark[0]}) {UNUSED_BITS}"] if self.dark else []
        result["notes"] = notes
        if self.files.rules:
            result["failed"] = self.table.failed
        if self.labeled <= MAX_SENTENCES:
            result["sentences"] = list(self.sentences.values())
        if self.files.polygons == "coco":
            result["polygons"] = str(self.files.folder / "polygons.json")
            images = [(item.name, item.path) for item in source.items if item.path]
            write_coco(Path(result["polygons"]), images, self.files.label_path, self.files.info)
        if self.files.submission is None:
            return result
        return result | self.files.submission.pack(
            self.files.folder, [self.files.label_path(name) for name in self.names], source.skipped
        )
