"""The fields of a checkpoint's config that shapes are made of: each is a sane number, or named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from visualheads.errors import CheckpointError, got

POSITIVE = {
    "depth", "embed_dim", "head_dim", "hidden_size", "image_seq_length", "image_size", "in_channels",
    "intermediate_size", "max_position_embeddings", "mm_tokens_per_image", "num_attention_heads", "num_channels",
    "num_heads", "num_hidden_layers", "num_key_value_heads", "num_position_embeddings", "out_hidden_size", "patch_size",
    "projection_dim", "scale_factor", "spatial_merge_size", "temporal_patch_size", "vocab_size",
}  # fmt: skip
"""Whole numbers of at least 1, or lists of them (sides of pictures and patches)."""
LARGEST = 2**31
"""Above it torch counts differently; the largest real number here, a vocabulary, has 18 bits."""
SMALL = {"layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_eps"}
"""Numbers above 0 that keep a division from failing."""
IMAGE_TOKENS = ("image_token_id", "image_token_index")
PARTS = ("text_config", "vision_config")


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
    _check_image_token(config, where)
    _check_feature_layers(config, where)


def _faults(part: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in part.items():
        if name in POSITIVE and value is not None and not all(map(_is_size, _listed(value))):
            yield name, f"a whole number from 1 to {LARGEST}"
        if name in SMALL and not _is_number(value, lambda number: 0 < number < 1):
            yield name, "a number above 0 and below 1"
    heads, groups, width = (part.get(name) for name in ("num_attention_heads", "num_key_value_heads", "hidden_size"))
    if heads and groups and heads % groups:
        yield "num_key_value_heads", f"a divisor of num_attention_heads, which is {heads}"
    if heads and width and not part.get("head_dim") and width % heads:
        yield "num_attention_heads", f"a divisor of hidden_size, which is {width}, where there is no head_dim"
    image, patch = _listed(part.get("image_size") or ()), _listed(part.get("patch_size") or ())
    if image and patch and max(patch) > min(image):
        yield "patch_size", f"at most the side of the picture, image_size, which is {min(image)}"


def _check_image_token(config: Mapping[str, Any], where: str) -> None:
    text = config.get("text_config") or config
    rows = text.get("vocab_size")
    for name in IMAGE_TOKENS:
        value = config.get(name)
        if value is None:
            continue
        allowed = f"the id of the image token, a whole number from 0{f' to {rows - 1}' if rows else ''}"
        if not _is_whole(value) or value < 0 or (rows and value >= rows):
            raise _fault(where, name, value, allowed)


def _check_feature_layers(config: Mapping[str, Any], where: str) -> None:
    layers = (config.get("vision_config") or {}).get("num_hidden_layers")
    for name in ("vision_feature_layer", "vision_feature_layers"):
        for value in _listed(config.get(name)):
            if value is None:
                continue
            if not _is_whole(value) or (layers and not -layers - 1 <= value <= layers):
                raise _fault(where, name, config[name], f"layers of the tower, which has {layers or 'some'}")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return _is_whole(value) and 1 <= value <= LARGEST


def _is_number(value: Any, allowed: Callable[[float], bool]) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and allowed(value)


def _fault(where: str, name: str, value: Any, allowed: str) -> CheckpointError:
    return CheckpointError(got(f"config.json of {where}: {name}", value, allowed, "fetch it again, or correct it"))
