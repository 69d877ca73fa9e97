"""Adapters: where the layers of a family's models live, and how their image tokens lie; and the registry of them.

Everything about pictures here refuses what it cannot know: a wrong box is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any

from visualheads import plugins
from visualheads.errors import ParameterError, UnsupportedModelError
from visualheads.models.token_layouts import anyres, merged_patches, single_grid, tile_arrangement, tiled
from visualheads.models.token_map import Placement, TokenMap, prepared


def image_token(processor: Any) -> str:
    """The processor's own image token, the placeholder of a plain prompt."""
    return str(getattr(processor, "image_token", "<image>"))


@dataclass(frozen=True)
class Adapter:
    """A mapping, no arithmetic: where one transformers class keeps what the library needs.

    Attributes
    ----------
    class_name : str
        The transformers class.
    layers : str
        Dotted path of the decoder layers.
    token_map : callable
        (config, processor, (width, height)) → TokenMap over the image tokens in sequence order.
    placeholder : callable
        processor → text that stands for the picture in a prompt without a chat template.
    nested : bool
        The processor wants one list of pictures per prompt.
    bidirectional : bool
        The prompt prefix sees itself both ways: a prompt cannot be cut after the picture and resumed.
    eager_tower : bool
        The vision tower has no attention, or none that SDPA computes.
    softcap : callable
        config → whether attention scores are soft-capped, which SDPA refuses: such a model runs on eager attention.
    processor : str
        The transformers processor of a class for which transformers itself names none.
    processor_settings : callable
        config → what the processor has to know of the model, by attribute; "image_processor.x" for its image part.
    """

    class_name: str
    layers: str
    token_map: Callable[[Any, Any, tuple[int, int]], TokenMap]
    placeholder: Callable[[Any], str] = image_token
    nested: bool = False
    bidirectional: bool = False
    eager_tower: bool = False
    softcap: Callable[[Any], bool] = lambda _config: False
    processor: str = ""
    processor_settings: Callable[[Any], dict[str, Any]] = lambda _config: {}

    def attention_setting(self, implementation: str) -> str | dict[str, str]:
        """What transformers' `attn_implementation` has to be so that the language model gets this implementation."""
        if not self.eager_tower:
            return implementation
        return {"": implementation, "text_config": implementation, "vision_config": "eager"}


_ADAPTERS: dict[str, Adapter] = {}


def register(adapter: Adapter) -> Adapter:
    """Add an adapter; the same cell or file, run again, replaces its own.

    Raises ParameterError for a class that has another's: two mappings of one class would disagree.
    """
    known = _ADAPTERS.get(adapter.class_name)
    if known is not None and known.token_map.__module__ != adapter.token_map.__module__:
        raise ParameterError(
            f"{adapter.class_name} has an adapter already; change that one, or register under another class name."
        )
    _ADAPTERS[adapter.class_name] = adapter
    return adapter


def supported() -> list[str]:
    """Names of the transformers classes that have an adapter."""
    return sorted(_ADAPTERS)


def adapter_of(kind: type | str) -> Adapter:
    """The adapter of a transformers class, or of the nearest base class that has one.

    Raises
    ------
    UnsupportedModelError
        With the list of supported classes.
    """
    names = [kind] if isinstance(kind, str) else [base.__name__ for base in kind.__mro__]
    for name in names:
        if name in _ADAPTERS:
            return _ADAPTERS[name]
    raise UnsupportedModelError(
        f"{names[0]} has no adapter, so its layers and image tokens are unknown; supported classes: "
        f"{', '.join(supported())}. The chapter “Add a model” tells how to write an adapter."
    )


CLASS_TOKENS = {"clip_vision_model": True, "siglip_vision_model": False}
"""Towers whose patches are one square grid, and whether a class token stands before them."""


def plain(size: Any) -> dict[str, int]:
    """A size setting (mapping or transformers' SizeDict) as a plain dictionary without empty entries."""
    items = size.items() if hasattr(size, "items") else vars(size).items()
    return {key: int(value) for key, value in items if value is not None}


def pads_to_square(pictures: Any) -> bool:
    """Whether an image processor pads to a square first, as original LLaVA-1.5 does (class LlavaImageProcessor)."""
    return bool(getattr(pictures, "do_pad", False)) and type(pictures).__name__.startswith("LlavaImageProcessor")


def resizing(processor: Any) -> Any:
    """The image processor. Raises UnsupportedModelError where it does not resize: nothing tells what the tower sees."""
    pictures = processor.image_processor
    if not pictures.do_resize:
        raise UnsupportedModelError(
            f"{type(pictures).__name__} has do_resize=False; set it to True: the picture must fit the tower."
        )
    return pictures


def canvas(processor: Any, image_size: tuple[int, int]) -> Placement:
    """Where the picture lies on the canvas that the image processor in use makes.

    Raises UnsupportedModelError where the processor does not resize.
    """
    pictures = resizing(processor)
    crop = plain(pictures.crop_size) if getattr(pictures, "do_center_crop", False) and pictures.crop_size else None
    return prepared(image_size, plain(pictures.size), crop, pad_to_square=pads_to_square(pictures))


def placement(config: Any, processor: Any, image_size: tuple[int, int]) -> Placement:
    """Where the picture lies on the canvas that the tower sees, from the image processor in use.

    Raises UnsupportedModelError where the processor does not resize, or makes a canvas that is not the tower's.
    """
    found = canvas(processor, image_size)
    side = config.vision_config.image_size
    if found.canvas_size != (side, side):
        raise UnsupportedModelError(
            f"{type(processor.image_processor).__name__} makes pictures of {found.canvas_size[0]} × "
            f"{found.canvas_size[1]} pixels, the tower takes {side} × {side}; load processor and model from the same "
            "checkpoint."
        )
    return found


def patch_grid(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """The tower's patches, row by row; what is left over on the right and below no patch sees."""
    placed = placement(config, processor, image_size)
    width, height = placed.canvas_size
    patch = config.vision_config.patch_size
    rows, columns = height // patch, width // patch
    return single_grid(placed, (rows, columns), (columns * patch, rows * patch))


def check_tower(config: Any) -> None:
    """Raise UnsupportedModelError unless the image tokens are exactly the tower's patches (the LLaVA classes)."""
    kind = config.vision_config.model_type
    if kind not in CLASS_TOKENS:
        raise UnsupportedModelError(
            f"the vision tower {kind!r} lays out its patches in a way of its own; known towers: "
            f"{', '.join(CLASS_TOKENS)}. Such a checkpoint needs an adapter that knows its tower."
        )
    strategy = getattr(config, "vision_feature_select_strategy", "default")
    if CLASS_TOKENS[kind] != (strategy == "default"):
        fault = "the class token is among" if CLASS_TOKENS[kind] else "the first patch is missing from"
        raise UnsupportedModelError(
            f"vision_feature_select_strategy={strategy!r} with the tower {kind!r}: {fault} the image tokens, "
            f"so they are no grid; set it to {'default' if CLASS_TOKENS[kind] else 'full'!r}, if trained so."
        )


def llava_settings(config: Any) -> dict[str, Any]:
    """What LLaVA's processors have to know of the model (`Adapter.processor_settings`)."""
    tower = config.vision_config
    return {
        "patch_size": tower.patch_size,
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", "default"),
        "num_additional_image_tokens": int(CLASS_TOKENS.get(tower.model_type, True)),
    }


def check_tiles(config: Any, processor: Any) -> None:
    """Raise UnsupportedModelError where processor and model cut a picture differently (AnyRes)."""
    pictures, side = resizing(processor), config.vision_config.image_size
    theirs, ours = ([list(map(int, one)) for one in who.image_grid_pinpoints] for who in (pictures, config))
    if theirs != ours:
        raise UnsupportedModelError(
            f"image_grid_pinpoints of the processor ({theirs[:3]} …) are not those of the model ({ours[:3]} …); load "
            "both from the same checkpoint."
        )
    edges = set(plain(pictures.size).values())
    if edges != {side}:
        raise UnsupportedModelError(
            f"{type(pictures).__name__} makes tiles of {sorted(edges)} pixels, the tower takes {side}; load processor "
            "and model from the same checkpoint."
        )


LAYERS = "model.language_model.layers"


def one_grid(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """LLaVA-1.5: patches of the tower's canvas, row by row."""
    check_tower(config)
    return patch_grid(config, processor, image_size)


def tiles(config: Any, processor: Any, image_size: tuple[int, int], most: int | None = None) -> TokenMap:
    """LLaVA-1.6 (NeXT): the whole picture, then its unpadded tiles with a newline token after each row (AnyRes)."""
    check_tower(config)
    check_tiles(config, processor)
    tower = config.vision_config
    return anyres(image_size, config.image_grid_pinpoints, tower.image_size, tower.patch_size, max_tiles=most)


def limited_tiles(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """LLaVA-OneVision: LLaVA-NeXT's tiles, the tile grid shrunk where it exceeds anyres_max_N tiles."""
    return tiles(config, processor, image_size, int(config.vision_aspect_ratio.removeprefix("anyres_max_")))


def patches(config: Any) -> int:
    """How many patches the tower cuts a picture, or a tile, into."""
    return (config.vision_config.image_size // config.vision_config.patch_size) ** 2


def onevision_settings(config: Any) -> dict[str, Any]:
    """The tower's patches, which of them are kept, and how many tiles there may be."""
    return {
        "num_image_tokens": patches(config),
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "vision_aspect_ratio": config.vision_aspect_ratio,
    }


def feature_map(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """FastVLM: cells of a convolutional tower's last feature map, row by row, each as wide and high as its stride.

    The processor calls the stride patch_size. Raises UnsupportedModelError where the canvas is not the side the model
    was made for, or no multiple of the stride.
    """
    placed = canvas(processor, image_size)
    width, height = placed.canvas_size
    stride = int(processor.patch_size)
    if width % stride or height % stride or (width // stride) * (height // stride) != config.image_seq_length:
        raise UnsupportedModelError(
            f"pictures of {width} × {height} pixels with a stride of {stride} do not make the "
            f"{config.image_seq_length} image tokens of the model; load processor and model from the same checkpoint."
        )
    return single_grid(placed, (height // stride, width // stride))


for name in ("Llava", "VipLlava"):  # ViP-LLaVA concatenates several tower layers per patch
    register(Adapter(f"{name}ForConditionalGeneration", LAYERS, one_grid, processor_settings=llava_settings))
register(Adapter("LlavaNextForConditionalGeneration", LAYERS, tiles, processor_settings=llava_settings))
register(
    Adapter("LlavaOnevisionForConditionalGeneration", LAYERS, limited_tiles, processor_settings=onevision_settings)
)
register(Adapter("FastVlmForConditionalGeneration", LAYERS, feature_map, eager_tower=True, processor="LlavaProcessor"))


def pooled_grid(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """Gemma 3: patches pooled to a square of tokens.

    Raises UnsupportedModelError for pan and scan, which adds crops of its own.
    """
    if getattr(processor.image_processor, "do_pan_and_scan", False):
        raise UnsupportedModelError(
            "Gemma 3's pan and scan adds crops to the picture; set image_processor.do_pan_and_scan to False."
        )
    side = isqrt(config.mm_tokens_per_image)
    tower = config.vision_config
    pooled = tower.image_size // tower.patch_size // side
    reach = side * pooled * tower.patch_size
    return single_grid(placement(config, processor, image_size), (side, side), (reach, reach))


register(
    Adapter(
        "Gemma3ForConditionalGeneration", LAYERS, pooled_grid,
        lambda processor: str(processor.boi_token),  # the processor puts the image tokens after it
        nested=True, bidirectional=True,
        processor_settings=lambda config: {"image_seq_length": config.mm_tokens_per_image},
    )
)  # fmt: skip
register(
    Adapter(
        "PaliGemmaForConditionalGeneration", LAYERS, patch_grid, bidirectional=True,
        softcap=lambda config: bool(getattr(config.get_text_config(), "attn_logit_softcapping", None)),  # Gemma 2
        processor_settings=lambda config: {"image_processor.image_seq_length": patches(config)},
    )
)  # fmt: skip


def token_map(_config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """The merged patches of the resized picture, row by row."""
    pictures = resizing(processor)
    size = plain(pictures.size)  # here these two are numbers of pixels
    return merged_patches(
        image_size, pictures.patch_size, pictures.merge_size, size["shortest_edge"], size["longest_edge"]
    )


def placeholder(processor: Any) -> str:
    """The image token between its start and end marks."""
    return f"<|vision_start|>{image_token(processor)}<|vision_end|>"


def processor_settings(config: Any) -> dict[str, Any]:
    """How the tower cuts a picture; the image processor cuts it, so both have to agree."""
    tower = config.vision_config
    return {
        "image_processor.patch_size": tower.patch_size,
        "image_processor.merge_size": tower.spatial_merge_size,
        "image_processor.temporal_patch_size": tower.temporal_patch_size,
    }


for name in ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL"):
    register(
        Adapter(
            f"{name}ForConditionalGeneration", LAYERS, token_map, placeholder,
            processor_settings=processor_settings,
        )
    )  # fmt: skip


def internvl_tiles(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """Tile by tile, the whole picture last; a single tile is the whole picture."""
    pictures = resizing(processor)
    size = plain(pictures.size)
    side = isqrt(processor.image_seq_length)
    patch, _ = config.vision_config.patch_size
    covered = side * patch / config.downsample_ratio / size["width"]
    rows, columns = 1, 1
    if pictures.max_patches > 1:
        tile = (size["width"], size["height"])
        rows, columns = tile_arrangement(image_size, tile, pictures.min_patches, pictures.max_patches)
    return tiled(image_size, rows, columns, side, covered=covered)


def idefics3_tiles(config: Any, processor: Any, image_size: tuple[int, int]) -> TokenMap:
    """Tile by tile, the whole picture last. The marks between tiles are text, not image tokens."""
    pictures = resizing(processor)
    side, tile = isqrt(processor.image_seq_len), plain(pictures.max_image_size)["longest_edge"]
    _, rows, columns = pictures.get_number_of_image_patches(*image_size[::-1])
    covered = side * config.scale_factor * config.vision_config.patch_size / tile
    return tiled(image_size, rows, columns, side, covered=covered)


register(
    Adapter(
        "InternVLForConditionalGeneration", LAYERS, internvl_tiles,
        processor_settings=lambda config: {"image_seq_length": config.image_seq_length},
    )
)  # fmt: skip
for name in ("Idefics3", "SmolVLM"):
    register(
        Adapter(
            f"{name}ForConditionalGeneration", "model.text_model.layers", idefics3_tiles, nested=True,
            # `scale_factor` squared patches are shuffled into one token
            processor_settings=lambda config: {"image_seq_len": patches(config) // config.scale_factor**2},
        )
    )  # fmt: skip

plugins.load(plugins.ADAPTERS)
