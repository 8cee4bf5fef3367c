"""Network files as trainers write them, without their tensors: the header is real, the rest of the file is a hole."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Iterator, Sequence
from functools import cache
from math import prod
from pathlib import Path

from lib_lycoris.models import reference

Kind = tuple[str, str, int, bool, str]  # algorithm, family, rank, with text encoders, dtype
BYTES = {"F16": 2, "BF16": 2, "F32": 4}
FOLDERS = 20
_ATTENTION = re.compile(r"\.(to_[qkv]|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2|[qkv]_proj|out_proj|fc1|fc2)$")
_CONVOLUTION = re.compile(r"\.(in_layers\.2|out_layers\.3|skip_connection|op|conv)$")


def kinds() -> list[Kind]:
    """Return the kinds that are found in collections: more SDXL than SD1, more LoRA than others, any rank."""
    pairs = (("lora", "sdxl"), ("lora", "sd1"), ("locon", "sdxl"), ("loha", "sdxl"), ("lokr", "sdxl"), ("lokr", "sd1"))
    return [(kind, family, rank, te, dtype) for kind, family in pairs for rank in (4, 16, 32, 128) for te in (True, False)
            for dtype in ("F16", "BF16")]  # fmt: skip


def make(folder: Path, count: int, of: Sequence[Kind] | None = None, seed: int = 0) -> None:
    """Write files with their own names, metadata and hashes into subfolders."""
    chance, chosen = random.Random(seed), list(of or kinds())
    chance.shuffle(chosen)
    for number in range(count):
        kind = chosen[number % len(chosen)]
        text, size = table(kind)
        head = '{"__metadata__":' + json.dumps(metadata(number, kind, chance), separators=(",", ":")) + ","
        raw = (head + text).encode()
        raw += b" " * (-len(raw) % 8)
        place = folder / f"set {number % FOLDERS}"
        place.mkdir(parents=True, exist_ok=True)
        with (place / f"style-{number:04}.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw)
            file.truncate(8 + len(raw) + size)


def metadata(number: int, kind: Kind, chance: random.Random) -> dict[str, str]:
    """Return some 60 entries as sd-scripts writes them, with the captions' tags and the buckets."""
    tags = {f"tag {chance.randint(0, 9999)}": chance.randint(1, 300) for _ in range(chance.randint(100, 1500))}
    buckets = {str(index): {"resolution": [512, 64 * index], "count": 3} for index in range(40)}
    return {
        "ss_output_name": f"Style number {number}", "ss_network_module": "lycoris.kohya", "ss_network_dim": str(kind[2]),
        "ss_base_model_version": "sdxl_base_v1-0" if kind[1] == "sdxl" else "sd_v1", "ss_sd_model_name": "base.safetensors",
        "ss_tag_frequency": json.dumps({"10_style": tags}), "ss_datasets": json.dumps([{"bucket_info": {"buckets": buckets}}]),
        "sshs_model_hash": f"{chance.getrandbits(256):064x}", "modelspec.title": f"Style {number}",
        **{f"ss_setting_{index}": "None" for index in range(50)},
    }  # fmt: skip


@cache
def table(kind: Kind) -> tuple[str, int]:
    """Return a header's table of tensors as text, without its opening bracket, and the bytes of the tensors."""
    algorithm, family, rank, te, dtype = kind
    at, entries = 0, {}
    for name, shape in sorted(_layers(family, algorithm != "lora", te)):
        for suffix, sides in sorted(_tensors(algorithm, shape, rank).items()):
            size = prod(sides) * BYTES[dtype]
            entries[f"{name}.{suffix}"] = {"dtype": dtype, "shape": sides, "data_offsets": [at, at + size]}
            at += size
    return json.dumps(entries, separators=(",", ":"))[1:], at


def _layers(family: str, convolutions: bool, te: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    base = reference(family)
    for module, info in base.layers.items():
        fused = info.kind == "MultiheadAttention"
        shape = (info.shape[0] // 3, *info.shape[1:]) if fused else info.shape
        for target in [f"{module}[{part}]" for part in "qkv"] if fused else [module]:
            name = base.name_in("kohya", target)
            wanted = fused or _ATTENTION.search(module) or (convolutions and _CONVOLUTION.search(module))
            if name and wanted and (te or "lora_te" not in name):
                yield name, shape


def _tensors(algorithm: str, shape: tuple[int, ...], rank: int) -> dict[str, tuple[int, ...]]:
    out, width, *kernel = shape
    columns, ones = width * prod(kernel), (1,) * len(kernel)
    if algorithm in ("lora", "locon"):
        return {"lora_down.weight": (rank, width, *kernel), "lora_up.weight": (out, rank, *ones), "alpha": ()}
    if algorithm == "loha":
        sides = {"hada_w1_a": (out, rank), "hada_w1_b": (rank, columns), "hada_w2_a": (out, rank), "hada_w2_b": (rank, columns)}
        return {**sides, "alpha": ()}
    return {"lokr_w1": (8, 8), "lokr_w2_a": (out // 8, rank), "lokr_w2_b": (rank, columns // 8), "alpha": ()}
