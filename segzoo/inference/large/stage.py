"""Large images in a prediction of many images."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from segzoo.device import Precision
from segzoo.inference.large.labels import LargeImageLabeler
from segzoo.inference.large.results import write_large_result
from segzoo.inference.outputs.result_files import ResultFiles
from segzoo.inference.protocol import InferenceProtocol
from segzoo.inference.stages import Task, image_error
from segzoo.messages import printable
from segzoo.registry import ConfigError
from segzoo.types import DataError


class LargeImages:
    """Labels large images and writes their results.

    Args:
        model, protocol, precision: as in ``LargeImageLabeler``.
        files: what is written for each image.
        tile: size of tiles in pixels. None chooses it by the available memory.
        stops: returns True if the prediction has to stop.
    """

    def __init__(
        self,
        model: nn.Module,
        protocol: InferenceProtocol,
        precision: Precision,
        files: ResultFiles,
        tile: int | None,
        stops: Callable[[], bool],
    ):
        self._make_labeler = partial(LargeImageLabeler, model, protocol, precision, tile)
        self._labeler: LargeImageLabeler | None = None
        self.files, self.stops = files, stops

    @property
    def found(self) -> bool:
        """True once there was a large image."""
        return self._labeler is not None

    @property
    def note(self) -> str | None:
        """Sentence on the tiles of large images, if there were any."""
        tiling = self._labeler and self._labeler.tiling
        return f"Large images were {tiling.describe()}." if tiling else None

    def label(self, task: Task) -> Task:
        """Label an image and write its results.

        Errors stay in the task.
        """
        start, image = time.perf_counter(), task.large
        assert image is not None
        try:
            self._check_results()
            self._labeler = self._labeler or self._make_labeler()
            areas = write_large_result(
                self.files.label_path(task.item.name),
                self._labeler,
                image,
                self.files.info,
                *self.files.label_form,
                self.files.overlay_writer(task.item.name),
                partial(self._check_stop, image.path),
            )
            task.report = self.files.report_areas(areas, image.size)
            task.is_dark = image.leaves_bits_unused
        except (ValueError, OSError) as error:  # such as a damaged tile
            task.error = image_error(task.item, error)
        task.large = None
        task.seconds += time.perf_counter() - start
        return task

    def _check_stop(self, path: Path) -> None:
        if self.stops():
            raise DataError(f"{printable(path)}: stopped before its last tile")

    def _check_results(self) -> None:
        """Raise ConfigError for results that need the whole label map."""
        files = self.files
        settings = {
            f"confidence={files.confidence}": files.confidence != "none",
            f"polygons={files.polygons}": files.polygons != "none",
            "format=color": files.format == "color",
            "a fail_if in px": any(rule.unit == "px" for rule in files.rules),
        }
        if needed := [name for name, is_set in settings.items() if is_set]:
            raise ConfigError(
                f"{' and '.join(needed)} {'needs' if len(needed) == 1 else 'need'} the whole image in memory, and it is labeled in strips. "
                "Omit that, or raise stream_megapixels."
            )
