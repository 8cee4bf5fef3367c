"""Images and captions as people have them on disk, and what is said of them before training; settings that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lib_lycoris.errors import ToolError
from lib_lycoris.training.cache import Cache
from lib_lycoris.training.data.folders import datasets_of, left_out
from lib_lycoris.training.data.items import Catalogue, catalogue
from lib_lycoris.training.data.order import Order
from lib_lycoris.training.data.pictures import Cut, read_picture
from lib_lycoris.training.data.report import as_text, data_report
from lib_lycoris.training.settings import Settings, read_settings

NOTHING = ("--output_name", "x")


def picture(path: Path, size: tuple[int, int] = (64, 64), colour: tuple[int, ...] = (200, 10, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(path)
    return path


def found(*words: str, size: int = 64, **more: Any) -> Catalogue:
    """Return what a command line's images are."""
    return catalogue(datasets_of(settings(*words), size), lambda done, total: None, **more)


def settings(*words: str) -> Settings:
    return read_settings([*words, *NOTHING])


def test_folders_with_counts_and_captions_of_all_kinds(tmp_path: Path) -> None:
    picture(tmp_path / "3_red cat" / "a.png")
    picture(tmp_path / "3_red cat" / "b.png", colour=(1, 2, 3))
    (tmp_path / "3_red cat" / "b.caption").write_text("a blue cat")
    picture(tmp_path / "2_dog" / "c.jpg", (128, 64))
    (tmp_path / "2_dog" / "metadata.jsonl").write_text(json.dumps({"file_name": "c.jpg", "text": "a dog"}) + "\n")
    picture(tmp_path / "not counted" / "d.png")
    images = found("--train_data_dir", str(tmp_path))
    assert {item.path.name: item.caption for item in images.items} == {"a.png": "red cat", "b.png": "a blue cat", "c.jpg": "a dog"}
    assert Order(images, 1).length == 8 and images.without_caption == ["a.png"]
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"a": {"caption": "one", "tags": "x, y"}, "b": {"tags": "z"}}))
    images = found("--train_data_dir", str(tmp_path / "3_red cat"), "--in_json", str(listed), "--dataset_repeats", "4")
    assert [item.caption for item in images.items] == ["one, x, y", "z"] and Order(images, 1).length == 8


def test_the_report_names_what_is_wrong(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (40, 40))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    whole = picture(tmp_path / "c.png", (256, 256), (7, 8, 9)).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.jpg").write_text("<html>")
    report = data_report(found("--train_data_dir", str(tmp_path)))
    assert report["images"] == 3 and report["duplicates"] == [["b.png", "a.png"]] and report["enlarged"] == ["a.png", "b.png"]
    assert [name for name, _ in report["broken"]] == ["half.png", "page.jpg"] and report["buckets"] == {"64x64": 3}
    assert str(tmp_path) not in as_text(report) and "broken and left out: half.png" in as_text(report)


def test_folders_that_are_not_trained_on_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "portraits" / "a.png")
    (tmp_path / "notes").mkdir()
    cat = picture(tmp_path / "cat.png").parent
    assert left_out(settings("--train_data_dir", str(cat))) == ["portraits (1 image)"]
    picture(tmp_path / "10_dog" / "b.png")
    images = found("--train_data_dir", str(cat))
    images.left_out = left_out(settings("--train_data_dir", str(cat)))
    assert [item.path.name for item in images.items] == ["b.png"]
    assert f"left out, folders without a number such as 10_cat: {cat.name} (1 image), portraits (1 image)" in as_text(data_report(images))


def test_buckets_keep_shapes_and_every_batch_has_one(tmp_path: Path) -> None:
    for number in range(9):
        picture(tmp_path / f"{number}.png", (64 + 40 * (number % 3), 64), (number, 0, 0))
    images = found("--train_data_dir", str(tmp_path), "--bucket_reso_steps", "8", "--train_batch_size", "2")
    order = Order(images, 1)
    batches = [order.batch(number).items for number in range(order.length)]
    assert all(len({item.fit.bucket for item in batch}) == 1 for batch in batches)
    assert sorted(item.path.name for batch in batches for item in batch) == sorted(item.path.name for item in images.items)
    assert [order.batch(n).items for n in range(order.length)] == batches
    assert [order.batch(n).items for n in range(order.length, 2 * order.length)] != batches


def test_regularisation_and_validation(tmp_path: Path) -> None:
    for number in range(10):
        picture(tmp_path / "own" / "2_cat" / f"{number}.png", colour=(number, 0, 0))
    picture(tmp_path / "reg" / "1_animal" / "r.png")
    images = found("--train_data_dir", str(tmp_path / "own"), "--reg_data_dir", str(tmp_path / "reg"), share=0.2, seed=3)
    assert len(images.validation) == 2 and len(images.items) == 9
    assert Order(images, 1).length == 32  # 8 images twice, and the one of regularisation as often as all of them
    again = found("--train_data_dir", str(tmp_path / "own"), share=0.2, seed=3)
    assert [item.path for item in again.validation] == [item.path for item in images.validation]


def test_masks_cuts_and_mirrors(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", (128, 64), (10, 20, 30, 0))
    masked = found("--train_data_dir", str(tmp_path), "--alpha_mask", "--no-enable_bucket").items[0]
    got = read_picture(masked, Cut(0, 0))
    assert got.mask is not None and float(got.mask.max()) == 0 and got.pixels.shape == (3, 64, 64)
    shown = read_picture(found("--train_data_dir", str(tmp_path)).items[0], Cut(0, 0))
    assert shown.mask is None and float(shown.pixels.min()) == 1  # what is transparent is white
    ramp = np.zeros((64, 128, 3), np.uint8)
    ramp[..., 0] = np.arange(128)
    Image.fromarray(ramp).save(path)
    item = found("--train_data_dir", str(tmp_path), "--no-enable_bucket").items[0]
    left, right = read_picture(item, Cut(0, 0)).pixels, read_picture(item, Cut(64, 0)).pixels
    torch.testing.assert_close((left[0, 0] + 1) * 127.5, torch.arange(64.0))
    torch.testing.assert_close((right[0, 0] + 1) * 127.5, torch.arange(64.0, 128.0))
    torch.testing.assert_close(read_picture(item, Cut(0, 0, True)).pixels, left.flip(2))


def test_a_dataset_file(tmp_path: Path) -> None:
    picture(tmp_path / "one" / "a.png")
    picture(tmp_path / "two" / "b.png")
    file = tmp_path / "data.toml"
    file.write_text(
        "[general]\nshuffle_caption = true\nenable_bucket = false\n[[datasets]]\nresolution = [64, 128]\nbatch_size = 3\n"
        '[[datasets.subsets]]\nimage_dir = "one"\nnum_repeats = 4\nclass_tokens = "cat"\n'
        '[[datasets.subsets]]\nimage_dir = "two"\nis_reg = true\nshuffle_caption = false\n'
    )
    (data,) = datasets_of(settings("--dataset_config", str(file)), 64)
    assert data.resolution == (64, 128) and data.batch_size == 3 and not data.enable_bucket
    one, two = data.subsets
    assert one.shuffle_caption and one.repeats == 4 and one.class_tokens == "cat" and two.regularisation and not two.shuffle_caption
    file.write_text(file.read_text().replace("num_repeats", "num_repeat"))
    with pytest.raises(ToolError, match=r"data\.toml: num_repeat is not offered here"):
        datasets_of(settings("--dataset_config", str(file)), 64)


def test_a_configuration_of_the_trainer(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        f'[model]\npretrained_model_name_or_path = "m.safetensors"\nv2 = false\n[data]\ntrain_data_dir = "{tmp_path}"\n'
        'resolution = "512,768"\n[train]\noutput_name = "cat"\nlearning_rate = 2e-4\nnetwork_dim = 32\nxformers = true\n'
        'network_args = ["conv_dim=4"]\noptimizer_type = "AdamW"\ncolor_aug = false\nsave_model_as = "safetensors"\n'
    )
    read = read_settings(["--config_file", str(file), "--network_dim", "8"])
    assert read.output_name == "cat" and read.network_dim == 8 and read.learning_rate == 2e-4 and read.network_args == ["conv_dim=4"]
    file.write_text(file.read_text() + "full_bf16 = true\n")
    with pytest.raises(ToolError, match="--full_bf16 is not offered here"):
        read_settings(["--config_file", str(file)])
    file.write_text("no_such_option = 1\n")
    with pytest.raises(ToolError, match="no_such_option is no option of a training"):
        read_settings(["--config_file", str(file)])


@pytest.mark.parametrize(
    "words, reason",
    [
        ((), "no images to train on"),
        (("--train_data_dir", "x", "--min_snr_gamma", "5", "--debiased_estimation_loss"), "both weigh the steps"),
        (("--train_data_dir", "x", "--min_timestep", "900", "--max_timestep", "100"), "the first below the second"),
        (("--train_data_dir", "x", "--caption_dropout_rate", "1.5"), "a share from 0"),
        (("--train_data_dir", "x", "--weighted_captions"), "not offered here"),
        (("--train_data_dir", "x", "--dim_from_weights"), "needs --network_weights"),
        (("--train_data_dir", "x", "--network_module", "networks.oft"), "invalid choice"),
    ],
)
def test_settings_that_cannot_be_obeyed(words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ToolError, match=reason):
        settings(*words)


@pytest.mark.parametrize("text", ["0", "512,512,512", "abc", "100"])
def test_resolutions_that_are_none(text: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(ToolError, match="resolution is"):
        found("--train_data_dir", str(tmp_path), "--resolution", text)


def test_a_broken_file_of_the_cache_is_made_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    made: list[int] = []

    def make() -> dict[str, torch.Tensor]:
        made.append(1)
        return {"x": torch.ones(3)}

    path = cache.path("a", 1)
    assert cache.made(path, make)["x"].tolist() == [1, 1, 1] and cache.made(path, make)["x"].tolist() == [1, 1, 1] and len(made) == 1
    path.write_bytes(path.read_bytes()[:20])
    assert cache.made(path, make)["x"].tolist() == [1, 1, 1] and len(made) == 2
    assert cache.path("a", 1) != cache.path("a", 2) and path.is_relative_to(tmp_path)
