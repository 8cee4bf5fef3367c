"""Reading tensors from a file, whatever pieces they come in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lib_lycoris.errors import NetworkFormatError
from lib_lycoris.networks.reading import reader
from lib_lycoris.networks.reading.reader import open_file
from lib_lycoris.networks.writer import save


@pytest.mark.parametrize("piece", [1, 7, 64, 100_000])
def test_a_file_read_in_pieces_is_the_file(piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several readers fill one block, and the system may give each less than it asks for; a file that ends before is refused."""
    monkeypatch.setattr(reader, "PIECE", piece)
    if hasattr(os, "preadv"):
        whole = os.preadv
        monkeypatch.setattr(os, "preadv", lambda file, views, at: whole(file, [views[0][:50]], at))
    tensors = {"a": torch.randn(31, 5), "b": torch.randn(70), "c": torch.arange(9), "d": torch.randn(11).half()}
    path = tmp_path / "pieces.safetensors"
    save(path, tensors)
    file = open_file(path)
    found = file.read(file.tensors)
    assert found.keys() == tensors.keys() and all(torch.equal(found[key], tensor) for key, tensor in tensors.items())
    path.write_bytes(path.read_bytes()[:-3])  # after its header was read
    with pytest.raises(NetworkFormatError, match=r"pieces\.safetensors is cut off: it ends inside .*; download it again"):
        file.read(file.tensors)
