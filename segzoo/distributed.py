"""Distributed training with torchrun, and the same interface for one process.

``DistributedDataParallel`` averages gradients. All other communication between ranks goes through ``Distributed``.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from segzoo.device import DeviceName
from segzoo.registry import ConfigError
from segzoo.resources import cpu_cores
from segzoo.types import PlainDict

T = TypeVar("T")
RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters  # since torch 2.15
NO_BUFFER_SYNC: PlainDict = {"forward_sync_buffers" if RENAMED else "broadcast_buffers": False}
RENDEZVOUS = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # variables that torchrun sets
TIMEOUT = timedelta(minutes=30)  # long enough for rank 0 to write a checkpoint while the others wait
SHARDED_TIMEOUT = timedelta(days=7)  # ranks with a share of the images each wait for the slowest only at the end


@dataclass(frozen=True)
class Distributed:
    """This process and the other ranks of its training.

    Attributes:
        rank: 0 to size - 1. Rank 0 writes files and prints.
        size: number of processes.
        restarts: times ``torchrun --max-restarts`` has restarted this training.
    """

    rank: int = 0
    size: int = 1
    restarts: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over all ranks, with the result on each."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return True on every rank if the flag is set on any."""
        return bool(self.sum(torch.tensor(int(flag), device=device))) if self.size > 1 else flag

    def gather(self, value: T) -> list[T]:
        """Gather the values of all ranks, in rank order, on every rank.

        Args:
            value: a plain container or a CPU tensor.
        """
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return cast(list[T], values)

    def run_on_rank0(self, function: Callable[[], T]) -> T:
        """Call ``function`` on rank 0 and broadcast its result.

        An exception on rank 0 is raised on every rank.
        """
        if self.size == 1:
            return function()
        outcome: list[Any] = [None, None]  # result, exception
        if self.is_main:
            try:
                outcome[0] = function()
            except Exception as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def wrap_ddp(self, model: nn.Module, sync_bn: bool) -> nn.Module:
        """Wrap a model in DistributedDataParallel if there are several ranks.

        Args:
            model: on its device.
            sync_bn: compute batch norm statistics over all ranks. Only possible on CUDA and ignored elsewhere.
        """
        if self.size == 1:
            return model
        device = next(model.parameters()).device
        if sync_bn and device.type == "cuda":
            model = sync_batch_norm(model)
        return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None, **NO_BUFFER_SYNC)

    def no_sync_until_last(self, net: nn.Module, last: bool) -> AbstractContextManager:
        """Context manager that averages gradients in the last accumulated batch only."""
        return nullcontext() if last or not isinstance(net, DistributedDataParallel) else net.no_sync()

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy the buffers of rank 0 to every rank.

        Without SyncBN, the running statistics of batch norm differ between ranks.
        """
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


def sync_batch_norm(model: nn.Module) -> nn.Module:
    """Convert batch norm to SyncBN, with the activations inside timm's."""
    if any(isinstance(layer, nn.BatchNorm2d) and [*layer.children()] for layer in model.modules()):
        from timm.layers import convert_sync_batchnorm  # type: ignore[import-not-found]

        return convert_sync_batchnorm(model)
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


SINGLE_PROCESS = Distributed()


@contextmanager
def init_distributed(device: DeviceName, timeout: timedelta = TIMEOUT) -> Iterator[Distributed]:
    """Join the process group of ``torchrun`` and leave it at the end.

    After an error the group is left as it is: NCCL would wait for collectives of the other ranks, so the error would never be shown. The end
    of the process closes it.

    Args:
        device: value of the ``device`` setting. Each rank uses the GPU of its local rank.
        timeout: how long a rank waits for the others.

    Yields:
        This process among its ranks.

    Raises:
        ConfigError: this machine has more ranks than GPUs, only some ranks have CUDA, a variable of ``torchrun`` is not set, or ``torchrun``
            restarts ranks on several machines.
    """
    size, restarts = (int(os.environ.get(*default)) for default in (("WORLD_SIZE", "1"), ("TORCHELASTIC_RESTART_COUNT", "0")))
    if size == 1:
        yield Distributed(restarts=restarts)
        return
    _reject_uncounted_restarts()
    if missing := [name for name in RENDEZVOUS if name not in os.environ]:
        raise ConfigError(
            f"WORLD_SIZE={size} asks for {size} processes, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set. Start them with torchrun, or unset "
            "WORLD_SIZE."
        )
    cuda = _choose_device(device)
    store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    store = PrefixStore(f"restart_{restarts}", store)  # torchrun keeps one store, which still has the addresses of dead ranks
    _check_same_kind(store, rank, size, cuda)
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=timeout)
    yield Distributed(rank, size, restarts)
    dist.destroy_process_group()


def _reject_uncounted_restarts() -> None:
    """Reject restarts on several machines.

    Each of them counts its own, so after one their ranks would wait for each other in different groups.
    """
    machines, restarts = (int(os.environ.get(name, "0")) for name in ("GROUP_WORLD_SIZE", "TORCHELASTIC_MAX_RESTARTS"))
    if machines > 1 and restarts:
        raise ConfigError(
            f"torchrun --max-restarts={restarts} on {machines} machines: each machine counts its restarts by itself, so their processes "
            "could not join again. Omit --max-restarts, and start the command again with resume=auto."
        )


def _choose_device(device: DeviceName) -> bool:
    """Make the GPU of the local rank the current one.

    Machines with one process need no ``LOCAL_RANK``. Without CUDA, each rank gets its share of the cores.

    Returns:
        True with CUDA.
    """
    local_rank, local_size = (int(os.environ.get(*default)) for default in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")))
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda and local_size > torch.cuda.device_count():
        raise ConfigError(
            f"torchrun started {local_size} processes on this machine, which has {torch.cuda.device_count()} GPUs. "
            f"Use --nproc-per-node={torch.cuda.device_count()} or set device=cpu."
        )
    if cuda:
        torch.cuda.set_device(local_rank)
    else:
        torch.set_num_threads(cpu_cores(local_size))  # torchrun sets one thread per process
    return cuda


def _check_same_kind(store: Store, rank: int, size: int, cuda: bool) -> None:
    """Reject ranks with CUDA among others without.

    They would wait for each other, because NCCL and Gloo cannot form one group.
    """
    store.set(f"cuda_{rank}", str(cuda))
    kinds = [store.get(f"cuda_{other}") for other in range(size)]
    store.set(f"seen_{rank}", "")
    if len(set(kinds)) == 1:
        return
    if rank == 0:  # the store may end with this process
        store.wait([f"seen_{other}" for other in range(size)])
    raise ConfigError("some ranks have CUDA and others do not; set device=cpu, or use only machines with CUDA")
