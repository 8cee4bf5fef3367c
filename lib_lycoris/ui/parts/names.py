"""Names of results that people need not think of."""

from __future__ import annotations

from pathlib import Path

from ...prompt import escape_name
from ...tools.jobs.places import SUFFIX
from ..context import PageContext

TRIED = 1000
NO_NAME = "empty: made of the file's name"


def free_name(context: PageContext, given: str | None, suggested: str, checkpoint: bool = False) -> Path:
    """Return the path of a new network, or checkpoint: of the name that was given, else of the suggested one, numbered where it is taken.

    Raises ToolError for a given name that is bad or taken.
    """
    make = context.new_checkpoint if checkpoint else context.new_network
    if given and given.strip():
        return make(given)
    folder = context.store.checkpoint_folder() if checkpoint else context.store.network_folder()
    names = (suggested, *(f"{suggested}-{number}" for number in range(2, TRIED)))
    return make(next((name for name in names if not (folder / f"{name}{SUFFIX}").exists()), suggested))


def tag_of(context: PageContext, path: Path) -> str:
    """Return the tag that applies a network that was just written, after a new look at the folders."""
    context.store.refresh()
    name = next((file.name for file in context.store.networks() if file.path == path), path.stem)
    return f"<lyco:{escape_name(name)}:1>"
