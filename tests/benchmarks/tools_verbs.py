"""The verbs that read and write network files, beside the fewest bytes and operations that could do their work, on SD 1.5 shapes.

Each floor is measured in the same run: what is read and written with plain calls and fsync, and the decompositions alone. A limit says how
many times its floor a verb may take.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lib_lycoris.tools.examine import interrogate
from lib_lycoris.tools.files.checkpoints.vocabulary import BOS, END, EOS, MERGES, REPOSITORY
from lib_lycoris.tools.library import find
from lib_lycoris.tools.library.sampled import LOOKED_AT
from lib_lycoris.tools.linalg.low_rank import qr_svd
from lib_lycoris.tools.reshape import convert, metadata, slim

from .tools_networks import METADATA, layers, network

LIMITS = {"loha_to_lora_ratio": 10.0, "slim_ratio": 5.0, "find_ratio": 16.0, "metadata_ratio": 3.0, "interrogate_ratio": 2.5}
LIBRARY = 500  # files
FEW = 48  # layers of each of them: attention, as most LoRAs have


def seconds(work: Callable[[], Any]) -> float:
    """Return how long something takes, the better of two runs: the first one also imports and fills caches."""
    found = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def written(target: Path, count: int) -> None:
    """Write so many bytes and fsync them."""
    block = os.urandom(1 << 20)
    with target.open("wb", buffering=0) as file:
        for start in range(0, count, len(block)):
            file.write(block[: count - start])
        os.fsync(file.fileno())


def read(path: Path) -> None:
    """Read all bytes of a file."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def loha_to_lora(folder: Path) -> Iterator[tuple[str, float]]:
    """A LoHa as an exact LoRA, beside reading it, the products of its factors' columns, and writing them."""
    source, out, plain = Path(network("loha", folder)), folder / "verb.safetensors", folder / "plain"
    ours = seconds(lambda: convert.run(source, out, algorithm="lora"))
    tensors = load_file(source)
    groups = [key.removesuffix(".hada_w1_a") for key in tensors if key.endswith(".hada_w1_a")]

    def fewest() -> None:
        read(source)
        for name in groups:
            a, b, c, d = (tensors[f"{name}.hada_{part}"].float() for part in ("w1_a", "w1_b", "w2_a", "w2_b"))
            (a[:, :, None] * c[:, None, :]).flatten(1).half(), (b[:, None, :] * d[None, :, :]).flatten(0, 1).half()
        written(plain, out.stat().st_size)

    yield from _compared("loha_to_lora", ours, seconds(fewest))


def slimmed(folder: Path) -> Iterator[tuple[str, float]]:
    """A LoCon cut to an error, beside reading it, one decomposition of each layer, and writing what is left."""
    source, out = Path(network("locon", folder)), folder / "verb.safetensors"
    ours = seconds(lambda: slim.run(source, out, error=0.2))
    yield from _compared("slim", ours, seconds(decompositions(source, out)))


def decompositions(source: Path, made: Path) -> Callable[[], None]:
    """Return the least that making one network of another takes: reading it, one decomposition of each layer, writing what was made."""
    tensors, plain = load_file(source), made.with_suffix(".plain")
    names = [key.removesuffix(".lora_up.weight") for key in tensors if key.endswith(".lora_up.weight")]

    def fewest() -> None:
        read(source)
        for name in names:
            qr_svd(*(tensors[f"{name}.lora_{part}.weight"].float().flatten(1) for part in ("up", "down")))
        written(plain, made.stat().st_size)

    return fewest


def library(folder: Path) -> Path:
    """Write a library of many LoRAs of a few layers each, if it is not there; return its folder."""
    made = folder / "library"
    made.mkdir(exist_ok=True)
    chosen = [(name, info) for name, info in layers() if "attn1" in name][:FEW]
    for number in range(len(list(made.iterdir())), LIBRARY):
        g = torch.Generator().manual_seed(number)
        tensors = {}
        for name, info in chosen:
            tensors[f"{name}.lora_up.weight"] = torch.randn(info.shape[0], 4, generator=g).half()
            tensors[f"{name}.lora_down.weight"] = torch.randn(4, info.shape[1], generator=g).half()
            tensors[f"{name}.alpha"] = torch.tensor(4.0).half()
        save_file(tensors, made / f"n{number:03}.safetensors", {**METADATA, "ss_output_name": f"n{number}"})
    return made


def found(folder: Path) -> Iterator[tuple[str, float]]:
    """Which of 500 networks are alike, beside opening each, reading its header and the bytes of as many layers, and the pairs' products."""
    made = library(folder)
    ours = seconds(lambda: find.run([made]))

    def fewest() -> None:
        rows = []
        for path in sorted(made.iterdir()):
            with path.open("rb", buffering=0) as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
                header.pop("__metadata__")
                for _, entry in sorted(header.items())[: 3 * LOOKED_AT]:
                    begin, end = entry["data_offsets"]
                    file.seek(8 + size + begin)
                    rows.append(sum(file.read(end - begin)[:16]))
        table = torch.tensor(rows, dtype=torch.float32).reshape(LIBRARY, -1)
        table @ table.T

    yield from _compared("find", ours, seconds(fewest))


def edited(folder: Path) -> Iterator[tuple[str, float]]:
    """A title changed in a copy, beside reading and writing its bytes."""
    source, out, plain = Path(network("locon", folder)), folder / "verb.safetensors", folder / "plain"

    def fewest() -> None:
        read(source)
        written(plain, source.stat().st_size)

    yield from _compared("metadata", seconds(lambda: metadata.edit_metadata(source, title="x", save_to=out)), seconds(fewest))


def asked(folder: Path, base: Path) -> Iterator[tuple[str, float]]:
    """How much a network moves two words, beside the products of all compared words with the weights, with the network and without."""
    os.environ["HF_HUB_CACHE"] = str(vocabulary(folder))
    source = network("locon", folder)
    ours = seconds(lambda: interrogate.run(source, base, words=["w300", "w301"]))
    matrices = [torch.randn(shape) for shape in ((768, 768),) * 4 + ((3072, 768), (768, 3072))] * 12
    matrices += [torch.randn(info.shape) for name, info in layers() if name.endswith(("attn2_to_k", "attn2_to_v"))]

    def fewest() -> None:
        states = {width: torch.randn(interrogate.COMPARED, width) for width in (768, 3072)}
        for matrix in (*matrices, *matrices):
            states[matrix.shape[1]] @ matrix.T

    yield from _compared("interrogate", ours, seconds(fewest))


def vocabulary(folder: Path) -> Path:
    """Write words of our own into a hub's cache, as many as CLIP has; return the cache."""
    file = folder / f"hub/models--{REPOSITORY.replace('/', '--')}/snapshots/made/vocab.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    words = [*(f"w{number}{END}" for number in range(MERGES + 2 * 256)), BOS, EOS]
    file.write_text(json.dumps({word: number for number, word in enumerate(words)}), encoding="utf-8")
    return folder / "hub"


def _compared(name: str, ours: float, fewest: float) -> Iterator[tuple[str, float]]:
    yield f"{name}_seconds", ours
    yield f"{name}_floor_seconds", fewest
    yield f"{name}_ratio", ours / fewest
