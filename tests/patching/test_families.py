"""Networks on every family's real transformer at tiny width: live in each mode, merged into a checkpoint, and taken off to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lib_lycoris
from lib_lycoris import Activation, Patcher, load
from lib_lycoris.models import FAMILIES, LiveNames
from lib_lycoris.models.families import _MODULES, _declared
from lib_lycoris.patching.live.forwards import reads_children
from lib_lycoris.tools import TOOLS
from tests.models.tiny_inputs import image
from tests.models.tiny_transformers import CLASSES, TINY, tiny, tiny_motion_unet

STRENGTH = 0.7
WITHOUT_FORWARD = ("animatediff-motion",)  # MotionAdapter only holds what UNetMotionModel runs
SHARD = "diffusion_pytorch_model-{:05}-of-00002.safetensors"


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d))}


def write_network(path: Path, layers: dict[str, nn.Module], prefix: str) -> int:
    """Write a LoRA of these layers under their names in diffusers; return the number of layers."""
    g, tensors = torch.Generator().manual_seed(1), {}
    for number, (name, module) in enumerate(layers.items()):
        out, in_, *kernel = module.weight.shape  # type: ignore[union-attr,misc]
        rank = 1 + number % 3
        tensors[f"{prefix}{name}.lora_A.weight"] = torch.randn(rank, in_, *kernel, generator=g) * 0.3
        tensors[f"{prefix}{name}.lora_B.weight"] = torch.randn(out, rank, *(1,) * len(kernel), generator=g) * 0.3
    save_file(tensors, path)
    return len(layers)


def answers(family: str, model: nn.Module) -> dict[str, Tensor]:
    """Return what the whole model makes of its input, and what each layer makes of a random one."""
    found = {} if family in WITHOUT_FORWARD else {"the whole model": image(family, model)}
    for name, module in layers_of(model).items():
        if reads_children(model.get_submodule(name.rpartition(".")[0])):
            continue  # never called: what the layer around it makes of its numbers is in the whole
        g = torch.Generator().manual_seed(len(name))
        if isinstance(module, nn.Linear):
            x = torch.randn(3, module.in_features, generator=g)
        else:
            x = torch.randn(1, module.weight.shape[1] * module.groups, *(4,) * (module.weight.dim() - 2), generator=g)  # type: ignore[operator]
        found[name] = module(x)
    return found


def equal(one: dict[str, Tensor], other: dict[str, Tensor], within: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for name, expected in one.items():
        assert (other[name] - expected).norm() <= within * expected.norm(), name


def original(names: LiveNames, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state of the live model under the original names."""
    found = {}
    for name, pieces in names.places.items():
        parts = {piece.rows.start: state[f"{piece.module}.{piece.leaf}"][piece.live_rows] for piece in pieces}
        found[name] = torch.cat([parts[start] for start in sorted(parts)])
    return found


def back(names: LiveNames, state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the live model's state from one under the original names."""
    found = {key: value.clone() for key, value in own.items()}
    for name, pieces in names.places.items():
        for piece in pieces:
            found[f"{piece.module}.{piece.leaf}"][piece.live_rows] = state[name][piece.rows]
    return found


@torch.no_grad()
@pytest.mark.parametrize("family", TINY)
def test_a_network_on_a_real_transformer_and_in_its_checkpoint(family: str, tmp_path: Path) -> None:
    model, path = tiny(family), tmp_path / "network.safetensors"
    component = next(item.pipeline for item in FAMILIES[family].components if item.key == "unet")
    count = write_network(path, layers_of(model), f"{component}.")
    before, state = answers(family, model), {key: value.clone() for key, value in model.state_dict().items()}
    patcher = Patcher(model, family)
    network = load(path, patcher.base)
    assert not network.skipped and len(set(network.modules.values())) == count
    found = {}
    for mode in ("functional", "merged"):
        report = patcher.apply([Activation(network, lambda name: STRENGTH)], mode)  # type: ignore[arg-type]
        assert report.networks[0].matched == len(network.patches)
        found[mode] = answers(family, model)
        assert all(not torch.equal(found[mode][name], before[name]) for name in before)
    patcher.restore()
    equal(found["functional"], found["merged"])
    after = answers(family, model)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    same_in_a_folder(model, state, path, family, found["merged"], tmp_path)
    same_in_the_original_layout(model, patcher.names, path, family, found["merged"], tmp_path)


def same_in_a_folder(
    model: nn.Module, state: dict[str, Tensor], path: Path, family: str, expected: dict[str, Tensor], folder: Path
) -> None:
    """Merge into the model as diffusers saves it, in two files."""
    component = next(item.pipeline for item in FAMILIES[family].components if item.key == "unet")
    base, merged = folder / "base" / component, folder / "merged"
    base.mkdir(parents=True)
    for number in range(2):
        save_file({key: value for place, (key, value) in enumerate(state.items()) if place % 2 == number}, base / SHARD.format(number + 1))
    lib_lycoris.merge(base.parent, [path], merged, ratios=[STRENGTH])
    made = {key: value for file in (merged / component).glob("*.safetensors") for key, value in load_file(file).items()}
    model.load_state_dict(made)
    equal(expected, answers(family, model))
    model.load_state_dict(state)


def same_in_the_original_layout(
    model: nn.Module, names: LiveNames, path: Path, family: str, expected: dict[str, Tensor], folder: Path
) -> None:
    """Merge into the model in one file under its original names."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    save_file({f"model.{key}": value for key, value in original(names, state).items()}, folder / "base.safetensors")
    TOOLS["merge"].run(sd_model=folder / "base.safetensors", models=[path], save_to=folder / "merged.safetensors", ratios=[STRENGTH])
    made = {key.removeprefix("model."): value for key, value in load_file(folder / "merged.safetensors").items()}
    model.load_state_dict(back(names, made, state))
    equal(expected, answers(family, model))


@torch.no_grad()
def test_motion_modules_in_the_unet_that_runs_them(tmp_path: Path) -> None:
    family, path = "animatediff-motion", tmp_path / "network.safetensors"
    model = tiny_motion_unet()
    write_network(path, {name: module for name, module in layers_of(model).items() if ".motion_modules." in name}, "unet.")
    before, patcher = image(family, model), Patcher(model, family)
    network, found = load(path, patcher.base), {}
    assert not network.skipped
    for mode in ("functional", "merged"):
        patcher.apply([Activation(network, lambda name: STRENGTH)], mode)  # type: ignore[arg-type]
        found[mode] = image(family, model)
    patcher.restore()
    assert not torch.equal(found["merged"], before) and torch.equal(image(family, model), before)
    assert (found["functional"] - found["merged"]).norm() <= 1e-5 * found["merged"].norm()


def test_a_family_is_run_here_or_its_file_says_that_it_is_not() -> None:
    for name, family in FAMILIES.items():
        file = next(module for module in _MODULES if family in _declared(module))
        assert (name in CLASSES) != ("tested without the class" in " ".join((file.__doc__ or "").split())), (
            f'{name}: either tests/models/tiny_transformers.py has sizes of its class, or its file says "tested without the class"'
        )
