"""Download of networks from the Hugging Face Hub."""

from __future__ import annotations

import re

from segzoo.checkpoints.schema import MODEL
from segzoo.checkpoints.store import MANIFEST
from segzoo.registry import ConfigError

NEEDED = (MODEL, MANIFEST)


def download(repo: str, revision: str | None = None) -> str:
    """Download a network into the cache of the Hub's client.

    Only its weights and their manifest are fetched.

    Args:
        repo: ``<owner>/<name>``.
        revision: branch, tag or commit. None takes the newest.

    Returns:
        The folder in the cache.

    Raises:
        ConfigError: this is not the name of a repository, the repository cannot be downloaded, or the extra is missing.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo):
        raise ConfigError(f"{repo} is neither a folder nor a repository <owner>/<name> of the Hugging Face Hub.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ConfigError(f'{repo} is not a folder, and the Hub needs {error.name}: pip install "segzoo[hub]"') from None
    try:
        return snapshot_download(repo, revision=revision, allow_patterns=list(NEEDED))
    except Exception as error:  # the client raises those of its HTTP library too
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{repo} is not a folder, and cannot be downloaded from the Hugging Face Hub: {reason}") from error
