"""The files that the webui reads of us, without a webui: start-up scripts, metadata, the script of the cards, and what edits prompts."""

import argparse
import configparser
import json
import re
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib_lycoris.hosts.library.library import Library
from lib_lycoris.hosts.webui.interface import api, paste, xyz
from lib_lycoris.hosts.webui.interface import card_files as files
from lib_lycoris.prompt import parse_tag
from lib_lycoris.tools.examine.inspect import inspect

ROOT = Path(__file__).resolve().parents[2]
INSTALL = runpy.run_path(str(ROOT / "install.py"))
PRELOAD = runpy.run_path(str(ROOT / "preload.py"))


def parser(*, built_in: bool = True) -> argparse.ArgumentParser:
    """Return a parser as the webui fills it: extensions first, then the built-in loader."""
    made = argparse.ArgumentParser()
    PRELOAD["preload"](made)
    if built_in:
        made.add_argument("--lyco-dir-backcompat", type=str, default="models/LyCORIS")
    return made


def test_the_folder_on_the_command_line_is_the_built_in_loaders_too() -> None:
    given = parser().parse_args(["--lyco-dir", "/somewhere/else"])
    assert given.lyco_dir == given.lyco_dir_backcompat == str(Path("/somewhere/else").absolute())
    assert parser(built_in=False).parse_args(["--lyco-dir=/x"]).lyco_dir == str(Path("/x").absolute())


def test_without_the_option_both_have_the_usual_folder() -> None:
    given = parser().parse_args([])
    assert given.lyco_dir.endswith("LyCORIS") and given.lyco_dir_backcompat == "models/LyCORIS"
    assert parser().parse_args(["--lyco-dir-backcompat", "y"]).lyco_dir_backcompat == "y"


def test_a_host_with_an_option_of_this_name_keeps_its_own() -> None:
    made = argparse.ArgumentParser()
    made.add_argument("--lyco-dir", default="theirs")
    PRELOAD["preload"](made)
    assert made.parse_args([]).lyco_dir == "theirs"


GOOD = {"torch": "2.1.2+cu121", "safetensors": "0.4.2", "gradio": "3.41.2"}


def test_what_is_new_enough_is_not_mentioned() -> None:
    assert INSTALL["too_old"](GOOD, "1.10.1") == [] == INSTALL["too_old"](GOOD, None)


@pytest.mark.parametrize(
    "change, webui, words",
    [
        ({"torch": "1.13.1"}, "1.10.1", "needs torch 2.0 or newer; this is 1.13.1"),
        ({"gradio": "3.32.0"}, "1.7.0", "needs gradio 3.41 or newer; this is 3.32.0"),
        ({"safetensors": None}, "1.7.0", "needs safetensors 0.4 or newer, and there is none"),
        ({}, "1.6.1", "needs webui 1.7 or newer; this is 1.6.1"),
    ],
)
def test_what_is_too_old_is_told_in_one_sentence(change: dict[str, Any], webui: str, words: str) -> None:
    told = INSTALL["too_old"]({**GOOD, **change}, webui)
    assert len(told) == 1 and words in told[0] and told[0].endswith(".")


def test_the_webuis_version_is_read_from_its_list_of_changes(tmp_path: Path) -> None:
    (tmp_path / "webui.py").touch()
    (tmp_path / "CHANGELOG.md").write_text("## 1.10.1\n\n### Bug Fixes:\n")
    assert INSTALL["webui_version"](["", str(tmp_path)]) == "1.10.1"
    assert INSTALL["webui_version"]([str(tmp_path / "none")]) is None


def test_install_runs_alone_and_installs_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "install.py")], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == "" and not list(tmp_path.iterdir())
    source = (ROOT / "install.py").read_text(encoding="utf-8")
    assert "pip" not in source and "subprocess" not in source and "launch" not in source


def test_metadata_names_the_extension_and_loads_it_after_the_built_in_loader() -> None:
    read = configparser.ConfigParser()
    read.read(ROOT / "metadata.ini", encoding="utf-8")
    assert read["Extension"]["Name"] == "sd-webui-lycoris" and "Requires" not in read["Extension"]
    section = read["scripts/lycoris_webui.py"]
    assert section["After"] == "lora" and (ROOT / "scripts" / "lycoris_webui.py").is_file()


CARD = {"name": "cat", "names": ["cat", "sub/cat", "Kitten v2"], "weight": 0, "text": "", "negative": ""}
CLICKS = [  # prompt, what the card has on top, prompt after a click, negative prompt after it (it was "bad")
    ("", {}, "<lyco:cat:1>", "bad"),
    ("a dog", {"weight": 0.8, "text": "meow"}, "a dog <lyco:cat:0.8> meow", "bad"),
    ("a dog", {"negative": "blurry"}, "a dog <lyco:cat:1>", "bad blurry"),
    ("a <lyco:cat:-0.5> b", {}, "a b", "bad"),
    ("a <lyco:cat:1:lbw=MIDD:start=3> b", {}, "a b", "bad"),
    ("a <lyco:cat:te=0@0,1@1:unet=-2> meow b", {"text": "meow"}, "a b", "bad"),
    ("a, <lyco:Kitten v2:1>", {}, "a,", "bad"),
    ("<lyco:SUB\\cat.safetensors:1> b <lyco:cat>", {}, "b", "bad"),
    ("<lyco:cat2:1> <lora:cat:1>", {}, "<lyco:cat2:1> <lora:cat:1> <lyco:cat:1>", "bad"),
    ("x <lyco:cat:1>", {"negative": "bad"}, "x", ""),
]


if shutil.which("node"):  # else the browser tests alone run the script of the cards

    def test_a_click_on_a_card_puts_its_tag_in_or_takes_it_out() -> None:
        cards = [{**CARD, **change} for _, change, _, _ in CLICKS]
        program = f"""
            global.window = Object.create({{setTimeout: () => 0}});
            global.document = {{addEventListener: () => 0, querySelector: () => null}};
            const {{toggle}} = require({json.dumps(str(ROOT / "javascript" / "lycoris.js"))});
            const prompts = {json.dumps([prompt for prompt, *_ in CLICKS])}, cards = {json.dumps(cards)};
            const settings = {{separator: " ", weight: 1}};
            console.log(JSON.stringify(prompts.map((prompt, i) => toggle({{prompt: prompt, negative: "bad"}}, cards[i], settings))));
            if (Object.keys(window).join() !== "lycorisCardClicked,lycorisShowCheckpoint") throw new Error("more names are visible");
        """
        done = subprocess.run(["node", "-e", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [{"prompt": prompt, "negative": negative} for _, _, prompt, negative in CLICKS]


def test_our_style_touches_our_pages_only() -> None:
    """Every selector of every rule begins with an element of ours, but for the theme's class before it."""
    style = re.sub(r"/\*.*?\*/", "", (ROOT / "style.css").read_text(encoding="utf-8"), flags=re.DOTALL)
    heads = [head.strip() for head in re.findall(r"([^{}]+)\{", style) if not head.strip().startswith("@")]
    selectors = [selector.strip() for head in heads for selector in re.split(r",(?![^(]*\))", head)]
    assert len(selectors) > 100
    foreign = [s for s in selectors if not re.match(r"(\.dark )?#(lyco_|txt2img_lycoris|img2img_lycoris)", s)]
    assert not foreign


def test_pasted_names_become_those_of_the_files_with_their_hashes() -> None:
    ours, theirs = "old name: aaaaaaaaaaaa, b: 0xBBBBBBBBBBBB, gone: cccccccccccc", "l: dddddddddddd, b: 11111111"
    hashes = paste.read_hashes({"Lyco hashes": ours, "Lora hashes": theirs})
    assert hashes == {"old name": "aaaaaaaa", "b": "bbbbbbbb", "gone": "cccccccc", "l": "dddddddd"}
    local = {"aaaaaaaa": "new", "bbbbbbbb": "b", "dddddddd": "other"}
    prompt = "<lyco:old name:0.5:lbw=INS> <lora:old name:1> <lyco:gone> <lyco:l> <lyco:unlisted:1>"
    renamed = paste.renamed(prompt, hashes, local.get)
    assert renamed == "<lyco:new:0.5:lbw=INS> <lora:old name:1> <lyco:gone> <lyco:other> <lyco:unlisted:1>"


@pytest.mark.parametrize(
    "edit, before, after",
    [
        (xyz.with_strength((*xyz.TEXT, *xyz.UNET), 0.3), "<lyco:a:1>", "<lyco:a:0.3>"),
        (xyz.with_strength((*xyz.TEXT, *xyz.UNET), 0.3), "<lyco:a:1:0.5:lbw=INS:start=3>", "<lyco:a:0.3:lbw=INS:start=3>"),
        (xyz.with_strength(xyz.TEXT, 0), "<lyco:a:0.5>", "<lyco:a:0:0.5>"),
        (xyz.with_strength(xyz.TEXT, 0), "<lyco:a:0.5:te2=2>", "<lyco:a:0:0.5:te2=2>"),
        (xyz.with_strength(xyz.UNET, -1), "<lyco:a:0.5:hr=2>", "<lyco:a:0.5:-1:hr=2>"),
        (xyz.with_weights("MIDD"), "<lyco:a:1:0.5:lbw=INS>", "<lyco:a:1:0.5:lbw=MIDD>"),
        (xyz.with_weights("None"), "<lyco:a:1:0.5:lbw=INS>", "<lyco:a:1:0.5>"),
    ],
)
def test_an_axis_changes_one_thing_of_every_tag(edit: xyz.Edit, before: str, after: str) -> None:
    changed = xyz.edited(f"x {before} <lora:a:1> {before} <lyco:b:wrong:1:2:3>", edit)
    first, second = changed.removeprefix("x ").removesuffix(" <lyco:b:wrong:1:2:3>").split(" <lora:a:1> ")
    assert first == second and parse_tag(first[6:-1].split(":")) == parse_tag(after[6:-1].split(":"))


@pytest.mark.parametrize(
    "prompt, name, after",
    [
        ("x", "a", "x<lyco:a:1>"),
        ("x", "None", "x"),
        ("x <lyco:b:0.5:lbw=INS> <lyco:c:1>", "a", "x <lyco:a:0.5:lbw=INS> <lyco:c:1>"),
        ("x <lyco:b:0.5> y", "None", "x  y"),
    ],
)
def test_the_axis_of_names_changes_the_first_tag(prompt: str, name: str, after: str) -> None:
    assert xyz.with_name(prompt, name) == after


def test_axes_give_the_same_prompt_in_either_order() -> None:
    def run(*steps: str) -> tuple[str, str]:
        p = SimpleNamespace(prompt="x", hr_prompt="hires x")
        strength = xyz._apply(lambda value: xyz.with_strength((*xyz.TEXT, *xyz.UNET), value))
        for step in steps:
            if step == "name":
                xyz.apply_name(p, "a", ["a"])
            else:
                strength(p, 0.25, [0.25])
        return p.prompt, p.hr_prompt

    assert run("name", "strength") == run("strength", "name") == ("x<lyco:a:0.25>", "hires x<lyco:a:0.25>")


def test_a_name_that_two_files_have_is_written_with_its_folder(tmp_path: Path) -> None:
    for place in ("one/a", "two/a", "b"):
        path = tmp_path / f"{place}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert list(Library([tmp_path]).named) == ["b", "one/a", "two/a"]


def test_a_file_that_cannot_be_read_says_why_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0[[[[[[[[")
    found = Library([tmp_path]).facts(tmp_path / "a.safetensors")
    assert "a.safetensors" in found.broken and found.label == "cannot be read"
    assert files.top_tags({"ss_tag_frequency": {"a": {"x": 1, "y": "many"}, "b": 3}}, 5) == [("x", 1)]


def test_hashes_of_a_pasted_text_are_read_in_a_time_in_proportion_to_its_length() -> None:
    assert paste.read_hashes({"Lyco hashes": '"a: 0123ABCD99, b, c: 0x89ef4567, d: 12"'}) == {
        "a": "0123abcd",
        "b, c": "89ef4567",
    }
    began = time.process_time()
    for text in ("a: " * 60_000, "a," * 90_000, ":" * 180_000, "a: 0123abcd " * 15_000, " " * 180_000):
        paste.read_hashes({"Lyco hashes": text})
        paste.renamed(f"<lyco:{text}", {}, {}.get)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("said", "weight"),
    [
        (0.8, 0.8),
        ("0.5", 0.5),
        (None, 0),
        ("x", 0),
        ([], 0),
        (10**400, 0),
        (1e308, 0),
        ("nan", 0),
        (float("inf"), 0),
        (-3, -3),
        ({"a": 1}, 0),
    ],
)
def test_a_preferred_weight_is_one_that_a_tag_can_have(said: Any, weight: float) -> None:
    assert files.weight(said) == weight


def test_notes_of_people_can_be_put_on_a_page() -> None:
    shown = files.showable({"a\ud800": ["\udfff", {"b": "<b>"}], "n": 1})
    assert json.dumps(shown, ensure_ascii=False).encode("utf-8") and shown == {"a?": ["?", {"b": "<b>"}], "n": 1}


def test_one_file_costs_the_list_of_the_api_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that are none and halves of characters in a file's metadata or name; the whole list was answered with 500."""
    odd = tmp_path / "caf\udce9.safetensors"
    said = {"ss_tag_frequency": '{"a": {"\\ud800": 1}}', "ss_bucket_info": '{"a": NaN, "b": 1e999}', "ss_output_name": "x"}
    header = json.dumps({"__metadata__": said, "a.alpha": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}).encode()
    try:
        odd.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    except (OSError, UnicodeEncodeError):
        pytest.skip("this system has no such names")
    library = Library([tmp_path])
    monkeypatch.setattr(api.files, "library", lambda: library)
    monkeypatch.setitem(sys.modules, "modules", SimpleNamespace(hashes=SimpleNamespace(sha256_from_cache=lambda *_, **__: None)))
    app = FastAPI()
    app.add_api_route("/lycos", api.list_networks)
    app.add_api_route("/inspect", api._inspector(lambda path, family: inspect(path, family=family).as_dict()))
    client = TestClient(app)
    (listed,) = client.get("/lycos").json()
    assert listed["name"] == "caf?" and listed["metadata"]["ss_bucket_info"] == {"a": None, "b": None}
    assert library.find("caf?").path == odd and client.get("/inspect?name=caf?").json()["name"] == "caf?"
