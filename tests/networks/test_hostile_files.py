"""Files from strangers: nothing in them is executed, little memory and time goes into a small one, and the sentence says what it is."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lib_lycoris import load
from lib_lycoris.errors import LycorisError, NetworkFormatError
from lib_lycoris.networks.reading import dtypes, header
from lib_lycoris.networks.reading.reader import open_file
from lib_lycoris.networks.writer import save
from lib_lycoris.tools.examine.inspect import inspect
from tests.networks.hostile_files import HEADERS, MODULE, PARAMETER, PICKLES, entry, lora, raw


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older form"])
def test_files_of_torch_save_are_read_without_torchs_unpickler(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {**lora(), f"{MODULE}.lora_up.weight": torch.randn(4, 320).T, "x.diff": torch.nn.Parameter(torch.randn(3))}
    torch.save({"state_dict": tensors, "global_step": 7}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=zipped)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    monkeypatch.setattr(pickle, "loads", lambda *_, **__: pytest.fail("pickle was called"))
    file = open_file(tmp_path / "old.ckpt")
    assert {key: tensor.tolist() for key, tensor in file.read(file.tensors).items()} == {k: t.tolist() for k, t in tensors.items()}
    assert PARAMETER in load(tmp_path / "old.ckpt").patches


@pytest.mark.parametrize("case", PICKLES)
def test_what_is_no_table_of_tensors_is_refused_and_not_executed(case: str, tmp_path: Path) -> None:
    make, says = PICKLES[case]
    path = tmp_path / "odd.pt"
    make(path)
    with pytest.raises(NetworkFormatError, match=rf"odd\.pt .*{says}"):
        load(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_is_held_to_the_formats_own_rules(case: str, tmp_path: Path) -> None:
    table, data, says = HEADERS[case]
    path = raw(tmp_path / "odd.safetensors", table, data)
    for reading in (load, inspect):
        with pytest.raises(NetworkFormatError, match=rf"^odd\.safetensors.*{says}"):
            reading(path)


def test_a_table_that_is_known_is_held_to_each_files_own_size_and_metadata(tmp_path: Path) -> None:
    """Tables are kept by their text, and read once for the files of one trainer."""
    written = {name: {"__metadata__": {"title": name * 9}, "a": entry()} for name in ("x", "yy")}
    files = [raw(tmp_path / f"{name}.safetensors", table, bytes(4)) for name, table in written.items()]
    headers = [header.read_header(file) for file in files]
    assert [found.metadata["title"] for found in headers] == ["x" * 9, "yy" * 9]
    assert headers[0].tensors is headers[1].tensors and [len(found.raw) + 8 for found in headers] == [found.data_start for found in headers]
    files[1].write_bytes(files[1].read_bytes()[:-1])
    with pytest.raises(NetworkFormatError, match=r"^yy\.safetensors is cut off: 1 of its 4 bytes are missing"):
        header.read_header(files[1])
    assert header.read_header(files[0]).order == ("__metadata__", "a")


@pytest.mark.parametrize("second", [{"title": "y"}, [1]])
def test_a_header_with_two_metadata_tables_is_refused(second: object, tmp_path: Path) -> None:
    """Which of them counts would depend on the reader."""
    table = b'{"__metadata__":{"title":"x"},"a":%s,"__metadata__":%s}' % (json.dumps(entry()).encode(), json.dumps(second).encode())
    twice = raw(tmp_path / "twice.safetensors", table, bytes(4))
    for reading in (header.read_header, load, inspect):
        with pytest.raises(NetworkFormatError, match=r"^twice\.safetensors is damaged: its header has the entry __metadata__ twice"):
            reading(twice)


CONTENTS: dict[str, tuple[bytes, str]] = {
    "web page": (b"\n<!DOCTYPE html><html>...", "web page"),
    "error": (b'{"error":"Unauthorized"}', "JSON text.*Unauthorized"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "gzip"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(100), "GGUF"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "image"),
    "text": (b"Please sign in first", "text.*Please sign in"),
    "nothing": (b"", r"empty \(0 bytes\)"),
}


@pytest.mark.parametrize("case", CONTENTS)
@pytest.mark.parametrize("ending", ["safetensors", "SAFETENSORS", "ckpt"])
def test_what_a_file_really_is_is_said(case: str, ending: str, tmp_path: Path) -> None:
    content, says = CONTENTS[case]
    path = tmp_path / f"x.{ending}"
    path.write_bytes(content)
    with pytest.raises(NetworkFormatError, match=rf"x\.{ending} is .*{says}"):
        load(path)


@pytest.mark.parametrize("name", ["x.ckpt", "x.SafeTensors", "x.pt", "x.bin"])
def test_a_safetensors_file_is_read_under_every_ending(name: str, tmp_path: Path) -> None:
    save(tmp_path / "x.safetensors", lora())
    (tmp_path / "x.safetensors").rename(tmp_path / name)
    assert set(load(tmp_path / name).patches) == {PARAMETER}


@pytest.mark.parametrize(("file", "name"), [("adapter_model.safetensors", "style"), ("pytorch_lora_weights.bin", "style")])
def test_a_folder_stands_for_the_network_in_it(file: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    if file.endswith(".bin"):
        torch.save(lora(), folder / file)
    else:
        save(folder / file, lora())
    network = load(folder)
    assert set(network.patches) == {PARAMETER} and network.name == name
    with pytest.raises(NetworkFormatError, match="without a network file"):
        load(tmp_path)


@pytest.mark.parametrize(("code", "dtype"), [("U16", torch.int32), ("U32", torch.int64), ("U64", torch.int64)])
def test_unsigned_numbers_are_read_whole(code: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """torch 2.1 has no types for them."""
    size = dtypes.BYTES[code]
    values = [0, 1, 2 ** (8 * size - 1) - 1 if code == "U64" else 2 ** (8 * size) - 1]
    data = b"".join(value.to_bytes(size, "little") for value in values)
    file = open_file(raw(tmp_path / "u.safetensors", {"a": entry(code, (3,), 0, 3 * size)}, data))
    (tensor,) = file.read(["a"]).values()
    assert tensor.dtype == dtype and tensor.tolist() == values


@pytest.mark.parametrize(
    ("suffix", "value", "says"),
    [("alpha", torch.tensor(1e300, dtype=torch.float64), "alpha is 1e\\+300"), ("alpha", torch.tensor(1e13), "no strength"),
     ("lora_up.weight", torch.full((320, 4), 1e20), "beyond 1e\\+09"),
     ("lora_up.weight", torch.full((320, 4), 1e20).double(), "beyond 1e\\+09"),
     ("scale", torch.tensor(float("nan")), "NaN"), ("lora_down.weight", torch.zeros(0, 768), "is empty"),
     ("lora_down.weight", torch.tensor(3.0), "single number")],
)  # fmt: skip
def test_values_that_would_make_no_number_are_said(suffix: str, value: Tensor, says: str, tmp_path: Path) -> None:
    save(tmp_path / "odd.safetensors", {**lora(), f"{MODULE}.{suffix}": value})
    with pytest.raises(LycorisError, match=rf"odd\.safetensors.*{says}"):
        load(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(
    ("keys", "says"),
    [([f"a{n}.alpha" for n in range(6_001)], "it holds 6001 modules, more than any model has layers"),
     ([f"unet:{n}:up" for n in range(3)], "it is a list of 3 pairs without names")],
)  # fmt: skip
def test_keys_of_which_no_network_has_as_many_are_refused_by_the_files_name(keys: list[str], says: str, tmp_path: Path) -> None:
    save(tmp_path / "odd.safetensors", {key: torch.ones(1, 1) for key in keys})
    with pytest.raises(NetworkFormatError, match=rf"^odd\.safetensors.*{says}"):
        load(tmp_path / "odd.safetensors")


def test_a_name_in_a_sentence_is_clean_and_short(tmp_path: Path) -> None:
    name = "\x1b[31m<script>\u202e" + "y" * 3000 + "\n"
    save(tmp_path / "odd.safetensors", {f"{name}.lora_up.weight": torch.ones(2, 2), f"{name}.lora_down.weight": torch.ones(2, 2)})
    with pytest.raises(LycorisError) as caught:
        load(tmp_path / "odd.safetensors")
    text = str(caught.value)
    assert "\x1b" not in text and "\u202e" not in text and "\n" not in text and len(text) < 800


@pytest.mark.parametrize("name", ["x]", "x[T]", "x[]", "x[-1]", "x[99999999999999999999]", "x[\u0663]", "x[1][", "]", "x[0]"])
def test_brackets_in_names_are_no_slices_of_ours(name: str, tmp_path: Path) -> None:
    tensors = {key.replace(MODULE, f"{MODULE}{name}"): value for key, value in lora().items()}
    save(tmp_path / "odd.safetensors", {**lora(), **tensors})
    network = load(tmp_path / "odd.safetensors")
    assert set(network.patches) == {PARAMETER} and {item.key for item in network.skipped} == set(tensors)


@pytest.mark.skipif(not hasattr(torch, "float8_e4m3fn"), reason="this torch has no fp8")
@pytest.mark.parametrize("prepared", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("code", ["float8_e4m3fn", "float8_e5m2"])
def test_fp8_is_made_ready_for_a_model_of_every_precision(code: str, prepared: torch.dtype, tmp_path: Path) -> None:
    """torch promotes fp8 and bfloat16 to nothing: such a network could not be put on such a model at all."""
    tensors = {key: value.to(getattr(torch, code)) if value.dim() else value for key, value in lora().items()}
    save(tmp_path / "small.safetensors", tensors)
    patch = load(tmp_path / "small.safetensors", prepared=prepared).patches[PARAMETER]
    weight = torch.zeros(320, 768)
    expected = tensors[f"{MODULE}.lora_up.weight"].float() @ tensors[f"{MODULE}.lora_down.weight"].float() * 0.5
    torch.testing.assert_close(patch.delta(weight).float(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("start", ["lora_unet_down_blocks_", "unet.up_blocks.", "diffusion_model.input_blocks.", "lora_unet_blocks_"])
def test_a_number_of_thousands_of_digits_in_a_name_is_a_name_like_others(start: str, tmp_path: Path) -> None:
    end = ".0.proj_in" if "." in start else "_0_proj_in"
    save(tmp_path / "long.safetensors", {**lora(), f"{start}{'9' * 5000}{end}.lora_up.weight": torch.ones(2, 2)})
    network = load(tmp_path / "long.safetensors")
    assert set(network.patches) == {PARAMETER} and len(network.skipped) == 1


@pytest.mark.parametrize(("side", "fits"), [(8_192, True), (18_000, True), (40_000, False)])
def test_a_few_places_do_not_ask_for_a_weight_of_any_size(side: int, fits: bool, tmp_path: Path) -> None:
    path = tmp_path / "sparse.safetensors"
    factors = {"lora_up.weight": torch.ones(side, 1).half(), "lora_down.weight": torch.ones(1, side).half()}
    sparse = {"bias_indices": torch.tensor([[1, 3], [5, side - 1]]), "bias_values": torch.ones(2).half()}
    save(path, {f"model.layer.{suffix}": tensor for suffix, tensor in {**factors, **sparse}.items()})
    if fits:
        (patch,) = load(path).patches.values()
        assert patch.low_rank((side, side))[0].shape == (side, 3)  # type: ignore[index]
    else:
        with pytest.raises(LycorisError, match=r"sparse\.safetensors.*\(40000, 40000\), which is larger than any model's"):
            load(path)
