"""Every conformance case, through reading, naming and both paths, at every strength, as tests/corpus/check.py judges it.

``LYCORIS_CORPUS`` names another folder of the same layout: ``<split>/<case>/case.json``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lib_lycoris import Activation, Patcher, load
from lib_lycoris.networks.loading import open_network
from tests.corpus import check
from tests.corpus_loader import activate, apply, live_model
from tests.tiny_model import MODES

HERE = Path(__file__).parent
CORPUS = Path(os.environ.get("LYCORIS_CORPUS", HERE))
CASES = sorted(CORPUS.glob("*/*/case.json"))
STRENGTHS = (1.0, 0.7, -0.5)


def arch_of(case: Path) -> str:
    """Return the family of the base model that a case is for."""
    return str(json.loads(case.read_text("utf-8"))["arch"])


def layers_of(case: Path) -> dict[str, dict[str, Any]]:
    """Return a case's layers in the form that the loaders take."""
    expected = load_file(case.parent / "expected.safetensors")
    layers: dict[str, dict[str, Any]] = {}
    fused: dict[str, dict[int, torch.Tensor]] = {}
    for name, info in json.loads(case.read_text("utf-8"))["modules"].items():
        weight = expected[f"base/{name}/weight"]
        if "fused_target" in info:
            fused.setdefault(info["fused_target"]["name"], {})[info["fused_target"]["rows"][0]] = weight
        else:
            bias = expected.get(f"base/{name}/bias")
            layers[info["ldm_name"]] = {
                "kind": info["kind"],
                "weight": weight,
                "bias": bias,
                "stride": info.get("stride"),
            }
    for name, parts in fused.items():
        weight = torch.cat([parts[row] for row in sorted(parts)])
        layers[name] = {"kind": "mha_in_proj", "weight": weight, "bias": None, "stride": None}
    return layers


@pytest.mark.parametrize("loader", ["apply", "apply_functional"])
def test_every_case_is_exact(loader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No case fails at any strength; where a case is disputed, one of its recorded readings is met."""
    result = tmp_path / "result.json"
    code = check.main(["--loader", f"tests.corpus_loader:{loader}", "--corpus", str(CORPUS), "--split", "all", "--json", str(result)])
    cases = json.loads(result.read_text())["cases"]
    failed = {name: lines for name, lines in cases.items() if any(not line[2].startswith("alt:") for line in lines)}
    with capsys.disabled():
        print(f"\n{len(cases) - len(failed)} of {len(cases)} cases exact ({loader})")
    assert len(cases) == len(CASES) > 0
    assert not failed
    assert code == 0


def sample_input(module: nn.Module, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Return an input as the layer gets it in a model."""
    if isinstance(module, nn.MultiheadAttention):
        x = torch.randn(2, 5, module.embed_dim, generator=generator)
        return x, x, x
    if isinstance(module, nn.Conv2d):
        return (torch.randn(2, module.in_channels, 7, 6, generator=generator),)
    if isinstance(module, nn.GroupNorm):
        return (torch.randn(2, module.num_channels, 4, 4, generator=generator),)
    width = module.in_features if isinstance(module, nn.Linear) else module.weight.shape[0]  # type: ignore[union-attr,index]
    return (torch.randn(2, 5, width, generator=generator),)  # type: ignore[arg-type]


def output(module: nn.Module, x: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return a layer's output; of an attention the first of both."""
    y = module(*x)
    return y[0] if isinstance(y, tuple) else y


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.parent.name)
def test_both_paths_on_real_activations(case: Path) -> None:
    """A live layer's output on random inputs is that of a plain layer which holds the weight that the case was found exact with."""
    path, layers = str(case.parent / "network.safetensors"), layers_of(case)
    generator = torch.Generator().manual_seed(len(case.parent.name))
    tolerance = 5e-3 if "oft" in case.parent.name else 5e-4
    _, base = live_model(layers)
    inputs = {name: sample_input(module, generator) for name, module in base.items()}
    before = {name: output(module, inputs[name]) for name, module in base.items()}
    for strength in STRENGTHS:
        expected = apply(path, layers, arch_of(case), strength)
        changed = {
            name: {**layer, "weight": expected[name][0], "bias": expected[name][1]} if name in expected else layer
            for name, layer in layers.items()
        }
        _, truth = live_model(changed)
        for mode in MODES:
            _, found = activate(path, layers, arch_of(case), strength, mode)
            for name, module in found.items():
                if name.endswith(".attn.out_proj"):  # never called: the attention reads its parameters
                    continue
                want = output(truth[name], inputs[name])
                size = max((want - before[name]).abs().max().item(), 1e-3)
                assert (output(module, inputs[name]) - want).abs().max().item() <= tolerance * size, (
                    name,
                    strength,
                    mode,
                )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.parent.name)
def test_strength_zero_and_restore_give_the_same_bits(case: Path) -> None:
    """Strength 0 changes nothing, and after restoring nothing is left of any strength."""
    model, found = live_model(layers_of(case))
    generator = torch.Generator().manual_seed(1)
    inputs = {name: sample_input(module, generator) for name, module in found.items()}
    before = {name: output(module, inputs[name]) for name, module in found.items()}
    parameters = {name: value.clone() for name, value in model.state_dict().items()}
    patcher = Patcher(model, arch_of(case))
    network = load(case.parent / "network.safetensors", patcher.base)
    for strength, mode in ((0.0, "functional"), (0.0, "merged"), (0.7, "functional"), (-0.5, "merged")):
        patcher.apply([Activation(network, lambda name, s=strength: s)], mode)  # type: ignore[misc,arg-type]
        changed = any(not torch.equal(output(module, inputs[name]), before[name]) for name, module in found.items())
        assert changed == (strength != 0)
    patcher.restore()
    assert all(torch.equal(output(module, inputs[name]), before[name]) for name, module in found.items())
    assert all(torch.equal(value, parameters[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.parent.name)
def test_every_key_is_used_or_explained(case: Path) -> None:
    """Each key of the file is in a patch, a bundled embedding, or in ``skipped`` with a reason; what is written again reads the same."""
    patcher = Patcher(live_model(layers_of(case))[0], arch_of(case))
    network = load(case.parent / "network.safetensors", patcher.base)
    file, _, keys = open_network(case.parent / "network.safetensors")
    modules, skipped = set(network.modules.values()), {item.key for item in network.skipped}
    used = {key for module, suffixes in keys.modules.items() if module in modules for key in suffixes.values()}
    used |= {key for name in network.embeddings for key in keys.embeddings[name].values()}
    layers = {patcher.base.find(module) for module in modules} - {None}
    used |= {key for module, found in keys.modules.items() if patcher.base.find(module) in layers for key in found.values()}  # two spellings
    assert not set(file.tensors) - used - skipped
    assert all(item.reason for item in network.skipped)


def test_dyn_takes_the_first_ranks_and_keeps_the_scale() -> None:
    """``dyn=n`` equals the recorded truncation whose scale stays alpha over all ranks."""
    folder = HERE / "dev" / "kohya_dylora_unit2"
    case, recorded = json.loads((folder / "case.json").read_text("utf-8")), load_file(folder / "dyn.safetensors")
    model, found = live_model(layers_of(folder / "case.json"))
    patcher = Patcher(model)
    network = load(folder / "network.safetensors", patcher.base)
    report = patcher.apply([Activation(network, lambda name: 1.0, ranks=case["dyn"]["dyn"])], "merged")
    names = [key.split("/")[2] for key in recorded if key.startswith("dyn=2/a1111/")]
    assert len(names) == 2 and not report.problems
    for name in names:
        layer = patcher.layer(found[case["modules"][name]["ldm_name"]])
        assert layer is not None
        torch.testing.assert_close(layer.parameter("weight"), recorded[f"dyn=2/a1111/{name}/weight"], rtol=0, atol=1e-6, check_dtype=False)
