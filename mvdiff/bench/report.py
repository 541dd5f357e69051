"""What a measurement found, for people and for programs."""

import platform
from collections.abc import Mapping
from typing import Any

import diffusers
import torch

import mvdiff

Figures = dict[str, Any]


def surroundings(device: torch.device) -> Figures:
    """The machine and the versions that figures were taken with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    versions = {"mvdiff": mvdiff.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
    return {"device": name, "threads": torch.get_num_threads(), **versions}


def speed(samples: int, seconds: float, tflop: float, ceiling: float) -> Figures:
    """Rates of ``samples`` that took ``seconds`` and ``tflop`` TFLOP each, against ``ceiling`` in TFLOP/s."""
    rate = samples / seconds
    return {
        "samples_per_s": rate,
        "tflop_per_sample": tflop,
        "tflop_per_s": rate * tflop,
        "mfu": rate * tflop / ceiling,
    }


def memory(device: torch.device) -> Figures:
    """GiB of tensors at their most since ``forget_memory``; nothing on a CPU."""
    return {"peak_gib": torch.cuda.max_memory_allocated(device) / 2**30} if device.type == "cuda" else {}


def forget_memory(device: torch.device) -> None:
    """Count the peak of memory from here on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def table(figures: Mapping[str, Any]) -> str:
    """``figures`` as indented lines."""
    lines: list[tuple[str, str]] = []

    def walk(values: Mapping[str, Any], depth: int) -> None:
        for name, value in values.items():
            label = f"{'  ' * depth}{name.replace('_', ' ')}"
            if isinstance(value, Mapping):
                lines.append((label, ""))
                walk(value, depth + 1)
            else:
                lines.append((label, f"{value:.4g}" if isinstance(value, float) else str(value)))

    walk(figures, 0)
    width = max(len(label) for label, _ in lines) + 2
    return "\n".join(f"{label:<{width}}{value}".rstrip() for label, value in lines)
