"""Base models that are quantised - GGUF, scaled fp8 and int8: read as the numbers that they stand for, never written."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_lycoris import load
from lib_lycoris.errors import LycorisError, NetworkFormatError, ToolError
from lib_lycoris.tools import TOOLS
from lib_lycoris.tools.extract.difference import Reader
from lib_lycoris.tools.files.checkpoints.checkpoint import open_checkpoint
from lib_lycoris.tools.files.checkpoints.ggml_blocks import KINDS, unpack
from tests.tools.test_extract import BLOCK, KOHYA, low_rank, random_weights

Q = f"{BLOCK}.attn1.to_q.weight"
GOLDEN = load_file(Path(__file__).with_name("ggml_blocks.safetensors"))  # numbers by the package gguf 0.19 for random blocks
Weights = dict[str, Tensor]


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_every_type_are_the_numbers_that_ggml_says(kind: str) -> None:
    assert torch.equal(unpack(kind, GOLDEN[f"{kind}.blocks"]), GOLDEN[f"{kind}.numbers"])


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def write_gguf(path: Path, tensors: Mapping[str, tuple[int, tuple[int, ...], bytes]], facts: bytes = b"", count: int = 0) -> Path:
    """Write name -> (type, shape, data) as a GGUF file; facts: more entries of the metadata, and how many."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), count + 1) + text("general.architecture") + struct.pack("<I", 8) + text("sd1")
    head += facts
    data = b""
    for name, (kind, shape, values) in tensors.items():
        data += bytes(-len(data) % 32)
        head += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += struct.pack("<IQ", kind, len(data))
        data += values
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


def gguf_of(path: Path, weights: Weights, facts: bytes = b"", count: int = 0) -> tuple[Path, Weights]:
    """Write weights as a GGUF file, matrices of whole blocks as Q8_0; return it and the numbers that it then holds."""
    stored: dict[str, tuple[int, tuple[int, ...], bytes]] = {}
    held = {}
    for key, value in weights.items():
        if value.dim() == 2 and value.shape[1] % 32 == 0:
            blocks = value.reshape(-1, 32)
            scale = (blocks.abs().amax(1, keepdim=True) / 127).half()
            whole = (blocks / scale.float()).round().clamp(-127, 127).to(torch.int8)
            raw = torch.cat([scale.view(torch.uint8), whole.view(torch.uint8)], dim=1)
            stored[key], held[key] = (8, tuple(value.shape), bytes(raw.flatten().tolist())), (scale.float() * whole).reshape(value.shape)
        else:
            held[key] = value.half().float()
            stored[key] = (1, tuple(value.shape), bytes(value.half().flatten().view(torch.uint8).tolist()))
    return write_gguf(path, stored, facts, count), held


def scaled_of(path: Path, weights: Weights, scale: Callable[[Tensor], Tensor], spelling: str, marks: bool = True) -> tuple[Path, Weights]:
    """Write weights with the matrices as scaled fp8; return it and the numbers that it then holds."""
    stored: Weights = {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)} if marks else {}
    held = {}
    for key, value in weights.items():
        if value.dim() == 2:
            factor = scale(value)
            whole = factor
            for axis in range(whole.dim()):
                whole = whole.repeat_interleave(value.shape[axis] // whole.shape[axis], axis)
            whole = whole if whole.dim() == 2 else whole.reshape(-1, 1)
            stored[key] = (value / whole).to(torch.float8_e4m3fn)
            stored[key.replace("weight", spelling)] = factor
            held[key] = stored[key].float() * whole
        else:
            stored[key], held[key] = value.half(), value.half().float()
    save_file(stored, path)
    return path, held


def largest(value: Tensor) -> Tensor:
    return value.abs().max() / 448


def rows(value: Tensor) -> Tensor:
    return value.abs().amax(1, keepdim=True) / 448


SCALES = {
    "one": (largest, "scale_weight"), "one with an axis": (lambda v: largest(v).reshape(1), "weight_scale"),
    "rows": (rows, "weight_scale"), "rows flat": (lambda v: rows(v).flatten(), "scale_weight"),
    "blocks": (lambda v: v.reshape(2, v.shape[0] // 2, 2, v.shape[1] // 2).abs().amax((1, 3)) / 448, "weight_scale_inv"),
}  # fmt: skip


@pytest.fixture(params=["gguf", *SCALES])
def quantised(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Weights]:
    if request.param == "gguf":
        return gguf_of(tmp_path / "quantised.gguf", random_weights(1))
    return scaled_of(tmp_path / "quantised.safetensors", random_weights(1), *SCALES[request.param])


def test_a_quantised_weight_is_read_as_its_numbers_whole_and_in_pieces(
    quantised: tuple[Path, Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, held = quantised
    checkpoint = open_checkpoint(path)
    assert checkpoint.base.family == "sd1"
    assert checkpoint.packing in (("Q8_0",), ("scaled F8_E4M3",))
    monkeypatch.setattr("lib_lycoris.tools.extract.difference.PIECE", 64)
    reader = Reader(checkpoint)
    assert len(checkpoint.names.places) == len(held)
    for name, places in checkpoint.names.places.items():
        key = f"{places[0].module}.{places[0].leaf}"
        assert torch.equal(checkpoint.read(key).float(), held[key])
        assert torch.equal(reader.read(name, tuple(held[key].shape)), held[key])
    reader.close()


def test_an_extraction_is_that_of_the_numbers_and_says_that_they_are_rounded(quantised: tuple[Path, Weights], tmp_path: Path) -> None:
    path, held = quantised
    change = low_rank(2)
    save_file(
        {key: value + found if (found := change(key, value)) is not None else value for key, value in held.items()}, tmp_path / "t.ckpt"
    )
    save_file(held, tmp_path / "held.safetensors")
    found = {}
    for name, base in {"packed": path, "plain": tmp_path / "held.safetensors"}.items():
        out = tmp_path / f"{name}.safetensors"
        report = TOOLS["extract"].run(model_org=base, model_tuned=tmp_path / "t.ckpt", save_to=out, dim=4, save_precision="fp32").report
        found[name] = load_file(out), report["warnings"]
    assert found["packed"][0].keys() == found["plain"][0].keys()
    assert all(torch.equal(value, found["plain"][0][key]) for key, value in found["packed"][0].items())
    assert "is quantised" in found["packed"][1][0] and not found["plain"][1]


def test_a_quantised_model_is_never_written(quantised: tuple[Path, Weights], tmp_path: Path) -> None:
    save_file({f"{KOHYA['attn1.to_q']}.lora_up.weight": torch.ones(48, 2), f"{KOHYA['attn1.to_q']}.lora_down.weight": torch.ones(2, 32)},
              tmp_path / "n.safetensors")  # fmt: skip
    with pytest.raises(ToolError, match=rf"{quantised[0].name} keeps its weights scaled or in blocks .* read here and not written"):
        TOOLS["merge"].run(sd_model=quantised[0], models=[tmp_path / "n.safetensors"], save_to=tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_quantised_model_is_the_base_of_what_reads_weights(quantised: tuple[Path, Weights], tmp_path: Path) -> None:
    """A DoRA's change is of the base weight: baked and converted with the quantised model as with its numbers."""
    path, held = quantised
    save_file(held, tmp_path / "held.safetensors")
    module, g = KOHYA["attn1.to_q"], torch.Generator().manual_seed(2)
    dora = {"lora_up.weight": torch.randn(48, 2, generator=g), "lora_down.weight": torch.randn(2, 32, generator=g)}
    dora["dora_scale"] = torch.rand(48, 1, generator=g) + 1
    save_file({f"{module}.{key}": value for key, value in dora.items()}, tmp_path / "dora.safetensors")
    made = []
    for index, base in enumerate((path, tmp_path / "held.safetensors")):
        out, converted = tmp_path / f"b{index}.safetensors", tmp_path / f"c{index}.safetensors"
        TOOLS["bake"].run(model=tmp_path / "dora.safetensors", save_to=out, ratio=0.5, sd_model=base)
        TOOLS["convert"].run(
            model=tmp_path / "dora.safetensors", save_to=converted, algorithm="lora", base_model=base, save_precision="fp32"
        )
        made.append({**load_file(out), **load_file(converted)})
    assert made[0].keys() == made[1].keys() and all(torch.equal(value, made[1][key]) for key, value in made[0].items())


def refused(path: Path, says: str) -> None:
    with pytest.raises(NetworkFormatError, match=rf"{path.name}.*{says}"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "more,says",
    [
        ({"weight_scale_2": torch.ones(1)}, "weight_scale_2 beside its scale"),
        ({"weight_zero_point": torch.ones(48)}, "weight_zero_point beside its scale"),
        ({"weight_scale": torch.ones(5)}, r"a scale of the shape \(5,\) does not divide \(48, 32\)"),
        ({"weight_scale": torch.ones(48, 2, dtype=torch.uint8)}, "of the type U8, which is not read"),
        ({"weight_scale": torch.tensor(float("nan"))}, "holds NaN or infinity"),
        ({"comfy_quant": {"format": "nvfp4"}}, "in the format nvfp4, which is not read"),
        ({"comfy_quant": {"format": "int8_tensorwise", "convrot": True}}, "convrot, which is not read"),
        ({"comfy_quant": ["nvfp4"]}, "is a list, where a table is expected"),
        ({"comfy_quant": "{"}, "cannot be understood"),
    ],
)
def test_a_way_of_scaling_that_is_not_read_is_named(more: Mapping[str, Any], says: str, tmp_path: Path) -> None:
    tensors = {key: value.to(torch.float8_e4m3fn) if key == Q else value for key, value in random_weights(1).items()}
    tensors[Q.replace("weight", "weight_scale")] = torch.tensor(0.5)
    for leaf, value in more.items():
        raw = (
            value
            if isinstance(value, Tensor)
            else torch.tensor(list((value if value == "{" else json.dumps(value)).encode()), dtype=torch.uint8)
        )
        tensors[Q.replace("weight", leaf)] = raw
    save_file(tensors, tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", says)


def test_a_format_in_the_metadata_is_looked_at_too(tmp_path: Path) -> None:
    tensors = {**random_weights(1), Q.replace("weight", "weight_scale"): torch.tensor(0.5)}
    said = {"format_version": "1.0", "layers": {Q.removesuffix(".weight"): {"format": "mxfp8"}}}
    save_file(tensors, tmp_path / "model.safetensors", {"_quantization_metadata": json.dumps(said)})
    refused(tmp_path / "model.safetensors", "in the format mxfp8")


@pytest.mark.parametrize(
    "beside,says",
    [("absmax", "bitsandbytes' 4 bits"), ("quant_state.bitsandbytes__nf4", "bitsandbytes' 4 bits"), (None, "whole numbers of the type U8")],
)
def test_whole_numbers_without_a_scale_are_no_weights(beside: str | None, says: str, tmp_path: Path) -> None:
    tensors = {**random_weights(1), Q: torch.zeros(48 * 16, 1, dtype=torch.uint8)}
    if beside:
        tensors[f"{Q}.{beside}"] = torch.ones(4)
    save_file(tensors, tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", says)


def test_a_kernel_that_was_flattened_for_its_blocks_has_its_own_shape_again(tmp_path: Path) -> None:
    conv = f"{BLOCK.removesuffix('.1.transformer_blocks.0')}.0.in_layers.2.weight"
    weights = random_weights(1)
    shape = tuple(weights[conv].shape)
    name = f"comfy.gguf.orig_shape.{conv}"
    facts = text(name) + struct.pack("<IIQ4i", 9, 5, 4, *shape)
    path, held = gguf_of(tmp_path / "m.gguf", {**weights, conv: weights[conv].reshape(-1, 32)}, facts, 1)
    assert open_checkpoint(path).entries[conv].shape == shape
    assert torch.equal(open_checkpoint(path).read(conv), held[conv].reshape(shape))


@pytest.mark.parametrize("kind,says", [(17, "blocks of the type IQ2_XS, which is not read"), (99, "blocks of the type number 99")])
def test_blocks_of_other_types_are_named(kind: int, says: str, tmp_path: Path) -> None:
    refused(write_gguf(tmp_path / "m.gguf", {Q: (kind, (48, 256), bytes(9000))}), says)


def damages() -> dict[str, Callable[[bytes], bytes]]:
    def put(at: int, form: str, value: int) -> Callable[[bytes], bytes]:
        return lambda raw: raw[:at] + struct.pack(f"<{form}", value) + raw[at + struct.calcsize(form) :]

    return {
        "version": put(4, "I", 9), "tensors": put(8, "Q", 2**63), "entries": put(16, "Q", 2**40), "key": put(24, "Q", 2**62),
        "cut data": lambda raw: raw[:-40], "cut header": lambda raw: raw[:90], "magic alone": lambda raw: raw[:4],
        "type of a value": put(24 + 8 + len("general.architecture"), "I", 77), "array": put(24 + 8 + len("general.architecture"), "I", 9),
    }  # fmt: skip


@pytest.mark.parametrize("damage", damages())
def test_a_damaged_gguf_file_is_one_sentence(damage: str, tmp_path: Path) -> None:
    path, _ = gguf_of(tmp_path / "m.gguf", random_weights(1))
    path.write_bytes(damages()[damage](path.read_bytes()))
    with pytest.raises(LycorisError, match=r"^m\.gguf"):
        open_checkpoint(path)


def test_every_byte_of_a_gguf_header_may_be_wrong(tmp_path: Path) -> None:
    """Whatever a header says, it is read or one sentence, and nothing is believed to be longer than the file."""
    path, held = gguf_of(tmp_path / "m.gguf", {Q: random_weights(1)[Q]})
    raw = path.read_bytes()
    end = len(raw) - prod(held[Q].shape) // 32 * 34
    said = {str(error) for at in range(4, end) if (error := outcome(path, raw[:at] + bytes([raw[at] ^ 0x81]) + raw[at + 1 :]))}
    assert said and all(sentence.startswith(path.name) for sentence in said), said


def outcome(path: Path, raw: bytes) -> LycorisError | None:
    """Read all of a file of these bytes; return the error that said why not."""
    path.write_bytes(raw)
    try:
        checkpoint = open_checkpoint(path)
        [checkpoint.read(key) for key in checkpoint.entries]
    except LycorisError as error:
        return error
    return None


def test_a_gguf_file_is_no_network(tmp_path: Path) -> None:
    path, _ = gguf_of(tmp_path / "m.gguf", random_weights(1))
    with pytest.raises(NetworkFormatError, match=r"m\.gguf is no network file: .*; it is a GGUF file, a quantised base model"):
        load(path)
