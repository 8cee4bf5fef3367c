"""Spellings of module names found in the wild, and the names of parameters."""

from __future__ import annotations

import pytest

from lib_lycoris.models import LayerInfo, base_model, parameter, reference, rows, split_parameter, with_part

Q = "transformer_blocks.0.attn1.to_q"
SPELLINGS = [
    ("sd1", "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q", f"diffusion_model.input_blocks.1.1.{Q}"),
    (
        "sd1",
        "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        f"diffusion_model.input_blocks.1.1.{Q}",
    ),
    ("sd1", f"down_blocks.0.attentions.0.{Q}", f"diffusion_model.input_blocks.1.1.{Q}"),
    ("sd1", f"base_model.model.unet.mid_block.attentions.0.{Q}", f"diffusion_model.middle_block.1.{Q}"),
    (
        "sd1",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora",
        "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_out.0",
    ),
    (
        "sd1",
        "mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0",
        "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_out.0",
    ),
    (
        "sd1",
        "text_encoder.text_model.encoder.layers.3.self_attn.to_v_lora",
        "transformer.text_model.encoder.layers.3.self_attn.v_proj",
    ),
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
    (
        "sdxl",
        "text_encoders.clip_g.transformer.text_model.encoder.layers.8.mlp.fc2",
        "1.model.transformer.resblocks.8.mlp.c_proj",
    ),
    ("sdxl", "lora_unet_add_embedding_linear_2", "diffusion_model.label_emb.0.2"),
    ("sdxl-refiner", "lora_te2_text_model_encoder_layers_0_mlp_fc1", "0.model.transformer.resblocks.0.mlp.c_fc"),
    (
        "sdxl-refiner",
        "lora_te_text_model_encoder_layers_31_self_attn_v_proj",
        "0.model.transformer.resblocks.31.attn[v]",
    ),
    ("sdxl-refiner", "lora_te1_text_model_encoder_layers_0_mlp_fc1", None),
    ("sdxl-refiner", "lora_unet_up_blocks_0_upsamplers_0_conv", "diffusion_model.output_blocks.2.1.conv"),
    (
        "sd3",
        "transformer.transformer_blocks.0.attn.add_v_proj",
        "diffusion_model.joint_blocks.0.context_block.attn.qkv[v]",
    ),
    (
        "sd3",
        "lora_transformer_transformer_blocks_0_attn_to_add_out",
        "diffusion_model.joint_blocks.0.context_block.attn.proj",
    ),
    (
        "sd3",
        "transformer.transformer_blocks.23.norm1_context.linear",
        "diffusion_model.joint_blocks.23.context_block.adaLN_modulation.1[swap]",
    ),
    (
        "sd3",
        "transformer.transformer_blocks.22.norm1_context.linear",
        "diffusion_model.joint_blocks.22.context_block.adaLN_modulation.1",
    ),
    (
        "sd3",
        "lora_te2_text_model_encoder_layers_0_self_attn_q_proj",
        "clip_g.transformer.text_model.encoder.layers.0.self_attn.q_proj",
    ),
    (
        "sd3",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
        "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q",
    ),
    (
        "flux",
        "lora_te2_encoder_block_0_layer_0_SelfAttention_q",
        "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q",
    ),
    (
        "flux",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
        "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q",
    ),
    (
        "flux",
        "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q",
        "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q",
    ),
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


def test_a_bare_name_lists_every_text_encoder_that_it_can_mean() -> None:
    first, second = reference("sdxl").find_all("lycoris_text_model_encoder_layers_11_self_attn_q_proj")
    assert first == "0.transformer.text_model.encoder.layers.11.self_attn.q_proj"
    assert second == "1.model.transformer.resblocks.11.attn[q]"
    assert reference("sdxl").find_all("lora_te2_text_model_encoder_layers_11_mlp_fc1") == ("1.model.transformer.resblocks.11.mlp.c_fc",)


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
    (
        "diffusion_model.joint_blocks.0.x_block.attn.qkv",
        "weight",
        "diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",
    ),
    ("1.model.text_projection[T]", "weight", "1.model.text_projection[T]"),
    ("clip_g.transformer.text_projection", "weight", "clip_g.transformer.text_projection.weight"),
    (
        "diffusion_model.single_blocks.0.norm.query_norm",
        "weight",
        "diffusion_model.single_blocks.0.norm.query_norm.scale",
    ),
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
