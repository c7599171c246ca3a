"""Speed of predicting folders of images compared with peer loops.

From image files to label maps on disk, with the same icnet_half of random weights on every side, so only what drives it differs:

- segzoo: ``predict_images`` as tools/predict.py calls it, in eager PyTorch and in OpenVINO, with the network fused, without overlays.
- plain loop: Pillow reads, the network runs, logits are upsampled, torch takes the argmax, Pillow saves.
- smp: the loop of segmentation_models_pytorch's examples: a dataset with OpenCV and its preprocessing function, a DataLoader, argmax.
- mmsegmentation: ``MMSegInferencer`` with the same network in its segmentor, label maps only. ``mmseg icnet_r18`` is its own ICNet.

The images are CamVid's 101 validation images, and 60 of them enlarged to 1024x2048. The sides alternate, so the load of the machine affects
all alike. Needs SEGZOO_DATA and "segzoo[peers,export,openvino]"; a side whose packages are missing is left out and named.
Each size has its result file, written only if no other option narrows the selection. On two cores without bf16 the small images take 6
minutes, the large ones 40.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.harness.interleaved_timing import compare_to_peer, time_interleaved
from benchmarks.harness.mmseg_import import import_mmseg
from benchmarks.harness.models import NETWORKS
from benchmarks.harness.result_files import write_result
from segzoo.data.image_io import read_image
from segzoo.inference.outputs.result_files import plan_results
from segzoo.inference.predictor import predict_images
from segzoo.inference.sources.opening import open_source
from segzoo.runtimes.network import run_in
from segzoo.types import DatasetInfo, Logits
from segzoo.workflows.benchmark.workload import build_workload

CLASSES = 19
PACKAGES = ("mmsegmentation", "mmengine", "mmcv-lite", "segmentation-models-pytorch", "openvino")
Run = Callable[[list[Path], Path], Any]  # image files and an empty output folder -> what is reported


class Size(NamedTuple):
    """Images of one size.

    Attributes:
        hw: height and width to which they are enlarged, None to keep their size.
        images: their number.
        rounds: how often each side labels them.
    """

    hw: tuple[int, int] | None
    images: int
    rounds: int


SIZES = {"360x480": Size(None, 101, 6), "1024x2048": Size((1024, 2048), 60, 3)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that narrow the selection."""
    parser.add_argument("--size", choices=SIZES, help="default: both")
    parser.add_argument("--images", type=int, help="images per round, default: 101 and 60")
    parser.add_argument("--rounds", type=int, help="at least 3, default: 6 and 3")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="default: all")


def write_images(folder: Path, hw: tuple[int, int] | None, count: int) -> list[Path]:
    """Write or link CamVid's validation images to a new folder."""
    folder.mkdir()
    found = sorted((Path(os.environ.get("SEGZOO_DATA", "data")) / "camvid/val").iterdir())[:count]
    paths = [folder / (path.name if hw is None else f"{path.stem}.png") for path in found]
    for source, path in zip(found, paths, strict=True):
        if hw is None:
            path.symlink_to(source.resolve())
        else:
            large = cv2.resize(read_image(source), hw[::-1], interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(path), cv2.cvtColor(large, cv2.COLOR_RGB2BGR))
    return paths


@cache
def random_network() -> Any:
    """Build the network of all sides, in evaluation mode."""
    return build_workload({**NETWORKS["icnet_half"], "data": None, "init": {"ckpt": None}}, num_classes=CLASSES).model


def build_network() -> Any:
    """Copy the network for one side."""
    return copy.deepcopy(random_network())


def segzoo_side(runtime: str, info: DatasetInfo) -> Run:
    """Predict as tools/predict.py does."""
    model = build_network()
    model.info = info
    if runtime == "eager":
        model.fuse_for_inference_()  # as the tool does
    model = run_in(model, runtime, precision="fp32", device=torch.device("cpu"))  # type: ignore[arg-type]

    def run(paths: list[Path], out: Path) -> dict[str, Any]:
        files = plan_results(info, out, overlays="none")
        return predict_images(model, info, open_source(out, source=str(paths[0].parent)), files, device="cpu")

    return run


def logits_of(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Run the network and upsample its logits to the image."""
    logits: Logits = model(x)
    return F.interpolate(logits.main, x.shape[-2:], mode="bilinear", align_corners=bool(model.align_corners))


def plain_side(info: DatasetInfo) -> Run:
    """Predict image by image, as most scripts do."""
    model = build_network().to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(values)[:, None, None] for values in info.normalization)

    @torch.no_grad()
    def run(paths: list[Path], out: Path) -> None:
        for path in paths:
            image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float()
            label = logits_of(model, ((image - mean) / std)[None]).argmax(1)[0]
            Image.fromarray(label.numpy().astype(np.uint8)).save(out / f"{path.stem}.png")

    return run


def smp_side(info: DatasetInfo) -> Run:
    """Predict with a dataset and a DataLoader, as smp's examples do."""
    from segmentation_models_pytorch.encoders._preprocessing import preprocess_input  # pyright: ignore[reportMissingImports]

    # what get_preprocessing_fn("resnet50", "imagenet") returns, which asks a server for these numbers
    imagenet = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_range": [0, 1], "input_space": "RGB"}
    model, preprocess = build_network(), partial(preprocess_input, **imagenet)

    class Files(torch.utils.data.Dataset):
        def __init__(self, paths: list[Path]):
            self.paths = paths

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
            image: Any = cv2.cvtColor(cv2.imread(str(self.paths[index])), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
            return preprocess(image).transpose(2, 0, 1).astype("float32"), self.paths[index].stem

    @torch.inference_mode()
    def run(paths: list[Path], out: Path) -> None:
        for images, names in torch.utils.data.DataLoader(Files(paths), batch_size=1, num_workers=2):
            masks = logits_of(model, images).softmax(1).argmax(1)
            for mask, name in zip(masks.numpy(), names, strict=True):
                cv2.imwrite(str(out / f"{name}.png"), mask.astype(np.uint8))

    return run


def mmseg_side(own_network: bool, info: DatasetInfo) -> Run:
    """Predict with MMSegInferencer at the size of the images.

    Args:
        own_network: run mmsegmentation's ICNet instead of the network of the other sides.
        info: the classes.
    """
    mmseg = import_mmseg()
    from mmengine.config import Config  # pyright: ignore[reportMissingImports]
    from mmengine.infer import BaseInferencer  # pyright: ignore[reportMissingImports]
    from mmseg.apis import MMSegInferencer  # pyright: ignore[reportMissingImports]

    path = next(Path(mmseg.__file__).parent.glob(".mim/configs/icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832.py"))
    config = Config.fromfile(str(path))
    config.test_dataloader.dataset.pipeline = [{"type": "LoadImageFromFile"}, {"type": "PackSegInputs"}]  # keeps the size
    inferencer = MMSegInferencer(config, device="cpu")
    inferencer.show_progress = False
    if not own_network:
        model = build_network()
        inferencer.model.encode_decode = lambda inputs, metas: logits_of(model, inputs)

    def run(paths: list[Path], out: Path) -> None:
        inputs = [str(path) for path in paths]
        BaseInferencer.__call__(inferencer, inputs, batch_size=1, img_out_dir="", pred_out_dir=str(out))

    return run


SIDES: dict[str, Callable[[DatasetInfo], Run]] = {
    "segzoo eager": partial(segzoo_side, "eager"),
    "segzoo openvino": partial(segzoo_side, "openvino"),
    "plain loop": plain_side,
    "smp": smp_side,
    "mmseg": partial(mmseg_side, False),
    "mmseg icnet_r18": partial(mmseg_side, True),
}


def build_sides(names: Sequence[str], info: DatasetInfo) -> dict[str, Run]:
    """Build the sides whose packages are installed."""
    sides = {}
    for name in names:
        try:
            sides[name] = SIDES[name](info)
        except ImportError as error:
            print(f"{name} is left out: {error}", flush=True)
    return sides


def measure(name: str, size: Size, sides: dict[str, Run]) -> list[dict[str, Any]]:
    """Time all sides alternately on images of one size.

    Two images each warm them up.
    """
    reports: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as parent:
        paths, first = (write_images(Path(parent, folder), size.hw, count) for folder, count in (("all", size.images), ("two", 2)))

        def call(side: str, paths: list[Path]) -> None:
            with tempfile.TemporaryDirectory(dir=parent) as out:
                reports[side] = sides[side](paths, Path(out))
                assert sum(1 for _ in Path(out).rglob("*.png")) == len(paths), f"{side} wrote other files"

        for side in sides:
            call(side, first)
        calls = {side: partial(call, side, paths) for side in sides}
        taken = time_interleaved(calls, seconds=0, min_rounds=size.rounds, max_rounds=size.rounds, warmup=0)
    rows = []
    for side in (name for name in sides if name.startswith("segzoo")):
        shares = {key: reports[side][key] for key in ("limited_by", "time_shares")}
        for peer in (name for name in sides if not name.startswith("segzoo")):
            times = compare_to_peer(taken[side], taken[peer])
            speeds = {
                key.replace("_ms", "_images_per_second"): 1000 * len(paths) / ms for key, ms in times.items() if key.endswith("_ms")
            }
            rows.append({"size": name, "images": len(paths), "side": side, "peer": peer, **speeds, **times, **shares})
            print({key: rows[-1][key] for key in ("size", "side", "peer", *speeds, "ratio", "low", "high")}, flush=True)
    return rows


def main(args: argparse.Namespace) -> None:
    """Measure one size after the other."""
    info = DatasetInfo("camvid", tuple(f"class {k}" for k in range(CLASSES)), tuple((k, k, k) for k in range(CLASSES)))
    sides = build_sides(args.sides, info)
    for name in [args.size] if args.size else SIZES:
        size = SIZES[name]
        rows = measure(name, Size(size.hw, args.images or size.images, args.rounds or size.rounds), sides)
        if args.images is None and args.rounds is None and args.sides == list(SIDES):
            print(write_result(f"prediction_{name}", args.command, rows, packages=PACKAGES))
