"""Options and companion files that somebody made up: refused by one sentence, and what is there already stays as it is."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_lycoris.cli import main
from lib_lycoris.errors import LycorisError, ToolError
from lib_lycoris.networks.settings.name_patterns import found_in
from lib_lycoris.plain_json import parse_json
from lib_lycoris.tools import TOOLS
from tests.fuzz.tiny_files import prepared
from tests.tools.hostile_undo import MANIFESTS, changed_undo

MERGE, UNDO, VERIFY, RESIZE = (TOOLS[name] for name in ("merge", "undo", "verify", "resize"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one good file of each kind."""
    prepared(tmp_path)
    return tmp_path


def merge(folder: Path, **options: Any) -> None:
    inputs = {"sd_model": folder / "base.safetensors", "models": [folder / "one.safetensors"], "save_to": folder / "out.safetensors"}
    MERGE.run(**{**inputs, **options})


def required(tool: str, folder: Path) -> dict[str, Path]:
    """Return the files that a tool cannot do without."""
    places = {"model_org": "base", "base_model": "base", "sd_model": "base", "model_tuned": "tuned", "save_to": "out"}
    return {o.name: folder / f"{places.get(o.name, 'one')}.safetensors" for o in TOOLS[tool].options if o.required}


@pytest.mark.parametrize("name", ["one.safetensors", "base.safetensors", "out.safetensors"])
def test_an_undo_file_takes_no_place_of_another_file_of_its_run(name: str, folder: Path) -> None:
    before = (folder / "one.safetensors").read_bytes(), (folder / "base.safetensors").read_bytes()
    with pytest.raises(ToolError, match="is an input"):
        merge(folder, undo_file=folder / name)
    assert before == ((folder / "one.safetensors").read_bytes(), (folder / "base.safetensors").read_bytes())
    assert not (folder / "out.safetensors").exists()


@pytest.mark.parametrize("option", ["save_to", "undo_file"])
def test_a_file_of_another_kind_is_never_replaced(option: str, folder: Path) -> None:
    notes = folder / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(ToolError, match=r"notes.txt is there already and is no .* file, so it is not replaced"):
        merge(folder, **{option: notes})
    assert notes.read_text() == "mine"


def test_no_undo_file_and_nothing_measured_takes_the_place_of_a_network(folder: Path) -> None:
    other = folder / "tuned.safetensors"
    before, measure = other.read_bytes(), {"model_org": folder / "base.safetensors", "model_tuned": other}
    with pytest.raises(ToolError, match=r"^tuned\.safetensors is there already and is a network or a checkpoint"):
        merge(folder, undo_file=other)
    with pytest.raises(ToolError, match=r"^one\.safetensors is there already and is a network or a checkpoint.*`save_to`"):
        TOOLS["measure"].run(**measure, save_to=folder / "one.safetensors")
    assert other.read_bytes() == before and not (folder / "out.safetensors").exists()
    for _ in range(2):  # one of its own kind is replaced
        TOOLS["measure"].run(**measure, save_to=folder / "curve.safetensors")
        merge(folder, undo_file=folder / "undo.safetensors")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_pipe_is_not_replaced(folder: Path) -> None:
    os.mkfifo(folder / "pipe.safetensors")
    with pytest.raises(ToolError, match=r"^pipe\.safetensors is there already and is no file"):
        merge(folder, save_to=folder / "pipe.safetensors")
    assert (folder / "pipe.safetensors").is_fifo()


@pytest.mark.parametrize("value", [-1, 0])
@pytest.mark.parametrize(
    "tool, option, more",
    [
        ("extract", "block", {"algorithm": "oft"}), ("extract", "lokr_rank", {"algorithm": "lokr"}), ("interrogate", "count", {}),
        ("networks_merge", "dim", {}), ("networks_merge", "conv_dim", {"dim": 2}), ("convert", "dim", {"algorithm": "lora"}),
    ],
)  # fmt: skip
def test_a_count_below_one_is_refused_by_its_name(tool: str, option: str, more: dict[str, Any], value: int, folder: Path) -> None:
    """A block of no rows and no words ended in a traceback; a rank of -1 left out the last one in silence."""
    with pytest.raises(ToolError, match=f"`{option}` is 1 or more, but got {value}"):
        TOOLS[tool].run(**required(tool, folder), **more, **{option: value})


@pytest.mark.parametrize("value", [0, -0.0, -1, 1e-9, 1e305])
@pytest.mark.parametrize("tool, more", [("networks_merge", {}), ("extract", {}), ("resize", {"new_rank": 1}), ("slim", {"new_rank": 1})])
def test_a_size_that_no_file_has_is_not_taken_as_none(tool: str, more: dict[str, Any], value: float, folder: Path) -> None:
    """0 and what rounds to no bytes wrote a file of any size; 1e305 ended in a traceback."""
    with pytest.raises(ToolError, match="`size` is in MB and above 0, from 1e-06 to 1e"):
        TOOLS[tool].run(**required(tool, folder), **more, size=value)
    assert not (folder / "out.safetensors").exists()


@pytest.mark.parametrize(
    "tool, options, said",
    [
        ("merge", {"dyn": [-1]}, "`dyn` is 0 or more, but got -1"),
        ("extract", {"algorithm": "lokr", "factor": 0}, "`factor` is 1 or more, or -1 for as even as possible, but got 0"),
        ("extract", {"algorithm": "lokr", "factor": -2}, "`factor` is 1 or more, or -1 for as even as possible, but got -2"),
        ("split", {"ranks": [1], "unit": 0}, "`unit` is 1 or more, but got 0"),
        ("resize", {"new_rank": 1, "dynamic_param": 0}, "`dynamic_param=0` is the limit of a method"),
    ],
)
def test_a_number_that_means_nothing_is_not_taken_as_another(tool: str, options: dict[str, Any], said: str, folder: Path) -> None:
    with pytest.raises(ToolError, match=said):
        TOOLS[tool].run(**required(tool, folder), **options)
    assert not list(folder.glob("out*"))


@pytest.mark.parametrize("device", ["", "gpu", "cpu:-1", "meta", "cuda:99", "\ud800", "0.5,0.5", "IN05:attn:0"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(device: str, folder: Path) -> None:
    with pytest.raises(ToolError, match="there is no device"):
        merge(folder, device=device, sd_model=folder / "nothing.safetensors")


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a" * 300])
@pytest.mark.parametrize("option", ["sd_model", "models", "save_to"])
def test_a_name_that_no_file_can_have_is_refused(option: str, name: str, folder: Path) -> None:
    with pytest.raises(ToolError, match=f"^{option} is .* which cannot be used: it"):
        merge(folder, **{option: [name] if option == "models" else name})
    with pytest.raises(ToolError, match="save_to is '/', which cannot be used: it names no file"):
        merge(folder, save_to="/")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"jobs":[' * 50_000, "1" * 6_000, "[" + "9" * 500 + "]", "\ud800", "null", "[[]]"])
def test_a_recipe_that_is_none_is_one_sentence(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert main(["merge", "--recipe", str(tmp_path / "recipe.json")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: recipe.json ") and said.count("\n") == 1


def test_json_of_strangers_raises_one_kind_of_error() -> None:
    assert parse_json('{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]} and parse_json("9" * 400) == int("9" * 400)
    for text in ("[" * 200_000, '{"a":' * 200_000, "9" * 401, "-" + "9" * 100_000, "{", b"\xff", ""):
        with pytest.raises(ValueError):
            parse_json(text)


@pytest.mark.parametrize("value", [1e300, -20_000.0, 3.5e38])
@pytest.mark.parametrize(("tool", "option"), [("merge", "te"), ("merge", "ratios"), ("networks_merge", "unet"), ("bake", "te2")])
def test_a_strength_that_no_tag_could_have_is_refused(tool: str, option: str, value: float, folder: Path) -> None:
    """Beyond float32 torch would say so in its own words; far below that nothing is left of a model."""
    one, two = folder / "one.safetensors", folder / "two.safetensors"
    given: dict[str, dict[str, Any]] = {
        "merge": {"sd_model": folder / "base.safetensors", "models": [one], option: [value]},
        "networks_merge": {"models": [one, two], option: [1.0, value]},
        "bake": {"model": one, option: value},
    }
    with pytest.raises(ToolError, match=r"for (one|two)\.safetensors is too large; give a number such as 0\.7, from -10000 to 10000"):
        TOOLS[tool].run(**given[tool], save_to=folder / "out.safetensors")
    assert not (folder / "out.safetensors").exists()


def test_whole_numbers_are_no_weights_to_merge_into(folder: Path) -> None:
    tensors = load_file(folder / "base.safetensors")
    key = next(key for key in tensors if "to_q" in key)
    save_file({**tensors, key: (tensors[key] * 100).int()}, folder / "base.safetensors")
    with pytest.raises(LycorisError, match=r"base.safetensors .*to_q.weight as whole numbers .*I32"):
        merge(folder)


PATTERNS = (
    ("attn1", "a.attn1.to_q", True), ("attn2", "a.attn1.to_q", False), ("^a", "a.b", True), ("^b", "a.b", False), ("b$", "a.b", True),
    ("a$", "a.b", False), (".*fc[12]$", "text.fc1", True), ("", "x", True), (".", "", False), ("(q|k)", "to_k.x", True),
)  # fmt: skip


@pytest.mark.parametrize(("pattern", "name", "found"), PATTERNS)
def test_a_pattern_is_found_anywhere_in_a_name_as_by_re_search(pattern: str, name: str, found: bool) -> None:
    assert found_in(pattern, name, "ranks.json") is found


@pytest.mark.parametrize("table", [[], {"a": "2"}, {"a": 2.5}, {"a": -1}, {"a": True}, {"a": None}, {"(": 1}, {"a{3}": 1}])
def test_a_table_of_ranks_that_is_none_is_refused_and_named(table: Any, folder: Path) -> None:
    (folder / "x.json").write_text(json.dumps(table))
    with pytest.raises(LycorisError, match=r"x\.json"):
        RESIZE.run(model=folder / "one.safetensors", new_rank=2, module_ranks=folder / "x.json", save_to=folder / "out.safetensors")


def test_patterns_of_a_table_of_ranks_take_no_time(folder: Path) -> None:
    (folder / "x.json").write_text(json.dumps({"(a*)*" * 30 + "x": 1, "(.*.*)*y": 1, "(t|to|to_)+$": 2}))
    began = time.process_time()
    RESIZE.run(model=folder / "one.safetensors", new_rank=2, module_ranks=folder / "x.json", save_to=folder / "out.safetensors")
    assert time.process_time() - began < 3


@pytest.mark.parametrize("change", MANIFESTS)
def test_a_manifest_that_no_merge_wrote_is_refused(change: Callable[[dict[str, Any]], Any], folder: Path) -> None:
    with pytest.raises(ToolError, match=r"x\.undo|merged\.safetensors was changed"):
        UNDO.run(merged=folder / "merged.safetensors", undo_file=changed_undo(folder, change), save_to=folder / "out.safetensors")
    assert not (folder / "out.safetensors").exists() and not list(folder.glob("*.part"))


@pytest.mark.parametrize("data", [b"", bytes(10), bytes(3 * 10**8), None])
@pytest.mark.parametrize("part", ["0/header", "0/0.0"])
def test_parts_of_an_undo_file_that_are_others_are_refused_without_unpacking_them(part: str, data: bytes | None, folder: Path) -> None:
    path = changed_undo(folder, lambda m: None, lambda name, old: data if name == part else old)
    with pytest.raises(ToolError, match=r"x\.undo is damaged"):
        UNDO.run(merged=folder / "merged.safetensors", undo_file=path, save_to=folder / "out.safetensors")
    assert not (folder / "out.safetensors").exists()


HEADS = {
    b"PK\x01\x02": 6,
    b"PK\x03\x04": 4,
}  # of an entry of the list, and of a member -> where its version stands, then flags


@pytest.mark.parametrize("value", [0x01, 0x20, 0x40, 0x77, 0xFF])
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("head", HEADS)
def test_an_archive_of_a_kind_that_is_not_known_is_refused(head: bytes, place: int, value: int, folder: Path) -> None:
    raw = bytearray((folder / "merged.undo").read_bytes())
    raw[raw.index(head) + HEADS[head] + place] = value
    (folder / "x.undo").write_bytes(raw)
    said = ""
    try:
        UNDO.run(merged=folder / "merged.safetensors", undo_file=folder / "x.undo", save_to=folder / "out.safetensors")
    except ToolError as error:
        said = str(error)
    assert said.startswith("x.undo is ") is not (folder / "out.safetensors").exists()  # some versions are known, some flags say nothing


RECIPES: tuple[dict[str, Any], ...] = (
    {"networks": None}, {"networks": [3]}, {"networks": [{"name": "one.safetensors"}]}, {"sd_model": "x"}, {"sd_model": {"name": 3}},
    {"sd_model": {"name": "a\0b", "bytes": 1, "sha256": "x"}}, {"sd_model": {"name": "x", "files": [{"file": "../../secret",
    "name": "x"}]}},
    {"sd_model": {"name": "x", "files": [{"file": "/etc/hosts", "name": "hosts", "bytes": 1, "sha256": ""}]}}, {"seed": "x"},
    {"networks": [{"name": "one.safetensors", "bytes": 1, "sha256": "", "te": "disk"}]}, {"save_precision": []}, {"seed": True},
    {"networks": [{"name": "one.safetensors", "bytes": 1, "sha256": "", "unet": 1e308}]}, {"sd_model": {"name": "..", "bytes": 1,
    "sha256": ""}},
)  # fmt: skip


@pytest.mark.parametrize("change", RECIPES)
def test_a_recipe_in_a_merged_file_that_no_merge_wrote_is_refused(change: dict[str, Any], folder: Path) -> None:
    merged = folder / "merged.safetensors"
    with safe_open(merged, "pt") as file:
        metadata = dict(file.metadata())
    metadata["lycoris.recipe"] = json.dumps({**json.loads(metadata["lycoris.recipe"]), **change})
    save_file(load_file(merged), folder / "case.safetensors", metadata)
    with pytest.raises(ToolError, match=r"the recipe in case\.safetensors is damaged: "):
        VERIFY.run(merged=folder / "case.safetensors")


NO_UTF8 = "caf\udce9"  # what Python makes of a Latin-1 name, as old archives unpack to


@pytest.fixture
def odd(folder: Path) -> Path:
    """A network whose name is no UTF-8, in a folder where there can be such names."""
    path = folder / f"{NO_UTF8}.safetensors"
    try:
        path.write_bytes((folder / "one.safetensors").read_bytes())
    except (OSError, UnicodeEncodeError):
        pytest.skip("this system has no such names")
    return path


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        ("merge", {"sd_model": "base.safetensors"}), ("networks_merge", {}), ("resize", {"new_rank": 1}),
        ("convert", {"algorithm": "lora"}), ("bake", {"ratio": 0.5}), ("prune", {"save_precision": "fp16"}), ("slim", {"new_rank": 1}),
        ("metadata", {"title": "x", "repair": True}), ("extract", {"model_org": NO_UTF8, "model_tuned": "tuned.safetensors", "dim": 1}),
    ],
)  # fmt: skip
def test_a_file_whose_name_is_no_utf8_is_read_and_named_in_the_result(tool: str, options: dict[str, Any], odd: Path, folder: Path) -> None:
    out = folder / "out.safetensors"
    given = {key: folder / value if key in ("sd_model", "model_tuned") else value for key, value in options.items()}
    if "model_org" in given:
        odd.write_bytes((folder / "base.safetensors").read_bytes())
        given["model_org"] = odd
    else:
        names = {option.name for option in TOOLS[tool].options}
        given["models" if "models" in names else "model"] = [odd] if "models" in names else odd
    assert TOOLS[tool].run(**given, save_to=out).outputs == (out,)
    with safe_open(str(out), "pt") as file:  # a reader of others, which takes UTF-8 alone
        assert "lycoris.recipe" in file.metadata() or tool == "metadata"
    if tool == "merge":
        assert VERIFY.run(merged=out, folders=[folder]).report["identical"]


def test_many_files_whose_names_are_no_utf8_are_reported(odd: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The name cannot be that of a result, which is said of that file; the report of the folder was what could not be written."""
    (folder / "each").mkdir()
    names = [str(odd), str(folder / "two.safetensors")]
    assert main(["convert", "--each", *names, "--save_into", str(folder / "each"), "--save_precision", "fp16"]) == 2
    said = capsys.readouterr()
    assert "1 done" in said.out and "1 failed" in said.out
    assert "cannot be the name of an output" in said.err and "\udce9" not in said.err
    rows = parse_json((folder / "each" / "lycoris-bulk.json").read_text("utf-8"))["files"]
    assert set(rows) == {odd.name, "two.safetensors"}


@pytest.mark.parametrize("options", [{"title": "a\ud800"}, {"set": ["k=\udfff"]}, {"description": "\udce9"}])
def test_half_a_character_is_no_text_of_an_option(options: dict[str, Any], folder: Path) -> None:
    """It was written into the header, which then was no UTF-8: the file could not be opened any more, and undo did not help."""
    before = (folder / "one.safetensors").read_bytes()
    with pytest.raises(ToolError, match=f"^{next(iter(options))} holds half a character"):
        TOOLS["metadata"].run(models=[folder / "one.safetensors"], in_place=True, **options)
    assert (folder / "one.safetensors").read_bytes() == before


def test_what_a_command_line_cannot_be_is_one_short_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["convert", "--algorithm", "a\x1b[31m" + "a" * 9000])
    said = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and "invalid choice" in said and len(said) < 2000 and "\x1b" not in said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e20])
@pytest.mark.parametrize(
    "tool, options", [("prune", {"save_precision": "fp16"}), ("split", {"unit": 1}), ("bake", {"ratio": 0.5}), ("resize", {"new_rank": 1})]
)
def test_no_tool_writes_a_broken_network(tool: str, options: dict[str, Any], value: float, folder: Path) -> None:
    tensors = load_file(folder / "one.safetensors")
    key = next(key for key in tensors if "lora_down" in key)
    tensors[key].flatten()[0] = value
    save_file(tensors, folder / "one.safetensors")
    for act in (TOOLS[tool].run, TOOLS[tool].plan):
        with pytest.raises(LycorisError, match=rf"^one\.safetensors is broken: {key}"):
            act(model=folder / "one.safetensors", save_to=folder / "out.safetensors", **options)
    assert not list(folder.glob("out*"))


@pytest.mark.parametrize("tool, options", [("prune", {}), ("split", {"unit": 1}), ("bake", {"ratio": 1.0}), ("convert", {"style": "peft"})])
def test_a_number_that_the_dtype_of_the_file_cannot_hold_is_said(tool: str, options: dict[str, Any], folder: Path) -> None:
    tensors = load_file(folder / "one.safetensors")
    for key in tensors:
        if "lora_down" in key:
            tensors[key].flatten()[0] = 1e6
    save_file(tensors, folder / "one.safetensors")
    with pytest.raises(ToolError, match=r"holds numbers that torch\.float16 cannot; use `save_precision=bf16` or fp32"):
        TOOLS[tool].run(model=folder / "one.safetensors", save_to=folder / "out.safetensors", save_precision="fp16", **options)
    assert not list(folder.glob("out*"))


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 3e38])
@pytest.mark.parametrize(
    "tool, options",
    [
        ("convert", {"algorithm": "lora", "dim": 2}), ("networks_merge", {"dim": 2}), ("bake", {"ratio": 0.5}), ("compare", {}),
    ],
)  # fmt: skip
def test_a_change_that_depends_on_a_broken_weight_is_refused(tool: str, options: dict[str, Any], value: float, folder: Path) -> None:
    """What is decomposed then was no number, and the decomposition ended in a traceback."""
    base, tensors = load_file(folder / "base.safetensors"), load_file(folder / "one.safetensors")
    key = next(key for key in tensors if key.endswith("attn1_to_q.lora_up.weight"))
    save_file({**tensors, key.replace("lora_up.weight", "dora_scale"): torch.ones(16, 1)}, folder / "one.safetensors")
    broken = next(key for key in base if key.endswith("attn1.to_q.weight"))
    base[broken][0, 0] = value
    save_file(base, folder / "base.safetensors")
    names = {option.name for option in TOOLS[tool].options}
    files: dict[str, Any] = {"model": folder / "one.safetensors"} if "model" in names else {"models": [folder / "one.safetensors"]}
    files["sd_model" if "sd_model" in names else "base_model"] = folder / "base.safetensors"
    if "save_to" in names:
        files["save_to"] = folder / "out.safetensors"
    with pytest.raises(LycorisError, match=r"^base\.safetensors is broken: .*attn1\.to_q\.weight holds NaN"):
        TOOLS[tool].run(**files, **options)
    assert not (folder / "out.safetensors").exists()
