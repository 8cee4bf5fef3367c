"""Merging a LoCon into a checkpoint of full size, beside a plain copy of the same bytes; everything is made at run time.

python3 tests/benchmarks/tools_merge.py [--family sd1|sdxl] [--folder DIR]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from lib_lycoris.models import LayerInfo, parameter, reference
from lib_lycoris.tools.files.checkpoints.stream import as_bytes, encode_header
from lib_lycoris.tools.files.output import CHUNK

PREFIXES = {"sd1": ("cond_stage_model.",), "sdxl": ("conditioner.embedders.",)}
VAE = 83_653_863  # parameters of the autoencoder, which no network touches
TIMES = 3  # each measured so often, taking turns; the medians are compared
LIMITS = {"merge_time_ratio": 1.5, "merge_memory_mb": 400.0, "merge_memory_mb_sdxl": 1000.0}
ROOT = Path(__file__).resolve().parents[2]


def checkpoint_shapes(family: str) -> dict[str, tuple[int, ...]]:
    """Return key -> shape of a checkpoint in the layout that the webui reads."""
    shapes: dict[str, tuple[int, ...]] = {}
    for module, info in reference(family).layers.items():
        prefix = "model." if module.startswith("diffusion_model.") else PREFIXES[family][0]
        shapes[prefix + parameter(module, "weight")] = info.shape
        if info.bias:
            shapes[prefix + parameter(module, "bias")] = info.shape[:1]
    shapes["first_stage_model.decoder.weight"] = (VAE,)
    return shapes


def write_random(path: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float16, spread: float = 0.02) -> int:
    """Write a file of random tensors one by one; return its size in bytes."""
    generator, offset, header = torch.Generator().manual_seed(0), 0, {}
    code = {torch.float16: "F16", torch.float32: "F32"}[dtype]
    for key, shape in shapes.items():
        size = torch.Size(shape).numel() * dtype.itemsize if hasattr(dtype, "itemsize") else torch.Size(shape).numel() * 2
        header[key] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    noise = torch.randn(1 << 20, generator=generator).mul_(spread).to(dtype)
    with path.open("wb") as file:
        file.write(encode_header(header))
        for number, shape in enumerate(shapes.values()):
            count = torch.Size(shape).numel()
            repeated = noise.roll(number * 977).repeat(count // len(noise) + 1)[:count]
            file.write(as_bytes(repeated))
    return path.stat().st_size


def locon_shapes(family: str, rank: int = 32, conv_rank: int = 16) -> dict[str, tuple[int, ...]]:
    """Return key -> shape of a LoCon on every linear layer and convolution of a family's UNet and text encoders."""
    base, shapes = reference(family), {}
    for module, info in base.layers.items():
        name = base.name_in("kohya", module)
        if name is None or info.kind not in ("Linear", "Conv2d") or not _is_adapted(module):
            continue
        shapes.update(_pair(name, info, conv_rank if info.shape[2:] not in ((), (1, 1)) else rank))
    return shapes


def _is_adapted(module: str) -> bool:
    return not module.endswith(("token_embedding", "text_projection"))


def _pair(name: str, info: LayerInfo, rank: int) -> dict[str, tuple[int, ...]]:
    out, inner, kernel = info.shape[0], info.shape[1], info.shape[2:]
    up = (out, rank, *(1 for _ in kernel))
    return {f"{name}.lora_down.weight": (rank, inner, *kernel), f"{name}.lora_up.weight": up, f"{name}.alpha": ()}


def plain_copy(source: Path, target: Path) -> float:
    """Read, write and fsync a file's bytes; return the seconds."""
    began = time.perf_counter()
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
        while block := read.read(CHUNK):
            view = memoryview(block)
            while len(view):
                view = view[write.write(view) :]
        os.fsync(write.fileno())
    seconds = time.perf_counter() - began
    target.unlink()
    return seconds


def anonymous_bytes() -> int:
    """Return this process' anonymous resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark needs Linux: /proc/self/status has no RssAnon here")


class Peak:
    """The highest anonymous memory above the start, sampled 100 times a second."""

    def __enter__(self) -> Peak:
        gc.collect()
        self.start, self.highest, self._stop = anonymous_bytes(), 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.01):
            self.highest = max(self.highest, anonymous_bytes() - self.start)


def merge_once(checkpoint: Path, network: Path, target: Path) -> dict[str, float]:
    """Merge in a process of its own; return its seconds and its peak memory above `import torch`."""
    command = [sys.executable, __file__, "--merge", str(checkpoint), str(network), str(target)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    target.unlink()
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _merge_here(checkpoint: str, network: str, target: str) -> None:
    with Peak() as peak:
        began = time.perf_counter()
        from lib_lycoris.tools.merge.checkpoint import run

        run(sd_model=checkpoint, models=[network], save_to=target, no_hash=True)
        seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "memory_mb": peak.highest / 1e6}))


def whole(folder: Path, checkpoint: Path, network: Path) -> Iterator[tuple[str, float]]:
    """Merge with both hashes and with none, verify and undo from the command line: whole processes, beside the least that they could take.

    That least is, one after the other, the import of torch, a copy of the file that is put on the disk, and one sha256 of the file for
    each that is needed: a second hash and all sums can run beside them, and so the ratio can be below 1 on many cores.
    """
    merged, kept, back = (folder / f"process.{ending}" for ending in ("safetensors", "undo", "back.safetensors"))
    imported = taken([sys.executable, "-c", "import torch"])
    copied = min(plain_copy(checkpoint, merged) for _ in range(2))
    hashed = taken([sys.executable, "-c", f"from lib_lycoris.networks.hashes import sha256; sha256({str(checkpoint)!r})"])
    yield from {"import_seconds": imported, "copy_seconds": copied, "sha256_seconds": hashed}.items()
    program = [sys.executable, "-m", "lib_lycoris"]
    merge = [*program, "merge", "--sd_model", str(checkpoint), "--models", str(network), "--ratios", "0.8", "--save_to", str(merged)]
    yield from _beside("merge_process_no_hash", taken([*merge, "--no-hash"], merged), imported + copied)
    yield from _beside("merge_process", taken(merge, merged), imported + copied + hashed)
    yield from _beside("verify_process", taken([*program, "verify", str(merged), "--sd_model", str(checkpoint), "--models", str(network)]),
                       imported + 2 * hashed)  # fmt: skip
    yield "merge_with_undo_seconds", taken([*merge, "--undo-file", str(kept)], merged, kept)
    undo = [*program, "undo", str(merged), "--undo-file", str(kept), "--save_to", str(back)]
    yield from _beside("undo_process", taken(undo, back), imported + copied + hashed)
    for path in (merged, kept, back):
        path.unlink()


def taken(command: list[str], *made: Path) -> float:
    """Return how long a process takes, the better of two; what it makes is not there before: removing gigabytes takes its time too."""
    found = []
    for _ in range(2):
        for path in made:
            path.unlink(missing_ok=True)
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        found.append(time.perf_counter() - began)
    return min(found)


def _beside(name: str, seconds: float, least: float) -> Iterator[tuple[str, float]]:
    yield f"{name}_seconds", seconds
    yield f"{name}_ratio", seconds / least


def measure(family: str, folder: Path) -> dict[str, float]:
    """Return the figures of one family; the checkpoint and the copies need three times its size in the folder."""
    checkpoint, network, target = folder / "model.safetensors", folder / "locon.safetensors", folder / "merged.safetensors"
    size = write_random(checkpoint, checkpoint_shapes(family))
    write_random(network, locon_shapes(family))
    os.sync()
    copies, merges = [], []
    for _ in range(TIMES if family == "sd1" else 1):
        copies.append(plain_copy(checkpoint, target))
        merges.append(merge_once(checkpoint, network, target))
    checkpoint.unlink()
    copy, merge = sorted(copies)[len(copies) // 2], sorted(m["seconds"] for m in merges)[len(merges) // 2]
    return {"bytes": size, "copy_s": copy, "merge_s": merge, "ratio": merge / copy, "memory_mb": max(m["memory_mb"] for m in merges)}


def results(folder: Path | None = None, with_sdxl: bool = True) -> list[dict[str, object]]:
    """Return the results as `run.py bench tools` lists them."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        sd1 = measure("sd1", Path(made))
        values = {"merge_time_ratio": sd1["ratio"], "merge_memory_mb": sd1["memory_mb"]}
        if with_sdxl:
            values["merge_memory_mb_sdxl"] = measure("sdxl", Path(made))["memory_mb"]
    return [{"name": k, "value": round(v, 3), "limit": LIMITS[k], "within": v <= LIMITS[k]} for k, v in values.items()]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--merge"]:
        _merge_here(*sys.argv[2:5])
        raise SystemExit
    parser = argparse.ArgumentParser(description="Time a merge into a checkpoint beside a plain copy.")
    parser.add_argument("--family", choices=sorted(PREFIXES), default="sd1")
    parser.add_argument("--folder", type=Path, help="a folder on the disk to be measured")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as made_here:
        print(json.dumps(measure(given.family, Path(made_here)), indent=2))
