"""Which way of applying networks to a layer is the cheapest: a model of time with constants that were measured once per kind of device.

Three ways give the same result. With ``n`` positions in the activations (tokens, or pixels of the latent, times the batch):

- *functional*: n · (products · t_product + moved · t_moved) + calls · t_call at every step; keeps the factors only;
- *recompute*: rebuild_products · t_product + rebuild_moved · t_moved + calls · t_call at every step: the effective weight is made in a
  scratch buffer that all layers share;
- *merged*: what *recompute* costs, once; keeps the effective weight.

With few positions *functional* is the cheapest; with many it is cheaper to make the weight, whose size does not grow with them. A weight
that is made and whose strengths do not vary is kept while there is room, which saves making it at the other steps. Whether there is room,
how many steps there are and what was on the model before decide between *recompute* and *merged* only, which give the same bits: the same
prompt gives the same image. For that reason too the constants are fixed, not measured at every start; ``python3 run.py bench loader``
prints what the ways take on the machine at hand.

A forced *functional* keeps to the factors' memory, give or take: it is *recompute* where that is cheaper and the layer's float32 weight
fits into a share of the networks' own bytes (``workspace.LENT_SHARE``). In half precision it never is: W + s · ΔW, rounded, would lose
what is smaller than the weight's steps, which the change of the output does not.

On an accelerator memory decides first: launches and Python cost more there than the products, so what fits into a share of the memory that
is free when the networks are put on is merged, least gain per byte last (``patching.room``).

What an algorithm's forms multiply and move is its own to say (``Algorithm.cost``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..algorithms import Cost
from ..records import dataclass

Way = Literal["functional", "recompute", "merged"]


@dataclass(frozen=True)
class Speed:
    """Seconds for one multiply-add, for one element read or written, and for one call of an operation."""

    product: float
    moved: float
    call: float


SPEEDS = {"cpu": Speed(1.2e-11, 3e-10, 6e-6)}
GPU = Speed(1e-13, 5e-12, 1e-5)  # from data sheets of cards with 8 to 24 GB: launches decide on all but the largest layers
CALLS = {"functional": 2, "recompute": 5}  # operations beside the layer's own


def functional_seconds(works: Sequence[Cost], positions: int, speed: Speed) -> float:
    """Return the time that changes add to one forward of a layer on so many positions."""
    return sum(positions * (w.products * speed.product + w.moved * speed.moved) + CALLS["functional"] * speed.call for w in works)


def rebuild_seconds(works: Sequence[Cost], speed: Speed) -> float:
    """Return the time to make the effective weight once."""
    return sum(w.rebuild_products * speed.product + w.rebuild_moved * speed.moved + CALLS["recompute"] * speed.call for w in works)


def is_cheaper_beside(works: Sequence[Cost], positions: int, device: str) -> bool:
    """Tell whether changes are added to an output of so many positions sooner than an effective weight is made."""
    speed = SPEEDS.get(device, GPU)
    return functional_seconds(works, positions, speed) <= rebuild_seconds(works, speed)


def gain(works: Sequence[Cost], size: int, device: str) -> float:
    """Return the seconds that a kept effective weight saves at a step for each of its bytes."""
    return rebuild_seconds(works, SPEEDS.get(device, GPU)) / size
