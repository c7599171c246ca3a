"""Networks of checkpoints or exported files, for the tools that take both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segzoo.checkpoints.exported_files import check_checksums, find_exported_file
from segzoo.config.build import build_protocol
from segzoo.config.checks.runtime import PACKAGES as RUNTIME_PACKAGES
from segzoo.config.from_checkpoint import load_checkpoint, training_crop
from segzoo.config.sections import section_errors
from segzoo.messages import format_override
from segzoo.registry import ConfigError
from segzoo.types import PlainDict, PlainMapping

if TYPE_CHECKING:
    from segzoo.inference.exported.network import ExportedNetwork
    from segzoo.inference.prediction.segmenter import Segmenter
    from segzoo.inference.protocol import InferenceProtocol
    from segzoo.models._base import SegModel
    from segzoo.types import DatasetInfo

PACKAGES = {".xml": "openvino"}  # extra that runs a file, else export
RUNTIMES_OF_FILES = {".xml": "openvino", ".onnx": "onnxruntime", ".zip": "onnxruntime"}


def load_network(config: PlainMapping, *, ckpt: str) -> tuple[SegModel | ExportedNetwork, DatasetInfo, PlainDict]:
    """Load the network of a checkpoint or of an exported file.

    Args:
        config: the settings of the tool. Those that an exported file cannot follow are rejected.
        ckpt: as ``load_checkpoint`` takes it; or an ``.onnx`` or ``.xml`` file, a bundle or the output directory of an export.

    Returns:
        As ``load_checkpoint``. The configuration of an exported file has only ``model``, ``backbone`` and ``data``.

    Raises:
        ConfigError: as ``load_checkpoint``, or the exported file cannot be loaded or do what is asked.
    """
    file = find_exported_file(ckpt)
    if file is None:
        return load_checkpoint(ckpt=ckpt)
    network, meta = load_exported(file)
    errors = precision_errors(network, config)
    if "protocol" in config and not network.has_logits and not build_protocol(fill_window(config, network, meta)).one_pass:
        errors.append(
            f"protocol={config['protocol']['name']} with these settings needs logits, and {file} returns only labels. Use "
            "protocol=whole with its default settings, or export the file with output=both."
        )
    if config.get("confidence", "none") != "none" and not network.has_logits:
        errors.append(
            f"confidence={config['confidence']} needs logits, and {file} returns only labels. Export it with output=both."
        )
    if errors := errors + _threshold_errors(network, file, config.get("threshold")):
        raise ConfigError(errors)
    return network, network.info, meta


def _threshold_errors(network: ExportedNetwork, file: Path, given: PlainMapping | None) -> list[str]:
    """Reject thresholds that differ from those in the labels of a file."""
    recorded = network.threshold.values if network.threshold else {}
    if given is None or network.has_logits or given == recorded:
        return []
    follows = f" that follow {network.threshold.setting}. Omit threshold=, or export" if network.threshold else ". Export"
    return [f"threshold needs class probabilities, and {file} returns only labels{follows} the file with output=both."]


def network_protocol(
    config: PlainMapping,
    network: SegModel | ExportedNetwork,
    info: DatasetInfo,
    meta: PlainMapping,
    threshold: dict[str, float] | None = None,
) -> tuple[InferenceProtocol, list[str]]:
    """Build the protocol of a tool, with what its network brings.

    Args:
        config: its ``protocol`` and ``post`` sections. A null ``crop`` becomes that of the training.
        network, info, meta: as ``load_trained`` returns them.
        threshold: as in ``with_threshold``. None means that of an exported file.

    Returns:
        The protocol, and notes for the user on settings that the network brings.

    Raises:
        ConfigError: the settings are invalid or contradict each other.
    """
    from segzoo.inference.threshold import with_threshold

    if config["post"]["name"] != "none" and not info.pixels.is_rgb:
        raise ConfigError(
            f"post={config['post']['name']} compares the colors of 8-bit RGB images, and this network takes {info.pixels}. Set post=none."
        )
    filled, recorded = fill_window(config, network, meta), network.threshold
    protocol = with_threshold(build_protocol(filled), info, recorded, threshold=threshold)
    notes = []
    if filled is not config:
        notes.append(f"{format_override('protocol.crop', protocol.crop)}, the size that the network was trained at")
    if recorded:
        kept = protocol.threshold == recorded
        notes.append(f"{recorded.setting} is recorded in the exported file{'' if kept else ', and replaced by threshold='}")
    return protocol, notes


def fill_window(config: PlainMapping, network: object, meta: PlainMapping) -> PlainMapping:
    """Replace a null ``protocol.crop`` by the crop of the training.

    Args:
        config: the settings of the tool, which are returned if there is nothing to replace.
        network, meta: as ``load_trained`` returns them. The windows of an exported file of one size have that size.
    """
    section, crop = config["protocol"], training_crop(meta)
    if (metadata := getattr(network, "metadata", None)) is not None:
        crop = metadata["hw"] or metadata.get("crop")
    if section.get("crop", ()) is not None or crop is None:
        return config
    return {**config, "protocol": {**section, "crop": crop}}


def load_exported(file: Path) -> tuple[ExportedNetwork, PlainDict]:
    """Load an exported file and the metadata of its checkpoint.

    Raises:
        ConfigError: the file cannot be loaded or is damaged, or the package that runs it is not installed.
    """
    from segzoo.data.dataset_info import dataset_info_errors
    from segzoo.inference.exported.network import open_exported

    checksums = check_checksums(file)
    try:
        network = open_exported(file)
    except ImportError as error:
        extra = PACKAGES.get(file.suffix.lower(), "export")
        raise ConfigError(f'ckpt={file} needs {error.name}: pip install "segzoo[{extra}]"') from None
    if missing := [key for key in ("model", "backbone", "data") if key not in network.metadata]:
        raise ConfigError(f"ckpt={file}: its metadata lacks {', '.join(missing)}. Export it with tools/export.py.")
    config = {key: network.metadata[key] for key in ("model", "backbone", "data")}
    errors = [error for name, section in config.items() for error in section_errors(name, section)]
    info = network.info
    if errors := errors + dataset_info_errors(info.classes, info.palette, info.label_map, info.ignore):
        raise ConfigError([f"ckpt={file}: its metadata is invalid in this version of segzoo: {error}" for error in errors])
    meta = {
        "config": config,
        "dataset": network.metadata["dataset"],
        "widths": {},
        "sha256": checksums[file.name],
        "path": str(file),
    }
    return network, meta


def precision_errors(network: ExportedNetwork, config: PlainMapping) -> list[str]:
    """Reject a precision that is neither the file's nor a default."""
    if config.get("precision") in (None, "auto", "fp32", network.metadata["precision"]):
        return []
    return [f"precision={config['precision']}: the exported file has {network.metadata['precision']}. Omit precision=."]


def runtime_errors(file: Path, runtime: str | None, device: str) -> list[str]:
    """Reject a runtime and a device that an exported file lacks.

    Args:
        file: the exported file.
        runtime: the runtime, None for that of the file.
        device: the device; ``auto`` is any.
    """
    own = RUNTIMES_OF_FILES[file.suffix.lower()]
    errors = [] if runtime in (None, own) else [f"runtime={runtime}: {file} runs in {own}. Omit runtime=."]
    return errors + (["device=cuda: exported files run on the CPU. Set device=cpu."] if device == "cuda" else [])


def run_as_configured(config: PlainMapping, model: Segmenter) -> tuple[Segmenter, Literal["cpu", "cuda"]]:
    """Prepare the network of a tool to label images of any size.

    In every runtime it is fused for inference.

    Args:
        config: its settings ``ckpt``, ``runtime``, ``device`` and ``precision``.
        model: the loaded network. It is changed.

    Returns:
        The network and its device.

    Raises:
        ConfigError: the runtime does not suit the network, the device or the precision.
    """
    from segzoo.device import pick_device
    from segzoo.runtimes.network import run_in

    runtime, device, file = config["runtime"]["name"], config["device"], find_exported_file(config["ckpt"] or "")
    if file is not None:
        if errors := runtime_errors(file, None if runtime == "eager" else runtime, device):
            raise ConfigError(errors)
        return model, "cpu"
    chosen = pick_device("cpu" if runtime in RUNTIME_PACKAGES and device == "auto" else device)
    if runtime in RUNTIME_PACKAGES:
        print(f"exporting the network for runtime={runtime}", flush=True)
    if runtime == "eager":
        model.fuse_for_inference_()  # type: ignore[operator]
    return run_in(model, runtime, precision=config["precision"], device=chosen), "cuda" if chosen.type == "cuda" else "cpu"
