"""Folders of other families in the app: the installed diffusers' own pipelines, tiny, with networks as they are in a merged folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import lib_lycoris
from lib_lycoris import cli
from lib_lycoris.errors import HostError
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.embedded.tokenizer import byte_tokenizer
from lib_lycoris.hosts.protocol import GeneratedImage, GenerationCancelled, GenerationRequest
from lib_lycoris.models import reference
from tests.models.tiny_transformers import TINY, randomised, tiny

WIDTH, PROMPT = 24, "a red house"
CLIP = {"hidden_size": 20, "intermediate_size": 24, "projection_dim": 20, "num_hidden_layers": 2, "num_attention_heads": 2}
QWEN = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "vocab_size": 514}  # fmt: skip
torch.set_num_threads(1)


def text_model(kind: str, width: int = 20) -> Any:
    import transformers

    torch.manual_seed(1)
    words = len(byte_tokenizer())
    if kind == "T5EncoderModel":
        config = transformers.T5Config(
            d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=words, feed_forward_proj="gated-gelu"
        )
        return transformers.T5EncoderModel(config).eval()
    config = transformers.CLIPTextConfig(
        **(CLIP | {"hidden_size": width, "projection_dim": width}), vocab_size=words, eos_token_id=words - 1
    )
    return getattr(transformers, kind)(config).eval()


def autoencoder(channels: int = 4) -> Any:
    from diffusers import AutoencoderKL

    torch.manual_seed(2)
    levels = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    return AutoencoderKL(
        block_out_channels=[4] * 4,
        norm_num_groups=2,
        latent_channels=channels,
        sample_size=64,
        shift_factor=0.0,
        scaling_factor=1.0,
        **levels,
    ).eval()


def flow() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler()


def t5() -> dict[str, Any]:
    return {"text_encoder": text_model("T5EncoderModel"), "tokenizer": byte_tokenizer()}


def flux() -> Any:
    from diffusers import FluxPipeline

    return FluxPipeline(
        flow(), autoencoder(1), text_model("CLIPTextModel"), byte_tokenizer(), text_model("T5EncoderModel"), byte_tokenizer(), tiny("flux")
    )


def sd3() -> Any:
    from diffusers import StableDiffusion3Pipeline

    one, other = text_model("CLIPTextModelWithProjection", 8), text_model("CLIPTextModelWithProjection", 12)
    words = byte_tokenizer()
    return StableDiffusion3Pipeline(tiny("sd3"), flow(), autoencoder(), one, words, other, words, text_model("T5EncoderModel"), words)


def auraflow() -> Any:
    from diffusers import AuraFlowPipeline

    return AuraFlowPipeline(**{"vae": autoencoder(), "transformer": tiny("auraflow"), "scheduler": flow(), **t5()})


def chroma() -> Any:
    from diffusers import ChromaPipeline

    return ChromaPipeline(scheduler=flow(), vae=autoencoder(1), transformer=tiny("chroma"), **t5())


def pixart() -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    sizes = TINY["pixart"][1] | {"use_additional_conditions": False, "sample_size": 32}  # the sizes that its pipeline knows begin there
    transformer = randomised(PixArtTransformer2DModel(**sizes))
    return PixArtSigmaPipeline(vae=autoencoder(), transformer=transformer, scheduler=DPMSolverMultistepScheduler(), **t5())


def z_image() -> Any:
    import transformers
    from diffusers import ZImagePipeline

    torch.manual_seed(1)
    text_encoder = transformers.Qwen3Model(transformers.Qwen3Config(**QWEN, head_dim=12)).eval()
    words = byte_tokenizer()
    words.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return ZImagePipeline(flow(), autoencoder(), text_encoder, words, tiny("z-image"))


def qwen_image() -> Any:
    import transformers
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline

    torch.manual_seed(1)
    text = QWEN | {"rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 2]}}
    eyes = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": WIDTH}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=eyes)
    text_encoder = transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
    sizes = {"base_dim": 4, "z_dim": 4, "dim_mult": [1] * 4, "num_res_blocks": 1, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    return QwenImagePipeline(flow(), AutoencoderKLQwenImage(**sizes).eval(), text_encoder, byte_tokenizer(), tiny("qwen-image"))


PIPELINES: dict[str, Callable[[], Any]] = {
    "flux": flux, "sd3": sd3, "auraflow": auraflow, "chroma": chroma, "pixart": pixart, "z-image": z_image, "qwen-image": qwen_image,
}  # fmt: skip
HERE = [family for family in PIPELINES if family in TINY] if find_spec("diffusers") else []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


def network(path: Path, pipe: Any) -> Path:
    """Write a network of every attention layer of the transformer."""
    g, tensors = torch.Generator().manual_seed(3), {}
    for name, module in pipe.transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and "att" in name:
            tensors[f"transformer.{name}.lora_A.weight"] = torch.randn(2, module.in_features, generator=g)
            tensors[f"transformer.{name}.lora_B.weight"] = torch.randn(module.out_features, 2, generator=g)
    save_file(tensors, path)
    return path


def generate(host: EmbeddedHost, prompt: str, steps: int = 2, **given: Any) -> GeneratedImage:
    sampler = next(iter(host.samplers()))
    return host.generate(GenerationRequest(prompt, seed=3, steps=steps, width=64, height=64, cfg=3.0, sampler=sampler, **given))


def pixels(image: GeneratedImage) -> np.ndarray:
    return np.asarray(image.image, dtype=np.int16)


@pytest.mark.parametrize("family", HERE)
def test_a_network_makes_the_image_of_the_merged_folder_and_is_taken_off(family: str, folder: Path) -> None:
    pipe, place = PIPELINES[family](), folder / family
    pipe.save_pretrained(place / "base")
    (place / "networks").mkdir()
    style = network(place / "networks" / "style.safetensors", pipe)
    host = EmbeddedHost.open(place / "base", place / "networks", "cpu", place)
    assert host.base.family == family
    plain = generate(host, PROMPT)
    changed = generate(host, f"{PROMPT} <lyco:style:0.5>", strict=True)
    tells = "callback_on_step_end" in signature(pipe.__call__).parameters  # AuraFlow's did not in diffusers 0.31
    for made in (plain, changed):
        assert made.problems == () if tells else "does not tell its steps" in "".join(made.problems)
    assert "style" in " ".join(changed.applied)
    assert (pixels(plain) != pixels(changed)).mean() > 0.3
    assert np.array_equal(pixels(generate(host, f"{PROMPT} <lyco:style:0>")), pixels(plain))
    lib_lycoris.merge(place / "base", [style], place / "merged", ratios=[0.5])
    merged = generate(EmbeddedHost.open(place / "merged", None, "cpu", place), PROMPT)
    assert np.abs(pixels(merged) - pixels(changed)).max() <= 1
    assert np.array_equal(pixels(generate(host, PROMPT)), pixels(plain))


def test_what_a_pipeline_cannot_follow_is_said(folder: Path) -> None:
    pipe = PIPELINES["sd3"]()
    pipe.save_pretrained(folder / "said")
    host = EmbeddedHost.open(folder / "said", None, "cpu", folder)
    said = " ".join(generate(host, "a (red:1.4) [house:tree:0.5] AND a hill", 4).problems)
    assert "emphasis is followed" in said and "words that change between the steps" in said and "AND is followed" in said
    with pytest.raises(HostError, match='no sampler "x" for this model; there are FlowMatchEulerDiscrete'):
        host.generate(GenerationRequest(PROMPT, steps=1, width=64, height=64, sampler="x"))
    made = host.generate(GenerationRequest(PROMPT, steps=1, width=64, height=64, sampler="Euler"))
    assert made.problems == ("StableDiffusion3Pipeline samples with its own FlowMatchEulerDiscrete; Euler was not used",)
    assert "Sampler: FlowMatchEulerDiscrete" in made.infotext
    stop = Event()
    with pytest.raises(GenerationCancelled):
        host.generate(GenerationRequest(PROMPT, steps=3, width=64, height=64, sampler=host.samplers()[0]), lambda told: stop.set(), stop)
    out = folder / "out.png"
    command = ["generate", "--ckpt", str(folder / "said"), "--prompt", PROMPT, "--steps", "1", "--size", "64x64", "--out", str(out)]
    assert cli.main([*command, "--device", "cpu", "--data-dir", str(folder)]) == 0 and out.is_file()


def test_a_folder_that_the_installed_libraries_cannot_load_names_the_class(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = folder / "newer"
    place.mkdir()
    (place / "model_index.json").write_text(json.dumps({"_class_name": "Flux9Pipeline", "vae": ["diffusers", "AutoencoderKL"]}))
    command = [
        "generate",
        "--ckpt",
        str(place),
        "--prompt",
        "x",
        "--out",
        str(folder / "x.png"),
        "--device",
        "cpu",
        "--data-dir",
        str(folder),
    ]
    assert cli.main(command) == 2
    assert "newer is a Flux9Pipeline and needs Flux9Pipeline, which the installed diffusers" in capsys.readouterr().err
    (place / "model_index.json").write_text("[]")
    with pytest.raises(HostError, match="does not say which pipeline"):
        EmbeddedHost.open(place, None, "cpu", folder)


@pytest.mark.parametrize(
    ("family", "label"), [("flux", r"Flux\.1"), ("sd3", "Stable Diffusion 3"), ("z-image", "Z-Image"), ("chroma", "Chroma")]
)
def test_one_file_of_another_family_names_it_and_what_to_do(family: str, label: str, folder: Path) -> None:
    layers = {
        name: info for name, info in reference(family).layers.items() if name.startswith("diffusion_model.") and info.kind == "Linear"
    }
    small = dict(sorted(layers.items(), key=lambda item: np.prod(item[1].shape))[:12])
    path = folder / f"{family}.safetensors"
    save_file({f"model.{name}.weight": torch.zeros(info.shape, dtype=torch.float16) for name, info in small.items()}, path)
    with pytest.raises(HostError, match=rf"{family}\.safetensors is a checkpoint of {label}.*folder in diffusers' layout alone"):
        EmbeddedHost.open(path, None, "cpu", folder)


@pytest.mark.parametrize("place", ["unet/evil.py", "unet/diffusers.py", "None.py", "transformer/model.PY"])
def test_code_in_a_folder_is_never_run(place: str, tmp_path: Path) -> None:
    """diffusers runs it in the place of its own classes: versions to 0.31 without a question, and also where the index names none."""
    for index in ({"unet": ["evil", "Evil"]}, {"unet": ["diffusers", "UNet2DConditionModel"]}, {}):
        folder = tmp_path / "model"
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass Evil: pass\n")
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **index}))
        with pytest.raises(HostError, match=r"model holds code \(.*(py|PY)\), which is never run here"):
            EmbeddedHost.open(folder, device="cpu", data=tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "x.PT"])
def test_pickled_weights_of_a_folder_are_not_opened(name: str, beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where safetensors lie beside them these are read; torch's reader is never asked."""
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("a pickle is read"))
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / name).write_bytes(b"PK")
    if beside:
        (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]})
    )
    says = "diffusers cannot load" if beside else rf"model/unet has its weights in {name}, a pickle.*safe_serialization=True"
    with pytest.raises(HostError, match=says):
        EmbeddedHost.open(folder, device="cpu", data=tmp_path)


@pytest.mark.parametrize(
    "index, says",
    [
        ({"unet": ["antigravity", "X"]}, "model takes its unet from antigravity, code that is never run here"),
        ({"vae": ["os", None]}, "model takes its vae from os, code"),
        ({"unet": ["diffusers", 5]}, "model is a StableDiffusionPipeline and needs 5"),
        ({"unet": [["a"], "X"], "vae": [[], {}]}, "diffusers cannot load"),
        ({"_class_name": ["x", "y"]}, "does not say which pipeline it is of: it has another form"),
        (None, "does not say which pipeline it is of: it has no _class_name"), ([1], "it has another form"),
        ("[" * 90_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_an_index_that_somebody_made_up_is_one_sentence(index: Any, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    whole = {"_class_name": "StableDiffusionPipeline", **index} if isinstance(index, dict) else index or {}
    (folder / "model_index.json").write_text(index if isinstance(index, str) else json.dumps(whole))
    with pytest.raises(HostError, match=says):
        EmbeddedHost.open(folder, device="cpu", data=tmp_path)
