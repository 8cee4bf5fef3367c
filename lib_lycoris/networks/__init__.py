"""File <-> Network."""

from __future__ import annotations

from .loading import load
from .network import Network, Skipped

__all__ = ["Network", "Skipped", "load"]
