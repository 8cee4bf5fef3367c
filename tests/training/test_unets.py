"""SD2 and SDXL of random weights, as checkpoint files and as folders of diffusers: what is read off them, and short trainings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lycoris import load
from lib_lycoris.hosts.embedded import tokenizer as embedded_tokenizer
from lib_lycoris.networks.reading.reader import open_file
from lib_lycoris.patching import Patcher
from lib_lycoris.tools.training import runs
from lib_lycoris.training.__main__ import main
from lib_lycoris.training.models.opening import open_model
from lib_lycoris.training.settings import read_settings
from lib_lycoris.training.steps.draws import normal
from tests.hosts.test_generate import ldm_state, tiny_checkpoint
from tests.training import pictures
from tests.training.conftest import Words

REQUIRES = ("lycoris",)
KINDS = ("file", "folder")
FIRST = {"sd2": "lora_te_text_model_encoder_layers_0_mlp_fc1", "sdxl": "lora_te1_text_model_encoder_layers_0_mlp_fc1"}
CONVOLUTION = {"sd2": "lora_unet_up_blocks_3_resnets_2_conv2", "sdxl": "lora_unet_output_blocks_8_0_out_layers_3"}  # kohya's own names
WRITTEN = {"sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return pictures.folder(tmp_path_factory.mktemp("images"), 4)


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let checkpoints be read whose text encoders know bytes alone."""
    monkeypatch.setattr("lib_lycoris.hosts.embedded.models.clip_tokenizer", lambda pad_with_zero: embedded_tokenizer.byte_tokenizer())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Both families in both forms; SD2's predict the velocity, and say so."""
    root, found = tmp_path_factory.mktemp("models"), {}
    for family in FIRST:
        host = tiny_checkpoint(family)
        velocity = family == "sd2"
        file, folder = root / f"{family}.safetensors", root / family
        save_file(ldm_state(host), file, {"modelspec.prediction_type": "v"} if velocity else None)
        if velocity:
            scheduler = host.model.pipe.scheduler
            host.model.pipe.scheduler = type(scheduler).from_config(scheduler.config, prediction_type="v_prediction")
            without_the_last_layer(host.model.pipe.text_encoder)
        host.model.pipe.save_pretrained(str(folder))
        found[family, "file"], found[family, "folder"] = file, folder
    return found


def without_the_last_layer(encoder: Any) -> None:
    """Leave out what SD2 does not read: the folders of diffusers are without it."""
    encoder.text_model.encoder.layers = encoder.text_model.encoder.layers[:-1]
    encoder.config.num_hidden_layers -= 1


def opened(words: Words, path: Path, *more: str) -> Any:
    given = words("x", "--pretrained_model_name_or_path", str(path), *more)
    return open_model(read_settings(given), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_sd2_predicts_what_its_file_says(kind: str, models: dict[tuple[str, str], Path], words: Words) -> None:
    model = opened(words, models["sd2", kind], "--zero_terminal_snr")
    assert model.family == "sd2" and model.process.prediction == "v_prediction"
    latents, noise, last = normal((1, 4, 8, 8), "a"), normal((1, 4, 8, 8), "b"), torch.tensor([999])
    torch.testing.assert_close(model.process.noisy(latents, noise, last), noise, rtol=0, atol=1e-3)
    torch.testing.assert_close(model.process.wanted(latents, noise, last), -latents, rtol=0, atol=1e-3)
    assert opened(words, models["sdxl", kind]).process.prediction == "epsilon"
    assert opened(words, models["sdxl", kind], "--v_parameterization").process.prediction == "v_prediction"


@pytest.mark.parametrize("family", FIRST)
def test_a_file_and_a_folder_are_one_model(family: str, models: dict[tuple[str, str], Path], words: Words) -> None:
    answers = []
    for kind in KINDS:
        model = opened(words, models[family, kind])
        with torch.no_grad():
            texts = model.texts(["a cat"])
            answers.append(model.predict(normal((1, 4, 8, 8), "a"), torch.tensor([500]), texts, model.example_sizes()))
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-4, atol=1e-4)


def test_sdxl_is_told_sizes_and_cuts_as_its_pipeline_tells_them(models: dict[tuple[str, str], Path], words: Words) -> None:
    model = opened(words, models["sdxl", "folder"])
    seen: list[tuple[Any, Any]] = []
    keep = lambda _, args, kwargs, out: seen.append((args, out[0]))  # noqa: E731
    hook = model.pipe.unet.register_forward_hook(keep, with_kwargs=True)
    size = model.example_sizes()[0][0].size[0]
    model.pipe("a cat", width=size, height=size, num_inference_steps=2, guidance_scale=1.0, output_type="latent")
    hook.remove()
    args, wanted = seen[0]
    with torch.no_grad():
        found = model.predict(args[0], args[1].reshape(1), model.texts(["a cat"]), model.example_sizes())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FIRST)
def test_a_network_of_all_components(family: str, kind: str, models: dict[tuple[str, str], Path], out: Path, words: Words) -> None:
    name = f"{family}-{kind}"
    more = ("--zero_terminal_snr", "--min_snr_gamma", "5") if family == "sd2" else ()
    given = ("--pretrained_model_name_or_path", str(models[family, kind]), "--resolution", "64", "--network_dim", "2",
             "--max_train_steps", "4", "--learning_rate", "1e-3", "--save_precision", "float", "--network_args", "conv_dim=2")  # fmt: skip
    assert main(words(name, *given, *more)) == 0
    said = (out / f"{name}.training" / runs.PROGRESS).read_text()
    saved = next(json.loads(line) for line in said.splitlines() if '"saved"' in line)
    assert saved["changed"] > 0 and saved["apart"] <= 1e-5 * max(1.0, saved["changed"])
    path = out / f"{name}.safetensors"
    network = load(path, Patcher(opened(words, models[family, kind]).parts()).base)
    assert network.family == family and not network.skipped and network.coverage is None
    names = sorted({key.partition(".")[0] for key in load_file(str(path))})
    assert names[0] == FIRST[family] and any(CONVOLUTION[family] in name for name in names)
    assert any(name.startswith("lora_te2_") for name in names) == (family == "sdxl")
    metadata = open_file(path).metadata
    assert metadata["ss_base_model_version"].startswith(WRITTEN[family])
    assert metadata["modelspec.prediction_type"] == ("v" if family == "sd2" else "epsilon")


def test_each_component_has_its_rate(models: dict[tuple[str, str], Path], out: Path, words: Words) -> None:
    given = ("--pretrained_model_name_or_path", str(models["sdxl", "file"]), "--resolution", "64", "--network_dim", "2", "--no-self_check",
             "--max_train_steps", "1", "--unet_lr", "1e-4", "--text_encoder_lr", "2e-3", "3e-3", "--learning_rate", "1")  # fmt: skip
    assert main(words("rates", *given)) == 0
    assert runs.facts_of(out / "rates.training").rates == {"unet": [(1, 1e-4)], "text_encoder": [(1, 2e-3)], "text_encoder_2": [(1, 3e-3)]}


def test_activations_that_are_computed_twice_train_the_text_encoder_too(
    models: dict[tuple[str, str], Path], out: Path, words: Words
) -> None:
    given = ("--pretrained_model_name_or_path", str(models["sd2", "folder"]), "--resolution", "64", "--network_dim", "2",
             "--max_train_steps", "2", "--learning_rate", "1e-2", "--save_precision", "float")  # fmt: skip
    assert main(words("kept", *given)) == 0 and main(words("twice", *given, "--gradient_checkpointing")) == 0
    kept, twice = (load_file(str(out / f"{name}.safetensors")) for name in ("kept", "twice"))
    assert any(key.startswith("lora_te_") and key.endswith("lora_up.weight") and bool(tensor.any()) for key, tensor in twice.items())
    for key, tensor in kept.items():
        torch.testing.assert_close(twice[key], tensor, rtol=1e-3, atol=1e-5)
