"""A command line of a training -> what was given, by the names of the options; validated as every tool's options are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from ...errors import ToolError
from ..cli import add_option
from ..declaration import Plan, Result, Tool
from ..validation import validated
from .option import in_its_case
from .options import BY_NAME, OPTIONS
from .ranges import check_ranges


def _elsewhere(**_: Any) -> Result:
    raise RuntimeError("a training is started as a process")


def _unplanned(**_: Any) -> Plan:
    raise RuntimeError("a training is planned by --dry_run, in its own process")


TRAIN = Tool("train", "Train", "train a network from a folder of images", _elsewhere, _unplanned, OPTIONS)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as everything here does, and leaves it to the caller to end."""

    def error(self, message: str) -> NoReturn:
        raise ToolError(f"{message}; see train --help")


def parser() -> argparse.ArgumentParser:
    """Return a parser of all options, those of sd-scripts that are refused too."""
    made = _Parser(prog="train", description="Train a network from a folder of images.", allow_abbrev=False)
    groups: dict[str, Any] = {}
    for option in OPTIONS:
        if option.section not in groups:
            groups[option.section] = made.add_argument_group(option.section or "others")
        add_option(groups[option.section], option)
    for action in made._actions:
        known = BY_NAME.get(action.dest)
        if known is not None and known.choices and known.type is str:
            action.type = partial(in_its_case, known)
    return made


def given(argv: Sequence[str]) -> dict[str, Any]:
    """Return the options of a command line by their names; those that were not given are not there."""
    found = vars(parser().parse_args(list(argv)))
    return {name: value for name, value in found.items() if str(value) != argparse.SUPPRESS}


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option with its type and default. Raises ToolError for one that is unknown, wrong, or cannot be obeyed."""
    asked = {name: value for name, value in options.items() if name not in BY_NAME or not BY_NAME[name].asks_for_nothing(value)}
    found = validated(TRAIN, asked, note, "; see train --help")
    check_ranges(found)
    return found


def note(sentence: str) -> None:
    """Say a sentence beside what is asked for."""
    print(f"note: {sentence}", file=sys.stderr, flush=True)
