"""Stand-ins for Forge, Forge Neo and reForge: engines with parts, and layers that change their weights in each forward as the real ones do.

Seen in those hosts and copied here: layers cast their parameters to the input; the host's networks are functions on the layer where
weights are quantised or loaded in part (a list ``weight_function`` in Neo and reForge, ``forge_online_loras`` in Forge), else written
into the weight; Forge's Linear is no subclass of torch's and multiplies by ``scale_weight`` first; the model is loaded lazily.
"""

from __future__ import annotations

import importlib.machinery
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.hosts.standin import EmbeddingTable, Holder, Processing, StandIn
from tests.hosts.standin_modules import build
from tests.tiny_model import TinyModel

Functions = Callable[[nn.Module, str], list[Callable[[Tensor], Tensor]]]


def merge_lora_to_weight(patches: list[Tensor], weight: Tensor, key: str, computation_dtype: torch.dtype) -> Tensor:
    """Return a weight with the host's networks in it, in its own memory as the host does it."""
    for patch in patches:
        weight += patch.to(weight)
    return weight


class LowVramPatch:
    """A function on a weight."""

    def __init__(self, patches: list[Tensor]) -> None:
        self.patches = patches

    def __call__(self, weight: Tensor) -> Tensor:
        return merge_lora_to_weight(self.patches, weight, "", weight.dtype)


class Casting:
    """What all layers of these hosts do with their parameters."""

    def computed(self, leaf: str, x: Tensor) -> Tensor | None:
        """Return a parameter as it is computed with."""
        stored = getattr(self, leaf)
        if stored is None:
            return None
        scale, online = getattr(self, "scale_weight", None), getattr(self, "forge_online_loras", {}).get(leaf)
        functions = getattr(self, f"{leaf}_function", [])
        value: Tensor = stored.to(x.dtype, copy=bool(functions or online or scale is not None))
        if scale is not None and leaf == "weight":
            value = value * scale.to(value)
        if online is not None:
            value = merge_lora_to_weight(online, value, leaf, value.dtype)
        for function in functions:
            value = function(value)
        return value

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.computed("weight", x), self.computed("bias", x)
        assert weight is not None
        own: Any = self
        if isinstance(self, nn.Conv2d):
            return own._conv_forward(x, weight, bias)
        if isinstance(self, nn.LayerNorm):
            return F.layer_norm(x, own.normalized_shape, weight, bias, own.eps)
        if isinstance(self, nn.GroupNorm):
            return F.group_norm(x, own.num_groups, weight, bias, own.eps)
        return F.linear(x, weight, bias)


class Linear(Casting, nn.Module):
    """Forge's, which is none of torch's."""


def teach(module: nn.Module, forge: bool) -> None:
    """Make a torch layer the host's layer of its kind."""
    if next(module.children(), None) is not None:
        return
    if forge and isinstance(module, nn.Linear):
        module.__class__ = Linear
        module.__dict__["scale_weight"] = None
        if module.bias is None:
            module.__dict__["bias"] = module._parameters.pop("bias")
    else:
        module.__class__ = type(type(module).__name__, (Casting, type(module)), {})
    if not forge:
        module.__dict__.update(weight_function=[], bias_function=[])


class StableDiffusion:
    """An engine; its class says which family it is of."""

    is_sd1, is_sd2, is_sdxl, is_sd3 = True, False, False, False

    def __init__(self, seed: int, forge: bool) -> None:
        self.tiny = TinyModel(seed)
        for module in self.tiny.modules():
            teach(module, forge)
        unet = types.SimpleNamespace(model=Holder(diffusion_model=self.tiny.diffusion_model))
        clip = types.SimpleNamespace(cond_stage_model=Holder(clip_l=Holder(transformer=self.tiny.transformer)))
        self.forge_objects_original = types.SimpleNamespace(unet=unet, clip=clip)
        self.cond_stage_model = types.SimpleNamespace(tokenize=lambda texts: [[1] for _ in texts])
        self.text_processing_engine = types.SimpleNamespace(embeddings=ForgeTable())
        self.sd_checkpoint_info = types.SimpleNamespace(filename=f"model-{seed}.safetensors", name_for_extra=f"model-{seed}")

    def state_dict(self) -> dict[str, Tensor]:
        """Return the parameters."""
        return self.tiny.state_dict()


class ForgeTable(EmbeddingTable):
    """A table of embeddings that belongs to its engine."""

    def register_embedding(self, embedding: Any, *_: Any) -> Any:
        return self.register_embedding_by_name(embedding, embedding.name)

    def register_embedding_by_name(self, embedding: Any, *rest: Any) -> Any:
        name = rest[-1]
        self.word_embeddings.pop(name, None)
        if embedding is not None:
            self.word_embeddings[name] = embedding
        return embedding


class ForgeStandIn(StandIn):
    """One of the three, by its name in tests/webui/kinds.py."""

    def __init__(self, folder: Path, kind: str) -> None:
        super().__init__(folder, built_in=True)
        self.kind = kind
        self.models = {seed: StableDiffusion(seed, kind == "forge") for seed in (0, 1)}  # type: ignore[misc]
        self.data = types.SimpleNamespace(sd_model=self.models[0])

    def start(self) -> None:
        """Be the program around us, with its own folders of modules."""
        import sys

        self.modules = {**build(self), **self._own()}
        self.modules.pop("networks", None)
        sys.modules.update(self.modules)

    def patch_torch(self) -> None:
        """Leave torch alone."""

    def _own(self) -> dict[str, types.ModuleType]:
        memory = {"unload_all_models": lambda: self.away.update(self.models.values()), "soft_empty_cache": lambda: None}
        contents: dict[str, dict[str, Any]] = {"modules_forge": {}}
        if self.kind == "reforge":
            contents |= {"ldm_patched": {}, "ldm_patched.modules": {}, "ldm_patched.modules.model_management": memory}
        else:
            contents |= {
                "backend": {}, "backend.memory_management": memory,
                "backend.args": {"dynamic_args": types.SimpleNamespace(nunchaku=False)}, "backend.patcher": {},
                "backend.patcher.base": {"LowVramPatch": LowVramPatch} if self.kind == "neo" else {},
                "backend.patcher.lora": {"merge_lora_to_weight": merge_lora_to_weight},
                "backend.text_processing": {}, "backend.text_processing.textual_inversion": {"create_embedding_from_data": _embedding},
            }  # fmt: skip
        if self.kind == "forge":
            contents["backend.patcher.lora"]["extra_weight_calculators"] = {}
        made = {}
        for name, content in contents.items():
            made[name] = types.ModuleType(name)
            made[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
            vars(made[name]).update({"__path__": [], **content})
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(made[parent], child, made[name])
        return made

    def run(self, prompt: str, refiner: int | None = None, **fields: Any) -> Tensor:
        """Make an image, the host's networks as functions on the layer."""
        self._apply({})
        self.away.clear()  # its memory management loads what it needs
        return super().run(prompt, refiner, **fields)

    def activate(self, p: Processing, data: Any) -> None:
        """Call every network; then the host's loader puts its own on the layers."""
        super().activate(p, data)
        self._apply(self.loras)

    def _apply(self, loras: dict[str, float]) -> None:
        for model in self.models.values():
            layer = model.tiny.named("linear")
            patches = [strength * self.delta for _, strength in sorted(loras.items())]
            if self.kind == "forge":
                layer.__dict__.pop("forge_online_loras", None)
                if patches:
                    layer.__dict__["forge_online_loras"] = {"weight": patches}
            else:
                layer.__dict__["weight_function"] = [LowVramPatch(patches)] if patches else []


def _embedding(data: dict[str, Any], name: str, filename: str) -> Any:
    vectors = data["string_to_param"]["*"]
    return types.SimpleNamespace(name=name, vec=vectors, shape=vectors.shape[-1], vectors=vectors.shape[0], filename=filename)


@contextmanager
def running_forge(folder: Path, kind: str) -> Iterator[ForgeStandIn]:
    """Have such a stand-in around us."""
    program = ForgeStandIn(folder, kind)
    program.start()
    try:
        yield program
    finally:
        program.stop()
