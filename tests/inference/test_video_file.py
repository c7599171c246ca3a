"""Overlays of videos whose frames have odd sides."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from segzoo.inference.outputs.video_file import VideoFile


@pytest.mark.parametrize("size", [(49, 64), (48, 65), (49, 65)], ids=str)
def test_frames_are_padded_to_even_sides_below_and_at_the_right(tmp_path, size):
    video = VideoFile(tmp_path, 10.0)
    video.add("clip/000000", np.full((*size, 3), 90, np.uint8))
    video.close()
    capture = cv2.VideoCapture(str(tmp_path / "clip.mkv"))
    found, frame = capture.read()
    capture.release()
    assert found and frame.shape == (50 if size[0] == 49 else 48, 66 if size[1] == 65 else 64, 3)
    inside, padding = frame[: size[0] - 4, : size[1] - 4], [frame[size[0] :], frame[:, size[1] :]]
    assert np.abs(inside.astype(int) - 90).max() < 20 and all((each > 150).all() for each in padding)
