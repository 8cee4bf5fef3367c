"""The embedded host and `generate`: what the prompt says happens to the image, and the model is untouched after it."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_lycoris import cli
from lib_lycoris.demo import NETWORKS
from lib_lycoris.errors import HostError
from lib_lycoris.hosts.embedded import preview as embedded_preview
from lib_lycoris.hosts.embedded import tokenizer as embedded_tokenizer
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.embedded.preview import clean
from lib_lycoris.hosts.embedded.samplers import SAMPLERS
from lib_lycoris.hosts.library.library import Library
from lib_lycoris.hosts.protocol import GeneratedImage, GenerationCancelled, GenerationProgress, GenerationRequest

PROMPT = "a red house on a hill"
DEMOS, WORD = sorted(path.stem for path in NETWORKS.glob("*.safetensors")), "glimmer"
SMALL: dict[str, Any] = {"seed": 3, "steps": 3, "width": 64, "height": 64}
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the user's own networks."""
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(scope="module")
def host(data: Path, own: Path) -> EmbeddedHost:
    return EmbeddedHost.open(networks=own, device="cpu", data=data)


@pytest.fixture(scope="module")
def demos(host: EmbeddedHost) -> Path:
    return NETWORKS


@pytest.fixture(scope="module")
def plain(host: EmbeddedHost) -> np.ndarray:
    return pixels(generate(host, PROMPT))


def generate(host: EmbeddedHost, prompt: str, **changes: Any) -> GeneratedImage:
    return host.generate(GenerationRequest(prompt, **{**SMALL, **changes}))


def pixels(picture: GeneratedImage) -> np.ndarray:
    return np.asarray(picture.image, dtype=np.float32)


def bits(host: EmbeddedHost) -> list[bytes]:
    """The model's every parameter and buffer, as bytes."""
    modules = [*host.model.parts().values(), host.model.pipe.vae]
    return [tensor.detach().cpu().numpy().tobytes() for module in modules for tensor in module.state_dict().values()]


@pytest.mark.parametrize("name", DEMOS)
def test_every_demo_network_changes_the_picture_and_leaves_the_model_alone(host: EmbeddedHost, plain: np.ndarray, name: str) -> None:
    before = bits(host)
    changed = generate(host, f"{PROMPT} <lyco:{name}>")
    assert changed.problems == ()
    assert len(changed.applied) == 1 and changed.applied[0].startswith(f"{name} at 1: changes ")
    assert np.abs(pixels(changed) - plain).mean() > 2
    assert pixels(changed).std() > 20, "the image is wrecked: it is almost one colour"
    assert bits(host) == before
    assert np.array_equal(pixels(generate(host, PROMPT)), plain)


def test_strength_zero_is_the_picture_without_the_network(host: EmbeddedHost, plain: np.ndarray) -> None:
    assert np.array_equal(pixels(generate(host, f"{PROMPT} <lyco:demo-dora:0>")), plain)


def test_two_tags_in_either_order_give_the_same_bits(host: EmbeddedHost, plain: np.ndarray) -> None:
    one = pixels(generate(host, f"{PROMPT} <lyco:demo-loha:0.6> <lyco:demo-boft:0.4>"))
    other = pixels(generate(host, f"{PROMPT} <lyco:demo-boft:0.4> <lyco:demo-loha:0.6>"))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, plain)


def test_the_same_seed_gives_the_same_picture_and_another_does_not(host: EmbeddedHost, plain: np.ndarray) -> None:
    assert np.array_equal(pixels(generate(host, PROMPT)), plain)
    assert np.abs(pixels(generate(host, PROMPT, seed=4)) - plain).mean() > 2
    assert np.abs(pixels(generate(host, "a blue cat")) - plain).mean() > 2


def test_a_twin_that_never_met_a_network_has_the_same_bits(host: EmbeddedHost, plain: np.ndarray) -> None:
    twin = EmbeddedHost.open(device="cpu")
    assert bits(twin) == bits(host)
    assert np.array_equal(pixels(generate(twin, PROMPT)), plain)


def test_a_schedule_acts_on_its_steps(host: EmbeddedHost, plain: np.ndarray) -> None:
    always = pixels(generate(host, f"{PROMPT} <lyco:demo-lora:0:1>"))
    assert np.array_equal(pixels(generate(host, f"{PROMPT} <lyco:demo-lora:0:1:start=1>")), always)
    assert np.array_equal(pixels(generate(host, f"{PROMPT} <lyco:demo-lora:0:1:start=4>")), plain)  # there are 3 steps
    assert np.array_equal(pixels(generate(host, f"{PROMPT} <lyco:demo-lora:0:1:stop=1>")), plain)
    late = pixels(generate(host, f"{PROMPT} <lyco:demo-lora:0:1:start=3>"))
    assert not np.array_equal(late, always) and not np.array_equal(late, plain)


def test_text_encoder_and_unet_have_their_own_strengths(host: EmbeddedHost, plain: np.ndarray) -> None:
    text, unet = (pixels(generate(host, f"{PROMPT} <lyco:demo-lora:{tag}>")) for tag in ("1:0", "0:1"))
    assert np.abs(text - plain).mean() > 1 and np.abs(unet - plain).mean() > 1
    assert not np.array_equal(text, unet)


def test_dyn_takes_the_first_ranks(host: EmbeddedHost) -> None:
    whole, part = (generate(host, f"{PROMPT} <lyco:demo-dylora:1:1:{dyn}>") for dyn in (8, 2))
    assert np.abs(pixels(whole) - pixels(part)).mean() > 1
    assert np.array_equal(pixels(whole), pixels(generate(host, f"{PROMPT} <lyco:demo-dylora>")))


def test_a_bundled_embedding_is_a_word_while_its_network_is_on(host: EmbeddedHost) -> None:
    with_word, without = (pixels(generate(host, f"{PROMPT}{word} <lyco:demo-embedding:0>")) for word in (f" {WORD}", ""))
    letters = pixels(generate(host, f"{PROMPT} {WORD}"))  # without the network the word is its letters
    assert np.abs(with_word - letters).mean() > 1
    assert np.abs(with_word - without).mean() > 1
    upper = pixels(generate(host, f"{PROMPT} {WORD.upper()} <lyco:demo-embedding:0>"))
    assert np.array_equal(with_word, upper)


def test_long_prompts_are_read_to_their_end(host: EmbeddedHost) -> None:
    one, other = (pixels(generate(host, "very " * 40 + word)) for word in ("red", "blue"))  # 160 letters and more, a piece is 75
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws(host: EmbeddedHost, sampler: str) -> None:
    assert pixels(generate(host, PROMPT, sampler=sampler)).std() > 20


def test_progress_counts_the_steps_and_cancel_stops(host: EmbeddedHost, plain: np.ndarray) -> None:
    seen: list[GenerationProgress] = []
    host.generate(GenerationRequest(PROMPT, **SMALL), seen.append)
    assert [progress.step for progress in seen] == [0, 1, 2, 3]
    assert seen[-1].eta == 0 and "step 3 of 3 - " in seen[-1].text()
    stop = threading.Event()
    before = bits(host)

    def after_first(progress: GenerationProgress) -> None:
        if progress.step == 1:
            stop.set()

    with pytest.raises(GenerationCancelled):
        host.generate(GenerationRequest(f"{PROMPT} <lyco:demo-lora>", **SMALL), after_first, stop)
    assert bits(host) == before
    assert np.array_equal(pixels(generate(host, PROMPT)), plain)


def broken_nan(demos: Path, path: Path) -> None:
    tensors = load_file(demos / "demo-lora.safetensors")
    first = next(key for key in tensors if key.endswith("lora_up.weight"))
    tensors[first][0] = float("nan")
    save_file(tensors, path)


def broken_truncated(demos: Path, path: Path) -> None:
    content = (demos / "demo-lora.safetensors").read_bytes()
    path.write_bytes(content[: len(content) // 2])


def broken_foreign(demos: Path, path: Path) -> None:
    key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    save_file({f"{key}.lora_down.weight": torch.ones(4, 2048), f"{key}.lora_up.weight": torch.ones(640, 4)}, path)


def broken_unknown(demos: Path, path: Path) -> None:
    save_file({"lora_unet_down_blocks_0_attentions_0_proj_in.mystery_w1": torch.ones(4, 4)}, path)


BROKEN: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "nan": (broken_nan, "NaN"),
    "truncated": (broken_truncated, "cut off"),
    "foreign": (broken_foreign, "Stable Diffusion XL"),
    "unknown": (broken_unknown, "no network"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_bad_file_is_one_sentence_and_the_picture_comes_without_it(
    host: EmbeddedHost, demos: Path, own: Path, plain: np.ndarray, kind: str
) -> None:
    make, says = BROKEN[kind]
    make(demos, own / f"bad-{kind}.safetensors")
    before = bits(host)
    picture = generate(host, f"{PROMPT} <lyco:bad-{kind}:0.7>")
    assert len(picture.problems) == 1, picture.problems
    assert f"bad-{kind}" in picture.problems[0] and says in picture.problems[0] and "\n" not in picture.problems[0]
    assert picture.applied == ()
    assert np.array_equal(pixels(picture), plain)
    assert bits(host) == before
    beside = generate(host, f"{PROMPT} <lyco:bad-{kind}:0.7> <lyco:demo-lora>")
    assert np.array_equal(pixels(beside), pixels(generate(host, f"{PROMPT} <lyco:demo-lora>")))


def test_bad_tags_are_told_and_left_out(host: EmbeddedHost, plain: np.ndarray) -> None:
    picture = generate(host, f"{PROMPT} <lyco:demo-lroa> <lyco:demo-lora:1:colour=2>", negative="fog <lyco:demo-lora>")
    assert len(picture.problems) == 3
    assert "demo-lora" in picture.problems[0] and "nearest" in picture.problems[0]
    assert '"colour" is not a key' in picture.problems[1]
    assert "negative prompt" in picture.problems[2]
    assert np.array_equal(pixels(picture), pixels(generate(host, PROMPT, negative="fog")))


@pytest.mark.parametrize(
    "changes, says",
    [({"steps": 0}, "steps"), ({"width": 100}, "100"), ({"height": 8192}, "8192"), ({"sampler": "X"}, "DDIM"), ({"seed": 2**40}, "seed")],
)
def test_impossible_requests_are_refused_with_a_sentence(host: EmbeddedHost, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(HostError, match=says):
        generate(host, PROMPT, **changes)


def test_base_weights_are_found_under_canonical_names(host: EmbeddedHost) -> None:
    unet = host.model.pipe.unet
    assert torch.equal(host.weight("diffusion_model.input_blocks.0.0.weight"), unet.conv_in.weight)
    assert torch.equal(host.weight("diffusion_model.out.2.bias"), unet.conv_out.bias)
    with pytest.raises(HostError, match=r"no\.such"):
        host.weight("diffusion_model.no.such.weight")


def test_the_library_finds_by_name_place_and_alias(tmp_path: Path) -> None:
    for place, alias in (("one/style", "generated"), ("two/style", "drawn"), ("two/v1.5", ""), ("top", "style2")):
        path = tmp_path / f"{place}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({"a": torch.ones(1)}, path, {"ss_output_name": alias} if alias else {"x": "y"})
    (tmp_path / "not-one.txt").write_text("no network")
    library = Library([tmp_path])
    assert library.names() == ["one/style", "top", "two/style", "v1.5"]
    expected = {
        "two/style": "two/style", "TOP": "top", "v1.5": "two/v1.5", "generated": "one/style", "top.safetensors": "top",
        "two\\v1.5": "two/v1.5",
    }  # fmt: skip
    assert {name: library.find(name).place for name in expected} == expected
    with pytest.raises(HostError, match=r"one/style.*two/style"):
        library.find("style")
    with pytest.raises(HostError, match="nearest name is top"):
        library.find("topp")
    save_file({"a": torch.ones(1)}, tmp_path / "late.safetensors")
    assert library.find("late").name == "late"  # a file that came after the first look


def test_generate_writes_a_picture_with_its_texts(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "image.png"
    words = ["generate", "--prompt", f"{PROMPT} <lyco:demo-loha:0.7> <lyco:nothing-like-it>", "--seed", "3", "--steps", "3"]
    assert cli.main([*words, "--size", "64x72", "--out", str(out), "--data-dir", str(data), "--device", "cpu", "--json", "--lenient"]) == 0
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert facts["seed"] == 3 and facts["image"] == str(out) and len(facts["applied"]) == 1
    assert 'no network called "nothing-like-it"' in printed.err
    assert "sampling" in printed.err
    with Image.open(out) as image:
        assert image.size == (64, 72)
        text = image.text["parameters"]
        assert image.text["lyco problems"] == facts["problems"][0]
    assert text.splitlines()[0] == f"{PROMPT} <lyco:demo-loha:0.7> <lyco:nothing-like-it>"
    assert "Steps: 3, Sampler: DDIM, CFG scale: 2.5, Seed: 3, Size: 64x72, Model hash: " in text and ", Model: demo-scenes" in text
    assert 'Lyco hashes: "demo-loha: ' in text
    assert [path.name for path in out.parent.iterdir()] == ["image.png"]


@pytest.mark.parametrize(
    "words, says",
    [
        (["--ckpt", "absent.safetensors"], "there is no checkpoint"),
        (["--networks", "absent"], "there is no folder absent"),
        (["--device", "abacus"], 'there is no device "abacus"'),
        (["--size", "100x64"], "a side of 100 pixels"),
        (["--out", "image.jpg"], r"must end in .png"),
    ],
)
def test_generate_says_what_is_wrong_and_writes_nothing(
    words: list[str], says: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate", "--prompt", "a", "--steps", "1", "--data-dir", str(data), *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1 and says in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_no_file(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EmbeddedHost, "step", interrupted)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate", "--prompt", "a", "--data-dir", str(data)]) == 130
    assert "Stopped" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n    {verb} " in text for verb in ("app", "generate", "inspect"))


def test_clip_vocabulary_is_taken_from_open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "open_clip"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    merges = ['"bpe_simple_vocab_16e6.txt#version: 0.2', "c a", "ca t</w>"]
    (package / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress("\n".join(merges).encode()))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(embedded_tokenizer, "_cached", lambda: None)
    tokenizer = embedded_tokenizer.clip_tokenizer(pad_with_zero=True)
    ids = tokenizer("A cat", add_special_tokens=False).input_ids
    letter = 256 + ord("a") - ord("!")
    assert ids == [letter, 513]  # 512 bytes, alone and at a word's end; then the merges
    assert tokenizer.bos_token_id == 514 and tokenizer.eos_token_id == 515
    assert tokenizer.pad_token_id == 0


def test_no_vocabulary_at_all_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPTokenizer

    def absent(*_: Any, **__: Any) -> None:
        raise OSError("offline")

    monkeypatch.setattr(CLIPTokenizer, "from_pretrained", absent)
    monkeypatch.setattr(embedded_tokenizer, "_from_open_clip", lambda: None)
    with pytest.raises(HostError, match="pip install open_clip_torch"):
        embedded_tokenizer.clip_tokenizer(pad_with_zero=False)


# --- checkpoints: a model made with diffusers, written with LDM's names, must draw the same image when it is read again

HEAD = {"sd1": 8, "sd2": [2, 4, 4, 4], "sdxl": [2, 4, 4]}
TEXT: dict[str, Any] = {
    "vocab_size": 514, "hidden_size": 64, "intermediate_size": 128, "projection_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513,
}  # fmt: skip


def tiny_unet(family: str) -> Any:
    from diffusers import UNet2DConditionModel

    cross = [True, True, True, False] if family != "sdxl" else [False, True, True]
    wide = len(cross)
    more: dict[str, Any] = {"transformer_layers_per_block": [1, 1, 2]} if family == "sdxl" else {}
    if family == "sdxl":
        more.update(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=48 + 6 * 8)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=[32, 64, 64, 64][:wide], layers_per_block=2, attention_head_dim=HEAD[family],
        down_block_types=["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in cross],
        up_block_types=["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in reversed(cross)],
        cross_attention_dim=128 if family == "sdxl" else 64, use_linear_projection=family != "sd1", **more,
    )  # fmt: skip


def tiny_vae(family: str) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=[32, 32, 64, 64],
        layers_per_block=2, latent_channels=4, scaling_factor=0.13025 if family == "sdxl" else 0.18215,
    )  # fmt: skip


def tiny_checkpoint(family: str) -> EmbeddedHost:
    """A random model of a family in diffusers' classes, as narrow as LDM's group norms of 32 allow."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from lib_lycoris.hosts.embedded.models import LoadedModel
    from lib_lycoris.hosts.embedded.shapes import SCHEDULE

    torch.manual_seed(5)
    tokenizer = embedded_tokenizer.byte_tokenizer()
    act = "gelu" if family == "sd2" else "quick_gelu"
    parts: dict[str, Any] = {"unet": tiny_unet(family).eval(), "vae": tiny_vae(family).eval(), "scheduler": DDIMScheduler(**SCHEDULE)}
    parts.update(text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT, hidden_act=act)).eval(), tokenizer=tokenizer)
    if family == "sdxl":
        second = CLIPTextModelWithProjection(CLIPTextConfig(**TEXT, hidden_act="gelu")).eval()
        pipe = StableDiffusionXLPipeline(**parts, text_encoder_2=second, tokenizer_2=tokenizer, add_watermarker=False)
    else:
        pipe = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return EmbeddedHost(LoadedModel(pipe, family, f"tiny-{family}", family != "sd1", 64), [])


def vae_name(name: str) -> str:
    """Write a diffusers autoencoder's parameter name as LDM does."""
    name = re.sub(r"up_blocks\.(\d)\.", lambda m: f"up.{3 - int(m[1])}.", name)
    name = re.sub(r"down_blocks\.(\d)\.", r"down.\1.", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name).replace("resnets.", "block.")
    for new, old in (
        ("mid_block.attentions.0", "mid.attn_1"), ("group_norm", "norm"), ("to_out.0", "proj_out"), ("to_q", "q"), ("to_k", "k"),
        ("to_v", "v"), ("downsamplers.0", "downsample"), ("upsamplers.0", "upsample"), ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    ):  # fmt: skip
        name = name.replace(new, old)
    return f"first_stage_model.{name}"


def ldm_state(host: EmbeddedHost) -> dict[str, torch.Tensor]:
    """The model's tensors under the names that single-file checkpoints use."""
    family = host.model.family
    text = {"sd1": "cond_stage_model.", "sd2": "cond_stage_model.", "sdxl": "conditioner.embedders."}[family]
    state = {}
    for name in host.patcher.names.places:
        state[("model." if name.startswith("diffusion_model.") else text) + name] = host.weight(name).clone().contiguous()
    for name, tensor in host.model.pipe.vae.state_dict().items():
        square = ".attentions." in name and tensor.dim() == 2  # LDM's are 1x1 convolutions
        state[vae_name(name)] = tensor[:, :, None, None].clone() if square else tensor.clone()
    position = "positional_embedding"
    for key in [key for key in state if key.endswith(f"{position}.weight")]:
        state[key.removesuffix(".weight")] = state.pop(key)
    return state


@pytest.mark.parametrize("family", HEAD)
def test_a_single_file_checkpoint_draws_what_its_model_draws(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_checkpoint(family)
    save_file(ldm_state(source), tmp_path / f"tiny-{family}.safetensors")
    monkeypatch.setattr("lib_lycoris.hosts.embedded.models.clip_tokenizer", lambda pad_with_zero: embedded_tokenizer.byte_tokenizer())
    read = EmbeddedHost.open(ckpt=tmp_path / f"tiny-{family}.safetensors", device="cpu")
    assert read.base.family == family and read.size == 64
    pipe = source.model.pipe
    pipe.scheduler = type(pipe.scheduler).from_config(read.model.pipe.scheduler.config)
    wanted = pixels(generate(source, PROMPT, negative="fog"))
    assert np.array_equal(pixels(generate(read, PROMPT, negative="fog")), wanted)
    assert not np.array_equal(pixels(generate(read, "a blue cat", negative="fog")), wanted)


def test_a_folder_in_diffusers_layout_draws_what_its_model_draws(tmp_path: Path) -> None:
    source = tiny_checkpoint("sd1")
    source.model.pipe.save_pretrained(tmp_path / "model")
    read = EmbeddedHost.open(ckpt=tmp_path / "model", device="cpu")
    assert np.array_equal(pixels(generate(read, PROMPT)), pixels(generate(source, PROMPT)))


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda state: state.pop("model.diffusion_model.input_blocks.0.0.weight"), "not a whole Stable Diffusion checkpoint"),
        (lambda state: state.pop("model.diffusion_model.out.2.weight"), "lacks parts of it"),
        (lambda state: [state.pop(key) for key in list(state) if key.startswith("cond_stage_model.")], "holds no text encoder"),
        (lambda state: state.update({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}), "9 input channels"),
        (lambda state: state.update({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": torch.zeros(1)}), "SD3"),
        (lambda state: state.update({"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}), "Flux"),
        (lambda state: state.update({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}), "the wrong shape"),
        (lambda state: state.update({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(7, 4, 3, 3)}), "lacks parts of it, or"),
        (lambda state: state.update({next(key for key in state if "attn2.to_k" in key): torch.zeros(5)}), "lacks parts of it, or"),
        (lambda state: state.update({"model.diffusion_model.out.2.weight": torch.zeros(10**9, 0, 3, 3)}), "is broken: .* holds no numbers"),
        (lambda state: state.update({next(key for key in state if "token_embedding" in key): torch.zeros(5)}), "lacks parts of it, or"),
        (lambda state: lengthen(state, "input_blocks.0.0.weight", 0, channels=4), "would fit the other tensors"),
        (lambda state: lengthen(state, "attn2.to_k.weight", 1), "would fit the other tensors"),
        (lambda state: lengthen(state, "encoder.down.0.block.0.conv1.weight", 0), "lacks parts of it, or"),
        (lambda state: lengthen(state, "token_embedding", 1), "would fit the other tensors"),
        (lambda state: lengthen(state, "mlp.fc1.weight", 0), "would fit the other tensors"),
    ],
)  # fmt: skip
def test_checkpoints_that_cannot_draw_say_why(
    change: Callable[[dict[str, torch.Tensor]], Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib_lycoris.hosts.embedded.models.clip_tokenizer", lambda pad_with_zero: embedded_tokenizer.byte_tokenizer())
    state = ldm_state(tiny_checkpoint("sd1"))
    change(state)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(HostError, match=says) as raised:
        EmbeddedHost.open(ckpt=tmp_path / "odd.safetensors", device="cpu")
    assert "odd.safetensors" in str(raised.value) and "\n" not in str(raised.value)


def lengthen(state: dict[str, torch.Tensor], part: str, axis: int, channels: int = 1) -> None:
    """Make one side of the first tensor of a name so long that a model of that width would not fit into any memory."""
    key = next(key for key in state if part in key)
    shape = [1, channels, 1, 1][: state[key].dim()]
    shape[axis] = 3_000_000
    state[key] = torch.zeros(shape, dtype=torch.float16)


@pytest.mark.parametrize("name, content", [("cut.safetensors", b"\x10\x00\x00"), ("old.ckpt", b"x")])
def test_files_that_are_no_checkpoints_say_so(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HostError, match=name):
        EmbeddedHost.open(ckpt=tmp_path / name, device="cpu")


def test_sd2_kinds_are_told_apart_by_the_answer() -> None:
    from types import SimpleNamespace

    from lib_lycoris.hosts.embedded.models import predicts_velocity

    class Answer(torch.nn.Linear):
        config = SimpleNamespace(cross_attention_dim=4)

        def forward(self, picture: torch.Tensor, *_: Any, **__: Any) -> Any:
            return SimpleNamespace(sample=picture * self.out_features - 2 * (self.out_features - 1))

    assert predicts_velocity(Answer(1, 2)) is True  # 0.5 -> -1
    assert predicts_velocity(Answer(1, 1)) is False  # 0.5 -> 0.5


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_preview_is_the_clean_picture_that_the_model_s_output_means(host: EmbeddedHost, sampler: str, prediction: str) -> None:
    """For a sample made of a known image and known noise, as each kind of scheduler scales it."""
    import diffusers

    name, extra = SAMPLERS[sampler]
    scheduler = getattr(diffusers, name).from_config(host.model.pipe.scheduler.config, prediction_type=prediction, **extra)
    x0, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    alpha, sigma = (float(v) ** 0.5 for v in (scheduler.alphas_cumprod[400], 1 - scheduler.alphas_cumprod[400]))
    sample = alpha * x0 + sigma * noise
    output = {"epsilon": noise, "v_prediction": alpha * noise - sigma * x0, "sample": x0}[prediction]
    given = sample / alpha if sampler.startswith("Euler") else sample
    torch.testing.assert_close(clean(scheduler, output, torch.tensor(400), given), x0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_previews_come_nearer_to_the_picture(host: EmbeddedHost, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_preview, "PAUSE", 0.0)
    monkeypatch.setattr(embedded_preview, "SHARE", 1e9)
    seen: list[GenerationProgress] = []
    picture = host.generate(GenerationRequest(PROMPT, **{**SMALL, "steps": 8, "sampler": sampler}), seen.append)
    previews = [state.preview for state in seen if state.preview is not None]
    assert len(previews) == 7 and seen[0].preview is None and seen[-1].preview is None
    far = [np.abs(np.asarray(image.convert("RGB"), dtype=np.float32) - pixels(picture)).mean() for image in previews]
    assert far[-1] < 8 and far[-1] < far[0], far
    assert np.array_equal(pixels(picture), pixels(host.generate(GenerationRequest(PROMPT, **{**SMALL, "steps": 8, "sampler": sampler})))), (
        "no trace"
    )


def test_previews_take_a_share_of_the_time(host: EmbeddedHost) -> None:
    seen: list[GenerationProgress] = []
    host.generate(GenerationRequest(PROMPT, **{**SMALL, "steps": 3}), seen.append)
    assert sum(state.preview is not None for state in seen) <= 2
