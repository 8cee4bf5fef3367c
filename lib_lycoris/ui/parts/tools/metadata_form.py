"""The form of `metadata`, on the page that shows what a network file says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...context import PageContext
from ...events import Update
from .tool_form import ToolForm


class MetadataForm(ToolForm):
    """Metadata: texts to fill in, for a copy of one network or for the files themselves."""

    TEXTS = ("title", "triggers", "author", "license", "description", "usage_hint", "tags")
    MORE = ("in_place", "repair", "strip", "set", "remove", "undo")

    def __init__(self, context: PageContext) -> None:
        super().__init__(context, "metadata", self.TEXTS, self.MORE, "described")

    def make(self, *values: Any) -> tuple[str, dict[str, Any]]:
        """Return the tool and its options: without a name for the result where the files themselves are changed."""
        tool, options = super().make(*values)
        if options.get("in_place") or options.get("undo"):
            options.pop("save_to")
        return tool, options

    def target(self, name: str | None, first: Any) -> Path:
        """Return the path of the copy of the first network. Raises ToolError for a name that is bad or taken."""
        return super().target(name, first[0])

    def choose(self, network: str | None) -> Update:
        """Return the update that chooses one network alone."""
        return self.pickers["models"].shown([network] if network else [])
