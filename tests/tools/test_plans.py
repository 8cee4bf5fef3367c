"""A plan is true: the size that it tells is that of the file, for every tool and algorithm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lycoris.tools.registry import load_tools
from tests import samples

TOOLS = load_tools()
PLACES = {320: "down_blocks_0_attentions_{}", 640: "down_blocks_1_attentions_{}"}
WHOLE = ("lokr", "lokr_whole", "full")  # whose ranks are found by decomposing whole layers
KINDS = ["lora", "loha", "lokr", "lokr_whole", "dora_out", "glora", "oft", "full"]


def network(path: Path, kind: str, seed: int = 1) -> Path:
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for width, place in PLACES.items():
        for number in (0, 1):
            for part in ("to_q", "to_out_0"):
                made = samples.builders("linear")[kind](g, (width, width))
                name = f"lora_unet_{place.format(number)}_transformer_blocks_0_attn1_{part}"
                tensors.update({f"{name}.{suffix}": tensor.contiguous() for suffix, tensor in made.items()})
    save_file(tensors, path, {"ss_base_model_version": "sd_v1", "modelspec.description": "x" * 3000})
    return path


def assert_true(tool: str, **options: Any) -> None:
    planned = TOOLS[tool].plan(**options)
    result = TOOLS[tool].run(**options)
    assert planned.disk_bytes == pytest.approx(Path(options["save_to"]).stat().st_size, rel=0.02), (tool, options)
    assert planned.seconds is not None and planned.memory_bytes and result.report["bytes"]


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in WHOLE else kind for kind in KINDS])
def test_the_plans_of_a_network_are_true(kind: str, tmp_path: Path) -> None:
    source, out = network(tmp_path / "a.safetensors", kind), tmp_path / "o.safetensors"
    ranked = kind not in ("glora", "oft", "full")
    if ranked:
        for options in (
            {"new_rank": 2},
            {"dynamic_method": "sv_fro", "dynamic_param": 0.6},
            {"size": 0.045},
            {"new_rank": 2, "alpha": 1.0},
        ):
            assert_true("resize", model=source, save_to=out, **options)
        if kind != "dora_out":  # that depends on the base weights
            assert_true("convert", model=source, save_to=out, algorithm="lora")
        assert_true("slim", model=source, save_to=out, error=0.5)
    assert_true("slim", model=source, save_to=out, blocks=["IN01"])
    assert_true("convert", model=source, save_to=out, save_precision="bf16")
    if kind not in ("glora", "oft", "dora_out"):
        other = network(tmp_path / "b.safetensors", kind, 2)
        assert_true("networks_merge", models=[source, other], ratios=[0.5, 0.7], save_to=out)
        assert_true("networks_merge", models=[source, other], dim=4, save_to=out)
        assert_true("networks_merge", models=[source, other], dim=16, rule="energy", value=0.9, save_to=out)
        if kind != "full":  # whose ranks are worth more bytes than what is left of so small a size
            assert_true("networks_merge", models=[source, other], size=0.06, save_to=out)
    assert_true("bake", model=source, ratio=1.0, save_to=out)
    if ranked and kind != "dora_out":  # what a factor can scale
        assert_true("bake", model=source, ratio=0.5, save_to=out, save_precision="fp16")
        assert_true("bake", model=source, lbw="0,1,0" + ",1" * 14, save_to=out)


def test_the_plans_of_split_and_prune_are_true(tmp_path: Path) -> None:
    source, out = network(tmp_path / "a.safetensors", "lora"), tmp_path / "o.safetensors"
    tensors = load_file(source)
    dead = next(key for key in tensors if key.endswith("lora_up.weight"))
    save_file({**tensors, dead: torch.zeros_like(tensors[dead])}, source)
    assert_true("prune", model=source, save_to=out)
    assert_true("prune", model=source, save_to=out, save_precision="bf16")
    planned, result = (how(model=source, ranks=[1, 2], save_to=out) for how in (TOOLS["split"].plan, TOOLS["split"].run))
    assert planned.disk_bytes == pytest.approx(sum(path.stat().st_size for path in result.outputs), rel=0.02)


@pytest.mark.parametrize(
    "options", [{"algorithm": "lora"}, {}, {"algorithm": "loha", "dim": 4}, {"algorithm": "lokr"}, {"algorithm": "lokr", "lokr_rank": 4},
                {"algorithm": "lokr", "factor": 8}, {"algorithm": "full"}, {"algorithm": "oft"}, {"dim": 4, "conv_dim": 2, "alpha": 2.0},
                {"size": 0.2}], ids=str,
)  # fmt: skip
def test_the_plan_of_an_extraction_is_true(options: dict[str, Any], tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(1)
    block = "model.diffusion_model.input_blocks.1"
    shapes = {f"{block}.1.transformer_blocks.0.attn1.{part}.weight": (320, 320) for part in ("to_q", "to_v")}
    shapes |= {f"{block}.0.in_layers.2.weight": (320, 320, 3, 3), f"{block}.0.in_layers.2.bias": (320,)}
    base = {key: torch.randn(shape, generator=g) for key, shape in shapes.items()}
    for name, change in (("base", 0.0), ("tuned", 0.1)):
        save_file(
            {key: (tensor + change * torch.randn(tensor.shape, generator=g)) for key, tensor in base.items()},
            tmp_path / f"{name}.safetensors",
        )
    files = {
        "model_org": tmp_path / "base.safetensors",
        "model_tuned": tmp_path / "tuned.safetensors",
        "save_to": tmp_path / "o.safetensors",
    }
    assert_true("extract", **files, **options)
