"""Folders of trained networks to share: weights, configuration and a model card."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load as from_safetensors
from torch import Tensor

from segzoo.checkpoints.schema import FORMAT, MODEL, CheckpointError
from segzoo.checkpoints.serialization import read_model, read_scores
from segzoo.checkpoints.store import verify_checkpoint, write_manifest
from segzoo.checkpoints.writing import model_bytes
from segzoo.inference.prediction.segmenter import Segmenter
from segzoo.io import write_atomically, write_json, write_text
from segzoo.layers.channel_widths import conv_out_channels
from segzoo.layers.parameters import count_parameters
from segzoo.registry import ConfigError
from segzoo.reporting.html import render_template
from segzoo.types import DatasetInfo, PlainDict, PlainMapping

CONFIG, CARD = "config.json", "README.md"
SHARED_SECTIONS = ("model", "backbone", "loss")  # the data section may hold paths of the machine that trained


def write_pretrained(
    model: Segmenter, folder: Path, license: str | None, repo: str | None, precision: Literal["fp32", "fp16"] = "fp32"
) -> Path:
    """Write what ``SegModel.save_pretrained`` describes.

    Args:
        model, folder, license, precision: as there.
        repo: the repository that the card names, None for the folder.
    """
    metadata, info = _metadata(model)
    content = model_bytes(model, metadata, precision)
    scores = _scores(model, from_safetensors(content))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / MODEL, lambda file: file.write(content))
    write_json(folder / CONFIG, metadata)
    files = {MODEL: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}}
    write_manifest(folder, {"format": FORMAT, "step": metadata["step"], "files": files} | ({"scores": scores} if scores else {}))
    write_text(folder / CARD, model_card(model, info, metadata, scores, license, repo))
    if errors := verify_checkpoint(folder):
        raise CheckpointError(f"{folder} reads back differently than it was written: {'; '.join(errors)}. Check the disk.")
    return folder


def upload_pretrained(model: Segmenter, repo: str, license: str | None, private: bool | None, message: str) -> str:
    """Upload a model, and return the address of its repository."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ConfigError(f'push_to_hub needs {error.name}: pip install "segzoo[hub]"') from None
    api = HfApi()
    with tempfile.TemporaryDirectory(prefix="segzoo-") as folder:
        write_pretrained(model, Path(folder), license, repo)
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    return str(url)


def _metadata(model: Segmenter) -> tuple[PlainDict, DatasetInfo]:
    """Collect the metadata of the weight file.

    Raises:
        ConfigError: the configuration or the classes of the network are unknown, or ``info`` has others.
    """
    if model.origin is None:
        raise ConfigError(
            "this network cannot be saved: its configuration is not known, or it was fused for inference. Load it with segzoo.load or create "
            "it with segzoo.create_model, in runtime='eager'."
        )
    if model.info is None:
        raise ConfigError("this network cannot be saved without its classes: set model.info to the DatasetInfo of the data.")
    info = model.checked_info()
    given = model.origin["config"]
    config = {key: dict(given[key]) for key in SHARED_SECTIONS if key in given}
    if "data" in given and not _has_text({key: value for key, value in given["data"].items() if key != "name"}):
        config["data"] = dict(given["data"])  # generated images, which have no path
    config["backbone"]["weights"] = "none"  # they are in the file
    built, now = model.origin["channels"], conv_out_channels(model)
    widths = model.origin["widths"] | {name: count for name, count in now.items() if count != built[name]}
    metadata = {"format": FORMAT, "step": model.origin.get("step", 0), "config": config}
    return metadata | {"dataset": info.to_dict(), "widths": widths}, info


def _has_text(value: object) -> bool:
    """Search the values of plain containers for a string."""
    if isinstance(value, Mapping):
        return any(map(_has_text, value.values()))
    return isinstance(value, str) or (isinstance(value, list | tuple) and any(map(_has_text, value)))


def _scores(model: Segmenter, written: Mapping[str, Tensor]) -> PlainDict | None:
    """Read the scores of the checkpoint whose weights are written."""
    path = (model.origin or {}).get("path")
    try:
        stored, meta = read_model(path) if path else ({}, {})
        scores = read_scores(Path(path).parent) if path else None
    except CheckpointError:  # deleted meanwhile
        return None
    is_same = bool(stored) and meta["sha256"] == (model.origin or {}).get("sha256") and stored.keys() == written.keys()
    is_same = is_same and all(torch.equal(stored[name], tensor.to(stored[name].dtype)) for name, tensor in written.items())
    return scores if is_same else None


def model_card(
    model: Segmenter, info: DatasetInfo, metadata: PlainMapping, scores: PlainMapping | None, license: str | None, repo: str | None
) -> str:
    """Write the model card, in Markdown with its fields for the Hub."""
    config, origin = metadata["config"], model.origin or {}
    per_class = (scores or {}).get("per_class", {})
    classes = [
        (k, name.replace("|", "\\|"), "#{:02x}{:02x}{:02x}".format(*color), per_class.get(name, {}).get("iou"))
        for k, (name, color) in enumerate(zip(info.classes, info.palette, strict=True))
    ]
    return render_template(
        "model_card.md",
        model=config["model"]["name"],
        backbone=config["backbone"]["name"],
        weights=str(origin["config"]["backbone"].get("weights", "none")) if origin.get("config") else "none",
        millions=round(count_parameters(model) / 1e6, 2),
        data=info.name,
        step=metadata["step"],
        classes=classes,
        scores=scores,
        protocol=json.dumps((scores or {}).get("protocol", {}), sort_keys=True),
        license=license,
        source=repo or "path/to/this/folder",
        checksum=origin.get("sha256"),
    )
