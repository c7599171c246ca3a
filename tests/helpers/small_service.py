"""A service with a tiny network, and requests without sockets."""

from __future__ import annotations

import asyncio
import io
import threading

import httpx2
import numpy as np
import torch
from PIL import Image
from small_models import build, randomized

from segzoo.inference.protocol import SINGLE_PASS
from segzoo.types import DatasetInfo
from segzoo.workflows.serve.app import create_app
from segzoo.workflows.serve.models import ServedModel
from segzoo.workflows.serve.service import Limits, Service

INFO = DatasetInfo(
    "parts", ("background", "bolt", "<b>&nut</b>"), ((0, 0, 0), (200, 0, 0), (0, 0, 250)), (120.0, 110.0, 100.0), (60.0, 58.0, 57.0)
)


def small_model(name: str = "default", seed: int = 0) -> ServedModel:
    """A network that predicts several classes."""
    torch.manual_seed(seed)
    network = randomized(build("icnet", num_classes=3)).eval().to(memory_format=torch.channels_last)
    network.info = INFO
    return ServedModel(name, "icnet-resnet50-parts", network, SINGLE_PASS)


class GatedModel:
    """A model that labels images only after ``go`` is set."""

    name, info, has_probabilities = "default", INFO, True

    def __init__(self, model: ServedModel):
        self.model, self.started, self.go = model, threading.Event(), threading.Event()

    def predict(self, images, probabilities):
        self.started.set()
        assert self.go.wait(60)
        return self.model.predict(images, probabilities)

    def describe(self):
        return self.model.describe()


def pattern(seed: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Blocks of random colors."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def encoded(pixels: np.ndarray, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def decoded(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


class Client:
    """Requests to the application of a service, within this process."""

    def __init__(self, *models, token: str | None = None, loopback: bool = True, **limits):
        self.service = Service({model.name: model for model in models}, Limits(**limits))
        self.app = create_app(self.service, token=token, loopback=loopback)

    def gather(self, *requests: dict, host: str = "http://127.0.0.1:8000") -> list[httpx2.Response]:
        """Send requests at the same time."""

        async def send() -> list[httpx2.Response]:
            transport = httpx2.ASGITransport(app=self.app)
            async with httpx2.AsyncClient(transport=transport, base_url=host, timeout=60) as client:
                return await asyncio.gather(*(client.request(**request) for request in requests))

        return asyncio.run(send())

    def post(self, url: str, content: bytes | None = None, **options) -> httpx2.Response:
        return self.gather({"method": "POST", "url": url, "content": content, **options})[0]

    def get(self, url: str, **options) -> httpx2.Response:
        return self.gather({"method": "GET", "url": url, **options})[0]
