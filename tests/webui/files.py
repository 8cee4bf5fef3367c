"""Networks in the shapes of a checkpoint file, and that checkpoint with one of them merged in by the delta engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_lycoris.models import BaseModel, LayerInfo, from_live, rows, split_parameter, split_part
from lib_lycoris.networks import Network
from tests.samples import CONVOLUTION, LINEAR, NORM, metadata

UNET_BLOCK = "diffusion_model.input_blocks.1.1"
SD1_LAYERS = (
    f"{UNET_BLOCK}.transformer_blocks.0.attn1.to_q",
    f"{UNET_BLOCK}.transformer_blocks.0.attn2.to_k",
    f"{UNET_BLOCK}.transformer_blocks.0.ff.net.2",
    f"{UNET_BLOCK}.transformer_blocks.0.norm2",
    f"{UNET_BLOCK}.proj_in",
    f"{UNET_BLOCK}.norm",
    "diffusion_model.input_blocks.3.0.op",
    "diffusion_model.middle_block.0.in_layers.2",
    "diffusion_model.middle_block.0.emb_layers.1",
    "diffusion_model.output_blocks.9.0.skip_connection",
    "diffusion_model.output_blocks.11.1.proj_out",
    "diffusion_model.output_blocks.11.1.norm",
    "diffusion_model.output_blocks.11.0.out_layers.3",
    "transformer.text_model.encoder.layers.0.mlp.fc1",
    "transformer.text_model.encoder.layers.5.self_attn.q_proj",
    "transformer.text_model.encoder.layers.9.layer_norm1",
)
STYLES = ("kohya", "ldm", "lycoris", "diffusers", "peft", "dotted")


def base_of(checkpoint: Path, family: str) -> BaseModel:
    """Return the names and shapes of a checkpoint's layers, from its header."""
    with safe_open(str(checkpoint), "pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    layers = {}
    for key, shape in shapes.items():
        module, _, leaf = key.rpartition(".")
        if leaf == "in_proj_weight":
            layers[module] = LayerInfo("MultiheadAttention", shape, True)
        elif leaf == "weight" and not key.startswith("first_stage_model."):
            kind = {1: "LayerNorm", 2: "Linear", 4: "Conv2d"}[len(shape)]
            layers[module] = LayerInfo("Embedding" if "embedding" in module else kind, shape, f"{module}.bias" in shapes)
    return from_live(layers, family).base


def linear_layers(base: BaseModel) -> list[str]:
    """Return every linear layer of the attention blocks and of the text encoders that the built-in loader can change too."""
    linear = [name for name, info in base.layers.items() if info.kind == "Linear" and ("attn" in name or "mlp" in name)]
    return [name for name in linear if not name.endswith(".attn.out_proj")]  # it wants the fused q, k and v with it


GIVES_A_BIAS = ("bias_only", "beft", "peft_glora_vectors")  # also to a layer without one, where a checkpoint could not hold it


def algorithms(shape: tuple[int, ...]) -> Mapping[str, object]:
    """Return the builders of samples.py for a layer of this shape."""
    return {1: NORM, 2: LINEAR, 4: CONVOLUTION}[len(shape)]


def write_network(
    path: Path, base: BaseModel, algorithm: str, modules: Iterable[str] = SD1_LAYERS, style: str = "kohya", seed: int = 0, size: float = 1.0
) -> int:
    """Write a network of one algorithm over those of the layers that can have it; return how many these are."""
    generator, tensors, count = torch.Generator().manual_seed(seed), {}, 0
    for module in modules:
        shape = base.layers[module].shape
        build = algorithms(shape).get(algorithm)
        if build is None or (algorithm in GIVES_A_BIAS and not base.layers[module].bias):
            continue
        name = spelled(base, module, style)
        if name is None:
            continue
        count += 1
        for suffix, tensor in build(generator, shape).items():  # type: ignore[operator]
            if suffix in ("diff_b", "b_norm") and not base.layers[module].bias:
                continue
            scaled = size if tensor.is_floating_point() and suffix not in ("alpha", "oft_diag") else 1
            tensors[f"{name}.{suffix_in(style, suffix)}"] = tensor * scaled
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(path), metadata(algorithm))
    return count


def spelled(base: BaseModel, module: str, style: str) -> str | None:
    """Return a module's name as files of this style have it; None where the style has none."""
    if style == "ldm":
        head, _, path = module.partition(".")
        return ("lora_unet_" if head == "diffusion_model" else "lora_te_") + path.replace(".", "_")
    if style == "dotted":
        return module
    if style == "kohya":
        return base.name_in("kohya", module)
    name = base.name_in("diffusers", module)
    if name is None or style == "diffusers":
        return name
    component, _, path = name.partition(".")
    if style == "lycoris":
        return "lycoris_" + path.replace(".", "_")
    return f"base_model.model.{path}" if component == "unet" else None


def suffix_in(style: str, suffix: str) -> str:
    """Return a LoRA's suffix as diffusers and PEFT write it."""
    names = {"lora_up.weight": "lora_B.weight", "lora_down.weight": "lora_A.weight"}
    return names.get(suffix, suffix) if style in ("diffusers", "peft") else suffix


def merge(checkpoint: Path, out: Path, networks: Iterable[tuple[Network, float]]) -> None:
    """Write the checkpoint with W + Σ s · ΔW(W) in place of W."""
    tensors = load_file(str(checkpoint))
    base = {key: tensor.clone() for key, tensor in tensors.items()}
    for network, strength in networks:
        for name, algorithm in network.patches.items():
            key, part = key_of(name, tensors), split_part(name)[1]
            if key is None:  # a bias that the layer does not have: a file that scales it says nothing
                continue
            weight = base[key.replace("bias", "weight")]
            change = algorithm.beside(lambda weight=weight: weight)
            for span in rows(part, _whole_shape(key, base)):
                tensors[key][span] += strength * change.delta(base[key][span]).to(tensors[key].dtype)
    save_file(tensors, str(out))


def key_of(name: str, tensors: Mapping[str, Tensor]) -> str | None:
    """Return a parameter's key in a checkpoint file; None where there is none."""
    keys = [place + split_part(name)[0] for place in ("model.", "cond_stage_model.", "conditioner.embedders.")]
    return next((key for key in keys if key in tensors), None)


def _whole_shape(key: str, tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    weight = key.replace("in_proj_bias", "in_proj_weight")
    return tuple(tensors[weight].shape)


def modules_of(network: Network) -> set[str]:
    """Return the canonical modules that a network changes."""
    return {split_parameter(name)[0] for name in network.patches}
