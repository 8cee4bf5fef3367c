"""ΔW = diag(b) · B[:out] · diag(d) · A[:, :in]: two random matrices that all layers share, and two trained vectors for each.

VeRA (arXiv 2310.11454) by PEFT, on linear layers. The matrices are in the file unless it was saved with ``save_projection=False``; then
they would come from a seed and from the largest layer of the model, which the file does not tell: refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import NetworkFormatError
from ..records import dataclass
from .base import Algorithm, Factors, only_linear, precise, stored
from .factored import Factored
from .stored_values import other_layer


@dataclass(frozen=True, eq=False, kw_only=True)
class VeRA(Factored):
    """Two vectors, and the matrices of the file."""

    name: ClassVar[str] = "vera"
    additive: ClassVar[bool] = True
    one_of_each_term: ClassVar[tuple[str, ...]] = ("rows_gain",)

    rows_gain: Tensor = stored("vera_lambda_b", axes=(1, 1))  # (out,)
    ranks_gain: Tensor = stored("vera_lambda_d", axes=(1, 1))  # (r,)
    a: Tensor = stored("vera_A", shared=True, axes=(2, 2))  # (r, in or more)
    b: Tensor = stored("vera_B", shared=True, axes=(2, 2))  # (out or more, r)

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor], **settings: Any) -> VeRA:
        """Build from ``suffix -> tensor``. Raises NetworkFormatError for a file without the matrices."""
        if not {"vera_A", "vera_B"} <= tensors.keys():
            raise NetworkFormatError("VeRA's vera_A and vera_B are not in the file: save it again with save_projection=True")
        return super().from_state_dict(tensors, **settings)

    @property
    def rank(self) -> int:
        """The rows of A."""
        return self.a.shape[0]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that a vector has another length, or that the matrices are smaller than the layer."""
        if problem := only_linear(self.name, shape):
            return problem
        fits = self.rows_gain.numel() == shape[0] <= self.b.shape[0] and shape[1] <= self.a.shape[1]
        if fits and self.ranks_gain.numel() == self.a.shape[0] == self.b.shape[1]:
            return None
        return other_layer(self.tensors(), shape)

    def factors(self, weight: Tensor) -> Factors:
        """Return the rows and columns of the matrices that the layer has, with the vectors in them."""
        up = precise(self.b[: weight.shape[0]], weight) * precise(self.rows_gain, weight)[:, None]
        return up, precise(self.a[:, : weight.shape[1]], weight) * precise(self.ranks_gain, weight)[:, None]

    def prepared(self, dtype: torch.dtype) -> Algorithm:
        """Return this: in another dtype every layer would have matrices of its own."""
        return self
