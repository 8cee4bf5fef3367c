"""The ways of applying networks beside each other: what each keeps, what is shared, which one is chosen, and that memory is given back."""

from __future__ import annotations

import gc
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib_lycoris import Activation, Network, Patcher, load
from lib_lycoris.algorithms import LowRank
from lib_lycoris.algorithms.activation import BlockRows, Convolution, Cost, Layer
from lib_lycoris.algorithms.oft import RotationMatrix
from lib_lycoris.hosts.library.cache import NetworkCache
from lib_lycoris.networks.reading.reader import open_file
from lib_lycoris.networks.writer import save
from lib_lycoris.patching.cost import is_cheaper_beside
from lib_lycoris.patching.layers.layer import PatchedLayer
from lib_lycoris.patching.workspace import LENT_SHARE
from tests.corpus_loader import put
from tests.samples import LAYERS
from tests.tiny_model import TinyModel, networks, write_network

LINEAR = LAYERS["linear"][0]


def constant(network: Network, strength: float) -> Activation:
    return Activation(network, lambda name: strength)


def layer_of(patcher: Patcher, model: TinyModel) -> PatchedLayer:
    found = patcher.layer(model.get_submodule(LINEAR))
    assert found is not None
    return found


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def test_several_loras_of_a_layer_are_one_product(x: Tensor, tmp_path: Path) -> None:
    """The outputs' differences add up, and a layer called with both makes two thin products, not four."""
    model = TinyModel()
    patcher = Patcher(model)
    first, second = (load(write_network(tmp_path / f"{seed}.safetensors", "lora", seed), patcher.base) for seed in (1, 2))
    plain, changes = model.get_submodule(LINEAR), []
    inputs = torch.randn(3, 24)
    base = plain(inputs)
    for network, strength in ((first, 0.7), (second, -0.4)):
        patcher.apply([constant(network, strength)], "functional")
        changes.append(plain(inputs) - base)
    patcher.apply([constant(first, 0.7), constant(second, -0.4)], "functional")
    torch.testing.assert_close(plain(inputs), base + changes[0] + changes[1], rtol=1e-5, atol=1e-5)
    stack = layer_of(patcher, model)._stack
    ranks = [network.patches[LINEAR + ".weight"].rank for network in (first, second)]
    assert stack is not None and stack[1].up.shape[1] == stack[1].down.shape[0] == sum(r for r in ranks if r)


@torch.no_grad()
def test_a_merged_weight_is_made_once_and_its_memory_is_used_again(x: Tensor, tmp_path: Path) -> None:
    model = TinyModel()
    patcher = Patcher(model)
    network = networks(tmp_path, patcher, ["loha"])["loha"]
    seen = []
    for strength in (0.7, 0.7, -0.3):
        patcher.apply([constant(network, strength)], "merged")
        model(x)
        value = layer_of(patcher, model).effective["weight"]._value
        assert value is not None
        seen.append((value, value.data_ptr(), value.clone()))
        patcher.pause()  # a host does so between two images
    assert seen[0][0] is seen[1][0]  # the same tags again: nothing is computed
    assert seen[2][1] == seen[0][1] and not torch.equal(seen[2][2], seen[0][2])  # another strength: other values in the same place


@torch.no_grad()
@pytest.mark.parametrize("mode", ["auto", "functional", "merged", "recompute"])
def test_the_same_tags_again_find_all_prepared(mode: Any, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most images have the tags of the one before: nothing is decided anew for them, unless something that decides has changed."""
    model = TinyModel()
    patcher, decided = Patcher(model), []
    found = networks(tmp_path, patcher, ["loha", "lora"])
    strengths = {"loha": 0.7, "lora": -0.4}
    other: Any = "auto" if mode == "merged" else "merged"
    decide = PatchedLayer._decide

    def noted(layer: PatchedLayer, *rest: Any) -> Any:
        decided.append(layer.module)
        return decide(layer, *rest)

    monkeypatch.setattr(PatchedLayer, "_decide", noted)

    def image(names: Sequence[str] = ("loha", "lora"), way: Any = mode) -> Tensor:
        activations = [Activation(found[name], lambda _, name=name: strengths[name]) for name in names]  # type: ignore[misc]
        fresh = TinyModel()
        Patcher(fresh).apply(activations, way)
        want = fresh(x)
        decided.clear()
        report = patcher.apply(activations, way)
        assert [one.name for one in report.networks] == [found[name].name for name in names]
        y = model(x)
        assert torch.equal(y, want)
        patcher.pause()  # a host does so between two images
        return y

    first = image()
    assert decided
    image()
    assert not decided
    image(names=("lora", "loha"))
    assert not decided  # their order means nothing
    strengths["lora"] = 0.9  # of the same activations
    assert not torch.equal(image(), first) and decided
    image(names=("lora",))
    assert decided
    image(("lora",), other)
    assert decided
    patcher.workspace.merged_bytes = 0  # as a setting has it now
    image(("lora",), other)
    assert decided
    patcher.restore()
    image(("lora",), other)
    assert decided


@torch.no_grad()
def test_recompute_keeps_no_weight_and_merges_to_the_same_bits(x: Tensor, tmp_path: Path) -> None:
    model = TinyModel()
    patcher = Patcher(model)
    network = networks(tmp_path, patcher, ["lokr"])["lokr"]
    patcher.apply([constant(network, 0.7)], "merged")
    merged = model(x)
    patcher.apply([constant(network, 0.7)], "recompute")
    assert torch.equal(model(x), merged)
    layers = [layer for module in model.modules() if (layer := patcher.layer(module)) is not None]
    assert layers and all(layer.effective["weight"]._value is None for layer in layers if isinstance(layer.module, nn.Linear))
    assert patcher.workspace._scratch
    patcher.restore()
    assert not patcher.workspace._scratch


def test_the_cost_model_adds_to_few_tokens_and_makes_the_weight_for_many() -> None:
    """As measured on full SD1.5 layers: a prompt's 154 tokens want the thin products, a 64x64 image's 8192 the weight."""
    for shape in ((320, 320), (1280, 320), (320, 1280)):
        lora = Cost(16 * sum(shape), 2 * shape[0], 16 * shape[0] * shape[1], 2 * shape[0] * shape[1])
        assert is_cheaper_beside([lora], 128, "cpu")
        assert not is_cheaper_beside([lora], 8192, "cpu")


WIDE_BYTES = 320 * 320 * 4


def wide_layer(dtype: torch.dtype = torch.float32, layers: Sequence[str] = ("to_q",)) -> tuple[Patcher, nn.Linear]:
    """Return a patcher of one layer of SD1.5's size or several, and the last."""
    root = nn.Module()
    for layer in layers:
        wide = nn.Linear(320, 320, dtype=dtype)
        put(root, f"diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.{layer}", wide)
    return Patcher(root, "sd1"), wide


@torch.no_grad()
@pytest.mark.parametrize("bound", [0, 1 << 20])
def test_auto_keeps_a_weight_only_where_there_is_room(bound: int) -> None:
    """Whatever it keeps, the output is the same to the bit."""
    patcher, wide = wide_layer()
    patcher.workspace.merged_bytes = bound
    network = random_lora(patcher)
    patcher.apply([constant(network, 0.7)])
    tokens = torch.randn(8192, 320)
    layer = patcher.layer(wide)
    assert layer is not None
    assert layer.way(tokens) == ("merged" if bound else "recompute") and layer.way(tokens[:64]) == "functional"
    got = wide(tokens)
    assert (layer.effective["weight"]._value is not None) == bool(bound)
    patcher.apply([constant(network, 0.7)], "merged")
    assert torch.equal(got, wide(tokens))
    varying = Activation(network, lambda name: _Varying())
    patcher.apply([varying])
    assert patcher.layer(wide).way(tokens) == "recompute"  # type: ignore[union-attr]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("networks_are", ["small", "large"])
def test_functional_borrows_no_more_than_a_share_of_the_networks(dtype: torch.dtype, networks_are: str) -> None:
    """And in half precision nothing, where a sum with the weight would lose small changes; what it computes is the same."""
    patcher, wide = wide_layer(dtype)
    network = random_lora(patcher)
    size = wide.weight.nbytes / LENT_SHARE
    count = 1 if networks_are == "small" else round(size / network.bytes) + 1
    tokens = torch.randn(8192, 320, dtype=dtype)
    patcher.apply([constant(network, 0.7 / count)] * count, "functional")
    layer = patcher.layer(wide)
    assert layer is not None and layer.way(tokens[:64]) == "functional"
    borrows = networks_are == "large" and dtype == torch.float32
    assert layer.way(tokens) == ("recompute" if borrows else "functional")
    if dtype == torch.float32:
        got = wide(tokens)
        assert sum(t.nbytes for t in patcher.workspace._scratch.values()) <= LENT_SHARE * network.bytes * count
        assert bool(patcher.workspace._scratch) == borrows
        patcher.apply([constant(network, 0.7)], "merged")
        torch.testing.assert_close(got, wide(tokens), rtol=1e-4, atol=1e-3)


class _Varying:
    def value(self, step: int, steps: int) -> float:
        return 0.7


def random_lora(patcher: Patcher, layers: Sequence[str] = ("to_q",)) -> Network:
    generator, tensors = torch.Generator().manual_seed(3), {}
    for layer in layers:
        key = f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_{layer}"
        factors = {"lora_down.weight": torch.randn(8, 320, generator=generator), "lora_up.weight": torch.randn(320, 8, generator=generator)}
        tensors |= {f"{key}.{suffix}": tensor for suffix, tensor in factors.items()} | {f"{key}.alpha": torch.tensor(2.0)}
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "wide.safetensors", tensors)
        return load(Path(folder) / "wide.safetensors", patcher.base, torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr", "oft", "boft", "dora_in", "glora", "ia3_in", "full", "norm"])
def test_a_network_kept_for_use_computes_what_the_stored_one_does(algorithm: str, x: Tensor, tmp_path: Path) -> None:
    """Half precision in the file, float32 in the model: the kept form holds float32, once."""
    model = TinyModel()
    patcher = Patcher(model)
    path = write_network(tmp_path / "n.safetensors", algorithm, 1)
    tensors = {key: value.half() for key, value in open_file(path).read(open_file(path).tensors).items()}
    save(path, tensors)
    stored, kept = load(path, patcher.base), load(path, patcher.base, torch.float32)
    assert all(t.dtype == torch.float32 for patch in kept.patches.values() for t in patch.tensors().values() if t.is_floating_point())
    assert (algorithm == "oft") == any(isinstance(patch, RotationMatrix) for patch in kept.patches.values())
    outputs = []
    for network in (stored, kept):
        patcher.apply([constant(network, -0.6)], "functional")
        outputs.append(model(x))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
    assert 0 < kept.bytes <= 2.1 * stored.bytes


@torch.no_grad()
def test_factors_are_not_copied_for_the_layers(tmp_path: Path, x: Tensor) -> None:
    model = TinyModel()
    patcher = Patcher(model)
    network = load(write_network(tmp_path / "n.safetensors", "lora", 1), patcher.base, patcher.dtype)
    patcher.apply([constant(network, 0.5)], "functional")
    model(x)
    patch = network.patches[LINEAR + ".weight"]
    edit = layer_of(patcher, model).edits["weight"][0]
    change = edit.bypass(torch.device("cpu"), torch.float32, None)
    assert isinstance(change, LowRank)
    assert {change.up.data_ptr(), change.down.data_ptr()} == {t.data_ptr() for t in patch.tensors().values() if t.numel() > 1}


@torch.no_grad()
def test_a_rotation_is_kept_once(tmp_path: Path, x: Tensor) -> None:
    model = TinyModel()
    patcher = Patcher(model)
    network = load(write_network(tmp_path / "n.safetensors", "oft", 1), patcher.base, patcher.dtype)
    patcher.apply([constant(network, 0.5)], "functional")
    model(x)
    patch, edit = network.patches[LINEAR + ".weight"], layer_of(patcher, model).edits["weight"][0]
    change = edit.bypass(torch.device("cpu"), torch.float32, None)
    assert isinstance(patch, RotationMatrix) and isinstance(change, BlockRows)
    assert change.blocks.data_ptr() == patch.blocks.data_ptr()


def test_the_tensors_of_a_file_share_memory(tmp_path: Path) -> None:
    """One piece for each dtype that lies together; alignment and values are right for every mixture."""
    tensors = {"a": torch.randn(3, 5), "b": torch.randn(7).half(), "c": torch.tensor(2.0), "d": torch.arange(5), "e": torch.zeros(0, 4)}
    path = tmp_path / "mixed.safetensors"
    save(path, tensors)
    file = open_file(path)
    found = file.read(file.tensors)
    assert found.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor)
    assert len(file.blocks(file.tensors)) <= 4
    assert torch.equal(file.read(["c"])["c"], tensors["c"])


@torch.no_grad()
def test_add_to_is_the_same_in_every_memory_layout() -> None:
    """Convolutions in both memory formats, outputs of another dtype, and a bias that the change must not see."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(8, 16, 3, padding=1)
    geometry = Convolution((1, 1), (1, 1), (1, 1))
    layer = Layer(lambda: convolution.weight, convolution.weight.shape, torch.device("cpu"), torch.float32, geometry)
    change = LowRank(layer, torch.randn(4, 8, 3, 3), torch.randn(16, 4), scale=0.5)
    x = torch.randn(2, 8, 6, 6)
    want = convolution(x) + 0.7 * change(x, convolution(x))
    for source in (x, x.to(memory_format=torch.channels_last)):
        y = convolution.to(memory_format=torch.channels_last)(source) if source is not x else convolution(source)
        change.add_to(y, source, y, None, 0.7)
        torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
    wide = convolution(x).double()
    change.add_to(wide, x, wide, None, 0.7)
    torch.testing.assert_close(wide.float(), want, rtol=1e-5, atol=1e-5)


def test_a_graph_is_not_disturbed(tmp_path: Path) -> None:
    """With gradients the layer's own output is left alone and a lent weight is not written to again."""
    model = TinyModel()
    patcher = Patcher(model)
    network = networks(tmp_path, patcher, ["lora"])["lora"]
    inputs = torch.randn(2, 8, 8, 8, requires_grad=True)
    grads = []
    for mode in ("functional", "recompute", "merged"):
        patcher.apply([constant(network, 0.7)], mode)  # type: ignore[arg-type]
        grads.append(torch.autograd.grad(model(inputs).square().sum(), inputs)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grads[1], grads[2], rtol=1e-4, atol=1e-5)


# --- networks in memory


def test_the_least_recently_used_networks_are_forgotten_first(tmp_path: Path) -> None:
    model = TinyModel()
    base = Patcher(model).base
    paths = [write_network(tmp_path / f"{seed}.safetensors", "lora", seed) for seed in range(4)]
    loaded = NetworkCache()
    for path in (*paths, paths[0]):  # the first is used again
        loaded.get(path, base, None, torch.float32)
        loaded.end_run(1.0)
    size = loaded.get(paths[3], base, None, torch.float32)[0].bytes
    loaded.end_run(2.5 * size / (1 << 20))
    kept = {key[0] for key in loaded._found}
    assert kept == {paths[3], paths[0], paths[2]}  # that of the last run, and two within the limit
    loaded.end_run(0, count=1)
    assert {key[0] for key in loaded._found} == {paths[3]}
    loaded.forget()
    assert not loaded._found


@torch.no_grad()
@pytest.mark.parametrize("take_off", [Patcher.restore, lambda patcher: patcher.apply([])], ids=["restore", "none"])
def test_nothing_is_left_of_a_network_whose_tag_is_gone(tmp_path: Path, x: Tensor, take_off: Callable[[Patcher], object]) -> None:
    model = TinyModel()
    patcher, loaded = Patcher(model), NetworkCache()
    path = write_network(tmp_path / "n.safetensors", "lokr", 1)
    for mode in ("functional", "merged", "recompute", "auto"):
        network = loaded.get(path, patcher.base, None, patcher.dtype)[0]
        patcher.apply([constant(network, 0.5)], mode)  # type: ignore[arg-type]
        model(x)
        gone = [weakref.ref(network), *(weakref.ref(patch) for patch in network.patches.values())]
        del network
        patcher.pause()
        loaded.end_run(0)
        assert gone[0]() is not None  # used by the last prompt
        take_off(patcher)
        loaded.end_run(0)
        gc.collect()
        assert not [reference for reference in gone if reference() is not None], mode
