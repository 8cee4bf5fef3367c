"""The text encoders of the families as components: their layers, and the two spellings of CLIP. d = width."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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

    def spellings(self, path: str, shape: tuple[int, ...]) -> Iterator[tuple[str, str | None]]:
        """Yield the names of a layer, a fused attention's parameters among them."""
        yield from super().spellings(path, shape)
        if path.endswith(".attn"):
            yield from ((f"{path}.{end}", None) for end in ("in_proj", "in_proj_weight"))
            yield from ((f"{path}.{letter}_proj", letter) for letter in "qkv")

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


def llm_layers(d: int, layers: int, q: int, kv: int, hidden: int, bias: bool = False) -> Rows:
    """Yield what networks train of a language model: attention and feed-forward; q, kv: widths of queries, of keys and values."""
    own, other = "model.layers.#", "layers.#"
    for name, out, in_ in (("q_proj", q, d), ("k_proj", kv, d), ("v_proj", kv, d), ("o_proj", d, q)):
        yield linear(f"{own}.self_attn.{name}", out, in_, f"{other}.self_attn.{name}", bias and name != "o_proj", layers)
    for name, out, in_ in (("gate_proj", hidden, d), ("up_proj", hidden, d), ("down_proj", d, hidden)):
        yield linear(f"{own}.mlp.{name}", out, in_, f"{other}.mlp.{name}", False, layers)


def llm(name: str, d: int, layers: int, q: int, kv: int, hidden: int, bias: bool = False, block: str = "TE") -> Component:
    """Declare a language model as the only text encoder of a family, under the name that ComfyUI has for it."""
    rows = partial(llm_layers, d, layers, q, kv, hidden, bias)
    return Component("te1", f"{name}.transformer.", "text_encoder", "lora_te", rows, TableNames, ("te", "te1", name), block)


QWEN3_06B = llm("qwen3_06b", 1024, 28, 2048, 1024, 3072)
QWEN3_4B = llm("qwen3_4b", 2560, 36, 4096, 1024, 9728)
QWEN3_8B = llm("qwen3_8b", 4096, 36, 4096, 1024, 12288)
QWEN25_7B = llm("qwen25_7b", 3584, 28, 3584, 512, 18944, bias=True)
GEMMA2_2B = llm("gemma2_2b", 2304, 26, 2048, 1024, 9216)
T5_ALONE = Component(
    "te1", "t5xxl.transformer.", "text_encoder", "lora_te1", t5_layers, TableNames, ("te", "te1", "te2", "te3", "t5xxl", "t5"), "T5"
)
