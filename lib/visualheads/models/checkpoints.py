"""From a name to checked files: which folder or hub id is meant, and is what lies there complete, sane and safe?"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from visualheads.cards import (
    DATA_VARIABLE,
    Card,
    card_at,
    cards,
    converted_folder,
    learned_file,
    miniature_folder,
    name_of,
)
from visualheads.errors import CheckpointError, ParameterError, UnknownModelError, UnsupportedModelError, got
from visualheads.models.adapters import adapter_of, supported
from visualheads.paths import read_table

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
RECORD = "conversion.json"
"""What a folder was converted from, and the catalogue name it was given then (see `visualheads.models.conversion`)."""


POSITIVE = frozenset(read_table(__file__, "whole_numbers.yml"))
"""Whole numbers of at least 1, or lists of them (sides of pictures and patches)."""
LARGEST = 2**31
"""Above it torch counts differently; the largest real number here, a vocabulary, has 18 bits."""
SMALL = {"layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_eps"}
"""Numbers above 0 that keep a division from failing."""
IMAGE_TOKENS = ("image_token_id", "image_token_index")
PARTS = ("text_config", "vision_config")


@dataclass(frozen=True)
class Source:
    """Where a model comes from: what results call it, a folder or hub id, and its catalogue card where it has one."""

    name: str
    location: str
    card: Card | None = None

    @property
    def folder(self) -> Path | None:
        """The local folder, None for a hub id."""
        path = Path(self.location)
        return path if path.is_dir() else None


def resolve(name: str | os.PathLike[str]) -> Source:
    """Find what `name` means: a catalogue name, else a local folder, else a hub id `owner/name`.

    Raises UnknownModelError with close matches, CheckpointError for a catalogued model whose weights are not there.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise UnknownModelError(got("model", name, "a catalogue entry, a folder, or a hub id such as owner/name"))
    text = os.fspath(name)
    known = cards()
    if text in known:
        return _catalogued(known[text])
    path = _there(text)
    if path is not None and path.is_dir():
        card = card_at(path)
        return _catalogued(card) if card else Source(name_of(text), str(path), _converted_card(path))
    if path is not None:
        raise CheckpointError(f"{text!r} is a file; give the folder that holds config.json and *.safetensors.")
    if HUB_ID.fullmatch(text):
        by_hub = {card.hub_id: card for card in known.values() if card.hub_id}
        return Source(text, text, by_hub.get(text))
    raise UnknownModelError(
        got("model", text, list(known), "name a catalogue entry, an existing folder, or a hub id such as owner/name")
    )


def _there(text: str) -> Path | None:
    """What is at a path; None where nothing is, or the text cannot be a path."""
    try:
        path = Path(text).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _catalogued(card: Card) -> Source:
    if card.miniature:
        folder = miniature_folder(card.name)
        if not folder.is_dir():
            raise CheckpointError(
                f"the miniature {card.name!r} is not in {folder.parent}; run `make miniatures`, or set "
                f"{DATA_VARIABLE} to the folder that holds miniatures/."
            )
        return Source(card.name, str(folder), card)
    if card.joined:
        return Source(card.name, str(learned_file(card.name)), card)
    if card.hub_id:
        return Source(card.name, card.hub_id, card)
    folder = converted_folder(card.name)
    if folder.is_dir():
        return Source(card.name, str(folder), card)
    raise CheckpointError(
        f"{card.name!r} has no checkpoint in transformers' format: fetch the original ({card.original_id}) and run "
        f"`visualheads convert SOURCE {folder} --card {card.name}`; the name then loads that folder."
    )


def _converted_card(folder: Path) -> Card | None:
    """The card of a folder that `visualheads convert` made with one."""
    return cards().get(str(read_json(folder / RECORD).get("card"))) if (folder / RECORD).is_file() else None


def check_revision(source: Source, revision: str | None) -> None:
    """Raise ParameterError for a revision of a folder: what lies there would be recorded as what it may not be."""
    if revision and source.folder is not None:
        raise ParameterError(
            got("revision", revision, f"none for {source.location}, a folder", "leave it out, or name a hub id")
        )


def check_folder(folder: Path) -> dict[str, Any]:
    """The config of a checkpoint folder whose class is supported and whose weights are complete safetensors.

    Raises CheckpointError (missing or broken config, pickled-only or truncated weights, missing shards) or
    UnsupportedModelError.
    """
    pipes = [path.name for path in folder.iterdir() if path.exists() and not (path.is_file() or path.is_dir())]
    if pipes:  # they would be waited for
        raise CheckpointError(f"{pipes[0]} in {folder} is no file but a pipe or a device; fetch or copy it again.")
    config = read_json(folder / "config.json")
    check_class(config, str(folder))
    weight_shapes(folder)
    return config


def check_class(config: dict[str, Any], where: str) -> None:
    """Raise UnsupportedModelError unless the config names a supported class and asks for no code of its own."""
    if config.get("auto_map") and not config.get("architectures"):
        raise UnsupportedModelError(f"{where} runs code of its own (auto_map), which stays off (trust_remote_code).")
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    names = config.get("architectures") or [f"model_type {kind!r}"]
    name = str(names[0]) if isinstance(names, list) else str(names)
    if name in supported():
        return
    # a subclass of a supported class: transformers builds the class that its model_type is registered for
    if "text_config" in config and isinstance(kind, str) and kind in CONFIG_MAPPING:
        adapter_of(module_class(CONFIG_MAPPING[kind]))
    else:
        adapter_of(name)


def module_class(config_class: type) -> type:
    """The class that transformers builds for a config class, or for the nearest of its base classes.

    Raises
    ------
    UnsupportedModelError
        Where there is none for pictures and text.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    for kind in config_class.__mro__:
        if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            found: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[kind]
            return found[0] if isinstance(found, tuple) else found
    raise UnsupportedModelError(
        f"{config_class.__name__} is of no model of pictures and text; supported classes: {', '.join(supported())}."
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a folder, sorted. Raises CheckpointError when there are none, or fewer than its index says."""
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return shards_of(index)
    if files:
        return files
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{folder} has pickled weights only ({', '.join(pickled[:3])}), which can run code when opened; "
            "if this is an original LLaVA folder, run `visualheads convert SOURCE TARGET` once, which reads them "
            "safely and writes safetensors."
        )
    raise CheckpointError(f"{folder} has no *.safetensors; fetch the weights or name another folder.")


def shards_of(index: Path) -> list[Path]:
    """The files that an index of weights lists, sorted. Raises CheckpointError for none, or a missing one."""
    named = read_json(index).get("weight_map")
    names = list(named.values()) if isinstance(named, dict) else []
    ending = f".{index.name.split('.')[1]}"  # of model.safetensors.index.json, pytorch_model.bin.index.json
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise CheckpointError(f"{index} has no weight_map of names and files in this folder; fetch it again.")
    shards = [index.with_name(name) for name in sorted(set(names))]
    missing = [shard.name for shard in shards if not shard.is_file() or shard.suffix != ending]
    if missing:
        raise CheckpointError(f"{index.parent} lacks {', '.join(missing)}, which its index lists; fetch them.")
    return shards


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight, from the headers of its files. Raises CheckpointError for damaged ones."""
    found: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as opened:
                found |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise damaged(file, error) from error
    return found


def damaged(file: Path, error: Exception) -> CheckpointError:
    """What is raised for a file of weights that cannot be read."""
    told = str(error).strip().splitlines() or [type(error).__name__]
    return CheckpointError(f"{file} is truncated or damaged ({told[0][:200]}); fetch or copy it again.")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint folder. Raises CheckpointError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} has no {path.name}; name the folder of a checkpoint, with all of its files."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); fetch it again.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not an object; fetch it again.")
    return data


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Check the fields of a config, as a plain dictionary, and of its text and vision parts.

    Parameters
    ----------
    config : mapping
        What config.json holds, or `config.to_dict()`.
    where : str
        Folder or hub id, for messages.

    Raises
    ------
    CheckpointError
        For the first field that cannot be, with its name, its value and what is allowed.
    """
    for name in PARTS:
        if config.get(name) is not None and not isinstance(config[name], Mapping):
            raise _fault(where, name, config[name], "an object with that part's settings")
    parts = {"": config} | {f"{name}.": config[name] for name in PARTS if config.get(name)}
    for prefix, part in parts.items():
        for name, fault in _faults(part):
            raise _fault(where, prefix + name, part[name], fault)
    for name, fault in (*_image_token_faults(config), *_feature_layer_faults(config)):
        raise _fault(where, name, config[name], fault)


def _faults(part: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in part.items():
        if name in POSITIVE and value is not None and not all(map(_is_size, _listed(value))):
            yield name, f"a whole number from 1 to {LARGEST}"
        if name in SMALL and not (isinstance(value, (int, float)) and 0 < value < 1):
            yield name, "a number above 0 and below 1"
    heads, groups, width = (part.get(name) for name in ("num_attention_heads", "num_key_value_heads", "hidden_size"))
    if heads and groups and heads % groups:
        yield "num_key_value_heads", f"a divisor of num_attention_heads, which is {heads}"
    if heads and width and not part.get("head_dim") and width % heads:
        yield "num_attention_heads", f"a divisor of hidden_size, which is {width}, where there is no head_dim"
    image, patch = _listed(part.get("image_size") or ()), _listed(part.get("patch_size") or ())
    if image and patch and max(patch) > min(image):
        yield "patch_size", f"at most the side of the picture, image_size, which is {min(image)}"


def _image_token_faults(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    rows = (config.get("text_config") or config).get("vocab_size")
    for name in IMAGE_TOKENS:
        value = config.get(name)
        if value is not None and not (_is_whole(value) and 0 <= value < (rows or LARGEST)):
            yield name, f"the id of the image token, a whole number from 0{f' to {rows - 1}' if rows else ''}"


def _feature_layer_faults(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    layers = (config.get("vision_config") or {}).get("num_hidden_layers")
    most = layers or LARGEST
    for name in ("vision_feature_layer", "vision_feature_layers"):
        for value in _listed(config.get(name)):
            if value is not None and not (_is_whole(value) and -most - 1 <= value <= most):
                yield name, f"layers of the tower, which has {layers or 'some'}"


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return _is_whole(value) and 1 <= value <= LARGEST


def _fault(where: str, name: str, value: Any, allowed: str) -> CheckpointError:
    return CheckpointError(got(f"config.json of {where}: {name}", value, allowed, "fetch it again, or correct it"))
