"""Other families than SD 1 on the Forges' own classes: the tables against real widths, every algorithm and storage at tiny ones."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.webui.kinds import recognise

pytestmark = [pytest.mark.webui, pytest.mark.only_in("neo", "forge", "reforge"), pytest.mark.timeout(1800)]
SCRIPT = Path(__file__).with_name("host_families.py")
FAMILIES = {
    "neo": ["sdxl", "sdxl-refiner", "flux", "flux2-klein-4b", "chroma", "lumina2", "z-image", "qwen-image", "wan2.1-14b", "anima", "krea2",
            "ernie-image"],
    "forge": ["sd2", "sdxl", "sdxl-refiner", "flux", "chroma", "sd3"],
    "reforge": ["sd2", "sdxl", "sdxl-refiner", "flux"],
}  # fmt: skip
REAL = {  # family and variant whose widths the host tells from a file; Forge wants a newer helper than its own to tell Chroma's
    "neo": ["sdxl:", "sdxl-refiner:", "flux:dev", "flux:schnell", "flux2-klein-4b:", "flux2-klein-9b:", "chroma:", "lumina2:", "z-image:",
            "qwen-image:", "wan2.1-14b:t2v", "wan2.1-14b:i2v", "wan2.1-1.3b:t2v", "wan2.2-5b:", "anima:", "krea2:", "ernie-image:"],
    "forge": ["sd2:", "sdxl:", "sdxl-refiner:", "flux:dev", "flux:schnell", "sd3:medium"],
    "reforge": ["sd2:", "sdxl:", "sdxl-refiner:", "flux:dev", "flux:schnell"],
}  # fmt: skip
FOUR_BITS = "import torch; from bitsandbytes.functional import quantize_4bit; quantize_4bit(torch.ones(64, 64))"
ROUNDING = 2e-5  # of the largest value


def ask(webui_dir: Path, webui_python: str, *options: str) -> list[dict[str, Any]]:
    """Run the script under the host's python; return what it found."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [webui_python, str(SCRIPT), "--webui", str(webui_dir), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=webui_dir)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def check(found: list[dict[str, Any]]) -> None:
    """Every layer is known and every change is the merged one's; nothing stays."""
    assert all(line["far"] <= ROUNDING and line["moved"] > 1e-3 and line.get("left", 0) <= ROUNDING for line in found), found
    assert not [line for line in found if line.get("told") or line.get("unknown")]
    assert len(found) > 20


def test_the_hosts_classes_have_the_declared_layers_at_real_widths(webui_dir: Path, webui_python: str) -> None:
    for line in ask(webui_dir, webui_python, "--variants", *REAL[recognise(webui_dir).name]):
        assert line["layers"] > 100 and not line["unknown"] and not line["missing"] and not line["other"], line


def test_every_family_is_changed_as_its_merge_is(webui_dir: Path, webui_python: str) -> None:
    for family in FAMILIES[recognise(webui_dir).name]:
        check(ask(webui_dir, webui_python, "--stored", "plain", "fp8", "--", family))


@pytest.mark.only_in("neo", "forge")
@pytest.mark.parametrize("storage", ["scaled fp8", "gguf", "nf4"])
def test_quantised_weights_are_changed_as_what_they_mean(webui_dir: Path, webui_python: str, storage: str) -> None:
    if storage == "nf4":
        tried = subprocess.run([webui_python, "-c", FOUR_BITS], capture_output=True, text=True)
        if tried.returncode:
            pytest.skip(f"the host's bitsandbytes has no four bits on a CPU: {tried.stderr.splitlines()[-1]}")
    check(ask(webui_dir, webui_python, "--stored", storage, "--", "flux"))
