"""What the live oracles share: small models with real names, fresh random parameters, and the comparison of two forwards."""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from lib_lycoris import Activation, Network, Patcher, load

# another one at every run; a failure is repeated with LYCORIS_ORACLE_SEED=<the printed number>
SEED = int(os.environ.get("LYCORIS_ORACLE_SEED") or int.from_bytes(os.urandom(4), "little"))
MODES = ("functional", "merged", "recompute")
STRENGTHS = (1.0, 0.7, -0.5, 0.0)

# relative to the largest difference that a network makes to a layer's output
DOUBLE = 2e-6  # both sides in float64; alpha and a scale by the root of a rank are float32 in the file
SINGLE = 5e-4  # our float32 against a float64 forward; T-LoRA's decomposition, which LyCORIS takes in float32
ROTATED = 5e-4  # OFT and BOFT, whose inverse LyCORIS takes in float32

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
UNET: dict[str, tuple[int, ...]] = {
    # (in, out) linear, (in, out, kernel, stride) convolution, (channels,) and (channels, groups) norms; negative: without a bias
    "conv_in": (4, 16, 3, 1),
    "time_embedding.linear_1": (16, 40),
    "down_blocks.0.resnets.0.norm1": (16, 4),
    "down_blocks.0.resnets.0.conv1": (16, 24, 3, 1),
    "down_blocks.0.resnets.0.time_emb_proj": (40, 24),
    "down_blocks.0.resnets.0.conv_shortcut": (16, 24, 1, 1),
    "down_blocks.0.attentions.0.norm": (24, 4),
    "down_blocks.0.attentions.0.proj_in": (24, 40, 1, 1),
    f"{BLOCK}.norm1": (40,),
    f"{BLOCK}.attn1.to_q": (-40, 24),
    f"{BLOCK}.attn1.to_out.0": (24, 40),
    f"{BLOCK}.attn2.to_k": (-20, 24),
    f"{BLOCK}.ff.net.0.proj": (40, 96),
    f"{BLOCK}.ff.net.2": (48, 40),
    "down_blocks.0.attentions.0.proj_out": (40, 24, 1, 1),
    "down_blocks.0.downsamplers.0.conv": (24, 32, 3, 2),
}
LAYER = "text_model.encoder.layers.0"
TEXT: dict[str, tuple[int, ...]] = {
    f"{LAYER}.layer_norm1": (24,),
    f"{LAYER}.self_attn.q_proj": (24, 24),
    f"{LAYER}.self_attn.v_proj": (24, 24),
    f"{LAYER}.self_attn.out_proj": (24, 24),
    f"{LAYER}.mlp.fc1": (24, 80),
    f"{LAYER}.mlp.fc2": (80, 24),
}
# SDXL's second text encoder, wider than the first; canonically its q, k and v are rows of one tensor
TEXT_2 = {name: tuple(32 if abs(size) == 24 else size for size in sizes) for name, sizes in TEXT.items()}
# LyCORIS' kohya wrapper looks for layers inside of blocks of these classes
CLASSES = {
    r"attentions\.\d+": "Transformer2DModel",
    r"resnets\.\d+": "ResnetBlock2D",
    r"downsamplers\.\d+": "Downsample2D",
    r"self_attn": "CLIPAttention",
    r"mlp": "CLIPMLP",
}


def stream(name: str) -> torch.Generator:
    """Return the random numbers of one case: the same whichever other cases run."""
    return torch.Generator().manual_seed(zlib.crc32(f"{SEED} {name}".encode()))


def _leaf(sizes: tuple[int, ...]) -> nn.Module:
    if len(sizes) == 1:
        return nn.LayerNorm(sizes[0])
    if len(sizes) == 4:
        return nn.Conv2d(sizes[0], sizes[1], sizes[2], stride=sizes[3], padding=sizes[2] // 2)
    if sizes[0] > 0 and sizes[1] < 8:
        return nn.GroupNorm(sizes[1], sizes[0])
    return nn.Linear(abs(sizes[0]), sizes[1], bias=sizes[0] > 0)


def tree(layers: Mapping[str, tuple[int, ...]], numbers: torch.Generator, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a model of these layers with random parameters."""
    root = nn.Module()
    for name, sizes in layers.items():
        place, path, leaf = root, name.split("."), _leaf(sizes)
        for depth, part in enumerate(path[:-1], 1):
            if part not in place._modules:
                kind = next((c for p, c in CLASSES.items() if re.fullmatch(rf"(.*\.)?{p}", ".".join(path[:depth]))), "Module")
                place.add_module(part, type(kind, (nn.Module,), {})())
            place = place._modules[part]
        place.add_module(path[-1], leaf)
        for key, value in leaf.named_parameters():
            normed = isinstance(leaf, (nn.LayerNorm, nn.GroupNorm)) and key == "weight"
            spread = 0.3 if value.dim() == 1 else 1 / math.sqrt(value[0].numel())
            value.data = torch.randn(value.shape, generator=numbers) * spread + normed
    return root.to(dtype).eval().requires_grad_(False)


@torch.no_grad()
def randomise(parameters: Iterable[tuple[str, nn.Parameter]], numbers: torch.Generator, rounded: torch.dtype | None = None) -> None:
    """Give every trainable parameter random values around the ones it starts with; none is 0.

    rounded: only values that this dtype holds, for files saved in it.
    """
    for name, parameter in parameters:
        if not parameter.requires_grad or "ranknum" in name:  # AdaLoRA's count of ranks, which no file has
            continue
        noise = torch.randn(parameter.shape, generator=numbers).to(parameter)
        if "dora_scale" in name or "magnitude" in name:
            parameter *= 0.75 + noise.abs() / 2
        elif name.endswith("scalar"):
            parameter.copy_(0.5 + noise.abs())
        else:
            parameter += 0.35 * noise
        if rounded is not None:
            parameter.copy_(parameter.to(rounded))


def sample(layer: nn.Module, numbers: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a random input of a layer."""
    if isinstance(layer, nn.Conv2d):
        shape: tuple[int, ...] = (2, layer.in_channels, 7, 6)
    elif isinstance(layer, nn.GroupNorm):
        shape = (2, layer.num_channels, 5, 4)
    else:
        shape = (2, 3, layer.in_features if isinstance(layer, nn.Linear) else layer.normalized_shape[0])
    return torch.randn(shape, generator=numbers).to(dtype)


def leaves(models: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the layers of several models by component and name."""
    return {f"{part}.{n}": m for part, model in models.items() for n, m in model.named_modules() if "weight" in m._parameters}


class Answers:
    """What the layers of a model answer to random inputs, before and with a library's network on them."""

    def __init__(self, name: str, models: Mapping[str, nn.Module]) -> None:
        self.name, self.models = name, {part: deepcopy(model) for part, model in models.items()}
        numbers, layers = stream(name + " inputs"), leaves(self.models)
        dtype = next(iter(layers.values())).weight.dtype
        self.inputs = {n: sample(layer, numbers, dtype) for n, layer in layers.items()}  # type: ignore[arg-type]
        self.base = {n: layer(self.inputs[n]) for n, layer in layers.items()}
        self.trained: dict[str, Tensor] = {}

    @torch.no_grad()
    def ask(self, layer: Callable[[str], nn.Module], times: float = 1.0) -> None:
        """Take the library's own forward of every layer; times: what its change is to be multiplied by."""
        for name, x in self.inputs.items():
            self.trained[name] = self.base[name] + times * (layer(name)(x) - self.base[name])

    @property
    def changed(self) -> list[str]:
        """The layers that the library's network changes."""
        return [name for name, y in self.trained.items() if not torch.equal(y, self.base[name])]

    def patcher(self, dtype: torch.dtype | None = None) -> tuple[Patcher, dict[str, nn.Module]]:
        """Return a patcher on untouched copies of the models, and their layers."""
        copies = {part: deepcopy(model).to(dtype) if dtype else deepcopy(model) for part, model in self.models.items()}
        return Patcher(copies if len(copies) > 1 else next(iter(copies.values()))), leaves(copies)

    def network(self, path: Path) -> Network:
        """Return the file as our library reads it for these models; every key of it must be used."""
        network = load(path, self.patcher()[0].base)
        assert not network.skipped, f"{self.name}: {network.skipped[:3]}"
        return network

    @torch.no_grad()
    def check(self, path: Path, tolerance: float, ranks: int | None = None, idle: int = 0) -> float:
        """Compare our two paths at every strength; return the worst error relative to the largest change of its layer.

        idle: how many layers of the file change nothing.
        """
        print(f"\n{self.name}: LYCORIS_ORACLE_SEED={SEED}", end=" ")
        network, worst = self.network(path), 0.0
        assert len(set(network.modules.values())) == len(self.changed) + idle > 0, self.changed
        own = next(iter(self.inputs.values())).dtype
        for dtype, strengths in {torch.float32: (1.0,), own: STRENGTHS}.items():
            bound = max(tolerance, SINGLE) if dtype == torch.float32 else tolerance
            ours = Ours(self, dtype)
            for mode, strength in [(m, s) for m in MODES for s in strengths]:
                errors = ours.errors(Activation(network, lambda _, s=strength: s, ranks), mode, strength)  # type: ignore[misc]
                name, error = max(errors.items(), key=lambda item: item[1])
                at = f"{self.name}: {name}, {mode}, strength {strength}, {dtype}, seed {SEED}"
                assert error <= bound, f"{at}: off by {error:.3g} of the change ({sum(e > bound for e in errors.values())} layers are)"
                worst = max(worst, error if dtype == own else 0.0)
        print(f"{len(self.changed)} layers, worst {worst:.1e}", end=" ")
        return worst


class Ours:
    """Our patcher on untouched copies of a library's models, and what their layers answer without a network."""

    def __init__(self, library: Answers, dtype: torch.dtype) -> None:
        self.library = library
        self.patcher, self.layers = library.patcher(dtype)
        self.inputs = {name: x.to(dtype) for name, x in library.inputs.items()}
        self.plain = {name: layer(self.inputs[name]) for name, layer in self.layers.items()}

    def errors(self, activation: Activation, mode: str, strength: float) -> dict[str, float]:
        """Return each layer's error; where nothing may change, that must be so to the bit."""
        base, trained, changed = self.library.base, self.library.trained, set(self.library.changed)
        self.patcher.apply([activation], mode)  # type: ignore[arg-type]
        found = {}
        for name, layer in self.layers.items():
            y = layer(self.inputs[name])
            if strength == 0 or name not in changed:
                found[name] = 0.0 if torch.equal(y, self.plain[name]) else math.inf
                continue
            change = trained[name] - base[name]
            wanted = base[name] + strength * change
            found[name] = float((y.to(wanted.dtype) - wanted).abs().max() / change.abs().max())
        return found
