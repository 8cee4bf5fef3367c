"""Which family a network file was made for: module names and shapes first, metadata where those leave it open."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

Shapes = Mapping[str, tuple[int, ...]]
_CONTEXT = {768: "sd1", 1024: "sd2", 1280: "sdxl-refiner", 2048: "sdxl"}
_FLUX_WIDTH, _FLUX_BLOCKS = 3072, 19

_FLUX = re.compile(r"(^|[._])(double_blocks|single_blocks|single_transformer_blocks)_\d")
_SD3 = re.compile(r"(^|[._])joint_blocks_\d")
_DIT = re.compile(r"transformer_blocks_(\d+)_(attn_|ff_context_|norm1_context_|norm1_linear)")
_FOREIGN = re.compile(r"transformer_blocks_\d+_(img|txt)_mlp_")  # Qwen-Image: the same names as Flux, another model
_TE2 = re.compile(r"(te2|text_encoder_2|clip_g_transformer)_(text_model|text_projection)|^1_model_")
_T5 = re.compile(r"(te2|te3|text_encoder_[23]|t5xxl_transformer)_encoder_block_\d")
_UNET = re.compile(r"(input_blocks|output_blocks|middle_block|down_blocks|up_blocks|mid_block)_")
_LAYER = re.compile(r"(?:te1?|text_encoder|^lycoris|model|^)_?text_model_encoder_layers_(\d+)_")
_RESBLOCK = re.compile(r"transformer_resblocks_(\d+)_")

# Places that only one side has: SD1 and SD2 attend on level 0, SDXL on the deepest level and several times.
_DEEP = re.compile(r"(input_blocks_\d+_1|output_blocks_\d+_1|middle_block_1|attentions_\d+)_transformer_blocks_([1-9])")
_SDXL_ONLY = re.compile(r"(up_blocks_0_attentions|output_blocks_[012]_1_(norm|proj|transformer))_?")
_REFINER_ONLY = re.compile(r"^0_model_transformer_resblocks|input_blocks_(9|10|11)_0|down_blocks_3_|up_blocks_3_")
_SD_ONLY = re.compile(r"(input_blocks_[12]_1|output_blocks_(9|10|11)_1|down_blocks_0_attentions_\d+|up_blocks_3_attentions_\d+)_")
_SDXL_DEPTH = re.compile(r"transformer_blocks_[4-9]_(attn|ff|norm)")
# Modules whose input is as wide as something that tells the families apart.
_DIT_INPUT = re.compile(r"transformer_blocks_\d+_(attn_(to|add)_[qkv](_proj)?|norm1(_context)?_linear)$")
_LEVEL_1_INPUT = re.compile(r"(input_blocks_[45]_1|down_blocks_1_attentions_\d)_transformer_blocks_\d_attn1_to_[qkv]$")
_TEXT_INPUT = re.compile(r"text_model_encoder_layers_\d+_(self_attn_[qkv]_proj|self_attn_out_proj|mlp_fc1)$")
_CROSS_INPUT = re.compile(r"attn2_to_[kv]$")
_VECTOR = re.compile(r"(label_emb_0_0|add_embedding_linear_1)$")


def detect_family(modules: Mapping[str, Shapes], metadata: Mapping[str, str] | None = None) -> str | None:
    """Tell the family from `file module -> suffix -> shape`; None when names, shapes and metadata do not tell it."""
    flat = {name.replace(".", "_"): shapes for name, shapes in modules.items()}
    names = _Names(flat)
    if names.has(_FLUX):
        return "flux"
    if names.has(_SD3):
        return "sd3"
    if names.has(_FOREIGN):
        return None
    if names.has(_DIT):
        return _transformer(names)
    if names.has(_T5):
        return "sd3" if names.has(_TE2) else _from_metadata(metadata or {}, ("flux", "sd3"))
    return _stable_diffusion(names, metadata or {})


class _Names:
    def __init__(self, flat: Mapping[str, Shapes]) -> None:
        self.flat = flat

    def has(self, pattern: re.Pattern[str]) -> bool:
        return any(pattern.search(name) for name in self.flat)

    def numbers(self, pattern: re.Pattern[str]) -> list[int]:
        return [int(match[1]) for name in self.flat if (match := pattern.search(name))]

    def widths(self, test: Callable[[str], object]) -> set[int]:
        """Collect the input widths of the modules whose name passes the test."""
        return {width for name, shapes in self.flat.items() if test(name) for width in _input_width(shapes)}


def _input_width(shapes: Shapes) -> Iterator[int]:
    """Yield the number of input columns that the stored shapes of one module imply, if they do."""
    for suffix in ("lora_down.weight", "lora_A.weight", "q_layer.weight", "hada_w1_b", "diff", "set_weight"):
        shape = shapes.get(suffix, ())
        if len(shape) >= 2:
            yield shape[1]
            return
    a1 = shapes.get("a1.weight", ())
    if len(a1) >= 2:
        yield max(a1[:2])
        return
    halves = [shapes.get(f"lokr_w{n}", shapes.get(f"lokr_w{n}_b", ())) for n in (1, 2)]
    if all(len(half) >= 2 for half in halves):
        yield halves[0][1] * halves[1][1]


def _transformer(names: _Names) -> str:
    # Files of both families name these blocks alike. All of Flux is 3072 wide and has 19 of them, no SD3 is.
    widths = names.widths(_DIT_INPUT.search)
    blocks = names.numbers(_DIT)
    return "flux" if _FLUX_WIDTH in widths and max(blocks) < _FLUX_BLOCKS else "sd3"


def _stable_diffusion(names: _Names, metadata: Mapping[str, str]) -> str | None:
    context = {_CONTEXT[width] for width in names.widths(_CROSS_INPUT.search) & _CONTEXT.keys()}
    if len(context) == 1:
        return context.pop()
    if not names.has(_UNET) and (named := _from_metadata(metadata, ("sd3", "flux"))):
        return named  # a text encoder alone: CLIP-L and bigG serve these too
    if names.has(_VECTOR) or names.has(_DEEP) or names.has(_TE2) or names.has(_SDXL_ONLY):
        return _xl(names, metadata)
    if names.has(re.compile(r"^0_transformer_text_model")):
        return "sdxl"
    if names.has(re.compile(r"^0_model_transformer_resblocks")):
        return "sdxl-refiner"
    return _one_or_two(names, metadata)


def _xl(names: _Names, metadata: Mapping[str, str]) -> str:
    vector = names.widths(_VECTOR.search)
    level = names.widths(_LEVEL_1_INPUT.search)
    if 2560 in vector or 768 in level or names.has(_REFINER_ONLY):
        return "sdxl-refiner"
    named = _from_metadata(metadata, ("sdxl", "sdxl-refiner"))
    certain = 2816 in vector or 640 in level or names.has(_SDXL_ONLY) or names.has(_SDXL_DEPTH)
    return "sdxl" if certain or named is None else named


def _one_or_two(names: _Names, metadata: Mapping[str, str]) -> str | None:
    if names.has(re.compile(r"^model_transformer_resblocks")):
        return "sd2"
    if max(names.numbers(_LAYER), default=0) >= 12:
        return "sdxl-refiner" if max(names.numbers(_LAYER)) >= 24 else "sd2"
    te = names.widths(_TEXT_INPUT.search)
    if 1024 in te:
        return "sd2"
    if any("proj_in" in name and _is_conv(shapes) for name, shapes in names.flat.items() if _UNET.search(name)):
        return "sd1"
    families = ("sd1", "sd2") if names.has(_SD_ONLY) else ("sd1", "sd2", "sdxl", "sdxl-refiner", "sd3", "flux")
    named = _from_metadata(metadata, families)
    single = any(re.match(r"(lora|oft)_te_|transformer_text_model", name) for name in names.flat)
    return named or ("sd1" if 768 in te and single else None)


def _is_conv(shapes: Shapes) -> bool:
    return any(len(shape) == 4 and not suffix.startswith("oft_") for suffix, shape in shapes.items())


_ARCHITECTURES = (
    ("stable-diffusion-xl-v1-refiner", "sdxl-refiner"),
    ("stable-diffusion-xl", "sdxl"),
    ("stable-diffusion-v1", "sd1"),
    ("stable-diffusion-v2", "sd2"),
    ("stable-diffusion-v3", "sd3"),
    ("stable-diffusion-3", "sd3"),
    ("flux", "flux"),
    ("sdxl_refiner", "sdxl-refiner"),
    ("sdxl", "sdxl"),
    ("sd_v1", "sd1"),
    ("sd_v2", "sd2"),
    ("sd3", "sd3"),
)


def _from_metadata(metadata: Mapping[str, str], families: tuple[str, ...]) -> str | None:
    """Give the family that the metadata names, if it is among the ones that are still possible."""
    for key in ("modelspec.architecture", "ss_base_model_version"):
        value = str(metadata.get(key, "")).lower()
        named = next((family for start, family in _ARCHITECTURES if value.startswith(start)), None)
        if named in families:
            return named
    return "sd2" if str(metadata.get("ss_v2")) == "True" and "sd2" in families else None
