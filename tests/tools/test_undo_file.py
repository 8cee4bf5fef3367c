"""What an undo file keeps: a ZIP that any program reads, smaller than the ZIP that Python's zipfile makes of the same bytes."""

from __future__ import annotations

import zlib
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import torch
from safetensors.torch import save_file

from lib_lycoris.tools.files.checkpoints.checkpoint import open_checkpoint
from lib_lycoris.tools.files.output import Output
from lib_lycoris.tools.files.undo_file import UndoFile


def kept(folder: Path, old: torch.Tensor, new: torch.Tensor) -> ZipFile:
    """Return what is kept of a tensor that another one replaces."""
    save_file({"w": old}, folder / "base.safetensors")
    source = open_checkpoint(folder / "base.safetensors").sources[0]
    with Output(folder / "x.undo") as output, UndoFile(output, "merged.safetensors") as undo:
        undo.begin(source)
        undo.keep("w", undo.packed("w", "F16", new))
    return ZipFile(folder / "x.undo")


def test_any_program_reads_it_and_it_is_smaller_than_what_zipfile_makes(tmp_path: Path) -> None:
    made = torch.Generator().manual_seed(0)
    old = torch.randn(640, 640, generator=made).mul(0.02).half()
    new = (old.float() + 1e-4 * torch.randn(640, 640, generator=made)).half()
    changed = old.view(torch.uint8) ^ new.view(torch.uint8)
    with kept(tmp_path, old, new) as archive:
        assert archive.testzip() is None
        for plane in (0, 1):
            info, expected = archive.getinfo(f"0/0.{plane}"), changed.flatten()[plane::2].numpy().tobytes()
            assert archive.read(info) == expected and info.file_size == len(expected) == old.numel()
            usual = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
            assert info.compress_type == ZIP_DEFLATED
            assert info.compress_size < len(usual.compress(expected) + usual.flush())


def test_bytes_that_do_not_pack_are_stored_as_they_are(tmp_path: Path) -> None:
    bits = torch.randint(-(2**15), 2**15, (2, 256, 256), generator=torch.Generator().manual_seed(0), dtype=torch.int16)
    with kept(tmp_path, *bits.view(torch.float16)) as archive:
        assert archive.testzip() is None
        assert {archive.getinfo(f"0/0.{plane}").compress_type for plane in (0, 1)} == {ZIP_STORED}
