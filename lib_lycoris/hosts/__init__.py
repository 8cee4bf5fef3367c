"""The programs that the package runs in; the only part that knows them."""

from __future__ import annotations

from .protocol import Host


def detect() -> Host | None:
    """Return the program around us as a host; None where it is no program that we know."""
    from .webui.host import WebuiHost, host

    return host() if WebuiHost.detect() else None
