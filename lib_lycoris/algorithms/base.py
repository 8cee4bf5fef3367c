"""Base class of all algorithms: each declares its stored tensors once and computes ΔW for a base weight W (W' = W + s · ΔW).

Axis letters used in every file of this package: ``out``, ``in`` the base weight's first two axes, ``*k`` its kernel (empty
for a linear layer), ``r`` a rank, ``b`` a block size, ``n`` a number of blocks. ``flat(W)`` is W as (out, in·k).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .activation import Cost
from .config import NO_CONFIG, Config
from .stored_values import Ways, is_narrower, one_number, with_axes
from .stored_values import stored as stored

if TYPE_CHECKING:
    from typing_extensions import Self

    from .activation import Bypass, Layer

Factors = tuple[Tensor, Tensor]  # up (out, r), down (r, in·k)


@dataclass(frozen=True, eq=False, kw_only=True)
class Algorithm(ABC):
    """One module of a network: immutable stored tensors, and the pure functions that they stand for."""

    name: ClassVar[str]
    reads_output: ClassVar[bool] = False  # whether the activation-side form looks at y, or only at its shape
    binds_weight: ClassVar[bool] = False  # whether preparing that form reads values of W, and so must be done again for another W
    additive: ClassVar[bool] = False  # whether ΔW is the same for every base weight
    adds_directly: ClassVar[bool] = False  # whether add_delta makes nothing of the weight's size beside what it writes
    keeps_zero: ClassVar[bool] = False  # whether weights of zero stay so: what is only turned or multiplied
    ways: ClassVar[Ways] = ()  # of what is stored in one of several ways
    one_of_each_term: ClassVar[tuple[str, ...]] = ()  # fields that multiply ΔW when all of them are multiplied; (): there are none

    @classmethod
    @cache
    def field_names(cls) -> frozenset[str]:
        """Return the names of all fields."""
        return frozenset(f.name for f in fields(cls))

    @classmethod
    @cache
    def suffixes(cls) -> dict[str, str]:
        """Return field name -> key suffix of every stored tensor."""
        return {f.name: f.metadata["suffix"] for f in fields(cls) if "suffix" in f.metadata}

    @classmethod
    @cache
    def required(cls) -> frozenset[str]:
        """Return the key suffixes without which this is another algorithm."""
        return frozenset(f.metadata["suffix"] for f in fields(cls) if f.metadata.get("optional") is False and not f.metadata["shared"])

    @classmethod
    @cache
    def shared(cls) -> frozenset[str]:
        """Return the key suffixes of the tensors that all modules of a file have in common."""
        return frozenset(f.metadata["suffix"] for f in fields(cls) if f.metadata.get("shared"))

    @classmethod
    def detects(cls, tensors: Mapping[str, Tensor], config: Config = NO_CONFIG) -> bool:
        """Tell whether a module with these suffixes, and PEFT's config beside it, is of this algorithm."""
        return cls.required() <= tensors.keys()

    @classmethod
    def from_config(cls, config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the fields that PEFT's config says; tensors: those of the module, by suffix."""
        return {}

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor], **settings: Any) -> Self:
        """Build from ``suffix -> tensor``; settings are what a file says outside its tensors (see networks.settings)."""
        values: dict[str, Any] = {key: value for key, value in settings.items() if key in cls.field_names()}
        for name, suffix in cls.suffixes().items():
            if suffix in tensors:
                declared = cls.__dataclass_fields__[name].metadata
                values[name] = one_number(tensors[suffix], suffix) if declared["scalar"] else with_axes(tensors[suffix], declared)
        return cls(**values)

    def to_state_dict(self) -> dict[str, Tensor]:
        """Return ``suffix -> tensor``, from which :meth:`from_state_dict` makes the same ΔW again."""
        return {s: v if isinstance(v, Tensor) else torch.tensor(float(v)) for s, v in self.values().items()}

    def values(self) -> dict[str, Tensor | float]:
        """Return what is stored, by suffix: the tensors, and single numbers as such."""
        found = {suffix: getattr(self, name) for name, suffix in self.suffixes().items()}
        return {suffix: value for suffix, value in found.items() if value is not None}

    def tensors(self) -> dict[str, Tensor]:
        """Return the stored tensors alone, by suffix."""
        return {suffix: value for suffix, value in self.values().items() if isinstance(value, Tensor)}

    @property
    def label(self) -> str:
        """The name for people, with what it stands over."""
        return self.name

    @property
    def bytes(self) -> int:
        """Memory of the tensors, an inner algorithm's too."""
        found = [getattr(self, f.name) for f in fields(self)]
        return sum(value.nbytes if isinstance(value, Tensor) else value.bytes for value in found if isinstance(value, (Tensor, Algorithm)))

    @property
    def rank(self) -> int | None:
        """The rank r of the factorisation; None where there is none."""
        return None

    @property
    def stored_scale(self) -> float | None:
        """The scale that the stored tensors say; None where they say none."""
        return None

    @property
    def is_zero(self) -> bool:
        """Tell whether ΔW is zero for every base weight, as far as the stored tensors alone can show it."""
        found = [getattr(self, name) for name in self.one_of_each_term]
        return bool(found) and not any(value is not None and bool(value.float().any()) for value in found)

    @property
    def reads_weight(self) -> bool:
        """Tell whether ΔW depends on the base weight's values."""
        return not self.additive

    @property
    def is_lora(self) -> bool:
        """Tell whether what is stored is what every program reads as a LoRA, a Tucker core at most between the factors."""
        return False

    @property
    def direction(self) -> Algorithm:
        """What is changed before a stored magnitude replaces the norms (DoRA); without one, this itself."""
        return self

    def magnitudes(self) -> dict[str, Tensor]:
        """Return the magnitude that stands over the direction, by suffix; empty for all but DoRA."""
        return {}

    def output_magnitude(self, shape: Sequence[int]) -> Tensor | None:
        """Return the magnitude as (out,) where each output has one of its own; None without one."""
        return None

    @property
    def truncates(self) -> bool:
        """Tell whether the first ranks alone are a change of their own (DyLoRA)."""
        return False

    def truncated(self, ranks: int) -> Algorithm:
        """Return this with the first ``ranks`` ranks only; algorithms that cannot be cut are returned as they are."""
        return self

    def scaled(self, strength: float) -> Algorithm | None:
        """Return the algorithm whose ΔW is strength · ΔW, changed tensors in float64; None where no stored tensor says that."""
        found = {name: value for name in self.one_of_each_term if (value := getattr(self, name)) is not None}
        return replace(self, **{name: value.double() * strength for name, value in found.items()}) if found else None

    def with_alpha(self, alpha: float) -> Algorithm | None:
        """Return the same ΔW written with another alpha, changed tensors in float64; None where no alpha scales it."""
        return None

    def rows(self, its: slice | Tensor) -> Algorithm | None:
        """Return the algorithm of these rows of ΔW alone; None where they cannot be had without all others or the base weight."""
        return None

    def low_rank(self, shape: Sequence[int], weight: Tensor | None = None) -> Factors | None:
        """Return up (out, r) and down (r, in·k), float32, up · down = ΔW exactly; None where there are none, or not without the weight."""
        return None

    def energy(self, shape: Sequence[int]) -> float | None:
        """Return ‖ΔW‖² without forming ΔW; None where that is not possible, or would cost more."""
        return None

    def on_bias(self, shape: Sequence[int]) -> Algorithm | None:
        """Return what this does to the layer's bias besides, for a weight of this shape; None for nothing."""
        return None

    def beside(self, read: Callable[[], Tensor]) -> Algorithm:
        """Return the change of a bias with the layer's weight at hand, which read gives as it is now; others have no use for it."""
        return self

    @abstractmethod
    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Return an error message if the factors do not match `shape`, else None."""

    @abstractmethod
    def delta(self, weight: Tensor) -> Tensor:
        """Return ΔW at strength 1 for the base weight (out, in, *k): same shape and device, float32 (float64 for float64)."""

    def add_delta(self, out: Tensor, base: Tensor, weight: Tensor, strength: float) -> None:
        """Write base + s · ΔW into out, for the base weight (out, in, *k) that ΔW is made of.

        All have the weight's shape; out is float32 (float64 for float64), contiguous, and may be base itself.
        """
        torch.add(base, self.delta(weight) * strength, out=out)  # not fused: that rounds otherwise at the end of a row of lanes

    def cost(self, shape: Sequence[int]) -> Cost:
        """Return what either form costs on a weight of this shape; unless an algorithm knows better, a second full-size product."""
        size = float(prod(shape))
        return Cost(size, 4.0 * shape[0], size, 10.0 * size)

    def prepared(self, dtype: torch.dtype) -> Algorithm:
        """Return an equivalent algorithm prepared for inference, with tensors upcast to at least `dtype`."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: value.to(dtype) for name, value in found.items() if is_narrower(value, dtype)}
        changed.update({name: value.prepared(dtype) for name, value in found.items() if isinstance(value, Algorithm)})
        return replace(self, **changed) if changed else self

    def moved(self, weight: Tensor) -> Algorithm:
        """Return this with its tensors on the weight's device, in the precision that deltas are computed in."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        changed: dict[str, Any] = {n: precise(v, weight) if v.is_floating_point() else v.to(weight.device) for n, v in tensors.items()}
        return replace(self, **changed, **{n: v.moved(weight) for n, v in found.items() if isinstance(v, Algorithm)})

    def bound(self, weight: Tensor) -> Algorithm:
        """Return what changes this base weight alike and is there for every step: on its device, what takes long computed once."""
        return self.moved(weight)

    @abstractmethod
    def bypass(self, layer: Layer) -> Bypass:
        """Return the activation-side form: a function (x, y = W·x) -> ΔW·x with everything prepared for this layer."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Scaled(Algorithm):
    """An algorithm whose ΔW is multiplied by α/r: alpha absent means 1."""

    alpha: float | None = stored("alpha", optional=True, scalar=True)
    fixed_scale: float | None = None  # the scale where it is written outside the tensors (PEFT's config, kohya's arguments)

    @property
    def scale(self) -> float:
        """α/r, or what the file says instead of it."""
        if self.fixed_scale is not None:
            return self.fixed_scale
        stored = self.stored_scale
        return 1.0 if stored is None else stored

    @property
    def stored_scale(self) -> float | None:
        """α/r."""
        return self.alpha / self.rank if self.alpha is not None and self.rank else None

    def with_alpha(self, alpha: float) -> Algorithm | None:
        """Return the same ΔW with this alpha: what the scale loses one factor of each term takes."""
        written = replace(self, alpha=alpha, fixed_scale=None)
        return written.scaled(self.scale / written.scale) if self.rank else None

    def to_state_dict(self) -> dict[str, Tensor]:
        """Return ``suffix -> tensor``, a scale from outside the tensors written as alpha."""
        found = super().to_state_dict()
        if self.fixed_scale is not None and self.rank:
            found["alpha"] = torch.tensor(self.fixed_scale * self.rank)
        return found


def precise(tensor: Tensor, weight: Tensor) -> Tensor:
    """Return a stored tensor on the weight's device in the precision that deltas are computed in."""
    return tensor.to(device=weight.device, dtype=torch.float64 if weight.dtype == torch.float64 else torch.float32)


def exact(tensor: Tensor) -> Tensor:
    """Return a stored tensor in float64 where it lies: an inverse or a decomposition in less would cost the delta several digits."""
    return tensor.to(torch.float64)


def flat(tensor: Tensor) -> Tensor:
    """Return a tensor as a matrix (first axis, all others)."""
    return tensor if tensor.dim() == 2 else tensor.reshape(tensor.shape[0], -1)


def columns(shape: Sequence[int]) -> int:
    """Return in·k of a weight's shape."""
    return prod(shape[1:])


def only_linear(name: str, shape: Sequence[int]) -> str | None:
    """Say that an algorithm whose trainer knows linear layers only is on another one; kernels of one place are linear layers too."""
    if len(shape) > 1 and columns(shape) == shape[1]:
        return None
    return f"{name} is trained on linear layers only, but the layer is {tuple(shape)} - is this file for another model?"


def expect(what: str, got: tuple[int, ...], shape: Sequence[int]) -> str | None:
    """Say that factors give another shape than the layer has; None when they agree, kernels flattened."""
    if len(shape) and got[0] == shape[0] and prod(got[1:]) == columns(shape):
        return None
    return f"{what} gives {got}, but the layer is {tuple(shape)} - is this file for another model?"
