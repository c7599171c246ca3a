"""Batches for training and evaluation from one deterministic stream of samples.

Neither the number of workers nor a restart changes the stream. Position p of the training stream is image
``permutation(seed, p // n)[p % n]``, augmented with a seed derived from (seed, epoch, index). A run that resumes at step 1000
therefore starts reading there and opens no earlier image again.
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
from segzoo.data.paired_dataset import PairedDataset
from segzoo.types import Batch, DataError, Dataset, Sample

Augment = Callable[[Sample, int], Sample]
Draw = tuple[int, int]  # (epoch, index in the data set)
BLOCKED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


def derive_seed(*numbers: int) -> int:
    """Derive a 64-bit seed from integers.

    The result is the same on every machine and in every version, and depends on the order and on every digit.
    """
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
    images_seen: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> BatchStream:
    """Training batches of one rank for steps ``start`` to ``stop``.

    A step covers ``batch_size * world_size`` consecutive positions of the sample stream, and rank r takes the r-th block of them. A batch may
    span two epochs, so no image is skipped, and a data set smaller than a batch repeats. Batches are pinned if this process has used
    CUDA before the call, so move the model to the GPU first.

    Args:
        dataset: the data set, which is read in the workers.
        augment: ``(sample, seed) -> sample``. None leaves samples unchanged.
        batch_size: images per batch and rank, at least 1.
        workers: worker processes. 0 reads in this process.
        seed: seed of order and augmentation.
        start, stop: first step (inclusive) and last step (exclusive), counted from 0 over the whole run. Without ``stop`` the stream is
            endless.
        images_seen: positions of the sample stream before step 0, consumed earlier in the run with another batch size.
        rank, world_size: rank of this process and number of processes.

    Returns:
        An iterator whose workers end when it is exhausted, garbage-collected or closed with ``close()``.

    Raises:
        ValueError: batch_size, workers, start, stop or rank is out of range.
        DataError: the data set is empty; while iterating: a file is invalid, or images of one batch differ in size.
    """
    _check_minimums(
        batch_size=(batch_size, 1),
        workers=(workers, 0),
        start=(start, 0),
        images_seen=(images_seen, 0),
        world_size=(world_size, 1),
        rank=(rank, 0),
    )
    if rank >= world_size or (stop is not None and stop < start):
        raise ValueError(f"expected rank < world_size and start <= stop, got {rank=} {world_size=} {start=} {stop=}")
    if len(dataset) == 0:
        raise DataError(f"data set {dataset.info.name!r} has no training sample; check its root and its list of files")
    draws = _BatchSampler(len(dataset), batch_size, seed, start, stop, images_seen, rank, world_size)
    return BatchStream(_Reader(dataset, augment, seed), draws, workers)


def eval_batches(dataset: Dataset, *, workers: int, rank: int = 0, world_size: int = 1) -> BatchStream:
    """Evaluation batches of one image each, in order and without augmentation.

    Each sample ``rank, rank + world_size, ...`` of the data set appears once. The shards of the ranks are disjoint and together cover the
    whole data set. Images may differ in size.

    Raises:
        ValueError: workers, rank or world_size is out of range.
        DataError: while iterating, a file is invalid.
    """
    _check_minimums(workers=(workers, 0), world_size=(world_size, 1), rank=(rank, 0))
    if rank >= world_size:
        raise ValueError(f"expected rank < world_size, got {rank=} {world_size=}")
    draws = [[(0, index)] for index in range(rank, len(dataset), world_size)]
    return BatchStream(_Reader(dataset, None, 0), draws, workers)


class BatchStream(Iterator[Batch]):
    """Iterator of batches that owns its worker processes.

    The workers start at the first ``next``.
    """

    def __init__(self, reader: _Reader, draws: Iterable[list[Draw]], workers: int):
        loader = DataLoader(
            reader,  # type: ignore[arg-type]
            batch_sampler=draws,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=_start_worker,
            pin_memory=torch.cuda.is_initialized(),
            generator=torch.Generator().manual_seed(0),  # private: resuming a run must not advance the global generator
        )
        self._loader: DataLoader | None = loader
        self._batches: Iterator | None = None

    def __next__(self) -> Batch:
        if self._loader is None:
            raise StopIteration
        if self._batches is None:
            with _signals_blocked():
                self._batches = iter(self._loader)
            _open_streams.add(self)
            atexit.unregister(_close_all)  # exit handlers run last in, first out: this one must precede those that wait for workers
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
        """End the worker processes and the iteration."""
        shutdown = getattr(self._batches, "_shutdown_workers", None)  # a traceback may keep the iterator alive
        self._loader = self._batches = None
        if shutdown is not None:
            shutdown()


_open_streams: weakref.WeakSet[BatchStream] = weakref.WeakSet()


def _close_all() -> None:
    """End all workers at interpreter exit.

    Workers ignore SIGTERM, so the exit handler of multiprocessing would wait forever.
    """
    for stream in list(_open_streams):
        stream.close()


class _BatchSampler:
    """Sampler of the (epoch, index) pairs of each batch of one rank.

    The permutation of an epoch is computed when the epoch begins.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        start: int,
        stop: int | None,
        images_seen: int,
        rank: int,
        world_size: int,
    ):
        self.count, self.batch_size, self.seed, self.images_seen = count, batch_size, seed, images_seen
        self.start, self.stop, self.rank, self.world_size = start, stop, rank, world_size

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
    """Map-style data set of the workers: reads, checks and augments one sample.

    A DataError is returned as a value, so that the main process can raise it without the worker's traceback.
    """

    def __init__(self, dataset: Dataset, augment: Augment | None, seed: int):
        if isinstance(dataset, PairedDataset):
            dataset.load()  # before the workers start, which then share its memory
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
    """Block stop signals while workers start.

    Workers inherit the mask, so a signal cannot kill a worker before it ignores signals itself.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _start_worker(worker: int) -> None:
    """Make a worker single-threaded and immune to stop signals.

    The main process saves a checkpoint first and then ends its workers.
    """
    import cv2

    for number in BLOCKED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_SIGNALS)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _check_minimums(**numbers: tuple[int, int]) -> None:
    """Raise ValueError for each ``name=(value, minimum)`` below its minimum."""
    errors = [f"{name}={value} (expected at least {minimum})" for name, (value, minimum) in numbers.items() if value < minimum]
    if errors:
        raise ValueError("cannot make batches: " + ", ".join(errors))
