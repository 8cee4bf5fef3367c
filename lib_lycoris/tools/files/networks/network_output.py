"""A network file in, a changed network file out: modules with their keys, and the safe way to write."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import field
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from ....algorithms import Algorithm
from ....errors import NetworkFormatError, ToolError, naming
from ....networks import loading
from ....networks.keys import Keys
from ....networks.matching import parse_module
from ....networks.reading.dtypes import CODES
from ....networks.reading.reader import TensorFile
from ....networks.settings.source import NOTHING, SettingsSource
from ....records import dataclass
from ..metadata import KEY, dumps, network_metadata
from ..output import Output, refuse_inputs, require_space
from ..output_name import check_network_name
from .own_config import with_own_config

UNKNOWN = "0" * 64  # a hash that is not computed, as long as one that is
HASHES = {"sshs_model_hash": UNKNOWN, "sshs_legacy_hash": "0" * 8}


@dataclass(frozen=True, eq=False)
class NetworkFile:
    """A network file, read whole and sorted into modules; no base model is needed to know them."""

    file: TensorFile
    keys: Keys
    source: SettingsSource
    tensors: Mapping[str, Tensor]
    said: Mapping[str, str] = field(default_factory=dict)  # what is known of it and not in its metadata

    def algorithms(self, module: str) -> dict[str, Algorithm]:
        """Return leaf -> algorithm of a module; empty when it cannot be understood."""
        if module in self.keys.doubtful:
            return {}
        try:
            with naming(module):
                return parse_module(self.source, module, {suffix: self.tensors[key] for suffix, key in self.keys.modules[module].items()})
        except NetworkFormatError:
            return {}

    @property
    def metadata(self) -> dict[str, str]:
        """The file's metadata, with PEFT's configs from beside the file in it: a new file elsewhere would lose them."""
        metadata = {**self.file.metadata, **self.said}
        if metadata.get("lora_adapter_metadata") in NOTHING and (text := self.source.config_text):
            metadata["lora_adapter_metadata"] = text
        return metadata


def open_network(path: Path | str) -> NetworkFile:
    """Read a network file. Raises NetworkFormatError naming it."""
    with naming(path):
        file, source, keys = loading.open_network(path)
        tensors, unused = file.read(file.tensors), keys.unused_alphas()
        loading.refuse_unsound(file.path.name, {key: tensor for key, tensor in tensors.items() if key not in unused})
        keys.compare(tensors)
        return NetworkFile(file, keys, source, tensors)


def written_bytes(opened: NetworkFile, tensors: Mapping[str, Tensor], dtype: torch.dtype | None, recipe: Mapping[str, Any]) -> int:
    """Return how large the file of these tensors will be, cast to a dtype (None: each its own)."""
    offset = 0
    header: dict[str, Any] = {"__metadata__": {**opened.metadata, KEY: dumps(recipe), **HASHES}}
    width = None if dtype is None else torch.empty(0, dtype=dtype).element_size()
    for key, tensor in tensors.items():
        cast = width is not None and tensor.is_floating_point() and tensor.numel() > 1
        end = offset + tensor.numel() * (width if cast and width else tensor.element_size())
        header[key] = {"dtype": CODES[str(tensor.dtype).removeprefix("torch.")], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    return 8 + len(json.dumps(header, separators=(",", ":"))) + offset


def save_network(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], recipe: Mapping[str, Any], inputs: Iterable[Path],
    corrections: Mapping[str, str | None] | None = None,
) -> Path:  # fmt: skip
    """Write a network file as a whole or not at all; its hashes and recipe are put into the metadata. Raises ToolError."""
    path = Path(path)
    check_network_name(path)
    if not tensors:
        raise ToolError(f"{path.name} would hold no tensor at all; nothing was written")
    refuse_inputs(path, list(inputs))
    require_space(path.parent, sum(prod(t.shape) * t.element_size() for t in tensors.values()), path.name)
    whole = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with Output(path) as output:
        output.write(serialise(whole, network_metadata(whole, with_own_config(metadata, path), recipe, corrections)))
    return path
