"""Another alpha in a file of any tool that writes factors: what it does stays, to the bit where the factor is a power of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_lycoris import load
from lib_lycoris.errors import ToolError
from lib_lycoris.tools.extract import extract
from lib_lycoris.tools.merge import networks as merge
from lib_lycoris.tools.reshape import convert, resize
from tests import samples

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
WEIGHT = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
SHAPE = (320, 320)


def network(path: Path, kind: str = "lora", dtype: torch.dtype = torch.float16) -> Path:
    made = samples.builders("linear")[kind](torch.Generator().manual_seed(3), SHAPE)
    save_file({f"{NAME}.{suffix}": tensor.to(dtype) if tensor.numel() > 1 else tensor for suffix, tensor in made.items()}, path)
    return path


def factors(path: Path, rank: int, dtype: torch.dtype = torch.bfloat16) -> Path:
    g = torch.Generator().manual_seed(5)
    up, down = torch.randn(320, rank, generator=g) * 0.05, torch.randn(rank, 320, generator=g) * 0.05
    tensors = {"lora_up.weight": up.to(dtype), "lora_down.weight": down.to(dtype), "alpha": torch.tensor(float(rank))}
    save_file({f"{NAME}.{suffix}": tensor for suffix, tensor in tensors.items()}, path, {"ss_base_model_version": "sd_v1"})
    return path


def change(path: Path) -> Tensor:
    (algorithm,) = load(path).patches.values()
    return algorithm.delta(torch.randn(SHAPE, generator=torch.Generator().manual_seed(9)))


def written(path: Path) -> tuple[float, str]:
    with safe_open(path, "pt") as file:
        return float(file.get_tensor(f"{NAME}.alpha")), file.metadata()["ss_network_alpha"]


@pytest.mark.parametrize("tool", ["resize", "merge", "convert", "convert_lora"])
@pytest.mark.parametrize("alpha", [32.0, 1.0, 128.0, 24.0])
def test_the_change_stays_to_the_bit_where_the_factor_is_a_power_of_two(tool: str, alpha: float, tmp_path: Path) -> None:
    # fp16 has its subnormals, which lose bits to a factor below 1
    source, plain, out = factors(tmp_path / "a.safetensors", 64), tmp_path / "plain.safetensors", tmp_path / "out.safetensors"
    jobs: dict[str, Any] = {
        "resize": lambda to, **more: resize.run(source, to, new_rank=16, **more),
        "merge": lambda to, **more: merge.run([source], to, **more),
        "convert": lambda to, **more: convert.run(source, to, **more),
        "convert_lora": lambda to, **more: convert.run(source, to, algorithm="lora", **more),
    }
    jobs[tool](plain)
    jobs[tool](out, alpha=alpha)
    assert written(out) == (alpha, f"{alpha:g}")
    rank = load_file(out)[f"{NAME}.lora_down.weight"].shape[0]
    if (rank / alpha).as_integer_ratio()[0] in (1, 2, 4, 8, 16, 32, 64):
        assert torch.equal(change(out), change(plain))
    else:
        torch.testing.assert_close(change(out), change(plain), rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "glora", "dora_out", "lora_tucker"])
def test_every_algorithm_with_an_alpha_keeps_its_change(kind: str, tmp_path: Path) -> None:
    if kind == "lora_tucker":
        g = torch.Generator().manual_seed(3)
        name = "lora_unet_down_blocks_0_resnets_0_conv1"
        source = tmp_path / "a.safetensors"
        save_file({f"{name}.{suffix}": tensor.contiguous() for suffix, tensor in samples.lora_tucker(g, (320, 320, 3, 3)).items()}, source)
    else:
        source = network(tmp_path / "a.safetensors", kind, torch.float32)
    convert.run(source, tmp_path / "b.safetensors", alpha=5.0)
    ((name, old),), ((_, new),) = load(source).patches.items(), load(tmp_path / "b.safetensors").patches.items()
    weight = torch.randn((320, 320, 3, 3) if "in_layers" in name else SHAPE, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(new.delta(weight), old.delta(weight), rtol=1e-4, atol=1e-5)
    assert new.direction.alpha == 5.0  # type: ignore[attr-defined]


def test_an_extraction_has_the_alpha_and_the_difference(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(1)
    base = {WEIGHT: torch.randn(SHAPE, generator=g)}
    tuned = {WEIGHT: base[WEIGHT] + torch.randn(320, 8, generator=g) @ torch.randn(8, 320, generator=g) * 0.01}
    for name, tensors in (("base", base), ("tuned", tuned)):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    files = {"model_org": tmp_path / "base.safetensors", "model_tuned": tmp_path / "tuned.safetensors"}
    for algorithm in ("locon", "loha"):
        for alpha in (None, 4.0):
            given = {"dim": 8, "algorithm": algorithm, "alpha": alpha, "save_precision": "fp32"}
            extract.run(**files, **given, save_to=tmp_path / f"{alpha}.safetensors")  # type: ignore[arg-type]
        assert written(tmp_path / "4.0.safetensors") == (4.0, "4")
        assert torch.equal(change(tmp_path / "4.0.safetensors"), change(tmp_path / "None.safetensors"))
    for more in ({"algorithm": "full"}, {"algorithm": "lokr"}, {"style": "peft"}, {"alpha": 0.0}):
        with pytest.raises(ToolError, match="alpha"):
            extract.run(**files, **{"alpha": 4.0, **more}, save_to=tmp_path / "no.safetensors")  # type: ignore[arg-type]
    assert not (tmp_path / "no.safetensors").exists()


def test_an_alpha_without_a_rank_is_refused(tmp_path: Path) -> None:
    source = network(tmp_path / "a.safetensors", "ia3_out", torch.float32)
    with pytest.raises(ToolError, match="no module of the new file has ranks"):
        convert.run(source, tmp_path / "b.safetensors", alpha=4.0)
    assert not (tmp_path / "b.safetensors").exists()
