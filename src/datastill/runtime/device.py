"""Where tensors live, how precise arithmetic is, and an allocator that keeps large blocks."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datastill.errors import DatastillError, suggestion

PRECISIONS = ("float32", "bf16")

# Constants of glibc's malloc.h. By default blocks above 128 KiB come from mmap and go back at once, so that every
# activation is paid for again in page faults; kept blocks made recovery up to 1.5 times faster on a CPU, and steps of
# DataDAM, which free gigabytes at once, several times.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _NEVER, _LARGEST = -1, -3, -1, (1 << 31) - 1


def keep_large_blocks() -> bool:
    """Tell glibc's allocator to keep freed blocks for reuse; returns False where there is no glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))


@dataclass(frozen=True)
class Device:
    """A device and the precision of the work on it. Made by `open_device`."""

    fabric: Any
    precision: str
    compile: bool = False

    @property
    def torch(self) -> torch.device:
        """The torch device."""
        return torch.device(self.fabric.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for forward passes: bf16 autocast, or nothing in float32.

        Weights are cast anew in every pass. By itself autocast remembers its casts until the outermost context ends, so
        that a network which is trained inside another context would never see its own steps.
        """
        if self.precision != "bf16":
            return nullcontext()
        return torch.autocast(self.torch.type, torch.bfloat16, cache_enabled=False)

    def compiled(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the network's forward, compiled if this device was opened so (with CUDA graphs on CUDA).

        The network keeps its parameters and their names; batches must keep their shape.
        """
        if not self.compile:
            return network
        mode = "reduce-overhead" if self.torch.type == "cuda" else "default"
        made: Callable[[Tensor], Tensor] = torch.compile(network, mode=mode, dynamic=False)
        return made

    def describe(self) -> dict[str, str]:
        """Return the names that a measurement records."""
        kind = self.torch.type
        name = torch.cuda.get_device_name(self.torch) if kind == "cuda" else _processor()
        compiled = "yes" if self.compile else "no"
        threads = str(torch.get_num_threads())
        return {"device": kind, "name": name, "precision": self.precision, "compiled": compiled, "threads": threads}


def open_device(device: str = "auto", precision: str = "auto", *, compile: bool = False) -> Device:
    """Choose a device and a precision.

    Args:
        device: auto (a CUDA device when there is one), cpu or cuda.
        precision: auto (bf16 on CUDA, float32 on a CPU), float32 or bf16.
        compile: whether training compiles its networks first: minutes once, then faster steps.

    Raises: DatastillError for another name, or for a CUDA device that is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise DatastillError(f"there is no device '{device}'{suggestion(device, ('auto', 'cpu', 'cuda'))}")
    if precision not in ("auto", *PRECISIONS):
        raise DatastillError(f"there is no precision '{precision}'{suggestion(precision, ('auto', *PRECISIONS))}")
    if device == "cuda" and not torch.cuda.is_available():
        raise DatastillError("no CUDA device was found; use --device cpu, or install a CUDA build of torch.")
    kind = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    exact = precision if precision != "auto" else "bf16" if kind == "cuda" else "float32"
    keep_large_blocks()
    return Device(_fabric(kind, exact), exact, compile)


def _fabric(kind: str, precision: str) -> Any:
    try:
        from lightning_fabric import Fabric
    except ImportError:  # the `lightning` package ships the same class under another name
        from lightning.fabric import Fabric  # type: ignore[no-redef]  # the very class
    # It announces bf16 at every start.
    logging.getLogger(Fabric.__module__.removesuffix(".fabric")).setLevel(logging.WARNING)
    return Fabric(accelerator=kind, devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true")


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_peak_bytes() -> int:
    """Return the largest resident size that this process has had, in bytes (0 where it is not known)."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if os.uname().sysname == "Darwin" else 1024)
