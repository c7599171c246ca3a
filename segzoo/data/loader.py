"""Batches for training and evaluation from one deterministic stream of samples.

Neither the number of workers nor a restart changes the stream. The image at position p of the training stream and the seed of its
augmentation depend on p and the seed of the run alone, see ``segzoo.data.balance.sampling``. A run that resumes at step 1000 therefore
starts reading there and opens no earlier image again.
"""

from __future__ import annotations

import atexit
import itertools
import signal
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader

from segzoo.data.balance.sampling import Draw, Sampler, Shuffle, focus_on
from segzoo.data.collate import check_sample, collate
from segzoo.data.jpeg_reduction import ShrinksImages
from segzoo.data.paired_dataset import PairedDataset
from segzoo.types import Batch, DataError, Dataset, Sample

Augment = Callable[[Sample, int], Sample]
# PyTorch's advice on the number of workers comes twice per iteration, and a training that waits for its data says so itself
warnings.filterwarnings("ignore", "This DataLoader will create")
BLOCKED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


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
    sampler: Sampler | None = None,
    pin: bool = False,
) -> BatchStream:
    """Training batches of one rank for steps ``start`` to ``stop``.

    A step covers ``batch_size * world_size`` consecutive positions of the sample stream, and rank r takes the r-th block of them. A batch may
    span two epochs, so no image is skipped, and a data set smaller than a batch repeats.

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
        sampler: chooses the image of each position. None draws each image once per epoch.
        pin: keep batches in pinned memory, for a network on CUDA.

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
    sampler = sampler or Shuffle(len(dataset))
    draws = _BatchSampler(sampler, batch_size, seed, start, stop, images_seen, rank, world_size)
    return BatchStream(_Reader(dataset, augment), draws, workers, pin)


def eval_batches(dataset: Dataset, *, workers: int, rank: int = 0, world_size: int = 1, pin: bool = False) -> BatchStream:
    """Evaluation batches of one image each, in order and without augmentation.

    Each sample ``rank, rank + world_size, ...`` of the data set appears once. The shards of the ranks are disjoint and together cover the
    whole data set. Images may differ in size. ``pin`` keeps batches in pinned memory, for a network on CUDA.

    Raises:
        ValueError: workers, rank or world_size is out of range.
        DataError: while iterating, a file is invalid.
    """
    _check_minimums(workers=(workers, 0), world_size=(world_size, 1), rank=(rank, 0))
    if rank >= world_size:
        raise ValueError(f"expected rank < world_size, got {rank=} {world_size=}")
    draws = [[Draw(index, seed=0)] for index in range(rank, len(dataset), world_size)]
    return BatchStream(_Reader(dataset, None), draws, workers, pin)


class BatchStream(Iterator[Batch]):
    """Iterator of batches that owns its worker processes.

    The workers start at the first ``next``.
    """

    def __init__(self, reader: _Reader, draws: Iterable[list[Draw]], workers: int, pin: bool):
        loader = DataLoader(
            reader,  # type: ignore[arg-type]
            batch_sampler=draws,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=_start_worker,
            pin_memory=pin,
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
    """Draws of each batch of one rank.

    Those of an epoch are prepared when it begins.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        seed: int,
        start: int,
        stop: int | None,
        images_seen: int,
        rank: int,
        world_size: int,
    ):
        self.sampler, self.batch_size, self.seed, self.images_seen = sampler, batch_size, seed, images_seen
        self.start, self.stop, self.rank, self.world_size = start, stop, rank, world_size

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, draw, length = 0, self.sampler.epoch(self.seed, 0), len(self.sampler)
        steps = itertools.count(self.start) if self.stop is None else range(self.start, self.stop)
        for step in steps:
            first = self.images_seen + (step * self.world_size + self.rank) * self.batch_size
            batch = []
            for position in range(first, first + self.batch_size):
                if position // length != epoch:
                    epoch = position // length
                    draw = self.sampler.epoch(self.seed, epoch)
                batch.append(draw(position % length))
            yield batch


class _Reader:
    """Map-style data set of the workers: reads, checks and augments one sample.

    A DataError is returned as a value, so that the main process can raise it without the worker's traceback.
    """

    def __init__(self, dataset: Dataset, augment: Augment | None):
        if isinstance(dataset, PairedDataset):
            dataset.load()  # before the workers start, which then share its memory
        self.dataset, self.augment = dataset, augment

    def __getitem__(self, draw: Draw) -> tuple[Sample, int] | DataError:
        try:
            sample = self._read(draw)
            check_sample(sample, self.dataset.info)
            if draw.train_id is not None:
                sample = focus_on(sample, draw.train_id, draw.seed)
            return (self.augment(sample, draw.seed) if self.augment else sample), draw.index
        except DataError as error:
            return error

    def _read(self, draw: Draw) -> Sample:
        """Read a sample, with a JPEG at reduced size where possible."""
        if isinstance(self.dataset, PairedDataset) and isinstance(self.augment, ShrinksImages):
            return self.dataset.read(draw.index, self.augment.reduction(draw.seed))
        return self.dataset[draw.index]


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
