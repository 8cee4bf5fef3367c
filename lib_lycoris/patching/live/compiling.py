"""torch.compile on a patched model: a changed layer is a call out of the compiled code, so that nothing about networks is compiled in.

A strength, a network or a way can change without a new compilation. What it costs is the fusion across the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def _called(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return run(*args, **kwargs)


outside_the_compiler: Callable[..., Any] = torch._disable_dynamo(_called)  # imports the compiler at its first call alone
is_compiling: Callable[[], bool] = torch.compiler.is_compiling if hasattr(torch.compiler, "is_compiling") else torch._utils.is_compiling
