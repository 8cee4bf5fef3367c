"""What a change of a layer costs in either form, from which the cheaper way to apply it is told."""

from __future__ import annotations

from ...records import dataclass


@dataclass(frozen=True)
class Cost:
    """What a change of a layer costs, from which the cheaper way to apply it is told: see patching.cost."""

    products: float  # multiply-adds for every position of the activations
    moved: float  # elements read and written for every position
    rebuild_products: float  # multiply-adds for one changed weight
    rebuild_moved: float  # elements read and written for one changed weight
