"""Sentences with numbers: each function takes a dataset and returns Markdown that explains a figure.

A page's text is computed from the same data as its figures, so it cannot tell another story than they do.
"""

from __future__ import annotations

from visualheads.book.prose.conditions import condition_agreement, condition_scores
from visualheads.book.prose.cost import cost, sweep_cost
from visualheads.book.prose.findings import findings, paper, save_facts
from visualheads.book.prose.heads import (
    head_map,
    mixture,
    nulls,
    query_agreement,
    stage_profile,
    top_heads,
    weight_concentration,
)
from visualheads.book.prose.models import about, one_sample, origin, prompt_pieces, scores_on_card
from visualheads.book.prose.training import training_record

__all__ = [
    "about",
    "condition_agreement",
    "condition_scores",
    "cost",
    "findings",
    "head_map",
    "mixture",
    "nulls",
    "one_sample",
    "origin",
    "paper",
    "prompt_pieces",
    "query_agreement",
    "save_facts",
    "scores_on_card",
    "stage_profile",
    "sweep_cost",
    "top_heads",
    "training_record",
    "weight_concentration",
]
