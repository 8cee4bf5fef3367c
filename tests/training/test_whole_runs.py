"""Whole runs as people start them: configurations of sd-scripts as they are, regularisation, TensorBoard, presets in TOML files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib_lycoris.demo import CHECKPOINT
from lib_lycoris.errors import ToolError
from lib_lycoris.networks.reading.reader import open_file
from lib_lycoris.tools.training import runs
from lib_lycoris.training.__main__ import main
from lib_lycoris.training.demo.scenes import render
from lib_lycoris.training.settings import read_settings
from tests.training import pictures
from tests.training.conftest import Words

pytestmark = pytest.mark.slow

REQUIRES = ("lycoris",)

# what kohya_ss, the page over sd-scripts, writes: every field of its own, filled in or not; only paths, sizes and steps are ours
FLAT = """
adaptive_noise_scale = 0
async_upload = true
bucket_no_upscale = true
bucket_reso_steps = 64
cache_latents = true
cache_latents_to_disk = true
caption_extension = ".txt"
clip_skip = 1
dynamo_backend = "no"
enable_bucket = true
epoch = 1
gradient_accumulation_steps = 1
huber_c = 0.1
huber_scale = 1
huber_schedule = "snr"
huggingface_path_in_repo = "checkpoint"
huggingface_repo_id = ""
huggingface_repo_type = "model"
huggingface_repo_visibility = "public"
huggingface_token = ""
learning_rate = 0.004
logging_dir = ""
loss_type = "l2"
lr_scheduler = "cosine"
lr_scheduler_args = []
lr_scheduler_num_cycles = 1
lr_scheduler_power = 1
lr_warmup_steps = 0
max_bucket_reso = 2048
max_data_loader_n_workers = 0
max_grad_norm = 1
max_timestep = 1000
max_token_length = 75
max_train_steps = 6
min_bucket_reso = 64
min_snr_gamma = 0
mixed_precision = "no"
multires_noise_discount = 0.3
multires_noise_iterations = 0
network_alpha = 4
network_args = []
network_dim = 4
network_module = "networks.lora"
no_half_vae = true
noise_offset = 0
noise_offset_type = "Original"
optimizer_args = []
optimizer_type = "Adafactor"
output_dir = "{out}"
output_name = "flat"
persistent_data_loader_workers = 1
pretrained_model_name_or_path = "{model}"
prior_loss_weight = 1
resolution = "64,64"
sample_prompts = ""
sample_sampler = "euler_a"
save_every_n_epochs = 1
save_model_as = "safetensors"
save_precision = "fp16"
seed = 5
text_encoder_lr = []
train_batch_size = 2
train_data_dir = "{images}"
training_comment = ""
unet_lr = 0.004
v2 = false
weighted_captions = false
xformers = true
"""

# the two files of LyCORIS' examples and of the notebooks: sections, defaults written out, the data in a file of its own
SECTIONS = """
[Basics]
pretrained_model_name_or_path = "{model}"
dataset_config = "{data}"
seed = 23
max_train_steps = 10000
max_train_epochs = 1
clip_skip = 1

[Save]
output_dir = "{out}"
output_name = "sections"
save_precision = "fp16"
save_model_as = "safetensors"
save_every_n_epochs = 10
save_state = false
save_last_n_steps_state = 1

[SDv2]
v2 = false
v_parameterization = false
scale_v_pred_loss_like_noise_pred = false

[Network_setup]
network_dim = 100000
network_alpha = 1
dim_from_weights = false
network_dropout = 0
network_train_unet_only = false
network_train_text_encoder_only = false
resume = false

[LyCORIS]
network_module = "lycoris.kohya"
network_args = [ "preset=attn-mlp", "algo=lokr", "factor=6", ]

[Optimizer]
gradient_checkpointing = false
optimizer_type = "adamw"
unet_lr = 2e-3
text_encoder_lr = 2e-3
max_grad_norm = 1.0
optimizer_args = [ "weight_decay=0.1", "betas=0.9,0.99",]

[Lr_scheduler]
lr_scheduler_type = ""
lr_scheduler = "constant"
lr_warmup_steps = 0

[Further_improvement]
min_snr_gamma = 5
multires_noise_discount = 0.3
multires_noise_iterations = 6

[Captions]
shuffle_caption = false
keep_tokens = 0
caption_dropout_rate = 0.05
caption_tag_dropout_rate = 0.0
max_token_length = 150
weighted_captions = false
token_warmup_min = 1
token_warmup_step = 0

[Data_augmentation]
color_aug = false
random_crop = false

[Logging]
log_with = "tensorboard"
log_prefix = "lokr_"

[Deprecated]
use_8bit_adam = false
use_lion_optimizer = false
learning_rate = 0.0002

[Others]
lowram = false
training_comment = ""
"""
DATA = """
[[datasets]]
batch_size = 2
keep_tokens = 1

        [[datasets.subsets]]
        image_dir = '{images}/5_scene'
        class_tokens = 'a scene'
        num_repeats = 1

        [[datasets.subsets]]
        image_dir = '{regular}/5_scene'
        is_reg = true
        num_repeats = 1

[general]
resolution = 64
enable_bucket = true
min_bucket_reso = 64
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return pictures.folder(tmp_path_factory.mktemp("images"), 6)


@pytest.fixture(scope="module")
def regular(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of the same things in no style."""
    return pictures.folder(tmp_path_factory.mktemp("regular"), 4, style=render)


def configuration(folder: Path, text: str, **places: object) -> list[str]:
    """Return a command line with nothing but a configuration, and what tests need."""
    for name, place in places.items():
        text = text.replace(f"{{{name}}}", str(place))
    file = folder / "config.toml"
    file.write_text(text)
    return ["--config_file", str(file), "--device", "cpu", "--cache_dir", str(folder / "cache")]


def test_a_configuration_of_the_page_over_sd_scripts_runs_as_it_is(
    images: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(configuration(tmp_path, FLAT, model=CHECKPOINT, images=images, out=out)) == 0
    said = capsys.readouterr().err
    assert "note: --epoch has no effect, as in sd-scripts" in said and "lr_scheduler_args" not in said
    keys = {key.partition(".")[0] for key in load_file(str(out / "flat.safetensors"))}
    assert len(keys) == 216 and any(key.startswith("lora_te_") for key in keys)  # an empty text_encoder_lr leaves nothing out
    metadata = open_file(out / "flat.safetensors").metadata
    assert metadata["ss_optimizer"] == "AdaFactor" and metadata["ss_steps"] == "6"
    assert [rate for _, rate in runs.facts_of(out / "flat.training").rates["unet"]][-1] == pytest.approx(0, abs=1e-6)


def test_a_configuration_in_sections_with_a_file_of_datasets_runs_as_it_is(
    images: Path, regular: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.toml"
    data.write_text(DATA.replace("{images}", str(images)).replace("{regular}", str(regular)))
    assert main(configuration(tmp_path, SECTIONS, model=CHECKPOINT, data=data, out=out)) == 0
    assert "10 images, 12 an epoch, 4 of them for regularisation" in capsys.readouterr().out
    facts = runs.facts_of(out / "sections.training")
    assert facts.status == "done" and facts.steps == 6  # one epoch of 6 images and as many for regularisation, two at a time
    names = list(load_file(str(out / "sections.safetensors")))
    assert any(name.endswith("lokr_w1") for name in names) and any(name.endswith("lokr_w2") for name in names)
    again = read_settings(["--again", str(out / "sections.safetensors"), "--train_data_dir", str(images), "--output_name", "x"])
    assert again.optimizer_type == "AdamW" and again.max_train_epochs == 1 and again.network_args[1] == "algo=lokr"


def test_a_configuration_that_asks_for_something_else_is_refused(images: Path, out: Path, tmp_path: Path) -> None:
    for line, reason in (
        ("full_bf16 = true", "--full_bf16 is not offered here"), ("token_warmup_step = 100", "--token_warmup_step is not offered here"),
        ("weighting_scheme = 'sigma_sqrt'", "use --timestep_sampling"), ("bucket_steps = 3", "bucket_steps is no option"),
    ):  # fmt: skip
        with pytest.raises(ToolError, match=reason):
            read_settings(configuration(tmp_path, FLAT + line, model=CHECKPOINT, images=images, out=out))


# ---- on the tiny Flux.1, whose steps take no time


@pytest.fixture(scope="module")
def asked(on_flux: Words) -> Words:
    return lambda name, *more: on_flux(name, "--learning_rate", "1e-3", *more)


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / runs.PROGRESS).read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


def test_regularisation_takes_turns_with_the_images_and_counts_what_is_asked(asked: Words, images: Path, regular: Path, out: Path) -> None:
    """Of 6 images and 6 of regularisation, one each step: without weight the latter half has no loss."""
    reg = ("--train_data_dir", str(images / "5_scene"), "--reg_data_dir", str(regular), "--max_train_epochs", "1", "--no-self_check")
    assert main(asked("light", *reg, "--prior_loss_weight", "0")) == 0
    assert main(asked("heavy", *reg, "--prior_loss_weight", "2")) == 0
    assert main(asked("equal", *reg)) == 0
    light, heavy, equal = (losses(out / f"{name}.training") for name in ("light", "heavy", "equal"))
    assert len(light) == 12 and light.count(0.0) == 6
    first = light.index(0.0)
    assert light[0] == heavy[0] == equal[0] if first else heavy[0] == pytest.approx(2 * equal[0], rel=1e-6)
    metadata = open_file(out / "equal.safetensors").metadata
    assert metadata["ss_num_reg_images"] == "4" and metadata["ss_num_train_images"] == "6"


@pytest.mark.long
def test_tensorboard_has_what_the_progress_says(asked: Words, out: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(asked("board", "--max_train_steps", "5", "--lr_scheduler", "linear", "--logging_dir", str(tmp_path))) == 0
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    assert [one.value for one in board.Scalars("loss")] == pytest.approx(losses(out / "board.training"))
    facts = runs.facts_of(out / "board.training")
    assert [(one.step, one.value) for one in board.Scalars("lr/transformer")] == [
        (step, pytest.approx(rate)) for step, rate in facts.rates["transformer"]
    ]
    assert [one.value for one in board.Scalars("norm")] == pytest.approx([norm for _, norm in facts.norms])
    assert [one.value for one in board.Scalars("loss/recent")] == pytest.approx([loss for _, loss in facts.losses])


# the example of LyCORIS, without most of its classes for other models
PRESET = """
enable_conv = true
unet_target_module = ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D", "HunYuanDiTBlock"]
unet_target_name = ["conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"]
text_encoder_target_module = ["CLIPAttention", "CLIPMLP"]
text_encoder_target_name = []
exclude_name = ["up_blocks.0"]

[module_algo_map.CrossAttention]
algo = "lokr"
dim = 10000000000000
factor = 4

[module_algo_map.FeedForward]
algo = "loha"
dim = 2

[module_algo_map.ResnetBlock2D]
algo = "lora"
dim = 4
alpha = 1
use_tucker = true

[module_algo_map.CLIPMLP]
algo = "glora"
dim = 3
"""


def test_a_preset_in_a_file_says_the_algorithm_of_each_class(
    words: Words, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text(PRESET)
    own = ("--network_module", "lycoris.kohya", "--network_dim", "8", "--network_alpha", "4", "--max_train_steps", "1")
    assert main(words("preset", *own, "--network_args", "algo=locon", f"preset={preset}", "conv_dim=2")) == 0
    assert "note: mine.toml names what is not in the trained model: HunYuanDiTBlock" in capsys.readouterr().err
    tensors = load_file(str(out / "preset.safetensors"))
    block, conv = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_", "lora_unet_down_blocks_0_resnets_0_conv1"
    assert f"{block}attn2_to_k.lokr_w1" in tensors and f"{block}attn2_to_k.lokr_w2" in tensors
    assert tensors[f"{block}ff_net_2.hada_w1_a"].shape[1] == 2 and "lora_unet_time_embedding_linear_1.lora_up.weight" in tensors
    assert tensors[f"{conv}.lora_mid.weight"].shape[:2] == (4, 4) and float(tensors[f"{conv}.alpha"]) == 1
    assert tensors["lora_unet_conv_in.lora_down.weight"].shape[0] == 2
    assert tensors["lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight"].shape[0] == 8
    assert tensors["lora_te_text_model_encoder_layers_0_mlp_fc1.a2.weight"].shape[0] == 3
    assert not any(name.startswith("lora_unet_up_blocks_0") for name in tensors)
    assert "mine.toml" in open_file(out / "preset.safetensors").metadata["ss_network_args"]
    assert not any(str(tmp_path) in value for value in open_file(out / "preset.safetensors").metadata.values())
