"""What training asks of a base model. A model is a file here; nothing else knows one from another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...records import dataclass
from ..data.buckets import Fit
from ..data.items import Item
from ..data.pictures import Cut
from ..data.subset import Subset

if TYPE_CHECKING:
    from PIL import Image

    from ..reporting.samples import Prompt


@dataclass(frozen=True)
class Texts:
    """Captions as the denoiser reads them: tensors by name, a row for each caption."""

    tensors: Mapping[str, Tensor]

    def rows(self) -> list[dict[str, Tensor]]:
        """Return the tensors of each caption alone."""
        count = len(next(iter(self.tensors.values())))
        return [{name: tensor[row] for name, tensor in self.tensors.items()} for row in range(count)]

    @classmethod
    def together(cls, rows: Sequence[Mapping[str, Tensor]]) -> Texts:
        """Return several captions' tensors as one."""
        return cls({name: torch.stack([row[name] for row in rows]) for name in rows[0]})

    def to(self, device: torch.device, dtype: torch.dtype) -> Texts:
        """Return the texts where and how the model computes."""
        return Texts({n: t.to(device, dtype if t.is_floating_point() else t.dtype) for n, t in self.tensors.items()})


class Process(ABC):
    """How an image becomes noise: what the model sees at a step, and what it is to answer."""

    steps = 1000

    @abstractmethod
    def draw(self, choose: Random, low: int, high: int, shape: tuple[int, ...]) -> float:
        """Return a step from low to high for latents of a shape; where steps are whole numbers, before high."""

    @abstractmethod
    def noisy(self, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Return latents (n, ...) at steps (n,)."""

    @abstractmethod
    def wanted(self, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Return what the model is to answer."""

    @abstractmethod
    def snr(self, steps: Tensor) -> Tensor:
        """Return signal / noise in power, at steps (n,)."""

    @property
    @abstractmethod
    def prediction(self) -> str:
        """What the model answers with: "epsilon", "v_prediction" or "flow"."""


class TrainedModel(ABC):
    """A base model whose weights stay as they are."""

    family: str  # as models/ calls it
    name: str  # of its file
    size: int  # side of an image that suits it, pixels
    process: Process
    device: torch.device
    dtype: torch.dtype  # of its weights

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """Return what networks may change, by the names that diffusers gives; the denoiser first."""

    @abstractmethod
    def latents(self, pixels: Tensor, noise: Tensor | None) -> Tensor:
        """Return (n, channels, h, w) of pixels (n, 3, height, width); ``noise``: a draw of the encoder's spread is made with it."""

    @abstractmethod
    def latent_shape(self, bucket: tuple[int, int]) -> tuple[int, int, int]:
        """Return channels, height, width of the latents of (width, height) pixels."""

    @abstractmethod
    def texts(self, captions: Sequence[str]) -> Texts:
        """Return captions as the denoiser reads them, with a gradient where the text encoders have one."""

    @abstractmethod
    def predict(self, noisy: Tensor, steps: Tensor, texts: Texts, sizes: Sequence[tuple[Item, Cut]]) -> Tensor:
        """Return the denoiser's answer; ``sizes``: the images, for models that are told where they were cut."""

    @abstractmethod
    def vae(self) -> nn.Module:
        """Return what makes latents: caches are kept by its weights."""

    @abstractmethod
    def text_encoders(self) -> list[nn.Module]:
        """Return the text encoders."""

    @abstractmethod
    def image(self, prompt: Prompt, sampler: str) -> Image.Image:
        """Return an image as the model makes it now; ``sampler`` by sd-scripts' name."""

    def file(self) -> Path | None:
        """Return the checkpoint that the model is, where it is one file."""
        return None

    def example_sizes(self) -> list[tuple[Item, Cut]]:
        """Return the sizes of one square image, for an answer that is no image's."""
        side = (self.size, self.size)
        item = Item(Path(), "", side, False, "", Subset(Path()), Fit(side, side))
        return [(item, Cut(0, 0))]

    def denoiser(self) -> nn.Module:
        """Return the part that is trained to tell noise from images."""
        return next(iter(self.parts().values()))
