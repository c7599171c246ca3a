"""Checks of the settings of tools/serve.py, without torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from segzoo.checkpoints.exported_files import find_exported_file
from segzoo.checkpoints.paths import resolve_weight_file
from segzoo.checkpoints.schema import CheckpointError
from segzoo.config.checks.runtime import runtime_errors
from segzoo.registry import ConfigError
from segzoo.resources import is_installed
from segzoo.types import PlainMapping

PACKAGES = ("fastapi", "uvicorn", "python_multipart")
TOKEN = "SEGZOO_TOKEN"  # environment variable
MIN_TOKEN = 16  # characters


def serving_errors(config: PlainMapping) -> list[str]:
    """List the errors of models, packages, address and token."""
    models = config.get("models")
    missing = [
        f'tools/serve.py needs {name}, which is not installed: pip install "segzoo[serve]".'
        for name in PACKAGES
        if not is_installed(name)
    ][:1]
    errors = missing + runtime_errors(config)
    try:
        paths = served_paths(config.get("ckpt"), config.get("bundle"), models if isinstance(models, Mapping) else None)
    except ConfigError as error:
        return errors + error.errors
    if bundle := config.get("bundle"):
        if isinstance(bundle, str) and not find_exported_file(bundle):
            errors.append(
                f"bundle={bundle}: there is no such bundle. It is the .zip file of tools/export.py bundle=true, or its folder."
            )
    elif isinstance(models, Mapping):  # early_errors checks ckpt itself
        errors += [
            f"models.{name}={path}: {error}"
            for name, path in paths.items()
            if isinstance(path, str) and (error := _path_error(path))
        ]
    try:
        read_token(token_file=config.get("token_file"))
    except ConfigError as error:
        return errors + error.errors
    return errors


def served_paths(ckpt: str | None, bundle: str | None, models: Mapping[str, str] | None) -> dict[str, str]:
    """Return the paths of the models to serve by name.

    Raises:
        ConfigError: not exactly one of the settings is given, or a name is not valid.
    """
    given = {key: value for key, value in (("ckpt", ckpt), ("bundle", bundle), ("models", models)) if value}
    if len(given) != 1:
        what = " and ".join(f"{key}=" for key in given)
        found = f"{what} are both given" if len(given) == 2 else f"{what} are given" if given else "there is no model to serve"
        raise ConfigError(
            f"{found}. Set ckpt=<run directory>, bundle=<file>, or several by name: 'models={{a: runs/a, b: runs/b}}'."
        )
    if wrong := [name for name in models or {} if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", str(name))]:
        raise ConfigError(f"models: the name {wrong[0]!r} is not valid. Use up to 40 letters, digits, '.', '_' and '-'.")
    return dict(models) if models else {"default": ckpt or bundle or ""}


def read_token(*, token_file: str | None = None) -> str | None:
    """Read the token that clients have to send.

    It is in the file, or in the environment variable SEGZOO_TOKEN: other users see the command line in ``ps``. None if there is none.

    Raises:
        ConfigError: both are given, the file cannot be read, or the token is too short or not plain ASCII.
    """
    variable = os.environ.get(TOKEN)
    if token_file is None and variable is None:
        return None
    if token_file is not None and variable is not None:
        raise ConfigError(f"token_file={token_file} and the environment variable {TOKEN} are both given. Omit one of them.")
    source, text = f"the environment variable {TOKEN}", variable or ""
    if token_file is not None:
        source = f"token_file={token_file}"
        try:
            text = Path(token_file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{source} cannot be read: {error}") from None
    token = text.strip()
    if len(token) < MIN_TOKEN or not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(
            f"{source}: the token has {len(token)} characters, expected at least {MIN_TOKEN} letters, digits or signs of ASCII. Create one: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def _path_error(path: str) -> str | None:
    if find_exported_file(path):
        return None
    try:
        resolve_weight_file(path)
    except CheckpointError as error:
        return str(error)
    return None
