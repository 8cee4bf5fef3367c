"""Options in sentences: a tool names them, and everyone who calls it reads the spelling of their own."""

import ast
import json
import re
from pathlib import Path

import pytest

from lib_lycoris import demo, merge_networks
from lib_lycoris.cli import main
from lib_lycoris.errors import ToolError
from lib_lycoris.tools import TOOLS
from lib_lycoris.tools.option_names import as_field, as_flag, spelled

PACKAGE = Path(__file__).resolve().parents[2] / "lib_lycoris"
ONE_CALLER = {"cli.py", "arguments.py", "bulk.py", "training"}  # read on the command line only
TOOL_FILES = [path for path in sorted((PACKAGE / "tools").rglob("*.py")) if not ONE_CALLER & {*path.parts}]
NETWORK = demo.CHECKPOINT.parent / "networks" / "demo-lora.safetensors"


def texts(path: Path) -> list[str]:
    """Return the texts of a file that may be said: no docstring, and no flag of a declaration, which stands alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    every = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in bare]
    return [node.value for node in every if isinstance(node.value, str) and not re.fullmatch(r"--[\w-]+", node.value)]


@pytest.mark.parametrize("path", TOOL_FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_tool_spells_an_option_for_one_of_its_callers(path: Path) -> None:
    found = [text for text in texts(path) if re.search(r"(?<![\w-])--[a-z]", text)]
    assert not [text for text in found if path.name != "registry.py" and "--json" not in text], found


@pytest.mark.parametrize("path", TOOL_FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_written_as_an_option_is_one(path: Path) -> None:
    known = {option.name for tool in TOOLS.values() for option in tool.options}
    named = {found for text in texts(path) for found in re.findall(r"`(\w+)(?:=[^`]*)?`", text)}
    assert named <= known


def test_an_option_is_spelled_anew_and_all_else_stays() -> None:
    options = TOOLS["merge"].options
    assert spelled("give `undo_file`, or `save_precision=bf16`; `nothing` and `x y` stay", options, as_flag) == (
        "give --undo-file, or --save_precision bf16; `nothing` and `x y` stay"
    )
    assert spelled("give `te2`", options, as_field) == 'give "Second text encoder"'


def test_everyone_reads_the_spelling_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Python, the command line and its recipes: the same mistake; a page: tests/ui/test_fields.py."""
    out = tmp_path / "out.safetensors"
    with pytest.raises(ToolError) as caught:
        merge_networks([NETWORK], out, concat=True, dim=4)
    said = "`concat` keeps all ranks and is exact, `dim=4` would not be; give only one of them"
    assert str(caught.value) == said
    assert main(["merge", "--models", str(NETWORK), "--save_to", str(out), "--concat", "--dim", "4"]) == 2
    assert "error: --concat keeps all ranks and is exact, --dim 4 would not be" in capsys.readouterr().err
    recipe = tmp_path / "jobs.json"
    recipe.write_text(json.dumps([{"models": [str(NETWORK)], "save_to": str(out), "concat": True, "dim": 4}]))
    assert main(["merge", "--recipe", str(recipe)]) == 2
    assert "--concat keeps all ranks" in capsys.readouterr().err


def test_an_option_without_a_meaning_is_noted_as_it_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["merge", "--models", str(NETWORK), "--save_to", str(tmp_path / "out.safetensors"), "--shuffle", "--dry-run"]
    assert main(words) == 0 and "note: --shuffle has no meaning here" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="^`shuffle` has no meaning here"):
        merge_networks([NETWORK], tmp_path / "out.safetensors", shuffle=True)  # type: ignore[call-arg]


def test_help_texts_speak_of_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["extract", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: --dim; with lora: convolutions are left out)" in text and "`" not in text


def test_a_rank_that_is_no_whole_number_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["resize", "--model", "a.safetensors", "--save_to", "b.safetensors", "--new_rank", "8,5"])
    assert "--new_rank" in (said := capsys.readouterr().err) and "8,5 is no whole number; several numbers are separated by spaces" in said
