"""Changing heads while the model answers: what a head does, not only where it looks."""

from __future__ import annotations

from visualheads.interventions.editor import mean_reference
from visualheads.interventions.modes import MODES, POSITIONS, Intervention, Mode, Reference
from visualheads.interventions.sweeps import ablate, steer

__all__ = [
    "MODES",
    "POSITIONS",
    "Intervention",
    "Mode",
    "Reference",
    "ablate",
    "mean_reference",
    "steer",
]
