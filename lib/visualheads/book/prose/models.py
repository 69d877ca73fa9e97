"""What a model is, and one sample on its way through it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from visualheads.analysis.benchmarks import of_task, tasks_of
from visualheads.analysis.lineage import training_record
from visualheads.book.prose.across import sampled
from visualheads.book.prose.words import counted, escaped, listed, percent, table
from visualheads.charts.labels import ANSWER_FORMATS, benchmark
from visualheads.miniatures.card import blind_answers

if TYPE_CHECKING:
    from visualheads.models.loading import VisionLanguageModel
    from visualheads.tasks.sample import Sample

MILLION, BILLION = 1e6, 1e9
MAIN, WITHOUT_REFERENT = "looktwice", "plain-general"
"""The benchmark, and its condition in which neither a box nor a name tells what is asked about."""
ORGANISM = (
    "This is a **model organism**: a small network of the same class as {stands_for}, trained by the same recipe on "
    "a world of "
    "pictograms. It shows the method and lets claims be tested in small: what this page finds holds **in miniature** "
    "and is no evidence about models of billions of parameters."
)


def about(model: VisionLanguageModel) -> str:
    """What the model is: class, shape, size, image tokens, recipe."""
    card, text = model.card, model.config.get_text_config()
    size = model.parameters * BILLION
    shape = model.shape
    groups = "" if shape.kv_heads == shape.heads else f", which share {shape.kv_heads} key-value heads"
    lines = [
        ("class", f"`{type(model.module).__name__}`, language model `{text.model_type}`"),
        ("decoder", f"{shape.layers} layers × {shape.heads} query heads{groups}; hidden size {text.hidden_size}"),
        ("parameters", f"{size / MILLION:.2f} million" if size < BILLION else f"{size / BILLION:.1f} billion"),
        ("vision tower", _tower(model.config.vision_config)),
        ("precision", f"`{str(model.dtype).removeprefix('torch.')}`; attention and statistics in float32"),
    ]
    if card:
        text_model = str(training_record(card.name).get("text_model", ""))
        grown = f"{text_model}, which stands for {card.llm}" if text_model else card.llm
        told = (("recipe", card.recipe), ("grown from", grown), ("image tokens", card.image_tokens))
        lines += [(name, escaped(value)) for name, value in told if value]
    checkpoint = escaped(str(model.identity.get("checkpoint", "")))
    lines.append(("checkpoint", f"{checkpoint}, weights {model.identity.get('weights', '')[:12] or 'unknown'}"))
    intro = ""
    if card and card.miniature:
        paper_name = card.paper_name or card.name.removeprefix("mini-")
        intro = ORGANISM.format(stands_for=f"the paper's {escaped(paper_name)}") + "\n\n"
    return intro + table(("what", "this model"), lines)


def _tower(vision: Any) -> str:
    """Families name the depth differently, and some take pictures of any size."""
    layers = getattr(vision, "num_hidden_layers", None) or getattr(vision, "depth", None)
    size = getattr(vision, "image_size", None)
    told = [f"`{vision.model_type}`", f"{layers} layers" if layers else "", f"pictures of {size} px" if size else ""]
    return ", ".join(part for part in told if part)


def scores_on_card(record: Mapping[str, Any] | None) -> str:
    """The scores of a miniature over all held-out questions, from its training record; nothing without one."""
    if not record or "scores" not in record:
        return "There is no training record beside this checkpoint: accuracies below are from this page's own run."
    lines = []
    for name, told in record["scores"].items():
        condition, form = name.split("/")
        seen, blind, blindfold = (told[kind] for kind in ("seen", "blind", "question_only"))
        interval = f"{percent(seen['accuracy'])} ({100 * seen['low']:.0f} to {100 * seen['high']:.0f})"
        lines.append((condition, form, interval, percent(blind["accuracy"]), percent(blindfold["accuracy"]), seen["n"]))
    header = (
        "condition",
        "answers",
        "right (95 % interval)",
        "white picture",
        "best question-only answerer",
        "questions",
    )
    scores = (
        "Accuracy over all held-out questions, told by the model card. The *white picture* column asks the same "
        "questions of a blank picture; the *question-only answerer* sees no picture at all and knows the answer "
        f"frequencies. A model that sees must beat both.\n\n{table(header, lines)}"
    )
    return scores + blind_answers({"": record}, escaped)


def asked(ds: xr.Dataset, scores: pd.DataFrame) -> str:
    """What the scores of a page are over: prompts, pictures, conditions and formats; and where those over all are.

    scores: `comparison.scores(ds)`.
    """
    if scores.empty:
        return ""
    parts, unanswerable = [], False
    for task in [task for task in tasks_of(ds) if task in set(scores["group"])]:
        part = of_task(ds, task)
        pictures, conditions, forms = (
            list(dict.fromkeys(map(str, part[name].values))) for name in ("image_id", "condition", "format")
        )
        told = f"{listed([escaped(name) for name in conditions])}, {listed([ANSWER_FORMATS[form] for form in forms])}"
        parts.append(f"{escaped(benchmark(task))}: {counted(len(pictures), 'picture')}, {told}")
        unanswerable |= task == MAIN and WITHOUT_REFERENT in conditions
    text = f"{sampled(scores)} Pictures, conditions and form of the answers: {'; '.join(parts)}."
    if unanswerable:
        text += (
            f" LookTwice-QA's score counts {escaped(WITHOUT_REFERENT)} like its other conditions, though nothing tells "
            "there which objects are meant, so that the answer has to be guessed among the numbers there are."
        )
    return text


def one_sample(sample: Sample, ds: xr.Dataset) -> str:
    """Question, answer and what the model said, of a sample of a traced dataset."""
    told = ds.isel(model=0).sel(sample=sample.id)
    margin = float(told["margin"])
    prediction, answer = str(told["prediction"].item()).strip(), sample.answer
    other = "letter" if sample.choices else "answer of these samples"
    verdict = {1.0: "right", 0.0: "wrong"}.get(float(told["correct"]), "not scored")
    lines = [
        ("question", escaped(sample.question)),
        ("right answer", escaped(answer) if answer else "unknown"),
        ("the model says", f"{escaped(prediction)} ({verdict})"),
        (f"margin over the best other {other}", f"{margin:.2f} logits" if margin == margin else "not measured"),
        ("image tokens", int(told["n_image_tokens"])),
    ]
    return table(("what", "value"), lines)


def prompt_pieces(model: VisionLanguageModel, sample: Sample) -> str:
    """The prompt as the model gets it: text, and the place and number of the image tokens."""
    encoding = model.encode([sample])
    ids = encoding["input_ids"][0].tolist()
    places = model.image_positions(encoding)[0].tolist()
    before, after = ids[: places[0]], ids[places[-1] + 1 :]
    tokens = [[escaped(token) for token in model.tokenizer.convert_ids_to_tokens(part)] for part in (before, after)]
    shown = [" ".join(f"<code>{token}</code>" for token in part) for part in tokens]
    return (
        f"{shown[0]} **[{counted(len(places), 'image token')}]** {shown[1]}\n\n"
        f"Of the {len(ids)} tokens of this prompt {len(places)} ({percent(len(places) / len(ids))}) are image "
        "tokens. A head that "
        f"spread its attention evenly would therefore put {percent(len(places) / len(ids))} of it on the picture: a "
        "raw image weight "
        "means little without that comparison, which is what *image log-odds* makes."
    )


def origin(ds: xr.Dataset) -> str:
    """What the numbers of a page were made from, and on what."""
    told = json.loads(str(np.atleast_1d(ds["provenance"].values)[0]))
    lines = []
    for part in ("identity", "circumstance"):
        pieces = [f"{name} `{value}`" for name, value in told.get(part, {}).items() if value not in ("", None)]
        lines.append((part, listed(pieces)))
    return table(("what", "value"), lines)
