"""Networks on a model for the length of a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    networks: Mapping[str | Path | Network, float] | Sequence[str | Path | Network],
    mode: Mode = "auto",
    family: str | None = None,
    other_family: bool = False,
) -> Iterator[Report]:
    """Put ``{network or its path: strength}`` on a model (or several by name) and take them off at the end, also after an error.

    A list of networks or paths has strength 1 each.

    ``mode`` is "auto" (the fastest way for each layer), "functional", "merged" or "recompute" (see patching.cost); the model's ``family``
    ("sd1", "sdxl", ...) is told from its layers when it is not given. ``other_family`` puts networks of other families on the layers that
    fit, too. The model's parameters are never written to. Gives the report of
    what matched; raises LycorisError for what cannot be used.
    """
    strengths = _strengths(networks)
    for network, strength in strengths.items():
        if not isinstance(strength, (int, float)) or not isfinite(strength):
            name = network.name if isinstance(network, Network) else network
            raise PromptError(f"the strength of {name} is {strength!r}; give a number")
    patcher = Patcher(model, family)
    loaded = {
        n if isinstance(n, Network) else load(n, patcher.base, patcher.dtype, other_family=other_family): s for n, s in strengths.items()
    }
    activations = [Activation(network, lambda name, s=s: s) for network, s in loaded.items()]  # type: ignore[misc]
    try:
        yield patcher.apply(activations, mode)
    finally:
        patcher.restore()


def _strengths(networks: object) -> Mapping[str | Path | Network, float]:
    """Return the strength of each network. Raises PromptError for what is neither a table nor a list of networks."""
    if isinstance(networks, Mapping):
        return networks
    if not isinstance(networks, (list, tuple)) or not all(isinstance(n, (str, Path, Network)) for n in networks):
        raise PromptError('give the networks as {"style.safetensors": 0.7}, or as a list of files, each at strength 1')
    twice = next((n for i, n in enumerate(networks) if n in networks[:i]), None)
    if twice is not None:
        name = twice.name if isinstance(twice, Network) else twice
        raise PromptError(f"{name} is in the list twice; give its strength as {{file: strength}}")
    return dict.fromkeys(networks, 1.0)
