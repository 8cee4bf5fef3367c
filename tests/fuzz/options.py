"""Every tool with options that nobody expects: from Python, on the command line, in recipes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib_lycoris.cli import main
from lib_lycoris.errors import LycorisError
from lib_lycoris.tools import TOOLS
from lib_lycoris.tools.cli import OWN
from lib_lycoris.tools.declaration import Option, Tool, as_list
from lib_lycoris.tools.registry import ENTRIES

from .judge import Unclean
from .tiny_files import FILES, untouched
from .values import odd_json, odd_number, odd_text, odd_value

VERB = {entry.name: entry.verb for entry in ENTRIES}
INPUTS = {"checkpoint": FILES[:2], "network": FILES[2:4], "networks": FILES[2:4], "file": FILES[5:], "folder": (".",)}


def usual(tool: Tool, folder: Path, rng: random.Random) -> dict[str, Any]:
    """Return options that a tool works with."""
    found: dict[str, Any] = {}
    for option in tool.options:
        if not option.required:
            continue
        if option.kind == "output":
            found[option.name] = folder / "out.safetensors"
        else:
            name = {"merged": "merged.safetensors", "model_tuned": "tuned.safetensors"}.get(option.name) or rng.choice(INPUTS[option.kind])
            found[option.name] = [folder / name] if option.nargs in ("+", "*") else folder / name
    return found


def odd_option(option: Option, folder: Path, rng: random.Random) -> Any:
    """Return a value for an option: one of its kind, or any."""
    kind = rng.random()
    if kind < 0.15:
        return odd_value(rng)
    if option.type is Path and kind < 0.7:
        one: Any = folder / rng.choice((*FILES, "nothing.safetensors", "out.safetensors", ".", "sub/out.safetensors"))
    elif option.type is Path:
        one = odd_text(rng)
    elif option.choices:
        one = rng.choice((*option.choices, odd_text(rng)))
    elif option.type is bool:
        one = rng.choice((True, True, False, 1, "yes"))
    elif option.type is int:
        one = rng.choice((odd_number(rng), rng.randrange(1, 20)))
    elif option.type is float:
        one = rng.choice((odd_number(rng), rng.uniform(-1, 2)))
    else:
        one = rng.choice((odd_text(rng), "ALL", "NONE", "-", "IN05:attn:0", ",".join(["0.5"] * 12), ",".join(["R"] * 17)))
    several = option.nargs in ("+", "*") or isinstance(option.nargs, int)
    return [one] * rng.choice((1, 1, 2, 0)) if several and rng.random() < 0.8 else one


def odd_options(tool: Tool, folder: Path, rng: random.Random) -> dict[str, Any]:
    """Return options for a tool of which some are odd."""
    options = usual(tool, folder, rng)
    for option in rng.sample(tool.options, min(len(tool.options), rng.choice((1, 1, 2, 4)))):
        options[option.name] = odd_option(option, folder, rng)
    if rng.random() < 0.05:
        options[odd_text(rng)] = odd_value(rng)
    return options


def outputs(tool: Tool, options: dict[str, Any]) -> set[str]:
    """Return the names of the files that a tool was told to write, as far as it does not read them too."""
    values = {option.name: option for option in tool.options}
    texts = {name: [str(item) for item in as_list(value)] for name, value in options.items()}
    written = {Path(text).name for name, found in texts.items() if name in values and values[name].kind == "output" for text in found}
    read = {Path(text).name for name, found in texts.items() if name in values and values[name].kind != "output" for text in found}
    return set(FILES) if "in_place" in options else written - read


def from_python(rng: random.Random, folder: Path) -> None:
    """Run a tool, or only plan it, with odd options."""
    tool = TOOLS[rng.choice(list(TOOLS))]
    options = odd_options(tool, folder, rng)
    with untouched(folder) as named, warnings.catch_warnings():
        named |= outputs(tool, options)
        warnings.simplefilter("ignore")
        if rng.random() < 0.2:
            json.dumps(tool.plan(**options).as_json())
        else:
            result = tool.run(**options)
            json.dumps(dict(result.report))
            if not result.text:
                raise Unclean("it is done and nothing is said")


def run_command(words: list[str]) -> None:
    """Run a command line; raise LycorisError with what it says on stderr, if it fails, Unclean for a failure without one sentence."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code: Any = main(words)
    except SystemExit as stop:  # argparse
        code = stop.code
    finally:
        out.flush()
        err.flush()
        said = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
    if code not in (0, 1, 2):
        raise Unclean(f"exit code {code}")
    if "Traceback" in said or (code == 2 and "error:" not in said):
        raise Unclean(f"exit code {code}: {said[-300:]}")
    if code == 2:
        raise LycorisError(" ".join(said[said.index("error:") :].split()))


def command_line(rng: random.Random, folder: Path) -> None:
    """Run a verb with odd options on the command line."""
    tool = TOOLS[rng.choice(list(TOOLS))]
    options = odd_options(tool, folder, rng)
    words = [VERB[tool.name], "--quiet", *(["--json"] if rng.random() < 0.4 else []), *(["--dry-run"] if rng.random() < 0.2 else [])]
    declared = {option.name: option for option in tool.options}
    for name, value in options.items():
        option = declared.get(name)
        flag = option.flags[0] if option else f"--{name}"
        given = [_word(item) for item in (value if isinstance(value, list) else [value])]
        if option and option.type is bool:
            words.append(flag)
        elif option and not flag.startswith("-"):
            words += given
        else:
            words += [flag, *given]
    with untouched(folder) as named, _working_in(folder):
        named |= outputs(tool, options)
        run_command(words)


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _word(value: Any) -> str:
    """Return a value as it can stand on a command line: no null byte, and half characters only as the shell hands them over."""
    text = str(value)[:5000].replace("\0", "")
    return "".join(char if not 0xD800 <= ord(char) < 0xE000 else "\udcff" for char in text)


def recipe(rng: random.Random, folder: Path) -> None:
    """Run a recipe file that is damaged, or whose jobs have odd options."""
    with untouched(folder) as named:
        _recipe(rng, folder, named)


def _recipe(rng: random.Random, folder: Path, named: set[str]) -> None:
    tool = TOOLS[rng.choice(list(TOOLS))]
    jobs: list[Any] = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        options = odd_options(tool, folder, rng)
        named |= outputs(tool, options)
        jobs.append({name: _plain(value) for name, value in options.items()})
    if rng.random() < 0.2:
        jobs.append(rng.choice((odd_value(rng), {rng.choice(OWN): odd_value(rng)})))
    found: Any = rng.choice((jobs, {"jobs": jobs}, jobs[0] if jobs else {}, odd_value(rng)))
    (folder / "recipe.json").write_bytes(odd_json(rng, found))
    more = [["--keep-going"], ["--json"], ["--dry-run"], []][rng.randrange(4)]
    run_command([VERB[tool.name], "--quiet", "--recipe", str(folder / "recipe.json"), *more])


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.name if isinstance(value, Path) else value


TARGETS = (from_python, command_line, recipe)
