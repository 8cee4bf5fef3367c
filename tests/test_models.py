"""Names of base models: file keys, diffusers names, blocks, live models."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from lib_lycoris.errors import ModelMismatchError
from lib_lycoris.models import (
    FAMILIES,
    LAYOUTS,
    BaseModel,
    LayerInfo,
    Piece,
    base_model,
    block_of,
    detect_family,
    from_live,
    layout,
    parameter,
    reference,
    rows,
    sd3_layout,
    split_parameter,
    with_part,
)

CORPUS = Path(__file__).parent / "corpus" / "dev"
CASES = sorted(path.parent.name for path in CORPUS.glob("*/case.json"))
LDM = ("sd1", "sd2", "sdxl", "sdxl-refiner")
KINDS = {"lin": "Linear", "fused": "Linear", "conv": "Conv2d", "ln": "LayerNorm", "gn": "GroupNorm"}
PROCESSOR = ".processor.to_"


def header(path: Path) -> dict:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))


def case_of(name: str) -> dict:
    return json.loads((CORPUS / name / "case.json").read_text())


def case_model(case: dict) -> BaseModel:
    layers: dict[str, LayerInfo] = {}
    for info in case["modules"].values():
        name, shape = info["ldm_name"], tuple(info["shape"])
        fused = info.get("fused_target")
        if fused or name.endswith(".in_proj_weight"):
            name = (fused["name"] if fused else name).removesuffix(".in_proj_weight")
            shape = (3 * shape[0], shape[1]) if fused else shape
            layers[name] = LayerInfo("MultiheadAttention", shape, True)
        else:
            layers[name] = LayerInfo(KINDS[info["kind"]], shape, True)
    return base_model(case["arch"], layers)


@pytest.mark.parametrize("name", CASES)
def test_every_module_of_a_corpus_file_finds_its_layer(name: str) -> None:
    case = case_of(name)
    model = case_model(case)
    keys = [key for key in header(CORPUS / name / "network.safetensors") if key != "__metadata__"]
    for info in case["modules"].values():
        network_keys = info["network_key"] if isinstance(info["network_key"], list) else [info["network_key"]]
        covered: list[slice] = []
        for key in network_keys:
            assert any(item.startswith(key) for item in keys)
            found = model.find(key)
            assert found is not None, key
            module, leaf, part = split_parameter(parameter(found, "weight"))
            expected = (info.get("fused_target") or {"name": info["ldm_name"]})["name"]
            assert parameter(module, leaf).removesuffix(".weight") == expected
            covered += rows(part, model.layers[module].shape)
        if "fused_target" in info:
            assert covered == [slice(*info["fused_target"]["rows"])]


def test_the_corpus_is_there() -> None:
    assert len(CASES) == 73


# The tables are written as rules; these are the hashes of the same tables read off the real models' classes.
OFFICIAL = {
    "sd1": (490, "bf9e8661dc87337f"),
    "sd2": (535, "c4211db9b138444a"),
    "sdxl": (1341, "ab0dc34774df68ae"),
    "sdxl-refiner": (934, "1c7b78652d145669"),
}
NOT_IN_THE_OFFICIAL_TABLE = (".token_embedding", ".positional_embedding", ".ln_final", ".text_projection")


def table_hash(layers: dict[str, LayerInfo]) -> str:
    lines = sorted(f"{name} {info.kind} {list(info.shape)} {info.bias}" for name, info in layers.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("family", LDM)
def test_reference_tables_are_those_of_the_real_models(family: str) -> None:
    layers = reference(family).layers
    shared = {n: i for n, i in layers.items() if n.startswith("diffusion_model.") or not n.endswith(NOT_IN_THE_OFFICIAL_TABLE)}
    if family in ("sd1", "sdxl"):
        shared |= {n: i for n, i in layers.items() if "embeddings." in n}
    assert (len(shared), table_hash(shared)) == OFFICIAL[family]


@pytest.mark.parametrize(("family", "variant"), [("sd3", None), ("sd3", "3.5-medium"), ("sd3", "3.5-large"), ("flux", None), ("flux", "schnell")])
def test_transformers_have_the_published_number_of_parameters(family: str, variant: str | None) -> None:
    model = reference(family, variant)
    count = 0
    for name, info in model.layers.items():
        if name.startswith("diffusion_model."):
            size = 1
            for side in info.shape:
                size *= side
            count += size + (info.shape[0] if info.bias else 0)
    position = model.layers.get("diffusion_model.pos_embed")
    if position:
        count -= position.shape[1] * position.shape[2]
    millions = {None: {"sd3": 2028, "flux": 11901}[family], "3.5-medium": 2243, "3.5-large": 8057, "schnell": 11891}[variant]
    assert round(count / 1e6) == millions


def targets(model: BaseModel) -> list[tuple[str, str, str]]:
    """Give (target, diffusers name, kohya-style flat name) of every alias of every layer."""
    kohya = {item.pipeline: item.kohya for item in FAMILIES[model.family].components}
    found = []
    for module in model.layers:
        for alias in model.aliases(module):
            flat = f"{kohya[alias.component]}_{alias.path.replace('.', '_')}"
            found.append((with_part(module, alias.part), alias.name, flat))
    return found


ALL_MODELS = [*((family, None) for family in FAMILIES), ("sd3", "3.5-medium"), ("sd3", "3.5-large")]


@pytest.mark.parametrize(("family", "variant"), ALL_MODELS)
def test_every_alias_of_every_layer_comes_back_to_it_alone(family: str, variant: str | None) -> None:
    model = reference(family, variant)
    found = targets(model)
    assert {parameter_free(target) for target, _, _ in found} == set(model.layers)
    assert len({name for _, name, _ in found}) == len(found) == len({flat for _, _, flat in found})
    for target, name, flat in found:
        assert model.find(name) == target
        assert model.find(flat) == target
        assert model.find(f"base_model.model.{name}") == target
        assert model.name_in("diffusers", target) == name
    for module in model.layers:
        assert model.find(module) == module
        assert model.find(module.replace(".", "_")) == module
        if module.startswith("diffusion_model."):
            assert model.find(f"lora_unet_{module[16:].replace('.', '_')}") == module
            assert model.find(f"model.{module}") == module


def parameter_free(target: str) -> str:
    return target.partition("[")[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_name_in_writes_is_found_again(family: str) -> None:
    model = reference(family)
    for module in model.layers:
        for target in [module, *(with_part(module, alias.part) for alias in model.aliases(module))]:
            for style in ("kohya", "diffusers"):
                name = model.name_in(style, target)
                assert name is None or model.find(name) == target
        assert any(model.name_in(style, module) for style in ("kohya", "diffusers")) or model.aliases(module)[0].part


Q = "transformer_blocks.0.attn1.to_q"
SPELLINGS = [
    ("sd1", "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q", f"diffusion_model.input_blocks.1.1.{Q}"),
    ("sd1", "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", f"diffusion_model.input_blocks.1.1.{Q}"),
    ("sd1", f"down_blocks.0.attentions.0.{Q}", f"diffusion_model.input_blocks.1.1.{Q}"),
    ("sd1", f"base_model.model.unet.mid_block.attentions.0.{Q}", f"diffusion_model.middle_block.1.{Q}"),
    ("sd1", "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora", "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_out.0"),
    ("sd1", "mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0", "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_out.0"),
    ("sd1", "text_encoder.text_model.encoder.layers.3.self_attn.to_v_lora", "transformer.text_model.encoder.layers.3.self_attn.v_proj"),
    ("sd1", "lora_te1_text_model_encoder_layers_0_mlp_fc1", "transformer.text_model.encoder.layers.0.mlp.fc1"),
    ("sd1", "oft_te_text_model_encoder_layers_0_mlp_fc1", "transformer.text_model.encoder.layers.0.mlp.fc1"),
    ("sd1", "base_model.model.text_model.encoder.layers.0.mlp.fc1", "transformer.text_model.encoder.layers.0.mlp.fc1"),
    ("sd1", "text_encoder.encoder.layers.0.mlp.fc1", "transformer.text_model.encoder.layers.0.mlp.fc1"),
    ("sd1", "lora_te_text_model_embeddings_token_embedding", "transformer.text_model.embeddings.token_embedding"),
    ("sd1", "cond_stage_model.transformer.text_model.final_layer_norm", "transformer.text_model.final_layer_norm"),
    ("sd1", "lora_te2_text_model_encoder_layers_0_mlp_fc1", None),
    ("sd1", "lora_unet_up_blocks_0_upsamplers_0_conv", "diffusion_model.output_blocks.2.1.conv"),
    ("sd1", "lora_unet_output_blocks_2_2_conv", "diffusion_model.output_blocks.2.1.conv"),
    ("sd1", "lora_unet_up_blocks_1_upsamplers_0_conv", "diffusion_model.output_blocks.5.2.conv"),
    ("sd1", "lora_unet_output_blocks_5_1_conv", "diffusion_model.output_blocks.5.2.conv"),
    ("sd1", "lora_unet_conv_norm_out", "diffusion_model.out.0"),
    ("sd1", "lora_unet_time_embedding_linear_1", "diffusion_model.time_embed.0"),
    ("sd1", "lora_unet_add_embedding_linear_1", None),
    ("sd1", "lora_unet_text_model_encoder_layers_0_mlp_fc1", None),
    ("sd2", "lora_te_text_model_encoder_layers_23_self_attn_k_proj", "model.transformer.resblocks.23.attn[k]"),
    ("sd2", "lora_te_text_model_final_layer_norm", "model.ln_final"),
    ("sdxl", "lora_unet_up_blocks_0_upsamplers_0_conv", "diffusion_model.output_blocks.2.2.conv"),
    ("sdxl", "lora_unet_output_blocks_2_1_conv", "diffusion_model.output_blocks.2.2.conv"),
    ("sdxl", "lora_te_text_model_encoder_layers_0_mlp_fc1", "0.transformer.text_model.encoder.layers.0.mlp.fc1"),
    ("sdxl", "lora_te1_text_model_encoder_layers_12_mlp_fc1", None),
    ("sdxl", "lycoris_text_model_encoder_layers_12_mlp_fc1", "1.model.transformer.resblocks.12.mlp.c_fc"),
    ("sdxl", "lora_te2_text_projection", "1.model.text_projection[T]"),
    ("sdxl", "text_encoder_2.text_projection", "1.model.text_projection[T]"),
    ("sdxl", "conditioner.embedders.1.model.text_projection", "1.model.text_projection"),
    ("sdxl", "lora_te2_transformer_resblocks_8_attn_in_proj", "1.model.transformer.resblocks.8.attn"),
    ("sdxl", "1.model.transformer.resblocks.8.attn.q_proj", "1.model.transformer.resblocks.8.attn[q]"),
    ("sdxl", "text_encoders.clip_g.transformer.text_model.encoder.layers.8.mlp.fc2", "1.model.transformer.resblocks.8.mlp.c_proj"),
    ("sdxl", "lora_unet_add_embedding_linear_2", "diffusion_model.label_emb.0.2"),
    ("sdxl-refiner", "lora_te2_text_model_encoder_layers_0_mlp_fc1", "0.model.transformer.resblocks.0.mlp.c_fc"),
    ("sdxl-refiner", "lora_te_text_model_encoder_layers_31_self_attn_v_proj", "0.model.transformer.resblocks.31.attn[v]"),
    ("sdxl-refiner", "lora_te1_text_model_encoder_layers_0_mlp_fc1", None),
    ("sdxl-refiner", "lora_unet_up_blocks_0_upsamplers_0_conv", "diffusion_model.output_blocks.2.1.conv"),
    ("sd3", "transformer.transformer_blocks.0.attn.add_v_proj", "diffusion_model.joint_blocks.0.context_block.attn.qkv[v]"),
    ("sd3", "lora_transformer_transformer_blocks_0_attn_to_add_out", "diffusion_model.joint_blocks.0.context_block.attn.proj"),
    ("sd3", "transformer.transformer_blocks.23.norm1_context.linear", "diffusion_model.joint_blocks.23.context_block.adaLN_modulation.1[swap]"),
    ("sd3", "transformer.transformer_blocks.22.norm1_context.linear", "diffusion_model.joint_blocks.22.context_block.adaLN_modulation.1"),
    ("sd3", "lora_te2_text_model_encoder_layers_0_self_attn_q_proj", "clip_g.transformer.text_model.encoder.layers.0.self_attn.q_proj"),
    ("sd3", "lora_te3_encoder_block_0_layer_0_SelfAttention_q", "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"),
    ("flux", "lora_te2_encoder_block_0_layer_0_SelfAttention_q", "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"),
    ("flux", "lora_te3_encoder_block_0_layer_0_SelfAttention_q", "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"),
    ("flux", "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q", "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"),
    ("flux", "lora_te2_text_model_encoder_layers_0_mlp_fc1", None),
    ("flux", "lycoris_transformer_blocks_0_attn_to_q", "diffusion_model.double_blocks.0.img_attn.qkv[q]"),
    ("flux", "lycoris_single_transformer_blocks_0_proj_mlp", "diffusion_model.single_blocks.0.linear1[mlp]"),
    ("flux", "transformer.single_transformer_blocks.0.norm.linear", "diffusion_model.single_blocks.0.modulation.lin"),
    ("flux", "diffusion_model.transformer_blocks.0.attn.to_add_out", "diffusion_model.double_blocks.0.txt_attn.proj"),
    ("flux", "lora_transformer_time_text_embed_guidance_embedder_linear_1", "diffusion_model.guidance_in.in_layer"),
    ("flux", "transformer.norm_out.linear", "diffusion_model.final_layer.adaLN_modulation.1[swap]"),
    ("flux", "transformer.x_embedder", "diffusion_model.img_in"),
    ("flux", "transformer.transformer_blocks.19.attn.to_q", None),
]


@pytest.mark.parametrize(("family", "written", "expected"), SPELLINGS)
def test_spellings_in_the_wild(family: str, written: str, expected: str | None) -> None:
    assert reference(family).find(written) == expected


def test_a_module_that_the_model_lacks_is_not_found() -> None:
    small = base_model("sd1", {f"diffusion_model.middle_block.1.{Q}": LayerInfo("Linear", (8, 8), False)})
    assert small.find(f"unet.mid_block.attentions.0.{Q}") == f"diffusion_model.middle_block.1.{Q}"
    assert small.find("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k") is None
    assert small.find("") is None and small.find("nonsense") is None
    with pytest.raises(ValueError, match="not a known family"):
        base_model("sd9", {})


PARAMETERS = [
    ("a.b.qkv[q]", "weight", "a.b.qkv.weight[q]"),
    ("a.b.qkv[q]", "bias", "a.b.qkv.bias[q]"),
    ("1.model.transformer.resblocks.8.attn[q]", "weight", "1.model.transformer.resblocks.8.attn.in_proj_weight[q]"),
    ("1.model.transformer.resblocks.8.attn", "bias", "1.model.transformer.resblocks.8.attn.in_proj_bias"),
    ("1.model.transformer.resblocks.8.attn.out_proj", "weight", "1.model.transformer.resblocks.8.attn.out_proj.weight"),
    ("diffusion_model.joint_blocks.0.x_block.attn.qkv", "weight", "diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"),
    ("1.model.text_projection[T]", "weight", "1.model.text_projection[T]"),
    ("clip_g.transformer.text_projection", "weight", "clip_g.transformer.text_projection.weight"),
    ("diffusion_model.single_blocks.0.norm.query_norm", "weight", "diffusion_model.single_blocks.0.norm.query_norm.scale"),
]


@pytest.mark.parametrize(("target", "leaf", "name"), PARAMETERS)
def test_parameter_names(target: str, leaf: str, name: str) -> None:
    assert parameter(target, leaf) == name
    module, role, part = split_parameter(name)
    assert (with_part(module, part), role) == (target, leaf)


def test_rows_of_parts() -> None:
    assert rows(None, (12, 4)) == rows("T", (12, 4)) == (slice(0, 12),)
    assert [rows(part, (12, 4)) for part in "qkv"] == [(slice(0, 4),), (slice(4, 8),), (slice(8, 12),)]
    assert rows("mlp", (28, 4)) == (slice(12, 28),)
    assert rows("swap", (8, 4)) == (slice(4, 8), slice(0, 4))
    with pytest.raises(ValueError, match="not a part"):
        rows("o", (12, 4))


def attention_blocks(family: str) -> Counter[str | None]:
    """Count the attention and feed-forward modules (what LierLa trains) of each block."""
    model = reference(family)
    found: Counter[str | None] = Counter()
    for name, info in model.layers.items():
        inside = ".transformer_blocks." in name or name.endswith((".proj_in", ".proj_out")) or not name.startswith("diffusion_model")
        if inside and info.kind in ("Linear", "Conv2d", "MultiheadAttention"):
            found[block_of(name, family)] += 3 if info.kind == "MultiheadAttention" else 1
    return found


def test_blocks_of_sd1_and_sd2() -> None:
    for family, text in (("sd1", 72), ("sd2", 144)):
        found = attention_blocks(family)
        assert found.pop("BASE") == text
        assert found == dict.fromkeys(LAYOUTS[17][1:], 12) and found.total() == 192


def test_blocks_of_sdxl() -> None:
    found = attention_blocks("sdxl")
    assert found.pop("BASE") == 72 + 192
    shallow = ("IN04", "IN05", "OUT03", "OUT04", "OUT05")
    assert found == {name: 22 if name in shallow else 102 for name in LAYOUTS[12][1:]} and found.total() == 722


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layout_of_a_family_is_what_its_layers_use(family: str) -> None:
    model = reference(family)
    used = {block_of(parameter(name, "weight"), family) for name in model.layers}
    outside = {name.split(".")[1] for name in model.layers if block_of(name, family) is None}
    assert used - {None} == set(layout(family))
    assert outside == ({"time_embed", "out"} | ({"label_emb"} if "xl" in family else set()) if family in LDM else set())


def test_block_counts_of_flux_and_sd3() -> None:
    found = Counter(block_of(name, "flux") for name in reference("flux").layers)
    assert {name: found[name] for name in ("D00", "D18", "S00", "S37", "IN", "OUT")} == {"D00": 14, "D18": 14, "S00": 5, "S37": 5, "IN": 8, "OUT": 2}
    found = Counter(block_of(name, "sd3") for name in reference("sd3").layers)
    assert {name: found[name] for name in ("J00", "J23", "IN", "OUT")} == {"J00": 10, "J23": 7, "IN": 7, "OUT": 2}
    assert block_of("diffusion_model.pos_embed", "sd3") == "IN" and block_of("vae.decoder", "flux") is None


def test_layouts() -> None:
    assert {count: len(names) for count, names in LAYOUTS.items()} == {count: count for count in (12, 17, 20, 26, 61)}
    assert " ".join(LAYOUTS[12]) == "BASE IN04 IN05 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05"
    assert " ".join(LAYOUTS[17][:8]) == "BASE IN01 IN02 IN04 IN05 IN07 IN08 M00"
    assert LAYOUTS[17][8:] == tuple(f"OUT{number:02d}" for number in range(3, 12))
    assert LAYOUTS[61][:4] == ("CLIP", "T5", "IN", "D00") and LAYOUTS[61][-2:] == ("S37", "OUT")
    assert len(sd3_layout()) == 29 and len(sd3_layout(38)) == 43 and sd3_layout()[:5] == ("CLIPL", "CLIPG", "T5", "IN", "J00")


def diffusers_names(model: BaseModel) -> dict[str, LayerInfo]:
    """Give the modules that diffusers and transformers have for a model."""
    names: dict[str, LayerInfo] = {}
    for module, info in model.layers.items():
        for alias in model.aliases(module):
            kind, shape, bias = info.kind, info.shape, info.bias
            if alias.part in ("q", "k", "v", "mlp"):
                (part,) = rows(alias.part, shape)
                kind, shape = "Linear", (part.stop - part.start, *shape[1:])
            if alias.part == "T":
                kind, shape = "Linear", shape[::-1]
            if alias.path.endswith("position_embedding"):
                kind = "Embedding"
            names[alias.name] = LayerInfo(kind, shape, bias)
    return names


@pytest.mark.parametrize(("family", "variant"), ALL_MODELS)
def test_live_names_in_ldm_style(family: str, variant: str | None) -> None:
    model = reference(family, variant)
    live = from_live(model.layers)
    assert live.base.family == family and live.base.layers == model.layers and live.unknown == ()
    name = next(iter(model.layers))
    count = model.layers[name].shape[0]
    module, _, leaf = parameter(name, "weight").rpartition(".")
    assert live.places[parameter(name, "weight")] == (Piece(slice(0, count), module, leaf, slice(0, count)),)


@pytest.mark.parametrize(("family", "variant"), ALL_MODELS)
def test_live_names_in_diffusers_style_are_the_same_set(family: str, variant: str | None) -> None:
    model = reference(family, variant)
    ldm, live = from_live(model.layers), from_live(diffusers_names(model))
    assert live.base.family == family and live.unknown == ()
    assert live.base.layers == model.layers
    assert live.places.keys() == ldm.places.keys()
    for name, pieces in live.places.items():
        covered = [row for piece in pieces for row in range(piece.rows.start, piece.rows.stop)]
        module, _, _ = split_parameter(name)
        assert covered == list(range(model.layers[module].shape[0])), name


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
    assert [piece.module.rpartition(".")[2] for piece in sdxl["1.model.transformer.resblocks.0.attn.in_proj_bias"]] == ["q_proj", "k_proj", "v_proj"]


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
    assert (piece.module, piece.leaf) == ("conditioner.embedders.1.wrapped.model.transformer.resblocks.0.attn", "in_proj_weight")


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


def test_live_open_clip_behind_canonical_separate_projections() -> None:
    attn = "clip_g.transformer.transformer.resblocks.0.attn"
    joint = "diffusion_model.joint_blocks.0.x_block.attn.qkv"
    live = from_live({attn: LayerInfo("MultiheadAttention", (24, 8), True), joint: LayerInfo("Linear", (24, 8), True)})
    key = "clip_g.transformer.text_model.encoder.layers.0.self_attn.k_proj"
    assert live.base.layers[key] == LayerInfo("Linear", (8, 8), True)
    assert live.places[f"{key}.bias"] == (Piece(slice(0, 8), attn, "in_proj_bias", slice(8, 16)),)
    assert live.places[f"{key}.weight"] == (Piece(slice(0, 8), attn, "in_proj_weight", slice(8, 16)),)


def test_bare_components() -> None:
    for family in FAMILIES:
        model = reference(family)
        unet = {n.partition(".")[2]: i for n, i in diffusers_names(model).items() if n.startswith(("unet.", "transformer."))}
        live = from_live(unet)
        assert live.base.family == family and live.unknown == ()
        assert live.base.layers == {n: i for n, i in model.layers.items() if n.startswith("diffusion_model.")}
    for family, prefix in (("sd1", "text_encoder."), ("sd2", "text_encoder."), ("sdxl", "text_encoder_2.")):
        model = reference(family)
        text = {n[len(prefix) :]: i for n, i in diffusers_names(model).items() if n.startswith(prefix)}
        component = next(item for item in FAMILIES[family].components if f"{item.pipeline}." == prefix)
        expected = {n: i for n, i in model.layers.items() if n.startswith(component.prefix) and not n.startswith("diffusion")}
        assert from_live(text).base.layers == expected
    with pytest.raises(ModelMismatchError, match="name the family"):
        from_live({"layers.0.weight": LayerInfo("Linear", (4, 4), True)})


def lora(width: int, *, conv: bool = False) -> dict[str, tuple[int, ...]]:
    kernel = (1, 1) if conv else ()
    return {"lora_down.weight": (4, width, *kernel), "lora_up.weight": (8, 4, *kernel), "alpha": ()}


U = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
DETECTED = [
    ({U: lora(768)}, {}, "sd1"),
    ({U: lora(1024)}, {}, "sd2"),
    ({U: lora(1280)}, {}, "sdxl-refiner"),
    ({U: lora(2048)}, {"ss_base_model_version": "sd_v1"}, "sdxl"),
    ({U: {"hada_w1_a": (320, 4), "hada_w1_b": (4, 768)}}, {}, "sd1"),
    ({U: {"lokr_w1": (8, 8), "lokr_w2_a": (40, 4), "lokr_w2_b": (4, 256)}}, {}, "sdxl"),
    ({U: {"a1.weight": (1024, 4), "a2.weight": (4, 1024)}}, {}, "sd2"),
    ({U: {"diff": (320, 768)}}, {}, "sd1"),
    ({"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v": {"lora_A.weight": (4, 2048)}}, {}, "sdxl"),
    ({U: {"oft_blocks": (4, 8, 8)}}, {}, None),
    ({U: {"oft_blocks": (4, 8, 8)}}, {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
    ({U: {"oft_blocks": (4, 8, 8)}}, {"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "sd2"),
    ({U: {"oft_blocks": (4, 8, 8)}}, {"ss_v2": "True"}, "sd2"),
    ({"lora_te2_text_model_encoder_layers_0_mlp_fc1": lora(1280)}, {}, "sdxl"),
    ({"lora_te_text_model_encoder_layers_0_mlp_fc1": lora(768)}, {}, "sd1"),
    ({"lora_te1_text_model_encoder_layers_0_mlp_fc1": lora(768)}, {}, None),
    ({"lora_te_text_model_encoder_layers_0_mlp_fc1": lora(1024)}, {}, "sd2"),
    ({"lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q": lora(640)}, {}, "sdxl"),
    ({"lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q": lora(768)}, {}, "sdxl-refiner"),
    ({"lora_unet_joint_blocks_3_x_block_attn_qkv": lora(1536)}, {}, "sd3"),
    ({"transformer.transformer_blocks.3.attn.add_q_proj": lora(1536)}, {}, "sd3"),
    ({"transformer.transformer_blocks.3.attn.add_q_proj": lora(3072)}, {}, "flux"),
    ({"lora_unet_double_blocks_3_img_attn_qkv": lora(3072)}, {}, "flux"),
    ({"transformer.single_transformer_blocks.3.proj_out": lora(15360)}, {}, "flux"),
    ({"transformer.transformer_blocks.3.img_mlp.net.2": lora(12288)}, {}, None),
    ({"lora_te3_encoder_block_0_layer_0_SelfAttention_q": lora(4096)}, {"ss_base_model_version": "flux1"}, "flux"),
    ({"lora_te3_encoder_block_0_layer_0_SelfAttention_q": lora(4096)}, {}, None),
    ({}, {}, None),
]


@pytest.mark.parametrize(("modules", "metadata", "family"), DETECTED)
def test_detection(modules: dict, metadata: dict, family: str | None) -> None:
    assert detect_family(modules, metadata) == family


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("style", ["kohya", "diffusers"])
def test_a_whole_network_is_detected_without_metadata(family: str, style: str) -> None:
    model = reference(family)
    modules = {}
    for module, info in model.layers.items():
        name = model.name_in(style, module)
        if name and info.kind in ("Linear", "Conv2d"):
            modules[name] = {"lora_down.weight": (4, *info.shape[1:]), "lora_up.weight": (info.shape[0], 4)}
    assert detect_family(modules, {}) == family
    unet = {name: shapes for name, shapes in modules.items() if name.startswith(("lora_unet", "unet.", "transformer."))}
    assert detect_family(unet, {}) == family
    rotations = {name: {"oft_blocks": (4, 8, 8)} for name in modules}
    assert detect_family(rotations, {"modelspec.architecture": "stable-diffusion-v1"}) == family


def case_modules(name: str) -> dict[str, dict[str, tuple[int, ...]]]:
    case, found = case_of(name), {}
    tensors = header(CORPUS / name / "network.safetensors")
    for info in case["modules"].values():
        for key in info["network_key"] if isinstance(info["network_key"], list) else [info["network_key"]]:
            inside = {n[len(key) + 1 :]: tuple(t["shape"]) for n, t in tensors.items() if n.startswith(f"{key}.")}
            found[key] = inside
    return found


@pytest.mark.parametrize("name", CASES)
def test_corpus_files_are_never_taken_for_another_family(name: str) -> None:
    metadata = header(CORPUS / name / "network.safetensors").get("__metadata__", {})
    found = detect_family(case_modules(name), metadata)
    told = "ss_base_model_version" in metadata or "modelspec.architecture" in metadata or name.startswith(("naming_sdxl", "naming_sd3", "naming_flux", "flux"))
    assert found == case_of(name)["arch"] if told else found in (None, case_of(name)["arch"])


def test_index_is_quick() -> None:
    reference("sdxl")
    start = time.perf_counter()
    model = base_model("sdxl", reference("sdxl").layers)
    model.find("lora_unet_conv_in")
    assert time.perf_counter() - start < 0.05
    start = time.perf_counter()
    for number in range(10_000):
        model.find(f"lora_te2_text_model_encoder_layers_{number % 32}_mlp_fc1")
    assert time.perf_counter() - start < 1.0


def test_import_reads_no_table_and_no_torch() -> None:
    code = (
        "import sys; import lib_lycoris.models as m; assert 'torch' not in sys.modules; "
        "assert m.reference.cache_info().currsize == 0"
    )
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


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

    @pytest.mark.parametrize(("family", "blocks", "attention", "options"), UNETS)
    def test_a_real_diffusers_unet_has_exactly_our_modules(family, blocks, attention, options) -> None:
        names = live_layers(small_unet(blocks, attention, **options))
        live = from_live({f"unet.{name}": info for name, info in names.items()})
        ours = {name: info.kind for name, info in reference(family).layers.items() if name.startswith("diffusion_model.")}
        assert live.base.family == family and live.unknown == ()
        assert {name: info.kind for name, info in live.base.layers.items()} == ours
        assert from_live(names).base.layers == live.base.layers

    @pytest.mark.parametrize(("family", "projection"), [("sd1", False), ("sd2", False), ("sdxl", True)])
    def test_a_real_text_encoder_has_exactly_our_modules(family, projection) -> None:
        import torch
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        width, count, key = {"sd1": (768, 12, "te1"), "sd2": (1024, 24, "te1"), "sdxl": (1280, 32, "te2")}[family]
        config = CLIPTextConfig(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=count, num_attention_heads=8, projection_dim=width
        )
        with torch.device("meta"):
            names = live_layers((CLIPTextModelWithProjection if projection else CLIPTextModel)(config))
        live = from_live(names)
        component = next(item for item in FAMILIES[family].components if item.key == key)
        ours = {n: i for n, i in reference(family).layers.items() if n.startswith(component.prefix) and not n.startswith("diffusion")}
        if not projection:
            ours.pop(f"{component.prefix}text_projection", None)
        assert live.unknown == () and live.base.layers == ours

    def test_a_real_flux_transformer_has_exactly_our_modules() -> None:
        import torch
        from diffusers import FluxTransformer2DModel

        with torch.device("meta"):
            names = live_layers(FluxTransformer2DModel(guidance_embeds=True))
        live = from_live({f"transformer.{name}": info for name, info in names.items()})
        ours = {n: i.shape for n, i in reference("flux").layers.items() if n.startswith("diffusion_model.")}
        assert live.unknown == () and {n: i.shape for n, i in live.base.layers.items()} == ours

    @pytest.mark.parametrize("variant", ["medium", "3.5-medium", "3.5-large"])
    def test_a_real_sd3_transformer_has_exactly_our_modules(variant: str) -> None:
        import torch
        from diffusers import SD3Transformer2DModel

        options = {
            "medium": {"num_layers": 24, "num_attention_heads": 24},
            "3.5-medium": {"num_layers": 24, "num_attention_heads": 24, "qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13))},
            "3.5-large": {"num_layers": 38, "num_attention_heads": 38, "qk_norm": "rms_norm"},
        }[variant]
        heads = options["num_attention_heads"]
        with torch.device("meta"):
            names = live_layers(SD3Transformer2DModel(caption_projection_dim=64 * heads, **options))
        live = from_live({f"transformer.{name}": info for name, info in names.items()})
        ours = {n: i.shape for n, i in reference("sd3", variant).layers.items() if n.startswith("diffusion_model.")}
        ours.pop("diffusion_model.pos_embed")
        assert live.unknown == () and {n: i.shape for n, i in live.base.layers.items()} == ours
