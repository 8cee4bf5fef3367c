"""The text encoders of the families as components: their layers, and the two spellings of CLIP. d = width."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, partial

from .family import Component
from .naming import Live, TableNames
from .parameters import LayerInfo
from .rows import Rows, fused, layer, linear, norm

_IS_OPEN_CLIP = re.compile(r"transformer\.resblocks\.|(token_embedding|positional_embedding|ln_final)$")
_SHORT_CLIP = re.compile(r"(encoder\.layers|embeddings|final_layer_norm)\b")


def clip_layers(d: int, layers: int, projection: int = 0) -> Rows:
    """Yield the layers of a CLIP text encoder as transformers names them."""
    yield layer("Embedding", "text_model.embeddings.token_embedding", (49408, d), bias=False)
    yield layer("Embedding", "text_model.embeddings.position_embedding", (77, d), bias=False)
    block = "text_model.encoder.layers.#"
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        yield linear(f"{block}.self_attn.{name}", d, d, times=layers)
    yield norm(f"{block}.layer_norm1", d, bias=True, times=layers)
    yield linear(f"{block}.mlp.fc1", 4 * d, d, times=layers)
    yield linear(f"{block}.mlp.fc2", d, 4 * d, times=layers)
    yield norm(f"{block}.layer_norm2", d, bias=True, times=layers)
    yield norm("text_model.final_layer_norm", d, bias=True)
    if projection:
        yield linear("text_projection", projection, d, bias=False)


def open_clip_layers(d: int, layers: int) -> Rows:
    """Yield the layers of an open_clip text encoder, whose q, k and v are one tensor."""
    yield layer("Embedding", "token_embedding", (49408, d), "text_model.embeddings.token_embedding", False)
    yield layer("Parameter", "positional_embedding", (77, d), "text_model.embeddings.position_embedding", False)
    block, other = "transformer.resblocks.#", "text_model.encoder.layers.#"
    yield norm(f"{block}.ln_1", d, f"{other}.layer_norm1", True, layers)
    qkv = fused(f"{other}.self_attn", ("q_proj", "k_proj", "v_proj"))
    yield layer("MultiheadAttention", f"{block}.attn", (3 * d, d), qkv, times=layers)
    yield linear(f"{block}.attn.out_proj", d, d, f"{other}.self_attn.out_proj", times=layers)
    yield norm(f"{block}.ln_2", d, f"{other}.layer_norm2", True, layers)
    yield linear(f"{block}.mlp.c_fc", 4 * d, d, f"{other}.mlp.fc1", times=layers)
    yield linear(f"{block}.mlp.c_proj", d, 4 * d, f"{other}.mlp.fc2", times=layers)
    yield norm("ln_final", d, "text_model.final_layer_norm", True)
    # open_clip computes x @ P, a Linear of transformers stores P transposed.
    yield layer("Parameter", "text_projection", (d, d), {"text_projection": "T"}, False)


def t5_layers(d: int = 4096, layers: int = 24, hidden: int = 10240, heads: int = 64) -> Rows:
    """Yield the layers of T5 v1.1 XXL's encoder."""
    yield layer("Embedding", "shared", (32128, d), bias=False)
    block = "encoder.block.#"
    for name in "qkvo":
        yield linear(f"{block}.layer.0.SelfAttention.{name}", d, d, bias=False, times=layers)
    yield layer("Embedding", f"{block}.layer.0.SelfAttention.relative_attention_bias", (32, heads), bias=False, times=1)
    yield norm(f"{block}.layer.0.layer_norm", d, times=layers)
    for name in ("wi_0", "wi_1"):
        yield linear(f"{block}.layer.1.DenseReluDense.{name}", hidden, d, bias=False, times=layers)
    yield linear(f"{block}.layer.1.DenseReluDense.wo", d, hidden, bias=False, times=layers)
    yield norm(f"{block}.layer.1.layer_norm", d, times=layers)
    yield norm("encoder.final_layer_norm", d)


@cache
def _open_clip() -> TableNames:
    return TableNames(open_clip_layers(1280, 32))


def _is_open_clip(path: str, info: LayerInfo) -> bool:
    return info.kind == "Parameter" if path == "text_projection" else _IS_OPEN_CLIP.match(path) is not None


def _long(path: str) -> str:
    """Give the name of a CLIP layer inside transformers' whole model; newer versions leave the beginning out."""
    return f"text_model.{path}" if _SHORT_CLIP.match(path) else path


class ClipNames(TableNames):
    """CLIP as transformers names it, which a webui may hold as open_clip."""

    def read_live(self, infos: Mapping[str, LayerInfo]) -> Live:
        """Give the canonical places of a live text encoder's modules."""
        found: Live = {}
        for path, info in infos.items():
            if _is_open_clip(path, info):
                found[path] = [(other, "T" if part == "T" else None, part) for other, part in _open_clip().to_other(path, info.shape)]
            else:
                found[path] = [(_long(path), None, None)]
        return found


class OpenClipNames(TableNames):
    """CLIP as open_clip names it, which diffusers holds as transformers does."""

    def read_live(self, infos: Mapping[str, LayerInfo]) -> Live:
        """Give the canonical places of a live text encoder's modules."""
        found: Live = {}
        for path, info in infos.items():
            if _is_open_clip(path, info):
                found[path] = [(path, None, None)]
            elif (other := self.to_canonical(_long(path), info.shape)) is not None:
                found[path] = [(*other, None)]
        return found


def clip(
    prefix: str, kohya: str, *slots: str, d: int = 768, layers: int = 12, projection: int = 0, key: str = "te1",
    pipeline: str = "text_encoder", block: str = "BASE",
) -> Component:  # fmt: skip
    """Declare a CLIP text encoder (default: CLIP-L) as transformers names it."""
    return Component(key, prefix, pipeline, kohya, partial(clip_layers, d, layers, projection), ClipNames, slots, block)


def open_clip(prefix: str, kohya: str, *slots: str, d: int, layers: int, key: str, pipeline: str) -> Component:
    """Declare a CLIP text encoder as open_clip names it."""
    return Component(key, prefix, pipeline, kohya, partial(open_clip_layers, d, layers), OpenClipNames, slots)


def t5(pipeline: str, *slots: str) -> Component:
    """Declare T5 v1.1 XXL; kohya calls it te3 in every family."""
    return Component("te3", "t5xxl.transformer.", pipeline, "lora_te3", t5_layers, TableNames, slots, "T5")
