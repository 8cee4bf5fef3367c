"""Networks on a model for the length of a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from ..networks import Network, load
from .activation import Activation
from .patcher import Mode, Patcher
from .report import Report


@contextmanager
def apply(
    model: nn.Module | Mapping[str, nn.Module], networks: Mapping[str | Path | Network, float], mode: Mode = "auto"
) -> Iterator[Report]:
    """Put ``{network or its path: strength}`` on a model (or several by name) and take them off at the end, also after an error.

    The model's parameters are never written to. Gives the report of what matched; raises LycorisError for a file that cannot be used.
    """
    patcher = Patcher(model)
    loaded = {n if isinstance(n, Network) else load(n, patcher.base): s for n, s in networks.items()}
    activations = [Activation(network, lambda name, s=s: s) for network, s in loaded.items()]  # type: ignore[misc]
    try:
        yield patcher.apply(activations, mode)
    finally:
        patcher.restore()
