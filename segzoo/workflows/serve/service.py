"""The service without HTTP: models, the queue before them, and limits."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple, ParamSpec, TypeVar

import numpy as np

from segzoo.inference.prediction.inputs import BATCH_PIXELS
from segzoo.registry import Range
from segzoo.workflows.serve.batching import BatchQueue, Timed
from segzoo.workflows.serve.metrics import Metrics

if TYPE_CHECKING:
    from segzoo.inference.prediction.result import Prediction
    from segzoo.workflows.serve.models import ServedModel

P = ParamSpec("P")
R = TypeVar("R")
CODERS = 4  # threads that decode and encode images
LARGEST_IMAGES, LEAST_MEGAPIXELS = 8, 512  # images of max_megapixels, and megapixels, that may be in progress in any case


class QueueFull(Exception):
    """No more images fit.

    Attributes:
        seconds: when some probably will.
    """

    def __init__(self, seconds: int):
        super().__init__(seconds)
        self.seconds = seconds


class Draining(Exception):
    """The service finishes what it has and takes nothing new."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the requests that the service takes.

    Attributes:
        max_batch: images per forward pass, of one size. Larger ones than half a megapixel go in smaller batches.
        batch_wait_ms: how long an image waits for others of its size.
        max_queue: images that are uploaded, queued or labeled at a time, also the most of one request. More are rejected with status 429.
        max_mb: megabytes of a request, else status 413.
        max_megapixels: megapixels of an image, else status 413. All images in progress may have eight times as many, at least 512; a single
            request with more gets 413, another one 429.
        timeout_s: seconds for the upload (status 408), and from then on for the answer (status 504).
    """

    max_batch: Annotated[int, Range(1, 64)] = 8
    batch_wait_ms: Annotated[float, Range(0, 1000)] = 5.0
    max_queue: Annotated[int, Range(1, 10000)] = 64
    max_mb: Annotated[float, Range(0, 1000, above=True)] = 32.0
    max_megapixels: Annotated[float, Range(0, 178, above=True)] = 25.0
    timeout_s: Annotated[float, Range(0, 3600, above=True)] = 30.0


class Kind(NamedTuple):
    """Common properties of the images of a batch."""

    model: str
    size: tuple[int, int]
    probabilities: bool


class Service:
    """Models that label images of several clients at a time.

    Everything but the network runs in the event loop of the server, or in threads that it awaits.

    Args:
        models: the models by name. The first is the default.
        limits: see ``Limits``.
    """

    def __init__(self, models: dict[str, ServedModel], limits: Limits):
        self.models, self.limits = models, limits
        self.in_progress = self.pixels_in_progress = 0
        self.draining = False
        self.queue = BatchQueue(self._run, self._max_batch, limits.batch_wait_ms / 1000)
        self.metrics = Metrics(lambda: self.in_progress, self.queue.__len__)
        self._coders = ThreadPoolExecutor(CODERS, "coder")

    @property
    def default_model(self) -> ServedModel:
        """The model of requests that name none."""
        return next(iter(self.models.values()))

    def admit(self) -> AbstractContextManager[None]:
        """Take a request into work during a ``with`` block, for one image.

        Raises:
            Draining, QueueFull: nothing is taken now.
        """
        if self.draining:
            raise Draining
        return self.admit_more(1)

    @contextmanager
    def admit_more(self, images: int) -> Iterator[None]:
        """Take further images of a request that is in progress.

        Raises:
            QueueFull: they do not fit.
        """
        if self.in_progress + images > self.limits.max_queue:
            raise self._full()
        self.in_progress += images
        try:
            yield
        finally:
            self.in_progress -= images

    @contextmanager
    def hold_pixels(self, pixels: int) -> Iterator[None]:
        """Hold decoded images of a request in memory.

        Raises:
            QueueFull: they do not fit in addition to those of other requests.
        """
        if self.pixels_in_progress + pixels > self.max_pixels_in_progress:
            raise self._full()
        self.pixels_in_progress += pixels
        try:
            yield
        finally:
            self.pixels_in_progress -= pixels

    def _full(self) -> QueueFull:
        return QueueFull(max(1, math.ceil(self.in_progress * self.queue.seconds_per_item)))

    @property
    def max_pixels_in_progress(self) -> int:
        """Pixels of all decoded images together."""
        return int(max(LARGEST_IMAGES * self.limits.max_megapixels, LEAST_MEGAPIXELS) * 1e6)

    async def in_thread(self, function: Callable[P, R], *args: P.args, **settings: P.kwargs) -> R:
        """Decode or encode without blocking the server."""
        return await asyncio.get_running_loop().run_in_executor(self._coders, partial(function, *args, **settings))

    async def predict(self, model: ServedModel, images: Sequence[np.ndarray], probabilities: bool) -> list[Timed[Prediction]]:
        """Label images, each in a batch with others of its size.

        Args:
            model: one of ``models``.
            images: (H, W, C) each.
            probabilities: also compute the class probabilities.

        Returns:
            A ``Prediction`` for each, with its times.

        Raises:
            ValueError: an image is too small for the model.
        """
        kinds = [Kind(model.name, image.shape[:2], probabilities) for image in images]  # type: ignore[arg-type]
        futures = [asyncio.wrap_future(self.queue.submit(kind, image)) for kind, image in zip(kinds, images, strict=True)]
        return await asyncio.gather(*futures)

    def close(self) -> None:
        """Finish what is queued and end all threads."""
        self.queue.close()
        self._coders.shutdown()

    def _max_batch(self, kind: Kind) -> int:
        values = kind.size[0] * kind.size[1] * (self.models[kind.model].info.num_classes if kind.probabilities else 1)
        return max(1, min(self.limits.max_batch, BATCH_PIXELS // values))

    def _run(self, kind: Kind, images: list[np.ndarray]) -> list[Prediction]:
        start = time.perf_counter()
        predictions = self.models[kind.model].predict(images, kind.probabilities)
        self.metrics.count_batch(kind.model, len(images), time.perf_counter() - start)
        return predictions
