"""PEFT's config beside a new network: right for PEFT itself and for us, or none; one that lies there already is for another file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

REQUIRES = ("peft",)

import peft  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from lib_lycoris import Activation, Network, Patcher, load  # noqa: E402
from lib_lycoris.tools import TOOLS  # noqa: E402
from lib_lycoris.tools.files.checkpoints.checkpoint import open_checkpoint  # noqa: E402
from tests import samples  # noqa: E402
from tests.tools.test_extract import KOHYA, OF, base, low_rank, tuned_by  # noqa: E402, F401 - base is a fixture

STALE = {"peft_type": "LORA", "r": 4, "lora_alpha": 40}
STYLES = ("peft", "diffusers", "kohya")


def network(folder: Path, algorithm: str) -> Path:
    g, tensors = torch.Generator().manual_seed(4), dict[str, Tensor]()
    for name, module in KOHYA.items():
        builders = samples.CONVOLUTION if len(OF[name]) > 2 else samples.LINEAR
        if algorithm in builders:
            tensors.update({f"{module}.{suffix}": tensor for suffix, tensor in builders[algorithm](g, OF[name]).items()})
    save_file(tensors, folder / "in.safetensors", samples.metadata(algorithm))
    return folder / "in.safetensors"


def deltas(one: Network) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(5)
    found = {}
    for name, algorithm in sorted(one.patches.items()):
        module, _, leaf = name.rpartition(".")
        shape = one.base.layers[module].shape
        found[name] = algorithm.delta(torch.randn(shape if leaf == "weight" else shape[:1], generator=g))
    return found


@pytest.mark.parametrize("algorithm", ["lora", "dora_out", "dora_in", "loha", "lokr", "glora", "oft", "boft", "ia3_out", "adalora", "hra"])
def test_what_is_converted_for_peft_is_read_as_it_was(algorithm: str, base: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "out"
    folder.mkdir()
    source = network(tmp_path, algorithm)
    result = TOOLS["convert"].run(
        model=source, save_to=folder / "adapter_model.safetensors", style="peft", base_model=base, save_precision="fp32"
    )
    model = open_checkpoint(base).base
    wanted, found = deltas(load(source, model)), deltas(load(folder, model))
    assert wanted.keys() == found.keys() and all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in wanted)
    told = algorithm in ("lora", "dora_out")
    assert (folder / "adapter_config.json").exists() is told
    assert any("no adapter_config.json is written" in note for note in result.report["notes"]) is not told


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("tool", ["extract", "convert", "resize", "bake", "networks_merge"])
def test_a_config_that_lies_there_is_not_of_the_new_file(tool: str, style: str, base: Path, tmp_path: Path) -> None:  # noqa: F811
    tuned, made = tuned_by(base, low_rank(2)), tmp_path / "made.safetensors"
    TOOLS["extract"].run(model_org=base, model_tuned=tuned, save_to=made, dim=4, style=style, save_precision="fp32")
    options: dict[str, Any] = {
        "extract": {"model_org": base, "model_tuned": tuned, "dim": 4, "style": style, "save_precision": "fp32"},
        "convert": {"model": made, "style": style}, "resize": {"model": made, "new_rank": 1, "base_model": base},
        "bake": {"model": made, "ratio": 0.5}, "networks_merge": {"models": [made], "ratios": [0.5], "base_model": base},
    }[tool]  # fmt: skip
    found = []
    for name in ("plain", "stale"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "stale":
            (folder / "adapter_config.json").write_text(json.dumps(STALE))
        TOOLS[tool].run(**options, save_to=folder / "new.safetensors")
        found.append(deltas(load(folder / "new.safetensors", open_checkpoint(base).base)))
    assert found[0].keys() == found[1].keys() and all(torch.equal(value, found[1][name]) for name, value in found[0].items())


class Root(nn.Module):
    """The layers that the networks change, under diffusers' names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.to_q, self.conv = nn.Linear(32, 48), nn.Conv2d(16, 24, 3, padding=1)
        for path, child in {
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": self.to_q, "down_blocks.0.resnets.0.conv1": self.conv,
        }.items():  # fmt: skip
            place: nn.Module = self
            *parents, last = path.split(".")
            for name in parents:
                if name not in place._modules:
                    place.add_module(name, nn.Module())
                place = place._modules[name]  # type: ignore[assignment]
            place.add_module(last, child)
        del self._modules["to_q"], self._modules["conv"]

    def forward(self, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        q = self.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")
        return q(x), self.get_submodule("down_blocks.0.resnets.0.conv1")(image)


@torch.no_grad()
@pytest.mark.parametrize("algorithm", ["lora", "dora_out"])
def test_peft_loads_what_is_converted_for_it(algorithm: str, base: Path, tmp_path: Path) -> None:  # noqa: F811
    folder, source = tmp_path / "out", network(tmp_path, algorithm)
    save_file({key: value for key, value in load_file(source).items() if "fc1" not in key and "proj_in" not in key}, source)
    folder.mkdir()
    TOOLS["convert"].run(model=source, save_to=folder / "adapter_model.safetensors", style="peft", base_model=base, save_precision="fp32")
    x, image, ours, theirs = torch.randn(5, 32), torch.randn(2, 16, 8, 8), Root(), Root()
    before = ours(x, image)
    patcher = Patcher({"unet": ours}, "sd1")
    patcher.apply([Activation(load(source, patcher.base), lambda name: 1.0)])
    wanted = ours(x, image)
    found = peft.PeftModel.from_pretrained(theirs, str(folder))(x, image)
    for one, two, old in zip(found, wanted, before):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
        assert (two - old).abs().max() > 0.01
