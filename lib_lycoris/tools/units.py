"""Sizes as the user reads and gives them: MB with one decimal everywhere, so that two of them can be compared."""

from math import ceil, floor, log10

from ..errors import ToolError

MB = 1_000_000  # bytes
GB = 1000 * MB
DIGITS = 3  # of a size that an option can be given
MOST = 1e12  # MB that an option can ask for: more than any disk has


def megabytes(count: float) -> str:
    """Return bytes in words: "5.7 MB", "6.9 GB" from 1000 MB on."""
    if abs(count) >= 999.95 * MB:
        return f"{count / GB:.1f} GB"
    return f"{count / MB:.1f} MB" if not 0 < count < MB / 20 else "under 0.1 MB"


def check_size(size: float) -> None:
    """Raise ToolError for MB that are no file's: what rounds to no bytes would ask for no size at all."""
    if not 1 / MB <= size <= MOST:
        raise ToolError(f"`size` is in MB and above 0, from {1 / MB:g} to {MOST:g}, but got {size:g}")


def too_little(asked: float, needed: float) -> ToolError:
    """Return the error for a size in bytes that leaves nothing for ranks; what is needed is rounded up, so that it can be given."""
    step = 10.0 ** (floor(log10(needed / MB)) + 1 - DIGITS)
    least = ceil(needed / MB / step) * step
    return ToolError(f"{asked / MB:g} MB is too little: what has no ranks and the header alone take {least:.{DIGITS}g} MB")
