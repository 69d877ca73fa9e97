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
    placeholder,
    predictions,
    relation_points,
    statistic_scores,
)
from visualheads.charts.cost import cost_bars, sweep_bars
from visualheads.charts.depth import against_untrained, query_agreement, stage_profile
from visualheads.charts.display import save_spec, show, spec_of
from visualheads.charts.effects import effect_map, loss_curves, overlap_lines, ranking_cells, scores_and_effects
from visualheads.charts.figure_one import figure_one
from visualheads.charts.heads import head_map, top_heads, weight_concentration
from visualheads.charts.maps import condition_maps, detection_map, moment_maps
from visualheads.charts.overlays import overlays, sample_overlays, strongest_heads
from visualheads.charts.sinks import marked_examples, outliers, removed_sinks, sink_frequency, sink_heads
from visualheads.charts.steering import boosted, examples, grounded, steered_answers
from visualheads.charts.training import (
    moment_lines,
    moments_compared,
    text_and_pictures,
    text_relations,
    training_curves,
)
from visualheads.charts.verdicts import robustness, verdicts

__all__ = [
    "against_untrained",
    "boosted",
    "condition_maps",
    "condition_matrices",
    "condition_shortfalls",
    "cost_bars",
    "detection_map",
    "effect_map",
    "examples",
    "figure_one",
    "grounded",
    "head_map",
    "intervals",
    "loss_curves",
    "marked_examples",
    "moment_lines",
    "moment_maps",
    "moments_compared",
    "outliers",
    "overlap_lines",
    "overlays",
    "pattern_matrices",
    "placeholder",
    "predictions",
    "query_agreement",
    "ranking_cells",
    "relation_points",
    "removed_sinks",
    "robustness",
    "sample_overlays",
    "save_spec",
    "scores_and_effects",
    "show",
    "sink_frequency",
    "sink_heads",
    "spec_of",
    "stage_profile",
    "statistic_scores",
    "steered_answers",
    "strongest_heads",
    "sweep_bars",
    "text_and_pictures",
    "text_relations",
    "top_heads",
    "training_curves",
    "verdicts",
    "weight_concentration",
]
