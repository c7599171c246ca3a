"""Images of HTTP requests, within limits of bytes, seconds and pixels.

Nothing of an upload is executed or written to disk, and the file name of a client is no more than a text in LabelMe files.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple

import numpy as np
from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from segzoo.channel_decoder import decode_channels
from segzoo.image_decoder import ImageError, ImageTooLarge, UnknownFormat
from segzoo.pixel_format import RGB, PixelFormat

IMAGE_TYPES = ("image/", "application/octet-stream", "application/x-www-form-urlencoded")  # the last is what curl states by default
MAX_SCANS = 100  # of a progressive JPEG, which takes the time of a whole image for each
CLOSE = {"Connection": "close"}


class Upload(NamedTuple):
    """An uploaded file.

    Attributes:
        name: its name without folders, empty if there is none.
        data: its content.
    """

    name: str
    data: bytes


async def read_uploads(request: Request, *, max_bytes: int, max_images: int, seconds: float) -> list[Upload]:
    """Read the image in the body, or the images of a form.

    Args:
        request: the request.
        max_bytes: of the whole body.
        max_images: files of a form.
        seconds: time that the upload may take.

    Raises:
        HTTPException: 400 for a broken form or none, 408 for a slow upload, 413 for too many bytes or files, 415 for another type, 422 for
            form fields, which are not used.
    """
    kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if kind != "multipart/form-data" and not kind.startswith(IMAGE_TYPES):
        raise HTTPException(415, f"Content-Type: {kind} is not an image. Send the bytes of an image, or a form of files.")
    chunks = _chunks(request, max_bytes)
    try:
        async with asyncio.timeout(seconds):
            if kind == "multipart/form-data":
                return await _read_form(request, chunks, max_bytes, max_images)
            body = b"".join([chunk async for chunk in chunks])
    except TimeoutError:
        raise HTTPException(408, f"The upload took more than {seconds:g} seconds.", CLOSE) from None
    except ClientDisconnect:
        raise HTTPException(400, "The upload broke off.") from None
    if not body:
        raise HTTPException(400, "The request has no body. Send the bytes of an image, or a form of files.")
    return [Upload("", body)]


async def _chunks(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield the body, and raise 413 once it is too long."""
    limit = f"{max_bytes / 1e6:g} MB" if max_bytes >= 10_000 else f"{max_bytes} bytes"
    error = HTTPException(413, f"The upload exceeds the limit of {limit}. Send a smaller image or a JPEG.")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise error
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_bytes:
            raise error
        yield chunk


async def _read_form(request: Request, chunks: AsyncGenerator[bytes, None], max_bytes: int, max_images: int) -> list[Upload]:
    """Read the files of a form into memory."""
    parser = _FormParser(request.headers, chunks, max_files=max_images, max_fields=8, max_part_size=4096)
    parser.spool_max_size = max_bytes + 1  # no temporary files on disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status = 413 if "Too many files" in error.message else 400
        hint = " A file needs a filename in its Content-Disposition." if "maximum size" in error.message else ""
        raise HTTPException(status, f"The form cannot be read: {error.message.rstrip('.')}.{hint}") from None
    if not parser.ended:
        raise HTTPException(400, "The form ends early: its closing boundary is missing. Send it again.")
    files = []
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            raise HTTPException(
                422, f"The form field {name[:40]!r} is not used. Write settings into the address: /predict?output=labels"
            )
        files.append(Upload(base_name(value.filename or ""), await value.read()))
        await value.close()
    if not files:
        raise HTTPException(400, "The form has no file. Add images: curl -F image=@a.png -F image=@b.png")
    return files


class _FormParser(MultiPartParser):
    """A parser that knows whether the form was complete.

    Starlette leaves out a file that breaks off.
    """

    ended = False

    def on_end(self) -> None:
        self.ended = True


def base_name(name: str) -> str:
    """Return the name of a file without folders, of any system."""
    return name.replace("\\", "/").rpartition("/")[2]


def decode_upload(data: bytes, max_pixels: int, pixels: PixelFormat = RGB) -> np.ndarray:
    """Decode an uploaded image, unless its header announces too many pixels.

    Args:
        data: the file.
        max_pixels: of its header.
        pixels: channels and bits of the images that the model takes.

    Returns:
        (H, W, C), upright.

    Raises:
        HTTPException: 400 for a damaged image, 413 for one that is too large, 415 for something else.
    """
    if data[:2] == b"\xff\xd8" and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise HTTPException(413, f"The JPEG has {scans} scans, more than {MAX_SCANS}. Save it as an ordinary JPEG.")
    try:
        return decode_channels(data, *pixels, max_pixels)[0]
    except ImageTooLarge as error:
        raise HTTPException(413, f"The image is too large: {error}") from None
    except UnknownFormat as error:
        raise HTTPException(415, f"The upload {error}") from None
    except ImageError as error:
        raise HTTPException(400, f"The image cannot be read: {error}") from None
