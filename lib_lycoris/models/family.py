"""What a base model family declares of itself: its components, their layers and names, its blocks, what metadata calls it.

A family is data: one file of ``families/``. A layer is declared once, by its name in the original model (the canonical one, which webuis
and ComfyUI use), its shape, and the name or names that it has in diffusers; ``#`` stands for the number of the block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from functools import cached_property
from typing import Any

from ..records import dataclass
from .naming import Naming, TableNames
from .rows import Row

UNET_PREFIX = "diffusion_model."


@dataclass(frozen=True)
class Component:
    """Describe one network of a pipeline and its names in every style."""

    key: str  # unet, te1, te2, te3
    prefix: str  # of canonical names
    pipeline: str  # attribute of a diffusers pipeline
    kohya: str  # prefix of flattened names, without the last underscore
    rows: Callable[..., Iterable[Row]]  # called with a variant's sizes for the component "unet", with nothing for a text encoder
    naming: Callable[[Iterable[Row], Mapping[str, str]], Naming]
    slots: tuple[str, ...] = ()  # what a file's prefix may call a text encoder: te, te1, clip_l, ...
    block: str = "BASE"  # block id of a text encoder
    also: Mapping[str, str] = field(default_factory=dict)  # further names of files -> canonical path, or path[part]
    inside: str = ""  # where this one lies in the file of the transformer, or of another text encoder, if it does


@dataclass(frozen=True)
class Blocks:
    """Say which block weight a layer of the UNet or transformer falls under, by the first part of its name."""

    sections: Mapping[str, str]  # list of blocks -> letter of their ids; an id that ends in a digit is the whole list's
    last: tuple[str, ...] = ("final_layer",)  # -> OUT
    first: str | None = "IN"  # all others; None: no block weight reaches them
    counts: tuple[int, ...] = ()  # the numbers of values in a tag that are made for this family, the full set first


@dataclass(frozen=True)
class TextTower:
    """Describe one text encoder inside a checkpoint file: where it is, and whose layout it has."""

    prefix: str
    open_clip: bool


@dataclass(frozen=True)
class Generation:
    """Say what a program that generates must know and shapes do not tell, of a family whose checkpoint file holds the whole pipeline."""

    towers: tuple[TextTower, ...]  # with a second one, the model also reads its pooled vector and the sizes of the image
    heads: int | None = None  # of the UNet's attention, in every block; None: 64 channels a head
    penultimate: bool = True  # the text is read off the last layer but one
    latent_scale: float = 0.18215
    autoencoder_size: int = 512  # side of the images that the autoencoder was trained on
    velocity_size: int | None = None  # side of an image where a model of the family predicts the velocity; None: none does by nature


@dataclass(frozen=True)
class Family:
    """Declare a family of base models, all of the same layers in the same widths; what differs between them is a variant."""

    id: str
    label: str
    short: str  # on a card
    components: tuple[Component, ...]
    blocks: Blocks
    kohya_native: bool = True  # kohya's own names for the UNet are the original ones, not those of diffusers
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})  # name -> sizes; the first is the default
    size: int = 1024  # side of an image by default
    spellings: tuple[str, ...] = ()  # beginnings of what metadata calls it: small letters and digits only
    written: Mapping[str, str] = field(default_factory=dict)  # what our own files say of it: metadata key -> value
    generation: Generation | None = None  # where a checkpoint file is enough to generate with
    wider: tuple[str, ...] = ()  # layers whose inputs a model for more kinds of pictures (Fill, Control, inpainting) has more of

    @property
    def slots(self) -> dict[str, str]:
        """Which component a text encoder prefix of a file means."""
        return {slot: component.key for component in self.components for slot in component.slots}

    def rows(self, component: Component, variant: str | None = None) -> list[Row]:
        """List the layers of a component of a variant (default: the first). Raises KeyError."""
        if component.key != "unet":
            return list(component.rows())
        return list(component.rows(**self.variants[variant if variant is not None else next(iter(self.variants))]))

    def naming(self, component: Component) -> Naming:
        """Give the names of a component, over all variants."""
        return self._naming[component.key]

    @cached_property
    def _naming(self) -> dict[str, Naming]:
        found = {}
        for item in self.components:
            variants = self.variants if item.key == "unet" else (None,)
            found[item.key] = item.naming((row for variant in variants for row in self.rows(item, variant)), item.also)
        return found


def transformer(rows: Callable[..., Iterable[Row]], also: Mapping[str, str] | None = None) -> Component:
    """Declare the transformer of a family by the function that yields its layers; also: see :class:`Component`."""
    return Component("unet", UNET_PREFIX, "transformer", "lora_unet", rows, TableNames, also=also or {})
