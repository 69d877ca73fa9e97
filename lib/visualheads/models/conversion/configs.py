"""Configuration, processor and prompt form of the converted model, from the original's settings."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError

from visualheads.errors import CheckpointError, UnsupportedModelError, checked_name, got
from visualheads.models import blueprints
from visualheads.models.checkpoints import read_json
from visualheads.models.conversion.sources import Original
from visualheads.models.processors import original_pictures
from visualheads.paths import read_table

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig, PreTrainedConfig

    from visualheads.models.conversion.sources import Words

VIP_TOWER = "clip_4layers_336"
VIP_LAYERS = (-2, -5, -8, -11, 6)
"""ViP-LLaVA's code takes these, whatever the config says (code: CLIPVisionTowerMultilayer)."""

CLIP_L = blueprints.known()["vision"]
KNOWN_TOWERS: dict[str, dict[str, Any]] = {
    "openai/clip-vit-large-patch14-336": CLIP_L,
    "openai/clip-vit-large-patch14": {**CLIP_L, "image_size": 224},
    VIP_TOWER: CLIP_L,
}
"""Shapes of the towers by name, for checkpoints that hold the tower's weights but not its config."""

GENERAL = {
    "architectures", "chunk_size_feed_forward", "dtype", "id2label", "is_encoder_decoder", "label2id",
    "output_hidden_states", "problem_type", "return_dict", "transformers_version",
}  # fmt: skip
ROTARY = {"rope_theta", "rope_scaling"}
PROJECTOR = "mlp2x_gelu"
LLAMA_3_MARK = "<|start_header_id|>"


@dataclass(frozen=True)
class Recipe:
    """What kind of model an original folder holds.

    class_name      transformers class
    preparation     `pad` (to a square), `crop` or `anyres` (tiles): the original's `image_aspect_ratio`
    feature_layer   which hidden states of the tower are used
    select          `default` leaves the class token out, `full` keeps it
    """

    class_name: str
    preparation: str
    feature_layer: int | list[int]
    select: str

    @property
    def vip(self) -> bool:
        """Whether several of the tower's layers are concatenated."""
        return self.class_name.startswith("VipLlava")


def recipe_of(original: Original) -> Recipe:
    """Read the recipe off the config. Raises UnsupportedModelError for one that no transformers class runs."""
    config = original.config
    if config.get("mm_projector_type", "linear") != PROJECTOR:
        raise UnsupportedModelError(got("mm_projector_type", config.get("mm_projector_type", "linear"), [PROJECTOR]))
    for switch in ("mm_use_im_start_end", "s2"):
        if config.get(switch):
            raise UnsupportedModelError(got(switch, config[switch], "false: no transformers class does this"))
    select = config.get("mm_vision_select_feature", "patch")
    checked_name("mm_vision_select_feature", select, ["patch", "cls_patch"], UnsupportedModelError)
    aspect, merge = config.get("image_aspect_ratio") or "square", config.get("mm_patch_merge_type") or "flat"
    vip = config["mm_vision_tower"] == VIP_TOWER or any("clip_layernorm" in name for name in original.headers)
    if (aspect, merge) == ("anyres", "spatial_unpad") and not vip:
        name, preparation = "LlavaNextForConditionalGeneration", "anyres"
    elif aspect in ("pad", "square") and merge == "flat":
        name = "VipLlavaForConditionalGeneration" if vip else "LlavaForConditionalGeneration"
        preparation = {"pad": "pad", "square": "crop"}[aspect]
    else:
        allowed = "pad or square with flat (LLaVA-1.5, ViP-LLaVA), anyres with spatial_unpad (LLaVA-1.6)"
        raise UnsupportedModelError(got("image_aspect_ratio, mm_patch_merge_type", f"{aspect}, {merge}", allowed))
    layer: int | list[int] = list(VIP_LAYERS) if vip else int(config.get("mm_vision_select_layer", -2))
    return Recipe(name, preparation, layer, {"patch": "default", "cls_patch": "full"}[select])


def tower_config(name: str, folder: Path | None) -> CLIPVisionConfig:
    """The vision tower's configuration, from its folder or by its known name. Raises CheckpointError."""
    import transformers

    if folder is None:
        if name not in KNOWN_TOWERS:
            raise CheckpointError(
                f"the vision tower {name!r} (mm_vision_tower) is no local folder and its shape is not known; fetch it "
                "and give its folder with --tower (tower=)."
            )
        return transformers.CLIPVisionConfig(**KNOWN_TOWERS[name])
    settings = read_json(folder / "config.json")
    kind = settings.get("model_type")
    checked_name(f"vision tower {folder}", kind, ["clip", "clip_vision_model"], UnsupportedModelError)
    if kind == "clip":
        settings = settings.get("vision_config") or {}
    return _built(transformers.CLIPVisionConfig, settings)


def model_config(original: Original, recipe: Recipe, tower: CLIPVisionConfig, words: Words, dtype: str) -> Any:
    """The whole configuration; `image_aspect_ratio` is kept in it. Raises CheckpointError."""
    import transformers

    text: Any = _built(transformers.CONFIG_MAPPING[original.text_type], original.config)
    text.vocab_size, text.pad_token_id = words.rows, words.tokenizer.pad_token_id
    side = int(tower.image_size) // int(tower.patch_size)  # pyright: ignore[reportArgumentType]
    settings: dict[str, Any] = {
        "text_config": text,
        "vision_config": tower,
        "image_token_index": words.image_id,
        "image_seq_length": side**2 + (recipe.select == "full"),
        "vision_feature_layer": recipe.feature_layer,
        "image_aspect_ratio": original.config.get("image_aspect_ratio") or "square",
        "tie_word_embeddings": bool(text.tie_word_embeddings),
    }
    if not recipe.vip:
        settings["vision_feature_select_strategy"] = recipe.select
    if recipe.preparation == "anyres":
        settings["image_grid_pinpoints"] = pinpoints(original.config)
    config_class: Any = getattr(transformers, recipe.class_name.replace("ForConditionalGeneration", "Config"))
    config = config_class(**settings)
    config.architectures, config.dtype = [recipe.class_name], dtype
    return config


def pinpoints(config: dict[str, Any]) -> list[list[int]]:
    """Sizes of the tiled picture as (height, width), transformers' order; the original has (width, height)."""
    given = config.get("image_grid_pinpoints")
    try:
        sizes: Any = ast.literal_eval(given) if isinstance(given, str) else given
        return [[int(height), int(width)] for width, height in sizes]
    except (ValueError, TypeError, SyntaxError) as error:
        raise CheckpointError(got("image_grid_pinpoints", given, "a list of (width, height) pairs")) from error


def processor_of(recipe: Recipe, config: Any, words: Words, tower: Path | None, template: str) -> Any:
    """The processor that prepares pictures as the original does."""
    import transformers

    settings: dict[str, Any] = {}
    if tower is not None and (tower / "preprocessor_config.json").is_file():
        told = read_json(tower / "preprocessor_config.json")
        settings = {name: told[name] for name in ("image_mean", "image_std", "resample") if name in told}
    tiled, side = recipe.preparation == "anyres", int(config.vision_config.image_size)
    pinpoints = config.image_grid_pinpoints if tiled else None
    pictures = original_pictures(recipe.preparation, side, pinpoints, do_center_crop=True, **settings)
    kind: Any = transformers.LlavaNextProcessor if tiled else transformers.LlavaProcessor
    words.tokenizer.chat_template = template
    return kind(
        pictures,
        words.tokenizer,
        patch_size=int(config.vision_config.patch_size),
        vision_feature_select_strategy=recipe.select,
        num_additional_image_tokens=1,
        chat_template=template,
    )


def generation_config(words: Words, stop: str) -> Any:
    """Greedy decoding that ends at the tokenizer's end token and at the recipe's, where it has that."""
    import transformers

    tokenizer = words.tokenizer
    ends = [tokenizer.eos_token_id, tokenizer.get_vocab().get(stop)]
    return transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted({end for end in ends if end is not None}),
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )


def _built(kind: type[PreTrainedConfig], settings: dict[str, Any]) -> Any:
    """A configuration of those settings that its class has; the rest are LLaVA's own."""
    names = ({field.name for field in dataclasses.fields(kind)} - GENERAL) | ROTARY
    given = {name: value for name, value in settings.items() if name in names}
    try:
        return kind(**given)
    except (StrictDataclassError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        told = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{kind.__name__} refuses settings of config.json ({told}); fetch it again.") from error


TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8").rstrip("\n")
"""Of any prompt, with words in capitals in the place of its texts."""


@dataclass(frozen=True)
class Prompt:
    """What stands around the turns of a conversation; the picture comes first in the user's turn.

    start       before the first turn
    user        (before, after) the user's turn
    assistant   (before, after) the assistant's turn; `ask` is how the prompt for an answer ends
    stop        token that ends an answer
    """

    start: str
    user: list[str]
    assistant: list[str]
    ask: str
    stop: str

    def template(self) -> str:
        """The Jinja template, for messages whose content is a text or a list of images and texts."""
        texts = {"START": self.start, "BEFORE": self.user[0], "AFTER": self.user[1], "ASK": self.ask}
        texts |= {"OWN": self.assistant[0], "END": self.assistant[1]}
        return re.sub("|".join(texts), lambda found: json.dumps(texts[found[0]]), TEMPLATE)


PROMPTS = {name: Prompt(**told) for name, told in read_table(__file__, "prompts.yml").items()}
"""Forms by the names of the original code."""


def prompt_name(wanted: str | None, text_type: str, vip: bool, vocabulary: set[str]) -> str:
    """The form the checkpoint was tuned with, unless one is wanted by name.

    Vicuna: `vicuna_v1`, in ViP-LLaVA `llava_v1`; Mistral `mistral_instruct`; Phi-3 `llava_phi_3`; Llama-3 (told by its
    header token) `llava_llama_3`. Raises ParameterError for an unknown name.
    """
    if wanted is not None:
        return checked_name("prompt", wanted, PROMPTS)
    if text_type == "mistral":
        return "mistral_instruct"
    if text_type == "phi3":
        return "llava_phi_3"
    if LLAMA_3_MARK in vocabulary:
        return "llava_llama_3"
    return "llava_v1" if vip else "vicuna_v1"
