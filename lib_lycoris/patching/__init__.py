"""Activations on live modules: the only part of the library that keeps a state."""

from __future__ import annotations

from .activation import Activation, Progress, Strength
from .patcher import Mode, Patcher
from .report import NetworkReport, Report

__all__ = ["Activation", "Mode", "NetworkReport", "Patcher", "Progress", "Report", "Strength"]
