"""Well-formed network files -> files that are wrong in one known way each: tensors, keys, header, offsets, metadata, bytes, pickles."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SUFFIXES = (
    "lora_up.weight", "lora_down.weight", "lora_mid.weight", "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_E", "alpha", "scale",
    "dora_scale", "lora_magnitude_vector", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1", "lokr_w2",
    "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "a1.weight", "a2.weight", "b1.weight", "b2.weight", "lambda_layer",
    "q_layer.weight", "p_layer.weight", "oft_blocks", "oft_diag", "oft_R.weight", "oft_R.scaled_oft", "oft_r", "oft_s", "boft_R", "boft_s",
    "ia3_l", "weight", "on_input", "diff", "diff_b", "w_norm", "b_norm", "set_weight", "rescale", "bias_indices", "bias_values",
    "bias_size", "reshape_weight", "base_layer.bias", "scalar", "zeta",
)  # fmt: skip
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)
VALUES = (0.0, -1.0, 1e5, 1e20, 1e30, 1e38, -1e20, 1e-40, float("nan"), float("inf"), -float("inf"))
ODD_NAMES = (
    "",
    ".",
    "..",
    "a" * 5000,
    "\x00",
    "\ud800",
    "<script>",
    "../../outside",
    "lora_unet_",
    "e\u0301\n",
    "[0]",
    "x]",
    "%s{}",
    "*" * 40,
)


@dataclass
class Content:
    """A file taken apart."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)
    config: Any = None  # adapter_config.json beside it
    name: str = "case.safetensors"


def _some(content: Content, rng: random.Random) -> str:
    return rng.choice(list(content.tensors)) if content.tensors else "x.alpha"


def _shape(tensor: Tensor, rng: random.Random) -> tuple[int, ...]:
    shape = list(tensor.shape)
    kind = rng.randrange(9)
    if kind == 0:
        return ()
    if kind == 1:
        return (0,)
    if kind == 2 and shape:
        shape[rng.randrange(len(shape))] = 0
    elif kind == 3:
        shape.reverse()
    elif kind == 4:
        shape.append(1)
    elif kind == 5 and shape:
        shape.pop(rng.randrange(len(shape)))
    elif kind == 6 and shape:
        axis = rng.randrange(len(shape))
        shape[axis] = max(1, shape[axis] + rng.choice((-1, 1, 2, 3)))
    elif kind == 7:
        shape = [1] * rng.randrange(7)
    else:
        shape = [rng.randrange(1, 9) for _ in range(rng.randrange(1, 6))]
    return tuple(shape)


def wrong_shape(content: Content, rng: random.Random) -> None:
    key = _some(content, rng)
    old = content.tensors.get(key, torch.ones(1))
    content.tensors[key] = torch.randn(_shape(old, rng)).to(old.dtype)


def wrong_dtype(content: Content, rng: random.Random) -> None:
    key = _some(content, rng)
    content.tensors[key] = (content.tensors.get(key, torch.ones(1)).float() * rng.choice((1, 5, 100))).to(rng.choice(DTYPES))


def wrong_value(content: Content, rng: random.Random) -> None:
    key = _some(content, rng)
    old = content.tensors.get(key, torch.ones(1))
    new = old.double() if rng.random() < 0.3 else old.clone()
    if new.numel():
        value = rng.choice(VALUES)
        whole = rng.random() < 0.5
        target = new if whole else new.view(-1)[:1]
        fits = new.is_floating_point() and (value != value or abs(value) == float("inf") or abs(value) <= torch.finfo(new.dtype).max)
        target.fill_(value if fits else 7)
        if new.dtype == torch.float64 and rng.random() < 0.3:
            target.fill_(1e300)
    content.tensors[key] = new


def missing_partner(content: Content, rng: random.Random) -> None:
    content.tensors.pop(_some(content, rng), None)


def another_suffix(content: Content, rng: random.Random) -> None:
    key = _some(content, rng)
    module = key.split(".")[0] if key.startswith("lora_") else key.rsplit(".", 2)[0]
    suffix = rng.choice(SUFFIXES)
    model = content.tensors.get(key, torch.ones(1))
    content.tensors[f"{module}.{suffix}"] = torch.randn(_shape(model, rng) if rng.random() < 0.5 else tuple(model.shape))


def doubled_spelling(content: Content, rng: random.Random) -> None:
    key = _some(content, rng)
    other = rng.choice((
        key.replace("lora_up.weight", "lora_B.weight").replace("lora_down.weight", "lora_A.weight"), key.replace(".", "_", 1),
        key.replace("lora_unet_", "unet."), f"base_model.model.{key}", key.replace("_", "."), key.replace(".weight", ".second.weight"),
        f"{key}.default", f"lycoris_{key}",
    ))  # fmt: skip
    content.tensors[other] = content.tensors.get(key, torch.ones(1)).clone()


def odd_name(content: Content, rng: random.Random) -> None:
    key = _some(content, rng)
    odd = rng.choice(ODD_NAMES)
    content.tensors[rng.choice((odd, f"{odd}.{key}", f"{key}.{odd}", f"{odd}.alpha"))] = torch.randn(2, 2)


ODD_METADATA: tuple[Any, ...] = (
    "", "None", "[]", "{}", "null", "NaN", "-1", "1" * 3000, "{" * 3000, "[" * 100000, '{"a": 1e999}', "\x00", {"a": 1}, [1], None, 3,
)  # fmt: skip
METADATA_KEYS = (
    "ss_network_args", "ss_network_dim", "ss_network_alpha", "lora_adapter_metadata", "ss_base_model_version", "modelspec.architecture",
    "ss_tag_frequency", "ss_v2", "sshs_model_hash", "ss_training_finished_at", "format", "ss_output_name", "lycoris.recipe",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, "4", [], {}, -1, 0, 1e400, float("nan"), True, "(a+)+$", "(" * 50, ["(x+)+y"], {"(.*)*x": 3}, {"to_q": "x"}, 10**400, "\ud800",
    [1, 2], {"a": {"b": 1}}, 10**8, "^.*$" * 100,
)  # fmt: skip
CONFIG_KEYS = (
    "peft_type", "r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_rslora", "feedforward_modules", "use_cayley_neumann",
    "num_cayley_neumann_terms", "coft", "eps", "init_lora_weights", "modules_to_save", "bias", "use_dora", "target_modules",
)  # fmt: skip


def odd_metadata(content: Content, rng: random.Random) -> None:
    content.metadata[rng.choice(METADATA_KEYS)] = rng.choice(ODD_METADATA)
    if rng.random() < 0.3:
        args = {rng.choice(("rs_lora", "split_qkv", "algo", "factor")): rng.choice(ODD_VALUES)}
        content.metadata["ss_network_args"] = json.dumps(args)


def odd_config(content: Content, rng: random.Random) -> None:
    config = dict(content.config) if isinstance(content.config, dict) else {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    for _ in range(rng.randrange(1, 4)):
        config[rng.choice(CONFIG_KEYS)] = rng.choice(ODD_VALUES)
    content.config = rng.choice((config, config, config, [config], "x", {"": config}))
    if rng.random() < 0.3:
        content.metadata["lora_adapter_metadata"] = json.dumps(
            {f"{rng.choice(('unet', 'transformer', ''))}.{k}": v for k, v in config.items()}
        )


TENSOR_MUTATIONS: tuple[Callable[[Content, random.Random], None], ...] = (
    wrong_shape, wrong_shape, wrong_dtype, wrong_value, missing_partner, another_suffix, another_suffix, doubled_spelling, odd_name,
    odd_metadata, odd_config,
)  # fmt: skip


def serialise(content: Content) -> tuple[dict[str, Any], bytes]:
    """Return a header's table and the data behind it."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64",
             torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}  # fmt: skip
    table: dict[str, Any] = {"__metadata__": content.metadata} if content.metadata else {}
    data = b""
    for key, tensor in content.tensors.items():
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        code = names.get(tensor.dtype, "F32")
        table[key] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return table, data


ODD_ENTRIES: tuple[Any, ...] = (
    None,
    [],
    {},
    3,
    "x",
    {"dtype": "F32"},
    {"dtype": "F32", "shape": [1]},
    {"dtype": 1, "shape": 2, "data_offsets": 3},
)
ODD_SHAPES: tuple[Any, ...] = (
    None,
    "x",
    [-1],
    [10**18, 10**18],
    [0, 10**18],
    ["2"],
    [1.5],
    [True],
    [1] * 200,
    [[1]],
    {},
    [2**63],
    [int("9" * 4000)],
)
ODD_OFFSETS: tuple[Any, ...] = (
    None,
    "x",
    [0],
    [0, -1],
    [-4, 0],
    ["0", "4"],
    [0, 10**12],
    [10**12, 10**12],
    [4, 0],
    [0, 1, 2],
    [0.0, 4.0],
    [None, 4],
)
ODD_TYPES: tuple[Any, ...] = ("F4", "F8_E8M0", "C64", "U16", "U32", "U64", "F8_E4M3", "F8_E5M2", "", None, 3, [], "x" * 1000, "BOOL", "f32")


def damage_table(table: dict[str, Any], rng: random.Random) -> None:
    """Make one entry of a header wrong."""
    keys = [key for key in table if key != "__metadata__"]
    if not keys or rng.random() < 0.1:
        table["__metadata__"] = rng.choice(ODD_METADATA)
        return
    key = rng.choice(keys)
    kind = rng.randrange(6)
    if kind == 0:
        table[key] = rng.choice(ODD_ENTRIES)
    elif kind == 1:
        table[key]["shape"] = rng.choice(ODD_SHAPES)
    elif kind == 2:
        table[key]["data_offsets"] = rng.choice(ODD_OFFSETS)
    elif kind == 3:
        table[key]["dtype"] = rng.choice(ODD_TYPES)
    elif kind == 4:  # all tensors on the same bytes
        for other in keys:
            table[other]["data_offsets"] = table[keys[0]]["data_offsets"]
    else:
        table[key], table[keys[0]] = table[keys[0]], table[key]


def damage_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Make a file's bytes wrong."""
    kind = rng.randrange(8)
    if kind == 0:
        return raw[: rng.randrange(len(raw) + 1)]
    if kind == 1:
        return raw + bytes(rng.randrange(1, 100))
    if kind == 2:
        return struct.pack("<Q", rng.choice((0, 1, 2**63, 2**64 - 1, len(raw), len(raw) - 8, 10**8))) + raw[8:]
    if kind == 3:
        return rng.choice(
            (b"", b"<html>", b"PK\x03\x04" + raw, b"version https://git-lfs.github.com/spec/v1\n", b"\x80\x02}.", b"GGUF", b"{}")
        )
    if kind == 4:
        head = rng.choice(
            (b"[" * 50000, b'{"a":' * 20000, b'{"a":1' + b"0" * 5000 + b"}", b"\xff" * 50, b"{}", b'{"__metadata__":null}', b"{")
        )
        return struct.pack("<Q", len(head)) + head + raw[8:]
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 3, 20))):
        if changed:
            changed[rng.randrange(min(len(changed), 600 if kind < 7 else len(changed)))] = rng.randrange(256)
    return bytes(changed)


def _pickled(content: Content, rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    tensors: dict[Any, Any] = dict(content.tensors)
    kind = rng.randrange(8)
    if kind == 0:
        tensors = {"state_dict": tensors, "global_step": 3}
    elif kind == 1 and tensors:
        tensors[_some(content, rng)] = rng.choice((None, 3.0, "x", [], torch.zeros(1).expand(10**6, 10**6), torch.eye(3).to_sparse()))
    elif kind == 2:
        tensors = rng.choice(
            ([torch.ones(2)], {"a": {"b": tensors}}, {3: 4}, {}, "x", torch.ones(3), {"string_to_param": {"*": torch.ones(2, 8)}})
        )  # type: ignore[assignment]
    elif kind == 3:
        return pickle.dumps({"a": random.Random, "b": [1, 2, {"c": len}]})
    new_form = rng.random() < 0.7
    try:
        torch.save(tensors, buffer, _use_new_zipfile_serialization=new_form)
    except KeyError:  # torch 2.1 writes no fp8 in the older form
        torch.save({key: tensor.half() for key, tensor in tensors.items()}, buffer, _use_new_zipfile_serialization=new_form)
    raw = buffer.getvalue()
    if kind == 4 and raw[:2] == b"PK":
        raw = _rezipped(raw, rng)
    return damage_bytes(raw, rng) if kind == 5 or kind == 6 else raw


def _rezipped(raw: bytes, rng: random.Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as new:
        for member in old.infolist():
            data = old.read(member)
            if member.filename.endswith("data.pkl") and rng.random() < 0.6:
                data = damage_bytes(data, rng)
            if rng.random() < 0.9:
                new.writestr(member.filename, data)
        if rng.random() < 0.3:
            new.writestr(rng.choice(("archive/code/__torch__.py", "archive/constants.pkl", "../evil", "other/data.pkl")), b"x")
    return out.getvalue()


def write_case(content: Content, folder: Path, rng: random.Random) -> Path:
    """Write a file that is wrong in some way; return its path."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(TENSOR_MUTATIONS)(content, rng)
    kind = rng.random()
    if kind < 0.15:
        path = folder / rng.choice(("case.pt", "case.ckpt", "case.bin", "case.safetensors"))
        path.write_bytes(_pickled(content, rng))
        return path
    table, data = serialise(content)
    if kind < 0.35:
        damage_table(table, rng)
    head = json.dumps(table, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")
    raw = struct.pack("<Q", len(head)) + head + data
    if kind > 0.85:
        raw = damage_bytes(raw, rng)
    path = folder / rng.choice(("case.safetensors", "case.safetensors", "case.safetensors", "case.SAFETENSORS", "case.ckpt"))
    path.write_bytes(raw)
    if content.config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(content.config), "utf-8")
    return path
