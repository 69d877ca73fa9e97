"""The measures that the explorer colours heads by: names, units and kinds of colour scale."""

from __future__ import annotations

from typing import Any

MEASURES: dict[str, dict[str, Any]] = {
    "image_weight": {
        "long_name": "attention on the picture",
        "unit": "share",
        "kind": "sequential",
        "description": "Share of the head's attention that falls on image tokens.",
    },
    "image_log_odds": {
        "long_name": "log-odds of image tokens",
        "unit": "nats",
        "kind": "diverging",
        "description": "Against an even look over all tokens, which is 0; image tokens are most of the prompt.",
    },
    "concentration": {
        "long_name": "concentration",
        "unit": "number",
        "kind": "sequential",
        "description": "How few patches hold the attention on the picture: 0 is an even look, 1 a single patch.",
    },
    "concentration_no_sink": {
        "long_name": "concentration without sinks",
        "unit": "number",
        "kind": "sequential",
        "description": "Concentration over the patches that are no sink tokens.",
    },
    "sink_share": {
        "long_name": "share on visual sinks",
        "unit": "share",
        "kind": "sequential",
        "description": "Share of the attention on the picture that falls on its sink tokens.",
    },
    "white_change": {
        "long_name": "change since a white picture",
        "unit": "change",
        "kind": "diverging",
        "description": "Attention on the picture, minus that on a white picture with the same prompt and answer.",
    },
}
"""Name → long_name, unit (share, change, nats, ratio, number), kind (sequential, diverging, ratio), description."""
