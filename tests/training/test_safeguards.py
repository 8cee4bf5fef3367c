"""What a run does beside its steps: a forecast, images, the check of its files, the guard, a beginning with another network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_lycoris.networks.reading.reader import open_file
from lib_lycoris.tools.training import runs
from lib_lycoris.training import loop
from lib_lycoris.training.__main__ import main
from lib_lycoris.training.reporting.samples import Prompt, read_prompt
from lib_lycoris.training.steps.step import Stepper, Taken
from tests.training import pictures
from tests.training.conftest import Words

REQUIRES = ("lycoris",)
SMALL = ("--network_train_unet_only", "--network_dim", "4", "--network_alpha", "2")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return pictures.folder(tmp_path_factory.mktemp("images"), 6)


def test_a_dry_run_says_what_it_takes_and_writes_nothing(out: Path, words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("dry", *SMALL, "--max_train_steps", "100", "--dry_run")) == 0
    said = capsys.readouterr().out
    assert "trained: 192 layers of unet" in said and "100 steps" in said and "file: 0." in said and "--gradient_checkpointing" in said
    assert "6 images, each seen 16.7 times in 100 steps; about 100 times are usual, which are 600 steps" in said  # 5_scene: five an epoch
    assert not list(out.glob("dry*"))


FULL = {
    "of a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 8.00 GiB"),
    "of the machine": RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
}


@pytest.mark.parametrize("whose", FULL)
@pytest.mark.parametrize("dry", [True, False])
def test_what_does_not_fit_is_refused_with_what_takes_less(
    whose: str, dry: bool, out: Path, words: Words, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise FULL[whose]

    monkeypatch.setattr(Stepper, "take", full)
    given = ("--max_train_steps", "2", "--overwrite", "--train_batch_size", "2", *(("--dry_run",) if dry else ()))
    assert main(words("full", *SMALL, *given)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    what = "a batch of 2 images of 64x64 pixels" if dry else "this training"
    assert line.startswith(f"error: {what} does not fit into the memory (") and "\N{REPLACEMENT CHARACTER}" not in line
    assert "--gradient_checkpointing: the activations by more than half; " in line and "a smaller --resolution" in line
    assert "--network_train_unet_only" not in line  # that is given
    assert dry or runs.facts_of(out / "full.training").status == "failed"


def test_images_and_validation_while_training(out: Path, words: Words, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle --n blurry --w 64 --h 64 --d 3 --l 2 --s 2\n\n# nothing\na big tree --s 2\n")
    more = ("--max_train_steps", "2", "--sample_prompts", str(prompts), "--sample_at_first", "--validation_split", "0.2")
    assert main(words("drawn", *SMALL, *more, "--learning_rate", "1e-2", "--ema_decay", "0.9")) == 0
    folder = out / "drawn.training"
    assert {path.name for path in (folder / "samples").iterdir()} == {
        "000000-00.png", "000000-01.png", "000002-00.png", "000002-01.png", "sheet.png",
    }  # fmt: skip
    assert Image.open(folder / "samples" / "sheet.png").size == (128, 2 * (64 + 14))
    facts = runs.facts_of(folder)
    assert facts.validation and facts.spectra["blocks"] and facts.spectra["curve"]
    assert (folder / "samples" / "000000-00.png").read_bytes() != (folder / "samples" / "000002-00.png").read_bytes()


def test_a_line_of_a_prompt() -> None:
    line = "a cat -- not a flag --n bad, ugly --w 512 --h 768 --d 1 --l 7.5 --s 28"
    assert read_prompt(line) == Prompt("a cat -- not a flag", "bad, ugly", 512, 768, 1, 7.5, 28)
    with pytest.raises(ValueError, match="--x is none of"):
        read_prompt("a cat --x 3")


def test_numbers_that_are_none_end_the_run_with_advice(out: Path, words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--max_train_steps", "20", "--learning_rate", "1e6", "--max_grad_norm", "0")
    assert main(words("nan", *SMALL, *more)) == 2
    assert "came to a loss of nan" in capsys.readouterr().err
    facts = runs.facts_of(out / "nan.training")
    assert facts.status == "failed" and "--lr_warmup_steps" in facts.text


def test_numbers_that_come_late_leave_the_last_good_network(
    out: Path, words: Words, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At step 8 the gradient explodes; the state is that of step 6, and so is the network that is left."""
    given = (*SMALL, "--learning_rate", "1e-2", "--save_precision", "float", "--lr_scheduler", "cosine")
    assert main(words("six", *given, "--max_train_steps", "12", "--save_every_n_steps", "6")) == 0
    own, steps = Stepper.take, []

    def exploding(stepper: Stepper, *rest: object) -> Taken:
        steps.append(own(stepper, *rest))  # type: ignore[arg-type]
        return replace(steps[-1], norm=float("inf")) if len(steps) == 8 else steps[-1]

    monkeypatch.setattr(Stepper, "take", exploding)
    assert main(words("late", *given, "--max_train_steps", "12", "--state_every_n_steps", "3")) == 2
    said = capsys.readouterr().err
    assert "step 8 came to a loss of" in said and "a gradient of inf; the network is as it was after step 6; begin anew with" in said
    kept, left = load_file(str(out / "six-step00000006.safetensors")), load_file(str(out / "late.safetensors"))
    assert kept.keys() == left.keys() and all(torch.equal(tensor, left[name]) for name, tensor in kept.items())


def test_a_run_that_is_begun_anew_shows_no_images_of_the_one_before(out: Path, words: Words, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle --s 2\n")
    given = words("anew", *SMALL, "--sample_prompts", str(prompts), "--sample_every_n_steps", "1", "--no-self_check")
    assert main([*given, "--max_train_steps", "3"]) == 0
    assert main([*given, "--max_train_steps", "1", "--overwrite"]) == 0
    assert {path.name for path in (out / "anew.training" / "samples").iterdir()} == {"000001-00.png", "sheet.png"}


def test_spectra_are_measured_meanwhile_where_that_is_asked_for(out: Path, words: Words) -> None:
    assert main(words("spectra", *SMALL, "--max_train_steps", "4", "--spectra_every_n_steps", "2", "--learning_rate", "1e-2")) == 0
    lines = [json.loads(line) for line in (out / "spectra.training" / runs.PROGRESS).read_text().splitlines()]
    found = {line["step"]: line for line in lines if line["event"] == "spectra"}
    assert set(found) == {2, 4} and found[4]["blocks"].keys() >= {"IN01", "M00", "OUT03"} and found[4]["curve"]["4"] < 1e-3
    assert all(found[2]["blocks"][block] != norm for block, norm in found[4]["blocks"].items())


def test_a_file_that_does_something_else_ends_the_run(
    out: Path, words: Words, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = loop.write_network

    def spoiled(path: Path, *rest: object) -> Path:
        own(path, *rest)  # type: ignore[arg-type]
        tensors = load_file(str(path))
        key = next(key for key in tensors if key.endswith("attn2_to_q.lora_up.weight"))
        save_file({**tensors, key: tensors[key] + 0.5}, str(path), dict(open_file(path).metadata))
        return path

    monkeypatch.setattr(loop, "write_network", spoiled)
    assert main(words("spoiled", *SMALL, "--max_train_steps", "1")) == 2
    assert "spoiled.safetensors does not do what was trained" in capsys.readouterr().err


def test_a_training_begins_with_another_network(out: Path, words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    exact = ("--max_train_steps", "1", "--save_precision", "float")
    assert main(words("first", *SMALL, *exact, "--learning_rate", "1e-2")) == 0
    begin = ("--network_weights", str(out / "first.safetensors"))
    assert main(words("second", *SMALL, *exact, *begin, "--learning_rate", "1e-12")) == 0
    first, second = load_file(str(out / "first.safetensors")), load_file(str(out / "second.safetensors"))
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        torch.testing.assert_close(second[key], tensor, rtol=0, atol=1e-9)
    assert main([*words("third", *SMALL, *exact, *begin), "--network_dim", "8"]) == 2
    assert "--dim_from_weights takes the file's" in capsys.readouterr().err
    assert main([*words("third", *SMALL, *exact, *begin, "--dim_from_weights"), "--network_dim", "8"]) == 0


def test_settings_for_a_use_come_to_files_that_can_be_read(out: Path, words: Words) -> None:
    """A concept's dim of 100000 is no number of float16, and it is alpha in the file."""
    for use, algorithm in (("character", "lora_up.weight"), ("style", "hada_w1_a"), ("concept", "lokr_w2"), ("small file", "lokr_w1")):
        assert main(words(use.replace(" ", "-"), "--preset_for", use, "--max_train_steps", "1")) == 0
        tensors = load_file(str(out / f"{use.replace(' ', '-')}.safetensors"))
        assert any(key.endswith(algorithm) for key in tensors) and all(bool(tensor.isfinite().all()) for tensor in tensors.values())
