"""Predictions on disk: label maps, overlays and file names."""

from __future__ import annotations

import os
import shutil
import signal
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from predictions import predict_source
from toy_training import INFO, Toy, ToyData

from segzoo.device import Precision
from segzoo.inference.outputs.result_files import write_labels
from segzoo.inference.protocol import SINGLE_PASS, InferenceProtocol
from segzoo.inference.segment import segment_image
from segzoo.inference.sources._base import Source
from segzoo.inference.sources.image_files import find_images
from segzoo.inference.stages import Network
from segzoo.layers.modes import eval_mode
from segzoo.layers.normalize import normalize
from segzoo.registry import ConfigError
from segzoo.types import DataError, DatasetInfo
from segzoo.visualization.drawing import overlay

DATA = ToyData(4, vary=True)


@pytest.fixture
def drive(tmp_path):
    """Images of the same name in two folders, one name in two formats, and a file that is not an image."""
    folder = tmp_path / "drive"
    for index, name in enumerate(("a/one.png", "b/one.png", "b/two.PNG", "b/two.bmp")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(DATA[index].image).save(folder / name)
    (folder / "b/notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    return Toy()


def run(model, out, source, **options):
    return predict_source(model, INFO, out, source, **options)


def expected_label(model, image):
    batch = torch.from_numpy(image)[None]
    x = normalize(batch, INFO, torch.device("cpu"))
    with eval_mode(model):
        return segment_image(model, x, batch, SINGLE_PASS, Precision("fp32", torch.device("cpu")))[0].numpy()


def test_every_image_gets_a_label_map_and_an_overlay(model, tmp_path, drive):
    done = run(model, tmp_path / "out", drive)
    assert done["images"] == 4 and model.training
    names = sorted(str(path.relative_to(tmp_path / "out/labels")) for path in (tmp_path / "out/labels").rglob("*.png"))
    assert names == ["a/one.png", "b/one.png", "b/two.PNG.png", "b/two.bmp.png"]
    for index, name in enumerate(("a/one", "b/one", "b/two.PNG", "b/two.bmp")):
        with Image.open(tmp_path / f"out/labels/{name}.png") as png:
            assert png.mode == "P" and (png.getpalette() or [])[:9] == [channel for color in INFO.palette for channel in color]
            label = np.array(png)
        assert (label == expected_label(model, DATA[index].image)).all()
        blended = np.array(Image.open(tmp_path / f"out/overlays/{name}.png"))
        height, width = label.shape
        assert blended.shape[1] >= width and blended.shape[0] > height
        assert (blended[:height, :width] == overlay(DATA[index].image, label, INFO.palette)).all()


def test_images_of_one_size_go_through_the_network_together(tmp_path):
    sizes = []

    class Counting(Toy):
        def forward(self, x):
            sizes.append(tuple(x.shape))
            return super().forward(x)

    torch.manual_seed(2)
    network, folder = Counting(), tmp_path / "images"
    folder.mkdir()
    same = ToyData(6)
    images = [*(same.image(i) for i in range(5)), DATA.image(1), DATA.image(2), same.image(5)]
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")
    (folder / "2b.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 9 images"):
        run(network, tmp_path / "out", folder, batch=2, overlays="none")
    assert [shape[0] for shape in sizes] == [2, 1, 2, 1, 1, 1]
    for number, image in enumerate(images):
        assert (np.array(Image.open(tmp_path / f"out/labels/{number}.png")) == expected_label(network, image)).all()


class Divided(Toy):
    """Records how each image is labeled, small ones in pairs."""

    divides_cores = True

    def __init__(self):
        super().__init__()
        self.calls, self.pair = [], threading.Barrier(2, timeout=20)

    def forward(self, x):
        self.calls.append((x.shape[3], torch.get_num_threads()))
        if x.shape[3] < 64:
            self.pair.wait()
        return super().forward(x)


def parallel_batches(model, protocol=SINGLE_PASS, total=None, is_live=False) -> int:
    network = Network(model, INFO, protocol, Precision("fp32", torch.device("cpu")), None, "none")
    return network.parallel_batches(Source((), total, [], is_live=is_live))


def test_images_go_to_the_device_of_the_weights(tmp_path, monkeypatch):
    """``cuda`` has no number, and the thread of the network would choose another GPU than the rank."""

    class Placed(Toy):
        def to(self, *args, **kwargs):
            return self

    monkeypatch.setattr("segzoo.inference.predictor.pick_device", lambda name: torch.device("meta"))
    Image.fromarray(DATA[0].image).save(tmp_path / "one.png")
    large = {"stream_megapixels": 0.0005, "overlays": "none"}
    for options in ({}, large):
        assert run(Placed(), tmp_path / f"out{len(options)}", tmp_path / "one.png", **options)["images"] == 1


def test_small_images_share_the_cores(tmp_path, monkeypatch, set_threads):
    monkeypatch.setattr("segzoo.inference.stages.PARALLEL_PIXELS", 2 * 32 * 48)
    torch.manual_seed(2)
    network, folder, rng = Divided(), tmp_path / "images", np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 64 if number == 4 else 48, 3), np.uint8) for number in range(9)]
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")
    set_threads(2)
    run(network, tmp_path / "out", folder, overlays="none")
    assert torch.get_num_threads() == 2
    assert [parallel_batches(network, total=total) for total in (None, 8, 7)] == [2, 2, 1]
    assert parallel_batches(network, is_live=True) == parallel_batches(Toy()) == 1
    assert parallel_batches(network, InferenceProtocol(flip=True)) == 1
    assert network.calls == [*[(48, 1)] * 4, (64, 2), *[(48, 1)] * 4]
    network.pair = threading.Barrier(1)
    for number, image in enumerate(images):
        assert (np.array(Image.open(tmp_path / f"out/labels/{number}.png")) == expected_label(network, image)).all()


def test_the_share_of_each_stage_is_reported(model, tmp_path, drive):
    done = run(model, tmp_path / "out", drive)
    assert sum(done["time_shares"].values()) == pytest.approx(1, abs=0.001) and done["images_per_second"] > 0
    assert list(done["time_shares"]) == ["reading", "network", "writing"] and done["limited_by"] in done["time_shares"]


def test_a_signal_ends_the_prediction_and_keeps_what_is_finished(tmp_path, drive):
    class Signaling(Toy):
        def forward(self, x):
            if not signals:  # one more could arrive after the handlers are gone
                signals.append(signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(x)

    signals: list[int] = []
    for number in range(40):
        shutil.copy(drive / "a/one.png", drive / f"{number:02d}.png")
    with pytest.raises(SystemExit) as stopped:
        run(Signaling(), tmp_path / "out", drive)
    labels = list((tmp_path / "out/labels").rglob("*.png"))
    assert stopped.value.code == 143 and 1 <= len(labels) < 40
    done = run(Toy(), tmp_path / "out", drive, resumed=True)
    assert (done["images"], done["done_before"]) == (44, len(labels))


def test_a_second_run_skips_the_output_of_the_first(model, drive):
    assert run(model, drive / "out", drive)["images"] == run(model, drive / "out", drive)["images"] == 4


def test_a_resumed_prediction_labels_only_what_is_missing(model, tmp_path, drive):
    out = tmp_path / "out"
    run(model, out, drive)
    whole = {path: path.read_bytes() for path in out.rglob("*.png")}
    (out / "labels/a/one.png").unlink()
    (out / "overlays/b/one.png").unlink()
    (out / "labels/b/two.bmp.png").write_bytes(b"")  # cut off by a power failure
    kept = out / "labels/b/two.PNG.png"
    kept.write_bytes(b"kept")
    done = run(model, out, drive, resumed=True)
    assert (done["images"], done["done_before"]) == (4, 1) and kept.read_bytes() == b"kept"
    kept.write_bytes(whole[kept])
    assert {path: path.read_bytes() for path in out.rglob("*.png")} == whole


def test_sources(drive, tmp_path):
    def names(source):
        return [item.name for item in find_images(str(source), tmp_path / "out").items]

    assert names(drive / "b/one.png") == ["one"]
    assert names(drive / "*" / "one.png") == ["a/one", "b/one"]
    assert names(f"{drive}/**/*.bmp") == ["b/two"]  # whatever else matches, so a later image never takes its name
    assert names(drive / "b") == ["one", "two.PNG", "two.bmp"]
    for source, message in ((tmp_path / "nowhere", "is not a file or folder"), (drive / "*.png", "matches no image")):
        with pytest.raises(ConfigError, match=message):
            names(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="contains no image"):
        names(tmp_path / "empty")


def test_unreadable_images_are_listed_after_the_others_are_done(model, tmp_path, drive):
    data = (drive / "a/one.png").read_bytes()
    (drive / "a/cut.png").write_bytes(data[: len(data) // 2])
    (drive / "b/empty.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 6 images could not be labeled \(4 are done\)") as error:
        run(model, tmp_path / "out", drive)
    assert "cut.png" in str(error.value) and "empty.png" in str(error.value) and "one.png" not in str(error.value)
    assert len(list((tmp_path / "out/labels").rglob("*.png"))) == 4 and not list((tmp_path / "out").rglob("*.tmp.*"))


def test_an_image_the_model_rejects_is_named(tmp_path, drive):
    class MinimumWidth(Toy):
        def forward(self, x):
            if x.shape[3] < 39:
                raise ValueError("expected 39 pixels or more")
            return super().forward(x)

    with pytest.raises(DataError, match=r"2 of 4 .*\n.*b/two.PNG: expected 39"):
        run(MinimumWidth(), tmp_path / "out", drive)
    assert len(list((tmp_path / "out/labels").rglob("*.png"))) == 2


@pytest.mark.parametrize("overlays", ["jpg", "none"])
def test_overlay_format_is_configurable(model, tmp_path, drive, overlays):
    run(model, tmp_path / "out", drive / "a", overlays=overlays, alpha=0.0)
    files = list((tmp_path / "out").glob("overlays/*"))
    if overlays == "none":
        assert files == []
    else:
        assert [path.name for path in files] == ["one.jpg"] and Image.open(files[0]).format == "JPEG"


def test_protocol_settings_reach_the_model(model, tmp_path, drive):
    run(model, tmp_path / "one", drive / "a", overlays="none")
    run(model, tmp_path / "two", drive / "a", overlays="none", protocol=InferenceProtocol(scales=(0.5,), crop=(8, 8)))
    one, two = (np.array(Image.open(tmp_path / name / "labels/one.png")) for name in ("one", "two"))
    assert one.shape == two.shape and (one != two).any()


def test_label_maps_have_the_size_of_their_image(model, tmp_path, drive):
    run(model, tmp_path / "one", drive / "a", protocol=InferenceProtocol(input_hw=(16, 16)))
    assert np.array(Image.open(tmp_path / "one/labels/one.png")).shape == DATA[0].label.shape
    with pytest.raises(ConfigError, match="protocol.label_size=input is for scores"):
        run(model, tmp_path / "two", drive, protocol=InferenceProtocol(input_hw=(16, 16), label_size="input"))


def test_more_than_256_classes_become_16_bit(tmp_path):
    info = DatasetInfo("many", tuple(map(str, range(400))), ((9, 9, 9),) * 400)
    label = np.arange(400, dtype=np.int32).reshape(20, 20)
    write_labels(tmp_path / "x.png", label, info)
    assert (np.array(Image.open(tmp_path / "x.png")) == label).all()
    full = DatasetInfo("full", tuple(map(str, range(256))), tuple((k, 0, 0) for k in range(256)), ignore=65535)
    write_labels(tmp_path / "y.png", np.arange(256, dtype=np.int32).reshape(16, 16), full)
    with Image.open(tmp_path / "y.png") as png:
        assert png.mode == "P" and (np.array(png).ravel() == np.arange(256)).all()


def test_hidden_classes_stay_clear(model, tmp_path, drive):
    def overlay_of(name, **options):
        run(model, tmp_path / name, drive / "a", **options)
        return np.array(Image.open(tmp_path / name / "overlays/one.png"))[: DATA[0].image.shape[0], : DATA[0].image.shape[1]]

    label = expected_label(model, DATA[0].image)
    assert len(np.unique(label)) > 1
    for hide in ((), ("road",), ("sky", "tree")):
        clear = np.isin(label, [INFO.classes.index(name) for name in hide])
        changed = (overlay_of("-".join(("hide", *hide)), hide=hide) != DATA[0].image).any(-1)
        assert not changed[clear].any() and changed[~clear].mean() > 0.9
    assert (overlay_of("default") == overlay_of("hide")).all(), "no class is named like a background"
    with pytest.raises(ConfigError, match=r"hide: the class 'raod' is not known. Did you mean 'road'\?"):
        run(model, tmp_path / "unknown", drive, hide=("raod",))
    assert not (tmp_path / "unknown").exists()
