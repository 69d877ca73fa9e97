"""Start a stage of training, or go on where it stopped: build the model, take the stage before, train."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from visualheads.cards import data_folder
from visualheads.errors import CheckpointError
from visualheads.miniatures.smol.evaluation import exact_answers
from visualheads.miniatures.smol.learner import Learner
from visualheads.miniatures.smol.localising import localise
from visualheads.miniatures.smol.scenes import use_sheet
from visualheads.miniatures.smol.sprites import read_sheet
from visualheads.miniatures.smol.training import STAGES, Mix, train, training_rows
from visualheads.models.smol import add_lora
from visualheads.models.smol.architecture import FEATURES, SIDE, Projector, lite2_config
from visualheads.models.smol.base_weights import LANGUAGE, TOWER, check_prepared

MOMENTS = (25, 100, 200, 400, 800, 1500, 2500, 4000)
"""Steps whose weights are kept, for traces of the heads in the course of training."""
FIRST_STAGE = "smol-frozen"
STATISTICS = 16
"""Pictures from which features are standardised."""


def build_learner(base: Path, data: Path) -> Learner:
    """Join the converted base weights and a fresh projector; language model in bfloat16, tower in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, EfficientNetModel

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base / LANGUAGE)
    language_model: Any = AutoModelForCausalLM.from_pretrained(
        base / LANGUAGE, dtype=torch.bfloat16, attn_implementation="eager"
    ).eval()
    tower: Any = EfficientNetModel(lite2_config(SIDE))
    tower.load_state_dict(load_file(base / TOWER))
    tower.eval()
    for part in (language_model, tower):
        part.requires_grad_(False)
    sheet = read_sheet(data)
    use_sheet(sheet)
    learner = Learner(tokenizer, language_model, tower, Projector(FEATURES, language_model.config.hidden_size), sheet)
    _, pictures = training_rows(learner, random.Random("statistics"), Mix(STATISTICS))
    scale = language_model.get_input_embeddings().weight.float().std().item()
    learner.adapter.standardise(learner.features(pictures), scale)
    return learner


def start(
    name: str,
    until: int,
    anneal: int,
    *,
    folder: Path | None = None,
    base: Path | None = None,
    data: Path | None = None,
    report: Callable[[str], None],
) -> None:
    """Train one stage up to a step, going on from what the folder holds.

    Parameters
    ----------
    name : str
        One of `STAGES`.
    until : int
        Step at which training ends.
    anneal : int
        Number of last steps over which the learning rate goes down.
    folder : Path, optional
        Where weights and log are kept; data/smol by default.
    base : Path, optional
        Folder of the base weights.
    data : Path, optional
        Folder of the sprites; data/smol by default.
    report : callable
        Takes a line about progress.

    Raises
    ------
    CheckpointError
        If base weights, or the stage before, are missing.
    """
    data = data or data_folder() / "smol"
    folder = folder or data
    stage = STAGES[name]
    before = folder / f"{FIRST_STAGE}.safetensors"
    if stage.lora and not before.is_file():
        raise CheckpointError(f"{name} grows from {FIRST_STAGE}, and {before} is missing; train {FIRST_STAGE} first.")
    learner = build_learner(check_prepared(base), data)
    if stage.lora:
        learner.load({name: value.float() for name, value in load_file(before).items()})
        add_lora(learner.language_model)
    elif not (folder / f"{name}.safetensors").is_file():
        report(f"localised: {localise(learner, report)}")
    train(learner, stage, folder, until=until, anneal=anneal, moments=MOMENTS, evaluate=exact_answers, report=report)
