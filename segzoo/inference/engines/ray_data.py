"""Prediction on a Ray cluster, from and to any storage of fsspec."""

from __future__ import annotations

import json
import posixpath
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from torch import nn

from segzoo.channel_decoder import decode_channels
from segzoo.data.channels.reading import image_suffixes
from segzoo.device import DeviceName, Precision, PrecisionName, pick_device
from segzoo.image_decoder import ImageError
from segzoo.inference.protocol import InferenceProtocol, check_label_size
from segzoo.inference.sources._base import Item
from segzoo.inference.sources.image_files import unique_names
from segzoo.inference.stages import Network, Task
from segzoo.layers.modes import channels_last
from segzoo.registry import ConfigError, Range
from segzoo.types import DataError, DatasetInfo, PlainDict
from segzoo.visualization.label_png import encode_label_png

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Columns = dict[str, np.ndarray]
READER_CPUS = 0.1  # of a core; with whole cores, actors on all of them would wait for readers without one


class Labeler:
    """Actor that holds the network, labels images and writes their label maps.

    Ray runs the images of an actor that died again, so the label maps are written at once under their final name.

    Args:
        model, info, protocol, precision, device: as in ``predict_images``.
        out: folder or URL of the results.
        names: name of each image's results by its path.
    """

    def __init__(
        self,
        model: nn.Module,
        info: DatasetInfo,
        protocol: InferenceProtocol,
        precision: PrecisionName,
        device: DeviceName,
        out: str,
        names: dict[str, str],
    ):
        layer_precision = Precision(precision, pick_device(device))
        self.network = Network(model.to(layer_precision.device).eval(), info, protocol, layer_precision, None, "none")
        self.out, self.names = out, names

    def __call__(self, batch: Columns) -> Columns:
        """Label the images in the columns ``path`` and ``bytes``.

        Returns:
            The columns ``path`` and ``error``, which is empty if the label map is written.
        """
        errors = [self._label(str(path), data) for path, data in zip(batch["path"], batch["bytes"], strict=True)]
        return {"path": batch["path"], "error": np.array(errors, dtype=object)}

    def _label(self, path: str, data: bytes) -> str:
        item = Item(self.names[path], path, lambda: None)
        try:
            image = decode_channels(data, *self.network.info.pixels)[0]
        except ImageError as error:
            return f"{path} {error}"
        with channels_last(self.network.model):
            (task,) = self.network.label([Task(item, image)])
        if task.label is None:
            return str(task.error)
        write_file(posixpath.join(self.out, "labels", f"{item.name}.png"), encode_label_png(task.label, self.network.info.palette))
        return ""


def write_file(url: str, data: bytes) -> None:
    """Write a file that appears as a whole."""
    fs, path = filesystem(url)
    fs.makedirs(posixpath.dirname(path), exist_ok=True)
    if "file" not in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)):
        fs.pipe_file(path, data)  # an object store shows an object once it is complete
        return
    part = posixpath.join(posixpath.dirname(path), f".{uuid.uuid4().hex}.tmp")
    fs.pipe_file(part, data)
    fs.mv(part, path)


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """Return fsspec's file system of a URL, and the path there.

    Raises:
        ConfigError: a package is missing, such as s3fs for s3://.
    """
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(f'{url} cannot be used: {error}. For engine=ray: pip install "segzoo[ray]", and s3fs for s3://') from None


def claim_folder(out: str, identity: PlainDict) -> None:
    """Raise ConfigError if a folder holds labels of another network."""
    target, path = filesystem(posixpath.join(out, "labels.json"))
    if not target.exists(path):
        write_file(posixpath.join(out, "labels.json"), json.dumps(identity, indent=2).encode())
    elif (stored := json.loads(target.cat_file(path))) != identity:
        changed = ", ".join(sorted(key for key in stored.keys() | identity.keys() if stored.get(key) != identity.get(key)))
        raise ConfigError(f"out={out} holds labels of other settings ({changed}). Set another out, or remove it.")


def name_images(fs: AbstractFileSystem, folder: str, suffixes: tuple[str, ...], results: str | None = None) -> dict[str, str]:
    """Name the results of a folder's images by their paths.

    Hidden files are left out, and those below ``results``.
    """
    found = fs.find(folder) if fs.isdir(folder) else []
    images = [path for path in found if path.lower().endswith(suffixes) and "/." not in path[len(folder) :]]
    paths = sorted(path for path in images if results is None or not path.startswith(f"{results}/"))
    return dict(zip(paths, unique_names([Path(posixpath.relpath(path, folder)) for path in paths]), strict=True))


def predict_with_ray(
    model: nn.Module,
    info: DatasetInfo,
    protocol: InferenceProtocol,
    source: str,
    out: str,
    identity: PlainDict,
    make_labeler: Callable[..., object] = Labeler,
    *,
    actors: Annotated[int, Range(1, 10_000)] = 2,
    device: DeviceName = "auto",
    precision: PrecisionName = "fp32",
) -> PlainDict:
    """Label every image of a folder on a Ray cluster.

    Ray Data reads the files, and actors label them. Ray starts actors that died again and repeats their images. Images that have a label
    map are left out, so the same call resumes an interrupted prediction.

    Args:
        model, info, protocol, device, precision: as in ``predict_images``.
        source: folder or URL with the images, such as ``s3://bucket/images``. It is searched with its folders.
        out: folder or URL of the results, which get the names that ``find_images`` would choose.
        identity: what the labels depend on, such as the checkpoint. It is kept in ``out``, which then takes no other labels.
        make_labeler: class of the actors.
        actors: number of actors, each with one GPU for ``cuda``, or for ``auto`` while the cluster has some, otherwise with one CPU.

    Returns:
        Numbers of ``images``, of those ``done_before``, and the ``folder``.

    Raises:
        ConfigError: as ``predict_images``; there is no image; ``out`` holds labels of another network; or Ray is not installed.
        DataError: images could not be labeled. The message lists all of them.
    """
    try:
        import pyarrow.fs  # type: ignore[import-not-found]
        import ray  # type: ignore[import-not-found]
        import ray.data  # type: ignore[import-not-found]
    except ImportError as error:
        raise ConfigError(f'engine=ray needs {error.name}: pip install "segzoo[ray]"') from None
    check_label_size(protocol)
    claim_folder(out, identity)
    fs, root = filesystem(source)
    target, folder = filesystem(posixpath.join(out, "labels"))
    if not (names := name_images(fs, root, suffixes := image_suffixes(info.pixels), folder if target == fs else None)):
        raise ConfigError(f"source={source} is not a folder with images; expected files ending in {' '.join(suffixes)}.")
    done = set(target.find(folder)) if target.exists(folder) else set()
    rest = [path for path, name in names.items() if posixpath.join(folder, f"{name}.png") not in done]
    if rest:
        ray.init(ignore_reinit_error=True, log_to_driver=False)
        arrow = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))
        images = ray.data.read_binary_files(rest, filesystem=arrow, include_paths=True, num_cpus=READER_CPUS)
        gpus = int(ray.cluster_resources().get("GPU", 0)) if device == "auto" else 0
        options = {"compute": ray.data.ActorPoolStrategy(size=min(actors, len(rest), gpus or actors)), "batch_size": 1}
        options |= {"num_gpus": 1} if device == "cuda" or gpus else {"num_cpus": 1 - READER_CPUS}
        labeled = images.map_batches(
            make_labeler, fn_constructor_args=(model, info, protocol, precision, device, out, names), **options
        )
        if errors := sorted(row["error"] for row in labeled.iter_rows() if row["error"]):
            raise DataError("\n".join([f"{len(errors)} of {len(names)} images could not be labeled:", *errors]))
    return {"images": len(names), "done_before": len(names) - len(rest), "folder": out}
