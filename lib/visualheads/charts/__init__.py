"""Charts: each function takes a dataset and returns an Altair chart that carries its own alternative text.

They aggregate before they draw, are at most 640 pixels wide, and are displayed with `show`.
"""

from __future__ import annotations

from visualheads.errors import require

require("altair", "vl_convert", "IPython", extra="book")

from visualheads.charts.comparison import (
    condition_matrices,
    condition_shortfalls,
    intervals,
    pattern_matrices,
    predictions,
    relation_points,
)
from visualheads.charts.depth import against_untrained, figure_one, query_agreement, stage_profile
from visualheads.charts.display import show, spec_of
from visualheads.charts.effects import effect_depth, effect_map, loss_curves
from visualheads.charts.heads import head_map, one_row, weight_concentration
from visualheads.charts.maps import condition_maps, detection_map, moment_maps
from visualheads.charts.overlays import examples, sample_overlays, steered_answers, strongest_heads
from visualheads.charts.sinks import marked_examples, outliers, sink_heads
from visualheads.charts.training import (
    cost_bars,
    moments_compared,
    sweep_bars,
    text_and_pictures,
    text_relations,
    training_curves,
)
from visualheads.charts.verdicts import robustness, verdicts

__all__ = [
    "against_untrained",
    "condition_maps",
    "condition_matrices",
    "condition_shortfalls",
    "cost_bars",
    "detection_map",
    "effect_depth",
    "effect_map",
    "examples",
    "figure_one",
    "head_map",
    "intervals",
    "loss_curves",
    "marked_examples",
    "moment_maps",
    "moments_compared",
    "one_row",
    "outliers",
    "pattern_matrices",
    "predictions",
    "query_agreement",
    "relation_points",
    "robustness",
    "sample_overlays",
    "show",
    "sink_heads",
    "spec_of",
    "stage_profile",
    "steered_answers",
    "strongest_heads",
    "sweep_bars",
    "text_and_pictures",
    "text_relations",
    "training_curves",
    "verdicts",
    "weight_concentration",
]
