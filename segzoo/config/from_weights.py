"""Networks and normalization that come from weight files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from segzoo.config.build import build_data, build_model
from segzoo.config.checks.required_model import scoring_errors
from segzoo.config.from_checkpoint import check_same_model
from segzoo.config.from_export import load_network
from segzoo.config.sections import section_settings
from segzoo.messages import format_override
from segzoo.registry import DATA, INITS, ConfigError
from segzoo.runs.resume_checks import names_a_run
from segzoo.types import Normalization, PlainDict, PlainMapping

if TYPE_CHECKING:
    from segzoo.inference.exported.network import ExportedNetwork
    from segzoo.models._base import SegModel
    from segzoo.types import DatasetInfo
    from segzoo.weights import LoadReport

Policy = Literal["same", "weights", "data"]


def load_trained(
    config: PlainMapping, *, ckpt: str | None = None, normalization: Policy = "same"
) -> tuple[SegModel | ExportedNetwork, DatasetInfo, PlainDict]:
    """Load a network to score, in evaluation mode.

    Args:
        config: the settings of the tool. With a checkpoint, its ``model``, ``backbone`` and ``data`` sections may be null.
        ckpt: as ``load_network`` takes it. None means ``init.ckpt``.
        normalization: as in ``load_weights``.

    Returns:
        The network, the dataset info, and metadata as ``load_network`` returns them.

    Raises:
        ConfigError: there is no network to score, or as ``load_network`` and ``load_weights``.
    """
    if errors := scoring_errors(config):
        raise ConfigError(errors)
    if ckpt is None:
        return load_weights(config, normalization)
    network, info, meta = load_network(config, ckpt=ckpt)
    check_same_model(meta, config)
    return network, info, meta


def load_weights(config: PlainMapping, normalization: Policy) -> tuple[SegModel, DatasetInfo, PlainDict]:
    """Load the model of ``init.ckpt``.

    The weights may be in any layout that a training could start from.

    Args:
        config: its ``model``, ``backbone``, ``data`` and ``init`` sections.
        normalization: see ``choose_normalization``.

    Returns:
        As ``load_checkpoint``.

    Raises:
        ConfigError: the weights cannot be read, lack layers or classes, or belong to images normalized in another way.
    """
    from segzoo.checkpoints.paths import is_published, resolve_weight_file
    from segzoo.checkpoints.serialization import state_dict_hash
    from segzoo.io import sha256
    from segzoo.weights import log_rank0

    sections = {**config, "ckpt": None, "backbone": {**config["backbone"], "weights": "none"}}
    data, note = choose_normalization(sections, normalization=normalization)
    if note:
        log_rank0(f"note: {note}")
    info = build_data(data, "val").info
    model = build_model(sections, info.num_classes, info.pixels.channels)
    model.info = info
    weights = config["init"]["ckpt"]
    _require_all(INITS.build(config["init"]["name"], model, info.classes, **section_settings(config["init"])), weights)
    sha = state_dict_hash(model) if is_published(weights) else sha256(resolve_weight_file(weights))
    stored = {"model": config["model"], "backbone": sections["backbone"], "data": data, "loss": {"name": "cross_entropy"}}
    return model.eval(), info, {"config": stored, "dataset": info.to_dict(), "widths": {}, "sha256": sha, "path": weights}


def _require_all(report: LoadReport, weights: str) -> None:
    """Reject weights that lack a part of the network.

    Heads that only training uses may be missing.
    """
    missing = [name for name in report.reinitialized if not name.startswith("aux.")]
    if missing:
        raise ConfigError(
            f"init.ckpt={weights} lacks {len(missing)} tensors of this model, such as {', '.join(missing[:3])}, so it cannot be scored. "
            "Set the options of model= and backbone= to those of the weights."
        )
    if report.incomplete:
        raise ConfigError(
            f"init.ckpt={weights} has other classes than the data, in {', '.join(report.incomplete)}. Set data.classes to its classes."
        )


def choose_normalization(config: PlainMapping, *, normalization: Policy = "same") -> tuple[PlainDict, str]:
    """Choose the mean and standard deviation of a training.

    A network has to see images normalized as those that its weights were trained on.

    Args:
        config: its ``data``, ``init`` and ``backbone`` sections, and ``ckpt`` if it has one.
        normalization: ``same``: those of the data, which have to equal those of the weights that the training starts from. ``weights``:
            those of the weights. ``data``: those of the data, whatever the weights were trained on.

    Returns:
        The ``data`` section with the chosen values, and a note for the user, which is empty if nothing had to be chosen.

    Raises:
        ConfigError: the values differ, or with ``weights`` those of the weights are unknown; or the weights cannot be read.
    """
    from segzoo.weights.normalization import same_normalization

    data, source = dict(config["data"]), _starting_weights(config)
    if source is None:
        if normalization == "weights" and names_a_run(config.get("resume")):
            raise ConfigError(
                "normalization=weights: a run that continues from another keeps the values of its data. Omit normalization."
            )
        if normalization == "weights":
            raise ConfigError(
                "normalization=weights: the training starts from no weights. Set init.ckpt=<run or file> or backbone.weights=imagenet, or omit "
                "normalization."
            )
        return data, ""
    info = build_data(data, "train").info
    own, trained = info.normalization, _trained_normalization(config["backbone"], *source)
    setting = "=".join(source)
    if trained is not None and len(trained.mean) != len(own.mean):
        return data, _adapted_note(setting, trained, own, info.name, normalization)
    trained = trained and trained.scaled(info.pixels.largest / 255)
    if trained is None and normalization == "weights":
        raise ConfigError(
            f"normalization=weights: {setting} does not record how its images were normalized. Set data.mean and data.std to the values that "
            "it was trained with, and normalization=data."
        )
    if trained is None:
        return (
            data,
            f"{setting} does not record how its images were normalized. Used here: {_describe(own)}, those of data={info.name}.",
        )
    if same_normalization(own, trained):
        return data, ""
    if normalization == "data":
        return data, f"normalization=data: {_describe(own)}, although {setting} was trained with {_describe(trained)}."
    has_settings = {"mean", "std"} <= DATA.settings(data["name"]).keys()
    if normalization == "weights" and has_settings:
        note = f"normalization=weights: {_describe(trained)}, those of {setting}, instead of {_describe(own)}."
        return data | {"mean": list(trained.mean), "std": list(trained.std)}, note
    raise ConfigError(_mismatch_error(setting, trained, info, has_settings))


def _adapted_note(setting: str, trained: Normalization, own: Normalization, data_name: str, policy: Policy) -> str:
    """Note on weights for images of other channels.

    Raises:
        ConfigError: they are not for RGB, or their normalization is asked for.
    """
    if len(trained.mean) != 3:
        raise ConfigError(
            f"{setting} takes images of {len(trained.mean)} channels, and those of data={data_name} have {len(own.mean)}. Only weights for RGB "
            f"can be adapted. Set data.channels={len(trained.mean)}, or start from other weights."
        )
    if policy == "weights":
        raise ConfigError(
            f"normalization=weights: {setting} was trained on images of {len(trained.mean)} channels, and those of data={data_name} have "
            f"{len(own.mean)}. Set normalization=same for the values of the data."
        )
    return (
        f"{setting} was trained on images of {len(trained.mean)} channels. Its first convolution is adapted to {len(own.mean)}, with "
        f"{_describe(own)}, those of data={data_name}."
    )


def _starting_weights(config: PlainMapping) -> tuple[str, str] | None:
    """Setting and value of the weights that are loaded last."""
    settings = {
        "ckpt": config.get("ckpt"),
        "init.ckpt": config["init"].get("ckpt"),
        "backbone.weights": config["backbone"].get("weights", "none"),
    }
    return next(((key, value) for key, value in settings.items() if value not in (None, "none")), None)


def _trained_normalization(backbone: PlainMapping, setting: str, weights: str) -> Normalization | None:
    """Find the normalization of the starting weights, if they tell it."""
    from segzoo.weights.normalization import trained_normalization

    if setting == "backbone.weights" and backbone.get("name") == "timm":
        from segzoo.backbones.timm import encoder_normalization

        return encoder_normalization(backbone["arch"], weights)
    return trained_normalization(weights)


def _mismatch_error(setting: str, trained: Normalization, info: DatasetInfo, has_settings: bool) -> str:
    own, largest = info.normalization, info.pixels.largest
    words = f"{format_override('data.mean', trained.mean)} {format_override('data.std', trained.std)}"
    scale = f" The values of the data are on the scale 0 to 1, but images have 0 to {largest}." if has_unit_scale(own) else ""
    hint = f"Set {words}, or normalization=weights" if has_settings else "Use data with these values"
    return (
        f"{setting} was trained on images with {_describe(trained)}, but data={info.name} has {_describe(own)}.{scale} {hint}. To keep "
        "the values of the data, set normalization=data."
    )


def has_unit_scale(normalization: Normalization) -> bool:
    """Detect values that suit images of the scale 0 to 1."""
    return max(normalization.mean) < 1.5 and max(normalization.std) < 1.5 and any(normalization.mean)


def _describe(normalization: Normalization) -> str:
    mean, std = (", ".join(f"{value:g}" for value in values) for values in normalization)
    return f"mean [{mean}] and std [{std}]"
