"""What only the Forges have: models that are loaded in part, weights in fp8, the host's networks as functions on the layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_lycoris import load
from tests.webui.files import SD1_LAYERS, base_of, linear_layers, merge, write_network
from tests.webui.kinds import recognise
from tests.webui.running import PROBE, PROMPT, Picture, Running, largest, mean
from tests.webui.server import HERE, WebUI, make_checkpoints

pytestmark = [pytest.mark.webui, pytest.mark.timeout(1800)]
torch.set_num_threads(1)
NETWORKS = {"full": "lora", "hada": "loha", "turned": "dora_out", "rotated": "oft", "norms": "norm"}
Start = Callable[..., AbstractContextManager[Running]]


@pytest.fixture(scope="module")
def models(webui_dir: Path, webui_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_checkpoints(webui_dir, Path(webui_python), folder, *recognise(webui_dir).checkpoint_kinds)
    return folder


@pytest.fixture(scope="module")
def start(webui_dir: Path, webui_python: str, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    @contextmanager
    def started(name: str, *extensions: Path, flags: Sequence[str] = (), **options: Any) -> Iterator[Running]:
        data, extensions = tmp_path_factory.mktemp(name), (PROBE, *extensions)
        webui = WebUI(webui_dir, Path(webui_python), models=models, data=data, extensions=extensions, flags=flags, options=options)
        base = base_of(models / "checkpoints" / "sd1-1.safetensors", "sd1")
        for seed, (file, algorithm) in enumerate(NETWORKS.items(), 5):
            layers = linear_layers(base) if algorithm in ("lora", "loha") else SD1_LAYERS
            write_network(webui.lyco_dir / f"{file}.safetensors", base, algorithm, layers, seed=seed, size=0.5)
        write_network(webui.lora_dir / "plain.safetensors", base, "lora", linear_layers(base), seed=4, size=0.5)
        with webui:
            yield Running(webui)

    return started


TAGS = [
    "<lora:plain:0.7>",
    *(f"<lyco:{name}:0.8>" for name in NETWORKS),
    "<lora:plain:0.7><lyco:full:0.6>",
    "<lora:plain:0.7><lyco:turned:0.6>",
]


def pictures(running: Running) -> dict[str, Picture]:
    """Return the images of all tags; what is left out of one is an error."""
    found = {}
    for tags in ("", *TAGS):
        found[tags] = running.generate(tags)
        assert running.problems == ""
    return found


@pytest.fixture(scope="module")
def whole(start: Start, models: Path) -> tuple[dict[str, Picture], Picture]:
    """The images of a model loaded whole in full precision, and that of the checkpoint with a network merged in."""
    checkpoint, merged = models / "checkpoints" / "sd1-1.safetensors", models / "checkpoints" / "merged.safetensors"
    with start("whole") as running:
        found = pictures(running)
        merge(checkpoint, merged, [(load(running.webui.lyco_dir / "full.safetensors", base_of(checkpoint, "sd1")), 0.8)])
        running.webui.call("/sdapi/v1/refresh-checkpoints", {})
        return found, running.generate(override_settings={"sd_model_checkpoint": merged.name})


@pytest.mark.only_in("neo")
def test_a_model_that_is_loaded_in_part_gives_the_same_images(start: Start, whole: tuple[dict[str, Picture], Picture]) -> None:
    with start("part", HERE / "partial") as running:
        part = pictures(running)
        assert "loaded partially" in running.webui.log()
        assert largest(running.generate(), part[""]) == 0
        both = running.generate("<lyco:full:0.6><lora:plain:0.7>")
        assert largest(both, part["<lora:plain:0.7><lyco:full:0.6>"]) == 0
    apart = {tags: largest(part[tags], whole[0][tags]) for tags in whole[0]}
    assert max(apart.values()) <= 1, apart


@pytest.mark.only_in("neo", "forge", "reforge")
def test_weights_in_fp8_lose_no_more_than_with_the_hosts_own_networks(
    start: Start, whole: tuple[dict[str, Picture], Picture], webui_dir: Path
) -> None:
    """Against the image of the network merged in full precision: ours on fp8 weights, and the host's own on them."""
    (found, exact), kind = whole, recognise(webui_dir)
    assert largest(found["<lyco:full:0.8>"], exact) <= 1
    with start("fp8", flags=kind.fp8_flags, **dict(kind.fp8)) as running:
        (running.webui.lora_dir / "full.safetensors").write_bytes((running.webui.lyco_dir / "full.safetensors").read_bytes())
        running.webui.call("/sdapi/v1/refresh-loras", {})
        plain, ours = running.generate(), running.generate("<lyco:full:0.8>")
        assert running.problems == "" and mean(ours, plain) >= 1 and largest(plain, found[""]) > 1
        theirs = running.generate("<lora:full:0.8>", prompt=PROMPT)
        print(f"mean difference to full precision: ours {mean(ours, exact):.2f}, the host's {mean(theirs, exact):.2f} of 255")
        assert mean(ours, exact) <= mean(theirs, exact) + 0.05
        for name in ("hada", "turned", "rotated", "norms"):
            assert mean(running.generate(f"<lyco:{name}:0.8>"), plain) >= 1 and running.problems == ""
        assert largest(running.generate(), plain) == 0
