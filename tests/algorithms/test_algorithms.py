"""Laws that hold for every algorithm, on every kind of layer that it can change."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lib_lycoris.algorithms import ALGORITHMS, SUFFIXES, Algorithm, Config, Convolution, DoRA, Layer, parse
from lib_lycoris.algorithms.lora import LoRA
from lib_lycoris.algorithms.oft import OFT
from lib_lycoris.errors import NetworkFormatError
from tests.samples import CONFIGS, LAYERS, builders, full, ia3_in, loha, lokr, lora, oft

CASES = [(kind, name) for kind in LAYERS for name in builders(kind)]


def made(kind: str, name: str, seed: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shape = LAYERS[kind][1]
    return torch.randn(shape, generator=generator), builders(kind)[name](generator, shape)


def parsed(name: str, tensors: dict[str, torch.Tensor]) -> dict[str, Algorithm]:
    """Return a sample's algorithms, with the config that PEFT would have written beside it."""
    found, left = parse(tensors, Config(CONFIGS.get(name)))
    assert not left
    return found


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_delta_is_pure_and_of_the_weights_shape(kind: str, name: str) -> None:
    weight, tensors = made(kind, name)
    copies = {suffix: tensor.clone() for suffix, tensor in tensors.items()}
    for leaf, algorithm in parsed(name, tensors).items():
        base = weight if leaf == "weight" else torch.randn(weight.shape[0])
        before = base.clone()
        delta = algorithm.delta(base)
        assert algorithm.check_shape(tuple(base.shape)) is None
        assert delta.shape == base.shape
        assert delta.dtype == torch.float32
        assert torch.isfinite(delta).all()
        assert delta.abs().max() > 1e-3
        assert not algorithm.is_zero
        assert torch.equal(base, before)
    assert all(torch.equal(tensors[suffix], copy) for suffix, copy in copies.items())


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_written_tensors_read_the_same(kind: str, name: str) -> None:
    weight, tensors = made(kind, name)
    for leaf, algorithm in parsed(name, tensors).items():
        if leaf == "weight":
            again = parsed(name, algorithm.to_state_dict())["weight"]
            assert type(again) is type(algorithm)
            assert torch.equal(again.delta(weight), algorithm.delta(weight))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_half_precision_files_are_upcast_first(kind: str, name: str) -> None:
    """A file in bfloat16 gives the delta of the rounded tensors computed in float32, not a product in bfloat16."""
    weight, tensors = made(kind, name)
    rounded = {s: t.to(torch.bfloat16) if t.is_floating_point() else t for s, t in tensors.items()}
    upcast = {s: t.float() if t.is_floating_point() else t for s, t in rounded.items()}
    for leaf, algorithm in parsed(name, rounded).items():
        base = weight if leaf == "weight" else weight.reshape(weight.shape[0], -1)[:, 0].clone()
        torch.testing.assert_close(algorithm.delta(base), parsed(name, upcast)[leaf].delta(base), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_additive_ones_ignore_the_weight_and_the_others_do_not(kind: str, name: str) -> None:
    weight, tensors = made(kind, name)
    for leaf, algorithm in parsed(name, tensors).items():
        base = weight if leaf == "weight" else weight.reshape(weight.shape[0], -1)[:, 0].clone()
        same = torch.equal(algorithm.delta(base), algorithm.delta(base.roll(1, 0) * 2 + 1))
        assert same != algorithm.reads_weight


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if case[0] not in ("norm", "group")])
def test_what_an_algorithm_says_of_itself_is_true(kind: str, name: str) -> None:
    """Exact factors, the scaled algorithm, rows of it and the energy, where it has them; sums written in place."""
    weight, tensors = made(kind, name)
    for leaf, algorithm in parsed(name, tensors).items():
        base = (weight if leaf == "weight" else weight.reshape(weight.shape[0], -1)[:, 0].clone()).double()
        delta, near = algorithm.delta(base), {"rtol": 1e-5, "atol": 1e-6}
        if pair := algorithm.low_rank(base.shape, base) if base.dim() > 1 else None:
            torch.testing.assert_close((pair[0].double() @ pair[1].double()).reshape(base.shape), delta, rtol=1e-4, atol=1e-5)
            assert (algorithm.low_rank(base.shape) is None) == algorithm.reads_weight
        if scaled := algorithm.scaled(-0.7):
            torch.testing.assert_close(scaled.delta(base), -0.7 * delta, **near)
        if part := algorithm.rows(slice(2, 7)):
            torch.testing.assert_close(part.delta(base[2:7]), delta[2:7], **near)
        if base.dim() > 1 and (energy := algorithm.energy(base.shape)) is not None:
            assert energy == pytest.approx(float(delta.square().sum()), rel=1e-4)
        total = base.clone()
        algorithm.add_delta(total, total, base, 0.3)
        torch.testing.assert_close(total, base + 0.3 * delta, **near)
        beside = torch.empty_like(base)
        algorithm.add_delta(beside, base, base, 0.3)
        assert torch.equal(beside, total), "a sum beside the base has the bits of one in place"


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if case[0] not in ("norm", "group")])
def test_the_activation_side_form_is_the_delta(kind: str, name: str) -> None:
    """Δy from factors equals ΔW·x, in float64 to 1e-9, for linear, pointwise, 3x3 and strided layers, padded with zeros or a circle."""
    weight, tensors = made(kind, name)
    algorithm = parsed(name, tensors).get("weight")
    if algorithm is None:
        assert name in ("bias_only", "beft")
        return
    weight = weight.double()
    convolutions: list[Convolution | None] = [None]
    if weight.dim() == 4:
        edge, step = weight.shape[2] // 2, 2 if kind == "strided" else 1
        convolutions = [Convolution((step, step), (edge, edge), (1, 1), 1, mode, (edge,) * 4) for mode in ("zeros", "circular")]
    for convolution in convolutions:
        layer = Layer(lambda: weight, weight.shape, weight.device, torch.float64, convolution)
        x = torch.randn(2, 5, weight.shape[1]).double() if convolution is None else torch.randn(2, weight.shape[1], 7, 6).double()
        got = algorithm.bypass(layer)(x, layer.base(x))
        want = F.linear(x, algorithm.delta(weight)) if convolution is None else convolution(x, algorithm.delta(weight))
        assert (got - want).abs().max() <= 1e-9 * max(1.0, want.abs().max().item())


@pytest.mark.parametrize("build", [lora, loha, lokr])
def test_alpha_over_rank_scales_the_delta(build) -> None:  # type: ignore[no-untyped-def]
    weight = torch.randn(16, 24)
    tensors = build(torch.Generator().manual_seed(3), (16, 24))
    once, twice = parse(tensors)[0]["weight"], parse({**tensors, "alpha": tensors["alpha"] * 2})[0]["weight"]
    torch.testing.assert_close(twice.delta(weight), 2 * once.delta(weight))
    without = parse({k: v for k, v in tensors.items() if k != "alpha"})[0]["weight"]
    torch.testing.assert_close(without.delta(weight), once.delta(weight) * 3 / 2)  # rank 3, alpha 2


def test_rotations_keep_the_angles_between_columns() -> None:
    weight, tensors = made("linear", "oft")
    turned = weight + parse(tensors)[0]["weight"].delta(weight)
    torch.testing.assert_close(turned.T @ turned, weight.T @ weight, rtol=1e-5, atol=1e-4)


def test_kohyas_zero_constraint_freezes_and_lycoris_does_not() -> None:
    blocks = oft(torch.Generator().manual_seed(0), (16, 24))
    weight = torch.randn(16, 24)
    assert not OFT.from_state_dict(blocks, zero_constraint_freezes=True).delta(weight).any()
    assert OFT.from_state_dict(blocks).delta(weight).abs().max() > 0.1


@pytest.mark.parametrize("per_output", [True, False])
def test_dora_gives_every_row_or_column_its_magnitude(per_output: bool) -> None:
    weight, tensors = made("convolution", "dora_out" if per_output else "dora_in")
    algorithm = parse(tensors)[0]["weight"]
    assert isinstance(algorithm, DoRA)
    axes = [1, 2, 3] if per_output else [0, 2, 3]
    norms = torch.linalg.vector_norm(weight + algorithm.delta(weight), dim=axes)
    torch.testing.assert_close(norms, tensors["dora_scale"].flatten().abs(), rtol=1e-4, atol=1e-5)


def test_exactly_one_algorithm_detects_a_module() -> None:
    for kind, name in CASES:
        tensors = made(kind, name)[1]
        found = [a for a in ALGORITHMS if a.detects(tensors, Config(CONFIGS.get(name)))]
        if len(found) > 1:  # LoRA's two factors and what makes another algorithm of them: that one is tried first
            assert found[-1] is LoRA
            found.pop()
        assert len(found) == (0 if name in ("bias_only", "beft") else 1), (kind, name, found)
        assert set(tensors) <= SUFFIXES


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": torch.ones(3)},
        {"hada_w1_a": torch.ones(3, 1)},
        {"lokr_w1": torch.ones(2, 2)},
        {"alpha": torch.ones(())},
    ],
)
def test_an_unknown_set_of_tensors_is_named(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(NetworkFormatError, match=next(iter(tensors))):
        parse(tensors)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_wrong_shape_is_refused_with_both_shapes(kind: str, name: str) -> None:
    shape = LAYERS[kind][1]
    for leaf, algorithm in parsed(name, made(kind, name)[1]).items():
        wrong = tuple(n + 1 for n in shape) if leaf == "weight" else (shape[0] + 1,)
        problem = algorithm.check_shape(wrong)
        if name == "peft_oft_output":  # its last block may be cut off: 16 outputs of 20 fit, so do 17
            wrong = (40, *shape[1:])
            problem = algorithm.check_shape(wrong)
        if name in ("shira", "supertuning"):  # entries of a layer say nothing of its size but that they lie in it
            wrong = (2, 1)
            problem = algorithm.check_shape(wrong)
        assert problem is not None
        assert str(wrong[0]) in problem or str(wrong) in problem


def test_linear_factors_serve_convolutions_and_the_other_way_round() -> None:
    """Factors shaped for a 1x1 convolution on a linear layer, and flat ones on a convolution, give the same numbers."""
    generator = torch.Generator().manual_seed(5)
    flat, weight = lora(generator, (16, 24)), torch.randn(16, 24)
    shaped = {k: v[..., None, None] if v.dim() else v for k, v in flat.items()}
    torch.testing.assert_close(parse(shaped)[0]["weight"].delta(weight), parse(flat)[0]["weight"].delta(weight))
    whole = lora(generator, (16, 8, 3, 3))
    old = {
        **whole,
        "lora_down.weight": whole["lora_down.weight"].flatten(1),
        "lora_up.weight": whole["lora_up.weight"].flatten(1),
    }
    kernel = torch.randn(16, 8, 3, 3)
    assert torch.equal(parse(old)[0]["weight"].delta(kernel), parse(whole)[0]["weight"].delta(kernel))


def test_bias_beside_a_weight_is_a_patch_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    found, _ = parse(full(generator, (16, 24)))
    assert set(found) == {"weight", "bias"}
    peft, _ = parse({**lora(generator, (16, 24)), "lora_B.bias": torch.full((16,), 3.0)})
    torch.testing.assert_close(peft["bias"].delta(torch.zeros(16)), torch.full((16,), 2.0))  # times alpha / rank = 2 / 3
    assert set(parse(ia3_in(generator, (16, 24)))[0]) == {"weight"}
