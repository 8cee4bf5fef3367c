"""The loader's benchmark on a tiny model: what it calls the host's method is right, and what it writes is what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lib_lycoris import load
from tests.benchmarks import calls, loader, loader_gpu, loader_models, loader_networks
from tests.benchmarks.loader_models import Model, make
from tests.benchmarks.loader_picture import draw
from tests.benchmarks.loader_sides import Hosts, Ours, kohya_names
from tests.benchmarks.loader_stages import Rising
from tests.benchmarks.loader_steps import Steps, pieces, share, step
from tests.benchmarks.loader_timing import Clock, Result, added, of, ratio

KINDS = [*loader_networks.KINDS, *loader_networks.MORE]


@pytest.fixture(scope="module")
def model() -> Model:
    return make("tiny")


def written(kind: str, model: Model, folder: Path, seed: int = 0) -> Path:
    return loader_networks.write(kind, Ours.names(model), folder, torch.float32, seed)


def bits(model: Model) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": tensor.clone() for part, module in model.parts.items() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_s_method_gives_the_merged_weights_and_restores_the_same_bits(kind: str, model: Model, tmp_path: Path) -> None:
    host, before = Hosts(model), bits(model)
    path = written(kind, model, tmp_path)
    plain = host.model.probe()
    for strength in (0.7, -0.4):
        host.use(path, strength)
        host.model.probe()
        now, names = kohya_names(host.model), kohya_names(model)
        network = load(path, Ours.names(model))
        changed = {network.modules[parameter]: algorithm for parameter, algorithm in network.patches.items()}
        covered = {**loader_networks.KINDS, **loader_networks.MORE}[kind].kernels
        assert len(changed) == len(list(loader_networks.layers(Ours.names(model), covered)))
        for name, layer in names.items():
            expected = layer.weight.double()  # type: ignore[operator, union-attr]
            if name in changed:
                expected = expected + strength * changed[name].delta(layer.weight).double()  # type: ignore[arg-type]
            torch.testing.assert_close(now[name].weight.double(), expected, rtol=1e-5, atol=1e-7)  # type: ignore[operator, union-attr]
        assert (host.model.probe() - plain).abs().max() > 1e-4 * plain.abs().max()
    assert host.method.copied > sum(p.numel() for p in model.parts["unet"].parameters()) * 4 * 0.95
    host.off()
    assert torch.equal(host.model.probe(), plain)
    after = bits(host.model)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    host.reset()
    assert host.method.copied == 0


@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_compute_the_same(kind: str, model: Model, tmp_path: Path) -> None:
    host, path, plain = Hosts(model), written(kind, model, tmp_path), model.probe()
    host.use(path, 0.7)
    expected = host.model.probe()
    for way in ("functional", "merged", "auto"):
        ours = Ours(model, way)  # type: ignore[arg-type]
        ours.use(path, 0.7)
        torch.testing.assert_close(ours.model.probe(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
        assert torch.equal(model.probe(), plain), "a twin's networks must not touch the model"
        ours.reset()
        assert torch.equal(ours.model.probe(), plain)


def test_a_twin_has_the_same_weights_and_layers_of_its_own(model: Model) -> None:
    twin, copied = model.twin(), model.copied()
    for name, part in model.parts.items():
        for mine, shared, other in zip(part.parameters(), twin.parts[name].parameters(), copied.parts[name].parameters(), strict=True):
            assert mine is shared
            assert other.data_ptr() != mine.data_ptr() and torch.equal(other, mine)
        assert not set(map(id, part.modules())) & set(map(id, twin.parts[name].modules()))


def test_the_pieces_of_a_step_are_all_of_it(model: Model) -> None:
    """Every weight is in one piece, every piece is called once, and each model's pieces are timed in every round."""
    unet = model.parts["unet"]
    found = dict(pieces(unet))
    inside = [id(parameter) for piece in found.values() for parameter in piece.parameters()]
    assert sorted(inside) == sorted(map(id, unet.parameters()))
    steps = Steps(model, 16)
    assert steps.calls.keys() == found.keys()
    rounds = [steps.take({"plain": model.copied(), "same": model.twin()}, number) for number in range(3)]
    for times in rounds:
        assert times["plain"].keys() == times["same"].keys() == found.keys()
    assert share("same", rounds, "same", "plain", None).value == step(rounds, "same") / step(rounds, "plain") > 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [0.0]
    monkeypatch.setattr(Clock, "now", lambda: now[0])
    return now  # type: ignore[return-value]


def test_what_a_change_adds_is_counted_at_the_change_and_at_the_next_call_alike(clock: list[float]) -> None:
    waiting = [0.0]

    def change() -> None:
        clock[0] += 2.0  # at once
        waiting[0] = 3.0  # later

    def step() -> None:
        clock[0] += 10.0 + waiting[0]
        waiting[0] = 0.0

    assert added(change, step) == 5.0


def test_figures_and_limits() -> None:
    found = of("a", [1.0, 2.0, 3.0, 4.0, 100.0], 3.0)
    assert (found.value, found.low, found.high, found.within) == (3.0, 2.0, 4.0, True)
    assert found.entry == {"name": "a", "value": 3.0, "limit": 3.0, "within": True}
    assert not Result("b", 1.2, 1.1).within and Result("c", 1e9).within
    assert ratio("d", [1.0, 1.0, 2.0], [4.0, 8.0, 8.0], 0.2).value == 0.125
    nothing = ratio("e", [-0.1], [2.0], 0.1)
    assert nothing.value == 0.0 and nothing.within
    assert not ratio("f", [0.1], [-0.1], 0.1).within, "a wait must not pass because the other side's could not be measured"


def test_a_rising_strength_is_another_one_at_every_step() -> None:
    assert len({Rising().value(step, 20) for step in range(20)}) == 20


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_of_the_sizes_that_are_named(kind: str, model: Model, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = written(kind, model, tmp_path)
    tensors = load_file(path)
    stored = sum(tensor.numel() * 4 for key, tensor in tensors.items() if not key.endswith(".alpha"))
    assert loader_networks.stored_bytes(path, torch.float32) == stored
    assert loader_networks.stored_bytes(path, torch.float16) == stored // 2
    sizes = {"lora": ("lora_down.weight", 0, 16), "locon": ("lora_down.weight", 0, 16), "loha": ("hada_w1_b", 0, 8),
             "lokr": ("lokr_w1", 1, 8), "lokr_rank": ("lokr_w2_b", 0, 16), "oft": ("oft_blocks", 1, 32)}  # fmt: skip
    suffix, axis, size = sizes[kind]
    found = [tensor for key, tensor in tensors.items() if key.endswith(suffix)]
    assert found and all(tensor.shape[axis] == size for tensor in found)
    assert {float(tensor) for key, tensor in tensors.items() if key.endswith(".alpha")}.isdisjoint({float(size)})
    kernels = [key for key, tensor in tensors.items() if "resnets" in key and "conv1" in key]
    assert bool(kernels) == (kind != "lora")
    assert not torch.equal(load_file(written(kind, model, tmp_path, 1))[f"{_first(tensors)}"], tensors[_first(tensors)])


def _first(tensors: dict[str, torch.Tensor]) -> str:
    return next(key for key in tensors if not key.endswith(".alpha"))


def test_a_run_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_file, picture = tmp_path / "results.json", tmp_path / "images" / "loader.png"
    threads = torch.get_num_threads()
    code = loader.main(
        ["--model", "tiny", "--quick", "--size", "16", "--kinds", "lora", "oft", "--only", "changes", "steady", "schedule",
         "--folder", str(tmp_path), "--json", str(json_file), "--picture", str(picture)]
    )  # fmt: skip
    results = json.loads(json_file.read_text())["results"]
    assert all(set(result) == {"name", "value", "limit", "within"} for result in results)
    values = {result["name"]: result for result in results}
    for kind in ("lora", "oft"):
        for way, limit in (("functional", 0.1), ("merged", 1 / 3)):
            for event in ("first_use", "new_file", "strength_only", "off"):
                assert values[f"{event}_{kind}_{way}"]["limit"] == limit
                assert f"{event}_{kind}_host_seconds" in values
            assert values[f"steady_{kind}_{way}"]["value"] > 0
        assert values[f"picture_{kind}"]["limit"] == 1.1
    assert values["steady_lora_functional"]["limit"] == 1.08 and values["steady_oft_functional"]["limit"] == 1.12
    assert values["steady_lora_merged"]["limit"] == 1.01 and values["schedule_lora"]["limit"] == 1.02
    assert all(result["within"] == (result["limit"] is None or result["value"] <= result["limit"]) for result in results)
    assert code == (0 if all(result["within"] for result in results) else 1)
    assert all(name in capsys.readouterr().out for name in list(values)[:1])
    assert picture.read_bytes().startswith(b"\x89PNG") and torch.get_num_threads() == threads


def test_memory_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    from tests.benchmarks import loader_memory

    found = {result.name: result for result in loader_memory.results(("lora",), tmp_path, 8, "cpu", "tiny")}
    path = loader_networks.write("lora", Ours.names(make("tiny")), tmp_path, torch.float32)
    assert found["memory_lora_factors_mb"].value == pytest.approx(loader_networks.stored_bytes(path, torch.float32) / 1e6)
    assert found["memory_lora"].limit == 1.2 and found["memory_lora"].value > 0.3
    assert found["memory_left_limit_0_mb"].limit == 20.0 and found["memory_left_limit_256_mb"].limit == pytest.approx(288.4, abs=0.1)


MINI = {"block_out_channels": (32, 64), "cross_attention_dim": 64, "attention_head_dim": 4, "norm_num_groups": 8, "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("way", ["functional", "merged"])
def test_the_compiled_step_is_compared_with_the_plain_one(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loader_models.UNETS, "mini", MINI)
    model = make("mini")
    ours = Ours(model, way)  # type: ignore[arg-type]
    ours.use(written("lora", model, tmp_path), 0.7)
    ours.model.step(8)
    assert loader_gpu.distance(ours.model, loader_gpu.compiled(ours.model, 8, "eager"), 8) < 1e-4
    assert loader_gpu.distance(ours.model, model.step(8), 8) > 1e-3, "the comparison must see a network that is lost"


def test_a_picture_of_few_results_leaves_the_others_out(tmp_path: Path) -> None:
    draw([Result("steady_lora_functional", 1.05), Result("first_use_lora_host_seconds", 3.0)], tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("algorithm", calls.LINEAR)
def test_every_algorithm_can_be_timed_at_a_call(algorithm: str, tmp_path: Path) -> None:
    chain, patcher = calls.patched(algorithm, "functional", tmp_path)
    x = torch.randn(1, calls.WIDTH, generator=torch.Generator().manual_seed(5))
    for changed, by_hand, plain in zip(chain.layers, calls.by_hand(chain, patcher).layers, calls.Chain().layers, strict=True):
        torch.testing.assert_close(by_hand(x), changed(x))
        assert not torch.equal(changed(x), plain(x)), "nothing would be timed"


def test_a_call_has_a_limit_on_the_ways_that_keep_what_they_made(tmp_path: Path) -> None:
    found = {result.name: result.limit for result in calls.of_algorithm("lora", tmp_path, 1)}
    assert found == {"merged_lora": 3.0, "bypass_lora": 8.0, "recompute_lora": None, "operations_lora": None}
