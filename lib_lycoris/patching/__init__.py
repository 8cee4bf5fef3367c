"""Activations on live modules: the only part of the library that keeps a state."""

from __future__ import annotations

from .activation import Activation, SamplingPosition, Strength
from .patcher import Patcher
from .report import NetworkReport, Report
from .room import MERGED_BYTES
from .workspace import Mode

__all__ = ["MERGED_BYTES", "Activation", "Mode", "NetworkReport", "Patcher", "Report", "SamplingPosition", "Strength"]
