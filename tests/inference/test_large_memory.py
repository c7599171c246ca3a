"""Memory and labels of images with 108 and 12 megapixels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from predictions import predict_source
from small_models import build, randomized

from segzoo.data.image_io import read_image, read_mask
from segzoo.inference.protocol import SINGLE_PASS, InferenceProtocol
from segzoo.layers.normalize import normalize
from segzoo.types import DatasetInfo

pytest.importorskip("pyvips", reason="extra large")
HELPERS = Path(__file__).parents[1] / "helpers"
INFO = DatasetInfo("three", ("a", "b", "c"), ((0, 0, 0), (0, 128, 255), (255, 64, 64)))
PREDICT = """
import sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from typing import Any
import torch
from predictions import predict_source
from small_models import build
from segzoo.device import peak_memory
from segzoo.types import DatasetInfo

torch.manual_seed(0)
info = DatasetInfo("three", ("a", "b", "c"), ((0, 0, 0), (0, 128, 255), (255, 64, 64)))
predict_source(build("icnet", num_classes=3).eval(), info, Path(sys.argv[2]), sys.argv[1], tile=1024)
print(peak_memory(torch.device("cpu")))
"""


def write_textured(path, height, width, **options):
    """Write an image of smooth regions with some noise."""
    import pyvips  # type: ignore[import-not-found]

    bands: list[Any] = [
        pyvips.Image.gaussnoise(width // 100, height // 100, sigma=50, mean=128, seed=seed).resize(100) for seed in range(3)
    ]
    image = bands[0].bandjoin(bands[1:]) + pyvips.Image.gaussnoise(width, height, sigma=5, mean=0, seed=3)
    image.cast("uchar").copy(interpretation="srgb").write_to_file(str(path), **options)
    return path


def balanced(model, image):
    """The model, with several classes the best somewhere in an image."""
    randomized(model).eval()
    with torch.no_grad():
        model.score.bias -= model(
            normalize(torch.from_numpy(read_image(image)[None, :512, :512]), INFO, torch.device("cpu"))
        ).main.mean((0, 2, 3))
    return model


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["tiled.tif", "rows.png"])
def test_108_megapixels_are_labeled_within_2_gb(name, tmp_path):
    options = {"tile": True, "compression": "deflate"} if name == "tiled.tif" else {"compression": 1}
    image = write_textured(tmp_path / name, 9000, 12000, **options)
    command = [sys.executable, "-c", PREDICT, image, tmp_path / "out", HELPERS]
    peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    assert peak < 2e9
    assert read_mask(tmp_path / "out/labels" / f"{image.stem}.png", 10**9).shape == (9000, 12000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["slide", "tiles"])
def test_12_megapixels_get_the_labels_of_the_image_in_memory(name, tmp_path):
    torch.manual_seed(0)
    image = write_textured(tmp_path / "wide.tif", 3000, 4000)
    if name == "slide":  # of a network that looks everywhere
        model, protocol = balanced(build("icnet", num_classes=3), image), InferenceProtocol(crop=(1024, 1024), stride=(900, 1000))
    else:
        model, protocol = balanced(build("deeplab_largefov", num_classes=3), image), SINGLE_PASS
    result = predict_source(model, INFO, tmp_path / "streamed", image, protocol, stream_megapixels=1, overlays="none")
    predict_source(model, INFO, tmp_path / "whole", image, protocol, overlays="none")
    streamed, whole = (read_mask(tmp_path / out / "labels/wide.png") for out in ("streamed", "whole"))
    assert len(np.unique(whole)) > 1
    if name == "slide":
        assert (streamed == whole).all()
    else:
        assert "as far as its receptive field extends" in result["notes"][0]
        assert (streamed != whole).mean() < 1e-5  # ties within rounding
