"""Which kernels take the time."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

_ROWS, _WIDTH = 30, 70


def profiled(work: Callable[[], object], device: torch.device) -> str:
    """A table of what takes most of the time of one run of ``work``: GPU kernels, or operators on a CPU."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        work()
        if on_gpu:
            torch.cuda.synchronize(device)
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = sorted(((getattr(one, key), one.count, one.key) for one in found.key_averages()), reverse=True)
    total = sum(took for took, _, _ in rows) or 1
    lines = [
        f"{100 * took / total:5.1f} %  {took / 1000:9.2f} ms  {count:6d} x  {name[:_WIDTH]}"
        for took, count, name in rows[:_ROWS]
    ]
    return "\n".join([f"{total / 1000:.1f} ms in {sum(count for _, count, _ in rows)} kernels", *lines])
