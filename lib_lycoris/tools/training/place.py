"""Where a training runs, and what that needs: this program's own environment, never a webui's."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from ...errors import ToolError
from ...plain_json import parse_json
from ..jobs.places import check_name
from .runs import MODULE, ROOT

NEEDED = ("lycoris", "accelerate", "diffusers", "transformers", "PIL")
STARTER, STATE = ROOT / "run.py", ROOT / ".venv" / "lycoris-state.json"
BESIDE_MB, WHOLE_GB = 25, "1 to 3"  # to download: beside what the app needs; with torch, more where there is a GPU


def can_train_here() -> bool:
    """Tell whether this process's environment has what a training needs."""
    return all(find_spec(name) is not None for name in NEEDED)


def command(here: bool) -> list[str]:
    """Return what starts a training; ``here``: in this process's environment if it has all. Raises ToolError where nothing can."""
    if here and can_train_here():
        return [sys.executable, "-m", MODULE]
    if STARTER.is_file():
        return [sys.executable, str(STARTER), "train"]
    raise ToolError("training needs packages that are not here; run `pip install 'sd-webui-lycoris[app,train]'`")


def to_install(here: bool) -> str:
    """Say what would be installed first, how much and where; empty where nothing is missing."""
    if here and can_train_here():
        return ""
    extras = _installed()
    if {"app", "train"} <= extras:
        return ""
    much = f"about {BESIDE_MB} MB" if "app" in extras else f"{WHOLE_GB} GB, torch among it"
    return f"Training needs packages of its own: {much} to download, into {STATE.parent}. The webui's own packages are not touched."


def _installed() -> set[str]:
    try:
        state = parse_json(STATE.read_text("utf-8"))
        return set(state["extras"]) if state["status"] == "usable" else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def check_run_name(name: str) -> None:
    """Raise ToolError for a name that would lead out of the folder of networks."""
    check_name(name)
    if "/" in name or "\\" in name or ":" in name:
        raise ToolError(f'"{name}" is no name of a network; use letters, digits, - and _')
