"""Strengths and block weights into a network file: at strength 1 it then does what the old one did with them.

Of each module exactly one factor is multiplied (one of each term where ΔW is a sum). Algorithms whose ΔW no factor scales - DoRA, OFT,
BOFT, replaced weights - need the base model: their modules become full differences.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...algorithms import Algorithm
from ...errors import ToolError
from ...models import split_parameter
from ...networks import Network, load
from ...networks.hashes import sha256
from ...networks.reading.dtypes import precision_dtype
from ...wording import counted
from ..declaration import FAMILY, NETWORK_PRECISION, PER_NETWORK, SAVE_TO, FilePath, Option, Plan, Result, Tool
from ..files.checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..files.metadata import cast, describe, make_recipe
from ..files.networks.left_out import left_out
from ..files.networks.network_file import base_model_said
from ..files.networks.network_output import UNKNOWN, NetworkFile, open_network, save_network, written_bytes
from ..jobs.cost import cost
from ..jobs.progress import Progress
from ..merge.strengths import NetworkOptions, asked


def run(
    model: FilePath, save_to: FilePath, *, ratio: float | None = None, te: float | None = None, te2: float | None = None,
    unet: float | None = None, lbw: str | None = None, lbwe: str | None = None, sd_model: FilePath | None = None,
    save_precision: str | None = None, seed: int = 0, family: str | None = None, progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Write strengths and block weights into a network file: at strength 1 it then does what the old one did with them.

    Raises:
        ToolError: an option is wrong, or a change has no exact form without the base model (`sd_model`).
        NetworkFormatError: a file cannot be read.
    """
    progress, began = progress or Progress(), time.monotonic()
    strengths = {"te": te, "te2": te2, "unet": unet, "lbw": lbw, "lbwe": lbwe}
    item, opened, network, checkpoint = _open(model, ratio, sd_model, family, strengths)
    by_module, notes = _strengths(network, item, seed)
    _refuse(opened, network, by_module, checkpoint)
    dtype = precision_dtype(save_precision, None)
    progress.start(len(by_module), "baking", "layers")
    made: dict[str, Tensor] = {key: opened.tensors[key] for parts in opened.keys.embeddings.values() for key in parts.values()}
    differences = 0
    for module, strength in by_module.items():
        baked = _bake(opened, network, module, strength, checkpoint, dtype)
        differences += f"{module}.diff" in baked and "diff" not in opened.keys.modules[module]
        made.update(baked)
        progress.advance(text=module)
    recipe = _recipe(item, sha256(item.path), seed)
    path = save_network(save_to, cast(made, dtype), opened.metadata, recipe, [opened.file.path, *([Path(sd_model)] if sd_model else [])])
    off = [module for module, strength in by_module.items() if strength == 0]
    report = {
        "output": str(path), "modules": len(by_module) - len(off), "left_out_modules": off, "as_differences": differences,
        "unmatched": [list(one) for one in network.skipped], "left_out_keys": sorted({key for key, _ in network.skipped}), "notes": notes,
        "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip
    full = f" ({differences} as full differences)" if differences else ""
    text = f"{path}: {counted(len(by_module) - len(off), 'layer')} written{full}{_left_out(by_module)}"
    return Result(report, "\n".join([text, *left_out(network.skipped), *notes]), (path,))


def _open(
    model: Path | str, ratio: float | None, sd_model: Path | str | None, family: str | None, strengths: dict[str, Any]
) -> tuple[NetworkOptions, NetworkFile, Network, Checkpoint | None]:
    item = asked(model, ratio, **strengths)[0]
    checkpoint = open_checkpoint(sd_model) if sd_model else None
    network = load(item.path, checkpoint.base if checkpoint else None, family=family)
    return item, replace(open_network(item.path), said=base_model_said(network)), network, checkpoint


def _strengths(network: Network, item: NetworkOptions, seed: int) -> tuple[dict[str, float], list[str]]:
    """Return the strength of each of the file's modules, one whatever it changes, and what is to be said about them."""
    strength = item.strengths(network.family, seed)
    found: dict[str, float] = {}
    for name, module in network.modules.items():
        value = strength(name)
        if not isinstance(value, (int, float)):
            raise ToolError(f"the strength of {network.name} changes over the steps; a file has one strength, give a number")
        found[module] = float(value)
    return found, list(strength.notes)


def _refuse(opened: NetworkFile, network: Network, by_module: dict[str, float], checkpoint: Checkpoint | None) -> None:
    """Raise ToolError for modules that no factor scales, when there is no base model to make differences with."""
    names = [n for n, m in network.modules.items() if by_module[m] not in (0.0, 1.0) and network.patches[n].scaled(1.0) is None]
    if names and checkpoint is None:
        kinds = ", ".join(sorted({network.patches[name].name for name in names}))
        raise ToolError(
            f"{opened.file.path.name}: the change of {counted(len(names), 'layer')} ({kinds}) depends on the base weight, "
            "no factor scales it; "
            "give the base model as `sd_model`, they then become full differences"
        )
    if parts := [name for name in names if network.modules[name].endswith("]")]:
        raise ToolError(f"{opened.file.path.name}: {parts[0]} is one of several rotations of a layer and cannot be baked; merge instead")


def _bake(
    opened: NetworkFile, network: Network, module: str, strength: float, checkpoint: Checkpoint | None, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Return the tensors of a module at a strength, by their keys."""
    keys = opened.keys.modules[module]
    found = {key: opened.tensors[key] for key in keys.values()}
    if strength == 1:
        return found
    if strength == 0:
        return {}
    patches = {name: network.patches[name] for name, owner in network.modules.items() if owner == module}
    scaled = {name: algorithm.scaled(strength) for name, algorithm in patches.items()}
    if not all(scaled.values()):
        assert checkpoint is not None
        stored = (t.dtype for t in found.values() if t.is_floating_point() and t.element_size() > 1 and t.numel() > 1)
        dtype = dtype or next(stored, torch.float16)
        return {key: tensor.to(dtype) for key, tensor in _differences(module, patches, strength, checkpoint).items()}
    for name, algorithm in patches.items():
        found.update(_changed(module, keys, algorithm.values(), scaled[name].values(), dtype))  # type: ignore[union-attr]
    return found


def _changed(
    module: str, keys: Mapping[str, str], old: Mapping[str, Tensor | float], new: Mapping[str, Tensor | float], dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Return what is to be stored anew, by key, in its own precision unless another is asked for."""
    found = {}
    for suffix, value in new.items():
        before = old.get(suffix)
        if value is before:
            continue
        if isinstance(value, Tensor):
            assert isinstance(before, Tensor)
            kept = before.dtype if before.element_size() > 1 else torch.float16  # fp8 has no digits to spare for another rounding
            value = value.to(dtype or kept)
        else:
            value = torch.tensor(value)
        found[keys.get(suffix, f"{module}.{suffix}")] = value
    return found


def _differences(module: str, patches: dict[str, Algorithm], strength: float, checkpoint: Checkpoint) -> dict[str, Tensor]:
    found = {}
    for name, algorithm in patches.items():
        if checkpoint.places(name):
            suffix = "diff_b" if split_parameter(name)[1] == "bias" else "diff"
            found[f"{module}.{suffix}"] = algorithm.delta(checkpoint.parameter(name)) * strength
    return found


def plan(
    model: Path | str, save_to: Path | str, ratio: float | None = None, sd_model: Path | str | None = None,
    save_precision: str | None = None, seed: int = 0, family: str | None = None, **strengths: Any,
) -> Plan:  # fmt: skip
    """Tell which modules get which strength."""
    dtype = precision_dtype(save_precision, None)
    item, opened, network, checkpoint = _open(model, ratio, sd_model, family, strengths)
    by_module, notes = _strengths(network, item, seed)
    _refuse(opened, network, by_module, checkpoint)
    before, foretold = opened.file.path.stat().st_size, _foretold(opened, network, by_module)
    size = written_bytes(opened, foretold, dtype, _recipe(item, UNKNOWN, seed))
    report = {
        "output": str(save_to),
        "matched": len(by_module),
        "unmatched": [list(one) for one in network.skipped],
        "strengths": by_module,
        "notes": notes,
    }
    kept = [strength for strength in by_module.values() if strength]
    text = f"would write {save_to}: {counted(len(kept), 'layer')}, {_spread(kept)}{_left_out(by_module)}"
    took = cost((), 2 * before, size)  # the file is read twice, as it is and understood
    return Plan(report, "\n".join([text, *left_out(network.skipped), *notes]), took.seconds, took.bytes + 2 * size, size)


def _recipe(item: NetworkOptions, digest: str, seed: int) -> dict[str, Any]:
    return make_recipe("bake", networks=[{**describe(item.path, digest), **item.as_json()}], seed=seed or None)


def _foretold(opened: NetworkFile, network: Network, by_module: Mapping[str, float]) -> dict[str, Tensor]:
    """Return tensors without numbers, of the shapes that will be written."""
    found: dict[str, Tensor] = {key: opened.tensors[key] for parts in opened.keys.embeddings.values() for key in parts.values()}
    whole = {network.modules[name]: name for name, patch in network.patches.items() if patch.scaled(1.0) is None}
    for module, strength in by_module.items():
        stored = {key: opened.tensors[key] for key in opened.keys.modules[module].values()}
        if strength not in (0.0, 1.0) and module in whole:
            shape = network.base.layers[split_parameter(whole[module])[0]].shape
            stored = {f"{module}.diff": torch.empty(shape, dtype=next(iter(stored.values())).dtype, device="meta")}
        found.update(stored if strength else {})
    return found


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "none at a strength but 0"
    least, most = min(values), max(values)
    return f"at strength {most:g}" if least == most else f"at strengths from {least:g} to {most:g}"


def _left_out(by_module: Mapping[str, float]) -> str:
    off = sum(strength == 0 for strength in by_module.values())
    return f"; {off} left out (weight 0)" if off else ""


_TEXTS = tuple(
    Option(o.name, o.help.replace("each network", "the network"), o.type, aliases=o.aliases) for o in PER_NETWORK if o.name != "ratios"
)
TOOL = Tool(
    "bake", "Bake strengths", "write strengths and block weights into a network file", run, plan,
    (
        Option("model", "the network file", Path, required=True, kind="network", aliases=("--models",)),
        Option("ratio", "strength of the network (default 1); the text encoders' and the UNet's default", float, aliases=("--ratios",)),
        *_TEXTS,
        Option("sd_model", "the checkpoint, for networks whose change depends on its weights or of a model of unusual size",
               Path, aliases=("--base_model",), kind="checkpoint", label="Base model"),
        SAVE_TO, NETWORK_PRECISION, FAMILY,
        Option("seed", "the seed that R and U block weights are drawn with", int, 0),
    ),
)  # fmt: skip
