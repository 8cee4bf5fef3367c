"""What the trainings of these tests have in common: a folder of images, one for the results, and a command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.training import pictures

Words = Callable[..., "list[str]"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty scenes in the style that a network is to learn."""
    torch.set_num_threads(1)  # sums of several threads differ in their last bits
    return pictures.folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the networks."""
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def words(images: Path, out: Path) -> Words:
    """What returns the command line of a training: its name, then further options."""

    def made(name: str, *more: str) -> list[str]:
        return [
            "--train_data_dir", str(images), "--output_dir", str(out), "--output_name", name, "--cache_dir", str(out / "cache"),
            "--device", "cpu", "--seed", "1", *more,
        ]  # fmt: skip

    return made


@pytest.fixture(scope="module")
def on_flux(words: Words, tmp_path_factory: pytest.TempPathFactory) -> Words:
    """What returns the command line of a training of the tiny Flux.1, whose steps take no time."""
    from tests.training import flow_pipelines

    folder = flow_pipelines.flux(tmp_path_factory.mktemp("models") / "flux")

    def made(name: str, *more: str) -> list[str]:
        return words(
            name, "--pretrained_model_name_or_path", str(folder), "--t5xxl_max_token_length", "32", "--resolution", "64",
            "--network_dim", "4", "--network_alpha", "4", *more,
        )  # fmt: skip

    return made
