"""A network file as the tools see it: its changes by canonical module, and what a rewritten one carries over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .... import models
from ....algorithms import Algorithm
from ....errors import ModelMismatchError
from ....models import BaseModel
from ....networks import Network
from ....networks.matching import slice_shape
from ....records import dataclass
from ..checkpoints.checkpoint import Checkpoint
from ..metadata import KEY, OWN_HASHES, dumps, rank_facts

# PEFT's configuration says scales and ranks of the old tensors
STALE = (*OWN_HASHES, "lora_adapter_metadata", "ss_network_dim", "ss_network_alpha", "ss_network_args", "ss_network_module")
NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Patch:
    """One change of a network."""

    name: str  # canonical parameter
    module: str
    leaf: str  # weight or bias
    part: str  # "" for the whole
    shape: tuple[int, ...]  # of what the algorithm changes
    algorithm: Algorithm


def patches(network: Network, base: BaseModel) -> list[Patch]:
    """Return a network's changes in the order of the model's layers.

    Raises ModelMismatchError where a layer has another size in this model: several networks of an unknown family need not be of one.
    """
    order = {module: index for index, module in enumerate(base.layers)}
    found = []
    for name, algorithm in network.patches.items():
        module, leaf, part = models.split_parameter(name)
        shape = slice_shape(base, models.with_part(module, part))
        patch = Patch(name, module, leaf, part or "", shape if leaf == "weight" else shape[:1], algorithm)
        if problem := algorithm.check_shape(patch.shape):
            raise ModelMismatchError(f"{network.name} is for another model than the network before it: {name}: {problem}")
        found.append(patch)
    return sorted(found, key=lambda patch: (order[patch.module], patch.leaf, patch.part))


def with_own(found: Iterable[Patch]) -> list[Patch]:
    """Return the changes that have tensors of their own; a bias that is changed by the very algorithm of its weight comes with that."""
    listed = list(found)
    weights = {id(patch.algorithm) for patch in listed if patch.leaf == "weight"}
    return [patch for patch in listed if patch.leaf == "weight" or id(patch.algorithm) not in weights]


def changes_nothing(patch: Patch, checkpoint: Checkpoint | None) -> bool:
    """Tell whether a bias is turned or multiplied that the checkpoint's layer does not have."""
    return patch.leaf == "bias" and checkpoint is not None and patch.algorithm.keeps_zero and not checkpoint.places(patch.name)


def delta_on(patch: Patch, base: BaseModel, read: Callable[[str, tuple[int, ...]], Tensor]) -> Tensor:
    """Return ΔW for the base weights that read(name, shape) gives; a bias may be changed by what the weight beside it is."""
    module = models.with_part(patch.module, patch.part or None)
    beside = partial(read, models.parameter(module, "weight"), slice_shape(base, module))
    return patch.algorithm.beside(beside).delta(read(patch.name, patch.shape))


def style_of(names: Iterable[str]) -> str:
    """Return the key style of a file's module names."""
    names = list(names)
    if any(name.startswith("base_model.model.") for name in names):
        return "peft"
    if any(name.startswith("lycoris_") for name in names):
        return "lycoris"
    if any(name.startswith(("diffusion_model.", "text_encoders.")) for name in names):
        return "original"
    return "diffusers" if any(name.startswith(("unet.", "text_encoder", "transformer.")) for name in names) else "kohya"


def stored_dtype(network: Network) -> torch.dtype:
    """Return the dtype that most of a network's numbers are stored in."""
    count: dict[torch.dtype, int] = {}
    for algorithm in network.patches.values():
        for tensor in algorithm.tensors().values():
            count[tensor.dtype] = count.get(tensor.dtype, 0) + tensor.numel()
    known = [d for d in count if d in (torch.float32, torch.float16, torch.bfloat16)]
    return max(known, key=lambda dtype: count[dtype], default=torch.float32)


def carried(
    old: Mapping[str, str], recipe: Mapping[str, Any], ranks: Iterable[int | None], plain: bool = True, comment: str = "",
    settings: Mapping[str, str] = NOTHING, alpha: float | None = None,
) -> dict[str, str]:  # fmt: skip
    """Return the old metadata with what the new tensors make untrue corrected; hashes are added when the file is written.

    settings: what the new tensors need to be read as what they are; alpha: of all modules, else each has its rank.
    """
    known = [rank for rank in ranks if rank]
    kept = {key: value for key, value in old.items() if key not in STALE}
    said = "; ".join(text for text in (old.get("ss_training_comment", ""), comment) if text and text != "None")
    return {
        "format": "pt",
        **kept,
        **settings,
        "ss_network_module": "networks.lora" if plain else "lycoris.kohya",
        **rank_facts(known, [float(rank) if alpha is None else alpha for rank in known]),
        **({"ss_training_comment": said} if said else {}),
        KEY: dumps(recipe),
    }


def base_model_said(network: Network) -> dict[str, str]:
    """Return what a new file is to say of its base model where the old one says none: what is left of it, or other names, may fit more."""
    written = models.FAMILIES[network.family].written.get("modelspec.architecture")
    if not written or not network.is_sure or models.detect.named_families(network.metadata):
        return {}
    return {"modelspec.architecture": f"{written}/lora"}


def bundled(network: Network) -> list[tuple[str, dict[str, Tensor]]]:
    """Return the embeddings that a file carries, as modules of a new one."""
    return [(f"bundle_emb.{name}", dict(parts)) for name, parts in network.embeddings.items()]
