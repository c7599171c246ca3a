"""Batches for training and evaluation: one endless, seeded stream of samples that no worker count or restart can change.

Position p of the training stream is image ``permutation(seed, p // n)[p % n]``, augmented with a seed made of (seed, epoch, index).
A run that goes on at step 1000 therefore starts reading there; nothing before it is opened again.
"""

from __future__ import annotations

import atexit
import hashlib
import itertools
import signal
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.data import DataLoader

from segzoo.data.collate import check_sample, collate
from segzoo.types import Batch, DataError, Dataset, Sample

Augment = Callable[[Sample, int], Sample]
Draw = tuple[int, int]  # (epoch, data-set index)
BLOCKED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def derive_seed(*numbers: int) -> int:
    """A 64-bit seed made of whole numbers, the same on every machine and version: order and every digit count."""
    text = "/".join(str(int(number)) for number in numbers)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def train_batches(
    dataset: Dataset,
    augment: Augment | None,
    *,
    batch_size: int,
    workers: int,
    seed: int,
    start: int = 0,
    stop: int | None = None,
    seen: int = 0,
    rank: int = 0,
    world: int = 1,
) -> BatchStream:
    """The training batches of steps ``start`` (inclusive) to ``stop`` (exclusive; None: for ever) of one rank.

    A step holds ``batch_size * world`` consecutive positions of the sample stream, and rank r takes the r-th block of them. A batch may
    straddle two epochs, so no image is left out and a data set smaller than a batch repeats. Batches are pinned if this process has
    used CUDA before the call, so move the model there first.

    Args:
        dataset: the data set; read in the workers.
        augment: ``(sample, seed) -> sample``; None leaves samples as they are.
        batch_size: images per batch and rank, at least 1.
        workers: worker processes; 0 reads in this process.
        seed: seed of order and augmentation.
        start, stop: steps, counted from 0 over the whole run.
        seen: positions of the sample stream before step 0, taken by an earlier part of the run that had batches of another size.
        rank, world: this process and the number of processes.

    Returns:
        An iterator whose workers end when it is exhausted, dropped or closed with ``close()``.

    Raises:
        ValueError: batch_size, workers, start, stop or rank make no sense.
        DataError: the data set is empty; while iterating: a file is invalid, or images of one batch differ in size.
    """
    _check_batch(
        batch_size=(batch_size, 1), workers=(workers, 0), start=(start, 0), seen=(seen, 0), world=(world, 1), rank=(rank, 0)
    )
    if rank >= world or (stop is not None and stop < start):
        raise ValueError(f"wanted rank < world and start <= stop, got rank={rank} world={world} start={start} stop={stop}")
    if len(dataset) == 0:
        raise DataError(f"data set {dataset.info.name!r} holds no training sample; check its root and its list of files")
    draws = _BatchSampler(len(dataset), batch_size, seed, start, stop, seen, rank, world)
    return BatchStream(_Reader(dataset, augment, seed), draws, workers)


def eval_batches(dataset: Dataset, *, workers: int, rank: int = 0, world: int = 1) -> BatchStream:
    """Every sample ``rank, rank + world, ...`` of the data set once, in order and unaugmented, in batches of one.

    The shards of the ranks are disjoint and together the whole data set; images may differ in size.

    Raises:
        ValueError: workers, rank or world make no sense.
        DataError: while iterating, a file is invalid.
    """
    _check_batch(workers=(workers, 0), world=(world, 1), rank=(rank, 0))
    if rank >= world:
        raise ValueError(f"wanted rank < world, got rank={rank} world={world}")
    draws = [[(0, index)] for index in range(rank, len(dataset), world)]
    return BatchStream(_Reader(dataset, None, 0), draws, workers)


class BatchStream(Iterator[Batch]):
    """An iterator of batches that owns its worker processes and starts them at the first ``next``."""

    def __init__(self, reader: _Reader, draws: Iterable[list[Draw]], workers: int):
        loader = DataLoader(
            reader,  # type: ignore[arg-type]
            batch_sampler=draws,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=_start_worker,
            pin_memory=torch.cuda.is_initialized(),
            generator=torch.Generator().manual_seed(0),  # its own: the global generator must not move when a run restarts
        )
        self._loader: DataLoader | None = loader
        self._batches: Iterator | None = None

    def __next__(self) -> Batch:
        if self._loader is None:
            raise StopIteration
        if self._batches is None:
            with _signals_blocked():
                self._batches = iter(self._loader)
            _open.add(self)
            atexit.unregister(_close_all)  # last registered runs first: before the exit handlers that wait for workers
            atexit.register(_close_all)
        try:
            batch = next(self._batches)
        except BaseException:
            self.close()
            raise
        if isinstance(batch, DataError):
            self.close()
            raise batch
        return Batch(batch.image, batch.label, tuple(batch.names), tuple(batch.indices))  # pinning turns tuples into lists

    def close(self) -> None:
        """Ends the worker processes; further batches are not to be had."""
        shut = getattr(self._batches, "_shutdown_workers", None)  # dropping the iterator is not enough while a traceback holds it
        self._loader = self._batches = None
        if shut is not None:
            shut()


_open: weakref.WeakSet[BatchStream] = weakref.WeakSet()


def _close_all() -> None:
    """Ends workers at interpreter exit: they ignore SIGTERM, so the exit handler of multiprocessing would wait for ever."""
    for stream in list(_open):
        stream.close()


class _BatchSampler:
    """The (epoch, index) pairs of each step's batch on one rank; an epoch's permutation is made when it is reached."""

    def __init__(self, count: int, batch_size: int, seed: int, start: int, stop: int | None, seen: int, rank: int, world: int):
        self.count, self.batch_size, self.seed, self.images_seen = count, batch_size, seed, seen
        self.start, self.stop, self.rank, self.world_size = start, stop, rank, world

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, order = -1, np.empty(0, int)
        steps = itertools.count(self.start) if self.stop is None else range(self.start, self.stop)
        for step in steps:
            first = self.images_seen + (step * self.world_size + self.rank) * self.batch_size
            batch = []
            for position in range(first, first + self.batch_size):
                if position // self.count != epoch:
                    epoch = position // self.count
                    order = np.random.default_rng(derive_seed(self.seed, epoch)).permutation(self.count)
                batch.append((epoch, int(order[position % self.count])))
            yield batch


class _Reader:
    """What the workers call: reads one image, checks it, augments it. An error is handed on as a value, without a worker's traceback."""

    def __init__(self, dataset: Dataset, augment: Augment | None, seed: int):
        self.dataset, self.augment, self.seed = dataset, augment, seed

    def __getitem__(self, draw: Draw) -> tuple[Sample, int] | DataError:
        epoch, index = draw
        try:
            sample = self.dataset[index]
            check_sample(sample, self.dataset.info)
            return (self.augment(sample, derive_seed(self.seed, epoch, index)) if self.augment else sample), index
        except DataError as error:
            return error


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Holds stop signals back while workers are started: they inherit that, so none can be hit before it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(worker: int) -> None:
    """Makes a worker quiet and single-threaded. It ignores stop signals: the main process saves first, then ends it."""
    import cv2

    for number in BLOCKED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_SIGNALS)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _check_batch(**numbers: tuple[int, int]) -> None:
    faults = [f"{name}={value} (wanted at least {low})" for name, (value, low) in numbers.items() if value < low]
    if faults:
        raise ValueError("cannot make batches: " + ", ".join(faults))
