"""Flux.1 and Z-Image: the noise of a flow against its formulas, what they are told against their pipelines, whole trainings."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import exp
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_lycoris import load
from lib_lycoris.errors import LycorisError, ToolError
from lib_lycoris.models.families import UNET_PREFIX
from lib_lycoris.networks.reading.reader import open_file
from lib_lycoris.patching import Patcher
from lib_lycoris.tools.training import runs
from lib_lycoris.training import check
from lib_lycoris.training.__main__ import main
from lib_lycoris.training.models.flow import Flow
from lib_lycoris.training.models.opening import open_model
from lib_lycoris.training.models.weights import fill
from lib_lycoris.training.settings import read_settings
from lib_lycoris.training.steps.draws import normal
from lib_lycoris.training.steps.loss import losses
from tests.training import flow_pipelines, pictures
from tests.training.conftest import Words
from tests.training.test_closed_forms import settings as loss_settings

REQUIRES = ("lycoris",)
KINDS = ("flux", "z-image")
ASKED: dict[str, Any] = {"timestep_sampling": None, "discrete_flow_shift": None, "sigmoid_scale": 1.0}
LEARNING = ("--network_module", "lycoris.kohya", "--network_dim", "4", "--network_alpha", "4", "--learning_rate", "1e-2",
            "--train_batch_size", "4", "--save_precision", "float", "--resolution", "64")  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return pictures.folder(tmp_path_factory.mktemp("images"), 6)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {"flux": flow_pipelines.flux(root / "flux"), "z-image": flow_pipelines.z_image(root / "z-image")}


@pytest.fixture(scope="module")
def opened(folders: dict[str, Path], words: Words) -> Callable[..., Any]:
    def made(kind: str, *more: str) -> Any:
        given = words("x", "--pretrained_model_name_or_path", str(folders[kind]), *more)
        return open_model(read_settings(given), torch.device("cpu"), torch.float32)

    return made


# ---- the flow


def flow(config: dict[str, Any] | None = None, **changes: Any) -> Flow:
    return Flow(config or {"shift": 3.0}, SimpleNamespace(**{**ASKED, **changes}))


def test_a_flow_goes_straight_from_the_latents_to_the_noise() -> None:
    latents, noise = normal((3, 4, 8, 8), "a"), normal((3, 4, 8, 8), "b")
    steps = torch.tensor([0.0, 250.0, 1000.0])
    noisy = flow().noisy(latents, noise, steps)
    assert torch.equal(noisy[0], latents[0]) and torch.equal(noisy[2], noise[2])
    torch.testing.assert_close(noisy[1], 0.75 * latents[1] + 0.25 * noise[1])
    assert torch.equal(flow().wanted(latents, noise, steps), noise - latents)
    torch.testing.assert_close(flow().snr(torch.tensor([250.0, 500.0])), torch.tensor([9.0, 1.0]))
    found = losses(loss_settings(), flow(), noise, noise - latents, steps, None)
    torch.testing.assert_close(found, latents.square().flatten(1).mean(1))


def draws(process: Flow, shape: tuple[int, ...] = (4, 8, 8), low: int = 0, high: int = 1000) -> Tensor:
    return torch.tensor([process.draw(Random(seed), low, high, shape) for seed in range(4000)]) / 1000


def odds(sigma: Tensor) -> Tensor:
    return sigma / (1 - sigma)


def test_which_steps_a_flow_is_trained_on() -> None:
    """The odds of shifted steps are those of the plain ones times the shift; the logarithm of the plain ones is normal."""
    plain = odds(draws(flow(timestep_sampling="sigmoid"))).log()
    assert float(plain.mean()) == pytest.approx(0, abs=0.06) and float(plain.std()) == pytest.approx(1, rel=0.05)
    wide = odds(draws(flow(timestep_sampling="sigmoid", sigmoid_scale=2.0))).log()
    torch.testing.assert_close(wide, 2 * plain, rtol=1e-3, atol=1e-3)
    shifted = odds(draws(flow(timestep_sampling="shift", discrete_flow_shift=3.0))).log()
    torch.testing.assert_close(shifted, plain + torch.tensor(3.0).log(), rtol=1e-3, atol=1e-3)
    even = draws(flow(timestep_sampling="uniform"))
    assert float(even.mean()) == pytest.approx(0.5, abs=0.02) and float(even.std()) == pytest.approx(12**-0.5, rel=0.03)
    few = draws(flow(timestep_sampling="uniform"), low=100, high=200)
    assert float(few.min()) >= 0.1 and float(few.max()) < 0.2


def test_larger_images_are_trained_on_noisier_steps() -> None:
    dynamic = flow({"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15})
    for side, shift in ((32, 0.5), (128, 1.15), (80, 0.5 + (1600 - 256) * 0.65 / 3840)):  # of the latents
        assert dynamic.size_shift((16, side, side)) == pytest.approx(exp(shift))
    plain = odds(draws(flow(timestep_sampling="sigmoid"))).log()
    torch.testing.assert_close(odds(draws(dynamic, (16, 128, 128))).log(), plain + 1.15, rtol=1e-3, atol=1e-3)


def test_the_steps_of_the_scheduler_are_those_of_diffusers() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    own = FlowMatchEulerDiscreteScheduler(shift=3.0).sigmas
    found = draws(flow(timestep_sampling="sigma"))
    near = (found[:, None] - own[None]).abs().min(1).values
    assert float(near.max()) < 1e-5 and len(found.unique()) > 900


# ---- the models


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_told_what_its_own_pipeline_tells_it(kind: str, opened: Callable[..., Any]) -> None:
    model = opened(kind, "--t5xxl_max_token_length", "32", "--guidance_scale", "4.5")
    told: list[tuple[Tensor, Tensor, Tensor]] = []
    own = model.pipe.scheduler.step

    def step(answer: Tensor, at: Tensor, latents: Tensor, **more: Any) -> Any:
        told.append((latents, at.reshape(1), answer))
        return own(answer, at, latents, **more)

    model.pipe.scheduler.step = step
    guidance = 4.5 if kind == "flux" else 0.0  # Z-Image's would be a second answer
    model.pipe("a cat", width=64, height=96, num_inference_steps=2, max_sequence_length=32, output_type="latent", guidance_scale=guidance)
    assert len(told) == 2
    for noisy, at, wanted in told:
        noisy, wanted = (model.pipe._unpack_latents(x, 96, 64, 8) if kind == "flux" else x for x in (noisy, wanted))
        with torch.no_grad():
            found = model.predict(noisy, at, model.texts(["a cat"]), model.example_sizes())
        torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_a_batch_do_not_see_each_other(kind: str, opened: Callable[..., Any]) -> None:
    model = opened(kind)
    noisy, steps = normal((2, 4, 8, 12), "a"), torch.tensor([200.0, 900.0])
    with torch.no_grad():
        both = model.predict(noisy, steps, model.texts(["a cat", "a much longer caption"]), model.example_sizes() * 2)
        for row, caption in enumerate(("a cat", "a much longer caption")):
            alone = model.predict(noisy[row : row + 1], steps[row : row + 1], model.texts([caption]), model.example_sizes())
            torch.testing.assert_close(both[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_schnell_has_no_guidance_and_shorter_texts(tmp_path: Path, words: Words) -> None:
    folder = flow_pipelines.flux(tmp_path / "schnell", guidance=False)
    given = read_settings(words("x", "--pretrained_model_name_or_path", str(folder)))
    model = open_model(given, torch.device("cpu"), torch.float32)
    texts = model.texts(["a cat"])
    assert texts.tensors["states"].shape[1] == 256 and model.process.sampling == "shift" and model.process.shift == 1.0
    assert model.predict(normal((1, 4, 8, 8), "a"), torch.tensor([500.0]), texts, model.example_sizes()).shape == (1, 4, 8, 8)


def test_latents_are_shifted_and_scaled(opened: Callable[..., Any]) -> None:
    model = opened("flux")
    pixels = normal((1, 3, 64, 64), "pixels")
    with torch.no_grad():
        spread = model.pipe.vae.encode(pixels).latent_dist
    torch.testing.assert_close(model.latents(pixels, None), (spread.mean - 0.12) * 0.36)
    assert model.latent_shape((64, 96)) == (4, 12, 8)


@pytest.mark.parametrize("style", ["original", "webui", "diffusers"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_one_file_take_the_transformers_place(
    kind: str, style: str, opened: Callable[..., Any], tmp_path: Path, folders: dict[str, Path]
) -> None:
    transformer = opened(kind).pipe.transformer
    wanted = {name: torch.randn_like(tensor) for name, tensor in transformer.state_dict().items()}
    path = tmp_path / "weights.safetensors"
    save_file(wanted if style == "diffusers" else original(transformer, kind, wanted, style == "webui"), str(path))
    fill(transformer, path, kind)
    for name, tensor in transformer.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    tensors = load_file(str(path))
    save_file(dict(list(tensors.items())[1:]), str(path))
    with pytest.raises(ToolError, match="lacks weights of the model"):
        fill(transformer, path, kind)
    save_file({**tensors, "something.weight": torch.zeros(2)}, str(path))
    with pytest.raises(ToolError, match=r"the model has no something\.weight"):
        fill(transformer, path, kind)


def original(transformer: Any, kind: str, state: dict[str, Tensor], webui: bool) -> dict[str, Tensor]:
    """Return a transformer's weights as its authors have them: their rows are put together from those of diffusers."""
    names = Patcher({"transformer": transformer}, kind).names
    found = {}
    for name, pieces in names.places.items():
        parts = [state[f"{p.module}.{p.leaf}".removeprefix("transformer.")] for p in pieces]
        whole = torch.empty(sum(p.rows.stop - p.rows.start for p in pieces), *parts[0].shape[1:])
        for piece, part in zip(pieces, parts):
            whole[piece.rows] = part[piece.live_rows]
        found[name.removeprefix(UNET_PREFIX)] = whole
    found.update({name: tensor for name, tensor in state.items() if "." not in name})  # what is no layer's has one name everywhere
    return {f"model.{UNET_PREFIX}{name}" if webui else name: tensor for name, tensor in found.items()}


@pytest.mark.parametrize(
    "kind, more, reason",
    [
        ("flux", ("--min_snr_gamma", "5"), "--min_snr_gamma means nothing to Flux.1"),
        ("z-image", ("--clip_skip", "2"), "--clip_skip means nothing to Z-Image"),
        ("flux", ("--text_encoder_lr", "1e-4"), "the text encoders of Flux.1 are not trained here"),
        ("flux", ("--loss_type", "huber"), "give exponential or constant"),
        ("z-image", ("--bucket_reso_steps", "8"), "needs a multiple of 16"),
    ],
)
def test_what_means_nothing_to_a_flow_is_refused(kind: str, more: tuple[str, ...], reason: str, opened: Callable[..., Any]) -> None:
    with pytest.raises(ToolError, match=reason):
        opened(kind, *more)


def test_other_pipelines_are_refused_by_name(tmp_path: Path, words: Words) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "MochiPipeline"}')
    given = read_settings(words("x", "--pretrained_model_name_or_path", str(tmp_path)))
    with pytest.raises(ToolError, match=r"is a MochiPipeline, which is not trained here; there are SD 1, SD 2, SDXL, Flux\.1, Z-Image"):
        open_model(given, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    "told, error, said",
    [
        ({"transformer": ["diffusers", "FluxNextTransformer"]}, None, "needs FluxNextTransformer, which the installed diffusers"),
        ({}, ValueError(""), "diffusers cannot load model: ValueError"),
        ({}, AttributeError("no such part"), "diffusers cannot load model: no such part"),
    ],
)
def test_a_folder_that_diffusers_cannot_load_is_one_sentence(
    told: dict[str, Any], error: Exception | None, said: str, tmp_path: Path, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline", **told}))

    def fail(*_: Any, **__: Any) -> None:
        assert error is not None
        raise error

    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", fail)
    given = read_settings(words("x", "--pretrained_model_name_or_path", str(folder)))
    with pytest.raises(LycorisError, match=said):
        open_model(given, torch.device("cpu"), torch.float32)


# ---- whole trainings


@pytest.mark.parametrize("kind", KINDS)
def test_images_while_a_transformer_is_trained(kind: str, folders: dict[str, Path], out: Path, words: Words, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle --n blurry --w 64 --h 96 --d 3 --s 2\n")
    model = ("--pretrained_model_name_or_path", str(folders[kind]), "--t5xxl_max_token_length", "48")
    given = words(f"{kind}-drawn", *model, *LEARNING, "--max_train_steps", "2", "--sample_prompts", str(prompts), "--sample_at_first")
    assert main(given) == 0
    first, last = (out / f"{kind}-drawn.training" / "samples" / f"{step:06d}-00.png" for step in (0, 2))
    assert Image.open(last).size == (64, 96) and first.read_bytes() != last.read_bytes()


@pytest.mark.parametrize(
    "kind, algorithm, layers, first",
    [
        ("flux", "lora", 40, "lycoris_single_transformer_blocks_0_attn_to_k"),
        ("flux", "lokr", 40, "lycoris_single_transformer_blocks_0_attn_to_k"),
        ("z-image", "lora", 48, "lycoris_all_final_layer_2-1_adaLN_modulation_1"),
    ],
)
def test_a_network_of_a_transformer(
    kind: str, algorithm: str, layers: int, first: str, folders: dict[str, Path], out: Path, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{kind}-{algorithm}"
    model = ("--pretrained_model_name_or_path", str(folders[kind]), "--t5xxl_max_token_length", "48", "--validation_split", "0.2",
             "--validate_every_n_steps", "20", "--max_timestep", "900")  # fmt: skip
    before = words(name + "-before", *model, *LEARNING, "--network_args", f"algo={algorithm}", "factor=4", "--max_train_steps", "1",
                   "--learning_rate", "1e-9", "--validate_every_n_steps", "1")  # fmt: skip
    assert main(before) == 0
    checked: list[dict[str, float]] = []
    monkeypatch.setattr("lib_lycoris.training.loop.check_file", lambda *given: checked.append(check.check_file(*given)) or checked[-1])
    assert main(words(name, *model, *LEARNING, "--network_args", f"algo={algorithm}", "factor=4", "--max_train_steps", "20")) == 0
    losses = [runs.facts_of(out / f"{one}.training").validation[-1][1] for one in (f"{name}-before", name)]
    assert losses[1] < 0.97 * losses[0]
    path = out / f"{name}.safetensors"
    assert checked[-1]["changed"] > 0 and checked[-1]["apart"] <= 1e-5 * checked[-1]["changed"]
    transformer = open_model(read_settings(words("x", *model)), torch.device("cpu"), torch.float32).pipe.transformer
    network = load(path, Patcher({"transformer": transformer}).base)
    assert network.family == kind and not network.skipped and network.coverage is None
    names = {key.partition(".")[0] for key in load_file(str(path))}
    assert len(names) == layers and min(names).startswith(first)
    assert open_file(path).metadata["modelspec.architecture"].endswith("/lora")
