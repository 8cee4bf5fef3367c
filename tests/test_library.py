"""The library as its users see it: names, signatures, options, types."""

import importlib.util
import inspect
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lib_lycoris
from lib_lycoris import errors
from lib_lycoris.errors import LycorisError, ToolError
from lib_lycoris.tools import TOOLS, registry
from lib_lycoris.tools.declaration import Option, Result, Tool

ROOT = Path(__file__).resolve().parent.parent
NAMES = list(registry.FUNCTIONS)


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)


def test_importing_the_library_imports_neither_torch_nor_any_part_of_it() -> None:
    heavy = "[m for m in sys.modules if m.split('.')[0] in ('torch', 'safetensors', 'gradio')]"
    assert python("-c", f"import sys, lib_lycoris; dir(lib_lycoris); print({heavy})").stdout.strip() == "[]"
    code = "import sys, lib_lycoris; print([m for m in sys.modules if m.startswith('lib_lycoris.')])"
    assert python("-c", code).stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    assert sorted(lib_lycoris.__all__) == sorted(set(lib_lycoris.__all__))
    assert set(lib_lycoris.__all__) <= set(dir(lib_lycoris))
    for name in lib_lycoris.__all__:
        assert getattr(lib_lycoris, name) is not None
    wanted = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, LycorisError)}
    assert wanted | {"Mode", "errors", *NAMES} <= set(lib_lycoris.__all__)
    with pytest.raises(AttributeError):
        _ = lib_lycoris.nothing


def test_there_is_one_version() -> None:
    written = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert written is not None and written[1] == lib_lycoris.__version__
    done = python("-m", "lib_lycoris", "--version")
    assert done.returncode == 0 and lib_lycoris.__version__ in done.stdout
    assert python("-m", "lib_lycoris", "--help").stdout.startswith("usage: python -m lib_lycoris")


def meant(tool: Tool) -> dict[str, Option]:
    return {option.name: option for option in tool.options if not (option.ignored or option.refused)}


def expected(option: Option) -> Iterator[str]:
    """Give what the annotation of an option may be: one value, one or several, and None where there is no default."""
    several = option.nargs in ("+", "*")
    one = {Path: "FilePath", float: "float", int: "int", str: "str", bool: "bool"}[option.type]
    many = {Path: "Files", float: "Numbers", int: "Counts", str: "Texts"}.get(option.type, "")
    kind = many if several else one
    yield f"{kind} | None" if option.default is None and not option.required else kind


@pytest.mark.parametrize("name", NAMES)
def test_a_function_has_the_options_of_its_declaration(name: str) -> None:
    tool = TOOLS[registry.FUNCTIONS[name]]
    function = getattr(lib_lycoris, name)
    parameters = inspect.signature(function).parameters
    options = meant(tool)
    assert set(parameters) == {*options, "progress"}
    for option in options.values():
        found = parameters[option.name]
        assert found.default == (inspect.Parameter.empty if option.required else option.default), option.name
        assert found.annotation in expected(option), option.name
    assert parameters["progress"].default is None and inspect.signature(function).return_annotation == "Result"
    assert function.__name__ == name and all(f"\n    {option}: " in function.__doc__ for option in options)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_an_error_that_names_the_nearest(name: str) -> None:
    tool = TOOLS[registry.FUNCTIONS[name]]
    longest = max(meant(tool), key=len)
    for call in (tool.run, tool.plan, getattr(lib_lycoris, name)):
        with pytest.raises(ToolError, match=f'did you mean "{longest}"'):
            call(**{longest[:-1]: 1})
        with pytest.raises(ToolError, match="is no option of"):
            call(zzz=1)
        with pytest.raises(ToolError, match=" needs "):
            call()


def test_a_misspelt_strength_does_not_merge_without_it() -> None:
    with pytest.raises(ToolError, match=r'"ratio" is no option.*did you mean "ratios"'):
        TOOLS["networks_merge"].run(models=["a.safetensors"], save_to="b.safetensors", ratio=[0.5])


def test_options_have_their_types_and_none_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = TOOLS["networks_merge"]
    got: dict[str, Any] = {}
    seen = Tool(
        tool.name, tool.pretty, tool.summary, lambda progress, **given: got.update(given) or Result({}, ""), tool.planner, tool.options
    )
    seen.run(models="a", save_to="b.safetensors", ratios=1, density=None, dim=4)
    assert got["models"] == [Path("a")] and got["save_to"] == Path("b.safetensors") and got["ratios"] == [1.0] and got["density"] == 0.5
    with pytest.raises(ToolError, match=r"dim is 2\.5, but a whole number"):
        seen.run(models="a", save_to="b.safetensors", dim=2.5)
    with pytest.raises(ToolError, match="rule is 'best', but one of"):
        seen.run(models="a", save_to="b.safetensors", rule="best")


def test_an_option_without_meaning_is_said_and_left_out() -> None:
    tool = TOOLS["networks_merge"]
    seen = Tool(tool.name, tool.pretty, tool.summary, lambda progress, **given: Result(given, ""), tool.planner, tool.options)
    with pytest.warns(UserWarning, match="`v2` is not needed"):
        assert "v2" not in seen.run(models="a", save_to="b.safetensors", v2=True).report
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen.run(models="a", save_to="b.safetensors", v2=False)


def test_files_go_by_place_and_not_more_of_them_than_there_are() -> None:
    with pytest.raises(TypeError, match="takes 3 arguments"):
        lib_lycoris.merge("a", "b", "c", "d")  # type: ignore[misc]
    with pytest.raises(LycorisError, match="nowhere"):
        lib_lycoris.prune("nowhere.safetensors", "out.safetensors")


def test_every_verb_is_described_once_and_as_its_tool_is() -> None:
    assert list(registry.VERBS) == list(dict.fromkeys(entry.verb for entry in registry.ENTRIES))
    for verb, text in registry.VERBS.items():
        tools = registry.tools_of(verb)
        assert all((tool.verb or tool.name) == verb for tool in tools)
        assert len(tools) > 1 or tools[0].summary == text


SNIPPET = """
from pathlib import Path

import lib_lycoris
from lib_lycoris import Activation, Network, Patcher, Progress, ProgressState, Result
from lib_lycoris.errors import LycorisError
from torch import nn


def show(stage: ProgressState) -> None:
    print(stage.text, stage.step, stage.total, stage.left)


def half_merged(model: Path, network: str) -> Result:
    try:
        return lib_lycoris.merge(model, [network], "out.safetensors", ratios=[0.5], progress=Progress(show))
    except LycorisError as error:
        raise SystemExit(str(error)) from error


def put_on(unet: nn.Module, file: str) -> list[str]:
    patcher = Patcher({"unet": unet}, family="sd1")
    network: Network = lib_lycoris.load(file, patcher.base)
    report = patcher.apply([Activation(network, lambda parameter: 0.7)], "merged")
    with lib_lycoris.apply(unet, {file: 0.7}) as applied:
        print(applied.problems)
    patcher.restore()
    return report.problems


sizes: dict[str, int] = {path.name: path.stat().st_size for path in lib_lycoris.extract("a", "b", "c", dim=16).outputs}
family: str | None = lib_lycoris.inspect("style.safetensors").as_dict()["family"]
"""
WRONG = 'import lib_lycoris\nlib_lycoris.merge_networks(["a"], "b", ratio=[0.5])\n'

if importlib.util.find_spec("mypy"):  # in the new set

    @pytest.mark.slow
    def test_a_users_code_is_checked_strictly_against_the_library(tmp_path: Path) -> None:
        for name, text in (("right.py", SNIPPET), ("wrong.py", WRONG)):
            (tmp_path / name).write_text(text, encoding="utf-8")
        options = ("--strict", "--follow-imports=silent", "--no-error-summary", "--hide-error-context")
        found = python("-m", "mypy", *options, str(tmp_path / "right.py"), str(tmp_path / "wrong.py")).stdout.splitlines()
        assert (
            all("wrong.py:2: " in line for line in found)
            and 'Unexpected keyword argument "ratio" for "run"; did you mean "ratios"' in found[0]
        )


def test_ctrl_c_while_the_program_is_imported_is_no_traceback() -> None:
    """The imports take seconds: a hook stops the first of them as Ctrl-C would."""
    ask = (
        "import sys, lib_lycoris.__main__ as program\n"
        "class Stop:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'lib_lycoris.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\n"
        "sys.exit(program.main())"
    )
    ended = python("-c", ask)
    assert (ended.returncode, ended.stderr.strip()) == (130, "Stopped before anything was done.")
