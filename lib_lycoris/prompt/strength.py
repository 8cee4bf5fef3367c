"""Tag -> one strength for every parameter of a model: component, block weight, element filters and steps in one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import field
from functools import cached_property

from ..errors import PromptError
from ..models.blocks import block_of
from ..models.families import FAMILIES, UNET_PREFIX, UNKNOWN
from ..models.parameters import split_parameter
from ..records import dataclass
from .elements import ElementRule, ratio_after
from .presets import Presets
from .schedule import Schedule
from .tag import Tag, TagError, shown
from .weights import BlockWeights

Strength = float | Schedule


@dataclass(frozen=True)
class StrengthMap:
    """Canonical parameter name -> strength. Equal maps have the same effect; `digest` names that effect in caches.

    `ratios` are block weights (block id, ratio), None without any. `notes` are sentences for the user.
    """

    family: str
    te: Schedule
    te2: Schedule
    unet: Schedule
    ratios: tuple[tuple[str, float], ...] | None = None
    rules: tuple[ElementRule, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __call__(self, parameter: str) -> Strength:
        """Return the strength of a parameter: a float, or a Schedule if it changes over the steps."""
        scaled = self._component(parameter).times(self.ratio(parameter))
        return scaled if scaled.changes else scaled.points[0][1]

    def at(self, parameter: str, step: int, steps: int) -> float:
        """Return the strength of a parameter at 0-based `step` of `steps`."""
        strength = self(parameter)
        return strength.value(step, steps) if isinstance(strength, Schedule) else strength

    def ratio(self, parameter: str) -> float:
        """Return the block weight of a parameter after the element filters; 1 where no block holds it."""
        block = block_of(parameter, self.family)
        ratio = 1.0
        if self.ratios is not None and block is not None:
            ratio = self._ratio_of_block.get(block, 0.0)
        return ratio_after(self.rules, flat_name(parameter) + (block or ""), ratio, self.family) if self.rules else ratio

    def is_off(self, parameters: Iterable[str], steps: int) -> bool:
        """Say whether the strength of all these parameters is 0 at each of so many steps."""
        for parameter in parameters:
            strength = self(parameter)
            values = (strength.value(step, steps) for step in range(steps)) if isinstance(strength, Schedule) else (strength,)
            if any(values):
                return False
        return True

    @property
    def changes(self) -> bool:
        """Whether any strength can differ from step to step."""
        return any(component.changes for component in (self.te, self.te2, self.unet))

    @cached_property
    def digest(self) -> str:
        """A text that is the same for equal maps, on every machine."""
        parts = (self.family, self.te, self.te2, self.unet, self.ratios, self.rules)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @cached_property
    def _ratio_of_block(self) -> dict[str, float]:
        return dict(self.ratios or ())

    @cached_property
    def _component_of_head(self) -> dict[str, str]:
        return {component.prefix.partition(".")[0]: component.key for component in FAMILIES[self.family].components}

    def _component(self, parameter: str) -> Schedule:
        key = self._component_of_head.get(parameter.partition(".")[0], "unet")
        return {"unet": self.unet, "te1": self.te}.get(key, self.te2)


def resolve(tag: Tag, family: str, seed: int, presets: Presets, hires: bool = False) -> StrengthMap:
    """Return the strengths that a tag means for a model of a family and an image's seed; raise TagError."""
    if family not in FAMILIES and family != UNKNOWN.id:
        raise PromptError(f'"{family}" is not a family of base models; the families are {", ".join(FAMILIES)}')
    try:
        weights = presets.weights(tag.weights) if isinstance(tag.weights, str) else tag.weights
        rules = presets.elements(tag.elements) if isinstance(tag.elements, str) else tag.elements
    except PromptError as error:
        raise TagError(tag.text or tag.format(), str(error)) from error
    if weights is not None and family == UNKNOWN.id:
        raise TagError(tag.text or tag.format(), "block weights need a base model whose blocks are known; this one's family is unknown")
    # Two networks of one image draw different values; the pass does not matter, so that hires refines the same image.
    ratios = None if weights is None else tuple(weights.ratios(f"{seed} {tag.name}", tag.x).items())
    te, te2, unet = (tag.hrte, tag.hrte2, tag.hrunet) if hires else (tag.te, tag.te2, tag.unet)
    te, te2, unet = (strength.only_during(tag.during) for strength in (te, te2, unet.switched(tag.start, tag.stop)))
    return StrengthMap(family, te, te2, unet, ratios, rules or (), (*tag.notes, *_notes(tag, weights, family)))


def text_spans(strengths: Sequence[StrengthMap], steps: int) -> list[tuple[int, int]]:
    """Return the spans of 0-based steps, first and last, over which all strengths of the text encoders stay as they are."""
    states = [tuple(component.value(step, steps) for one in strengths for component in (one.te, one.te2)) for step in range(steps)]
    begins = [step for step in range(steps) if step == 0 or states[step] != states[step - 1]]
    return list(zip(begins, [*(begin - 1 for begin in begins[1:]), steps - 1], strict=True))


def flat_name(parameter: str) -> str:
    """Return the name that element filters look into: a module's, written flat behind `lora_unet_` or `lora_te_`.

    Text encoders say `encoder` and fused q, k, v say which one, in every family. The webui's own flat names begin with
    `diffusion_model_`, in which `ff` would match everywhere.
    """
    module, _, part = split_parameter(parameter)
    is_unet = module.startswith(UNET_PREFIX)
    if part in ("q", "k", "v"):
        module += f".to_{part}" if is_unet else f".{part}_proj"
    flat = module.removeprefix(UNET_PREFIX).replace(".", "_")
    if is_unet:
        return f"lora_unet_{flat}"
    return f"lora_te_{flat}" if "encoder" in flat else f"lora_te_encoder_{flat}"


def _notes(tag: Tag, weights: BlockWeights | None, family: str) -> tuple[str, ...]:
    """Say when a layout is another family's, as preset ALL on SDXL: blocks that it lacks are then off."""
    told = FAMILIES[family]
    if weights is None or len(weights.cells) in told.blocks.counts:
        return ()
    count = len(weights.cells)
    made_for = " and ".join(other.label for other in FAMILIES.values() if count in other.blocks.counts)
    fitting = " or ".join(str(other) for other in sorted(told.blocks.counts))
    advice = f"use {fitting} weights for it" if fitting else "use element filters (lbwe) for it"
    return (
        f"{shown(tag.text or tag.format())}: {count} weights are made for {made_for}; "
        f"blocks of {told.label} not among them get 0, {advice}",
    )
