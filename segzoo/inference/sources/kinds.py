"""Kinds of sources, recognized by their text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from segzoo.io import file_name

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts", ".flv", ".3gp")
SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")
STANDARD_INPUT, LIST_SUFFIX = "-", ".txt"
EMBEDDED = "parts"  # the data set whose images segzoo renders

Kind = Literal["images", "list", "embedded", "video", "camera", "stream"]
VIDEO_KINDS = ("video", "camera", "stream")


def source_kind(source: str | int) -> Kind:
    """Tell the kind of a source.

    Args:
        source: an image, a folder or a pattern (``images``); a text file of paths or ``-`` for standard input (``list``); ``parts``
            (``embedded``); a video file; the number of a camera; or the address of a stream. A file or folder that exists is none of the
            last ones.
    """
    text = str(source)
    suffix = Path(text).suffix.lower()
    if os.path.isfile(text) and suffix in (*VIDEO_SUFFIXES, LIST_SUFFIX):
        return "list" if suffix == LIST_SUFFIX else "video"
    if os.path.exists(text):
        return "images"
    if text == STANDARD_INPUT:
        return "list"
    if text == EMBEDDED:
        return "embedded"
    if text.isdecimal():
        return "camera"
    return "stream" if "://" in text and text.partition("://")[0].lower() in SCHEMES else "images"


def without_credentials(address: str) -> str:
    """Remove user and password from the address of a stream."""
    scheme, separator, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def video_name(source: str | int, kind: Kind) -> str:
    """Name the folder of a video's frames, such as ``clip`` or ``camera0``."""
    if kind == "camera":
        return f"camera{source}"
    if kind == "video":
        return Path(str(source)).stem
    parts = urlsplit(without_credentials(str(source)))
    return file_name(f"{parts.hostname or ''}{parts.path}".rstrip("/"))
