"""The ways in which hosts hold a model's weights, and what each of the weights means: used by host_families.py under a host's python."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from host_models import forge_layers, make
from torch import Tensor, nn

State = dict[str, Tensor]
Stored = tuple[nn.Module, State]  # a model of the host's layers, and its parameters as numbers
FP8 = torch.float8_e4m3fn


def is_linear(name: str, tensor: Tensor) -> bool:
    """Tell whether a parameter is the weight of a linear layer, which is what is quantised."""
    return name.endswith(".weight") and tensor.dim() == 2


def cast(host: str, family: str, state: Mapping[str, Tensor], dtype: torch.dtype) -> Stored:
    """Store everything in a dtype, and cast it for each call if that is not what is computed in."""
    needed = dtype != torch.float32
    if host == "reforge":
        model = make(host, family, cast=needed).to(dtype)
    else:
        with forge_layers(dtype=dtype, manual_cast_enabled=needed):
            model = make(host, family).to(dtype)
    meant = {name: tensor.to(dtype).to(tensor.dtype) for name, tensor in state.items()}
    return loaded(model, meant), meant


def scaled(host: str, family: str, state: Mapping[str, Tensor]) -> Stored:
    """Store linear weights in fp8 with a scale each: Forge's own layers for that, and Neo's for comfy-quant's files."""
    found, meant = {}, dict(state)
    for name, tensor in state.items():
        if not is_linear(name, tensor):
            found[name] = tensor if host == "neo" else tensor.to(FP8)
            meant[name] = tensor if host == "neo" else tensor.to(FP8).to(tensor.dtype)
            continue
        scale = tensor.abs().amax() / 448
        found[name], layer = (tensor / scale).to(FP8), name.removesuffix(".weight")
        meant[name] = found[name].float() * scale
        found[f"{layer}.weight_scale" if host == "neo" else f"{layer}.scale_weight"] = scale
        if host == "neo":
            found[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    if host == "neo":
        with forge_layers(dtype=torch.float32, manual_cast_enabled=True, bnb_dtype={"mixed_ops": True, "TE": False}):
            return loaded(make(host, family), found), meant
    with forge_layers(dtype=FP8, manual_cast_enabled=True):
        return loaded(make(host, family).to(FP8), found), meant


def gguf(host: str, family: str, state: Mapping[str, Tensor]) -> Stored:
    """Store linear weights in a GGUF file's eight bits, and read it as the host does."""
    from backend.memory_management import bake_gguf_model
    from backend.operations_gguf import dequantize_tensor
    from backend.utils import load_torch_file

    import_gguf = __import__("modules_forge.packages.gguf", fromlist=["gguf"]) if host == "neo" else __import__("gguf")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.gguf")
        writer = import_gguf.GGUFWriter(path, "flux")
        kind = import_gguf.GGMLQuantizationType.Q8_0
        for name, tensor in state.items():
            numbers = tensor.numpy()
            if is_linear(name, tensor) and tensor.shape[1] % 32 == 0:
                writer.add_tensor(name, import_gguf.quants.quantize(numbers, kind), raw_dtype=kind)
            else:
                writer.add_tensor(name, numbers)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with forge_layers(dtype=torch.float32, bnb_dtype="gguf"):
            model = loaded(make(host, family), load_torch_file(path))
        bake_gguf_model(model)
        held = dict(model.named_parameters())
        return model, {name: dequantize_tensor(held[name]).float().clone().view(state[name].shape) for name in state if name in held}


def four_bits(host: str, family: str, state: Mapping[str, Tensor]) -> Stored:
    """Store linear weights in bitsandbytes' four bits, as its files have them."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    found, meant = dict(state), dict(state)
    for name, tensor in state.items():
        if is_linear(name, tensor):
            found[name], quantised = quantize_4bit(tensor, blocksize=64, quant_type="nf4")
            found |= {f"{name}.{key}": value for key, value in quantised.as_dict(packed=True).items()}
            meant[name] = dequantize_4bit(found[name], quantised)
    with forge_layers(dtype=torch.float32, bnb_dtype="nf4"):
        return loaded(make(host, family), found), meant


def loaded(model: nn.Module, state: Mapping[str, Any]) -> nn.Module:
    """Return a model with these parameters, which nobody trains."""
    model.load_state_dict({name: tensor.clone() if type(tensor) is Tensor else tensor for name, tensor in state.items()}, strict=False)
    return model.requires_grad_(False)


STORAGES: Mapping[str, Callable[[str, str, Mapping[str, Tensor]], Stored]] = {
    "plain": lambda host, family, state: cast(host, family, state, torch.float32),
    "fp8": lambda host, family, state: cast(host, family, state, FP8),
    "scaled fp8": scaled,
    "gguf": gguf,
    "nf4": four_bits,
}
