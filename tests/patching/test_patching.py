"""Networks on a live model: both paths agree, order does not matter, and nothing is left behind whatever happens in between."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lib_lycoris
from lib_lycoris import Activation, Network, Patcher
from lib_lycoris.errors import LycorisError, ModelMismatchError
from tests.samples import LAYERS, builders
from tests.tiny_model import MODES, TinyModel, networks, write_network

ALGORITHMS = sorted({name for kind in LAYERS for name in builders(kind)})
HALF_ON_CPU = tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2]) >= (2, 3)
DTYPES = [torch.float32, torch.bfloat16, *([torch.float16] if HALF_ON_CPU else [])]
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 8e-2}  # of the largest output


def constant(network: Network, strength: float) -> Activation:
    return Activation(network, lambda name: strength)


class Ramp:
    """A strength that grows with the steps."""

    def value(self, step: int, steps: int) -> float:
        return step / steps


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, *(pytest.param(half, marks=pytest.mark.slow) for half in DTYPES[1:])], ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_both_paths_agree_in_every_dtype(algorithm: str, dtype: torch.dtype, x: Tensor, tmp_path: Path) -> None:
    """The output in a dtype is, on both paths, that of the float32 model with the same change within the dtype's tolerance."""
    truth, model = TinyModel(), TinyModel().to(dtype)
    truth.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
    exact = Patcher(truth)
    network = networks(tmp_path, exact, [algorithm])[algorithm]
    base = truth(x.to(dtype).float())
    exact.apply([constant(network, 0.7)], "merged")
    want = truth(x.to(dtype).float())
    assert (want - base).abs().max() > 1e-3
    patcher = Patcher(model)
    for mode in MODES:
        patcher.apply([constant(network, 0.7)], mode)
        got = model(x.to(dtype))
        assert got.dtype == dtype
        assert (got.float() - want).abs().max() <= TOLERANCE[dtype] * max(1.0, want.abs().max().item()), mode


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_the_order_of_tags_never_matters(mode: str, x: Tensor, tmp_path: Path) -> None:
    model = TinyModel()
    patcher = Patcher(model)
    found = networks(tmp_path, patcher, ["lora", "oft", "loha", "dora_out", "glora", "full"])
    activations = [constant(network, 0.3 + 0.1 * i) for i, network in enumerate(found.values())]
    activations.append(constant(found["lora"], -0.2))  # the same file twice adds up
    outputs = []
    for order in (activations, activations[::-1], activations[3:] + activations[:3]):
        patcher.apply(order, mode)  # type: ignore[arg-type]
        outputs.append(model(x))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@torch.no_grad()
def test_the_same_network_twice_adds_up(x: Tensor, tmp_path: Path) -> None:
    model = TinyModel()
    patcher = Patcher(model)
    network = networks(tmp_path, patcher, ["dora_in"])["dora_in"]
    patcher.apply([constant(network, 0.5), constant(network, 0.25)], "merged")
    twice = model(x)
    patcher.apply([constant(network, 0.75)], "merged")
    torch.testing.assert_close(twice, model(x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_a_schedule_follows_the_steps(mode: str, x: Tensor, tmp_path: Path) -> None:
    model = TinyModel()
    base = model(x)
    patcher = Patcher(model)
    network = networks(tmp_path, patcher, ["loha"])["loha"]
    patcher.apply([Activation(network, lambda name: Ramp())], mode)  # type: ignore[arg-type]
    patcher.step(0, 4)
    assert torch.equal(model(x), base)
    for step in (1, 3, 2):
        patcher.step(step, 4)
        moving = model(x)
        other = Patcher(still := copy.deepcopy(TinyModel()))
        other.apply([constant(network, step / 4)], mode)  # type: ignore[arg-type]
        assert torch.equal(moving, still(x))


@torch.no_grad()
def test_block_weights_are_one_function_of_the_parameter(x: Tensor, tmp_path: Path) -> None:
    """A network at strength 0 on some layers is the network without these layers."""
    model = TinyModel()
    patcher = Patcher(model)
    network = networks(tmp_path, patcher, ["lora"])["lora"]
    patcher.apply([Activation(network, lambda name: 0.8 if "transformer_blocks" in name else 0.0)], "functional")
    part = {name: patch for name, patch in network.patches.items() if "transformer_blocks" in name}
    got = model(x)
    cut = Network(**{**network.__dict__, "patches": part})
    patcher.apply([constant(cut, 0.8)], "functional")
    assert torch.equal(got, model(x))
    assert patcher.layer(model.named("convolution")) is None


@torch.no_grad()
def test_only_targeted_layers_are_hooked_and_parameters_stay_what_they_are(x: Tensor, tmp_path: Path) -> None:
    model = TinyModel()
    before = {name: (id(p), p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}
    patcher = Patcher(model)
    network = networks(tmp_path, patcher, ["tlora"])["tlora"]  # linear layers alone
    for mode in MODES:
        patcher.apply([constant(network, 1.0)], mode)  # type: ignore[arg-type]
        model(x)
        hooked = {name for name, module in model.named_modules() if "forward" in module.__dict__}
        assert hooked == {LAYERS[kind][0] for kind in ("linear", "biased", "text")}
        for name, parameter in model.named_parameters():
            assert (id(parameter), parameter.data_ptr()) == before[name][:2]
            assert torch.equal(parameter, before[name][2])
    patcher.restore()
    assert not any("forward" in module.__dict__ for module in model.modules())


@torch.no_grad()
def test_another_programs_forward_on_a_layer_is_kept(x: Tensor, tmp_path: Path) -> None:
    """A forward that someone else set on the module is called inside ours, and one set later stays when we go."""
    model = TinyModel()
    layer = model.named("linear")
    calls: list[int] = []

    def counted(value: Tensor) -> Tensor:
        calls.append(1)
        return type(layer).forward(layer, value)

    layer.forward = counted  # type: ignore[method-assign]
    base = model(x)
    patcher = Patcher(model)
    network = networks(tmp_path, patcher, ["lora"])["lora"]
    patcher.apply([constant(network, 1.0)])
    assert not torch.equal(model(x), base)
    patcher.restore()
    assert torch.equal(model(x), base)
    assert len(calls) == 3
    assert layer.forward is counted
    patcher.apply([constant(network, 1.0)])
    ours = layer.forward
    layer.forward = later = lambda value: ours(value)  # type: ignore[method-assign]
    patcher.restore()
    assert layer.forward is later
    assert torch.equal(model(x), base)


@torch.no_grad()
def test_apply_in_plain_python(x: Tensor, tmp_path: Path) -> None:
    """The context manager takes paths, reports, and restores after an error too."""
    model = TinyModel()
    base = model(x)
    path = write_network(tmp_path / "style.safetensors", "lokr", 1)
    with lib_lycoris.apply(model, {path: 0.7}) as report:
        assert report.networks[0].matched == len([k for k in LAYERS if "lokr" in builders(k)])
        assert not report.problems
        assert not torch.equal(model(x), base)
    with pytest.raises(ZeroDivisionError), lib_lycoris.apply(model, {path: 0.7}):
        model(torch.ones(2, 8, 8, 8))
        raise ZeroDivisionError
    assert torch.equal(model(x), base)


@torch.no_grad()
def test_networks_are_given_in_one_call(x: Tensor, tmp_path: Path) -> None:
    """A second set on the same layers is refused: its deltas could not be computed from the base weight."""
    model = TinyModel()
    path = write_network(tmp_path / "style.safetensors", "oft", 1)
    with lib_lycoris.apply(model, {path: 0.7}):
        before = model(x)
        with pytest.raises(ModelMismatchError, match="in one call"), lib_lycoris.apply(model, {path: 0.2}):
            model(x)
        assert torch.equal(model(x), before)


@torch.no_grad()
def test_a_layer_without_a_bias_gets_one(tmp_path: Path) -> None:
    """A bias delta on such a layer is added on both paths, and gone afterwards."""
    model = TinyModel()
    layer = model.named("linear")
    patcher = Patcher(model)
    network = networks(tmp_path, patcher, ["bias_only"])["bias_only"]
    x = torch.randn(2, 24)
    base = layer(x)
    name = LAYERS["linear"][0] + ".bias"
    for mode in MODES:
        report = patcher.apply([constant(network, -0.5)], mode)  # type: ignore[arg-type]
        assert not report.problems
        torch.testing.assert_close(layer(x) - base, -0.5 * network.patches[name].delta(torch.zeros(16)).expand(2, -1))
    patcher.restore()
    assert layer.bias is None
    assert torch.equal(layer(x), base)


@torch.no_grad()
def test_a_network_that_does_not_fit_changes_nothing(x: Tensor, tmp_path: Path) -> None:
    """The error names the file, and the networks that were on stay on."""
    model = TinyModel()
    patcher = Patcher(model)
    good = networks(tmp_path, patcher, ["lora"])["lora"]
    patcher.apply([constant(good, 1.0)])
    before = model(x)
    other = TinyModel()
    put_wide = nn.Linear(48, 16)
    other.get_submodule("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2").to_k = put_wide
    with pytest.raises(ModelMismatchError, match="lora"):
        Patcher(other).apply([constant(good, 1.0)])
    assert not any("forward" in module.__dict__ for module in other.modules())
    bad = Network(**{**good.__dict__, "patches": {"diffusion_model.nowhere.weight": next(iter(good.patches.values()))}, "name": "bad"})
    with pytest.raises(ModelMismatchError, match="bad fits no layer"):
        patcher.apply([constant(good, 1.0), constant(bad, 1.0)])
    assert torch.equal(model(x), before)


@torch.no_grad()
def test_dyn_is_said_once_where_it_changes_nothing(tmp_path: Path) -> None:
    model = TinyModel()
    patcher = Patcher(model)
    found = networks(tmp_path, patcher, ["oft", "lora"])
    report = patcher.apply([Activation(found["oft"], lambda name: 1.0, 2), Activation(found["lora"], lambda name: 1.0, 2)])
    assert len(report.problems) == 1
    assert report.problems[0].startswith("oft: dyn=2")


class Storm:
    """Random transitions on a model with networks and on its twin without."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.model, self.twin = TinyModel(seed), TinyModel(seed)
        self.patcher = Patcher(self.model)
        self.networks = networks(
            folder, self.patcher, ["lora", "loha", "lokr", "oft", "boft", "glora", "ia3_in", "full", "norm", "dora_out", "tlora"]
        )
        self.active: tuple[list[Activation], str] = ([], "functional")
        self.place = (0, 1)

    def both(self, change: Callable[[nn.Module], object]) -> None:
        change(self.model)
        change(self.twin)

    def apply(self) -> None:
        chosen = self.random.sample(sorted(self.networks), self.random.randint(0, 3))
        strengths = {name: self.random.choice([0.0, 0.7, -0.5, 1.0, Ramp()]) for name in chosen}
        activations = [Activation(self.networks[name], lambda _, s=strengths[name]: s) for name in chosen]  # type: ignore[misc]
        self.active = (activations, self.random.choice(MODES))
        self.patcher.apply(*self.active)  # type: ignore[arg-type]

    def again(self) -> None:
        """The next image of the same prompt."""
        self.patcher.pause()
        self.patcher.apply(*self.active)  # type: ignore[arg-type]

    def restore(self) -> None:
        self.active = ([], self.active[1])
        self.patcher.restore()

    def step(self) -> None:
        self.place = (self.random.randint(0, 4), 4)
        self.patcher.step(*self.place)

    def dtype(self) -> None:
        dtype = self.random.choice([torch.float32, torch.float32, torch.bfloat16, torch.float64])
        self.both(lambda model: model.to(dtype))

    def device(self) -> None:
        """Move every parameter to new memory, as a move between devices does, or to another memory layout."""
        layout = self.random.choice([torch.channels_last, torch.contiguous_format])
        self.both(lambda model: model._apply(lambda t: t.clone()).to(memory_format=layout))

    def load(self) -> None:
        state = {name: torch.randn(value.shape, generator=torch.Generator().manual_seed(self.random.randint(0, 99))) * 0.3
                 for name, value in self.twin.state_dict().items()}  # fmt: skip
        self.both(lambda model: model.load_state_dict(state))

    def write(self) -> None:
        """Another program writes into a weight in place, as the webui's built-in loader does."""
        name = self.random.choice([name for name, _ in self.twin.named_parameters()])
        self.both(lambda model: model.get_parameter(name).detach().mul_(1.1))

    def transition(self) -> None:
        getattr(self, self.random.choice(["apply", "apply", "again", "restore", "step", "dtype", "device", "load", "write"]))()

    def check(self, x: Tensor) -> None:
        """The model computes what one computes that never saw the past: the twin with the same networks put on afresh."""
        x = x.to(next(self.twin.parameters()).dtype)
        fresh = copy.deepcopy(self.twin)
        patcher = Patcher(fresh)
        patcher.step(*self.place)
        patcher.apply(*self.active)  # type: ignore[arg-type]
        assert torch.equal(self.model(x), fresh(x))


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_any_history_ends_with_the_twins_bits(seed: int, x: Tensor, tmp_path: Path) -> None:
    """300 random transitions each: apply, the same again, restore, step, load_state_dict, dtype, memory, in-place writes; 2,400 in all."""
    storm = Storm(seed, tmp_path)
    for index in range(300):
        storm.transition()
        if index % 5 == 0:
            storm.check(x)
    storm.restore()
    storm.both(lambda model: model.to(torch.float32))
    assert torch.equal(storm.model(x), storm.twin(x))
    for name, parameter in storm.twin.state_dict().items():
        assert torch.equal(storm.model.state_dict()[name], parameter)
    assert not any("forward" in module.__dict__ for module in storm.model.modules())


@pytest.mark.parametrize(("strength", "mode", "named"), [(float("nan"), "auto", "nan"), ("x", "auto", "'x'"), (1.0, "foo", "'foo'")])
def test_wrong_arguments_are_named(strength: object, mode: str, named: str, tmp_path: Path) -> None:
    model = TinyModel()
    path = write_network(tmp_path / "style.safetensors", "lora", 1)
    with pytest.raises(LycorisError, match=named), lib_lycoris.apply(model, {path: strength}, mode):  # type: ignore[dict-item,arg-type]
        model(torch.ones(2, 8, 8, 8))
    assert not any("forward" in module.__dict__ for module in model.modules())


@torch.no_grad()
def test_a_list_of_networks_has_strength_1_each(x: Tensor, tmp_path: Path) -> None:
    model = TinyModel()
    path = write_network(tmp_path / "style.safetensors", "lokr", 1)
    with lib_lycoris.apply(model, {path: 1.0}):
        expected = model(x)
    with lib_lycoris.apply(model, [path]):
        assert torch.equal(model(x), expected)
    for wrong, named in ((str(path), "as a list"), ([path, path], "twice"), ([(path, 0.7)], "as a list")):
        with pytest.raises(LycorisError, match=named), lib_lycoris.apply(model, wrong):  # type: ignore[arg-type]
            model(x)
