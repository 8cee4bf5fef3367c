"""The classes that Forge, Forge Neo and reForge have for families of models, with tiny sizes and inputs for each.

Used by host_families.py under a host's python, once the host's folders are on sys.path.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn

Sizes = dict[str, Any]
FLUX: Sizes = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 24, "context_in_dim": 96, "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 4,
    "depth": 2, "depth_single_blocks": 2, "axes_dim": [4, 4, 8], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
}  # fmt: skip
UNET: Sizes = {
    "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": (1, 2), "num_head_channels": 16,
    "use_spatial_transformer": True, "context_dim": 96, "transformer_depth": [1, 2], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 2, 2], "use_linear_in_transformer": True,
}  # fmt: skip
WIDE: Sizes = UNET | {"num_classes": "sequential", "adm_in_channels": 24}
CHROMA: Sizes = FLUX | {"guidance_out_dim": 64, "guidance_hidden_dim": 32, "guidance_n_layers": 2}
LUMINA: Sizes = {
    "patch_size": 2, "in_channels": 4, "dim": 48, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 3, "n_kv_heads": 1, "multiple_of": 16,
    "qk_norm": True, "cap_feat_dim": 96, "axes_dims": [4, 6, 6], "axes_lens": [32, 32, 32],
}  # fmt: skip
WAN: Sizes = {"dim": 48, "ffn_dim": 64, "num_heads": 2, "num_layers": 2, "text_dim": 96, "in_dim": 16, "out_dim": 16}
SD3: Sizes = {
    "input_size": None, "patch_size": 2, "in_channels": 16, "depth": 2, "adm_in_channels": 24, "num_patches": 64, "pos_embed_max_size": 8,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 96, "out_features": 128}}, "qk_norm": "rms",
}  # fmt: skip

FLUX2: Sizes = FLUX | {
    "patch_size": 1, "vec_in_dim": None, "mlp_ratio": 3.0, "axes_dim": [4, 4, 4, 4], "qkv_bias": False, "guidance_embed": False,
    "ops_bias": False, "global_modulation": True, "mlp_silu_act": True, "txt_ids_dims": [3],
}  # fmt: skip
WANS = ("wan2.1-14b", "wan2.1-1.3b", "wan2.2-5b")
UNETS = {"sd2": UNET, "sdxl": WIDE, "sdxl-refiner": WIDE}
CLASSES: Mapping[str, Mapping[str, tuple[str, Sizes]]] = {  # host -> family -> "module:class", its sizes
    "neo": {
        **{family: ("backend.nn.unet:IntegratedUNet2DConditionModel", UNETS[family]) for family in ("sdxl", "sdxl-refiner")},
        "flux": ("backend.nn.flux:IntegratedFluxTransformer2DModel", FLUX),
        **dict.fromkeys(("flux2-klein-4b", "flux2-klein-9b"), ("backend.nn.flux:IntegratedFluxTransformer2DModel", FLUX2)),
        "chroma": ("backend.nn.chroma:IntegratedChromaTransformer2DModel", FLUX | {
            "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 64, "hidden_dim": 32, "n_layers": 2, "txt_ids_dims": [],
        }),
        "lumina2": ("backend.nn.lumina:NextDiT", LUMINA),
        "z-image": ("backend.nn.lumina:NextDiT", LUMINA | {
            "dim": 256, "n_heads": 16, "n_kv_heads": 16, "z_image_modulation": True, "pad_tokens_multiple": 4,
        }),
        "qwen-image": ("backend.nn.qwen:QwenImageTransformer2DModel", {
            "in_channels": 64, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 96,
            "axes_dims_rope": (4, 6, 6),
        }),
        **dict.fromkeys(WANS, ("backend.nn.wan:WanModel", WAN)),
        "anima": ("backend.nn.anima:Anima", {
            "in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64, "num_blocks": 2,
            "crossattn_emb_channels": 96, "adaln_lora_dim": 8, "num_heads": 2,
        }),
        "krea2": ("backend.nn.krea:SingleStreamDiT", {
            "features": 64, "txtdim": 96, "heads": 4, "kvheads": 2, "layers": 2, "txtlayers": 3, "txtheads": 2, "txtkvheads": 2,
        }),
        "ernie-image": ("backend.nn.ernie:ErnieImageModel", {
            "hidden_size": 48, "num_attention_heads": 3, "num_layers": 2, "ffn_hidden_size": 64, "in_channels": 16, "out_channels": 16,
            "text_in_dim": 96, "rope_axes_dim": (4, 6, 6),
        }),
    },
    "forge": {
        **{family: ("backend.nn.unet:IntegratedUNet2DConditionModel", sizes) for family, sizes in UNETS.items()},
        "flux": ("backend.nn.flux:IntegratedFluxTransformer2DModel", FLUX),
        "chroma": ("backend.nn.chroma:IntegratedChromaTransformer2DModel", CHROMA),
        "sd3": ("backend.nn.mmditx:MMDiTX", SD3),
    },
    "reforge": {
        **{family: ("ldm_patched.ldm.modules.diffusionmodules.openaimodel:UNetModel", sizes) for family, sizes in UNETS.items()},
        "flux": ("ldm_patched.ldm.flux.model:Flux", FLUX),
    },
}  # fmt: skip

VIDEO = (*WANS, "anima", "qwen-image")  # their latents have an axis of time


def model_class(host: str, family: str) -> type[nn.Module]:
    """Return the host's class for a family."""
    module, _, name = CLASSES[host][family][0].partition(":")
    found: type[nn.Module] = getattr(importlib.import_module(module), name)
    return found


def make(host: str, family: str, sizes: Sizes | None = None, cast: bool = False) -> nn.Module:
    """Return a model of plain layers in float32, tiny unless sizes say otherwise; cast: of reForge's layers that cast their weights."""
    kind, sizes = model_class(host, family), dict(CLASSES[host][family][1] if sizes is None else sizes)
    if host == "reforge":
        from ldm_patched.modules import ops

        sizes |= {"operations": ops.manual_cast if cast else ops.disable_weight_init, "image_size": 32}
    known = accepted(kind)
    return kind(**{name: value for name, value in sizes.items() if known is None or name in known})


def accepted(kind: type[nn.Module]) -> set[str] | None:
    """Return the names of what a class can be told of its sizes; None where it takes anything."""
    wanted = set(inspect.signature(kind.__init__).parameters)
    told = [found for name, found in vars(sys.modules[kind.__module__]).items() if name.endswith("Params") and is_dataclass(found)]
    if told:
        return wanted | {item.name for item in fields(told[0])}
    return None if "kwargs" in wanted else wanted


def inputs(host: str, family: str, model: nn.Module, seed: int = 3) -> dict[str, Any]:
    """Return what a tiny model's forward takes: a latent image, a time, a text and what else this one asks for."""
    sizes, generator = CLASSES[host][family][1], torch.Generator().manual_seed(seed)
    wanted = inspect.signature(model.forward).parameters
    channels = 16 if family == "chroma" else 16 if family == "qwen-image" else sizes.get("in_channels", 16)
    text = (1, 1, 5, sizes["txtlayers"] * sizes["txtdim"]) if family == "krea2" else (1, 5, 96)
    given = {
        "x": torch.randn((1, channels, *((1,) if family in VIDEO else ()), 8, 8), generator=generator),
        "context": torch.randn(text, generator=generator),
        "guidance": torch.tensor([3.5]),
        "y": torch.randn((1, 24), generator=generator),
    }
    given |= {name: torch.tensor([0.5]) for name in ("t", "timestep", "timesteps")}
    if not (sizes.get("vec_in_dim") or sizes.get("adm_in_channels")) or family == "chroma":
        del given["y"]
    if not sizes.get("guidance_embed"):
        del given["guidance"]
    return {name: value for name, value in given.items() if name in wanted}


def forge_layers(**wanted: Any) -> AbstractContextManager[Any]:
    """Return the context in which Forge's and Neo's loaders make models, of layers that take what a state dict has."""
    from backend.operations import using_forge_operations

    context: AbstractContextManager[Any] = using_forge_operations(device=torch.device("cpu"), **wanted)
    return context


def fill(model: nn.Module, seed: int) -> None:
    """Give every parameter random values of a size that keeps the output of the size of the input."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan = parameter[0].numel() if parameter.dim() > 1 else 0
            is_bias = name.endswith("bias")
            parameter.copy_(noise * fan**-0.5 if fan else noise * 0.1 + (0.0 if is_bias else 1.0))
