"""Original-format LLaVA checkpoints → folders in transformers' format.

`sources` reads the original folder, its tokenizer too; `configs` makes configuration, processor and chat template;
`weights` maps the weights' names and checks that everything is there; `write` writes and reads back.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from visualheads.cards import cards
from visualheads.errors import CheckpointError, ParameterError, UnknownModelError, checked, checked_name, got
from visualheads.models.checkpoints import RECORD
from visualheads.models.conversion.configs import (
    PROMPTS,
    Recipe,
    generation_config,
    model_config,
    processor_of,
    prompt_name,
    recipe_of,
    tower_config,
)
from visualheads.models.conversion.sources import Original, read_original, words_of
from visualheads.models.conversion.weights import embedding_of, has_tower, plan
from visualheads.models.conversion.write import (
    check_room,
    check_target,
    check_written,
    hidden_folder,
    write_json,
    write_weights,
)
from visualheads.models.devices import DTYPES
from visualheads.models.progress import Wish, progress_bar, quiet

SHARD_BYTES = 10**9
"""Largest file that is written. Converting needs about three times that memory (measured), however large the model."""


@dataclass(frozen=True)
class Conversion:
    """What was made of what; kept as `conversion.json` in the target.

    Attributes
    ----------
    target : Path
        Folder (not kept in the file).
    source, card : str
        Name of the original folder; catalogue name, empty where none was given.
    class_name, text_type : str
        The transformers class, and the type of the language model.
    preparation : str
        How pictures are prepared: `pad` to a square, `crop`, `anyres` tiles.
    prompt : str
        Name of the prompt form.
    image_token_id, vocabulary, rows_added : int
        Id of `<image>`; rows of the embedding, and how many of them the original does not have.
    tower : str
        Where the vision tower's weights came from: `checkpoint`, or its folder's name.
    dtype, files, size : str, int, int
        Of all weights: type, number of files, bytes.
    """

    target: Path
    source: str
    card: str
    class_name: str
    text_type: str
    preparation: str
    prompt: str
    image_token_id: int
    vocabulary: int
    rows_added: int
    tower: str
    dtype: str
    files: int
    size: int


@checked
def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    tower: str | os.PathLike[str] | None = None,
    card: str | None = None,
    prompt: str | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Wish = "auto",
) -> Conversion:
    """Convert an original LLaVA or ViP-LLaVA folder into one that `vh.load` and transformers read.

    Weights are streamed: one source file and one target file are in memory at a time. Whatever is raised, and when
    interrupted, nothing is left at `target`.

    Parameters
    ----------
    source : path
        Folder with config.json, weights (.safetensors, or .bin read with weights_only=True) and tokenizer.
    target : path
        Folder to make; it appears when everything in it has been read back and checked, never before.
    tower : path, optional
        Folder of the CLIP vision tower; default: the weights in the checkpoint, else the local folder that the
        config's `mm_vision_tower` names.
    card : str, optional
        Catalogue name of the model, so that pages know its family, language model and recipe.
    prompt : str, optional
        vicuna_v1, llava_v1, mistral_instruct, llava_phi_3, llava_llama_3 or plain; default: the form that the
        checkpoint was tuned with.
    dtype : str, optional
        Of the weights; default: the language model's.
    overwrite : bool
        Replace a checkpoint folder at `target`.
    shard_bytes : int
        Largest weight file to write, in bytes.
    progress : bool or "auto"
        Whether to show a bar.

    Returns
    -------
    Conversion
        What was made.

    Raises
    ------
    CheckpointError, UnsupportedModelError, ParameterError, UnknownModelError, DiskFullError
    """
    source_folder, target_folder = Path(source).expanduser(), Path(os.path.abspath(Path(target).expanduser()))
    check_target(target_folder, overwrite)
    if target_folder.is_relative_to(source_folder.resolve()) or source_folder.resolve().is_relative_to(target_folder):
        raise ParameterError(f"source {source_folder} and target {target_folder} overlap; name another target.")
    if dtype is not None:
        checked_name("dtype", dtype, DTYPES)
    original = read_original(source_folder)
    recipe = recipe_of(original)
    tower_folder = find_tower(original, None if tower is None else Path(tower).expanduser())
    vision = tower_config(str(original.config["mm_vision_tower"]), tower_folder)
    embedding = embedding_of(original)
    with quiet():
        words = words_of(source_folder, embedding.shape[0])
        kind = dtype or str(embedding.dtype).removeprefix("torch.")
        config = model_config(original, recipe, vision, words, kind)
        planned = plan(original, tower_folder, recipe.class_name, config, getattr(torch, kind), shard_bytes)
        form = prompt_name(prompt, original.text_type, recipe.vip, set(words.tokenizer.get_vocab()))
        processor = processor_of(recipe, config, words, tower_folder, PROMPTS[form].template())
    record = Conversion(
        target=target_folder,
        source=source_folder.resolve().name,
        card=_checked_card(card, recipe, config),
        class_name=recipe.class_name,
        text_type=original.text_type,
        preparation=recipe.preparation,
        prompt=form,
        image_token_id=words.image_id,
        vocabulary=words.rows,
        rows_added=words.added,
        tower="checkpoint" if has_tower(original) or tower_folder is None else tower_folder.resolve().name,
        dtype=kind,
        files=planned.shards,
        size=planned.size,
    )
    with hidden_folder(target_folder, overwrite) as place:
        check_room(place, planned.size)
        with progress_bar("converting weights", len(planned.entries), progress) as advance:
            sums = write_weights(planned, place, advance)
        with quiet():
            config.save_pretrained(place)
            generation_config(words, PROMPTS[form].stop).save_pretrained(place)
            processor.save_pretrained(place)
        write_json(place / RECORD, {name: value for name, value in asdict(record).items() if name != "target"})
        with progress_bar("reading back", len(planned.entries), progress) as advance, quiet():
            check_written(place, planned, sums, words, recipe.class_name, advance)
    return record


def find_tower(original: Original, given: Path | None) -> Path | None:
    """The tower's folder: the given one, else a local folder named by the config; None where the checkpoint has it all.

    Raises CheckpointError where there is none and the checkpoint does not hold the tower's weights.
    """
    named = str(original.config["mm_vision_tower"])
    if given is not None:
        if not (given / "config.json").is_file():
            raise CheckpointError(
                got("vision tower", str(given), "a local folder of a CLIP model, with config.json and weights")
            )
        return given
    for place in (Path(named), original.folder / named):
        if (place / "config.json").is_file():
            return place
    if not has_tower(original):
        meant = "openai/clip-vit-large-patch14-336" if named == "clip_4layers_336" else named
        raise CheckpointError(
            f"{original.folder} does not hold its vision tower's weights, and {named!r} (mm_vision_tower) is no local "
            f"folder; fetch {meant} and give its folder with --tower (tower=)."
        )
    return None


def _checked_card(name: str | None, recipe: Recipe, config: Any) -> str:
    """The card's name. Raises UnknownModelError, or ParameterError where the card is of another class or shape."""
    if name is None:
        return ""
    card, text = cards()[checked_name("card", name, cards(), UnknownModelError)], config.text_config
    shape = (text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads)
    if (card.class_name, card.shape) != (recipe.class_name, shape):
        raise ParameterError(
            f"card {name!r} is a {card.class_name} of {card.shape} layers, heads and key-value heads; this checkpoint "
            f"is a {recipe.class_name} of {shape}; name the card it belongs to, or none."
        )
    return name


__all__ = ["Conversion", "convert"]
