"""Makers of undo files that no merge wrote: other manifests, other parts."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def changed_undo(
    folder: Path, change: Callable[[dict[str, Any]], Any], parts: Callable[[str, bytes], bytes | None] = lambda _, d: d
) -> Path:  # fmt: skip
    """Write an undo file with another manifest and other parts."""
    path = folder / "x.undo"
    with zipfile.ZipFile(folder / "merged.undo") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = parts(name, old.read(name))
            if name == "manifest.json":
                facts = json.loads(old.read(name))
                facts = change(facts) or facts
                data = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
            if data is not None:
                new.writestr(name, data)
    return path


MANIFESTS: tuple[Callable[[dict[str, Any]], Any], ...] = (
    lambda m: [1], lambda m: {"format": 1}, lambda m: {"format": 2}, lambda m: b"[" * 100_000, lambda m: b"\xff",
    lambda m: m.update(files=[]),
    lambda m: m.update(files={}), lambda m: m["files"][0].pop("places"), lambda m: m["files"][0].update(places=[1]),
    lambda m: m["files"][0].update(tensors=3), lambda m: m["files"][0].update(merged_size="x"), lambda m: m.update(files=m["files"] * 3),
    lambda m: m["files"][0]["tensors"].update(other={"number": 1, "xor": True}), lambda m: m["files"][0]["tensors"].clear(),
    lambda m: next(iter(m["files"][0]["tensors"].values())).update(number=99), lambda m: b" " * 10**8,
    lambda m: next(iter(m["files"][0]["tensors"].values())).update(xor=False),
)  # fmt: skip
