"""Charts: each function takes a dataset and returns an Altair chart that carries its own alternative text.

They aggregate before they draw, are at most 640 pixels wide, and are displayed with `show`. The sentences that explain
them, with numbers from the same data, are in `visualheads.prose`.
"""

from __future__ import annotations

from visualheads.charts.causes import effect_map, loss_curves, scores_and_effects
from visualheads.charts.claims import verdicts
from visualheads.charts.compare import (
    intervals,
    pattern_matrices,
    placeholder,
    predictions,
    relation_points,
    statistic_scores,
)
from visualheads.charts.conditions import condition_agreement, condition_maps, condition_scores
from visualheads.charts.cost import cost_bars
from visualheads.charts.depth import query_agreement, stage_profile
from visualheads.charts.display import save_spec, show, show_text, spec_of
from visualheads.charts.emergence import moments_compared, text_and_pictures, text_relations
from visualheads.charts.figure_one import figure_one
from visualheads.charts.heads import head_map, top_heads, weight_concentration
from visualheads.charts.overlays import overlays
from visualheads.charts.samples import sample_overlays, strongest_heads
from visualheads.charts.training import moment_lines, training_curves

__all__ = [
    "condition_agreement",
    "condition_maps",
    "condition_scores",
    "cost_bars",
    "effect_map",
    "figure_one",
    "head_map",
    "intervals",
    "loss_curves",
    "moment_lines",
    "moments_compared",
    "overlays",
    "pattern_matrices",
    "placeholder",
    "predictions",
    "query_agreement",
    "relation_points",
    "sample_overlays",
    "save_spec",
    "scores_and_effects",
    "show",
    "show_text",
    "spec_of",
    "stage_profile",
    "statistic_scores",
    "strongest_heads",
    "text_and_pictures",
    "text_relations",
    "top_heads",
    "training_curves",
    "verdicts",
    "weight_concentration",
]
