"""Label images with the network in this folder.

    python predict.py image.jpg folder/ --out labels     # write label maps and overlays
    python predict.py --selftest                         # compare this machine's labels with the bundled ones

Requires only numpy, pillow 11 or newer and onnxruntime 1.17 or newer. A label map is a palette PNG whose pixel values are the class
indices of card.json. Images are read upright, as segzoo reads them: the decoders are its own code. A network for other channels than RGB or for
16 bits reads files that store them so, such as PNG, TIFF with one channel on each page, or .npy (H, W, C).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import onnxruntime  # type: ignore[import-not-found]
    import PIL
    from PIL import Image
except ImportError as error:
    raise SystemExit(f"{error}. Run: pip install numpy pillow onnxruntime") from None
if int(PIL.__version__.split(".")[0]) < 11:  # whose decoders describe their files in another way
    raise SystemExit(f"pillow {PIL.__version__} is installed, and 11 or newer is needed. Run: pip install --upgrade pillow")
from channel_decoder import (  # type: ignore[import-not-found]  # lies next to this file in a bundle
    NPY_SUFFIX,
    decode_channels,
    decode_samples,
    join_channels,
)
from channel_files import channel_files, is_further_file  # type: ignore[import-not-found]
from drawing import overlay, shown_rgb, with_legend  # type: ignore[import-not-found]
from image_decoder import MAX_PIXELS, SUFFIXES, ImageTooLarge  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
MIN_ONNXRUNTIME = "1.17"  # the first that reads the format of model.onnx


class Network:
    """The exported network of a bundle.

    Args:
        folder: contains ``model.onnx`` and ``card.json``.
        threads: number of CPU threads. 0 lets onnxruntime choose.
    """

    def __init__(self, folder: Path = HERE, threads: int = 0):
        self.info: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        actual = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
        if actual != self.info["model_sha256"]:
            raise SystemExit(f"{folder}/model.onnx does not match card.json (SHA-256 {actual[:12]}): unpack the bundle again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the classes of onnxruntime's errors differ among its versions
            raise SystemExit(
                f"model.onnx needs onnxruntime {MIN_ONNXRUNTIME} or newer and cannot be loaded by the installed {onnxruntime.__version__}: "
                f"{' '.join(str(error).split())[:300]}"
            ) from None

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Label one image.

        Args:
            image: (H, W, C) as ``read_image`` returns it, of the fixed size in ``card.json`` if it has one, otherwise at least 64x64 pixels.

        Returns:
            (H, W) class indices.
        """
        fixed_hw = self.info["hw"]
        actual = f"the image has {image.shape[0]}x{image.shape[1]} pixels"
        if fixed_hw and list(image.shape[:2]) != fixed_hw:
            raise ValueError(f"{actual}, this network takes {fixed_hw[0]}x{fixed_hw[1]}")
        if not fixed_hw and min(image.shape[:2]) < 64:
            raise ValueError(f"{actual}, expected at least 64x64")
        return np.asarray(self.session.run(None, {"image": np.ascontiguousarray(image[None])})[0])[0]


def read_image(
    path: Path, max_pixels: int = MAX_PIXELS, channels: int = 3, bits: int = 8, patterns: Sequence[str] = ()
) -> np.ndarray:
    """Read (H, W, channels) uint8 or uint16, upright.

    With several patterns, the files of the others hold further channels.
    """
    files = channel_files(path, patterns)
    if len(files) == 1:
        return decode_channels(path.read_bytes(), channels, bits, max_pixels)[0]
    return join_channels([decode_samples(file.read_bytes(), channels, max_pixels)[0] for file in files], channels, bits)


def write_results(path: Path, labels: np.ndarray, info: dict[str, Any], image: np.ndarray) -> None:
    """Write the label map as palette PNG, and an overlay."""
    palette, background = info["palette"], info["background"]
    label_map = Image.fromarray(labels.astype(np.uint8), "P")
    label_map.putpalette([channel for color in palette for channel in color])
    label_map.save(path)
    hidden = () if background is None else (background,)
    shown = shown_rgb(image, info.get("show_channels"))
    image = with_legend(overlay(shown, labels, palette, hidden), [labels], info["classes"], palette, hidden)
    Image.fromarray(image).save(overlay_path(path), quality=90)


def overlay_path(path: Path) -> Path:
    """The path of the overlay for a label map."""
    return path.with_name(f"{path.stem}_overlay.jpg")


def find_images(sources: list[str]) -> list[Path]:
    """List the given files and the images in given folders.

    Hidden files, such as the ``._a.jpg`` of macOS, are left out of folders.
    """
    paths: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            paths += sorted(path for path in source.iterdir() if is_image(path))
        elif source.is_file():
            paths.append(source)
        else:
            raise SystemExit(f"{source}: there is no such file or folder")
    return paths


def is_image(path: Path) -> bool:
    """True for a visible file with the suffix of an image."""
    return path.suffix.lower() in (*SUFFIXES, NPY_SUFFIX) and path.name[0] != "."


def describe_results(num_images: int, failed: int, sources: list[str], out: Path) -> str:
    """Count the files written, failed and left out."""
    written = num_images - failed
    line = f"{written} label map{'s' * (written != 1)} with overlays in {out.resolve()}"
    line += f"; {failed} image{'s' * (failed != 1)} failed" if failed else ""
    folders = [Path(source) for source in sources if Path(source).is_dir()]
    others = sum(path.is_file() and not is_image(path) for folder in folders for path in folder.iterdir())
    return line + (f"; {others} file{'s' * (others != 1)} without the suffix of an image left out" if others else "")


def output_paths(images: list[Path], out: Path) -> list[Path]:
    """Choose the path of each image's label map.

    Exits if a result would overwrite an input image or another result.
    """
    counts = Counter(path.stem for path in images)
    paths = [out / (f"{path.stem}.png" if counts[path.stem] == 1 else f"{path.name}.png") for path in images]
    results = [*paths, *map(overlay_path, paths)]
    if len(set(results)) < len(results) or {path.resolve() for path in results} & {path.resolve() for path in images}:
        raise SystemExit(f"--out {out}: results would overwrite input images or each other; choose another folder")
    return paths


def selftest(network: Network) -> int:
    """Compare this machine's labels of the test image with the bundled ones.

    Returns:
        The exit code, 0 if they agree.
    """
    info = network.info
    labels = network.predict(read_image(HERE / info["test_image"], channels=info["channels"], bits=info["bits"])).astype(np.uint8)
    expected = np.asarray(Image.open(HERE / "test_labels.png"))
    if hashlib.sha256(labels.tobytes()).hexdigest() == network.info["test_labels_sha256"]:
        print("self-test passed: all labels equal the bundled ones")
        return 0
    agreement = float((labels == expected).mean()) if labels.shape == expected.shape else 0.0
    required = network.info["min_agreement"]
    passed = agreement >= required
    print(
        f"self-test {'passed' if passed else 'FAILED'}: {agreement:.3%} of the labels equal the bundled ones, "
        f"required {required:.1%}"
    )
    return 0 if passed else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="*", help="images, or folders of images")
    parser.add_argument("--out", default="labels", help="output folder for label maps and overlays (default: labels)")
    parser.add_argument("--threads", type=int, default=0, help="number of CPU threads; 0 lets onnxruntime choose")
    parser.add_argument(
        "--max-megapixels", type=float, default=MAX_PIXELS / 1e6, help="reject larger images, which a small file may state"
    )
    parser.add_argument("--selftest", action="store_true", help="label the bundled test image and compare")
    args = parser.parse_args()
    network = Network(threads=args.threads)
    if args.selftest:
        return selftest(network)
    info = network.info
    patterns = info.get("data", {}).get("images")
    patterns = patterns if isinstance(patterns, list) else []  # of the files that hold the channels of one image
    images = [path for path in find_images(args.source) if not is_further_file(path, patterns)]
    if not images:
        parser.error("no images: give images or folders of images, or use --selftest")
    Image.MAX_IMAGE_PIXELS = None  # --max-megapixels is the limit, instead of Pillow's
    failed, paths = 0, output_paths(images, Path(args.out))
    Path(args.out).mkdir(parents=True, exist_ok=True)
    for source, path in zip(images, paths, strict=True):
        try:
            image = read_image(source, round(args.max_megapixels * 1e6), info["channels"], info["bits"], patterns)
            start = time.perf_counter()
            labels = network.predict(image)
            elapsed_ms = 1000 * (time.perf_counter() - start)
            write_results(path, labels, network.info, image)
            fractions = np.bincount(labels.ravel(), minlength=len(network.info["classes"])) / labels.size
            classes = [f"{name} {f:.1%}" for name, f in zip(network.info["classes"], fractions, strict=False) if f > 0]
            print(f"{source.name}: {elapsed_ms:.0f} ms, {', '.join(classes)}")
        except ImageTooLarge as error:
            print(f"{source}: {error} Or set --max-megapixels.", file=sys.stderr)
            failed += 1
        except Exception as error:  # one bad image must not stop the others
            print(f"{source}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
            failed += 1
    print(describe_results(len(images), failed, args.source, Path(args.out)))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
