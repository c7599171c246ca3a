"""Requests to a service with any network, without sockets."""

from __future__ import annotations

import asyncio
import io

import httpx2
import numpy as np
from PIL import Image

from segzoo.inference.protocol import SINGLE_PASS
from segzoo.workflows.serve.app import create_app
from segzoo.workflows.serve.models import ServedModel
from segzoo.workflows.serve.service import Limits, Service


def label_by_service(network, data: bytes) -> np.ndarray:
    """Label an image file by POST /predict."""
    service = Service({"default": ServedModel("default", "tiny", network, SINGLE_PASS)}, Limits())

    async def send() -> httpx2.Response:
        transport = httpx2.ASGITransport(create_app(service))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/predict?output=labels", content=data, headers={"Content-Type": "application/octet-stream"})

    try:
        response = asyncio.run(send())
    finally:
        service.close()
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))
