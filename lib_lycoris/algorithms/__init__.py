"""Stored tensors -> ΔW: one algorithm a file, and the list of them in the order in which a module is tried."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from ..errors import NetworkFormatError
from .abba import ABBA
from .activation import Bypass, Convolution, Cost, Layer, LowRank, Stacked
from .adalora import AdaLoRA
from .base import Algorithm, Scaled
from .beft import BEFT
from .boft import BOFT
from .c3a import C3A
from .config import NO_CONFIG, Config
from .deft import DEFT
from .delora import DeLoRA
from .dora import DoRA
from .full import Bias, Full, LoRABias
from .glora import GLoRA
from .gralora import GraLoRA
from .hira import HiRA
from .hra import HRA
from .ia3 import IA3, PeftIA3
from .loha import LoHa
from .lokr import LoKr
from .lora import LoRA
from .miss import MiSS, MiSSBat
from .norm import Norm, NormBias
from .oft import OFT, StoredRotation
from .peft_boft import PeftBOFT
from .peft_glora import PeftGLoRA
from .peft_oft import InputOFT, OutputOFT, PackedOFT
from .pissa import OLoRA, PiSSA
from .replacement import BiasReplacement, Replacement
from .road import RoAd
from .sparse import SHiRA, SuperTuning
from .stored_values import one_number, surplus
from .tlora import TLoRA
from .vera import VeRA

__all__ = [
    "ALGORITHMS",
    "SUFFIXES",
    "Algorithm",
    "Bias",
    "Bypass",
    "Config",
    "Convolution",
    "Cost",
    "DoRA",
    "Full",
    "Layer",
    "LowRank",
    "NormBias",
    "Scaled",
    "Stacked",
    "is_algorithm",
    "parse",
]

# in the order in which a module is tried: what needs more tensors, or a word in PEFT's config, before what needs less
ALGORITHMS: tuple[type[Algorithm], ...] = (
    Replacement, Full, Norm, AdaLoRA, PiSSA, OLoRA, LoRA, LoHa, LoKr, GLoRA, TLoRA, BOFT, OFT, StoredRotation, PackedOFT, InputOFT,
    OutputOFT, PeftBOFT, PeftIA3, IA3, ABBA, C3A, DEFT, DeLoRA, GraLoRA, HiRA, HRA, MiSS, MiSSBat, PeftGLoRA, RoAd, SHiRA, SuperTuning,
    VeRA,
)  # fmt: skip

BIASES: tuple[type[Algorithm], ...] = (Bias, NormBias, BiasReplacement, BEFT)

# written beside an algorithm's own tensors and without a meaning for it: (IA)^3's and OFT's alpha, LyCORIS' folded scalar
IGNORED = frozenset({"alpha", "scalar"})

KINDS: tuple[type[Algorithm], ...] = (*ALGORITHMS, *BIASES, LoRABias, DoRA)
SUFFIXES: frozenset[str] = IGNORED | {suffix for kind in KINDS for suffix in kind.suffixes().values()}

# suffix of a tensor that all modules of a file share -> the other suffixes of the modules that do
SHARED: dict[str, frozenset[str]] = {suffix: kind.required() - kind.shared() for kind in KINDS for suffix in kind.shared()}


def is_algorithm(suffixes: Collection[str]) -> bool:
    """Tell whether a module with these suffixes has all that some algorithm needs."""
    return any(kind.required() <= set(suffixes) for kind in (*ALGORITHMS, *BIASES)) or "scale" in suffixes


def parse(tensors: Mapping[str, Tensor], config: Config = NO_CONFIG, **settings: Any) -> tuple[dict[str, Algorithm], set[str]]:
    """Turn one module's ``suffix -> tensor`` into ``leaf -> algorithm`` (leaf "weight" or "bias") and the suffixes left over.

    config: PEFT's, if there is one; settings: fields of the algorithm that the file says elsewhere.
    Raises NetworkFormatError when no algorithm has these suffixes.
    """
    kind = next((a for a in ALGORITHMS if a.detects(tensors, config)), None)
    found: dict[str, Algorithm] = {}
    used: set[str] = set()
    if kind is not None:
        if config:
            settings.update(kind.from_config(config, tensors))
        found["weight"] = kind.from_state_dict(tensors, **settings)
        used |= set(kind.suffixes().values()) - surplus(kind.ways, tensors)
        if "scale" in tensors and getattr(found["weight"], "fixed_scale", None) == one_number(tensors["scale"], "scale"):
            used.add("scale")
        if "dora_scale" in tensors:
            found["weight"] = DoRA.from_state_dict(tensors, inner=found["weight"], **settings)
            used.add("dora_scale")
    for bias in BIASES:
        if "bias" not in found and bias.detects(tensors):
            found["bias"] = bias.from_state_dict(tensors)
            used |= bias.required()
    direction = found["weight"].direction if "weight" in found else None
    if "bias" not in found and isinstance(direction, Scaled) and LoRABias.detects(tensors):
        found["bias"] = LoRABias.from_state_dict(tensors, scale=direction.scale)
        used |= LoRABias.required()
    if not found:
        known = ", ".join(sorted(tensors))
        raise NetworkFormatError(f"no known algorithm stores exactly {known}")
    return found, set(tensors) - used - IGNORED
