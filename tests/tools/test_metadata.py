"""The metadata tool: what files say about themselves is shown, edited, repaired, stripped and restored, and their tensors never change."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_lycoris import cli, inspect
from lib_lycoris.errors import ToolError
from lib_lycoris.models import FAMILIES, UNKNOWN
from lib_lycoris.networks.hashes import model_hash
from lib_lycoris.tools import TOOLS
from lib_lycoris.tools.files.metadata import checkpoint_metadata, kohya_hashes, make_recipe
from lib_lycoris.tools.library.sampled import files_of
from lib_lycoris.tools.reshape.metadata import LARGEST_IMAGE, NEEDED
from lib_lycoris.tools.reshape.metadata import edit_metadata as run

MODULE = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TEXTS = {
    "ss_network_module": "networks.lora", "ss_base_model_version": "sd_v1", "ss_output_name": "my style", "ssmd_author": "me",
    "ss_v2": "False", "ss_tag_frequency": '{"1_cat": {"cat": 3}}', "ss_dataset_dirs": '{"/home/me/cats": 1}', "sshs_model_hash": "0" * 64,
    "note": "ß 猫 \n\"'",
}  # fmt: skip


def write(path: Path, seed: int = 0, dtype: torch.dtype = torch.float16, **texts: str) -> Path:
    made = torch.Generator().manual_seed(seed)
    up, down = torch.randn(320, 4, generator=made).to(dtype), torch.randn(4, 320, generator=made).to(dtype)
    tensors = {f"{MODULE}.lora_up.weight": up, f"{MODULE}.lora_down.weight": down, f"{MODULE}.alpha": torch.tensor(2.0)}
    save_file(tensors, path, {**TEXTS, **texts})
    return path


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return write(tmp_path / "style.safetensors")


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def data(path: Path) -> bytes:
    raw = path.read_bytes()
    return raw[8 + int.from_bytes(raw[:8], "little") :]


def test_editing_changes_the_header_only_and_undo_brings_it_back(network: Path) -> None:
    before = network.read_bytes()
    tensors = load_file(network)
    done = run([network], title="New", triggers="cat, dog", set=["modelspec.resolution=512x512"], remove=["ssmd_author"], in_place=True)
    assert done.report["changed"] == 1 and done.outputs == (network,)
    now = metadata(network)
    expected = {**TEXTS, "modelspec.title": "New", "modelspec.trigger_phrase": "cat, dog", "modelspec.resolution": "512x512"}
    expected["modelspec.sai_model_spec"] = "1.0.0"
    del expected["ssmd_author"]
    assert now == expected
    start = 8 + int.from_bytes(before[:8], "little")
    assert data(network) == before[start:] and int.from_bytes(network.read_bytes()[:8], "little") % 8 == 0
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in load_file(network).items())
    run([network], title="Newer", in_place=True)
    run([network], undo=True)
    assert network.read_bytes() == before and [path.name for path in network.parent.iterdir()] == ["style.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_a_copy_leaves_the_file_alone(tmp_path: Path, dtype: torch.dtype) -> None:
    network = write(tmp_path / "a.safetensors", dtype=dtype)
    before = network.read_bytes()
    run([network], author="someone", save_to=tmp_path / "b.safetensors")
    assert network.read_bytes() == before and metadata(tmp_path / "b.safetensors")["modelspec.author"] == "someone"
    assert data(tmp_path / "b.safetensors") == data(network)


def test_repair_corrects_hashes_and_adds_what_is_missing(network: Path) -> None:
    run([network], repair=True, in_place=True)
    now = metadata(network)
    tensors = load_file(network)
    assert {key: now[key] for key in ("sshs_model_hash", "sshs_legacy_hash")} == kohya_hashes(tensors, now)
    assert now["sshs_model_hash"] == model_hash(network)
    assert now["modelspec.architecture"] == "stable-diffusion-v1/lora" and now["modelspec.title"] == "my style"
    assert now["modelspec.author"] == "me" and "modelspec.trigger_phrase" not in now
    again = run([network], repair=True, in_place=True)
    assert again.report["changed"] == 0 and again.outputs == () and "nothing to change" in again.text


def test_repair_says_no_base_model_where_the_layers_fit_several(network: Path) -> None:
    run([network], remove=["ss_base_model_version", "ss_v2"], in_place=True)
    assert inspect(network).candidates == ("sd1", "sd2")
    run([network], repair=True, in_place=True)
    assert "modelspec.architecture" not in metadata(network) and metadata(network)["modelspec.title"] == "my style"


def test_the_old_hash_is_kohyas_in_large_files_too(tmp_path: Path) -> None:
    tensors = {f"{MODULE}.lora_up.weight": torch.randn(1280, 512), f"{MODULE}.lora_down.weight": torch.randn(512, 1280)}
    path = tmp_path / "large.safetensors"
    save_file(tensors, path, {**TEXTS, "modelspec.description": "x" * 5000})
    run([path], repair=True, in_place=True)
    assert metadata(path)["sshs_legacy_hash"] == kohya_hashes(tensors, metadata(path))["sshs_legacy_hash"]


def test_stripping_keeps_what_the_tensors_need(network: Path) -> None:
    run([network], strip=["paths", "tags"], save_to=network.with_name("x.safetensors"))
    assert set(TEXTS) - set(metadata(network.with_name("x.safetensors"))) == {"ss_dataset_dirs", "ss_tag_frequency"}
    run([network], strip=["all"], in_place=True)
    assert set(metadata(network)) == set(TEXTS) & set(NEEDED)


def test_a_thumbnail_is_put_in_and_taken_out(network: Path, tmp_path: Path) -> None:
    image = tmp_path / "x.png"
    image.write_bytes(b"\x89PNG rest")
    run([network], thumbnail=image, in_place=True)
    assert metadata(network)["modelspec.thumbnail"] == "data:image/png;base64," + base64.b64encode(b"\x89PNG rest").decode()
    run([network], strip=["thumbnail"], in_place=True)
    assert "modelspec.thumbnail" not in metadata(network)
    for content, says in ((b"GIF89a", "no PNG"), (b"\x89PNG" + b"0" * LARGEST_IMAGE, "0.3 MB")):
        image.write_bytes(content)
        with pytest.raises(ToolError, match=says):
            run([network], thumbnail=image, in_place=True)


def test_a_folder_is_done_past_what_is_broken(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "sub/b", "c")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / f"{name}.safetensors", number)
    (tmp_path / "broken.safetensors").write_bytes(b"\x10" + b"\0" * 7 + b"not a header at")
    done = run([tmp_path], license="CC0", in_place=True)
    assert (done.report["changed"], done.report["failed"], done.report["ok"]) == (3, 1, False)
    assert "broken.safetensors: " in done.text
    assert {metadata(tmp_path / f"{name}.safetensors")["modelspec.license"] for name in ("a", "sub/b", "c")} == {"CC0"}
    assert run([tmp_path / "a.safetensors"], license="CC0", in_place=True).report["changed"] == 0  # safe to run again


def test_a_subfolder_that_is_gone_costs_the_others_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file once, though its folder be named twice."""
    for number, name in enumerate(("a", "gone/b", "kept/c")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / f"{name}.safetensors", number)
    listed = os.scandir

    def scandir(place: Any = ".") -> Any:
        if os.path.basename(place) == "gone":
            raise FileNotFoundError(2, "No such file or directory", place)
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)
    for paths in (run([tmp_path, tmp_path]).report["files"], files_of([tmp_path, tmp_path])):
        assert [Path(found["file"] if isinstance(found, dict) else found).stem for found in paths] == ["a", "c"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"title": "x"}, "save_to for a copy, or in_place"),
        ({"in_place": True}, "nothing says what to change"),
        ({"save_to": "y.safetensors"}, "nothing says what to change"),
        ({"title": "x", "save_to": "y.pt"}, "must end in .safetensors"),
        ({"undo": True, "title": "x"}, "a run of their own"),
        ({"set": ["novalue"], "in_place": True}, "KEY=VALUE"),
        ({"save_to": "y.safetensors", "title": "x", "in_place": True}, "leave it out"),
    ],
)
def test_what_is_not_meant_is_refused(network: Path, options: dict[str, Any], says: str) -> None:
    before = network.read_bytes()
    with pytest.raises(ToolError, match=says):
        run([network], **options)
    assert network.read_bytes() == before


def test_a_copy_that_would_say_the_same_is_not_written(network: Path, tmp_path: Path) -> None:
    done = run([network], remove=["nothere"], save_to=tmp_path / "copy.safetensors")
    assert done.report["failed"] == 1 and "copy.safetensors was not written" in done.text
    assert [path.name for path in tmp_path.iterdir()] == [network.name]


def test_a_checkpoint_is_not_repaired_as_a_network(tmp_path: Path) -> None:
    shape = (320, 320, 1, 1)
    save_file({f"model.diffusion_model.input_blocks.{n}.1.proj_in.weight": torch.ones(shape) for n in (1, 2)}, tmp_path / "m.safetensors")
    before = (tmp_path / "m.safetensors").read_bytes()
    done = run([tmp_path], repair=True, in_place=True)
    assert done.report["failed"] == 1 and "not a network; only networks are repaired" in done.text
    assert (tmp_path / "m.safetensors").read_bytes() == before


def test_patterns_are_expanded_and_a_missing_file_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.safetensors")
    assert cli.main(["metadata", str(tmp_path / "*.safetensors"), "--title", "x", "--in_place"]) == 0
    assert {metadata(tmp_path / f"{name}.safetensors")["modelspec.title"] for name in "ab"} == {"x"}
    capsys.readouterr()
    assert cli.main(["metadata", str(tmp_path / "c.safetensors"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["files"][0]["error"] == f"there is no {tmp_path / 'c.safetensors'}"


def test_undo_is_refused_for_other_tensors_and_without_its_file(network: Path) -> None:
    assert "was not edited here" in run([network], undo=True).text
    run([network], title="x", in_place=True)
    write(network, seed=9)
    before = network.read_bytes()
    assert "has other tensors" in run([network], undo=True).text and network.read_bytes() == before
    run([network], title="y", in_place=True)  # the new file's header is what is kept now
    run([network], undo=True)
    assert network.read_bytes() == before


def test_a_full_disk_leaves_the_file_as_it_was(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_lycoris.tools.files.networks import header_edit

    def full(*_: Any) -> None:
        raise ToolError("the disk is full: free some space")

    before = network.read_bytes()
    monkeypatch.setattr(header_edit, "require_space", full)
    assert "the disk is full" in run([network], title="x", in_place=True).text and network.read_bytes() == before


def test_the_command_shows_and_tells_beforehand(network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = network.read_bytes()
    assert cli.main(["metadata", str(network)]) == 0
    shown = capsys.readouterr().out
    assert "title: my style" in shown and "author: me" in shown
    assert cli.main(["metadata", str(network), "--title", "New", "--in_place", "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["files"][0]["changes"]["modelspec.title"] == [None, "New"] and planned["disk_bytes"] == network.stat().st_size
    assert network.read_bytes() == before
    assert cli.main(["metadata", str(network), str(network.with_name("none.safetensors")), "--title", "New", "--in_place"]) == 1
    assert metadata(network)["modelspec.title"] == "New" and "none.safetensors" in capsys.readouterr().out


def test_it_is_a_tool_like_the_others() -> None:
    assert TOOLS["metadata"].defaults()["repair"] is False and TOOLS["metadata"].verb in ("", "metadata")


@pytest.mark.parametrize("family", [*FAMILIES, UNKNOWN.id])
def test_a_merged_checkpoint_names_the_architecture_that_its_family_declares(family: str) -> None:
    recipe = make_recipe("merge", sd_model={"name": "a"}, networks=[{"name": "b"}])
    written = checkpoint_metadata({}, recipe, family, "c", [], hashed=False)
    assert written.get("modelspec.architecture") == FAMILIES[family].written.get("modelspec.architecture")
    assert written["modelspec.merged_from"] == "a, b"
