"""The UNet of Latent Diffusion (Stable Diffusion 1, 2, XL): its layers by the rule they were built by, and their names in diffusers.

LDM counts its blocks through all levels, so that names need arithmetic. Axis letters: d = width of the residual stream, c = width of the
text conditioning.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache, partial

from ..records import dataclass
from .family import UNET_PREFIX, Blocks, Component
from .naming import Live
from .parameters import LayerInfo
from .rows import Row, Rows, layer


@dataclass(frozen=True)
class UNetPlan:
    """Describe an LDM UNet: base width, factor and transformer depth per level, c, width of the extra vector."""

    width: int
    factors: tuple[int, ...]
    depths: tuple[int, ...]
    middle_depth: int
    context: int
    linear_projection: bool
    vector: int = 0


def _row(kind: str, path: str, shape: tuple[int, ...], bias: bool = True) -> Row:
    return layer(kind, path, shape, to_diffusers(path), bias)


def _linear(path: str, out: int, in_: int, bias: bool = True) -> Row:
    return _row("Linear", path, (out, in_), bias)


def _conv(path: str, out: int, in_: int, size: int = 3) -> Row:
    return _row("Conv2d", path, (out, in_, size, size))


def layers(plan: UNetPlan) -> Rows:
    """Yield the layers of an LDM UNet with two residual blocks a level."""
    d, embedding = plan.width, 4 * plan.width
    yield _linear("time_embed.0", embedding, d)
    yield _linear("time_embed.2", embedding, embedding)
    if plan.vector:
        yield _linear("label_emb.0.0", embedding, plan.vector)
        yield _linear("label_emb.0.2", embedding, embedding)
    yield _conv("input_blocks.0.0", d, 4)
    skips = [d]
    for level, (factor, depth) in enumerate(zip(plan.factors, plan.depths, strict=True)):
        for _ in range(2):
            block = f"input_blocks.{len(skips)}"
            yield from _resnet(f"{block}.0", d, factor * plan.width, embedding)
            d = factor * plan.width
            yield from _transformer(f"{block}.1", d, depth, plan)
            skips.append(d)
        if level < len(plan.factors) - 1:
            yield _conv(f"input_blocks.{len(skips)}.0.op", d, d)
            skips.append(d)
    yield from _resnet("middle_block.0", d, d, embedding)
    yield from _transformer("middle_block.1", d, plan.middle_depth, plan)
    yield from _resnet("middle_block.2", d, d, embedding)
    yield from _decoder(plan, d, skips)
    yield _row("GroupNorm", "out.0", (plan.width,))
    yield _conv("out.2", 4, plan.width)


def _decoder(plan: UNetPlan, d: int, skips: list[int]) -> Rows:
    number = 0
    for level in reversed(range(len(plan.factors))):
        for index in range(3):
            out, depth = plan.factors[level] * plan.width, plan.depths[level]
            block = f"output_blocks.{number}"
            yield from _resnet(f"{block}.0", d + skips.pop(), out, 4 * plan.width)
            d = out
            yield from _transformer(f"{block}.1", d, depth, plan)
            if level and index == 2:
                yield _conv(f"{block}.{2 if depth else 1}.conv", d, d)
            number += 1


def _resnet(name: str, in_: int, out: int, embedding: int) -> Rows:
    yield _row("GroupNorm", f"{name}.in_layers.0", (in_,))
    yield _conv(f"{name}.in_layers.2", out, in_)
    yield _linear(f"{name}.emb_layers.1", out, embedding)
    yield _row("GroupNorm", f"{name}.out_layers.0", (out,))
    yield _conv(f"{name}.out_layers.3", out, out)
    if in_ != out:
        yield _conv(f"{name}.skip_connection", out, in_, 1)


def _transformer(name: str, d: int, depth: int, plan: UNetPlan) -> Rows:
    if not depth:
        return
    shape = (d, d) if plan.linear_projection else (d, d, 1, 1)
    kind = "Linear" if plan.linear_projection else "Conv2d"
    yield _row("GroupNorm", f"{name}.norm", (d,))
    yield _row(kind, f"{name}.proj_in", shape)
    for index in range(depth):
        block = f"{name}.transformer_blocks.{index}"
        for attention, c in (("attn1", d), ("attn2", plan.context)):
            yield _linear(f"{block}.{attention}.to_q", d, d, False)
            yield _linear(f"{block}.{attention}.to_k", d, c, False)
            yield _linear(f"{block}.{attention}.to_v", d, c, False)
            yield _linear(f"{block}.{attention}.to_out.0", d, d)
        yield _linear(f"{block}.ff.net.0.proj", 8 * d, d)
        yield _linear(f"{block}.ff.net.2", d, 4 * d)
        for norm in ("norm1", "norm2", "norm3"):
            yield _row("LayerNorm", f"{block}.{norm}", (d,))
    yield _row(kind, f"{name}.proj_out", shape)


_TOP = {
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
}
_TOP_BACK = {other: canonical for canonical, other in _TOP.items()}
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_RESNET_BACK = {other: canonical for canonical, other in _RESNET.items()}
_LDM = re.compile(r"(input_blocks|middle_block|output_blocks)\.(\d{1,6})\.(.+)")
_DIFFUSERS = re.compile(r"(down_blocks|up_blocks)\.(\d{1,6})\.(resnets|attentions|downsamplers|upsamplers)\.(\d{1,6})\.(.+)")
_DIFFUSERS_MID = re.compile(r"mid_block\.(resnets|attentions)\.(\d{1,6})\.(.+)")
_IS_DIFFUSERS = re.compile(r"(down_blocks|up_blocks|mid_block|time_embedding|add_embedding)\.|(conv_in|conv_out|conv_norm_out)$")
_IS_LDM = re.compile(r"(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)\.")
_UPSAMPLER = re.compile(r"(output_blocks\.\d+)\.\d+\.conv")
_ATTENTION = re.compile(r"(input_blocks\.\d+)\.1\.(transformer_blocks\..+)")
_UP_ATTENTION = re.compile(r"up_blocks\.(\d{1,6})\.attentions\.")


class UNetNames:
    """The names of a UNet's layers in diffusers, for any depth and width."""

    def __init__(self, rows: Iterable[Row] = (), also: Mapping[str, str] | None = None) -> None:
        """Take what every naming takes; arithmetic needs none of it."""

    def knows(self, path: str) -> bool:
        """Tell whether a path is one of a UNet, in either spelling."""
        return _IS_LDM.match(path) is not None or _IS_DIFFUSERS.match(path) is not None

    def to_other(self, path: str, shape: tuple[int, ...]) -> list[tuple[str, str | None]]:
        """Give the diffusers name of a canonical path."""
        other = to_diffusers(path)
        return [(other, None)] if other else []

    def spellings(self, path: str, shape: tuple[int, ...]) -> Iterator[tuple[str, str | None]]:
        """Yield the name in diffusers, the canonical one, and what converters wrote wrongly."""
        yield from self.to_other(path, shape)
        yield path, None
        if match := _UPSAMPLER.fullmatch(path):  # converters that know one family only write the place of that family into all files
            yield from ((f"{match[1]}.{place}.conv", None) for place in (1, 2))
        if match := _ATTENTION.fullmatch(path):
            yield f"{match[1]}.0.{match[2]}", None

    def read_live(self, infos: Mapping[str, LayerInfo]) -> Live:
        """Give the canonical places of a live UNet's modules, which are all in one spelling."""
        if not any(_IS_DIFFUSERS.match(path) for path in infos):
            return {path: [(path, None, None)] for path in infos if _IS_LDM.match(path)}
        attention = {int(match[1]) for path in infos if (match := _UP_ATTENTION.match(path))}
        return {path: [(found, None, None)] for path in infos if (found := to_ldm(path, attention))}


@lru_cache(maxsize=1 << 13)
def to_diffusers(path: str) -> str | None:
    """Give the diffusers path of an LDM UNet path, or None if there is none."""
    if path in _TOP:
        return _TOP[path]
    match = _LDM.fullmatch(path)
    if match is None:
        return None
    head, number, tail = match[1], int(match[2]), match[3]
    if head == "middle_block":
        if number == 1:
            return f"mid_block.attentions.0.{tail}"
        return _inner(f"mid_block.resnets.{number // 2}", tail)
    block, index = divmod(number - 1, 3) if head == "input_blocks" else divmod(number, 3)
    name = f"{'down' if head == 'input_blocks' else 'up'}_blocks.{block}"
    kind, _, inner = tail.partition(".")
    if inner in ("op", "conv"):
        return f"{name}.{'down' if inner == 'op' else 'up'}samplers.0.conv"
    return _inner(f"{name}.resnets.{index}", inner) if kind == "0" else f"{name}.attentions.{index}.{inner}"


def _inner(resnet: str, tail: str) -> str | None:
    other = _RESNET.get(tail)
    return other and f"{resnet}.{other}"


def to_ldm(path: str, attention: Collection[int]) -> str | None:
    """Give the LDM path of a diffusers UNet path; `attention` holds the numbers of the up blocks with attentions."""
    if path in _TOP_BACK:
        return _TOP_BACK[path]
    match = _DIFFUSERS_MID.fullmatch(path)
    if match is not None:
        if match[1] == "attentions":
            return f"middle_block.1.{match[3]}" if match[2] == "0" else None
        inner = _RESNET_BACK.get(match[3])
        return inner and f"middle_block.{2 * int(match[2])}.{inner}"
    match = _DIFFUSERS.fullmatch(path)
    if match is None:
        return None
    down, block, kind, index, tail = match[1] == "down_blocks", int(match[2]), match[3], int(match[4]), match[5]
    if kind.endswith("samplers"):
        if tail != "conv":
            return None
        if down:
            return f"input_blocks.{3 * block + 3}.0.op"
        return f"output_blocks.{3 * block + 2}.{2 if block in attention else 1}.conv"
    name = f"input_blocks.{3 * block + 1 + index}" if down else f"output_blocks.{3 * block + index}"
    if kind == "attentions":
        return f"{name}.1.{tail}"
    inner = _RESNET_BACK.get(tail)
    return inner and f"{name}.0.{inner}"


def unet(plan: UNetPlan) -> Component:
    """Declare an LDM UNet."""
    return Component("unet", UNET_PREFIX, "unet", "lora_unet", partial(layers, plan), UNetNames)


_SECTIONS = {"input_blocks": "IN", "middle_block": "M00", "output_blocks": "OUT"}
SD_BLOCKS = Blocks(_SECTIONS, last=(), first=None, counts=(26, 17))
SDXL_BLOCKS = Blocks(_SECTIONS, last=(), first=None, counts=(20, 12))
