"""Lets gigabytes go beside what comes next: to give them back to the system takes tenths of a second."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Thread

from .layers.layer import PatchedLayer

WORTH_A_THREAD = 64 << 20  # bytes


def discard(layers: Iterable[PatchedLayer]) -> None:
    """Drop what layers keep that are no longer on a model."""
    values = [value for layer in layers for value in layer.let_go()]
    if sum(value.nbytes for value in values if value.device.type == "cpu") >= WORTH_A_THREAD:
        Thread(target=values.clear, daemon=True).start()  # holds the last reference to them
