"""Videos, cameras, streams and lists as sources of predictions."""

from __future__ import annotations

import functools
import http.server
import io
import os
import signal
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from image_files import noise as noise_image
from image_files import save
from PIL import Image
from predictions import predict_source
from toy_training import INFO, Toy

from segzoo.inference.sources import videos
from segzoo.inference.sources.kinds import source_kind, video_name, without_credentials
from segzoo.inference.sources.opening import open_source
from segzoo.registry import ConfigError
from segzoo.types import DataError

FRAMES = 12


def write_video(path: Path, frames: int = FRAMES, hw: tuple[int, int] = (48, 64), noise: bool = False) -> Path:
    """A video of brighter and brighter frames, or of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, hw[::-1])
    assert writer.isOpened()
    rng = np.random.default_rng(0)
    for number in range(frames):
        writer.write(rng.integers(0, 256, (*hw, 3), np.uint8) if noise else np.full((*hw, 3), 10 * (number + 1), np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.avi")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Toy()


def labels(out: Path) -> list[str]:
    return sorted(path.relative_to(out / "labels").as_posix() for path in (out / "labels").rglob("*.png"))


def test_kinds_of_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("clip.MP4", "list.txt", "a.png", "7"):
        Path(name).touch()
    kinds = {
        "clip.MP4": "video",
        "list.txt": "list",
        "-": "list",
        "a.png": "images",
        ".": "images",
        "*.png": "images",
        "0": "camera",
    }
    kinds |= {3: "camera", "7": "images", 7: "images", "missing.mp4": "images", "-1": "images"}
    kinds |= dict.fromkeys(("rtsp://cam/1", "HTTP://host/x.mp4", "udp://@:5000"), "stream")
    assert {source: source_kind(source) for source in kinds} == kinds
    assert without_credentials("rtsp://me:s3cret@cam:554/a@b") == "rtsp://cam:554/a@b"
    assert video_name("rtsp://me:s3cret@cam:554/live/1", "stream") == "cam_live_1" and video_name(2, "camera") == "camera2"


def test_frames_are_numbered_and_every_nth_is_taken(model, tmp_path, clip):
    done = predict_source(model, INFO, tmp_path / "all", clip, overlays="none")
    assert done["images"] == FRAMES and labels(tmp_path / "all") == [f"clip/{k:06d}.png" for k in range(FRAMES)]
    done = predict_source(model, INFO, tmp_path / "some", clip, every=5, overlays="jpg", batch=2)
    assert labels(tmp_path / "some") == [f"clip/{k:06d}.png" for k in (0, 5, 10)]
    for name in labels(tmp_path / "some"):
        assert (tmp_path / "some/labels" / name).read_bytes() == (tmp_path / "all/labels" / name).read_bytes()
    with Image.open(tmp_path / "some/overlays/clip/000010.jpg") as overlay:
        assert overlay.size[0] >= 64
    assert predict_source(model, INFO, tmp_path / "few", clip, max_frames=4, overlays="none")["images"] == 4


def test_a_last_frame_of_fewer_than_every_nth_counts(tmp_path, clip):
    found = [
        open_source(tmp_path, source=str(clip), every=every, max_frames=most) for every, most in ((1, None), (5, None), (5, 2))
    ]
    assert [source.total for source in found] == [FRAMES, 3, 2]


def test_an_interrupted_video_goes_on(model, tmp_path, clip):
    predict_source(model, INFO, tmp_path, clip, max_frames=7, overlays="video")
    (tmp_path / "labels/clip/000003.png").unlink()
    done = predict_source(model, INFO, tmp_path, clip, resumed=True, overlays="video")
    assert (done["images"], done["done_before"]) == (FRAMES, 6) and len(labels(tmp_path)) == FRAMES
    lengths = {path.name: sum(1 for _ in read_frames(path)) for path in (tmp_path / "overlays").iterdir()}
    assert lengths == {"clip.mkv": 7, "clip_000003.mkv": FRAMES - 6}
    names = [line.split(",")[0] for line in (tmp_path / "images.csv").read_text().splitlines()[1:]]
    assert names == [f"clip/{k:06d}" for k in range(FRAMES)]


def read_frames(path: Path):
    capture = cv2.VideoCapture(str(path))
    while (frame := capture.read()[1]) is not None:
        yield frame
    capture.release()


def test_overlays_become_a_video_of_the_same_speed(model, tmp_path, clip):
    predict_source(model, INFO, tmp_path, clip, every=2, overlays="video", alpha=0.0)
    capture = cv2.VideoCapture(str(tmp_path / "overlays/clip.mkv"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(5)
    capture.release()
    frames = list(read_frames(tmp_path / "overlays/clip.mkv"))
    assert len(frames) == FRAMES // 2 and frames[0].shape[0] > 48 and frames[0].shape[1] >= 64
    means = [float(np.median(frame[:48, :64])) for frame in frames]
    assert means == sorted(means) and means[-1] - means[0] > 80, "in order"
    assert not list((tmp_path / "overlays").rglob("*.png"))


def test_a_truncated_video_keeps_what_it_has(model, tmp_path):
    broken = write_video(tmp_path / "broken.avi", hw=(120, 160), noise=True)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    with pytest.raises(
        DataError, match=r"source=.*broken\.avi ends after \d+ of 12 frames.*damaged or incomplete\. \d+ images are done"
    ):
        predict_source(model, INFO, tmp_path / "out", broken, overlays="video")
    found = labels(tmp_path / "out")
    assert 2 <= len(found) < FRAMES and len(list(read_frames(tmp_path / "out/overlays/broken.mkv"))) == len(found)
    (tmp_path / "text.avi").write_text("no video")
    with pytest.raises(ConfigError, match=r"text\.avi cannot be opened: it is damaged"):
        open_source(tmp_path, source=str(tmp_path / "text.avi"))


class BrokenCapture:
    """A camera that is pulled out after some frames."""

    left = 3

    def isOpened(self):
        return True

    def get(self, key):
        return 0.0

    def read(self):
        self.left -= 1
        return (True, np.full((32, 32, 3), 99, np.uint8)) if self.left >= 0 else (False, None)

    def release(self):
        self.left = -1


def test_a_camera_that_breaks_gives_one_error_and_its_next_frames_follow(model, tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "_open", lambda source, kind: BrokenCapture())
    for expected in (3, 6):
        with pytest.raises(DataError) as error:
            predict_source(model, INFO, tmp_path, 0, resumed=expected == 6, overlays="none")
        assert str(error.value).count("\n") == 0
        assert str(error.value).startswith("source=0 broke after 3 frames: no further one came within 10 s.")
        assert labels(tmp_path) == [f"camera0/{k:06d}.png" for k in range(expected)]
    done = predict_source(model, INFO, tmp_path, 0, resumed=True, overlays="none", max_frames=2)
    assert done["images"] == 2 and len(labels(tmp_path)) == 8


def test_ctrl_c_is_the_usual_end_of_a_camera(tmp_path, monkeypatch):
    class Endless(BrokenCapture):
        left = 10**9

    class Interrupted(Toy):
        seen = 0

        def forward(self, x):
            self.seen += 1
            if self.seen == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return super().forward(x)

    monkeypatch.setattr(videos, "_open", lambda source, kind: Endless())
    done = predict_source(Interrupted(), INFO, tmp_path, 0, overlays="none")
    assert 3 <= done["images"] == len(labels(tmp_path)) < 30


def test_a_source_that_does_not_open_says_what_to_type(tmp_path):
    with pytest.raises(ConfigError, match="source=987 cannot be opened: expected the number of a camera"):
        open_source(tmp_path, source=987)
    with pytest.raises(ConfigError, match=r"source=http://127\.0\.0\.1:9/x cannot be opened") as error:
        open_source(tmp_path, source="http://me:s3cret@127.0.0.1:9/x")
    assert "s3cret" not in str(error.value)


def test_a_stream_over_http(model, tmp_path, clip):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(clip.parent))
    handler.func.log_message = lambda *args: None  # type: ignore[attr-defined]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/clip.avi"
        assert predict_source(model, INFO, tmp_path, address, overlays="none")["images"] == FRAMES
    finally:
        server.shutdown()
        server.server_close()
    assert labels(tmp_path)[0] == "127.0.0.1_clip.avi/000000.png"


def test_lists_of_paths(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("cam1/a.png", "cam2/a.png", "cam2/a.bmp"):
        save(tmp_path / name, noise_image())
    Path("list.txt").write_text("cam2/a.png\n\ncam1/a.png\nnowhere.png\n./cam1/a.png\ncam2/a.bmp\r\n")
    with pytest.raises(
        DataError, match=r"1 of 4 images could not be labeled \(3 are done\).*\nnowhere\.png: cannot be read: No such"
    ):
        predict_source(model, INFO, tmp_path / "out", "list.txt", overlays="none")
    assert labels(tmp_path / "out") == ["cam1/a.png", "cam2/a.bmp.png", "cam2/a.png.png"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{tmp_path}/cam1/a.png\n".encode())))
    assert [item.name for item in open_source(tmp_path / "out", source="-").items] == ["a"]
    for text, message in (("\n\n", "holds no path"), ("x.png\ny.png", "none of the 2 paths exists, such as x.png")):
        Path("list.txt").write_text(text)
        with pytest.raises(ConfigError, match=f"source=list.txt.*{message}"):
            open_source(tmp_path / "out", source="list.txt")


def test_a_folder_without_its_folders(tmp_path):
    for name in ("a.png", "b/c.png", ".hidden.png"):
        save(tmp_path / name, noise_image())
    sources = {recursive: open_source(tmp_path / "out", source=str(tmp_path), recursive=recursive) for recursive in (True, False)}
    assert {key: [item.name for item in found.items] for key, found in sources.items()} == {True: ["a", "b/c"], False: ["a"]}


def test_a_file_that_does_not_state_its_length_ends(tmp_path, clip, model, monkeypatch):
    """As one of a recording that was killed."""
    opened = videos._open

    class Unknown:
        def __init__(self, capture):
            self.capture = capture

        def get(self, key):
            return -2.3e17 if key == cv2.CAP_PROP_FRAME_COUNT else self.capture.get(key)

        def __getattr__(self, name):
            return getattr(self.capture, name)

    monkeypatch.setattr(videos, "_open", lambda source, kind: Unknown(opened(source, kind)))
    for _ in range(2):  # the second time, all frames are there
        assert predict_source(model, INFO, tmp_path / "out", clip, resumed=True)["images"] == FRAMES
    assert len(labels(tmp_path / "out")) == FRAMES
