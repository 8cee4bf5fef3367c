"""A batch's images and captions -> latents, masks and texts, from the cache where they do not change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ...records import dataclass
from ..cache import Cache, module_digest
from ..data.captions import caption_at
from ..data.items import Item
from ..data.order import Batch
from ..data.pictures import Cut, cut_of, read_picture
from ..models.base import Texts, TrainedModel
from .draws import chooser, generator


@dataclass(frozen=True)
class Lesson:
    """What one batch, or a process's share of it, is computed from."""

    latents: Tensor
    masks: Tensor | None  # (n, 1, h, w), in the latents' size
    captions: tuple[str, ...]
    sizes: tuple[tuple[Item, Cut], ...]
    counts: Tensor  # (n,): what each image counts


class Lessons:
    """Prepares batches; every choice follows from seed and place."""

    def __init__(self, model: TrainedModel, settings: Any, cache: Cache | None, trains_text: bool, fixed: bool) -> None:
        self.model, self.settings, self.cache, self.trains_text = model, settings, cache, trains_text
        self.fixed = fixed  # each image has one caption: of others there are too many to keep
        self._vae = module_digest(model.vae()) if cache else ""
        self._texts = module_digest(*model.text_encoders()) if cache and not trains_text else ""
        self._known: dict[str, dict[str, Tensor]] = {}

    def lesson(self, batch: Batch, chosen: Sequence[tuple[int, Item]]) -> Lesson:
        """Return the images of a batch that are at these places in it."""
        rows, captions, sizes = [], [], []
        for place, item in chosen:
            cut = cut_of(item, chooser(self.settings.seed, "cut", batch.number, place))
            rows.append(self._image(item, cut))
            captions.append(caption_at(item.caption, item.subset, batch.epoch, chooser(self.settings.seed, "caption", batch.number, place)))
            sizes.append((item, cut))
        device = self.model.device
        latents = torch.stack([row["latent"] for row in rows]).to(device)
        counts = [self.settings.prior_loss_weight if item.subset.regularisation else 1.0 for _, item in chosen]
        return Lesson(latents, _masks(rows, latents), tuple(captions), tuple(sizes), torch.tensor(counts, device=device))

    def texts(self, captions: Sequence[str]) -> Texts:
        """Return captions as the denoiser reads them: computed anew where text encoders are trained, else once."""
        if self.trains_text:
            return self.model.texts(captions)
        rows = [self._known.get(caption) or self._text(caption) for caption in captions]
        if self.fixed:
            self._known.update(zip(captions, rows))
        return Texts.together(rows).to(self.model.device, self.model.dtype)

    def fill(self, items: Iterable[Item], tell: Callable[[int, int], None]) -> None:
        """Make what is to be cached, before the first step."""
        items = list(items)
        if self.fixed and not self.trains_text:
            self.texts(list(dict.fromkeys(caption_at(item.caption, item.subset, 0, chooser("fixed")) for item in items)))
        work = list({item.digest + str(item.fit): item for item in items}.values())
        for count, item in enumerate(work):
            tell(count, len(work))
            if self.cache and not item.subset.random_crop:
                middle = cut_of(item, chooser("middle"))
                for flipped in (False, True) if item.subset.flip_aug else (False,):
                    self._image(item, Cut(middle.left, middle.top, flipped))
        tell(len(work), len(work))

    def _image(self, item: Item, cut: Cut) -> dict[str, Tensor]:
        facts = (item.digest, item.fit.bucket, item.fit.resized, cut.left, cut.top, cut.flipped, item.subset.alpha_mask, self._vae)
        if self.cache is None or item.subset.random_crop:
            return self._encoded(item, cut, facts)
        return dict(self.cache.made(self.cache.path("latent", *facts), lambda: self._encoded(item, cut, facts)))

    def _encoded(self, item: Item, cut: Cut, facts: Sequence[object]) -> dict[str, Tensor]:
        picture = read_picture(item, cut)
        shape = self.model.latent_shape(item.fit.bucket)
        noise = torch.randn((1, *shape), generator=generator("latent", *facts))
        found = {"latent": self.model.latents(picture.pixels[None], noise)[0].float().cpu()}
        return found if picture.mask is None else {**found, "mask": picture.mask}

    @torch.no_grad()
    def _text(self, caption: str) -> dict[str, Tensor]:
        def make() -> dict[str, Tensor]:
            return {name: tensor[0].cpu() for name, tensor in self.model.texts([caption]).tensors.items()}

        if self.cache is None or not self.fixed or not self.settings.cache_text_encoder_outputs:
            return make()
        settings = self.settings
        path = self.cache.path("text", caption, self._texts, settings.clip_skip, settings.max_token_length, settings.t5xxl_max_token_length)
        return dict(self.cache.made(path, make))


def _masks(rows: Sequence[dict[str, Tensor]], latents: Tensor) -> Tensor | None:
    """Return the masks in the latents' size, white for images without one; None where no image has one."""
    if not any("mask" in row for row in rows):
        return None
    size = tuple(latents.shape[-2:])
    white = torch.ones(1, 1, *size)
    found = [interpolate(row["mask"][None], size, mode="area") if "mask" in row else white for row in rows]
    return torch.cat(found).to(latents)
