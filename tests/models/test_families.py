"""Block ids of base models, and which family a file was made for."""

from __future__ import annotations

from collections import Counter

import pytest

from lib_lycoris.models import FAMILIES, LAYOUTS, block_of, detect_family, layout, parameter, recognise, reference

LDM = ("sd1", "sd2", "sdxl", "sdxl-refiner")


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
    assert used - {None} == set(layout(family)), "Blocks(last=...) names what is OUT, Blocks(sections) what has a number"
    assert outside == ({"time_embed", "out"} | ({"label_emb"} if "xl" in family else set()) if family in LDM else set())


def test_block_counts_of_flux_and_sd3() -> None:
    found = Counter(block_of(name, "flux") for name in reference("flux").layers)
    assert {name: found[name] for name in ("D00", "D18", "S00", "S37", "IN", "OUT")} == {
        "D00": 14,
        "D18": 14,
        "S00": 5,
        "S37": 5,
        "IN": 8,
        "OUT": 2,
    }
    found = Counter(block_of(name, "sd3") for name in reference("sd3").layers)
    assert {name: found[name] for name in ("J00", "J23", "IN", "OUT")} == {"J00": 10, "J23": 7, "IN": 7, "OUT": 2}
    assert block_of("diffusion_model.pos_embed", "sd3") == "IN" and block_of("vae.decoder", "flux") is None


def test_layouts() -> None:
    assert {count: len(names) for count, names in LAYOUTS.items()} == {count: count for count in (12, 17, 20, 26, 61)}
    assert " ".join(LAYOUTS[12]) == "BASE IN04 IN05 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05"
    assert " ".join(LAYOUTS[17][:8]) == "BASE IN01 IN02 IN04 IN05 IN07 IN08 M00"
    assert LAYOUTS[17][8:] == tuple(f"OUT{number:02d}" for number in range(3, 12))
    assert LAYOUTS[61][:4] == ("CLIP", "T5", "IN", "D00") and LAYOUTS[61][-2:] == ("S37", "OUT")
    assert len(layout("sd3")) == 29 and len(layout("sd3", "3.5-large")) == 43 and layout("sd3")[:5] == ("CLIPL", "CLIPG", "T5", "IN", "J00")


def lora(width: int, *, conv: bool = False) -> dict[str, tuple[int, ...]]:
    kernel = (1, 1) if conv else ()
    return {"lora_down.weight": (4, width, *kernel), "alpha": ()}


U = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
DETECTED = [
    ({U: lora(768)}, {}, "sd1"),
    ({U: lora(1024)}, {}, "sd2"),
    ({U: lora(1280)}, {}, "sdxl-refiner"),
    ({U: lora(2048)}, {"ss_base_model_version": "sd_v1"}, "sdxl"),
    ({U: {"hada_w1_a": (640, 4), "hada_w1_b": (4, 768)}}, {}, "sd1"),
    ({U: {"lokr_w1": (8, 8), "lokr_w2_a": (80, 4), "lokr_w2_b": (4, 256)}}, {}, "sdxl"),
    ({U: {"a1.weight": (1024, 4), "a2.weight": (4, 1024)}}, {}, "sd2"),
    ({U: {"diff": (640, 768)}}, {}, "sd1"),
    ({"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v": {"lora_A.weight": (4, 2048)}}, {}, "sdxl"),
    ({U: {"oft_blocks": (4, 8, 8)}}, {}, "sd1"),
    ({U: {"oft_blocks": (4, 8, 8)}}, {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
    ({U: {"oft_blocks": (4, 8, 8)}}, {"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "sd2"),
    ({U: {"oft_blocks": (4, 8, 8)}}, {"ss_v2": "True"}, "sd2"),
    ({"lora_te2_text_model_encoder_layers_0_mlp_fc1": lora(1280)}, {}, "sdxl"),
    ({"lora_te_text_model_encoder_layers_0_mlp_fc1": lora(768)}, {}, "sd1"),
    ({"lora_te1_text_model_encoder_layers_0_mlp_fc1": lora(768)}, {}, "sd1"),
    ({"lora_te_text_model_encoder_layers_0_mlp_fc1": lora(1024)}, {}, "sd2"),
    ({"lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q": lora(640)}, {}, "sdxl"),
    ({"lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q": lora(768)}, {}, "sdxl-refiner"),
    ({"lora_unet_joint_blocks_3_x_block_attn_qkv": lora(1536)}, {}, "sd3"),
    ({"transformer.transformer_blocks.3.attn.add_q_proj": lora(1536)}, {}, "sd3"),
    ({"transformer.transformer_blocks.3.attn.add_q_proj": lora(3072)}, {}, "flux"),
    ({"lora_unet_double_blocks_3_img_attn_qkv": lora(3072)}, {}, "flux"),
    ({"transformer.single_transformer_blocks.3.proj_out": lora(15360)}, {}, "flux"),
    ({"transformer.transformer_blocks.3.img_mlp.net.2": lora(12288)}, {}, "qwen-image"),
    ({"lora_te3_encoder_block_0_layer_0_SelfAttention_q": lora(4096)}, {"ss_base_model_version": "flux1"}, "flux"),
    ({"lora_te3_encoder_block_0_layer_0_SelfAttention_q": lora(4096)}, {}, "flux"),
    ({"lora_te2_text_model_encoder_layers_0_mlp_fc1": lora(1280)}, {"ss_base_model_version": "sd3m"}, "sd3"),
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
    unet = {name: shapes for name, shapes in modules.items() if name.startswith(("lora_unet", "unet.", "transformer.", "prior."))}
    assert detect_family(unet, {}) == family
    rotations = {name: {"oft_blocks": (4, 8, 8)} for name in modules}
    found = recognise(rotations, {"modelspec.architecture": "stable-diffusion-v1"})
    assert family in found.candidates and (family == "sd1" or "Stable Diffusion 1.x, whose layers it does not have" in found.reason)
