"""Start or resume training: `python -m visualheads.miniatures.smol.start STAGE BASE DATA FOLDER UNTIL ANNEAL`."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, EfficientNetModel

from visualheads.miniatures.smol.quick_evaluation import exact_answers
from visualheads.miniatures.smol.scenes import use_sheet
from visualheads.miniatures.smol.sprites import read_sheet
from visualheads.miniatures.smol.training import STAGES, Learner, Mix, train, training_rows
from visualheads.models.smol.architecture import SIDE
from visualheads.models.smol.lora import add_lora
from visualheads.models.smol.projector import Projector
from visualheads.models.smol.tower import FEATURES, lite2_config

MOMENTS = (25, 100, 200, 400, 800, 1500, 2500, 4000)


def build_learner(base: Path, data: Path) -> Learner:
    """Join the converted base weights and a fresh adapter."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base / "language")
    language_model = AutoModelForCausalLM.from_pretrained(base / "language", dtype=torch.bfloat16).eval()
    tower = EfficientNetModel(lite2_config(SIDE)).eval()
    tower.load_state_dict(load_file(base / "tower.safetensors"))
    for part in (language_model, tower):
        part.requires_grad_(False)
    sheet = read_sheet(data)
    use_sheet(sheet)
    adapter = Projector(FEATURES, language_model.config.hidden_size)
    learner = Learner(tokenizer, language_model, tower, adapter, sheet)
    _, pictures = training_rows(learner, random.Random("statistics"), Mix(16))
    adapter.standardise(learner.features(pictures), language_model.get_input_embeddings().weight.float().std().item())
    return learner


def main(arguments: list[str]) -> None:
    name, base, data, folder = arguments[0], *map(Path, arguments[1:4])
    until, anneal = map(int, arguments[4:6])
    torch.set_num_threads(2)
    stage = STAGES[name]
    learner = build_learner(base, data)
    if stage.lora:
        learner.load({name: value.float() for name, value in load_file(folder / "smol-frozen.safetensors").items()})
        add_lora(learner.language_model)
    train(
        learner,
        stage,
        folder,
        until=until,
        anneal=anneal,
        moments=MOMENTS,
        evaluate=exact_answers,
        report=lambda line: print(line, flush=True),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
