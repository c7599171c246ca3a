"""Reading of JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segzoo.data.image_io import read_bytes
from segzoo.messages import printable
from segzoo.types import DataError


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: it cannot be read or is not JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{printable(path)}: is not valid JSON ({error}). Export it again.") from error
