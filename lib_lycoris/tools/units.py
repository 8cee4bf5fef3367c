"""Sizes as the user reads and gives them."""

from math import ceil, floor, log10

from ..errors import ToolError

KB = 1000  # bytes
MB = 1000 * KB
GB = 1000 * MB
DIGITS = 3  # of a size that an option can be given


def sized(count: float) -> str:
    """Return bytes in words: "812 bytes", "437 kB", from one MB on with a decimal as in "5.7 MB" and "6.9 GB"."""
    if abs(count) < KB - 0.5:
        return f"{count:.0f} bytes"
    if abs(count) < MB - KB / 2:
        return f"{count / KB:.0f} kB"
    return f"{count / MB:.1f} MB" if abs(count) < GB - MB / 20 else f"{count / GB:.1f} GB"


def too_little(asked: float, needed: float) -> ToolError:
    """Return the error for a size in bytes that leaves nothing for ranks; what is needed is rounded up, so that it can be given."""
    step = 10.0 ** (floor(log10(needed / MB)) + 1 - DIGITS)
    least = ceil(needed / MB / step) * step
    return ToolError(f"{asked / MB:g} MB is too little: what has no ranks and the header alone take {least:.{DIGITS}g} MB")
