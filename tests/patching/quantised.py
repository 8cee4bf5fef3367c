"""Linear layers that are quantised as other programs do it: stand-ins with the behaviour of each, and the packages' own where installed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Make = Callable[[nn.Linear], nn.Module]
CODE = torch.linspace(-1, 1, 16)  # what a number of four bits stands for
BLOCK = 32


def _like(linear: nn.Linear, kind: type[nn.Linear], weight: Tensor) -> Any:
    layer = kind(linear.in_features, linear.out_features)
    layer.weight = weight
    layer.bias = nn.Parameter(linear.bias.detach().clone())
    return layer


@dataclass
class QuantState:
    """As bitsandbytes keeps beside a weight of four bits."""

    absmax: Tensor
    shape: torch.Size
    code: Tensor
    state2: Any = None


def dequantize_4bit(stored: Tensor, state: QuantState) -> Tensor:
    """Unpack two numbers a byte, the first in the upper half; each block has its largest value."""
    flat = stored.reshape(-1)
    numbers = state.code[torch.stack([flat >> 4, flat & 15], dim=1).reshape(-1).long()]
    return (numbers.reshape(-1, BLOCK) * state.absmax[:, None]).reshape(state.shape)


class FourBitParameter(nn.Parameter):
    """A weight whose memory is a column of bytes."""

    quant_state: QuantState


class Linear4bit(nn.Linear):
    """As bitsandbytes': only its own parameter is understood in its forward."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, dequantize_4bit(self.weight.data, self.weight.quant_state), self.bias)  # type: ignore[attr-defined]


def four_bits(linear: nn.Linear) -> nn.Module:
    blocks = linear.weight.detach().reshape(-1, BLOCK)
    largest = blocks.abs().amax(1)
    index = ((blocks / largest[:, None])[..., None] - CODE).abs().argmin(-1).to(torch.uint8).reshape(-1, 2)
    weight = FourBitParameter((index[:, 0] << 4 | index[:, 1])[:, None], requires_grad=False)
    weight.quant_state = QuantState(largest, linear.weight.shape, CODE)
    return _like(linear, Linear4bit, weight)  # type: ignore[no-any-return]


class Int8Parameter(nn.Parameter):
    """A weight of whole numbers with a scale for each row."""

    SCB: Tensor | None


class Linear8bitLt(nn.Linear):
    """As bitsandbytes': the scale moves to the layer's state in the first forward."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.state = type("State", (), {"SCB": None})()

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.SCB is not None:  # type: ignore[attr-defined]
            self.state.SCB, self.weight.SCB = self.weight.SCB, None  # type: ignore[attr-defined]
        return F.linear(x, self.weight.float() * (self.state.SCB / 127)[:, None], self.bias)


def eight_bits(linear: nn.Linear) -> nn.Module:
    scale = linear.weight.detach().abs().amax(1)
    weight = Int8Parameter((linear.weight.detach() / scale[:, None] * 127).round().to(torch.int8), requires_grad=False)
    weight.SCB = scale
    return _like(linear, Linear8bitLt, weight)  # type: ignore[no-any-return]


class GGUFParameter(nn.Parameter):
    """As diffusers': bytes of blocks, two of a float16 factor before 32 whole numbers."""

    quant_type: int


def dequantize_gguf_tensor(stored: Tensor) -> Tensor:
    """Unpack blocks of Q8_0."""
    blocks = stored.as_subclass(Tensor).reshape(-1, 34)
    numbers = blocks[:, :2].contiguous().view(torch.float16).float() * blocks[:, 2:].contiguous().view(torch.int8).float()
    return numbers.reshape(len(stored), -1)


class GGUFLinear(nn.Linear):
    """As diffusers'."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, dequantize_gguf_tensor(self.weight).to(x), self.bias)


def gguf(linear: nn.Linear) -> nn.Module:
    blocks = linear.weight.detach().reshape(-1, 32)
    factor = (blocks.abs().amax(1, keepdim=True) / 127).half()
    whole = (blocks / factor.float()).round().clamp(-127, 127).to(torch.int8)
    raw = torch.cat([factor.view(torch.uint8), whole.view(torch.uint8)], 1).reshape(len(linear.weight), -1)
    weight = GGUFParameter(raw, requires_grad=False)
    weight.quant_type = 8
    return _like(linear, GGUFLinear, weight)  # type: ignore[no-any-return]


class ScaledTensor(Tensor):
    """As torchao's and quanto's: a tensor of the weight's shape that is made of others and has no memory of its own."""

    @staticmethod
    def __new__(cls, numbers: Tensor, scale: Tensor) -> ScaledTensor:
        return Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=scale.dtype)  # type: ignore[attr-defined, no-any-return]

    def __init__(self, numbers: Tensor, scale: Tensor) -> None:
        self.numbers, self.scale = numbers, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["numbers", "scale"], None

    def dequantize(self) -> Tensor:
        return self.numbers.to(self.scale.dtype) * self.scale

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.linear:
            args = tuple(arg.dequantize() if isinstance(arg, cls) else arg for arg in args)
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return cls(args[0].numbers, args[0].scale) if "detach" in str(function) else NotImplemented


def subclass(linear: nn.Linear) -> nn.Module:
    scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
    layer = copy.deepcopy(linear)
    numbers = (linear.weight.detach() / scale).round().to(torch.int8)
    layer.weight = nn.Parameter(ScaledTensor(numbers, scale), requires_grad=False)
    return layer


class QLinear(nn.Linear):
    """As quanto's before it is frozen: quantised in each forward."""

    weight_qtype = "qint8"

    @property
    def qweight(self) -> ScaledTensor:
        scale = self.weight.detach().abs().amax(1, keepdim=True) / 127
        return ScaledTensor((self.weight.detach() / scale).round().to(torch.int8), scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.qweight, self.bias)


def unfrozen(linear: nn.Linear) -> nn.Module:
    return _like(linear, QLinear, nn.Parameter(linear.weight.detach().clone()))  # type: ignore[no-any-return]


def _bitsandbytes(kind: str, **options: Any) -> Make:
    def make(linear: nn.Linear) -> nn.Module:
        layers = import_module("bitsandbytes.nn")
        layer = getattr(layers, kind)(linear.in_features, linear.out_features, **options)
        layer.load_state_dict(linear.state_dict())
        return layer.to("cpu")  # type: ignore[no-any-return]

    return make


def _torchao(config: str) -> Make:
    def make(linear: nn.Linear) -> nn.Module:
        package, holder = import_module("torchao.quantization"), nn.Sequential(copy.deepcopy(linear))
        package.quantize_(holder, getattr(package, config)())
        return holder[0]

    return make


def _quanto(dtype: str, freeze: bool) -> Make:
    def make(linear: nn.Linear) -> nn.Module:
        package, holder = import_module("optimum.quanto"), nn.Sequential(copy.deepcopy(linear))
        package.quantize(holder, weights=getattr(package, dtype))
        if freeze:
            package.freeze(holder)
        return holder[0]

    return make


def _diffusers_gguf(kind: str) -> Make:
    def make(linear: nn.Linear) -> nn.Module:
        package, layers = import_module("gguf"), import_module("diffusers.quantizers.gguf.utils")
        of = package.GGMLQuantizationType[kind]
        packed = torch.from_numpy(package.quantize(linear.weight.detach().numpy(), of))
        layer = layers.GGUFLinear(linear.in_features, linear.out_features, bias=True, compute_dtype=torch.float32)
        layer.weight = layers.GGUFParameter(packed, quant_type=of)
        layer.bias = nn.Parameter(linear.bias.detach().clone())
        return layer  # type: ignore[no-any-return]

    return make


STAND_INS: dict[str, Make] = {
    "four bits": four_bits, "eight bits": eight_bits, "gguf": gguf, "tensor subclass": subclass, "quantised in forward": unfrozen,
}  # fmt: skip
_PACKAGES: dict[str, dict[str, Make]] = {
    "bitsandbytes": {
        "bitsandbytes nf4": _bitsandbytes("Linear4bit", compute_dtype=torch.float32, quant_type="nf4"),
        "bitsandbytes fp4 nested": _bitsandbytes("Linear4bit", compute_dtype=torch.float32, quant_type="fp4", compress_statistics=True),
        "bitsandbytes int8": _bitsandbytes("Linear8bitLt", has_fp16_weights=False),
    },
    "torchao": {"torchao int8": _torchao("Int8WeightOnlyConfig"), "torchao float8": _torchao("Float8WeightOnlyConfig")},
    "optimum.quanto": {"quanto int4": _quanto("qint4", True), "quanto int8 unfrozen": _quanto("qint8", False)},
    "gguf": {"diffusers Q8_0": _diffusers_gguf("Q8_0"), "diffusers Q4_0": _diffusers_gguf("Q4_0")},
}


def _is_there(package: str) -> bool:
    """Tell whether a package can be imported, and before it those that it lies in."""
    outer, dot, _ = package.rpartition(".")
    return (not dot or _is_there(outer)) and find_spec(package) is not None


INSTALLED: dict[str, Make] = {name: make for package, found in _PACKAGES.items() if _is_there(package) for name, make in found.items()}
