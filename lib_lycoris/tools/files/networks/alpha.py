"""Another alpha in a network file: the scale α/r changes, one factor takes what it loses, and the change stays what it was.

Exact where the factor is a power of two, else to the rounding of the dtype.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from ....algorithms import parse
from ....errors import ToolError
from ....wording import counted

STYLES = ("kohya", "lycoris")  # that write alpha beside the factors


def check_alpha(alpha: float | None, style: str) -> float | None:
    """Return an alpha that files of a style can have. Raises ToolError."""
    if alpha is None:
        return None
    if not alpha > 0:
        raise ToolError(f"alpha is above 0, but got {alpha:g}: a network with alpha 0 changes nothing")
    if style not in STYLES:
        raise ToolError(f"a file in the {style} style has no alpha; leave `alpha` out, or use `style=kohya`")
    return alpha


def with_alpha(tensors: Mapping[str, Tensor], alpha: float | None) -> dict[str, Tensor]:
    """Return a module's tensors, suffix -> tensor, with another alpha; as they are where none scales them."""
    found = None if alpha is None else parse(tensors)[0].get("weight")
    made = None if found is None or alpha is None else found.with_alpha(alpha)
    return dict(tensors) if made is None else {**tensors, **made.to_state_dict()}


def alpha_notes(keys: Iterable[str], alpha: float | None) -> list[str]:
    """Return a sentence on the modules of a file that have no alpha although one is asked for.

    Raises:
        ToolError: no module has one.
    """
    if alpha is None:
        return []
    modules: dict[str, bool] = {}
    for key in keys:
        module, _, suffix = key.partition(".") if not key.startswith("bundle_emb.") else ("", "", "alpha")
        modules[module] = modules.get(module, False) or suffix == "alpha"
    lacking = sum(not has for has in modules.values())
    if lacking == len(modules):
        raise ToolError("no module of the new file has ranks, so none has an alpha; leave `alpha` out")
    return [f"no ranks, and so no alpha: {counted(lacking, 'layer')}"] if lacking else []
