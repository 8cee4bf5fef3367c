"""A real diffusers UNet and text encoder: what a network changes shows, and taking it off leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

import lib_lycoris
from lib_lycoris import Activation, Patcher, load
from lib_lycoris.errors import LycorisError
from lib_lycoris.networks.writer import save
from tests.samples import builders
from tests.tiny_model import MODES

UNITS = (32, 64, 64, 64)


def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=UNITS, cross_attention_dim=48, attention_head_dim=4, norm_num_groups=8, layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    ).eval()  # fmt: skip


def text_encoder() -> CLIPTextModel:
    torch.manual_seed(1)
    config = CLIPTextConfig(
        vocab_size=99, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=16
    )
    return CLIPTextModel(config).eval()


@pytest.fixture(scope="module")
def model() -> dict[str, nn.Module]:
    return {"unet": unet(), "text_encoder": text_encoder()}


def run(model: dict[str, nn.Module]) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    words = model["text_encoder"](torch.arange(16)[None] % 99).last_hidden_state
    return model["unet"](torch.randn(1, 4, 16, 16, generator=generator), 500, encoder_hidden_states=words).sample  # type: ignore[no-any-return]


def write(path: Path, patcher: Patcher, algorithm: str, kinds: tuple[str, ...] = ("Linear", "Conv2d", "LayerNorm", "GroupNorm")) -> Path:
    """Write an algorithm over every layer of the live model that it can change, under kohya's names for it."""
    generator = torch.Generator().manual_seed(9)
    tensors = {}
    for module, info in patcher.base.layers.items():
        kind = {"Linear": "linear", "Conv2d": "convolution", "LayerNorm": "norm", "GroupNorm": "group"}.get(info.kind, "")
        name = patcher.base.name_in("kohya", module)
        if info.kind not in kinds or not kind or name is None or algorithm not in builders(kind) or min(info.shape[:2]) < 8:
            continue
        made = builders(kind)[algorithm](generator, info.shape)
        tensors.update({f"{name}.{suffix}": tensor * 0.5 if tensor.dim() else tensor for suffix, tensor in made.items()})
    save(path, tensors)
    return path


@torch.no_grad()
@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr", "glora", "full", "norm", "ia3_in", "oft", "boft", "peft_oft", "tlora"])
def test_a_network_changes_the_output_and_restoring_gives_the_same_bits(
    algorithm: str, model: dict[str, nn.Module], tmp_path: Path
) -> None:
    base = run(model)
    before = {f"{part}.{name}": value.clone() for part, module in model.items() for name, value in module.state_dict().items()}
    patcher = Patcher(model, "sd1")
    network = load(write(tmp_path / f"{algorithm}.safetensors", patcher, algorithm), patcher.base)
    assert not network.skipped
    outputs = []
    for mode in MODES:
        report = patcher.apply([Activation(network, lambda name: 0.7)], mode)  # type: ignore[arg-type]
        assert not report.problems
        outputs.append(run(model))
        assert (outputs[-1] - base).abs().max() > 1e-3
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-3 * base.abs().max().item())
    patcher.restore()
    assert torch.equal(run(model), base)
    after = {f"{part}.{name}": value for part, module in model.items() for name, value in module.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


@torch.no_grad()
def test_two_tags_in_either_order_give_identical_bits(model: dict[str, nn.Module], tmp_path: Path) -> None:
    patcher = Patcher(model, "sd1")
    found = [load(write(tmp_path / f"{name}.safetensors", patcher, name), patcher.base) for name in ("lokr", "oft")]
    for mode in MODES:
        outputs = []
        for order in (found, found[::-1]):
            patcher.apply([Activation(network, lambda name: 0.6) for network in order], mode)  # type: ignore[arg-type]
            outputs.append(run(model))
        assert torch.equal(outputs[0], outputs[1])
    patcher.restore()


@torch.no_grad()
@pytest.mark.parametrize("defect", ["nan", "truncated", "other model", "unknown algorithm"])
def test_a_file_that_cannot_be_used_is_one_sentence_and_leaves_the_model_alone(
    defect: str, model: dict[str, nn.Module], tmp_path: Path
) -> None:
    base = run(model)
    patcher = Patcher(model, "sd1")
    path = write(tmp_path / "broken.safetensors", patcher, "lora", ("Linear",))
    from safetensors.torch import load_file

    tensors = load_file(path)
    if defect == "nan":
        next(value for value in tensors.values() if value.dim())[0] = float("nan")
    elif defect == "other model":
        tensors = {f"lora_unet_double_blocks_0_img_attn_qkv.{k}": v for k, v in
                   {"lora_up.weight": torch.ones(96, 2), "lora_down.weight": torch.ones(2, 32)}.items()}  # fmt: skip
    elif defect == "unknown algorithm":
        tensors = {
            key.replace("lora_up.weight", "zeta_a.weight").replace("lora_down.weight", "zeta_b.weight"): v for key, v in tensors.items()
        }
    save(path, tensors)
    if defect == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(LycorisError) as caught, lib_lycoris.apply(model, {path: 1.0}):
        run(model)
    assert "broken" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.equal(run(model), base)
    assert not any("forward" in module.__dict__ for part in model.values() for module in part.modules())
