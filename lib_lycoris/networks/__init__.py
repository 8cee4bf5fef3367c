"""File <-> Network."""
from __future__ import annotations

from .load import load
from .network import Network, Skipped

__all__ = ["Network", "Skipped", "load"]
