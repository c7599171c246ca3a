"""Python API to create models by name, load trained ones and predict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from segzoo.checkpoints.exported_files import find_exported_file
from segzoo.checkpoints.hub import download
from segzoo.checkpoints.paths import is_pretrained
from segzoo.config.build import NumClasses, build_model
from segzoo.config.from_checkpoint import load_model
from segzoo.config.from_export import load_exported, precision_errors, runtime_errors
from segzoo.config.presets import ModelPreset, backbone_preset, model_preset, preset_error, preset_names
from segzoo.config.sections import section_errors
from segzoo.io import plain_numbers
from segzoo.messages import unknown_name_error
from segzoo.registry import BACKBONES, MODELS, ConfigError, type_error
from segzoo.types import PlainMapping

if TYPE_CHECKING:
    from segzoo.device import DeviceName, PrecisionName
    from segzoo.inference.prediction.segmenter import Segmenter
    from segzoo.models._base import SegModel
    from segzoo.runtimes.network import RuntimeName

__all__ = ["create_model", "from_pretrained", "list_backbones", "list_models", "load"]


def list_models() -> list[str]:
    """List the names of all models, variants included."""
    return sorted({*preset_names("model"), *MODELS.names()})


def list_backbones() -> list[str]:
    """List the names of all backbones, variants included."""
    return sorted({*preset_names("backbone"), *BACKBONES.names()})


def create_model(
    name: str,
    backbone: str | PlainMapping | None = None,
    num_classes: int = 21,
    weights: str | None = None,
    **model_settings: Any,
) -> SegModel:
    """Create a model by name, without a configuration file.

    It takes RGB images. ``model.set_input_channels_(4)`` adapts it to others.

    Args:
        name: name of a model as the command line takes it; see ``list_models()``.
        backbone: name of a backbone, or a dictionary with its name and settings, such as ``{"name": "resnet50", "stem": "deep"}``.
            None takes the backbone that the command line takes.
        num_classes: number of classes.
        weights: backbone weights: None, ``imagenet`` or a file.
        **model_settings: settings of the model, checked like those of a YAML file.

    Raises:
        ConfigError: lists all invalid names and settings.
    """
    preset = model_preset(name) if name in preset_names("model") else ModelPreset({"name": name}, "resnet50", {})
    given = {"name": preset.backbone} if backbone is None else {"name": backbone} if isinstance(backbone, str) else dict(backbone)
    if weights is not None:
        given["weights"] = weights
    names = (("model", name, list_models()), ("backbone", given.get("name"), list_backbones()))
    if errors := [unknown_name_error(kind, str(chosen), valid) for kind, chosen, valid in names if chosen not in valid]:
        raise ConfigError(errors)
    if error := preset_error(name, given["name"]):
        raise ConfigError(error)
    base = backbone_preset(given["name"]) if given["name"] in preset_names("backbone") else {"name": given["name"]}
    backbone_section = base | preset.backbone_settings | {key: value for key, value in given.items() if key != "name"}
    model_section = preset.model | model_settings
    errors = section_errors("model", model_section) + section_errors("backbone", backbone_section)
    num_classes = plain_numbers(num_classes)
    if wrong := type_error(num_classes, NumClasses):
        errors.append(f"num_classes={num_classes!r}: expected {wrong}")
    if errors:
        raise ConfigError(errors)
    from segzoo.layers.channel_widths import conv_out_channels

    config = {"model": model_section, "backbone": backbone_section}
    model = build_model(config, num_classes)
    model.origin = {"config": config, "widths": {}, "channels": conv_out_channels(model)}
    return model


@overload
def load(
    path: str | Path,
    *,
    device: DeviceName = "auto",
    precision: PrecisionName = "fp32",
    runtime: Literal["eager", "torch_compile"],
) -> SegModel: ...


@overload
def load(
    path: str | Path, *, device: DeviceName = "auto", precision: PrecisionName = "fp32", runtime: RuntimeName | None = None
) -> Segmenter: ...


def load(
    path: str | Path, *, device: DeviceName = "auto", precision: PrecisionName = "fp32", runtime: RuntimeName | None = None
) -> Segmenter:
    """Load a trained network for prediction, or to train it further.

    It is prepared once, so that each ``predict`` only runs it. Nothing that a file names is executed.

    Args:
        path: a run directory (its best checkpoint), a checkpoint directory or a ``.safetensors`` file; an ``.onnx`` or ``.xml`` file, a
            bundle, or the output directory of an export; or ``parts``, the network that segzoo comes with.
        device: ``auto`` (CUDA if it is available), ``cpu`` or ``cuda``. Exported files run on the CPU.
        precision: ``fp32``, ``bf16``, ``fp16``, or ``auto``: bf16 where the hardware multiplies in it. An exported file has its own.
        runtime: what runs a checkpoint, see ``segzoo.runtimes.network.run_in``: ``eager`` (the same as None), ``torch_compile``,
            ``onnxruntime`` or ``openvino``. An exported file has its own.

    Returns:
        The network in evaluation mode, with its ``info`` and ``predict``. In ``eager`` it is a ``SegModel``, whose layers are at hand
        and can be trained.

    Raises:
        ConfigError: the file is not segzoo's or damaged, or cannot be used as asked.
    """
    from segzoo.device import pick_device
    from segzoo.runtimes.network import run_in

    file = find_exported_file(path)
    if file is None:
        return run_in(load_model(path), "eager" if runtime is None else runtime, precision=precision, device=pick_device(device))
    network = load_exported(file)[0]
    if errors := [*precision_errors(network, {"precision": precision}), *runtime_errors(file, runtime, device)]:
        raise ConfigError(errors)
    return network


def from_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "fp32",
    runtime: RuntimeName | None = None,
) -> Segmenter:
    """Load a network that ``save_pretrained`` or ``push_to_hub`` wrote.

    Its files are checked like those of every checkpoint, and nothing in them is executed.

    Args:
        source: a folder, ``parts``, or a repository ``<owner>/<name>`` of the Hugging Face Hub (extra ``hub``).
        revision: branch, tag or commit of the repository. None takes the newest.
        device, precision, runtime: as for ``load``.

    Raises:
        ConfigError: there is no such folder or repository, it cannot be downloaded, or as ``load``.
    """
    folder = source if Path(source).is_dir() or is_pretrained(source) else download(str(source), revision)
    return load(folder, device=device, precision=precision, runtime=runtime)
