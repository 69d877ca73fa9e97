"""The model card of a miniature, written from its configuration, training record and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visualheads.miniatures.architectures import Miniature
from visualheads.miniatures.training import TUNING_SHARES

POOLED = """\
The 95 % intervals of one condition and format are Wilson's: there is one prompt a scene. So are those of all together,
which take prompts as independent although several ask about one picture: they are too narrow, about one and a half
times. Where POPE and MMBench ask several prompts about one picture, intervals are a bootstrap over pictures."""
"""Said of the intervals. Source of the factor: `evaluation.score`."""

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


def benchmark_table(benchmarks: dict[str, Any]) -> str:
    """All five benchmarks with their own figures, as a Markdown table."""
    lines = [
        "| benchmark | accuracy % (95 % interval) | white picture % | question only % | chance % | above chance "
        "| own figures % | prompts |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, entry in benchmarks.items():
        cells = [percent(entry["seen"]), percent(entry["blind"]), f"{100 * entry['question_only']['accuracy']:.1f}"]
        cells += [f"{100 * entry['chance']:.1f}", "yes" if entry["above_chance"] else "**no**"]
        own = {key: value for key, value in entry.get("figures", {}).items() if key != "accuracy"}
        cells.append(", ".join(f"{key} {100 * value:.1f}" for key, value in own.items()) or "–")
        lines.append(f"| {name} | {' | '.join(cells)} | {entry['seen']['n']} |")
    return "\n".join(lines)


def kind_table(benchmarks: dict[str, Any]) -> str:
    """Scores by kind of question, of the benchmarks that ask several, as a Markdown table."""
    lines = [
        "| benchmark | kind | accuracy % (95 % interval) | question only % | chance % | above both | prompts |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in by_kind(benchmarks).items():
        for kind, entry in found.items():
            cells = [percent(entry["seen"]), f"{100 * entry['question_only']['accuracy']:.1f}"]
            cells += [f"{100 * entry['chance']:.1f}", "yes" if entry["above_chance"] else "**no**"]
            lines.append(f"| {name} | {kind} | {' | '.join(cells)} | {entry['seen']['n']} |")
    return "\n".join(lines)


def kind_section(record: dict[str, Any]) -> str:
    """Scores by kind of question, and which kinds were not learned; empty for a record without."""
    if not by_kind(record["benchmarks"]):
        return ""
    return (
        "\n### By kind of question\n\nAbove both: the 95 % interval lies above chance and above what the question "
        f"alone tells.\n\n{kind_table(record['benchmarks'])}\n\n{unlearned(record)}\n"
    )


def target_lines(targets: list[dict[str, Any]]) -> str:
    """What was asked for and not reached, one line each."""
    missed = [entry for entry in targets if not entry["reached"]]
    if not missed:
        return "All figures asked for are reached."
    lines = [
        f"* {e['what']}: {100 * e['found']:.1f} %, limit {100 * e['wanted']:.1f} %, {missed_by(e)}"
        + (f" ({e['why']})" if "why" in e else "")
        for e in missed
    ]
    return "Not reached:\n\n" + "\n".join(lines)


def preparation(config: Any) -> str:
    """How the recipe prepares a picture and what it trains, in words."""
    tokens = config.image_seq_length
    match config.model_type:
        case "llava_next":
            return (
                f"AnyRes: the whole picture ({tokens} image tokens) and its tiles with a newline token after each row, "
                "136 image tokens for a square picture, more for others; tower, adapter and language model are trained"
            )
        case "vipllava":
            return (
                f"{tokens} image tokens, layers {config.vision_feature_layer} of the tower concatenated; tower frozen"
            )
        case _:
            return f"{tokens} image tokens from the tower's last layer (LLaVA takes the last but one); tower frozen"


def stage_table(stages: dict[str, Any]) -> str:
    """Steps, pictures or lists seen, time and last measured figures of every training stage."""
    lines = ["| stage | steps | batch | minutes | last measured |", "| --- | --- | --- | --- | --- |"]
    for name, stage in stages.items():
        last = {key: value for key, value in stage["curve"][-1].items() if key not in ("step", "seconds")}
        answers = stage.get("answers", {})
        figures = ", ".join(
            f"{key} {value:.2f}" + (f" (of {answers[key]})" if key in answers else "") for key, value in last.items()
        )
        lines.append(f"| {name} | {stage['steps']} | {stage['batch']} | {stage['seconds'] / 60:.0f} | {figures} |")
    return "\n".join(lines)


def model_card(description: Miniature, config: Any, record: dict[str, Any]) -> str:
    """The card's Markdown text."""
    text, vision = config.text_config, config.vision_config
    pooled = record["pooled"]
    return f"""\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# {description.name}

A model organism of `{description.stands_for}`: the same transformers class and training recipe, in small. It shows
the method and lets claims be tested in small; it is no evidence about models of billions of parameters.

* Class `{record["class"]}`, text model `{text.model_type}`:
  {text.num_hidden_layers} layers × {text.num_attention_heads} heads ({text.num_key_value_heads} key-value heads),
  hidden size {text.hidden_size}, {record["parameters"] / 1e6:.2f} million parameters.
* Vision tower `{vision.model_type}`: {vision.num_hidden_layers} layers, {vision.image_size} px, patch
  {vision.patch_size} px. {preparation(config)}.
* Grown from the text-only model `{description.text}`, whose checkpoint stands beside this one.

## Scores

Held-out scenes `data/scenes/looktwice`, greedy decoding, exact match, checkpoint as shipped (half-precision weights).

{score_table(record["scores"])}

All conditions and formats together: {percent(pooled["seen"])} %; with a white picture {percent(pooled["blind"])} %;
the best answerer that sees only the question (it knows this set's answer frequencies):
{percent(pooled["question_only"])} %.
{POOLED}{blind_answers(record)}

`plain-general` has no referent in the picture: it is reported, no target is set.

### All five benchmarks

`data/scenes/<benchmark>`, in each benchmark's own format; LookTwice without `plain-general`. Above chance: the 95 %
interval lies above random answers and above what the question alone tells.

{benchmark_table(record["benchmarks"])}

{target_lines(record["targets"])}
{kind_section(record)}
## Training

`visualheads train {description.name}` (seed {description.seed}); scenes, lists and questions are drawn anew at
every step, no training scene is seen twice, none is a test scene. Visual tuning trains:
{", ".join(record.get("trainable", [])) or "not recorded"}. Of what was last measured, the number of answers stands
in brackets. Minutes depend on what else the machine did.

{stage_table(record["stages"])}

## Licence

Weights: Apache-2.0. {SOURCES}"""


def missed_by(entry: Mapping[str, Any]) -> str:
    """Say by how much a figure misses its limit: `1.2 points above its limit`."""
    far = 100 * (entry["found"] - entry["wanted"])
    return f"{abs(far):.1f} points {'above' if far > 0 else 'below'} its limit"


def by_kind(benchmarks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return benchmark → kind → scores of those that ask several kinds, from a training record's `benchmarks`."""
    found = {name: entry.get("kinds", {}) for name, entry in benchmarks.items()}
    return {name: kinds for name, kinds in found.items() if len(kinds) > 1}


def above(record: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Count, by kind, the benchmarks whose score is above chance and what questions alone tell, and all that ask it."""
    found: dict[str, tuple[int, int]] = {}
    for kinds in by_kind(record.get("benchmarks", {})).values():
        for kind, entry in kinds.items():
            over, of = found.get(kind, (0, 0))
            found[kind] = (over + bool(entry["above_chance"]), of + 1)
    return found


def unlearned(record: Mapping[str, Any]) -> str:
    """Say which kinds were not learned everywhere, how often training asked them, and what it asked as rarely."""
    counts = above(record)
    missed = [kind for kind, (over, of) in counts.items() if over < of]
    if not counts:
        return ""
    if not missed:
        return "Every kind is above chance and above what questions alone tell in every score."
    listed = [f"*{kind}* (above in {counts[kind][0]} of {counts[kind][1]} scores)" for kind in missed]
    text = (
        f"Not learned, or not everywhere: {', '.join(listed)}. There the 95 % interval does not lie above both chance "
        "and what the question alone tells."
    )
    asked = record.get("asked")
    if not asked:
        return text
    text += (
        f" Shares of the questions of visual tuning: {_shares(asked['tuning'], missed)}; of the text-only "
        f"stage: {_shares(asked['text'], missed)}. Besides, {100 * TUNING_SHARES['colours']:.0f} % of tuning's "
        f"batches before its restart list objects with colours, {100 * TUNING_SHARES['places']:.0f} % their places."
    )
    learned = [kind for kind in counts if kind not in missed]
    if learned:
        rarest = min(learned, key=lambda kind: asked["tuning"].get(kind, 0.0))
        text += f" The rarest kind that is above in every score: {_shares(asked['tuning'], [rarest])} of tuning's."
    return text + " Shares do not tell the reason alone, which was not tested."


def blind_answers(record: Mapping[str, Any]) -> str:
    """Say what is answered most often to free questions about white pictures, by condition; "" where unknown."""
    parts = []
    for name, entry in record.get("scores", {}).items():
        if name.endswith("/free") and "blind_answer" in entry:
            answer = entry["blind_answer"]
            parts.append(
                f"*{name.removesuffix('/free')}* “{answer['text']}” ({100 * answer['share']:.1f} % of the answers; "
                f"right for {100 * answer['right']:.1f} % of the questions)"
            )
    return f"\n\nWith white pictures the most frequent free answer is: {', '.join(parts)}." if parts else ""


def _shares(asked: Mapping[str, float], kinds: Sequence[str]) -> str:
    """`*colour* 2.2 %, *relation* 0.2 %`."""
    return ", ".join(f"*{kind}* {100 * asked.get(kind, 0.0):.1f} %" for kind in kinds)
