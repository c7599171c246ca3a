"""Frames of video files, cameras and network streams."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from segzoo.inference.sources._base import Item, Source, SourceEnded
from segzoo.inference.sources.kinds import Kind, source_kind, video_name, without_credentials
from segzoo.messages import printable
from segzoo.registry import ConfigError

TIMEOUT_MS = 10_000  # to connect to a stream, and for its next frame
MISSING_FRAMES = 0.02  # share of a video's frames by which its header may be wrong


class Video:
    """Frames in their order.

    Args:
        source: a file, the number of a camera or the address of a stream.

    Attributes:
        title: the source for messages, without a password.
        count: number of frames that the file states, 0 if it states none.
        fps: frames per second, 0 if they are unknown.

    Raises:
        ConfigError: it cannot be opened.
    """

    def __init__(self, source: str | int):
        self.kind = source_kind(source)
        self.title = f"source={without_credentials(printable(str(source)))}"
        self._capture = _open(source, self.kind)
        if not self._capture.isOpened():
            raise ConfigError(f"{self.title} cannot be opened: {_advice(self.kind)}")
        import cv2

        self.count = 0 if self.kind == "camera" else max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self._position, self._ended = 0, False

    @property
    def is_live(self) -> bool:
        """True if there is no last frame.

        A file has one, even if it does not state their number.
        """
        return self.kind != "video" and not self.count

    def read(self, index: int) -> np.ndarray | None:
        """Read the next frame.

        Returns:
            (H, W, 3) uint8 RGB, or None after the last frame.

        Raises:
            SourceEnded: the stream broke, or the file ends long before it should.
        """
        import cv2

        while not self._ended and self._position <= index:
            is_wanted = self._position == index
            found, frame = self._capture.read() if is_wanted else (self._capture.grab(), None)
            if not found:
                return self._end()
            self._position += 1
            if frame is not None:
                return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        return None

    def close(self) -> None:
        """Release the file or the device."""
        self._capture.release()

    def _end(self) -> None:
        self._ended = True
        if self.is_live:
            raise SourceEnded(
                f"{self.title} broke after {self._position} frames: no further one came within {TIMEOUT_MS // 1000} s."
            )
        if not self._position:
            raise SourceEnded(f"{self.title} holds no frame: the file is damaged or incomplete.")
        if self.count - self._position > max(2, MISSING_FRAMES * self.count):
            raise SourceEnded(
                f"{self.title} ends after {self._position} of {self.count} frames: the file is damaged or incomplete."
            )


def open_video(source: str | int, out: Path, *, every: int, max_frames: int | None) -> Source:
    """Open the frames of a video file, a camera or a stream.

    Frames are named ``<video>/<number>``. Those of a camera or a stream follow the numbers that ``out`` already has.

    Args:
        source: a file, the number of a camera or the address of a stream.
        out: the output directory.
        every: take each n-th frame.
        max_frames: take at most this many. None takes all.

    Raises:
        ConfigError: it cannot be opened.
    """
    video, name = Video(source), video_name(source, source_kind(source))
    first = _next_number(out / "labels" / name) if video.is_live else 0
    total = math.ceil(video.count / every) if video.count else None
    if max_frames is not None:
        total = max_frames if total is None else min(total, max_frames)

    def frames() -> Iterator[Item]:
        for number in itertools.count() if max_frames is None else range(max_frames):
            index = number * every
            yield Item(f"{name}/{first + index:06d}", f"{video.title}, frame {index}", partial(video.read, index))

    return Source(frames(), total, [], True, video.is_live, video.fps / every, video.close)


def _open(source: str | int, kind: Kind):
    """Open a capture without messages of OpenCV and FFmpeg."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        if kind == "camera":
            return cv2.VideoCapture(int(source))
        if kind == "video":
            return cv2.VideoCapture(str(source))
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
        return cv2.VideoCapture(str(source), cv2.CAP_FFMPEG, limits)
    finally:
        cv2.utils.logging.setLogLevel(level)


def _advice(kind: Kind) -> str:
    if kind == "camera":
        return "expected the number of a camera that no other program uses, such as source=0."
    if kind == "video":
        return "it is damaged, or its codec is not known to OpenCV. Convert it: ffmpeg -i VIDEO -c:v libx264 NEW.mp4"
    return f"no video came within {TIMEOUT_MS // 1000} s. Check the address, the network and the password."


def _next_number(folder: Path) -> int:
    """The number after those of the frames in a folder."""
    numbers = [int(path.stem) for path in folder.glob("*.png") if path.stem.isdecimal()]
    return max(numbers, default=-1) + 1
