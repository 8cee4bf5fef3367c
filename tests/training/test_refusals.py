"""What people do wrong, and what machines do: each is one sentence, before anything is spent where that can be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lib_lycoris.errors import ToolError
from lib_lycoris.tools.training import runs
from lib_lycoris.training.__main__ import main
from lib_lycoris.training.algorithms.preset_file import read_preset
from lib_lycoris.training.data.captions import listed_captions
from lib_lycoris.training.data.folders import datasets_of
from lib_lycoris.training.settings import read_settings
from tests.training.conftest import Words

REQUIRES = ("lycoris",)
ONE = ("--network_train_unet_only", "--network_dim", "2", "--max_train_steps", "1")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    Image.new("RGB", (64, 64), (90, 20, 20)).save(folder / "one.png")
    return folder


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the sentence of a training that failed."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    "words, reason",
    [
        (("--ema_decay", "1"), "a share from 0 to below 1"),
        (("--network_dropout", "1.5"), "a share from 0 to below 1"),
        (("--min_snr_gamma", "-1"), "--min_snr_gamma is -1.0, but 0 or more"),
        (("--max_train_epochs", "-2"), "--max_train_epochs is -2, but 0 or more"),
        (("--lr_warmup_steps", "-1"), "0 or more"),
        (("--unet_lr", "-1"), "--unet_lr is -1.0, but 0 or more"),
        (("--clip_skip", "0"), "--clip_skip is 0, but 1 or more"),
        (("--save_every_n_steps", "-5"), "0 or more"),
    ],
)
def test_numbers_that_mean_nothing(words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ToolError, match=reason):
        read_settings(["--train_data_dir", "x", "--output_name", "x", *words])


SUBSET = "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'HERE'\n"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("datasets = 3", r"datasets are tables, each with \[\[...datasets\]\]"),
        ("general = 1\n[[datasets]]\n", "general is a table"),
        ("[[datasets]]\nsubsets = 4", "subsets is not offered|subsets are tables"),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir = 5", "image_dir is 5, but a text is expected"),
        ("[[datasets]]\nbatch_size = 0\n", "train_batch_size is 0, but 1 or more"),
        ("[[datasets]]\nbucket_reso_steps = -8", "bucket_reso_steps is -8"),
        (f"{SUBSET}flip_aug = 'yes'", "flip_aug is 'yes', but true or false"),
        (f"{SUBSET}num_repeats = '2'", "num_repeats is '2', but a whole number"),
        (f"{SUBSET}caption_dropout_rate = 2", "a share from 0"),
    ],
)
def test_datasets_in_a_file_that_are_none(text: str, reason: str, tmp_path: Path, images: Path) -> None:
    file = tmp_path / "data.toml"
    file.write_text(text.replace("HERE", str(images)))
    with pytest.raises(ToolError, match=f"data.toml: .*({reason})"):
        datasets_of(read_settings(["--dataset_config", str(file), "--output_name", "x"]), 64)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("a = " + "[" * 9000, "is no TOML: it is nested too deeply"),
        ("a = " + "1" * 9000, "is no TOML: a number in it has too many digits"),
        ("a = '\udcff'", "is no TOML: it is no text in UTF-8"),
        ("a =", "is no TOML: Invalid value"),
        ("preset_for = 'nothing'", "preset_for is 'nothing', but one of character, "),
        ("preset_for = ['style', 'concept']", "preset_for is 'style,concept', but one of character, "),
        ("preset_for = true", "preset_for is True, but a text is expected"),
    ],
)
def test_configurations_that_are_none(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ToolError, match=reason):
        read_settings(["--config_file", str(file), "--train_data_dir", str(tmp_path), "--output_name", "x"])


@pytest.mark.parametrize("text", ["null", "[]", '{"a": 5}', '{"a": {"caption": 5}}', '{"a": {"tags": ["x"]}}', "{", "\udcff", "[" * 90_000])
def test_captions_in_a_file_that_are_none(text: str, tmp_path: Path) -> None:
    file = tmp_path / "captions.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ToolError, match=r"^captions\.json (must be a table of images|cannot be read: it is no text in UTF-8)") as raised:
        listed_captions(file)
    assert "object" not in str(raised.value) and "codec" not in str(raised.value)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("unet_target_modules = []", "unet_target_modules is no key of a preset"),
        ('unet_target_module = "Attention"', "unet_target_module is a list of names"),
        ('unet_target_name = ["*bad("]', "is no regular expression"),
        ("enable_conv = 1", "enable_conv is true or false"),
        ('module_algo_map = ["Attention"]', "module_algo_map has tables"),
        ('[module_algo_map.Attention]\nalgo = "lohaa"', "algo=lohaa is no algorithm"),
        ("[name_algo_map.to_q]\ndimm = 4", "to_q: dimm is none of algo, dim"),
    ],
)
def test_presets_in_a_file_that_are_none(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ToolError, match=f"mine.toml: .*{reason}"):
        read_preset(file)


def test_what_is_or_is_not_there_is_said_before_a_model_is_opened(
    out: Path, words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lib_lycoris.training.setup.open_model", lambda *_: pytest.fail("the model was opened"))
    for folder, reason in ((tmp_path / "none", "there is no folder"), (tmp_path, "holds no images")):
        assert main([*words("x"), "--train_data_dir", str(folder)]) == 2
        assert reason in said(capsys)
    assert main(words("../x")) == 2 and '"../x" is no name of a network' in said(capsys)
    (out / "mine.safetensors").touch()
    assert main(words("mine")) == 2 and "mine.safetensors is there already; give --resume" in said(capsys)


def test_images_that_are_all_broken_are_named(words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(9))
    assert main([*words("x"), "--train_data_dir", str(tmp_path)]) == 2
    line = said(capsys)
    assert "no image is left to train on" in line and "page.jpg" in line and "half.png" in line


@pytest.mark.parametrize("option", ["--output_dir", "--cache_dir", "--vae", "--ckpt", "--network_weights", "--sample_prompts"])
def test_files_in_the_place_of_others(option: str, words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "words.bin"
    file.write_bytes(bytes(range(256)) * 4)
    assert main([*words("x", *ONE), option, str(file)]) == 2
    assert "words.bin" in said(capsys) and not list(tmp_path.glob("x*"))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of a file")
@pytest.mark.parametrize(
    "limit, reason",
    [pytest.param(1_000, "cannot be read or written", marks=pytest.mark.long), (200_000, "cannot be written, the one before is kept")],
)
def test_a_full_disk_ends_a_run_with_a_sentence(limit: int, reason: str, out: Path, words: Words, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: a latent, then the state, is what does not fit."""
    asked = [*words(f"full-{limit}", *ONE), "--cache_dir", str(tmp_path)]
    full = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit},) * 2)"
    code = (
        f"import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); {full}; "
        f"from lib_lycoris.training.__main__ import main; sys.exit(main({asked!r}))"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], env=runs.environment(), capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: ") and reason in last and "Traceback" not in done.stderr
    assert not list((out / f"full-{limit}.training").glob(".*.part")) and not (out / f"full-{limit}.safetensors").exists()
