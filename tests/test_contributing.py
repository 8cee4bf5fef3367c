"""The worked examples of CONTRIBUTING.md, applied to a copy of this checkout: they work, touch the files listed and pass the linters."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLACE = re.compile(r"(?:#|<!--) (?P<file>[\w./]+)(?:, after: (?P<line>.*?))?(?: -->)?")
COPIED = ("lib_lycoris", "tests", "docs", "scripts", "run.py", "pyproject.toml", "README.md", "CONTRIBUTING.md", "constraints")
KEPT_OUT = shutil.ignore_patterns("__pycache__", "dev", "images")

CHECKS = {  # what follows from an addition without another line, said in Python inside of the copy
    "Add an algorithm": """
        import torch
        from safetensors.torch import load_file, save_file
        from lib_lycoris.tools import TOOLS
        layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
        save_file({f"{layer}.outer_column": torch.ones(320), f"{layer}.outer_row": torch.ones(320)}, "in.safetensors")
        TOOLS["convert"].run(model="in.safetensors", algorithm="lora", save_to="out.safetensors")
        assert load_file("out.safetensors")[f"{layer}.lora_down.weight"].shape == (1, 320)
    """,
    "Add a tool": """
        from lib_lycoris.cli import main
        from lib_lycoris.tools import TOOLS
        from lib_lycoris.tools.jobs.service import schema
        assert schema(TOOLS["keep"])["required"] == ["model", "save_to", "word"]
        demo = "lib_lycoris/demo/networks/demo-lora.safetensors"
        assert main(["keep", "--model", demo, "--word", "attn2", "--save_to", "x.safetensors"]) == 0
        from types import SimpleNamespace
        from lib_lycoris.tools.jobs.queue import Jobs
        from lib_lycoris.ui.pages.change import ChangePage
        from tests.ui.test_extract import PageContext
        from lib_lycoris.prompt import Presets
        store = SimpleNamespace(networks=list, checkpoints=list, presets=Presets.default, refresh=list)
        import gradio as gr
        context = PageContext(store, Jobs(), send="x")
        with gr.Blocks() as blocks:
            ChangePage(context).build()
            context.finish(blocks)
        tabs = {part["props"].get("elem_id"): part["props"].get("label") for part in blocks.get_config_file()["components"]}
        assert tabs["lyco_tab_change_keep"] == "Keep modules"
    """,
}


class Block(NamedTuple):
    """A file, or lines for behind the line of a file that begins so."""

    file: str
    line: str | None
    text: str


class Example(NamedTuple):
    """One worked example."""

    title: str
    blocks: list[Block]
    command: list[str]
    files: set[str]


def examples() -> list[Example]:
    """Read the examples: every section below *Worked examples*."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Worked examples")[2]
    return [example(section) for section in re.split(r"^### ", page, flags=re.MULTILINE)[1:]]


def example(section: str) -> Example:
    title, _, text = section.partition("\n")
    blocks, command = [], []
    for body in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        first, _, rest = body.partition("\n")
        if first.startswith("python3 run.py test "):
            command = shlex.split(first)[3:]
            continue
        place = PLACE.fullmatch(first)
        assert place, f"{title}: the block that begins with {first!r} does not say where it belongs"
        blocks.append(Block(place["file"], place["line"], rest))
    listed = re.search(r"^Files: (.*)$", text, re.MULTILINE)
    assert listed and command, f"{title}: has no list of files, or no command"
    return Example(title, blocks, command, set(re.findall(r"`([^`]+)`", listed[1])))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the examples touch and run, its pages generated: what is behind the code already is another test's concern."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=KEPT_OUT)
        else:
            shutil.copyfile(source, folder / name)
    run(folder, "-m", "tests.docs.generate")
    return folder


def apply(block: Block, folder: Path) -> None:
    path = folder / block.file
    if block.line is None:
        assert not path.exists(), f"{block.file} is there already"
        path.write_text(block.text, encoding="utf-8")
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    places = [number for number, line in enumerate(lines) if line.strip().startswith(block.line)]
    assert len(places) == 1, f"{block.file} has {len(places)} lines that begin with {block.line!r}"
    lines.insert(places[0] + 1, block.text)
    path.write_text("".join(lines), encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def run(folder: Path, *command: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("found", examples(), ids=lambda found: found.title)
def test_a_worked_example_works_and_touches_the_files_that_it_lists(found: Example, checkout: Path, tmp_path: Path) -> None:
    shutil.copytree(checkout, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    for block in found.blocks:
        apply(block, tmp_path)
    run(tmp_path, "-m", "tests.docs.generate")
    after = contents(tmp_path)
    assert {name for name in after if after[name] != before.get(name)} == found.files
    run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", *found.command)
    if importlib.util.find_spec("ruff"):  # in the new set only
        written = sorted(name for name in found.files if name.endswith(".py"))
        run(tmp_path, "-m", "ruff", "check", "--no-cache", *written)
        run(tmp_path, "-m", "ruff", "format", "--no-cache", "--check", *written)
    if found.title in CHECKS:
        run(tmp_path, "-c", "\n".join(line[8:] for line in CHECKS[found.title].splitlines()))
