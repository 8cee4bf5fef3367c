"""Makers of files as strangers send them: pickles of more than tensors, and headers that lie; each with what is said of it."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MODULE = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
PARAMETER = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def lora() -> dict[str, Tensor]:
    return {
        f"{MODULE}.lora_up.weight": torch.randn(320, 4),
        f"{MODULE}.lora_down.weight": torch.randn(4, 768),
        f"{MODULE}.alpha": torch.tensor(2.0),
    }


def raw(path: Path, table: Any, data: bytes = b"") -> Path:
    head = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)
    return path


def entry(dtype: str = "F32", shape: Any = (1,), begin: Any = 0, end: Any = 4) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [begin, end]}


class Harmful:
    """Runs something when an ordinary unpickler meets it."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.place,)


def torchscript(path: Path) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # files made by older versions are what is tested
        torch.jit.save(torch.jit.trace(Module(), torch.ones(1)), str(path))


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())


def with_member(name: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        torch.save(lora(), path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, b"x")

    return make


def packed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))


PICKLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "code": (lambda p: torch.save({"a": Harmful(p.with_name("executed"))}, p), "more than tensors"),
    "plain pickle of code": (lambda p: p.write_bytes(pickle.dumps(Harmful(p.with_name("executed")))), "more than tensors"),
    "module": (lambda p: torch.save(torch.nn.Linear(2, 2), p), "more than tensors .*Linear"),
    "TorchScript": (torchscript, "TorchScript"),
    "tar": (tar, "tar archive"),
    "member of TorchScript": (with_member("archive/code/x.py"), "TorchScript"),
    "constants": (with_member("archive/constants.pkl"), "TorchScript"),
    "strange member": (with_member("archive/other"), "no archive of torch.save alone"),
    "second folder": (with_member("evil/data.pkl"), "no archive of torch.save alone"),
    "packed": (packed, "packed"),
    "zip": (lambda p: zipfile.ZipFile(p, "w").writestr("a.txt", "x"), "zip archive"),
    "expanded": (lambda p: torch.save({"a.lora_up.weight": torch.zeros(1).expand(40_000, 40_000)}, p), "storage of 4 bytes"),
    "shared": (lambda p: torch.save({str(i): t for t in [torch.zeros(9_000)] for i in range(50)}, p), "share their bytes"),
    "sparse": (lambda p: torch.save({"a": torch.eye(3).to_sparse()}, p), "more than tensors .*sparse"),
    "meta": (lambda p: torch.save({"a": torch.ones(2, device="meta")}, p), "more than tensors .*meta"),
    "number": (lambda p: torch.save({**lora(), f"{MODULE}.alpha": 2.0}, p), "alpha is a bare number"),
    "list": (lambda p: torch.save([torch.ones(2)], p), "a table of tensors is expected"),
    "memo of 2 GB": (lambda p: p.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f."), "not a file of torch.save"),
    "text of 2 GB": (lambda p: p.write_bytes(b"\x80\x02X\xff\xff\xff\x7fabc."), "damaged"),
    "bytes of 2 GB": (lambda p: p.write_bytes(b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f."), "."),
    "keys of tuples": (lambda p: torch.save({(1, 2): torch.ones(1)}, p), "tuple as a key"),
    "embedding": (lambda p: torch.save({"string_to_param": {"*": torch.ones(2, 768)}, "name": "x"}, p), "embedding"),
    "hypernetwork": (lambda p: torch.save({320: [{"linear.0.weight": torch.ones(2, 2)}], "name": "x"}, p), "hypernetwork"),
}


HEADERS: dict[str, tuple[Any, bytes, str]] = {
    "overlap": ({"a": entry(), "b": entry()}, bytes(4), "b overlaps the tensor before it"),
    "hole": ({"a": entry(), "b": entry(begin=8, end=12)}, bytes(12), "b lies behind a hole of 4 bytes"),
    "left over": ({"a": entry()}, bytes(9), "5 bytes behind its last tensor belong to none"),
    "cut": ({"a": entry(shape=(2,), end=8)}, bytes(3), "5 of its 8 bytes are missing"),
    "text for an offset": ({"a": entry(begin="0")}, bytes(4), "entry for a cannot be understood"),
    "null for an offset": ({"a": entry(end=None)}, bytes(4), "entry for a cannot be understood"),
    "no table": ({"a": [1]}, b"", "entry for a cannot be understood"),
    "true for a length": ({"a": entry(shape=[True])}, bytes(4), "entry for a cannot be understood"),
    "endless shape": ({"a": entry(shape=[10**18, 10**18])}, bytes(4), "does not fill its 4 bytes"),
    "4000 digits": ({"a": entry(shape=[10**4000])}, bytes(4), "a number of 4001 digits"),
    "negative": ({"a": entry(shape=[-1])}, bytes(4), "cannot be right"),
    "200 axes": ({"a": entry(shape=[1] * 200)}, bytes(4), "cannot be right"),
    "deep": (b'{"a":' + b"[" * 100_000, b"", "nested without end|not JSON"),
    "endless side": ({"a": entry(shape=[9999999999999999999, 0], end=0)}, b"", "the shape of a cannot be right"),
    "endless sides": ({"a": entry(shape=[1 << 33, 1 << 33, 0], end=0)}, b"", "the shape of a cannot be right"),
    "metadata list": ({"__metadata__": [1], "a": entry()}, bytes(4), "its metadata is a list"),
    "metadata text": ({"__metadata__": "x", "a": entry()}, bytes(4), "its metadata is a text"),
    "unknown dtype": ({"a": entry("F4")}, bytes(4), "of the type F4, which is not read here; the file is whole"),
    "half a character": (b'{"\\ud800": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4), "no valid text"),
    "long name": ({"x" * 5000: entry(begin=4, end=8)}, bytes(8), r"x{50,90}\.\.\.x{50,90} lies behind a hole"),
}
