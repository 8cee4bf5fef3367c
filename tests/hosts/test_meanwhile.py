"""What happens while an image is made: its files go, the model is changed, memory runs out; the image and the next ones are right."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lib_lycoris.demo import CHECKPOINT, NETWORKS
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.embedded.models import load_model
from lib_lycoris.hosts.protocol import GenerationProgress, GenerationRequest
from tests.hosts.test_generate import PROMPT, SMALL, bits, generate, pixels

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture
def host(tmp_path: Path) -> EmbeddedHost:
    """A host with one network and one checkpoint, which may be taken away."""
    (tmp_path / "networks").mkdir()
    save_file(load_file(NETWORKS / "demo-lora.safetensors"), tmp_path / "networks" / "style.safetensors")  # its hash is not in it
    shutil.copyfile(CHECKPOINT, tmp_path / CHECKPOINT.name)
    return opened(tmp_path)


def opened(folder: Path) -> EmbeddedHost:
    return EmbeddedHost.open(folder / CHECKPOINT.name, folder / "networks", "cpu", folder / "data")


def acting(host: EmbeddedHost, prompt: str, act: Callable[[], object]) -> Any:
    """Make an image and do something when its first step is done."""

    def told(progress: GenerationProgress) -> None:
        if progress.step == 1:
            act()

    return host.generate(GenerationRequest(prompt, **SMALL), told)


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"nonsense" * 100)
    other.replace(path)


@pytest.mark.parametrize("act", [removed, replaced])
@pytest.mark.parametrize("file", ["networks/style.safetensors", CHECKPOINT.name])
def test_a_file_in_use_may_go(file: str, act: Callable[[Path], None], host: EmbeddedHost, tmp_path: Path) -> None:
    wanted, before = pixels(generate(opened(tmp_path), f"{PROMPT} <lyco:style:0.8>")), bits(host)
    picture = acting(host, f"{PROMPT} <lyco:style:0.8>", lambda: act(tmp_path / file))
    assert np.array_equal(pixels(picture), wanted) and picture.applied
    assert bits(host) == before
    assert ("Lyco hashes" in picture.infotext) is ("style" not in file)
    assert any("style.safetensors was changed or removed" in problem for problem in picture.problems) is ("style" in file)


@pytest.mark.parametrize("act", [removed, replaced])
def test_the_text_has_no_hash_of_another_model(act: Callable[[Path], None], host: EmbeddedHost, tmp_path: Path) -> None:
    first = generate(host, PROMPT)
    act(tmp_path / CHECKPOINT.name)
    later = generate(host, PROMPT)
    assert np.array_equal(pixels(first), pixels(later))
    assert "Model hash" in first.infotext and "Model hash" not in later.infotext


def test_a_model_that_is_changed_meanwhile_waits_for_the_image(host: EmbeddedHost) -> None:
    wanted, other = pixels(generate(host, f"{PROMPT} <lyco:style:0.8>")), EmbeddedHost.tiny().model
    changing = threading.Thread(target=host.use, args=(other,))
    picture = acting(host, f"{PROMPT} <lyco:style:0.8>", changing.start)
    changing.join()
    assert np.array_equal(pixels(picture), wanted)
    assert host.model is other and picture.infotext.count(CHECKPOINT.stem) == 1
    host.use(load_model(CHECKPOINT, CPU, torch.float32))
    assert np.array_equal(pixels(generate(host, f"{PROMPT} <lyco:style:0.8>")), wanted)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")])
def test_a_run_that_ends_in_a_layer_leaves_no_trace(error: BaseException, host: EmbeddedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, wanted, before = pixels(generate(host, PROMPT)), pixels(generate(host, f"{PROMPT} <lyco:style:0.8>")), bits(host)
    real, left = nn.Linear.forward, [200]

    def forward(self: nn.Linear, input: torch.Tensor) -> torch.Tensor:
        left[0] -= 1
        if not left[0]:
            raise error
        return real(self, input)

    with monkeypatch.context() as patched:
        patched.setattr(nn.Linear, "forward", forward)
        with pytest.raises(type(error)):
            generate(host, f"{PROMPT} <lyco:style:0.5>")
    assert left[0] == 0 and bits(host) == before
    assert np.array_equal(pixels(generate(host, f"{PROMPT} <lyco:style:0.8>")), wanted)
    assert np.array_equal(pixels(generate(host, PROMPT)), plain)
