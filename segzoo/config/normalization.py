"""Mean and standard deviation of a training that starts from trained weights."""

from __future__ import annotations

from typing import Literal

from segzoo.config.build import build_data
from segzoo.messages import format_override
from segzoo.registry import DATA, ConfigError
from segzoo.types import Normalization, PlainDict, PlainMapping


def choose_normalization(
    config: PlainMapping, *, normalization: Literal["same", "weights", "data"] = "same"
) -> tuple[PlainDict, str]:
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
    from segzoo.weights.normalization import same_normalization, trained_normalization

    data, source = dict(config["data"]), _starting_weights(config)
    if source is None:
        return data, ""
    info = build_data(data, "train").info
    own, trained = info.normalization, trained_normalization(source[1])
    setting = "=".join(source)
    if trained is None and normalization == "weights":
        raise ConfigError(
            f"normalization=weights: {setting} does not tell how its images were normalized. Set data.mean and data.std to the values that "
            "it was trained with, and normalization=data."
        )
    if trained is None:
        return (
            data,
            f"{setting} does not tell how its images were normalized. Used here: {_describe(own)}, those of data={info.name}.",
        )
    if same_normalization(own, trained):
        return data, ""
    if normalization == "data":
        return data, f"normalization=data: {_describe(own)}, although {setting} was trained with {_describe(trained)}."
    has_settings = {"mean", "std"} <= DATA.settings(data["name"]).keys()
    if normalization == "weights" and has_settings:
        note = f"normalization=weights: {_describe(trained)}, those of {setting}, instead of {_describe(own)}."
        return data | {"mean": list(trained.mean), "std": list(trained.std)}, note
    raise ConfigError(_mismatch_error(setting, trained, info.name, own, has_settings))


def _starting_weights(config: PlainMapping) -> tuple[str, str] | None:
    """Setting and value of the weights that are loaded last."""
    settings = {
        "ckpt": config.get("ckpt"),
        "init.ckpt": config["init"].get("ckpt"),
        "backbone.weights": config["backbone"].get("weights", "none"),
    }
    return next(((key, value) for key, value in settings.items() if value not in (None, "none")), None)


def _mismatch_error(setting: str, trained: Normalization, data_name: str, own: Normalization, has_settings: bool) -> str:
    words = f"{format_override('data.mean', trained.mean)} {format_override('data.std', trained.std)}"
    scale = " The values of the data are on the scale 0 to 1, but images have 0 to 255." if has_unit_scale(own) else ""
    hint = f"Set {words}, or normalization=weights" if has_settings else "Use data with these values"
    return (
        f"{setting} was trained on images with {_describe(trained)}, but data={data_name} has {_describe(own)}.{scale} {hint}. To keep "
        "the values of the data, set normalization=data."
    )


def has_unit_scale(normalization: Normalization) -> bool:
    """Detect values that suit images of the scale 0 to 1."""
    return max(normalization.mean) < 1.5 and max(normalization.std) < 1.5 and normalization.mean != (0, 0, 0)


def _describe(normalization: Normalization) -> str:
    mean, std = (", ".join(f"{value:g}" for value in values) for values in normalization)
    return f"mean [{mean}] and std [{std}]"
