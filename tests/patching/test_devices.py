"""On another device than the CPU every tensor of ours lives where the layer lives, and a forward neither copies nor waits."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib_lycoris import Activation, Patcher, load
from lib_lycoris.hosts.webui.adapters.forge_layers import ForgeLayers
from lib_lycoris.networks.writer import save
from lib_lycoris.patching.live.layer_access import LayerAccess
from tests.patching.quantised import STAND_INS
from tests.patching.test_fused import WIDTH, OpenClipBlock
from tests.patching.test_layer_access import ALGORITHMS as STORED
from tests.patching.test_layer_access import stored_in
from tests.patching.test_other_layers import RMSNorm, model
from tests.patching.test_patching import ALGORITHMS
from tests.patching.test_quantised_layers import COLUMNS, ROWS, flux, write
from tests.pretended_device import DEVICE, Device, Placed, move, places, strict
from tests.samples import LINEAR
from tests.tiny_model import MODES, TinyModel, networks, write_network


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
@pytest.mark.parametrize("mode", ["functional", "merged", "recompute"])  # auto is one of them
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_forward_stays_on_the_device(algorithm: str, mode: Any, x: Tensor, tmp_path: Path) -> None:
    """What is prepared may be copied there once; from then on nothing crosses, nothing waits, and the values are the CPU's."""
    model = TinyModel()
    network = load(write_network(tmp_path / "n.safetensors", algorithm, 1), Patcher(model).base, torch.float32)
    here = Patcher(model)
    here.apply([Activation(network, lambda name: 0.7)], mode)
    wanted = model(x)
    here.restore()
    move(model, True)
    with Device():
        there = Patcher(model)
        there.apply([Activation(network, lambda name: 0.7)], mode)
        model(Placed(x))
        with strict():
            found = model(Placed(x))
    assert found.device == DEVICE
    torch.testing.assert_close(found.value, wanted, rtol=1e-4, atol=1e-4)


class Ramp:
    """A strength that grows with the steps."""

    def value(self, step: int, steps: int) -> float:
        return step / steps


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_a_strength_that_varies_brings_nothing_from_the_cpu(mode: Any, x: Tensor, tmp_path: Path) -> None:
    """A new step is prepared from what lies on the device."""
    model = TinyModel()
    found = networks(tmp_path, Patcher(model), ["lora", "loha", "lokr", "boft", "dora_out", "glora", "tlora", "norm"])
    move(model, True)
    with Device():
        patcher = Patcher(model)
        patcher.apply([Activation(network, lambda name: Ramp()) for network in found.values()], mode)
        patcher.step(1, 4)
        model(Placed(x))
        seen = [Placed(x)]
        with strict():
            for step in (2, 3, 2):
                patcher.step(step, 4)
                seen.append(model(seen[0]))
    assert torch.equal(seen[1].value, seen[3].value) and not torch.equal(seen[1].value, seen[2].value)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_any_history_of_moves_ends_with_the_same_values(seed: int, x: Tensor, tmp_path: Path) -> None:
    """Random networks, strengths, ways and steps while the model moves to the device and back, as programs with little memory do."""
    chance, model, twin = random.Random(seed), TinyModel(seed), TinyModel(seed)
    patcher, fresh = Patcher(model), Patcher(twin)
    found = networks(tmp_path, patcher, ["lora", "loha", "lokr", "oft", "boft", "glora", "ia3_in", "full", "norm", "dora_out"])
    with Device():
        for _ in range(25):
            there = chance.random() < 0.5
            move(model, there)
            chosen = [(found[name], chance.choice([0.0, 0.7, -0.5, Ramp()])) for name in chance.sample(sorted(found), 2)]
            activations = [Activation(network, lambda name, s=s: s) for network, s in chosen]  # type: ignore[misc]
            mode: Any = chance.choice(MODES)
            step = chance.randint(0, 4)
            for one in (patcher, fresh):
                one.step(step, 4)
                one.apply(activations, mode)
            got, wanted = model(Placed(x) if there else x), twin(x)
            torch.testing.assert_close(got.value if there else got, wanted, rtol=1e-4, atol=1e-4)
    move(model, False)
    patcher.restore()
    fresh.restore()
    assert torch.equal(model(x), twin(x))


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("algorithm", ["lora", "lokr", "oft", "dora_out", "full"])
def test_an_attention_stays_on_the_device(algorithm: str, mode: Any, tmp_path: Path) -> None:
    """Its projections have no layer of their own."""
    tensors: dict[str, Tensor] = {}
    for seed, part in enumerate(("self_attn_q_proj", "self_attn_v_proj", "self_attn_out_proj")):
        made = LINEAR[algorithm](torch.Generator().manual_seed(seed), (WIDTH, WIDTH))
        tensors |= {f"lora_te_text_model_encoder_layers_0_{part}.{suffix}": tensor for suffix, tensor in made.items()}
    save(tmp_path / "te.safetensors", tensors)
    model, tokens, outputs = OpenClipBlock(), torch.randn(6, 2, WIDTH), []
    with Device():
        for value in (tokens, Placed(tokens)):
            move(model, isinstance(value, Placed))
            patcher = Patcher(model, "sd2")
            patcher.apply([Activation(load(tmp_path / "te.safetensors", patcher.base, torch.float32), lambda name: 0.7)], mode)
            model(value)
            with strict():
                outputs.append(model(value))
            patcher.restore()
    torch.testing.assert_close(outputs[1].value, outputs[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["functional", "merged", "recompute"])
@pytest.mark.parametrize("access", [LayerAccess, ForgeLayers])
@pytest.mark.parametrize("algorithm", STORED)
def test_layers_that_cast_what_they_store_stay_on_the_device(algorithm: str, access: Any, mode: Any, x: Tensor, tmp_path: Path) -> None:
    """As webuis have them: stored in half precision, computed with in the input's dtype; read as torch's layers are, and as Forge's are."""
    (model, _), outputs = stored_in(torch.bfloat16), []
    path = write_network(tmp_path / "n.safetensors", algorithm, 1)
    with Device():
        for value in (x, Placed(x)):
            move(model, isinstance(value, Placed))
            patcher = Patcher(model, "sd1", access())
            patcher.apply([Activation(load(path, patcher.base, torch.float32), lambda name: 0.7)], mode)
            model(value)
            with strict():
                outputs.append(model(value))
            patcher.restore()
    torch.testing.assert_close(outputs[1].value, outputs[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["functional", "merged", "recompute"])
@pytest.mark.parametrize("algorithm", ["lora", "loha", "dora_out", "oft", "ia3_out", "full", "bias_only"])
def test_a_quantised_layer_stays_on_the_device(algorithm: str, mode: Any, tmp_path: Path) -> None:
    """What is added is computed where the packed numbers lie; nothing of them is unpacked elsewhere."""
    torch.manual_seed(0)
    patcher, layer = flux(STAND_INS["four bits"](nn.Linear(COLUMNS, ROWS)))
    weight: Any = layer.weight
    state, x, outputs = weight.quant_state, torch.randn(5, COLUMNS), []
    network = Activation(load(write(tmp_path / "n.safetensors", algorithm), patcher.base), lambda name: 0.7)
    with Device():
        for there in (False, True):
            move(layer, there)
            moved = [places(tensor, there) for tensor in (state.absmax, state.code)]
            layer.weight.quant_state = replace(state, absmax=moved[0], code=moved[1])  # type: ignore[union-attr]
            patcher.apply([network], mode)
            layer(places(x, there))
            with strict():
                outputs.append(layer(places(x, there)))
            patcher.restore()
    torch.testing.assert_close(outputs[1].value, outputs[0], rtol=1e-4, atol=1e-4)


NORM, TABLE = "diffusion_model.double_blocks.0.img_attn.norm.query_norm", "text_model.embeddings.token_embedding"


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["scale", "weight", "table"])
def test_norms_of_somebody_s_own_and_tables_stay_on_the_device(kind: str, mode: Any, tmp_path: Path) -> None:
    """What is merged always: a vector beside no bias, and a table that whole numbers look into."""
    is_table, outputs = kind == "table", []
    name, family = (TABLE, "sd1") if is_table else (NORM, "flux")
    layer = nn.Embedding(40, 8) if is_table else RMSNorm(8, kind)
    live, x = model(**{name.replace(".", "__"): layer}), torch.arange(6)[None] if is_table else torch.rand(3, 8)
    key = "lora_te_text_model_embeddings_token_embedding" if is_table else name
    save(tmp_path / "n.safetensors", {f"{key}.diff": torch.randn(40, 8) if is_table else torch.randn(8)})
    with Device():
        for there in (False, True):
            move(live, there)
            patcher = Patcher(live, family)
            patcher.apply([Activation(load(tmp_path / "n.safetensors", patcher.base, torch.float32), lambda name: 0.7)], mode)
            layer(places(x, there))
            with strict():
                outputs.append(layer(places(x, there)))
            patcher.restore()
            assert not torch.equal(places(layer(places(x, there)), False), places(outputs[-1], False)), "the change must show"
    torch.testing.assert_close(outputs[1].value, outputs[0], rtol=1e-5, atol=1e-5)
