"""Changing heads while the model answers: what a head does, not only where it looks."""

from __future__ import annotations

from visualheads.interventions.ablation import ablate, steer
from visualheads.interventions.modes import MODES, POSITIONS, Intervention, Mode
from visualheads.interventions.reference import Reference, mean_reference

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
