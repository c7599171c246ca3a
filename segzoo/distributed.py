"""The processes of one training: one alone, or the ranks that ``torchrun`` starts; what they agree on and add up.

Gradients travel through ``DistributedDataParallel``; everything else goes through the few calls here.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from segzoo.registry import ConfigError

T = TypeVar("T")
STORE_PREFIX = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters  # torch 2.15 renamed it
BUFFERS: dict[str, Any] = {"forward_sync_buffers" if STORE_PREFIX else "broadcast_buffers": False}
TIMEOUT = timedelta(minutes=30)  # how long a rank waits for the others, which may be writing a checkpoint


@dataclass(frozen=True)
class Distributed:
    """This process among those of its training.

    Attributes:
        rank: number of this process, 0 to size - 1. Rank 0 writes files and speaks.
        size: number of processes.
        restarts: how often ``torchrun --max-restarts`` has started this training again.
    """

    rank: int = 0
    size: int = 1
    restarts: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, on each of them; the tensor itself where there is one process."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is up on any rank."""
        return bool(self.sum(torch.tensor(int(flag), device=device))) if self.size > 1 else flag

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in order, on each of them; plain containers and tensors of the CPU."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def run_on_rank0(self, function: Callable[[], T]) -> T:
        """What ``function`` gives or raises on rank 0, on every rank; the others do not call it."""
        if self.size == 1:
            return function()
        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer[0] = function()
            except Exception as error:
                answer[1] = error
        dist.broadcast_object_list(answer)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def wrap_ddp(self, model: nn.Module, sync_bn: bool) -> nn.Module:
        """The model as it is trained: itself alone; among ranks with its gradients averaged, and on CUDA its norms joint if asked."""
        if self.size == 1:
            return model
        place = next(model.parameters()).device
        if sync_bn and place.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return DistributedDataParallel(model, device_ids=[place.index] if place.type == "cuda" else None, **BUFFERS)

    def no_sync_until_last(self, net: nn.Module, last: bool) -> AbstractContextManager:
        """The context of one accumulated part: gradients are exchanged in the last one only."""
        return nullcontext() if last or not isinstance(net, DistributedDataParallel) else net.no_sync()

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Gives every rank the buffers of rank 0: the running statistics of norms that are not joint."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


SINGLE_PROCESS = Distributed()


@contextmanager
def init_distributed(device: str) -> Iterator[Distributed]:
    """The ranks of this process's ``torchrun``, or ``SINGLE_PROCESS`` without one; left again at the end.

    Args:
        device: the word ``device``: ``auto``, ``cpu`` or ``cuda``. Each rank takes the GPU of its local number.

    Raises:
        ConfigError: there are more ranks on this machine than GPUs, or only some of the ranks have CUDA.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS
        return
    local, here = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda and here > torch.cuda.device_count():
        raise ConfigError(
            f"torchrun started {here} processes here and there are {torch.cuda.device_count()} GPUs. "
            f"Say --nproc-per-node={torch.cuda.device_count()}, or device=cpu."
        )
    if cuda:
        torch.cuda.set_device(local)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // here))  # torchrun leaves each process one
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    store = PrefixStore(f"restart_{restarts}", store)  # torchrun keeps one store, with the addresses of ranks that are gone
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    world = Distributed(rank, size, restarts)
    try:
        kinds = set(world.gather(cuda))
        if len(kinds) > 1:
            raise ConfigError("some ranks have CUDA and some have not; say device=cpu, or take the others out")
        yield world
    finally:
        dist.destroy_process_group()
