"""One small network file an algorithm for the tiny random model: seeded random factors, loud enough to be seen in its pictures.

Each layer's change is made a fixed share of its weight, so that a strength of 1 changes the picture clearly and does not wreck it.
"""
from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..algorithms import DoRA, Full, GLoRA
from ..algorithms.base import Algorithm
from ..algorithms.boft import BOFT
from ..algorithms.ia3 import IA3
from ..algorithms.loha import LoHa
from ..algorithms.lokr import LoKr
from ..algorithms.lora import LoRA
from ..algorithms.norm import Norm, NormBias
from ..algorithms.oft import OFT
from ..algorithms.tlora import TLoRA
from ..networks.writer import save
from .embedded_models import LoadedModel
from .embedded_tiny import VERSION

RANK, ALPHA = 4, 2.0  # not equal, so that a forgotten alpha/r shows
SHARE = 0.4  # ‖ΔW‖ / ‖W‖ of every layer
WORD = "glimmer"  # what the bundled embedding is called
Maker = Callable[[Tensor], Algorithm]


@dataclass(frozen=True)
class Demo:
    """One demo network: the layers it changes, and how the change of one layer's weight is made."""

    algo: str  # as LyCORIS names it in ss_network_args
    make: Maker
    layers: str = "attention"  # "attention": linear and 1x1 layers of attention blocks and text encoder; "all": 3x3 too; "norm"
    embedding: bool = False


def data_folder() -> Path:
    """Return the platform's folder for data that a program can make again."""
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "sd-webui-lycoris"


def demo_networks(model: LoadedModel, data: Path) -> Path:
    """Return the folder of the demo networks of the tiny model, writing those that are not there yet."""
    folder = data / f"demo-networks-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, demo in DEMOS.items():
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            save(path, _tensors(model, name, demo), _metadata(name, demo))
    return folder


def _tensors(model: LoadedModel, name: str, demo: Demo) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(zlib.crc32(name.encode()))
        for key, module in _targets(model, demo):
            weight: Tensor = module.weight.detach().cpu().float()
            changes = _norm(weight) if demo.layers == "norm" else [demo.make(weight)]
            for change in changes:
                found.update({f"{key}.{suffix}": tensor for suffix, tensor in change.to_state_dict().items()})
        if demo.embedding:
            width = model.pipe.text_encoder.config.hidden_size
            found[f"bundle_emb.{WORD}.string_to_param.*"] = torch.randn(2, width)
    return found


def _targets(model: LoadedModel, demo: Demo) -> Iterator[tuple[str, Any]]:
    """Yield (kohya's name of a layer, layer) of what a network changes."""
    for prefix, part in (("lora_unet", "unet"), ("lora_te", "text_encoder")):
        for path, module in getattr(model.pipe, part).named_modules():
            path = path if part == "unet" or path.startswith("text_model.") else f"text_model.{path}"
            if _wanted(path, module, demo):
                yield f"{prefix}_{path.replace('.', '_')}", module


def _wanted(path: str, module: nn.Module, demo: Demo) -> bool:
    if demo.layers == "norm":
        return isinstance(module, (nn.GroupNorm, nn.LayerNorm))
    if demo.algo == "ia3":
        return path.endswith((".to_k", ".to_v", ".ff.net.2", ".k_proj", ".v_proj", ".mlp.fc2"))
    if not isinstance(module, (nn.Linear, nn.Conv2d)) or path in ("conv_in", "conv_out"):
        return False
    inside = ".attentions." in path or path.startswith("text_model.encoder.")
    return inside or (demo.layers == "all" and ".resnets." in path)


def _scaled_to_share(change: Algorithm, weight: Tensor, *fields: str) -> Algorithm:
    """Multiply these factors so that the change has its share of the weight's size."""
    gain = float(SHARE * weight.norm() / change.delta(weight).norm().clamp_min(1e-8))
    return replace(change, **{field: getattr(change, field) * gain for field in fields})


def _lora(weight: Tensor) -> Algorithm:
    return _lora_of(weight, RANK)


def _lora_of(weight: Tensor, rank: int) -> Algorithm:
    ones = (1,) * (weight.dim() - 2)
    up, down = torch.randn(weight.shape[0], rank, *ones), torch.randn(rank, *weight.shape[1:])
    return _scaled_to_share(LoRA(up=up, down=down, alpha=ALPHA), weight, "up")


def _tucker(weight: Tensor) -> Algorithm:
    if weight.dim() != 4 or weight.shape[-1] == 1:
        return _lora(weight)
    up, down = torch.randn(weight.shape[0], RANK, 1, 1), torch.randn(RANK, weight.shape[1], 1, 1)
    core = torch.randn(RANK, RANK, *weight.shape[2:])
    return _scaled_to_share(LoRA(up=up, down=down, core=core, alpha=ALPHA), weight, "up")


def _loha(weight: Tensor) -> Algorithm:
    out, columns = weight.shape[0], weight[0].numel()
    first, second = (dict(zip("ab", (torch.randn(out, RANK), torch.randn(RANK, columns)))) for _ in range(2))
    made = LoHa(w1_a=first["a"], w1_b=first["b"], w2_a=second["a"], w2_b=second["b"], alpha=ALPHA)
    return _scaled_to_share(made, weight, "w1_a")


def _lokr(weight: Tensor) -> Algorithm:
    o, i = (_factor(size) for size in weight.shape[:2])
    inner = weight[0, 0].numel() * weight.shape[1] // i
    made = LoKr(w1=torch.randn(o, i), w2_a=torch.randn(weight.shape[0] // o, RANK), w2_b=torch.randn(RANK, inner), alpha=ALPHA)
    return _scaled_to_share(made, weight, "w1")


def _factor(size: int) -> int:
    return max(f for f in range(1, 9) if size % f == 0)


def _glora(weight: Tensor) -> Algorithm:
    out, inside, ones = weight.shape[0], weight.shape[1], (1,) * (weight.dim() - 2)
    a1, a2 = torch.randn(inside, RANK, *ones) / inside, torch.randn(RANK, inside, *ones)
    b1, b2 = torch.randn(out, RANK, *ones) / inside, torch.randn(RANK, *weight.shape[1:])
    return _scaled_to_share(GLoRA(a1=a1, a2=a2, b1=b1, b2=b2, alpha=ALPHA), weight, "a1", "b1")


def _full(weight: Tensor) -> Algorithm:
    return _scaled_to_share(Full(diff=torch.randn_like(weight)), weight, "diff")


def _ia3(weight: Tensor) -> Algorithm:
    on_input = weight.shape[1] > weight.shape[0]  # ff.net.2 and fc2, as LyCORIS trains them
    return IA3(factor=0.8 * torch.randn(weight.shape[1] if on_input else weight.shape[0]), on_input=float(on_input))


def _oft(weight: Tensor) -> Algorithm:
    size = 8 if weight.shape[0] % 8 == 0 else _factor(weight.shape[0])
    return OFT(blocks=0.12 * torch.randn(weight.shape[0] // size, size, size), constraint=0.0)


def _boft(weight: Tensor) -> Algorithm:
    out = weight.shape[0]
    count = max(n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if out % (2 * n) == 0 and out // n >= 4)
    size, stages = out // count, bin(count - 1).count("1") + 1
    return BOFT(blocks=0.06 * torch.randn(stages, count, size, size), constraint=0.0)


def _dora(weight: Tensor) -> Algorithm:
    inner = _lora(weight)
    norm = (weight + inner.delta(weight)).flatten(1).norm(dim=1).reshape(-1, *(1,) * (weight.dim() - 1))
    return DoRA(inner=inner, magnitude=norm * (1 + 0.3 * torch.randn_like(norm)))


def _dylora(weight: Tensor) -> Algorithm:
    return _lora_of(weight, 2 * RANK)


def _tlora(weight: Tensor) -> Algorithm:
    u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    ones = (1,) * (weight.dim() - 2)
    p, q = u[:, :RANK] + 0.05 * torch.randn(weight.shape[0], RANK), v[:RANK] + 0.05 * torch.randn(RANK, v.shape[1])
    values = (s[:RANK] * (1 + 0.5 * torch.randn(RANK))).reshape(1, RANK)
    return TLoRA(p=p.reshape(*p.shape, *ones), q=q.reshape(*q.shape, *ones), values=values, alpha=2 * ALPHA)


def _norm(weight: Tensor) -> list[Algorithm]:
    return [Norm(diff=0.3 * torch.randn(weight.shape)), NormBias(diff=0.2 * torch.randn(weight.shape))]


DEMOS: dict[str, Demo] = {
    "demo-lora": Demo("lora", _lora),
    "demo-locon": Demo("locon", _lora, "all"),
    "demo-locon-tucker": Demo("locon", _tucker, "all"),
    "demo-dylora": Demo("dylora", _dylora),
    "demo-loha": Demo("loha", _loha),
    "demo-lokr": Demo("lokr", _lokr),
    "demo-glora": Demo("glora", _glora),
    "demo-full": Demo("full", _full),
    "demo-norm": Demo("norm", _full, "norm"),
    "demo-ia3": Demo("ia3", _ia3),
    "demo-oft": Demo("diag-oft", _oft),
    "demo-boft": Demo("boft", _boft),
    "demo-dora": Demo("locon", _dora),
    "demo-tlora": Demo("tlora", _tlora),
    "demo-embedding": Demo("lora", _lora, embedding=True),
}


def _metadata(name: str, demo: Demo) -> dict[str, str]:
    arguments = {"algo": demo.algo, **({"dora_wd": "True", "wd_on_output": "True"} if name == "demo-dora" else {})}
    return {
        "ss_network_module": "lycoris.kohya", "ss_network_args": json.dumps(arguments), "ss_network_dim": str(RANK),
        "ss_network_alpha": str(ALPHA), "ss_base_model_version": "sd_v1", "ss_output_name": name, "ss_sd_model_name": "tiny-random-sd1",
        "ss_tag_frequency": json.dumps({"demo": {WORD: 1}} if demo.embedding else {}), "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": f"{name}: random factors for the tiny random model, made by a program and not trained",
    }  # fmt: skip
