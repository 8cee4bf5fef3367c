"""ΔW = W ⊙ A + B; Δbias = bias ⊙ D + E + W · C: PEFT's GLoRA, which shares LyCORIS' name and nothing else.

By PEFT, on linear layers. A and B (out, in) are each a product Xd · Xu, a vector X (out, 1), one number or nothing (``zeros``), as the
config had it; C (in, 1) likewise, D and E (out,) vectors or numbers. On a layer without a bias C, D and E are saved as zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import NetworkFormatError
from ..records import dataclass
from .activation import Bypass, Layer, dense
from .base import Algorithm, flat, only_linear, precise, stored
from .config import NO_CONFIG, Config
from .stored_values import Ways, other_layer

Parts = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]  # Xd, Xu, X, zeros
TERMS = {"glora_A", "glora_B", "glora_C", "glora_D", "glora_E"}


def _ways(path: str) -> tuple[frozenset[str], ...]:
    """Return the ways to store a path."""
    return tuple(frozenset(f"{path}.{leaf}" for leaf in way) for way in (("Xd", "Xu"), ("X",), ("zeros",)))


def _shape(parts: Parts) -> tuple[int, ...] | None:
    """Return the shape that a path makes; None where it is not whole."""
    up, down, vector, none = parts
    if up is not None and down is not None and vector is None:
        return (up.shape[0], down.shape[1]) if up.shape[1] == down.shape[0] else None
    single = none if vector is None else vector
    return None if single is None or up is not None or down is not None else tuple(single.shape)


def _made(parts: Parts, like: Tensor) -> Tensor:
    """Return a path's value."""
    up, down, vector, none = parts
    if up is not None and down is not None:
        return precise(up, like) @ precise(down, like)
    single = none if vector is None else vector
    assert single is not None
    return precise(single, like)


@dataclass(frozen=True, eq=False, kw_only=True)
class PeftGLoRA(Algorithm):
    """The five paths."""

    name: ClassVar[str] = "glora (peft)"
    binds_weight: ClassVar[bool] = True
    ways: ClassVar[Ways] = tuple(map(_ways, sorted(TERMS)))
    one_of_each_term: ClassVar[tuple[str, ...]] = ("a_up", "a_vector", "b_up", "b_vector", "c_up", "c_vector", "d", "e")

    a_up: Tensor | None = stored("glora_A.Xd", optional=True, axes=(2, 2))  # (out, r)
    a_down: Tensor | None = stored("glora_A.Xu", optional=True, axes=(2, 2))  # (r, in)
    a_vector: Tensor | None = stored("glora_A.X", optional=True, axes=(1, 2))  # (out, 1) or (1,)
    a_none: Tensor | None = stored("glora_A.zeros", optional=True, axes=(2, 2))  # (out, in)
    b_up: Tensor | None = stored("glora_B.Xd", optional=True, axes=(2, 2))
    b_down: Tensor | None = stored("glora_B.Xu", optional=True, axes=(2, 2))
    b_vector: Tensor | None = stored("glora_B.X", optional=True, axes=(1, 2))
    b_none: Tensor | None = stored("glora_B.zeros", optional=True, axes=(2, 2))
    c_up: Tensor | None = stored("glora_C.Xd", optional=True, axes=(2, 2))  # (in, r)
    c_down: Tensor | None = stored("glora_C.Xu", optional=True, axes=(2, 2))  # (r, 1)
    c_vector: Tensor | None = stored("glora_C.X", optional=True, axes=(2, 2))  # (in, 1)
    c_none: Tensor | None = stored("glora_C.zeros", optional=True, axes=(2, 2))  # (in, 1)
    d: Tensor | None = stored("glora_D.X", optional=True, axes=(1, 1))  # (out,) or (1,)
    d_none: Tensor | None = stored("glora_D.zeros", optional=True, axes=(1, 1))  # (out,)
    e: Tensor | None = stored("glora_E.X", optional=True, axes=(1, 1))  # (out,) or (1,)
    e_none: Tensor | None = stored("glora_E.zeros", optional=True, axes=(1, 1))  # (out,)

    @classmethod
    def detects(cls, tensors: Mapping[str, Tensor], config: Config = NO_CONFIG) -> bool:
        """Tell whether every path is there."""
        return {suffix.partition(".")[0] for suffix in tensors} >= TERMS

    @property
    def rank(self) -> int | None:
        """The rank of A's product; None where it is none."""
        return None if self.a_down is None else self.a_down.shape[0]

    @property
    def _a(self) -> Parts:
        return self.a_up, self.a_down, self.a_vector, self.a_none

    @property
    def _b(self) -> Parts:
        return self.b_up, self.b_down, self.b_vector, self.b_none

    @property
    def _c(self) -> Parts:
        return self.c_up, self.c_down, self.c_vector, self.c_none

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say which path does not fit the layer."""
        if problem := only_linear(self.name, shape):
            return problem
        out, inputs = shape[:2]
        whole, outputs = ((out, inputs), (out, 1), (1,)), ((out,), (1,))
        d, e = (None, None, self.d, self.d_none), (None, None, self.e, self.e_none)
        paths: dict[str, tuple[Parts, tuple[tuple[int, ...], ...]]] = {
            "glora_A": (self._a, whole), "glora_B": (self._b, whole), "glora_C": (self._c, ((inputs, 1),)),
            "glora_D": (d, outputs), "glora_E": (e, outputs),
        }  # fmt: skip
        for path, (parts, fitting) in paths.items():
            if _shape(parts) not in fitting:
                return other_layer({suffix: tensor for suffix, tensor in self.tensors().items() if suffix.startswith(path)}, shape)
        return None

    def delta(self, weight: Tensor) -> Tensor:
        """Return W ⊙ A + B."""
        base = flat(precise(weight, weight))
        return (base * _made(self._a, base) + _made(self._b, base)).reshape(weight.shape)

    def on_bias(self, shape: Sequence[int]) -> Algorithm | None:
        """Return the change of the bias; None where all of it is zero, as on a layer without one."""
        like = torch.empty(0)
        gain, more = (_made((None, None, *pair), like) for pair in ((self.d, self.d_none), (self.e, self.e_none)))
        column = _made(self._c, like)
        if not any(bool(tensor.any()) for tensor in (gain, more, column)):
            return None
        return PeftGLoRABias(gain=gain, more=more, column=column)

    def bypass(self, layer: Layer) -> Bypass:
        """Return a second full-size product: entry by entry nothing smaller does."""
        return dense(layer, self.delta(layer.weight))


@dataclass(frozen=True, eq=False, kw_only=True)
class PeftGLoRABias(Algorithm):
    """What the paths do to the bias, in memory only: their tensors are stored with the weight's."""

    name: ClassVar[str] = "glora (peft), bias"

    gain: Tensor  # D
    more: Tensor  # E
    column: Tensor  # C, (in, 1)
    read: Callable[[], Tensor] | None = None  # the layer's weight, rows of this bias

    def beside(self, read: Callable[[], Tensor]) -> Algorithm:
        """Return this with the layer's weight at hand."""
        return replace(self, read=read)

    def scaled(self, strength: float) -> Algorithm | None:
        """Return this with every path multiplied."""
        return replace(self, gain=self.gain * strength, more=self.more * strength, column=self.column * strength)

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the bias has another length."""
        if len(shape) == 1 and {self.gain.numel(), self.more.numel()} <= {1, shape[0]}:
            return None
        return f"glora_D {tuple(self.gain.shape)} and glora_E {tuple(self.more.shape)} do not fit a bias {tuple(shape)}"

    def delta(self, weight: Tensor) -> Tensor:
        """Return bias ⊙ D + E + W · C. Raises NetworkFormatError where nobody gave the layer's weight and C is not zero."""
        found = precise(weight, weight) * precise(self.gain, weight) + precise(self.more, weight)
        if self.read is None:
            if bool(self.column.any()):
                raise NetworkFormatError(f"{self.name} is made of the layer's weight, which is not at hand here; merge the network instead")
            return found
        return found + (precise(flat(self.read()), found) @ precise(self.column, found)).flatten()

    def bypass(self, layer: Layer) -> Bypass:
        """Return nothing to add to a product: a bias has none."""
        return Bypass(lambda x, y: torch.zeros_like(y))
