"""Weights that are fused in a file and apart in the live model, and the other way round: the same change of the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib_lycoris import Activation, Patcher, load
from lib_lycoris.networks.writer import save
from tests.corpus_loader import put
from tests.samples import LINEAR
from tests.tiny_model import MODES

WIDTH = 16
FUSED = "diffusion_model.double_blocks.0.img_attn.qkv"
SPLIT = [f"transformer.transformer_blocks.0.attn.to_{part}" for part in "qkv"]
SINGLE = "diffusion_model.single_blocks.0.linear1"
SINGLE_SPLIT = [
    *(f"transformer.single_transformer_blocks.0.attn.to_{part}" for part in "qkv"),
    "transformer.single_transformer_blocks.0.proj_mlp",
]
ALGORITHMS = ["lora", "loha", "lokr", "full", "glora", "ia3_in", "ia3_out", "oft", "boft", "peft_oft", "dora_out", "dora_in"]


def models_of(fused: str, split: list[str], rows: list[int]) -> tuple[nn.Module, nn.Linear, nn.Module, list[nn.Linear]]:
    """Return a model with one fused layer and one with the same weights apart."""
    torch.manual_seed(0)
    whole = nn.Linear(WIDTH, sum(rows))
    apart = [nn.Linear(WIDTH, count) for count in rows]
    start = 0
    for part in apart:
        part.weight.data = whole.weight.data[start : start + part.out_features].clone()
        part.bias.data = whole.bias.data[start : start + part.out_features].clone()
        start += part.out_features
    one, many = nn.Module(), nn.Module()
    put(one, fused, whole)
    for name, part in zip(split, apart):
        put(many, name, part)
    return one, whole, many, apart


def network_file(path: Path, module: str, algorithm: str, rows: int) -> Path:
    made = LINEAR[algorithm](torch.Generator().manual_seed(4), (rows, WIDTH))
    save(path, {f"{module}.{suffix}": tensor for suffix, tensor in made.items()})
    return path


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("fused", "split", "rows", "module"),
    [(FUSED, SPLIT, [WIDTH] * 3, "lora_unet_double_blocks_0_img_attn_qkv"),
     (SINGLE, SINGLE_SPLIT, [WIDTH] * 3 + [4 * WIDTH], "lora_unet_single_blocks_0_linear1")],
)  # fmt: skip
def test_a_fused_file_on_parts_that_live_apart(
    fused: str, split: list[str], rows: list[int], module: str, algorithm: str, mode: str, tmp_path: Path
) -> None:
    """A change of all rows together - for which a rotation or a norm reaches over the parts - gives each part its rows of it."""
    one, whole, many, apart = models_of(fused, split, rows)
    path = network_file(tmp_path / "fused.safetensors", module, algorithm, sum(rows))
    x = torch.randn(2, 5, WIDTH)
    base = whole(x)
    for model in (one, many):
        patcher = Patcher(model, "flux")
        report = patcher.apply([Activation(load(path, patcher.base), lambda name: 0.7)], mode)  # type: ignore[arg-type]
        assert not report.problems
    together = torch.cat([part(x) for part in apart], -1)
    assert (whole(x) - base).abs().max() > 1e-2
    torch.testing.assert_close(together, whole(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_file_of_parts_on_a_fused_layer_leaves_the_other_rows(algorithm: str, mode: str, tmp_path: Path) -> None:
    """Only k is in the file: q and v keep their values, k is what it is in a model that keeps it apart."""
    one, whole, many, apart = models_of(FUSED, SPLIT, [WIDTH] * 3)
    path = network_file(tmp_path / "k.safetensors", SPLIT[1], algorithm, WIDTH)
    x = torch.randn(2, 5, WIDTH)
    base = whole(x)
    for model in (one, many):
        patcher = Patcher(model, "flux")
        patcher.apply([Activation(load(path, patcher.base), lambda name: -0.5)], mode)  # type: ignore[arg-type]
    got = whole(x)
    torch.testing.assert_close(got[..., WIDTH : 2 * WIDTH], apart[1](x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[..., :WIDTH], base[..., :WIDTH], rtol=0, atol=1e-6)
    torch.testing.assert_close(got[..., 2 * WIDTH :], base[..., 2 * WIDTH :], rtol=0, atol=1e-6)
    assert (got[..., WIDTH : 2 * WIDTH] - base[..., WIDTH : 2 * WIDTH]).abs().max() > 1e-2


class OpenClipBlock(nn.Module):
    """An attention called as open_clip calls it: (length, batch, width), a causal mask, no weights asked for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        attention = nn.MultiheadAttention(WIDTH, 4)
        nn.init.normal_(attention.in_proj_bias)
        nn.init.normal_(attention.out_proj.bias)
        put(self, "model.transformer.resblocks.0.attn", attention)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((x.shape[0], x.shape[0]), float("-inf"), device=x.device).triu(1)
        return self.get_submodule("model.transformer.resblocks.0.attn")(x, x, x, need_weights=False, attn_mask=mask)[0]  # type: ignore[no-any-return]


@torch.no_grad()
@pytest.mark.parametrize("parts", ["q", "qv", "qkvo", "o"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_attention_with_any_of_its_projections(algorithm: str, parts: str, tmp_path: Path) -> None:
    """Both paths equal an attention that holds the effective weights, for partial sets too, biases included."""
    model = OpenClipBlock()
    names = {"q": "self_attn_q_proj", "k": "self_attn_k_proj", "v": "self_attn_v_proj", "o": "self_attn_out_proj"}
    tensors = {}
    for seed, part in enumerate(parts):
        made = LINEAR[algorithm](torch.Generator().manual_seed(seed), (WIDTH, WIDTH))
        tensors.update({f"lora_te_text_model_encoder_layers_0_{names[part]}.{suffix}": tensor for suffix, tensor in made.items()})
    save(tmp_path / "te.safetensors", tensors)
    x = torch.randn(6, 2, WIDTH)
    base = model(x)
    patcher = Patcher(model, "sd2")
    network = load(tmp_path / "te.safetensors", patcher.base)
    assert not network.skipped
    truth = OpenClipBlock()
    for name, patch in network.patches.items():
        whole, _, part = name.removesuffix("]").partition("[")
        parameter = truth.get_parameter(whole)
        rows = slice("qkv".index(part) * WIDTH, ("qkv".index(part) + 1) * WIDTH) if part else slice(None)
        parameter.data[rows] += 0.7 * patch.delta(parameter.data[rows].clone())
    for mode in MODES:
        patcher.apply([Activation(network, lambda name: 0.7)], mode)  # type: ignore[arg-type]
        torch.testing.assert_close(model(x), truth(x), rtol=1e-4, atol=1e-5)
    assert (model(x) - base).abs().max() > 1e-4
    patcher.restore()
    assert torch.equal(model(x), base)


@torch.no_grad()
def test_attention_weights_masks_and_layouts_are_torchs_own() -> None:
    """Our attention over unchanged projections gives what torch's gives: weights, boolean and padding masks, batch first, one sequence."""
    from lib_lycoris.patching.live.attention import attend

    for batch_first in (False, True):
        torch.manual_seed(2)
        attention = nn.MultiheadAttention(WIDTH, 4, batch_first=batch_first).eval()

        def project(name: str, x: Tensor, attention: nn.MultiheadAttention = attention) -> Tensor:
            if name == "out":
                return nn.functional.linear(x, attention.out_proj.weight, attention.out_proj.bias)
            rows = slice("qkv".index(name) * WIDTH, ("qkv".index(name) + 1) * WIDTH)
            return nn.functional.linear(x, attention.in_proj_weight[rows], attention.in_proj_bias[rows])

        x, y = torch.randn(3, 5, WIDTH), torch.randn(3, 7, WIDTH)
        q, k = (x, y) if batch_first else (x.transpose(0, 1), y.transpose(0, 1))
        padding = torch.zeros(3, 7, dtype=torch.bool)
        padding[:, 5:] = True
        boolean = torch.ones(5, 7).triu(3).bool()
        masks: list[dict[str, Any]] = [{"key_padding_mask": padding}, {"attn_mask": boolean}, {"attn_mask": torch.randn(12, 5, 7)}]
        for extra in (*masks, {}, {"need_weights": False}, {"average_attn_weights": False}):
            want, got = attention(q, k, k, **extra), attend(attention, project, q, k, k, **extra)
            torch.testing.assert_close(got[0], want[0])
            assert (got[1] is None) == (want[1] is None)
            if want[1] is not None:
                torch.testing.assert_close(got[1], want[1])
        single = attention(x[0], y[0], y[0]), attend(attention, project, x[0], y[0], y[0])
        torch.testing.assert_close(single[1][0], single[0][0])
        torch.testing.assert_close(single[1][1], single[0][1])
