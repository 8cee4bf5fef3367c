"""Where a tool may compute: the devices that this machine has."""

from __future__ import annotations

from ...errors import ToolError, readable

ALWAYS = "cpu"  # known without torch, which takes seconds to import


def check_device(name: str) -> None:
    """Raise ToolError for a device that this machine does not have, or that computes nothing."""
    if name == ALWAYS:
        return
    import torch

    try:
        float(torch.ones(1, device=torch.device(name)))
    except (RuntimeError, AssertionError, ValueError) as error:  # what torch's builds raise for a device that they lack
        raise ToolError(f'there is no device "{readable(name, 40)}" here; leave it out, or give cpu, cuda, cuda:1 or mps') from error


def fastest() -> str:
    """Return the GPU where there is one that torch computes on, else the processor."""
    import torch

    return "cuda" if torch.cuda.is_available() else ALWAYS
