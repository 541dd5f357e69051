"""The world of a training run: its ranks, and what they agree on."""

import json
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import psutil  # type: ignore[import-untyped]
import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from mvdiff.errors import InputError

T = TypeVar("T")

_MEETING = timedelta(minutes=3)
"""How long a rank waits at the start for one that may have died on its way."""
_PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others in an exchange: rank 0 may be writing a large checkpoint to a slow disk."""


@dataclass(frozen=True)
class World:
    """Which process this is among those that train together, and where they meet."""

    rank: int
    world_size: int
    local_rank: int
    """Rank among the processes of this node: which to use of the accelerators that this process sees."""
    address: str
    """Address of rank 0, as every node reaches it."""
    port: int
    """Port at ``address``; a fresh one at every start."""
    listener: int | None = None
    """On rank 0 the descriptor of a socket that listens there already, so that nobody can take the port before the
    ranks meet; it is owned by the group from then on."""


class Group:
    """The processes of a ``World`` once they have met; every method must be called by all ranks alike."""

    def __init__(self, world: World, accelerator: Accelerator) -> None:
        self.rank = world.rank
        self.world_size = world.world_size
        self.accelerator = accelerator
        self.device: torch.device = accelerator.device

    def wrap(self, model: nn.Module) -> nn.Module:
        """``model`` on this rank's device, its gradients averaged over the ranks; ``unwrap`` before parting."""
        return self.accelerator.prepare(model)

    def unwrap(self) -> None:
        """Free the wrapped model, of which the caller has let go; to be called while the group stands.

        Whoever lets go of gloo's group last waits for its threads, and these may be waiting for Python's lock to free
        the tensors of the last exchange. Python's own reference gives up the lock meanwhile; DDP's does not, and a rank
        that frees it last hangs for ever now and then.
        """
        self.accelerator.free_memory()

    def decide(self, choose: Callable[[], T]) -> T:
        """Run ``choose`` on rank 0 alone; every rank returns its result, or raises its ``InputError``.

        The result must survive JSON.
        """
        if self.world_size == 1:
            return choose()
        message, failure = b"", None
        if self.rank == 0:
            try:
                message = json.dumps({"result": choose()}).encode()
            except InputError as error:
                failure = error
                message = json.dumps({"what": error.what, "mend": error.mend}).encode()
        length = torch.tensor([len(message)])
        dist.broadcast(length, 0)
        content = torch.zeros(int(length), dtype=torch.uint8)
        if self.rank == 0:
            content = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        dist.broadcast(content, 0)
        if failure is not None:
            raise failure
        told = json.loads(bytes(content.tolist()))
        if "what" in told:
            raise InputError(told["what"], told["mend"])
        return told["result"]

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is raised on any rank."""
        if self.world_size == 1:
            return flag
        raised = torch.tensor([int(flag)])
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return bool(raised.item())

    def gather(self, row: Tensor) -> Tensor:
        """[world size, K] from each rank's ``row`` [K] on the CPU, in the order of ranks."""
        if self.world_size == 1:
            return row[None]
        rows = [torch.empty_like(row) for _ in range(self.world_size)]
        dist.all_gather(rows, row)
        return torch.stack(rows)


@contextmanager
def joined(world: World, mixed_precision: str) -> Iterator[Group]:
    """Meet the other ranks of ``world`` and part from them at the end of the block.

    Small agreements go over gloo on the CPU, gradients over NCCL where there are GPUs. accelerate reads ranks from the
    environment, which is put back afterwards.
    """
    environment = {
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.world_size),
        # -1 tells accelerate that there is nobody to meet
        "LOCAL_RANK": str(world.local_rank if world.world_size > 1 else -1),
        "MASTER_ADDR": world.address,
        "MASTER_PORT": str(world.port),
        # gloo otherwise looks its own host name up, which on many clusters does not resolve or names the wrong network
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME") or _interface_towards(world.address),
        # accelerate otherwise sets the number of threads by itself and says so on every rank
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    on_gpu = torch.cuda.is_available()
    try:
        if world.world_size > 1:
            meeting = dist.TCPStore(
                world.address,
                world.port,
                world.world_size,
                is_master=world.rank == 0,
                timeout=_MEETING,
                master_listen_fd=world.listener,
            )
            dist.init_process_group(
                backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                store=meeting,
                rank=world.rank,
                world_size=world.world_size,
                timeout=_PATIENCE,
            )
        # Without find_unused_parameters DDP regroups its buckets after the first step of every start. Where a gradient
        # lies in a bucket decides the order in which ranks are summed, so a resumed run would round differently.
        # Buffers are constant in training, so they need no broadcast a step; torch is renaming that argument.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        ddp = DistributedDataParallelKwargs(
            find_unused_parameters=True, gradient_as_bucket_view=True, broadcast_buffers=False
        )
        yield Group(world, Accelerator(cpu=not on_gpu, mixed_precision=mixed_precision, kwargs_handlers=[ddp]))
    finally:
        # accelerate's state is a singleton: a second run in this process, in another precision, needs it gone
        AcceleratorState._reset_state(reset_partial_state=True)
        if dist.is_initialized():
            dist.destroy_process_group()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _interface_towards(address: str) -> str:
    """Name of the network interface whose packets reach ``address`` (``lo`` for this machine itself)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError as error:
            raise InputError(
                f"rank 0's address {address} cannot be reached ({error.strerror})",
                "give an address that every node has a route to",
            ) from error
        own = probe.getsockname()[0]
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address == own for entry in entries):
            return str(name)
    return "lo"
