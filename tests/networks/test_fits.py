"""Whether a network is for a base model, told without reading it: the same answer as loading it gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_lycoris import load, models
from lib_lycoris.demo import CHECKPOINT, NETWORKS
from lib_lycoris.errors import ModelMismatchError, NetworkFormatError
from lib_lycoris.models import BaseModel
from lib_lycoris.networks.loading import fits
from lib_lycoris.tools.files.checkpoints.checkpoint import open_checkpoint

BASES = {"demo": lambda: open_checkpoint(CHECKPOINT).base, **{name: lambda name=name: models.reference(name) for name in ("sd1", "sdxl")}}


def loads(path: Path, base: BaseModel) -> bool:
    try:
        return bool(load(path, base).patches)  # one with words may be loaded for these alone
    except ModelMismatchError:
        return False


@pytest.mark.parametrize("name", BASES)
def test_what_fits_is_what_would_be_loaded(name: str) -> None:
    base = BASES[name]()
    paths = sorted(NETWORKS.glob("*.safetensors"))
    found = {path.stem: fits(path, base) for path in paths}
    assert found == {path.stem: loads(path, base) for path in paths}
    assert all(found.values()) if name == "demo" else not found["demo-lora"]


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"not a network")
    with pytest.raises(NetworkFormatError, match=r"broken\.safetensors"):
        fits(tmp_path / "broken.safetensors", models.reference("sd1"))
