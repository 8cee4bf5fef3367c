"""What is asked of an extraction, and the parameters that it looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from ... import models
from ...errors import ModelMismatchError, ToolError
from ...networks.reading.dtypes import precision_dtype
from ...records import dataclass
from ..declaration import ALPHA, FASTEST, IGNORED_KOHYA, NETWORK_PRECISION, RULES, SAVE_TO, STYLES, Option
from ..files.checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..files.networks.alpha import check_alpha
from ..files.networks.naming import Named, named
from ..linalg.candidates import ALGORITHMS, Wanted
from ..linalg.ranks import Rule
from ..units import MB, check_size
from ..validation import at_least

NORMS = ("LayerNorm", "GroupNorm")
LAYERS = ("Linear", "Conv1d", "Conv2d", "Conv3d", "MultiheadAttention")
DIM = 32  # of an extraction that says nothing else


def _check_factor(factor: int) -> None:
    if factor < 1 and factor != -1:
        raise ToolError(f"`factor` is 1 or more, or -1 for as even as possible, but got {factor}")


OPTIONS = (
    Option("model_org", "the checkpoint that the tuned one was made from", Path, required=True, kind="checkpoint"),
    Option("model_tuned", "the checkpoint to take the difference of", Path, required=True, kind="checkpoint"),
    SAVE_TO,
    Option(
        "algorithm", "what the network is made of; auto: for each layer what keeps most in the room of the LoRA",
        default="locon", choices=ALGORITHMS,
    ),
    Option("dim", "rank of linear and 1x1 layers, or the largest that the rule may choose (default: 32, or as the size allows)", int),
    Option("conv_dim", "rank of convolutions (default: `dim`; with lora: convolutions are left out)", int),
    Option("rule", "how ranks are chosen, up to `dim`", default="fixed", choices=RULES),
    Option("value", "the rule's value", float, default=0.0),
    Option("conv_value", "the rule's value for convolutions (default: `value`)", float),
    Option("size", "size of the file in MB; ranks are shared out over the layers", float, check=check_size),
    Option("factor", "size of LoKr's first matrix; -1 for as even as possible", int, default=-1, check=_check_factor),
    Option("lokr_rank", "rank of LoKr's second matrix (default: whole)", int, check=at_least(1, "lokr_rank")),
    Option("block", "rows that OFT rotates together", int, default=32, check=at_least(1, "block")),
    Option("style", "key names in the file", default="kohya", choices=STYLES),
    ALPHA,
    replace(NETWORK_PRECISION, help="dtype of the file", default="fp16"),
    Option("embeddings", "take the difference of token embeddings too, whole", bool, default=False),
    Option("text_encoder", "take the text encoders too", bool, default=True),
    FASTEST,
    Option("min_diff", "", float, ignored="`min_diff` is not needed: a module is left out where its bytes are the same, and never else"),
    Option("clamp_quantile", "", float, ignored="`clamp_quantile` has no meaning here: nothing is clamped, which costs quality"),
    Option("load_precision", "", ignored="`load_precision` has no meaning here: differences are taken in float32"),
    *(option for option in IGNORED_KOHYA if option.name != "precision"),
)  # fmt: skip


@dataclass(frozen=True)
class ExtractOptions:
    """What is asked of an extraction, understood."""

    base: Checkpoint
    tuned: Checkpoint
    linear: Wanted
    conv: Wanted | None  # for kernels larger than 1x1; None: they are left out
    style: str
    dtype: torch.dtype
    device: str
    embeddings: bool
    text_encoder: bool
    size: int | None  # bytes
    alpha: float | None


@dataclass(frozen=True)
class Target:
    """One parameter that both models have, and the modules of the file that stand for it."""

    name: str
    module: str
    shape: tuple[int, ...]
    suffix: str  # "" for a weight that is factorised, else the suffix that its difference is kept under
    names: tuple[Named, ...]

    @property
    def is_kernel(self) -> bool:
        """Whether it is a convolution that looks at more than one place."""
        return prod(self.shape[2:]) > 1


def understand(options: Mapping[str, Any]) -> ExtractOptions:
    """Return what options ask for. Raises ToolError, ModelMismatchError."""
    given = {**{o.name: o.default for o in OPTIONS}, **options}
    algorithm = given["algorithm"]
    if algorithm not in ALGORITHMS:
        raise ToolError(f'"{algorithm}" is no algorithm to extract to; there are {", ".join(ALGORITHMS)}')
    dim = DIM if given["dim"] is None and given["size"] is None else given["dim"]
    conv_dim = given["conv_dim"] if given["conv_dim"] is not None or algorithm == "lora" else dim
    size = None if given["size"] is None else int(given["size"] * MB)
    if size is not None and algorithm not in ("lora", "locon"):
        raise ToolError(f"`size` shares out the ranks of a LoRA; {algorithm} has none, use `algorithm=lora` or locon")
    more = {"factor": given["factor"], "lokr_rank": given["lokr_rank"], "block": given["block"]}
    value = given["value"]
    conv_value = value if given["conv_value"] is None else given["conv_value"]
    linear = Wanted(algorithm, Rule(given["rule"], value, _positive(dim)), **more)
    with_conv = conv_dim is not None or algorithm != "lora"  # with neither rank the size decides on convolutions too
    conv = Wanted(algorithm, Rule(given["rule"], conv_value, _positive(conv_dim)), **more) if with_conv else None
    base, tuned = open_checkpoint(given["model_org"]), open_checkpoint(given["model_tuned"])
    if base.base.family != tuned.base.family:
        raise ModelMismatchError(
            f"{base.path.name} is {base.base.label}, but {tuned.path.name} is {tuned.base.label}; both must be of one family"
        )
    dtype = precision_dtype(given["save_precision"], torch.float16)
    return ExtractOptions(
        base, tuned, linear, conv, given["style"], dtype, given["device"], given["embeddings"], given["text_encoder"], size,
        _alpha(given),
    )  # fmt: skip


def _alpha(given: Mapping[str, Any]) -> float | None:
    alpha, algorithm = check_alpha(given["alpha"], given["style"]), given["algorithm"]
    if alpha is not None and (algorithm in ("full", "oft", "ia3") or (algorithm == "lokr" and given["lokr_rank"] is None)):
        raise ToolError(f"{algorithm} has no ranks and so no alpha; leave `alpha` out{', or give `lokr_rank`' * (algorithm == 'lokr')}")
    return alpha


def _positive(value: int | None) -> int | None:
    if value is not None and value < 1:
        raise ToolError(f"a rank is 1 or more, but got {value}")
    return value


def find_targets(request: ExtractOptions) -> tuple[list[Target], list[tuple[str, str]]]:
    """Return what is compared, and (parameter, reason) of what is not."""
    found, left_out = [], []
    base = request.tuned.base
    for module, info in base.layers.items():
        for leaf in ("weight", "bias") if info.bias else ("weight",):
            name = models.parameter(module, leaf)
            shape = info.shape if leaf == "weight" else info.shape[:1]
            reason = _reason(request, module, leaf, name, shape)
            if reason is None:
                suffix = _suffix(info.kind, leaf)
                target = Target(name, module, shape, suffix, tuple(named(base, request.style, module)))
                if not target.names:
                    reason = f"there is no name for it in the {request.style} style"
                elif target.is_kernel and not suffix and request.conv is None:
                    reason = "convolutions are left out; give `conv_dim`"
                else:
                    found.append(target)
            if reason is not None:
                left_out.append((name, reason))
    missing = [name for name in request.base.names.places if name not in request.tuned.names.places]
    left_out += [(name, f"{request.tuned.path.name} does not have it") for name in missing]
    if not found:
        raise ModelMismatchError(f"{request.base.path.name} and {request.tuned.path.name} have no parameter in common")
    return found, left_out


def _reason(request: ExtractOptions, module: str, leaf: str, name: str, shape: tuple[int, ...]) -> str | None:
    kind = request.tuned.base.layers[module].kind
    other = request.base.base.layers.get(module)
    component = request.tuned.base.component_of(module)
    if kind not in (*LAYERS, *NORMS) and not (kind == "Embedding" and request.embeddings):
        return "embeddings are left out; turn on `embeddings`" if kind == "Embedding" else "it is no layer that a network can change"
    if not request.text_encoder and component is not None and component.key != "unet":
        return "text encoders are left out"
    if other is None or not request.base.places(name) or not request.tuned.places(name):
        return f"{request.base.path.name} does not have it, or keeps it transposed"
    if (other.shape if leaf == "weight" else other.shape[:1]) != shape:
        return f"the shapes differ: {other.shape} and {shape}"
    return None


def _suffix(kind: str, leaf: str) -> str:
    if kind in NORMS:
        return "w_norm" if leaf == "weight" else "b_norm"
    if leaf == "bias":
        return "diff_b"
    return "diff" if kind == "Embedding" else ""
