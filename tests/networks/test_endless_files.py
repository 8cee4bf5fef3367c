"""Files that would keep a program busy for minutes, or for ever: many names, keys of one hash, what is no file; each ends in a moment."""

from __future__ import annotations

import os
import pickle
import time
import zipfile
from pathlib import Path

import pytest
import torch

from lib_lycoris import load
from lib_lycoris.cli import main
from lib_lycoris.errors import LycorisError, NetworkFormatError
from lib_lycoris.hosts.library.library import Library
from lib_lycoris.networks.writer import save
from lib_lycoris.tools import TOOLS
from tests.networks.test_hostile_files import entry, raw

MANY = 40_000  # names of a file of some MB


@pytest.mark.parametrize(
    "names",
    [
        [f"unet.x{i}.lora_A.a{i}.weight" for i in range(MANY)],  # an adapter for each layer
        [f"m{i}.vera_A" for i in range(MANY)],  # what a file keeps once, once for each layer
        [f"lora_unet_m{i}.{end}" for i in range(MANY // 2) for end in ("lora_A.weight", "lora_down.weight")],  # each in two spellings
    ],
    ids=["adapters", "shared", "twice"],
)
def test_many_names_take_a_time_in_proportion_to_their_number(names: list[str], tmp_path: Path) -> None:
    table = {name: entry("F16", (1,), 2 * i, 2 * i + 2) for i, name in enumerate(names)}
    began = time.process_time()
    with pytest.raises(LycorisError, match="many"):
        load(raw(tmp_path / "many.safetensors", table, bytes(2 * len(names))))
    assert time.process_time() - began < 6


@pytest.mark.parametrize(
    "factors",
    [
        {"lora_up.weight": (1000, 1, 1, 1), "lora_down.weight": (1, 1000, 1, 1), "lora_mid.weight": (1, 1, 900, 900)},
        {"lokr_w1": (2, 2), "lokr_t2": (1, 1, 300, 300), "lokr_w2_a": (1, 1000), "lokr_w2_b": (1, 1000)},
        {"lokr_w1": (400, 400), "lokr_w2": (400, 400)},
        {"hada_w1_a": (150_000, 1), "hada_w1_b": (1, 150_000), "hada_w2_a": (150_000, 1), "hada_w2_b": (1, 150_000)},
    ],
    ids=["tucker", "lokr-tucker", "lokr", "loha"],
)
def test_small_factors_of_a_weight_that_no_model_has_are_refused_in_a_moment(factors: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    save(tmp_path / "small.safetensors", {f"{module}.{suffix}": torch.ones(shape).half() for suffix, shape in factors.items()})
    began = time.process_time()
    with pytest.raises(LycorisError, match="larger than any model's"):
        TOOLS["convert"].run(model=tmp_path / "small.safetensors", algorithm="lora", save_to=tmp_path / "out.safetensors")
    assert time.process_time() - began < 3 and not (tmp_path / "out.safetensors").exists()


def test_what_is_kept_for_all_layers_twice_is_no_guess(tmp_path: Path) -> None:
    tensors = {
        "a.vera_lambda_b": torch.ones(8), "a.vera_lambda_d": torch.ones(2), "one.vera_A": torch.ones(2, 8), "one.vera_B": torch.ones(8, 2),
        "two.vera_A": torch.ones(2, 8), "b.lora_up.weight": torch.ones(8, 2), "b.lora_down.weight": torch.ones(2, 8),
    }  # fmt: skip
    save(tmp_path / "two.safetensors", tensors)
    network = load(tmp_path / "two.safetensors")
    reasons = {item.key: item.reason for item in network.skipped}
    assert all("two.vera_A and one.vera_A are both kept for all layers" in reasons[key] for key in ("a.vera_lambda_b", "two.vera_A"))
    save(tmp_path / "stray.safetensors", {key: tensors[key] for key in tensors if key.startswith(("b.", "one."))})
    left = {item.key: item.reason for item in load(tmp_path / "stray.safetensors").skipped}
    assert set(left) == {"one.vera_A", "one.vera_B"} and all("no layer here needs it" in reason for reason in left.values())


def test_a_table_whose_keys_have_one_hash_takes_no_time(tmp_path: Path) -> None:
    keys = b"".join(pickle.dumps(number * (2**61 - 1), 2)[2:-1] + b"K\x01" for number in range(1, 30_000))
    with zipfile.ZipFile(tmp_path / "slow.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}(" + keys + b"u.")
    began = time.process_time()
    with pytest.raises(NetworkFormatError, match=r"slow\.pt holds a table with a huge number as a key"):
        load(tmp_path / "slow.pt")
    assert time.process_time() - began < 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(LycorisError, match=r"pipe\.safetensors is no file"):
        load(tmp_path / "pipe.safetensors")
    library = Library([tmp_path], tmp_path / "data")
    library.scan()
    library.wait()
    assert "is no file" in library.facts(tmp_path / "pipe.safetensors").broken
    report = TOOLS["metadata"].run(models=[tmp_path / "pipe.safetensors"]).report
    assert "is no file" in report["files"][0]["error"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_pipes_under_the_names_of_our_own_files_are_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, results = tmp_path / "one.safetensors", tmp_path / "results"
    save(one, {"a.lora_up.weight": torch.ones(4, 2), "a.lora_down.weight": torch.ones(2, 4)})
    results.mkdir()
    for pipe in (tmp_path / "one.safetensors.metadata-undo", results / "lycoris-bulk.json"):
        os.mkfifo(pipe)
    for change in ({"undo": True}, {"title": "x", "in_place": True}):
        report = TOOLS["metadata"].run(models=[one], **change).report
        assert "one.safetensors.metadata-undo is damaged (it is no file)" in report["files"][0]["error"]
    assert main(["resize", "--each", str(one), "--save_into", str(results), "--new_rank", "1"]) == 2
    assert "lycoris-bulk.json is damaged (it is no file)" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no such device")
def test_no_more_is_read_of_a_thumbnail_or_a_table_than_there_can_be(tmp_path: Path) -> None:
    save(tmp_path / "one.safetensors", {"a.lora_up.weight": torch.ones(4, 1), "a.lora_down.weight": torch.ones(1, 4)})
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(1 << 33)  # of nothing: it takes no room
    for path in (Path("/dev/zero"), large):
        with pytest.raises(LycorisError, match=f"^{path.name} is (not there, or no file|no PNG)"):
            TOOLS["metadata"].run(models=[tmp_path / "one.safetensors"], in_place=True, thumbnail=path)
        with pytest.raises(LycorisError, match=f"^{path.name} is no table of ranks: it (is no file|has 8,589,934,592 bytes)"):
            TOOLS["resize"].run(model=tmp_path / "one.safetensors", new_rank=1, module_ranks=path, save_to=tmp_path / "out.safetensors")
