"""How much memory is in use, of the machine and of a GPU: asked of the system, without a package for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch


def memory_in_use(device: torch.device) -> str:
    """Return it as people read it, such as "memory 3.1 of 24.0 GB, GPU 2.0 of 8.0 GB"; empty where the system does not tell."""
    parts = []
    if (main := _main()) is not None:
        parts.append(f"memory {main[0] / 1e9:.1f} of {main[1] / 1e9:.1f} GB")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        parts.append(f"GPU {(total - free) / 1e9:.1f} of {total / 1e9:.1f} GB")
    return ", ".join(parts)


def _main() -> tuple[int, int] | None:
    """Return bytes in use and bytes in all."""
    if sys.platform == "win32":
        return _windows()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        return sizes["MemTotal"] - sizes["MemAvailable"], sizes["MemTotal"]
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _windows() -> tuple[int, int] | None:
    import ctypes

    names = ["total", "free", "total_page", "free_page", "total_virtual", "free_virtual", "extended"]

    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong), *((name, ctypes.c_ulonglong) for name in names)]

    status: Any = Status()
    status.length = ctypes.sizeof(Status)
    told = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return (status.total - status.free, status.total) if told else None
