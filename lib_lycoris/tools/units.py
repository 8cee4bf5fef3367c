"""Sizes as the user reads and gives them: MB with one decimal everywhere, so that two of them can be compared."""

MB = 1_000_000  # bytes
GB = 1000 * MB


def megabytes(count: float) -> str:
    """Return bytes in words: "5.7 MB", "6.9 GB" from 1000 MB on."""
    if abs(count) >= 999.95 * MB:
        return f"{count / GB:.1f} GB"
    return f"{count / MB:.1f} MB" if not 0 < count < MB / 20 else "under 0.1 MB"
