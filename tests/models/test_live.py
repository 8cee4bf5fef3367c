"""Live models under canonical names: LDM style, diffusers style, and the real classes of diffusers."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import pytest

from lib_lycoris.errors import ModelMismatchError
from lib_lycoris.models import (
    FAMILIES,
    BaseModel,
    LayerInfo,
    LiveNames,
    Piece,
    from_live,
    parameter,
    reference,
    rows,
    split_parameter,
)

ALL_MODELS = [*((family, None) for family in FAMILIES), ("sd3", "3.5-medium"), ("sd3", "3.5-large")]


def diffusers_names(model: BaseModel) -> dict[str, LayerInfo]:
    """Give the modules that diffusers and transformers have for a model."""
    names: dict[str, LayerInfo] = {}
    for module, info in model.layers.items():
        for alias in model.aliases(module):
            kind, shape, bias = info.kind, info.shape, info.bias
            if alias.part not in (None, "swap", "T"):
                (part,) = rows(alias.part, shape)
                kind, shape = "Linear", (part.stop - part.start, *shape[1:])
            if alias.part == "T":
                kind, shape = "Linear", shape[::-1]
            if alias.path.endswith("position_embedding"):
                kind = "Embedding"
            names[alias.name] = LayerInfo(kind, shape, bias)
    return names


@cache
def with_own_names(family: str, variant: str | None) -> LiveNames:
    """Return what a model is found to be whose layers have the family's own names."""
    return from_live(reference(family, variant).layers)


@pytest.mark.parametrize(("family", "variant"), ALL_MODELS)
def test_live_names_in_ldm_style(family: str, variant: str | None) -> None:
    model, live = reference(family, variant), with_own_names(family, variant)
    assert live.base.family == family and live.base.layers == model.layers and live.unknown == ()
    name = next(iter(model.layers))
    count = model.layers[name].shape[0]
    module, _, leaf = parameter(name, "weight").rpartition(".")
    assert live.places[parameter(name, "weight")] == (Piece(slice(0, count), module, leaf, slice(0, count)),)


@pytest.mark.parametrize(("family", "variant"), ALL_MODELS)
def test_live_names_in_diffusers_style_are_the_same_set(family: str, variant: str | None) -> None:
    model = reference(family, variant)
    ldm, live = with_own_names(family, variant), from_live(diffusers_names(model))
    assert live.base.family == family and live.unknown == ()
    assert live.base.layers == model.layers
    assert live.places.keys() == ldm.places.keys()
    for name, pieces in live.places.items():
        module, _, _ = split_parameter(name)
        ends = [0, *(piece.rows.stop for piece in pieces)]
        assert [piece.rows.start for piece in pieces] == ends[:-1] == sorted(set(ends[:-1])), name
        assert ends[-1] == model.layers[module].shape[0], name


def test_pieces_of_fused_swapped_and_transposed_tensors() -> None:
    flux = from_live(diffusers_names(reference("flux"))).places
    h, single = 3072, "transformer.single_transformer_blocks.7"
    assert flux["diffusion_model.single_blocks.7.linear1.bias"] == (
        Piece(slice(0, h), f"{single}.attn.to_q", "bias", slice(0, h)),
        Piece(slice(h, 2 * h), f"{single}.attn.to_k", "bias", slice(0, h)),
        Piece(slice(2 * h, 3 * h), f"{single}.attn.to_v", "bias", slice(0, h)),
        Piece(slice(3 * h, 7 * h), f"{single}.proj_mlp", "bias", slice(0, 4 * h)),
    )
    assert flux["diffusion_model.final_layer.adaLN_modulation.1.weight"] == (
        Piece(slice(0, h), "transformer.norm_out.linear", "weight", slice(h, 2 * h)),
        Piece(slice(h, 2 * h), "transformer.norm_out.linear", "weight", slice(0, h)),
    )
    norm = Piece(slice(0, 128), f"{single}.attn.norm_q", "weight", slice(0, 128))
    assert flux["diffusion_model.single_blocks.7.norm.query_norm.scale"] == (norm,)
    sdxl = from_live(diffusers_names(reference("sdxl"))).places
    whole = slice(0, 1280)
    assert sdxl["1.model.text_projection"] == (Piece(whole, "text_encoder_2.text_projection", "weight", whole, True),)
    assert sdxl["1.model.positional_embedding"][0].module == "text_encoder_2.text_model.embeddings.position_embedding"
    assert [piece.module.rpartition(".")[2] for piece in sdxl["1.model.transformer.resblocks.0.attn.in_proj_bias"]] == [
        "q_proj",
        "k_proj",
        "v_proj",
    ]


def test_live_names_of_a_webui_model() -> None:
    model = reference("sdxl")
    wrapped: dict[str, LayerInfo] = {"first_stage_model.decoder.conv_in": LayerInfo("Conv2d", (4, 4, 3, 3), True)}
    for name, info in model.layers.items():
        if name.startswith("diffusion_model."):
            wrapped[f"model.{name}"] = info
        else:
            number, rest = name.split(".", 1)
            wrapped[f"conditioner.embedders.{number}.wrapped.{rest}"] = info
    live = from_live(wrapped)
    assert live.base.layers == model.layers
    assert live.unknown == ("first_stage_model.decoder.conv_in",)
    piece = live.places["1.model.transformer.resblocks.0.attn.in_proj_weight"][0]
    assert (piece.module, piece.leaf) == (
        "conditioner.embedders.1.wrapped.model.transformer.resblocks.0.attn",
        "in_proj_weight",
    )


def test_live_names_of_a_host_with_ldm_unet_and_separate_text_encoders() -> None:
    model = reference("sdxl")
    names = {name: info for name, info in model.layers.items() if name.startswith("diffusion_model.")}
    host = {"text_encoder.": "clip_l.transformer.", "text_encoder_2.": "clip_g.transformer."}
    for name, info in diffusers_names(model).items():
        for prefix, ours in host.items():
            if name.startswith(prefix):
                names[ours + name[len(prefix) :]] = info
    live = from_live(names)
    assert live.base.layers == model.layers and live.unknown == ()


@pytest.mark.parametrize(("family", "holds"), [
    ("z-image", "qwen3"), ("flux2-klein-4b", "qwen3"), ("flux2-klein-9b", "qwen3"), ("krea2", "qwen3vl_4b"), ("lumina2", "gemma2"),
    ("qwen-image", "qwen25_7b"), ("anima", "qwen3_06b"),
])  # fmt: skip
def test_live_names_of_forge_neos_language_models(family: str, holds: str) -> None:
    """It holds them without a ``transformer`` between, and Anima's conditioner among their parts."""
    model, names = reference(family), {}
    for name, info in model.layers.items():
        adapter = name.startswith("diffusion_model.llm_adapter.")
        inside = name.removeprefix("diffusion_model.") if adapter else name.partition(".transformer.")[2]
        is_text = adapter or not name.startswith("diffusion_model.")
        names[f"text_encoders.{holds}.{inside}" if is_text else f"model.{name}"] = info
    live = from_live(names)
    assert live.base.family == family and live.base.layers == model.layers and live.unknown == ()


@pytest.mark.parametrize(("family", "holds"), [
    ("wan2.1-14b", "umt5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"), ("wan2.1-1.3b", "umt5xxl.transformer.shared"),
    ("wan2.2-5b", "umt5xxl.transformer.shared"), ("ernie-image", "ministral3.model.layers.0.self_attn.q_proj"),
])  # fmt: skip
def test_text_encoders_without_networks_do_not_disturb(family: str, holds: str) -> None:
    model, text = reference(family), f"text_encoders.{holds}"
    live = from_live({**{f"model.{name}": info for name, info in model.layers.items()}, text: LayerInfo("Linear", (4096, 4096), False)})
    assert live.base.family == family and live.base.layers == model.layers and live.unknown == (text,)


def test_live_open_clip_behind_canonical_separate_projections() -> None:
    attn = "clip_g.transformer.transformer.resblocks.0.attn"
    joint = "diffusion_model.joint_blocks.0.x_block.attn.qkv"
    live = from_live({attn: LayerInfo("MultiheadAttention", (24, 8), True), joint: LayerInfo("Linear", (24, 8), True)})
    key = "clip_g.transformer.text_model.encoder.layers.0.self_attn.k_proj"
    assert live.base.layers[key] == LayerInfo("Linear", (8, 8), True)
    assert live.places[f"{key}.bias"] == (Piece(slice(0, 8), attn, "in_proj_bias", slice(8, 16)),)
    assert live.places[f"{key}.weight"] == (Piece(slice(0, 8), attn, "in_proj_weight", slice(8, 16)),)


@pytest.mark.slow
def test_bare_components() -> None:
    for family in FAMILIES:
        model = reference(family)
        unet = {n.partition(".")[2]: i for n, i in diffusers_names(model).items() if n.startswith(("unet.", "transformer.", "prior."))}
        live = from_live(unet)
        assert live.base.family == family and live.unknown == ()
        assert live.base.layers == {n: i for n, i in model.layers.items() if model.component_of(n).key == "unet"}
    for family, prefix in (("sd1", "text_encoder."), ("sd2", "text_encoder."), ("sdxl", "text_encoder_2.")):
        model = reference(family)
        text = {n[len(prefix) :]: i for n, i in diffusers_names(model).items() if n.startswith(prefix)}
        component = next(item for item in FAMILIES[family].components if f"{item.pipeline}." == prefix)
        expected = {n: i for n, i in model.layers.items() if n.startswith(component.prefix) and not n.startswith("diffusion")}
        assert from_live(text).base.layers == expected
    with pytest.raises(ModelMismatchError, match="name its family"):
        from_live({"layers.0.weight": LayerInfo("Linear", (4, 4), True)})


def live_layers(model) -> dict[str, LayerInfo]:
    """Describe the modules of a torch model, as a host does."""
    names = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None:
            names[name] = LayerInfo(type(module).__name__, tuple(weight.shape), getattr(module, "bias", None) is not None)
    return names


def small_unet(blocks: int, attention: tuple[int, ...], **options):
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(
            block_out_channels=[32 * 2 ** min(level, 2) for level in range(blocks)],
            down_block_types=["CrossAttnDownBlock2D" if i in attention else "DownBlock2D" for i in range(blocks)],
            up_block_types=["CrossAttnUpBlock2D" if i in attention else "UpBlock2D" for i in reversed(range(blocks))],
            norm_num_groups=8,
            **options,
        )


# The extra "app" brings diffusers; the other tests must run without it.
if find_spec("diffusers") and find_spec("transformers"):
    XL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64}
    LINEAR = {"use_linear_projection": True}
    UNETS = [
        ("sd1", 4, (0, 1, 2), {"cross_attention_dim": 768}),
        ("sd2", 4, (0, 1, 2), {"cross_attention_dim": 1024, **LINEAR}),
        ("sdxl", 3, (1, 2), {"cross_attention_dim": 2048, "transformer_layers_per_block": [1, 2, 10], **LINEAR, **XL}),
        ("sdxl-refiner", 4, (1, 2), {"cross_attention_dim": 1280, "transformer_layers_per_block": 4, **LINEAR, **XL}),
    ]

    @pytest.mark.oracle
    @pytest.mark.parametrize(("family", "blocks", "attention", "options"), UNETS)
    def test_a_real_diffusers_unet_has_exactly_our_modules(family, blocks, attention, options) -> None:
        names = live_layers(small_unet(blocks, attention, **options))
        live = from_live({f"unet.{name}": info for name, info in names.items()})
        ours = {name: info.kind for name, info in reference(family).layers.items() if name.startswith("diffusion_model.")}
        assert live.base.family == family and live.unknown == ()
        assert {name: info.kind for name, info in live.base.layers.items()} == ours
        assert from_live(names).base.layers == live.base.layers

    @pytest.mark.oracle
    @pytest.mark.parametrize(("family", "projection"), [("sd1", False), ("sd2", False), ("sdxl", True)])
    def test_a_real_text_encoder_has_exactly_our_modules(family, projection) -> None:
        import torch
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        width, count, key = {"sd1": (768, 12, "te1"), "sd2": (1024, 24, "te1"), "sdxl": (1280, 32, "te2")}[family]
        config = CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=count,
            num_attention_heads=8,
            projection_dim=width,
        )
        with torch.device("meta"):
            names = live_layers((CLIPTextModelWithProjection if projection else CLIPTextModel)(config))
        live = from_live(names)
        component = next(item for item in FAMILIES[family].components if item.key == key)
        ours = {n: i for n, i in reference(family).layers.items() if n.startswith(component.prefix) and not n.startswith("diffusion")}
        if not projection:
            ours.pop(f"{component.prefix}text_projection", None)
        assert live.unknown == () and live.base.layers == ours

    @pytest.mark.oracle
    def test_a_real_flux_transformer_has_exactly_our_modules() -> None:
        import torch
        from diffusers import FluxTransformer2DModel

        with torch.device("meta"):
            names = live_layers(FluxTransformer2DModel(guidance_embeds=True))
        live = from_live({f"transformer.{name}": info for name, info in names.items()})
        ours = {n: i.shape for n, i in reference("flux").layers.items() if n.startswith("diffusion_model.")}
        assert live.unknown == () and {n: i.shape for n, i in live.base.layers.items()} == ours

    @pytest.mark.oracle
    @pytest.mark.parametrize("variant", ["medium", "3.5-medium", "3.5-large"])
    def test_a_real_sd3_transformer_has_exactly_our_modules(variant: str) -> None:
        import torch
        from diffusers import SD3Transformer2DModel

        options = {
            "medium": {"num_layers": 24, "num_attention_heads": 24},
            "3.5-medium": {
                "num_layers": 24,
                "num_attention_heads": 24,
                "qk_norm": "rms_norm",
                "dual_attention_layers": tuple(range(13)),
            },
            "3.5-large": {"num_layers": 38, "num_attention_heads": 38, "qk_norm": "rms_norm"},
        }[variant]
        heads = options["num_attention_heads"]
        with torch.device("meta"):
            names = live_layers(SD3Transformer2DModel(caption_projection_dim=64 * heads, **options))
        live = from_live({f"transformer.{name}": info for name, info in names.items()})
        ours = {n: i.shape for n, i in reference("sd3", variant).layers.items() if n.startswith("diffusion_model.")}
        ours.pop("diffusion_model.pos_embed")
        assert live.unknown == () and {n: i.shape for n, i in live.base.layers.items()} == ours
