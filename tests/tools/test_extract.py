"""Tools that factorise: extract, resize, convert, networks into one, spectra."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_lycoris import load, models
from lib_lycoris.algorithms import parse
from lib_lycoris.algorithms.lokr import LoKr
from lib_lycoris.errors import LycorisError, ToolError
from lib_lycoris.networks import Network
from lib_lycoris.networks.hashes import model_hash
from lib_lycoris.tools.examine import compare
from lib_lycoris.tools.extract import extract
from lib_lycoris.tools.files.checkpoints.checkpoint import Checkpoint, layer_infos, open_checkpoint
from lib_lycoris.tools.files.networks.compose import placed
from lib_lycoris.tools.files.networks.network_file import delta_on, patches
from lib_lycoris.tools.jobs.progress import Cancelled, Progress
from lib_lycoris.tools.jobs.workers import one_thread_each
from lib_lycoris.tools.linalg.factorise import loha, nearest_kronecker, rotation, scaling
from lib_lycoris.tools.linalg.low_rank import MANY, gram_svd, qr_svd, randomized_svd, residual
from lib_lycoris.tools.linalg.ranks import Rule, Share, share_out, truncated_svd
from lib_lycoris.tools.merge import networks as networks_merge
from lib_lycoris.tools.merge import networks_options as networks_request
from lib_lycoris.tools.reshape import convert, resize
from tests import samples
from tests.corpus.test_corpus import CASES, arch_of, layers_of

BLOCK = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.0"
SHAPES = {
    f"{BLOCK}.attn1.to_q": (48, 32),
    f"{BLOCK}.attn2.to_k": (32, 40),
    "model.diffusion_model.input_blocks.1.1.proj_in": (32, 24, 1, 1),
    "model.diffusion_model.input_blocks.1.0.in_layers.2": (24, 16, 3, 3),
    "model.diffusion_model.input_blocks.1.0.in_layers.0": (16,),
    f"{TEXT}.mlp.fc1": (40, 32),
}
KOHYA = {
    "attn1.to_q": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "proj_in": "lora_unet_down_blocks_0_attentions_0_proj_in",
    "conv": "lora_unet_down_blocks_0_resnets_0_conv1",
    "fc1": "lora_te_text_model_encoder_layers_0_mlp_fc1",
}
OF = {
    "attn1.to_q": (48, 32), "proj_in": (32, 24, 1, 1), "conv": (24, 16, 3, 3), "fc1": (40, 32),
}  # fmt: skip


def random_weights(seed: int) -> dict[str, Tensor]:
    """Return weights and biases of a tiny SD1."""
    g = torch.Generator().manual_seed(seed)
    found = {}
    for module, shape in SHAPES.items():
        found[f"{module}.weight"] = torch.randn(shape, generator=g)
        found[f"{module}.bias"] = torch.randn(shape[0], generator=g)
    return found


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.safetensors"
    save_file(random_weights(1), path)
    return path


def tuned_by(base: Path, change: Callable[[str, Tensor], Tensor | None], name: str = "tuned.safetensors") -> Path:
    """Write a copy of a checkpoint with some tensors changed."""
    path = base.with_name(name)
    tensors = load_file(base)
    for key, value in tensors.items():
        delta = change(key, value)
        tensors[key] = value if delta is None else value + delta
    save_file(tensors, path)
    return path


def low_rank(rank: int, size: float = 0.1, seed: int = 3) -> Callable[[str, Tensor], Tensor | None]:
    """Return a change of weights (matrices) of a rank."""
    g = torch.Generator().manual_seed(seed)

    def change(key: str, value: Tensor) -> Tensor | None:
        if value.dim() < 2:
            return None
        rows, columns = value.shape[0], value[0].numel()
        made = torch.randn(rows, rank, generator=g) @ torch.randn(rank, columns, generator=g)
        return made.reshape(value.shape) * size / sqrt(rank)

    return change


def deltas(network: Network, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return what a network changes at strength 1, parts of fused parameters put together."""
    found: dict[str, dict[str, Tensor]] = {}
    shapes = {}
    for patch in patches(network, checkpoint.base):
        whole = patch.name.partition("[")[0]
        delta = delta_on(patch, checkpoint.base, lambda name, shape: weight_of(checkpoint, name, shape))
        found.setdefault(whole, {})[patch.part] = delta
        info = checkpoint.base.layers[patch.module]
        shapes[whole] = (info.shape if patch.leaf == "weight" else info.shape[:1], info.shape)
    return {name: placed(parts, *shapes[name]) for name, parts in found.items()}


def weight_of(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a base weight, or zeros where there is none."""
    places = sorted(checkpoint.places(name), key=lambda place: place.its.start)
    if not places:
        return torch.zeros(shape)
    return torch.cat([checkpoint.read(place.key)[place.rows] for place in places]).float()


def assert_same(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float) -> None:
    """Compare changes; relative to the largest value of the wanted one."""
    assert {n for n, d in got.items() if d.abs().max() > 0} == {n for n, d in wanted.items() if d.abs().max() > 0}
    for name, delta in wanted.items():
        if delta.abs().max() > 0:
            error = float((got[name] - delta).norm() / delta.norm())
            assert error <= tolerance, f"{name}: {error:.2e}"


def network_file(folder: Path, kinds: Mapping[str, str], seed: int, name: str = "net.safetensors") -> Path:
    """Write a network with a module of a kind (a function of tests.samples) for each of some layers."""
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer, kind in kinds.items():
        made = getattr(samples, kind)(g, OF[layer])
        tensors.update({f"{KOHYA[layer]}.{suffix}": value.contiguous() for suffix, value in made.items()})
    path = folder / name
    save_file(tensors, path, {"modelspec.trigger_phrase": f"word{seed}", "ss_base_model_version": "sd_v1"})
    return path


LORAS = {"attn1.to_q": "lora", "proj_in": "lora", "conv": "lora", "fc1": "lora"}
MIXED = {"attn1.to_q": "loha", "proj_in": "lora", "conv": "loha", "fc1": "lokr"}


# Decompositions


@pytest.mark.parametrize("shape", [(200, 300), (300, 200), (64, 900), (40, 40)])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3, None])
def test_the_randomised_decomposition_leaves_hardly_more_than_the_best(shape: tuple[int, int], noise: float | None) -> None:
    """Signal with any noise, and noise alone (None), which no method finds easy."""
    torch.manual_seed(5)
    matrix = torch.randn(shape) * (noise if noise is not None else 1.0) / (sqrt(shape[0]) + sqrt(shape[1]))
    if noise is not None:
        left, right = (torch.linalg.qr(torch.randn(n, 30))[0] for n in shape)
        matrix = matrix + (left * 0.9 ** torch.arange(30)) @ right.T
    best = torch.linalg.svdvals(matrix.double())
    for rank in (1, 4, 12):
        svd = randomized_svd(matrix, rank)
        left = float((matrix.double() - (svd.u.double() * svd.s.double()) @ svd.v.double()).square().sum())
        assert sqrt(left / float(best[rank:].square().sum())) <= 1.002
        assert residual(matrix, svd) == pytest.approx(left, rel=1e-3)
        assert torch.equal(svd.s, randomized_svd(matrix, rank).s)


def test_a_matrix_of_known_rank_is_found_whole() -> None:
    torch.manual_seed(6)
    matrix = torch.randn(300, 7) @ torch.randn(7, 500)
    svd = randomized_svd(matrix, 7)
    assert float(((svd.u * svd.s) @ svd.v - matrix).norm() / matrix.norm()) < 1e-5
    assert residual(matrix, svd) < 1e-9 * svd.total


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.integers(0, 1000))
def test_factors_give_the_spectrum_of_their_product(m: int, r: int, n: int, seed: int) -> None:
    """QR and a small decomposition say what the dense matrix says."""
    g = torch.Generator().manual_seed(seed)
    up, down = torch.randn(m, r, generator=g), torch.randn(r, n, generator=g)
    svd = qr_svd(up, down)
    dense = torch.linalg.svdvals((up @ down).double())
    assert torch.allclose(svd.s.double(), dense[: svd.rank], atol=1e-5 * float(dense[0]) + 1e-7)
    assert torch.allclose((svd.u * svd.s) @ svd.v, up @ down, atol=1e-4)


def test_a_kronecker_product_is_decomposed_by_its_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The singular vectors of w1 ⊗ w2 are those of w1 and w2: what is orthogonal already is not decomposed again in its full size."""
    g = torch.Generator().manual_seed(1)
    algorithm, shape = LoKr(w1=torch.randn(33, 34, generator=g), w2=torch.randn(35, 32, generator=g)), (33 * 35, 34 * 32)
    up, down = algorithm.low_rank(shape)  # type: ignore[misc]
    assert up.shape[1] == 33 * 32 > MANY
    monkeypatch.setattr(torch.linalg, "qr", lambda *_: pytest.fail("decomposed again"))
    svd, delta = qr_svd(up, down), algorithm.delta(torch.zeros(shape))
    assert bool((svd.s.diff() <= 0).all())
    torch.testing.assert_close((svd.u * svd.s) @ svd.v, delta, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(svd.u.T @ svd.u, torch.eye(1056), rtol=0, atol=1e-4)
    torch.testing.assert_close(svd.total, float(delta.double().square().sum()), rtol=1e-4, atol=0)


def test_rules_choose_what_they_say() -> None:
    """tools.md 1.7 without the off-by-one: the first rank whose sum reaches the share."""
    s = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0])
    total = float(s.square().sum())  # 86
    expected = {
        ("threshold", 1.5): 3, ("ratio", 0.2): 3, ("quantile", 0.75): 2, ("sv_cumulative", 0.75): 2, ("energy", 80 / 86): 2,
        ("sv_ratio", 4.5): 3, ("sv_fro", sqrt(84 / 86)): 3, ("fixed", 0.0): 5, ("threshold", 100.0): 1,
    }  # fmt: skip
    assert {key: Rule(*key).choose(s, total) for key in expected} == expected
    assert Rule("sv_fro", 1.0, largest=2).choose(s, total) == 2
    assert Rule("energy", 0.5).choose(torch.zeros(3), 0.0) == 0
    with pytest.raises(ToolError, match="no rule"):
        Rule("best")
    with pytest.raises(ToolError, match="from 0 to 1"):
        Rule("energy", 1.5)


@pytest.mark.parametrize("rule", [Rule("energy", 0.9), Rule("threshold", 0.3), Rule("ratio", 0.1), Rule("quantile", 0.7)])
def test_a_rule_gives_the_same_rank_without_the_whole_spectrum(rule: Rule) -> None:
    torch.manual_seed(8)
    matrix = (torch.randn(150, 80) * 0.9 ** torch.arange(80)) @ torch.randn(80, 170) / 100
    whole = gram_svd(matrix)
    assert abs(truncated_svd(matrix, rule, whole.total).rank - rule.choose(whole.s, whole.total)) <= 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 50)), min_size=1, max_size=6), st.integers(0, 400))
def test_a_size_is_never_exceeded(modules: list[tuple[int, int]], budget: int) -> None:
    shares = [Share(torch.linspace(count, 1, count), cost, 3) for count, cost in modules]
    ranks = share_out(shares, budget)
    spent = sum(rank * share.bytes_per_rank + (share.fixed_bytes if rank else 0) for rank, share in zip(ranks, shares, strict=True))
    assert spent <= budget
    assert all(rank <= share.s.numel() for rank, share in zip(ranks, shares, strict=True))


@pytest.mark.parametrize("kind", ["loha", "lokr", "lokr_whole", "lora", "lora_tucker", "loha_tucker"])
def test_closed_forms_are_exact(kind: str) -> None:
    """LoHa is a LoRA of rank r², LoKr one of rank r1 · r2, to 1e-6."""
    shape = (24, 16, 3, 3)
    algorithm = parse(getattr(samples, kind)(torch.Generator().manual_seed(2), shape))[0]["weight"]
    pair = algorithm.low_rank(shape)
    assert pair is not None
    wanted = algorithm.delta(torch.zeros(shape, dtype=torch.float64)).flatten(1)
    assert float((pair[0].double() @ pair[1].double() - wanted).norm() / wanted.norm()) < 1e-6


def test_other_algorithms_find_their_own_changes() -> None:
    torch.manual_seed(4)
    weight = torch.randn(48, 32)
    cases: list[tuple[dict[str, Tensor], Tensor]] = []
    change = torch.kron(torch.randn(6, 4), torch.randn(8, 8)) * 0.1
    cases.append((nearest_kronecker(change), change))
    change = torch.kron(torch.randn(4, 4), torch.randn(12, 2) @ torch.randn(2, 8))
    cases.append((nearest_kronecker(change, 4, 2), change))
    skew = torch.randn(6, 8, 8) * 0.2
    change = parse({"oft_blocks": skew})[0]["weight"].delta(weight)
    cases.append((rotation(weight, weight + change, 8), change))
    scaled = [weight * factor * 0.1 for factor in (torch.randn(48, 1), torch.randn(1, 32))]
    cases += [(scaling(weight, change), change) for change in scaled]
    for tensors, wanted in cases:
        got = parse(tensors)[0]["weight"].delta(weight)
        assert float((got - wanted).norm() / wanted.norm()) < 1e-5, list(tensors)


def test_loha_is_nearer_than_a_lora_of_its_rank() -> None:
    torch.manual_seed(4)
    a, b, c, d = torch.randn(64, 3), torch.randn(3, 80), torch.randn(64, 3), torch.randn(3, 80)
    change = (a @ b) * (c @ d)
    tensors = loha(change, 3, 60)
    got = parse(tensors)[0]["weight"].delta(torch.zeros(64, 80))
    assert float((got - change).square().sum()) < 0.8 * residual(change, randomized_svd(change, 3))


# Extract


def test_full_rank_gives_the_tuned_model(base: Path, tmp_path: Path) -> None:
    """Weights, biases and norms of both components, merged back in float32."""
    g = torch.Generator().manual_seed(9)
    tuned = tuned_by(base, lambda _, value: torch.randn(value.shape, generator=g) * 0.3)
    for algorithm in ("locon", "full"):
        out = tmp_path / f"{algorithm}.safetensors"
        options = {"model_org": base, "model_tuned": tuned, "save_to": out, "save_precision": "fp32"}
        result = extract.run(**options, algorithm=algorithm, dim=1000)
        assert result.report["captured"] == pytest.approx(1)
        merged, wanted = merged_weights(base, out), load_file(tuned)
        for key, value in wanted.items():
            assert float((merged[key] - value).abs().max()) < 1e-5, key


def merged_weights(base: Path, network: Path) -> dict[str, Tensor]:
    """Return a checkpoint's tensors with a network added at strength 1."""
    checkpoint = open_checkpoint(base)
    found = load_file(base)
    for name, delta in deltas(load(network, checkpoint.base), checkpoint).items():
        key = checkpoint.places(name)[0].key
        found[key] = found[key] + delta
    return found


@pytest.mark.parametrize("style", ["kohya", "diffusers", "peft", "lycoris"])
def test_a_known_difference_is_found_at_its_rank(base: Path, tmp_path: Path, style: str) -> None:
    """In every key style the file is read again as the same change; what is the same in both models is not in it."""
    tuned = tuned_by(base, low_rank(3))
    out = tmp_path / "out.safetensors"
    result = extract.run(model_org=base, model_tuned=tuned, save_to=out, dim=3, save_precision="fp32", style=style)
    assert result.report["error"] < 1e-4
    assert len(result.report["identical"]) == len(SHAPES) + 1  # biases, and the norm's weight
    merged, wanted = merged_weights(base, out), load_file(tuned)
    for key, value in wanted.items():
        assert float((merged[key] - value).abs().max()) < 1e-4, key
    network = load(out, open_checkpoint(base).base)
    assert not network.skipped
    assert network.metadata["ss_network_dim"] == "3"
    assert network.metadata["sshs_model_hash"] == model_hash(out)


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr", "oft", "ia3", "auto"])
def test_what_is_reported_is_what_is_left(base: Path, tmp_path: Path, algorithm: str) -> None:
    tuned = tuned_by(base, low_rank(6))
    out = tmp_path / "out.safetensors"
    result = extract.run(model_org=base, model_tuned=tuned, save_to=out, algorithm=algorithm, dim=4, save_precision="fp32", block=8)
    merged, wanted, plain = merged_weights(base, out), load_file(tuned), load_file(base)
    rows = {row["parameter"]: row for row in result.report["modules"]}
    checkpoint = open_checkpoint(base)
    for name, row in rows.items():
        key = checkpoint.places(name)[0].key
        left = float((merged[key] - wanted[key]).norm() / (plain[key] - wanted[key]).norm())
        assert left == pytest.approx(row["error"], abs=2e-3), name
    assert result.report["error"] < 1
    kernels = [name for name, _ in result.report["left_out"] if "in_layers.2.weight" in name]
    assert bool(kernels) == (algorithm == "lora")  # the others take convolutions too, at the same rank


def test_auto_takes_what_fits_each_module(base: Path, tmp_path: Path) -> None:
    """A Kronecker product, a rotation and scaled channels are recognised; the rest is a LoRA."""
    torch.manual_seed(1)
    changes = {
        f"{BLOCK}.attn1.to_q.weight": torch.kron(torch.randn(6, 4), torch.randn(8, 8)),
        f"{BLOCK}.attn2.to_k.weight": random_weights(1)[f"{BLOCK}.attn2.to_k.weight"] * torch.randn(32, 1),
        f"{TEXT}.mlp.fc1.weight": torch.randn(40, 2) @ torch.randn(2, 32),
    }
    tuned = tuned_by(base, lambda key, _: changes[key] * 0.1 if key in changes else None)
    result = extract.run(
        model_org=base, model_tuned=tuned, save_to=tmp_path / "o.safetensors", algorithm="auto", dim=2, save_precision="fp32"
    )
    assert sorted(result.report["algorithms"]) == ["ia3", "lokr", "lora"]
    assert result.report["error"] < 1e-3


def test_a_size_is_met_and_used(base: Path, tmp_path: Path) -> None:
    tuned, out = tuned_by(base, low_rank(20)), tmp_path / "o.safetensors"
    errors = []
    for size in (0.016, 0.019):
        result = extract.run(model_org=base, model_tuned=tuned, save_to=out, size=size, dim=None)
        assert 0.95 * size * 1e6 < out.stat().st_size <= size * 1e6
        errors.append(result.report["error"])
        kinds = {len(tensor.shape) for key, tensor in load_file(out).items() if key.endswith("lora_down.weight")}
        assert kinds == {2, 4}, "a size without ranks is for convolutions too"
    assert errors[1] < errors[0]
    with pytest.raises(ToolError, match="too little"):
        extract.run(model_org=base, model_tuned=tuned, save_to=out, size=0.001)


def test_small_text_encoder_changes_are_kept(base: Path, tmp_path: Path) -> None:
    """There is no threshold below which a text encoder is dropped."""
    tuned = tuned_by(base, lambda key, value: torch.full(value.shape, 1e-4) if key == f"{TEXT}.mlp.fc1.weight" else None)
    result = extract.run(model_org=base, model_tuned=tuned, save_to=tmp_path / "o.safetensors", dim=1, save_precision="fp32")
    assert [row["parameter"] for row in result.report["modules"]] == ["transformer.text_model.encoder.layers.0.mlp.fc1.weight"]


def test_nothing_is_left_behind_by_a_run_that_ends_early(base: Path, tmp_path: Path) -> None:
    tuned, out = tuned_by(base, low_rank(3)), tmp_path / "o.safetensors"
    with pytest.raises(ToolError, match="nothing to extract"):
        extract.run(model_org=base, model_tuned=base, save_to=out)
    progress = Progress(lambda state: progress.cancel() if state.step else None)
    with pytest.raises(Cancelled):
        extract.run(progress=progress, model_org=base, model_tuned=tuned, save_to=out)
    with pytest.raises(ToolError, match="is an input"):
        extract.run(model_org=base, model_tuned=tuned, save_to=tuned)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.safetensors", "tuned.safetensors"]


def test_a_plan_says_what_will_be(base: Path, tmp_path: Path) -> None:
    tuned = tuned_by(base, low_rank(3))
    plan = extract.TOOL.plan(model_org=base, model_tuned=tuned, save_to=tmp_path / "o.safetensors", algorithm="lora")
    assert len(plan.report["matched"]) == 2 * len(SHAPES) - 1
    assert [reason for _, reason in plan.report["unmatched"]] == ["convolutions are left out; give `conv_dim`"]


# Resize


@pytest.mark.parametrize("kinds", [LORAS, MIXED, {"conv": "lora_tucker", "fc1": "lokr_whole"}])
def test_a_resize_loses_the_discarded_spectrum_and_no_more(base: Path, tmp_path: Path, kinds: dict[str, str]) -> None:
    path, out = network_file(tmp_path, kinds, 3), tmp_path / "small.safetensors"
    checkpoint = open_checkpoint(base)
    old = deltas(load(path, checkpoint.base), checkpoint)
    for options in ({"new_rank": 2}, {"dynamic_method": "sv_fro", "dynamic_param": 0.8}, {"new_rank": 99, "alpha": 2.0}):
        result = resize.run(model=path, save_to=out, base_model=base, save_precision="fp32", **options)
        new = deltas(load(out, checkpoint.base), checkpoint)
        ranks = {row["module"]: row["new"] for row in result.report["modules"]}
        for name, delta in old.items():
            rank = ranks[load(path, checkpoint.base).modules[name]]
            discarded = float(torch.linalg.svdvals(delta.flatten(1).double())[rank:].norm())
            assert float((new[name] - delta).norm()) <= discarded * 1.01 + 1e-5 * float(delta.norm())
    assert load(out, checkpoint.base).metadata["sshs_model_hash"] == model_hash(out)


def test_a_resize_keeps_what_has_no_ranks_and_meets_a_size(base: Path, tmp_path: Path) -> None:
    tuned, path, out = tuned_by(base, lambda _, v: torch.randn_like(v) * 0.1), tmp_path / "n.safetensors", tmp_path / "o.safetensors"
    extract.run(model_org=base, model_tuned=tuned, save_to=path, dim=12)
    result = resize.run(model=path, save_to=out, base_model=base, size=0.021)
    assert 0.95 * 0.021e6 < out.stat().st_size <= 0.021e6
    assert len(result.report["kept"]) == len(SHAPES) + 1
    table = tmp_path / "ranks.json"
    table.write_text('{"attn1": 5, ".": 2}')
    result = resize.run(model=path, save_to=out, base_model=base, module_ranks=table)
    assert sorted({row["new"] for row in result.report["modules"]}) == [2, 5]
    with pytest.raises(ToolError, match="how large"):
        resize.run(model=path, save_to=out, base_model=base)


# Convert


@pytest.mark.parametrize("style", ["kohya", "diffusers", "peft", "lycoris"])
@pytest.mark.parametrize("algorithm", ["keep", "lora"])
def test_a_conversion_changes_nothing_but_names(base: Path, tmp_path: Path, style: str, algorithm: str) -> None:
    checkpoint = open_checkpoint(base)
    for seed, kinds in enumerate((LORAS, MIXED, {"conv": "lora_tucker"})):
        path, out = network_file(tmp_path, kinds, seed), tmp_path / "c.safetensors"
        result = convert.run(model=path, save_to=out, style=style, algorithm=algorithm, base_model=base)
        assert result.report["lossy"] == []
        old, new = (load(file, checkpoint.base) for file in (path, out))
        assert not new.skipped
        assert_same(deltas(new, checkpoint), deltas(old, checkpoint), 1e-6)
        if algorithm == "lora":
            assert {patch.name for patch in new.patches.values()} == {"lora"}


def test_peft_reads_its_configuration(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "peft"
    folder.mkdir()
    path = network_file(tmp_path, {"attn1.to_q": "lora", "conv": "loha"}, 4)
    convert.run(model=path, save_to=folder / "adapter_model.safetensors", style="peft", algorithm="lora", base_model=base)
    checkpoint = open_checkpoint(base)
    old, new = (load(file, checkpoint.base) for file in (path, folder / "adapter_model.safetensors"))
    assert (folder / "adapter_config.json").exists()
    assert_same(deltas(new, checkpoint), deltas(old, checkpoint), 1e-6)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 8, 3, 3)], ids=str)
def test_a_change_without_ranks_is_the_same_to_the_bit_where_no_rank_is_asked_for(shape: tuple[int, ...], tmp_path: Path) -> None:
    path, out = tmp_path / "full.safetensors", tmp_path / "lora.safetensors"
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    save_file({"model.layer.diff": delta}, path)
    convert.run(model=path, save_to=out, algorithm="lora", save_precision="fp32")
    (patch,) = load(out).patches.values()
    assert patch.name == "lora" and patch.rank == min(shape[0], delta[0].numel()) and torch.equal(patch.delta(torch.zeros(shape)), delta)


def test_what_depends_on_the_base_is_cut_to_a_rank(base: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(base)
    path, out = network_file(tmp_path, {"attn1.to_q": "lora", "fc1": "lora"}, 4), tmp_path / "c.safetensors"
    tensors = load_file(path)
    tensors[f"{KOHYA['fc1']}.dora_scale"] = torch.rand(40, 1) + 4
    save_file(tensors, path)
    result = convert.run(model=path, save_to=out, algorithm="lora", base_model=base, dim=8)
    assert [row["parameter"] for row in result.report["lossy"]] == ["transformer.text_model.encoder.layers.0.mlp.fc1.weight"]
    convert.run(model=path, save_to=out, algorithm="lora", base_model=base)
    assert_same(deltas(load(out, checkpoint.base), checkpoint), deltas(load(path, checkpoint.base), checkpoint), 1e-5)


# Networks into one


def family_checkpoint(case: Path, folder: Path) -> Checkpoint:
    """Write a case's base weights as a checkpoint, and read it as of the case's family: so few layers do not show it."""
    tensors = {}
    for name, layer in layers_of(case).items():
        fused = name.endswith(".in_proj_weight")
        tensors[name if fused else models.parameter(name, "weight")] = layer["weight"].contiguous()
        if layer["bias"] is not None:
            tensors[f"{name}.bias"] = layer["bias"].contiguous()
    path = folder / "case.safetensors"
    save_file(tensors, path)
    checkpoint = open_checkpoint(path)
    checkpoint.__dict__["names"] = models.from_live(layer_infos(checkpoint.entries), arch_of(case))
    return checkpoint


@pytest.mark.corpus
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.parent.name)
def test_every_corpus_network_keeps_its_change(case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At another strength, through its base weights, in a new file."""
    checkpoint = family_checkpoint(case, tmp_path)
    monkeypatch.setattr(networks_request, "open_checkpoint", lambda _: checkpoint)
    path, out = case.parent / "network.safetensors", tmp_path / "out.safetensors"
    if not load(path, checkpoint.base).patches:
        pytest.fail("the case changes nothing")
    networks_merge.run(models=[path], ratios=[-0.7], save_to=out, base_model="x", save_precision="fp32")
    old = {name: -0.7 * delta for name, delta in deltas(load(path, checkpoint.base), checkpoint).items()}
    new = load(out, checkpoint.base)
    assert not new.skipped
    assert_same(deltas(new, checkpoint), old, 2e-5)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.floats(-1.5, 1.5).map(lambda v: round(v, 2)), min_size=3, max_size=3), st.permutations([0, 1, 2]))
def test_networks_add_up_in_any_order(strengths: list[float], order: list[int]) -> None:
    """The sum of the deltas, with negative strengths too; the order of the files does not change a bit."""
    import tempfile

    if not any(strengths):
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = folder / "base.safetensors"
        save_file(random_weights(1), base)
        checkpoint = open_checkpoint(base)
        files = [network_file(folder, kinds, seed, f"{seed}.safetensors") for seed, kinds in enumerate((LORAS, MIXED, LORAS))]
        outs = []
        for turn, picked in enumerate(([0, 1, 2], order)):
            outs.append(folder / f"out{turn}.safetensors")
            networks_merge.run(
                models=[files[i] for i in picked],
                ratios=[strengths[i] for i in picked],
                save_to=outs[-1],
                base_model=base,
                save_precision="fp32",
            )
        wanted: dict[str, Tensor] = {}
        for file, strength in zip(files, strengths, strict=True):
            for key, delta in deltas(load(file, checkpoint.base), checkpoint).items():
                wanted[key] = wanted.get(key, torch.zeros_like(delta)) + strength * delta
        assert_same(deltas(load(outs[0], checkpoint.base), checkpoint), {k: v for k, v in wanted.items() if v.norm() > 1e-6}, 1e-4)
        first, second = (load_file(out) for out in outs)
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_merged_networks_are_cut_to_a_rank_a_share_or_a_size(base: Path, tmp_path: Path) -> None:
    files = [network_file(tmp_path, kinds, seed, f"{seed}.safetensors") for seed, kinds in enumerate((LORAS, MIXED))]
    out = tmp_path / "o.safetensors"
    result = networks_merge.run(models=files, save_to=out, base_model=base, dim=4)
    assert {row["rank"] for row in result.report["modules"]} == {4}
    result = networks_merge.run(models=files, save_to=out, base_model=base, rule="energy", value=0.9)
    assert result.report["captured"] >= 0.9
    networks_merge.run(models=files, save_to=out, base_model=base, size=0.018)
    assert 0.95 * 0.018e6 < out.stat().st_size <= 0.018e6
    words = load(out, open_checkpoint(base).base).metadata["modelspec.trigger_phrase"]
    assert set(words.split(", ")) == {"word0", "word1"}


def test_text_encoder_and_blocks_have_their_own_strengths(base: Path, tmp_path: Path) -> None:
    checkpoint, out = open_checkpoint(base), tmp_path / "o.safetensors"
    path = network_file(tmp_path, LORAS, 3)
    zero_in01 = ",".join("0" if block == "IN01" else "1" for block in models.LAYOUTS[17])
    networks_merge.run(models=[path], te=[0.5], unet=[2.0], lbw=[zero_in01], save_to=out, base_model=base, save_precision="fp32")
    old, new = (deltas(load(file, checkpoint.base), checkpoint) for file in (path, out))
    text = next(name for name in old if name.startswith("transformer."))
    assert_same(new, {text: old[text] * 0.5}, 1e-5)


@pytest.mark.parametrize("method", ["ties", "dare", "dare_ties"])
def test_weeding_methods_keep_strengths_and_are_repeatable(base: Path, tmp_path: Path, method: str) -> None:
    """With everything kept one network is itself at its strength; twice the same run gives the same file."""
    checkpoint, out = open_checkpoint(base), tmp_path / "o.safetensors"
    files = [network_file(tmp_path, LORAS, seed, f"{seed}.safetensors") for seed in (1, 2)]
    options = {"save_to": out, "base_model": base, "save_precision": "fp32", "method": method}
    networks_merge.run(models=files[:1], ratios=[0.5], density=1.0, **options)
    old = deltas(load(files[0], checkpoint.base), checkpoint)
    assert_same(deltas(load(out, checkpoint.base), checkpoint), {name: delta * 0.5 for name, delta in old.items()}, 1e-5)
    networks_merge.run(models=files, dim=8, **options)
    before = load_file(out)
    networks_merge.run(models=files[::-1], dim=8, **options)
    assert all(torch.equal(value, before[key]) for key, value in load_file(out).items())


def test_a_base_is_asked_for_only_where_it_is_needed(tmp_path: Path, base: Path) -> None:
    path = network_file(tmp_path, {"attn1.to_q": "lora"}, 1)
    tensors = load_file(path)
    tensors[f"{KOHYA['attn1.to_q']}.dora_scale"] = torch.ones(48, 1)
    save_file(tensors, path)
    assert (
        load(path, open_checkpoint(base).base)
        .patches["diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"]
        .reads_weight
    )
    with pytest.raises(LycorisError):
        networks_merge.run(models=[path], save_to=tmp_path / "o.safetensors")


# Compare


def test_a_network_beside_itself_and_another(base: Path, tmp_path: Path) -> None:
    first, second = (network_file(tmp_path, LORAS, seed, f"{seed}.safetensors") for seed in (1, 2))
    result = compare.run(models=[first, first, second], base_model=base)
    same, other, _ = result.report["pairs"]
    assert same["cosine"] == pytest.approx(1) and same["overlap"] == pytest.approx(1)
    assert abs(other["cosine"]) < 0.5 and other["overlap"] < 0.9
    facts: Any = result.report["networks"][0]
    checkpoint = open_checkpoint(base)
    norms = [float(delta.norm()) ** 2 for delta in deltas(load(first, checkpoint.base), checkpoint).values()]
    assert facts["norm"] == pytest.approx(sqrt(sum(norms)), rel=1e-4)
    assert all(0 < module["effective_rank"] <= 3.001 for module in facts["modules"])
    assert all(module["relative"] > 0 for module in facts["modules"])
    assert facts["blocks"]["BASE"]["share"] > 0


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with one_thread_each():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
