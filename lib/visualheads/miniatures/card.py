"""The model card of a miniature, written from its configuration, training record and scores."""

from __future__ import annotations

from typing import Any

from visualheads.miniatures.architectures import Miniature

SOURCES = """\
Pictograms: Font Awesome Free 6 by Fonticons, Inc., CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/).
"""


def percent(value: dict[str, Any]) -> str:
    """`87.5 (84.0–90.4)`: accuracy and its 95 % interval in percent."""
    return f"{100 * value['accuracy']:.1f} ({100 * value['low']:.1f}–{100 * value['high']:.1f})"


def score_table(scores: dict[str, Any]) -> str:
    """All conditions in both formats, as a Markdown table."""
    lines = [
        "| condition | format | accuracy % (95 % interval) | white picture % | question only % | items |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, entry in scores.items():
        condition, form = name.split("/")
        cells = [percent(entry[kind]) for kind in ("seen", "blind", "question_only")]
        lines.append(f"| {condition} | {form} | {' | '.join(cells)} | {entry['seen']['n']} |")
    return "\n".join(lines)


def stage_table(stages: dict[str, Any]) -> str:
    """Steps, pictures or lists seen, time and last measured figures of every training stage."""
    lines = ["| stage | steps | batch | minutes | last measured |", "| --- | --- | --- | --- | --- |"]
    for name, stage in stages.items():
        last = {key: value for key, value in stage["curve"][-1].items() if key not in ("step", "seconds")}
        told = ", ".join(f"{key} {value:.2f}" for key, value in last.items())
        lines.append(f"| {name} | {stage['steps']} | {stage['batch']} | {stage['seconds'] / 60:.0f} | {told} |")
    return "\n".join(lines)


def model_card(description: Miniature, config: Any, record: dict[str, Any]) -> str:
    """The card's Markdown text."""
    text, vision = config.text_config, config.vision_config
    pooled = record["pooled"]
    note = f"\n**{record['note']}**\n" if record.get("note") else ""
    return f"""\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# {description.name}

A model organism of `{description.stands_for}`: the same transformers class and training recipe, in small. It shows
the method and lets claims be tested in small; it is no evidence about models of billions of parameters.
{note}
* Class `{record["class"]}`, text model `{text.model_type}`:
  {text.num_hidden_layers} layers × {text.num_attention_heads} heads ({text.num_key_value_heads} key-value heads),
  hidden size {text.hidden_size}, {record["parameters"] / 1e6:.2f} million parameters.
* Vision tower `{vision.model_type}`: {vision.num_hidden_layers} layers, {vision.image_size} px, patch
  {vision.patch_size} px → {config.image_seq_length} image tokens from its last layer
  (LLaVA takes the last but one); frozen after its own training.
* Grown from the text-only model `{description.text}`, whose checkpoint stands beside this one.

## Scores

Held-out scenes `data/scenes/looktwice`, greedy decoding, exact match, checkpoint as shipped (half-precision weights).

{score_table(record["scores"])}

All conditions and formats together: {percent(pooled["seen"])} %; with a white picture {percent(pooled["blind"])} %;
the best answerer that sees only the question (it knows this set's answer frequencies):
{percent(pooled["question_only"])} %.
`plain-general` has no referent in the picture: it is reported, no target is set.

## Training

`visualheads train {description.name}` (seed {description.seed}); scenes, lists and questions are drawn anew at
every step, no training scene is seen twice, none is a test scene.

{stage_table(record["stages"])}

## Licence

Weights: Apache-2.0. {SOURCES}"""
