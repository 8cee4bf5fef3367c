"""The rows of a family's declaration: one layer, or one layer of each of several blocks, with its shape and its names in diffusers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from ..records import dataclass
from .parameters import LayerInfo

Names = tuple[tuple[str, str | None], ...]  # (name in diffusers, part of the weight that it names)
Other = str | Mapping[str, str] | None  # a name in diffusers, "" for the same one; several with their parts; None for none


@dataclass(frozen=True)
class Row:
    """Describe one layer, or one layer of each of several blocks."""

    path: str
    shape: tuple[int, ...]
    names: Names
    numbers: range  # of the blocks that have it; empty for a name without `#`
    kind: str = "Linear"
    bias: bool = True

    @property
    def section(self) -> str:
        """The part of the name that the blocks of one list share."""
        return self.path.partition("#")[0] if "#" in self.path else ""

    def layers(self) -> int:
        """Count the layers that this describes."""
        return len(self.numbers) if "#" in self.path else 1

    @property
    def info(self) -> LayerInfo:
        """What such a layer is."""
        return LayerInfo(self.kind, self.shape, self.bias)


Rows = Iterator[Row]


def layer(kind: str, path: str, shape: tuple[int, ...], other: Other = "", bias: bool = True, times: int | range = 0) -> Row:
    """Declare a layer of any kind; times: in how many blocks it is, or in which."""
    names: Names = ()
    if isinstance(other, str):
        names = ((other or path, None),)
    elif other is not None:
        names = tuple(other.items())
    return Row(path, shape, names, times if isinstance(times, range) else range(times), kind, bias)


def linear(path: str, out: int, in_: int, other: Other = "", bias: bool = True, times: int | range = 0) -> Row:
    """Declare a Linear, weight (out, in)."""
    return layer("Linear", path, (out, in_), other, bias, times)


def conv(path: str, out: int, in_: int, kernel: Sequence[int], other: Other = "", bias: bool = True, times: int | range = 0) -> Row:
    """Declare a convolution, weight (out, in, *kernel)."""
    return layer(f"Conv{len(kernel)}d", path, (out, in_, *kernel), other, bias, times)


def norm(path: str, width: int, other: Other = "", bias: bool = False, times: int | range = 0) -> Row:
    """Declare an RMSNorm, or a LayerNorm (which has a bias)."""
    return layer("LayerNorm", path, (width,), other, bias, times)


def fused(prefix: str, names: Sequence[str], parts: Sequence[str] = ("q", "k", "v")) -> dict[str, str]:
    """Name the layers of diffusers that are rows of one original layer, in the order of the rows."""
    return {f"{prefix}.{name}": part for name, part in zip(names, parts, strict=True)}


QKV = ("to_q", "to_k", "to_v")
ADDED_QKV = ("add_q_proj", "add_k_proj", "add_v_proj")
GROUPED = ("q", "grouped_k", "grouped_v")  # parts: keys and values have fewer heads than queries
HALVES = ("0/2", "1/2")  # parts: of equal height, whatever the layer's inputs are


def expand(rows: Iterable[Row]) -> Iterator[tuple[str, LayerInfo]]:
    """Yield each layer with its path, block by block."""
    for section, found in groupby(rows, key=lambda row: row.section):
        group = list(found)
        if not section:
            yield from ((row.path, row.info) for row in group)
            continue
        for number in sorted({number for row in group for number in row.numbers}):
            yield from ((row.path.replace("#", str(number)), row.info) for row in group if number in row.numbers)
