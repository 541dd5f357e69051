"""The exchange that a training step waits for, by itself: how fast ranks sum tensors."""

import os
import time
from typing import Any

import torch
import torch.distributed as dist

from mvdiff.train.world import World, joined

ROUNDS = 5
_GPU_BYTES = 2**30
_CPU_BYTES = 2**26


def measure(world: World) -> dict[str, Any]:
    """Sum a tensor over all ranks, which meet as they do for training; every rank calls this.

    Returns:
        ``backend``; ``right``: whether the sum was; ``mib``: of the tensor; ``seconds``: of the median round;
        ``bus_gb_s``: 2 (n - 1) / n of the tensor's bytes by these seconds, as nccl-tests counts; ``interface``: of
        gloo; ``gpu``: name of the rank's GPU, null where there is none.

    Raises:
        RuntimeError: the ranks do not meet, or the exchange fails.
    """
    with joined(world, "no") as group:
        on_gpu = group.device.type == "cuda"
        length = (_GPU_BYTES if on_gpu else _CPU_BYTES) // 4
        tensor = torch.ones(length, device=group.device)
        times = []
        for _ in range(ROUNDS + 1):
            if world.world_size > 1:
                dist.barrier()
            began = time.perf_counter()
            if world.world_size > 1:
                dist.all_reduce(tensor)
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        # the first round connects
        seconds = sorted(times[1:])[ROUNDS // 2]
        share = 2 * (world.world_size - 1) / world.world_size
        return {
            "backend": "nccl" if on_gpu else "gloo",
            "right": bool((tensor == float(world.world_size) ** (ROUNDS + 1)).all()),
            "mib": 4 * length // 2**20,
            "seconds": seconds,
            "bus_gb_s": share * 4 * length / seconds / 1e9,
            "interface": os.environ.get("GLOO_SOCKET_IFNAME"),
            "gpu": torch.cuda.get_device_name(group.device) if on_gpu else None,
        }
