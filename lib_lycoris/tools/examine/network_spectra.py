"""Network -> the singular values of all its modules that have ranks: what a resize would keep is known without running it."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...models import BaseModel
from ...networks import Network, load
from ...networks.reading.dtypes import OF_NETWORKS, precision_dtype
from ...networks.reading.folder import file_of
from ..files.checkpoints.checkpoint import open_checkpoint
from ..files.networks.network_file import Patch, carried, patches, stored_dtype, style_of
from ..files.networks.reading_back import ReadingBack
from ..jobs.workers import count, ordered
from ..linalg.size_curve import CurveRequest, Layer, Part, Spectra
from ..reshape.shrink import decomposed, recipe_of

REMEMBERED = 4  # networks


def network_spectra(path: Path, base_model: Path | None = None) -> tuple[Spectra, CurveRequest]:
    """Return a network's spectra, and what a resize to its present ranks would ask for. Raises NetworkFormatError, ToolError.

    The last few networks are remembered, as long as their files stay as they are.
    """
    state = file_of(path).stat()
    return _measured(path, state.st_mtime_ns, state.st_size, base_model)


@lru_cache(maxsize=REMEMBERED)
def _measured(path: Path, _changed: int, _size: int, base_model: Path | None) -> tuple[Spectra, CurveRequest]:
    checkpoint = open_checkpoint(base_model) if base_model else None
    network = load(path, checkpoint.base if checkpoint else None)
    base = checkpoint.base if checkpoint else network.base
    layers = list(ordered(lambda patch: _layer(network, base, patch), patches(network, base), count()))
    for name, parts in network.embeddings.items():
        numbers = sum(tensor.numel() for tensor in parts.values())
        layers.append(Layer(f"bundle_emb.{name}", (), False, False, len(name) + 11, len(parts), 0.0, numbers, numbers))
    style = style_of(network.modules.values())
    recipe, settings = recipe_of("resize", path, {"size": 10.0}, ("size",)), ReadingBack(network, path, style).room
    notes = len(json.dumps(carried(network.metadata, recipe, (), settings=settings)))
    largest = max((layer.values.numel() for layer in layers), default=0) or 1
    stored = stored_dtype(network)
    precision = next((name for name in OF_NETWORKS if precision_dtype(name, None) == stored), "fp16")
    return Spectra(tuple(layers), base.family, notes, True, largest), CurveRequest(dim=largest, style=style, save_precision=precision)


def _layer(network: Network, base: BaseModel, patch: Patch) -> Layer:
    component = base.component_of(patch.module)
    svd = decomposed(patch)
    algorithm = patch.algorithm
    facts: dict[str, Any] = {
        "name": patch.name, "shape": patch.shape, "factorised": svd is not None, "text": component is not None and component.key != "unet",
        "longest": len(network.modules[patch.name]), "keys": max(4, len(algorithm.tensors()) + 1),
    }  # fmt: skip
    if svd is None:
        numbers = sum(tensor.numel() for tensor in algorithm.to_state_dict().values())
        return Layer(**facts, energy=0.0, whole=numbers, reserved=numbers)
    values, more = svd.s.clone(), sum(magnitude.numel() for magnitude in algorithm.magnitudes().values())
    parts = (Part(patch.shape[0], svd.total, values),)
    return Layer(**facts, energy=svd.total, whole=more, values=values, parts=parts)
