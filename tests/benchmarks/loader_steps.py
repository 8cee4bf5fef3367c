"""Steps of several models side by side. On a processor piece by piece in turns: what else the machine does then disturbs all alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from .loader_models import Model
from .loader_timing import Result, of, seconds

PIECES = (ResnetBlock2D, Attention, FeedForward, Downsample2D, Upsample2D, nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm)
Call = tuple[tuple[Any, ...], dict[str, Any]]  # positional and named arguments
Times = dict[str, dict[str, float]]  # seconds by model and piece; one piece, "", where steps are whole


class Steps:
    """Measures one step of each model; all have the layers of the first.

    Those that are compared need weights of their own: of two with the same weights the second finds them in the processor's cache,
    which in a whole step, of 3.4 GB of weights, nobody does.
    """

    def __init__(self, model: Model, size: int) -> None:
        self.model, self.size = model, size
        self.calls: dict[str, Call] = {}
        if next(model.parts["unet"].parameters()).device.type == "cpu":
            self.calls = recorded(model, size)

    def take(self, models: Mapping[str, Model], first: int) -> Times:
        """Measure one step of each, beginning with another one each time; ``first``: the number of the round."""
        if not self.calls:
            return {name: {"": self.whole(models[name])} for name in turned(list(models), first)}
        found: Times = {name: {} for name in models}
        modules = {name: dict(model.parts["unet"].named_modules()) for name, model in models.items()}
        for number, (piece, (given, named)) in enumerate(self.calls.items()):
            for name in turned(list(models), first + number):
                found[name][piece] = self.piece(modules[name][piece], given, named)
        return found

    @staticmethod
    @torch.no_grad()
    def piece(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> float:
        """Return the seconds of one call."""
        return seconds(lambda: module(*given, **named))

    def whole(self, model: Model) -> float:
        """Return the seconds of a step as the UNet takes it."""
        return seconds(lambda: model.step(self.size))


def step(rounds: Sequence[Times], name: str) -> float:
    """Return the seconds of a step: the sum over its pieces of each one's median."""
    return sum(median(times[name][piece] for times in rounds if name in times) for piece in rounds[0][name])


def share(title: str, rounds: Sequence[Times], name: str, other: str, limit: float | None) -> Result:
    """Return one model's step as a multiple of another's, with the spread of the single rounds."""
    both = [times for times in rounds if name in times]
    spread = of(title, [sum(times[name].values()) / sum(times[other].values()) for times in both])
    return Result(title, step(both, name) / step(both, other), limit, spread.low, spread.high)


def turned(names: list[str], first: int) -> list[str]:
    """Return the names, beginning with another one for each number."""
    first %= len(names)
    return names[first:] + names[:first]


def pieces(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the largest parts that a step calls once each, by their names; between them only sums and concatenations are left."""
    for key, child in module.named_children():
        path = f"{name}.{key}" if name else key
        if isinstance(child, PIECES):
            yield path, child
        else:
            yield from pieces(child, path)


def recorded(model: Model, size: int) -> dict[str, Call]:
    """Return what every piece is called with in one step."""
    calls: dict[str, Call] = {}

    def record(piece: str) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            calls[piece] = (given, named)

        return hook

    hooks = [module.register_forward_pre_hook(record(piece), with_kwargs=True) for piece, module in pieces(model.parts["unet"])]
    model.step(size)
    for hook in hooks:
        hook.remove()
    return calls
