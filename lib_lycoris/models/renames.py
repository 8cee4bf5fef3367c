"""Paths inside one component: the LDM (canonical) spelling and the spelling of diffusers and transformers.

Each table row is `canonical path, other path, part`; `#` stands for the block number. Both directions are read from
the same rows. Only the UNet needs arithmetic, because LDM counts its blocks through all levels.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

Row = tuple[str, str, str | None]
_NUMBER = re.compile(r"\.(\d+)(?=\.)")


class Renames:
    """A table of rows, looked up by the canonical path or by the other one."""

    def __init__(self, table: Iterable[Row]) -> None:
        self._other: dict[str, list[tuple[str, str | None]]] = {}
        self._canonical: dict[str, tuple[str, str | None]] = {}
        for canonical, other, part in table:
            self._other.setdefault(canonical, []).append((other, part))
            self._canonical[other] = (canonical, part)

    def to_other(self, path: str) -> list[tuple[str, str | None]]:
        """Give the other spellings of a canonical path, each with the part of the weight that it names."""
        template, number = _template(path)
        return [(other.replace("#", number), part) for other, part in self._other.get(template, ())]

    def to_canonical(self, path: str) -> tuple[str, str | None] | None:
        """Give the canonical path and the part that another path names, or None."""
        template, number = _template(path)
        found = self._canonical.get(template)
        return found and (found[0].replace("#", number), found[1])


def _template(path: str) -> tuple[str, str]:
    match = _NUMBER.search(path)
    if match is None:
        return path, ""
    return f"{path[: match.start()]}.#{path[match.end() :]}", match[1]


def _fused(canonical: str, other: str, names: Iterable[str], parts: str = "qkv") -> list[Row]:
    return [(canonical, f"{other}.{name}", part) for name, part in zip(names, parts, strict=True)]


_QKV = ("to_q", "to_k", "to_v")
_ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")

_LAYER, _BLOCK = "text_model.encoder.layers.#", "transformer.resblocks.#"
OPEN_CLIP = Renames(
    [
        *_fused(f"{_BLOCK}.attn", f"{_LAYER}.self_attn", ("q_proj", "k_proj", "v_proj")),
        (f"{_BLOCK}.attn.out_proj", f"{_LAYER}.self_attn.out_proj", None),
        (f"{_BLOCK}.ln_1", f"{_LAYER}.layer_norm1", None),
        (f"{_BLOCK}.ln_2", f"{_LAYER}.layer_norm2", None),
        (f"{_BLOCK}.mlp.c_fc", f"{_LAYER}.mlp.fc1", None),
        (f"{_BLOCK}.mlp.c_proj", f"{_LAYER}.mlp.fc2", None),
        ("ln_final", "text_model.final_layer_norm", None),
        ("token_embedding", "text_model.embeddings.token_embedding", None),
        ("positional_embedding", "text_model.embeddings.position_embedding", None),
        # open_clip computes x @ P, a Linear of transformers stores P transposed.
        ("text_projection", "text_projection", "T"),
    ]
)


def _mmdit() -> Iterable[Row]:
    x, c, t = "joint_blocks.#.x_block", "joint_blocks.#.context_block", "transformer_blocks.#"
    yield from _fused(f"{x}.attn.qkv", f"{t}.attn", _QKV)
    yield from _fused(f"{c}.attn.qkv", f"{t}.attn", _ADDED)
    yield from _fused(f"{x}.attn2.qkv", f"{t}.attn2", _QKV)
    for attention in ("attn", "attn2"):
        yield f"{x}.{attention}.proj", f"{t}.{attention}.to_out.0", None
        for letter in "qk":
            yield f"{x}.{attention}.ln_{letter}", f"{t}.{attention}.norm_{letter}", None
    yield f"{c}.attn.proj", f"{t}.attn.to_add_out", None
    for letter in "qk":
        yield f"{c}.attn.ln_{letter}", f"{t}.attn.norm_added_{letter}", None
    for block, suffix in ((x, ""), (c, "_context")):
        yield f"{block}.mlp.fc1", f"{t}.ff{suffix}.net.0.proj", None
        yield f"{block}.mlp.fc2", f"{t}.ff{suffix}.net.2", None
        yield f"{block}.adaLN_modulation.1", f"{t}.norm1{suffix}.linear", None
    for canonical, other in (("t_embedder", "timestep_embedder"), ("y_embedder", "text_embedder")):
        yield f"{canonical}.mlp.0", f"time_text_embed.{other}.linear_1", None
        yield f"{canonical}.mlp.2", f"time_text_embed.{other}.linear_2", None
    yield "x_embedder.proj", "pos_embed.proj", None
    yield "pos_embed", "pos_embed.pos_embed", None
    yield "context_embedder", "context_embedder", None
    yield "final_layer.linear", "proj_out", None
    yield "final_layer.adaLN_modulation.1", "norm_out.linear", "swap"


def _flux() -> Iterable[Row]:
    d, s = "double_blocks.#", "single_blocks.#"
    t, u = "transformer_blocks.#", "single_transformer_blocks.#"
    streams = (("img", _QKV, "to_out.0", "", ""), ("txt", _ADDED, "to_add_out", "_context", "added_"))
    for kind, names, out, suffix, norm in streams:
        yield from _fused(f"{d}.{kind}_attn.qkv", f"{t}.attn", names)
        yield f"{d}.{kind}_attn.proj", f"{t}.attn.{out}", None
        yield f"{d}.{kind}_attn.norm.query_norm", f"{t}.attn.norm_{norm}q", None
        yield f"{d}.{kind}_attn.norm.key_norm", f"{t}.attn.norm_{norm}k", None
        yield f"{d}.{kind}_mlp.0", f"{t}.ff{suffix}.net.0.proj", None
        yield f"{d}.{kind}_mlp.2", f"{t}.ff{suffix}.net.2", None
        yield f"{d}.{kind}_mod.lin", f"{t}.norm1{suffix}.linear", None
    yield from _fused(f"{s}.linear1", f"{u}.attn", _QKV)
    yield f"{s}.linear1", f"{u}.proj_mlp", "mlp"
    yield f"{s}.linear2", f"{u}.proj_out", None
    yield f"{s}.norm.query_norm", f"{u}.attn.norm_q", None
    yield f"{s}.norm.key_norm", f"{u}.attn.norm_k", None
    yield f"{s}.modulation.lin", f"{u}.norm.linear", None
    for canonical, other in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance")):
        yield f"{canonical}.in_layer", f"time_text_embed.{other}_embedder.linear_1", None
        yield f"{canonical}.out_layer", f"time_text_embed.{other}_embedder.linear_2", None
    yield "img_in", "x_embedder", None
    yield "txt_in", "context_embedder", None
    yield "final_layer.linear", "proj_out", None
    yield "final_layer.adaLN_modulation.1", "norm_out.linear", "swap"


TABLES = {"open_clip": OPEN_CLIP, "mmdit": Renames(_mmdit()), "flux": Renames(_flux())}  # by the style of a component

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
_LDM = re.compile(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(.+)")
_DIFFUSERS = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_DIFFUSERS_MID = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def unet_to_diffusers(path: str) -> str | None:
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


def unet_to_ldm(path: str, attention: Collection[int]) -> str | None:
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
