"""Images of other channels than RGB, or of 16 bits, from their files to a bundle."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile

import cv2
import numpy as np
import pytest
from image_files import save
from PIL import Image
from small_service import Client, decoded

import segzoo
from segzoo.data.image_io import read_mask
from segzoo.inference.protocol import SINGLE_PASS
from segzoo.workflows.serve.models import ServedModel

HEIGHT, WIDTH = 64, 96
COMMON = ("data=folder", "data.root=set", "data.classes=[background,part]", "data.title=made")
SETS = {
    "gray16": ("data.channels=1", "data.bits=16"),
    "rgbn": ("data.channels=4", "data.show_channels=[3]", "data.images=['rgb/{split}/{stem}.png','nir/{split}/{stem}.png']"),
}
MEASURED = {"gray16": ("data.mean=[7220]", "data.std=[220]"), "rgbn": ()}
SMALL = ("model=icnet", "backbone.width=0.125", "augment.crop=[64,64]", "augment.rotate=10", "augment.blur=0.5", "batch_size=2")
TRAIN = (*SMALL, "workers=0", "device=cpu", "steps=12", "optim.lr=0.02", "num_val_images=1", "report=true", "out=runs/first")
RUN_ALL = """
import importlib, json, sys
for sys.argv in json.loads(sys.argv[1]):
    importlib.import_module(f"segzoo.tools.{sys.argv[0]}").main()
"""


def draw(kind, root):
    """Write images with a bright part, in the files of a kind, and return the images."""
    images = {}
    for split, numbers in (("train", range(3)), ("val", range(3, 5))):
        for number in numbers:
            rng = np.random.default_rng(number)
            label = np.zeros((HEIGHT, WIDTH), np.uint8)
            label[number * 5 : number * 5 + 30, 20:70] = 1
            save(root / f"labels/{split}/{number}.png", label)
            if kind == "gray16":  # a range of which the high byte alone says little
                image = (rng.integers(7000, 7300, label.shape) + 400 * label.astype(int)).astype(np.uint16)
                save(root / f"images/{split}/{number}.png", image)
                save(root / f"new/{number}.png", image)
                images[str(number)] = image[..., None]
                continue
            rgb = rng.integers(0, 256, (*label.shape, 3), dtype=np.uint8)
            nir = (rng.integers(0, 60, label.shape) + 150 * label).astype(np.uint8)
            for folder in (f"{split}/", ""):
                save(root / f"{'' if folder else 'new/'}rgb/{folder}{number}.png", rgb)
                save(root / f"{'' if folder else 'new/'}nir/{folder}{number}.png", nir)
            images[str(number)] = np.dstack([rgb, nir])
    return images


def run_all(directory, *commands):
    process = subprocess.run([sys.executable, "-c", RUN_ALL, json.dumps(commands)], capture_output=True, text=True, cwd=directory)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]
    return process.stdout


@pytest.mark.integration
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind == "rgbn" else []) for kind in SETS])
def test_labels_are_equal_from_the_training_to_the_bundle(kind, tmp_path):
    pytest.importorskip("onnxscript", reason='pip install -e ".[export]"')
    images, source = draw(kind, tmp_path / "set"), "set/new" if kind == "gray16" else "set/new/rgb"
    data = [*COMMON, *SETS[kind]]
    text = run_all(
        tmp_path,
        ["dataset", "action=stats", *data, "out=stats"],
        ["dataset", "action=browse", *data, "out=pages"],
        ["train", *TRAIN, *data, *MEASURED[kind]],
        ["eval", "ckpt=runs/first", "out=eval", "device=cpu", "workers=0", "report=false"],
        ["predict", "ckpt=runs/first", f"source={source}", "out=own", "device=cpu"],
        ["export", "ckpt=runs/first", "bundle=true", "out=delivered"],
        ["eval", "ckpt=delivered", "out=eval_file", "workers=0", "report=false"],
        ["predict", "ckpt=delivered", f"source={source}", "out=file"],
    )
    assert ("data.mean and data.std are null" in text) == (kind == "rgbn")
    settings = json.loads((tmp_path / "stats/dataset.json").read_text())["settings"]
    assert settings["mean"].count(",") == (0 if kind == "gray16" else 3)
    with zipfile.ZipFile(tmp_path / "delivered/bundle.zip") as archive:
        archive.extractall(tmp_path / "bundle")
    card = json.loads((tmp_path / "bundle/card.json").read_text())
    assert card["interface"]["input"]["dtype"] == ("uint16" if kind == "gray16" else "uint8")
    assert card["interface"]["input"]["shape"][3] == card["channels"] == (1 if kind == "gray16" else 4)
    for words in (["--selftest"], [f"../{source}", "--out", "../apart"]):
        process = subprocess.run([sys.executable, "predict.py", *words], capture_output=True, text=True, cwd=tmp_path / "bundle")
        assert process.returncode == 0, process.stdout + process.stderr
    scores = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("eval", "eval_file")]
    assert scores[0]["miou"] == pytest.approx(scores[1]["miou"], abs=0.002) and scores[0]["miou"] > 0.5
    network = segzoo.load(tmp_path / "runs/first")
    client = Client(ServedModel("default", "tiny", network, SINGLE_PASS))
    for name, image in images.items():
        own = read_mask(tmp_path / f"own/labels/{name}.png")
        assert set(np.unique(own)) == {0, 1}
        file = io.BytesIO()
        np.save(file, image)
        served = decoded(client.post("/predict?output=labels", file.getvalue()).content)
        written = (read_mask(tmp_path / f"{folder}/{name}.png") for folder in ("file/labels", "apart"))
        for other in (network.predict(image).labels, served, *written):
            assert (own == other).mean() >= 0.999  # up to rounding
        shown = np.asarray(Image.open(tmp_path / f"own/overlays/{name}.png").convert("RGB"))[: len(own)]  # without the legend
        background = cv2.erode((own == 0).astype(np.uint8), np.ones((5, 5))) > 0
        assert background.any() and (shown[background, 0] == shown[background, 2]).all()  # one channel, in gray
