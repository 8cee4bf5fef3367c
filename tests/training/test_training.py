"""A training from a folder of images to a network that generates, and one that was killed in its middle: the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib_lycoris import load
from lib_lycoris.hosts.embedded.demo import demo_model
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.protocol import GenerationRequest
from lib_lycoris.networks.reading.reader import open_file
from lib_lycoris.patching import Patcher
from lib_lycoris.tools.training import runs
from lib_lycoris.training.__main__ import main
from tests.training import pictures
from tests.training.conftest import Words

REQUIRES = ("lycoris",)
STEPS = 14
LOKR = (
    "--network_module", "lycoris.kohya", "--network_dim", "8", "--network_alpha", "4", "--network_args", "algo=lokr", "preset=attn-mlp",
    "factor=4", "--train_batch_size", "4", "--learning_rate", "1e-2", "--max_train_steps", str(STEPS), "--state_every_n_steps", "3",
    "--save_precision", "float", "--save_every_n_steps", "5",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(out: Path, words: Words) -> Path:
    """The network of a run that nothing disturbed."""
    assert main(words("whole", *LOKR, "--keep_last", "1")) == 0
    return out / "whole.safetensors"


def test_the_network_is_read_with_every_key_and_changes_the_image(whole: Path) -> None:
    base = Patcher(demo_model(torch.device("cpu")).parts()).base
    network = load(whole, base)
    assert not network.skipped and network.coverage is None and len(network.patches) == 216
    host = EmbeddedHost.open(networks=whole.parent, device="cpu")
    prompt = "a red circle on the left, white background"
    images = [host.generate(GenerationRequest(prompt + tag, seed=1, steps=6, width=64, height=64)) for tag in ("", " <lyco:whole:1>")]
    assert images[1].applied and not images[1].problems
    assert images[0].image.tobytes() != images[1].image.tobytes()


def test_the_metadata_has_the_trainers_keys_and_no_path(whole: Path, images: Path) -> None:
    metadata = open_file(whole).metadata
    assert metadata["ss_network_module"] == "lycoris.kohya" and metadata["ss_network_dim"] == "8"
    assert json.loads(metadata["ss_network_args"]) == {"algo": "lokr", "preset": "attn-mlp", "factor": "4"}
    assert metadata["ss_base_model_version"] == "sd_v1" and metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["ss_sd_model_name"] == "demo-scenes.safetensors" and metadata["ss_steps"] == str(STEPS)
    assert "5_scene" in json.loads(metadata["ss_tag_frequency"]) and metadata["sshs_model_hash"]
    assert not any(str(images.parent) in value or str(whole.parent) in value for value in metadata.values())


def test_progress_is_told_in_lines_that_a_page_can_follow(whole: Path) -> None:
    facts = runs.facts_of(whole.with_suffix(".training"))
    assert facts.status == "done" and facts.step == facts.steps == STEPS
    assert [step for step, _ in facts.losses] == list(range(1, STEPS + 1))
    assert facts.files == ["whole-step00000010.safetensors", "whole.safetensors"]  # --keep_last 1
    assert not (whole.parent / "whole-step00000005.safetensors").exists()


def test_a_run_that_was_killed_goes_on_to_the_same_bits(out: Path, words: Words, whole: Path) -> None:
    command = [sys.executable, "-m", "lib_lycoris.training", *words("killed", *LOKR)]
    process = subprocess.Popen(command, env={**runs.environment(), "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    wait_for_step(process, out / "killed.training", 7)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "killed.safetensors").exists()
    assert main(words("killed", *LOKR, "--resume")) == 0
    same(out / "killed.safetensors", whole)


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Wait until a run has done so many steps."""
    for _ in range(1200):
        if runs.facts_of(folder).step >= step or process.poll() is not None:
            break
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it could be killed"


def same(one: Path, other: Path) -> None:
    first, second = load_file(str(one)), load_file(str(other))
    assert first.keys() == second.keys() and len(first) > 0
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_a_run_that_is_stopped_keeps_its_place(
    images: Path, out: Path, words: Words, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lib_lycoris.training", *words("stopped", *LOKR)],
        env={**runs.environment(), "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    folder = out / "stopped.training"
    wait_for_step(process, folder, 2)
    runs.stop(folder)
    assert process.wait(60) == 130
    assert runs.facts_of(folder).status == "stopped" and not (out / "stopped.safetensors").exists()
    assert main(words("stopped", *LOKR)) == 2
    assert "--resume to go on with it" in capsys.readouterr().err
    assert main(words("stopped", *LOKR, "--resume", "--train_batch_size", "2")) == 2
    assert "started with other settings (train_batch_size)" in capsys.readouterr().err
    few = pictures.folder(out / "few" / images.name, 3)  # of the same name: its content is what counts
    assert main([*words("stopped", *LOKR), "--resume", "--train_data_dir", str(few)]) == 2
    assert "started with other settings (images or captions), so it cannot go on" in capsys.readouterr().err
    assert main(words("stopped", *LOKR, "--resume")) == 0
    same(out / "stopped.safetensors", whole)


def test_again_trains_with_what_the_file_keeps(images: Path, out: Path, whole: Path) -> None:
    again = ["--again", str(whole), "--train_data_dir", str(images), "--output_dir", str(out), "--output_name", "again", "--device", "cpu"]
    assert main([*again, "--cache_dir", str(out / "cache")]) == 0
    same(out / "again.safetensors", whole)
