"""Label images with the network in this folder. Needs numpy, pillow and onnxruntime, and nothing else.

    python predict.py image.jpg folder/ --out labels     # label maps with the palette, and overlays
    python predict.py --selftest                           # is this machine's answer the one it was delivered with?

A label map is a PNG whose pixel values are the class numbers of card.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import onnxruntime  # type: ignore[import-not-found]
    from PIL import Image, ImageOps
except ImportError as error:
    raise SystemExit(f"{error}. Do: pip install numpy pillow onnxruntime") from None

HERE = Path(__file__).resolve().parent
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MIN_FONT = 0.999  # share of the self-test's pixels that must have the delivered label


class Network:
    """The exported network of a folder with ``model.onnx`` and ``card.json``; 0 threads leave their number to onnxruntime."""

    def __init__(self, folder: Path = HERE, threads: int = 0):
        self.info: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        found = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
        if found != self.info["model_sha256"]:
            raise SystemExit(f"{folder}/model.onnx is not the file of card.json (SHA-256 {found[:12]}): unpack the bundle again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Labels one image.

        Args:
            image: (H, W, 3) uint8 RGB, of the size in the info if it names one, else 64 pixels or more a side.

        Returns:
            (H, W) class numbers.
        """
        wanted = self.info["hw"]
        came = f"the image has {image.shape[0]}x{image.shape[1]} pixels"
        if wanted and list(image.shape[:2]) != wanted:
            raise ValueError(f"{came}, this network takes {wanted[0]}x{wanted[1]}")
        if not wanted and min(image.shape[:2]) < 64:
            raise ValueError(f"{came}, wanted 64 or more a side")
        return np.asarray(self.session.run(None, {"image": np.ascontiguousarray(image[None])})[0])[0]


def read(path: Path) -> np.ndarray:
    """An image as (H, W, 3) uint8 RGB, turned as its EXIF data say."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def write(path: Path, labels: np.ndarray, info: dict[str, Any], image: np.ndarray) -> None:
    """Writes the label map with the info's palette, and beside it the image tinted with the classes' colors."""
    colors = np.array(info["palette"], np.uint8)
    shown = Image.fromarray(labels.astype(np.uint8), "P")
    shown.putpalette(colors.flatten().tolist())
    shown.save(path)
    tinted = (image * 0.5 + colors[labels] * 0.5).astype(np.uint8)
    Image.fromarray(tinted).save(overlay(path), quality=90)


def overlay(path: Path) -> Path:
    """Where the tinted image of a label map goes."""
    return path.with_name(f"{path.stem}_overlay.jpg")


def find_images(sources: list[str]) -> list[Path]:
    """The files named, and those in the folders named, in order."""
    found: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found += sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES)
        elif source.is_file():
            found.append(source)
        else:
            raise SystemExit(f"{source}: there is no such file or folder")
    return found


def output_paths(found: list[Path], out: Path) -> list[Path]:
    """Where each image's label map goes; ends the program if one would write over an image or over another one's."""
    stems = [path.stem for path in found]
    paths = [out / (f"{path.stem}.png" if stems.count(path.stem) == 1 else f"{path.name}.png") for path in found]
    results = [*paths, *map(overlay, paths)]
    if len(set(results)) < len(results) or {path.resolve() for path in results} & {path.resolve() for path in found}:
        raise SystemExit(f"--out {out}: images or results of one name would write over each other; give another folder")
    return paths


def selftest(network: Network) -> int:
    """Compares this machine's labels of the delivered image with the delivered ones; 0 if they agree."""
    labels = network.predict(read(HERE / "test.png")).astype(np.uint8)
    expected = np.asarray(Image.open(HERE / "test_labels.png"))
    if hashlib.sha256(labels.tobytes()).hexdigest() == network.info["test_labels_sha256"]:
        print("self-test passed: every label is the delivered one")
        return 0
    agreement = float((labels == expected).mean()) if labels.shape == expected.shape else 0.0
    passed = agreement >= MIN_FONT
    print(
        f"self-test {'passed' if passed else 'FAILED'}: {agreement:.3%} of the labels are the delivered ones, wanted {MIN_FONT:.1%}"
    )
    return 0 if passed else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="*", help="images, or folders of images")
    parser.add_argument("--out", default="labels", help="folder for label maps and overlays")
    parser.add_argument("--threads", type=int, default=0, help="processor threads; 0 leaves the choice to onnxruntime")
    parser.add_argument("--selftest", action="store_true", help="label the delivered image and compare")
    words = parser.parse_args()
    network = Network(threads=words.threads)
    if words.selftest:
        return selftest(network)
    found = find_images(words.source)
    if not found:
        parser.error("name images or a folder of images, or say --selftest")
    failed, places = 0, output_paths(found, Path(words.out))
    Path(words.out).mkdir(parents=True, exist_ok=True)
    for path, place in zip(found, places, strict=True):
        try:
            image = read(path)
            start = time.perf_counter()
            labels = network.predict(image)
            taken = 1000 * (time.perf_counter() - start)
            write(place, labels, network.info, image)
            shares = np.bincount(labels.ravel(), minlength=len(network.info["classes"])) / labels.size
            named = [f"{name} {share:.1%}" for name, share in zip(network.info["classes"], shares, strict=False) if share > 0]
            print(f"{path.name}: {taken:.0f} ms, {', '.join(named)}")
        except Exception as error:  # whatever it is, the other images have their turn
            print(f"{path}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
