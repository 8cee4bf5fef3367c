"""The contract on the adapters of Forge, Forge Neo and reForge; their layers: quantised, scaled, loaded in part, patched by the host."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib_lycoris import Activation, Patcher, load
from lib_lycoris.demo import CHECKPOINT
from lib_lycoris.hosts.webui import adapters, files
from lib_lycoris.hosts.webui.adapters import forge as forge_adapter
from lib_lycoris.hosts.webui.adapters.forge_layers import ForgeLayers
from tests.hosts.contract import HostContract, same
from tests.hosts.standin import KINDS as TORCH_KINDS
from tests.hosts.standin_forge import Casting, LowVramPatch, running_forge, teach
from tests.hosts.test_contract import WORDS, WebuiRig
from tests.tiny_model import MODES, TinyModel, write_network
from tests.webui.files import write_network as write_for

NAMES = {"neo": "Forge Neo", "forge": "Forge", "reforge": "reForge"}
ALGORITHMS = ("lora", "loha", "oft", "dora_out", "ia3_out", "peft_ia3_out", "full", "norm")


@pytest.fixture(params=NAMES)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WebuiRig]:
    adapters.adapter.cache_clear()
    with running_forge(tmp_path, request.param) as program:
        yield WebuiRig(program)
    adapters.adapter.cache_clear()


class TestForges(HostContract):
    @pytest.fixture
    def rig(self, rig: WebuiRig) -> WebuiRig:
        return rig


def test_the_webui_is_told_by_what_can_be_imported(rig: WebuiRig) -> None:
    assert rig.host.name == NAMES[rig.program.kind]  # type: ignore[attr-defined]
    assert all(kind.forward is rig.program.forwards[kind] for kind in TORCH_KINDS), "torch's own classes are left alone"


def test_a_model_that_is_unloaded_for_a_training_comes_back_with_the_next_image(rig: WebuiRig) -> None:
    before = rig.picture("<lyco:one:0.7>")
    assert "the next image loads it again" in files.unload()
    assert rig.program.away == set(rig.program.models.values())
    assert torch.equal(rig.picture("<lyco:one:0.7>"), before) and not rig.program.away


def test_the_hosts_networks_are_part_of_the_base_in_either_order(rig: WebuiRig) -> None:
    base, lora, both = rig.picture(""), rig.picture("<lora:x:0.6>"), rig.picture("<lora:x:0.6><lyco:one:0.7>")
    assert same(rig.picture("<lyco:one:0.7><lora:x:0.6>"), both) and same(rig.picture("<lora:x:0.6>"), lora)
    assert not same(both, lora) and not same(lora, base) and same(rig.picture(""), base)


def test_a_checkpoint_that_comes_between_runs_has_the_networks(rig: WebuiRig) -> None:
    first = rig.picture("<lyco:one:0.7>")
    rig.program.load(1)
    other = rig.program.run("a cat")
    base = rig.program.models[1].state_dict()
    rig.program.load(0)
    assert same(rig.picture("<lyco:one:0.7>"), first) and not same(other, first) and rig.problems == ""
    assert all(same(tensor, rig.program.models[1].state_dict()[name]) for name, tensor in base.items())


def test_the_checkpoint_in_use_is_the_one_that_the_next_image_loads(rig: WebuiRig, tmp_path: Path) -> None:
    """Cards, and the pages' fields, would else know none before the first image."""
    data, webui = rig.program.data, rig.host.webui
    before = webui.checkpoint()
    data.forge_loading_parameters = {"checkpoint_info": types.SimpleNamespace(filename=str(CHECKPOINT), name="next")}
    assert (webui.checkpoint().name, webui.family_in_use()) == ("next", "sd1")
    for content in (b"", b"no checkpoint"):
        (tmp_path / "odd.safetensors").write_bytes(content)
        data.forge_loading_parameters["checkpoint_info"].filename = str(tmp_path / "odd.safetensors")
        assert webui.family_in_use() is None
    data.forge_loading_parameters["checkpoint_info"].filename = str(tmp_path / "gone.safetensors")
    assert webui.family_in_use() is None
    data.forge_loading_parameters = {}
    assert webui.checkpoint() is before


def test_a_word_of_a_network_is_in_the_engines_table_while_it_is_on(rig: WebuiRig) -> None:
    from safetensors.torch import load_file, save_file

    write_for(rig.folder / "words.safetensors", rig.host.base, "lora", (WORDS,))
    tensors = load_file(rig.folder / "words.safetensors")
    save_file({**tensors, "bundle_emb.glow.string_to_param.*": torch.ones(2, 16)}, rig.folder / "words.safetensors")
    table = rig.host.webui.word_tables(rig.host.webui.current())[0]
    seen: list[Any] = []
    sample, rig.program._sample = rig.program._sample, lambda p, refiner: (seen.append(table.known("glow")), sample(p, refiner))[1]
    rig.picture("<lyco:words>")
    assert seen[-1] is not None and rig.problems == "" and table.known("glow") is None


def stored(how: str) -> tuple[TinyModel, TinyModel, ForgeLayers]:
    """Return a model of the host's layers, whose weights are changed in each forward, and a plain one with the same effective weights."""
    model, plain = TinyModel(), TinyModel()
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        teach(module, how in ("scaled", "online"))
    layers = forge_adapter.Layers() if how in ("scaled", "online") else ForgeLayers()
    for kind in ("linear", "biased", "text"):
        layer, twin = model.named(kind), plain.named(kind)
        delta = torch.randn(layer.weight.shape, generator=generator) * 0.2
        with torch.no_grad():
            if how == "scaled":
                layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
                layer.scale_weight = nn.Parameter(torch.tensor(0.7), requires_grad=False)
                twin.weight.copy_(layer.weight.float() * 0.7)
            elif how == "online":
                layer.forge_online_loras = {"weight": [delta]}
                twin.weight.add_(delta)
            elif how == "in part":
                layer.weight_function = [LowVramPatch([delta])]
                twin.weight.add_(delta)
            else:
                twin.weight.copy_(pack(layer))
    return model, plain, layers


class Packed(nn.Parameter):
    """A weight of 8-bit numbers and a scale, with the shape of what they mean, as GGUF's are held."""

    @property
    def shape(self) -> torch.Size:
        return self.real_shape  # type: ignore[attr-defined,no-any-return]


def pack(layer: Any) -> Tensor:
    """Pack a layer's weight; return what it means."""
    scale = layer.weight.abs().max() / 127
    rounded = (layer.weight / scale).round()
    packed = Packed(torch.cat([rounded.to(torch.int8).flatten(), torch.zeros(3, dtype=torch.int8)]), requires_grad=False)
    packed.real_shape, packed.scale, packed.gguf_cls = layer.weight.shape, scale, object()
    layer.weight = packed
    layer.computed = lambda leaf, x, layer=layer: unpack(layer.weight) if leaf == "weight" else Casting.computed(layer, leaf, x)
    return rounded * scale


def unpack(packed: Any) -> Tensor:
    """Return what a packed weight means."""
    count = packed.real_shape.numel()
    found: Tensor = packed.data[:count].float().view(packed.real_shape) * packed.scale
    return found


@torch.no_grad()
@pytest.mark.parametrize("how", ["scaled", "online", "in part", "packed"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_layers_are_changed_as_they_are_computed(algorithm: str, mode: Any, how: str, tmp_path: Path, monkeypatch: Any) -> None:
    gguf = types.SimpleNamespace(dequantize_tensor=unpack)
    lora = types.SimpleNamespace(merge_lora_to_weight=lambda patches, weight, key, computation_dtype: LowVramPatch(patches)(weight))
    for name, module in {
        "backend": object(),
        "backend.operations_gguf": gguf,
        "backend.patcher": object(),
        "backend.patcher.lora": lora,
    }.items():
        monkeypatch.setitem(__import__("sys").modules, name, module)
    model, plain, layers = stored(how)
    x = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-5)
    base, found = model(x), []
    before = copy.deepcopy({name: tensor.data for name, tensor in model.named_parameters()})
    path = write_network(tmp_path / "one.safetensors", algorithm, 3)
    for one, access in ((model, layers), (plain, None)):
        patcher = Patcher(one, "sd1", access)
        patcher.apply([Activation(load(path, patcher.base, torch.float32), lambda name: 0.7)], mode)
        found.append(one(x))
        patcher.restore()
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=2e-5)
    assert torch.equal(model(x), base) and (found[0] - base).abs().mean() > 1e-3
    now = dict(model.named_parameters())
    assert all(
        torch.equal(tensor.reshape(-1).view(torch.uint8), now[name].data.reshape(-1).view(torch.uint8)) for name, tensor in before.items()
    )
