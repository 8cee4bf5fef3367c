"""Networks on a model for the length of a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path

from torch import nn

from ..errors import PromptError
from ..networks import Network, load
from .activation import Activation
from .patcher import Patcher
from .report import Report
from .workspace import Mode


@contextmanager
def apply(
    model: nn.Module | Mapping[str, nn.Module],
    networks: Mapping[str | Path | Network, float],
    mode: Mode = "auto",
    family: str | None = None,
) -> Iterator[Report]:
    """Put ``{network or its path: strength}`` on a model (or several by name) and take them off at the end, also after an error.

    ``mode`` is "auto" (the fastest way for each layer), "functional", "merged" or "recompute" (see patching.cost); the model's ``family``
    ("sd1", "sdxl", ...) is told from its layers when it is not given. The model's parameters are never written to. Gives the report of
    what matched; raises LycorisError for what cannot be used.
    """
    for network, strength in networks.items():
        if not isinstance(strength, (int, float)) or not isfinite(strength):
            name = network.name if isinstance(network, Network) else network
            raise PromptError(f"the strength of {name} is {strength!r}; give a number")
    patcher = Patcher(model, family)
    loaded = {n if isinstance(n, Network) else load(n, patcher.base, patcher.dtype): s for n, s in networks.items()}
    activations = [Activation(network, lambda name, s=s: s) for network, s in loaded.items()]  # type: ignore[misc]
    try:
        yield patcher.apply(activations, mode)
    finally:
        patcher.restore()
