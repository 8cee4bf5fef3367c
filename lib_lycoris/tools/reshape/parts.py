"""Changes of whole layers as those of their parts, and back, where that is exact: DoRA, whole differences and values, LoRA.

A style may know one layer of the original model as several (Flux' qkv is diffusers' to_q, to_k, to_v), or several as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...algorithms import Algorithm
from ...models import BaseModel, rows
from ..files.networks.compose import is_direct, names_of
from ..files.networks.naming import DOTTED, WHOLE, lora, merged_parts
from ..files.networks.network_file import Patch


def is_named(base: BaseModel, style: str, module: str, items: Sequence[Patch]) -> bool:
    """Tell whether each of a layer's changes has a name of its own."""
    if items[0].part == "" and len(names_of(base, style, module)) == 1:
        return True
    return is_direct(base, style, module, [patch.part for patch in items])


def divided(base: BaseModel, style: str, patch: Patch) -> dict[str, Patch]:
    """Return name -> change of each part that a style has a name for; empty where it has one for the whole, or rows cannot be taken."""
    names = names_of(base, style, patch.module)
    if patch.part or (len(names) == 1 and names[0].rows == (WHOLE,)):
        return {}
    found = {}
    for item in names:
        its = torch.cat([torch.arange(patch.shape[0])[piece] for piece in item.rows])
        part = _rows(patch.algorithm, its)
        if part is None:
            return {}
        found[item.name] = replace(patch, algorithm=part, shape=(len(its), *patch.shape[1:]))
    return found


def _rows(algorithm: Algorithm, its: Tensor) -> Algorithm | None:
    """Return some rows of a change, in their order."""
    start, stop = int(its[0]), int(its[-1]) + 1
    return algorithm.rows(slice(start, stop)) if stop - start == len(its) else algorithm.rows(its)


def united(base: BaseModel, style: str, module: str, items: Sequence[Patch]) -> tuple[str, dict[str, Tensor]] | None:
    """Return the one module that DoRAs of all parts of a layer make together; None where they do not make it up or are no DoRAs."""
    names, shape = names_of(base, style, module), tuple(base.layers[module].shape)
    if len(names) != 1:
        return None
    magnitude, done = torch.zeros(shape[0]), torch.zeros(shape[0], dtype=torch.bool)
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for patch in items:
        own, pair = patch.algorithm.output_magnitude(patch.shape), patch.algorithm.direction.low_rank(patch.shape)
        if own is None or pair is None or patch.part == "T":
            return None
        its = torch.cat([torch.arange(shape[0])[piece] for piece in rows(patch.part or None, shape)])
        magnitude[its], done[its] = own.float(), True
        pairs[patch.part] = pair
    if not bool(done.all()):
        return None
    up, down = merged_parts(pairs, shape)
    kernel = shape[2:]
    return names[0].name, {**lora(style, up, down, kernel), **stored_magnitude(style, magnitude, len(shape))}


def with_endings(style: str, algorithm: Algorithm, shape: Sequence[int]) -> dict[str, Tensor]:
    """Return a change's tensors under the endings that programs know in a style: a LoRA, DoRA or not, has others in dotted names."""
    pair, magnitude = algorithm.direction.low_rank(shape), algorithm.output_magnitude(shape)
    tucker = "lora_mid.weight" in algorithm.tensors()
    if style not in DOTTED or not algorithm.direction.is_lora or tucker or pair is None or (algorithm.magnitudes() and magnitude is None):
        return algorithm.to_state_dict()
    return {**lora(style, *pair, tuple(shape[2:])), **({} if magnitude is None else stored_magnitude(style, magnitude, len(shape)))}


def stored_magnitude(style: str, magnitude: Tensor, axes: int) -> dict[str, Tensor]:
    """Return the magnitude of each output, (out,), as programs that read a style expect it."""
    if style in ("diffusers", "peft"):  # PEFT's own shape: (out,), of a convolution (1, out, 1, 1)
        kernel = (1,) * (axes - 2)
        return {"lora_magnitude_vector": magnitude.float().reshape(1, -1, *kernel) if kernel else magnitude.float()}
    return {"dora_scale": magnitude.reshape(-1, *(1,) * (axes - 1))}


def not_renamed(style: str, patch: Patch) -> str:
    """Say why a change cannot get the names of a style, and what can be done."""
    kind = patch.algorithm.label
    if patch.part:
        return (
            f"{patch.name}: {kind} changes a part of a layer that the {style} style names only as a whole, and the file lacks"
            " the same of its other parts; use `algorithm=lora`, with `base_model`"
        )
    return f"{patch.module} has several names in the {style} style and {kind} cannot be taken apart; use `algorithm=lora`"
