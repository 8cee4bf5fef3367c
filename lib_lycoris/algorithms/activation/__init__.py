"""The activation side: how a prepared change acts on a layer's input x and on its output y = W·x, and what that costs."""

from .block_rows import BlockRows, block_rows
from .bypass import Bypass, dense, on_inputs
from .cost import Cost
from .geometry import Convolution, Layer
from .low_rank import LowRank, Stacked, low_rank

__all__ = ["BlockRows", "Bypass", "Convolution", "Cost", "Layer", "LowRank", "Stacked", "block_rows", "dense", "low_rank", "on_inputs"]
