"""Overlays of a video as a video."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segzoo.types import DataError
from segzoo.visualization.drawing import PAPER

DEFAULT_FPS = 25.0  # for sources that state none


class VideoFile:
    """A Matroska file (MPEG-4) that stays readable if the process is killed.

    A second file is begun where the size of the frames changes, and where an interrupted prediction is resumed. Its name ends with the number
    of its first frame.

    Args:
        folder: where the file is written.
        fps: frames per second.
    """

    def __init__(self, folder: Path, fps: float | None):
        self.folder, self.fps = folder, fps if fps and 0 < fps <= 1000 else DEFAULT_FPS
        self._writer, self._hw = None, (0, 0)

    def add(self, name: str, frame: np.ndarray) -> None:
        """Append a frame.

        Args:
            name: ``<video>/<number>``.
            frame: (H, W, 3) uint8 RGB.

        Raises:
            DataError: OpenCV cannot write videos.
        """
        import cv2

        height, width = frame.shape[:2]
        frame = cv2.copyMakeBorder(
            frame, 0, height % 2, 0, width % 2, cv2.BORDER_CONSTANT, value=PAPER
        )  # the codec needs even sides
        if self._writer is None or self._hw != (height, width):
            self.close()
            path = self._free_path(*name.rsplit("/", 1))
            path.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer, self._hw = cv2.VideoWriter(str(path), code, self.fps, (frame.shape[1], frame.shape[0])), (height, width)
            if not self._writer.isOpened():
                raise DataError(f"{path}: OpenCV cannot write videos here. Set overlays=png or overlays=jpg.")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Complete the file."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def _free_path(self, video: str, number: str) -> Path:
        path = self.folder / f"{video}.mkv"
        return self.folder / f"{video}_{number}.mkv" if path.exists() else path
