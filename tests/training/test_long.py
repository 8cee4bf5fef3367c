"""What takes minutes: a network learns what its images ask for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.protocol import GenerationRequest
from lib_lycoris.training.__main__ import main
from lib_lycoris.training.demo import styles
from tests.training import pictures
from tests.training.conftest import Words

REQUIRES = ("lycoris",)
pytestmark = pytest.mark.long

STEPS = 60
PROMPTS = ("a red circle on the left, white background", "a yellow star at the top, gray background", "a big green tree")
ALGORITHMS = {  # name -> what is asked for, rate
    "lora": ("networks.lora", (), 8e-3),
    "lora-fa": ("networks.lora_fa", (), 2e-2),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty scenes that are seen through blue glass."""
    torch.set_num_threads(1)
    return pictures.folder(tmp_path_factory.mktemp("images"), style=styles.cold)


def blueness(host: EmbeddedHost, tag: str) -> float:
    """Return how much more blue than red there is in the images of the prompts, from -255 to 255."""
    found = [np.asarray(host.generate(GenerationRequest(prompt + tag, seed=2, steps=8, width=64, height=64)).image) for prompt in PROMPTS]
    return float(np.mean([image[..., 2].mean() - image[..., 0].mean() for image in found]))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_network_learns_what_its_images_ask_for(name: str, out: Path, words: Words) -> None:
    """The self-check, which is on, compares the file with the training's forward to 1e-5 of the answer."""
    module, arguments, rate = ALGORITHMS[name]
    given = words(
        name, "--network_module", module, "--network_dim", "8", "--network_alpha", "4", "--train_batch_size", "8",
        "--max_train_steps", str(STEPS), "--learning_rate", str(rate), "--lr_scheduler", "cosine", "--save_precision", "float",
    )  # fmt: skip
    assert main([*given, *(("--network_args", *arguments) if arguments else ())]) == 0
    host = EmbeddedHost.open(networks=out, device="cpu")
    plain, off, on = (blueness(host, tag) for tag in ("", f" <lyco:{name}:0>", f" <lyco:{name}:1>"))
    assert off == plain
    assert on - off > 15, f"{name}: {off:.1f} without, {on:.1f} with"
