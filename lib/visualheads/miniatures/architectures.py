"""Shapes and lineage of the miniatures: text-only language models and the multimodal ones grown from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from visualheads.errors import UnknownModelError, checked_name
from visualheads.miniatures import language
from visualheads.paths import read_table

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedConfig, PreTrainedModel

INITIAL_SPREAD = 0.08  # about 1/√hidden; with transformers' 0.02 a network this narrow learns far more slowly
PICTURE, PATCH = 96, 12  # pixels: 8 × 8 = 64 image tokens
PINPOINTS = [[96, 192], [192, 96]]  # canvases (height, width) of two tiles; with the whole picture, three tower passes
VIP_LAYERS = (-1, -2, -3)  # of the tower's four, concatenated (ViP-LLaVA: five of 24)
Recipe = Literal["1.5", "1.6", "vip"]
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8").rstrip("\n")


@dataclass(frozen=True)
class TextShape:
    """A text-only language model: the transformers architecture, its size, and the seed of its weights."""

    name: str
    architecture: Literal["llama", "mistral", "phi3"]
    layers: int = 8
    heads: int = 8
    key_value_heads: int = 8
    hidden: int = 96
    intermediate: int = 160  # narrow, so that the weights of all miniatures together stay under 38 MB
    head_dim: int = 16
    rope_theta: float = 10_000.0
    seed: int = 0


@dataclass(frozen=True)
class Miniature:
    """A multimodal miniature: which language model it grows from, and by which recipe."""

    name: str
    text: str
    recipe: Recipe
    stands_for: str
    seed: int = 0


TABLES = read_table(__file__, "architectures.yml")
TEXT_SHAPES = {name: TextShape(name, **shape) for name, shape in TABLES["texts"].items()}
MINIATURES = {name: Miniature(name, **entry) for name, entry in TABLES["miniatures"].items()}
"""The paper's nine in its order, then the two that tell seed noise from model differences."""


def training_order() -> list[str]:
    """Order all miniatures for training: the paper's nine, those of one language model after each other, then controls.

    Each shared stage is then trained when it is needed.
    """
    paper = [name for name, entry in MINIATURES.items() if not entry.seed and not text_shape(entry.text).seed]
    first = MINIATURES["mini-1.5-7B"].text
    texts = list(dict.fromkeys([first, *(MINIATURES[name].text for name in paper)]))
    ordered = sorted(paper, key=lambda name: (texts.index(MINIATURES[name].text), MINIATURES[name].recipe))
    return [*ordered, *(name for name in MINIATURES if name not in paper)]


def text_shape(name: str) -> TextShape:
    """Return a text-only model's shape, by name.

    Raises
    ------
    UnknownModelError
        For any other name.
    """
    return TEXT_SHAPES[checked_name("text-only miniature", name, TEXT_SHAPES, UnknownModelError)]


def miniature(name: str) -> Miniature:
    """Return a multimodal miniature's description, by name.

    Raises
    ------
    UnknownModelError
        For any other name.
    """
    return MINIATURES[checked_name("miniature", name, MINIATURES, UnknownModelError)]


def text_config(shape: TextShape):
    """Return the transformers configuration of a text-only model."""
    from transformers import LlamaConfig, MistralConfig, Phi3Config

    ids = language.vocabulary()
    common = {
        "vocab_size": len(ids),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "tie_word_embeddings": False,
        "initializer_range": INITIAL_SPREAD,
        "pad_token_id": ids[language.PAD],
        "bos_token_id": ids[language.BOS],
        "eos_token_id": ids[language.EOS],
    }
    match shape.architecture:
        case "llama":
            return LlamaConfig(**common, head_dim=shape.head_dim)
        case "mistral":
            return MistralConfig(**common, head_dim=shape.head_dim, sliding_window=None)
        case "phi3":
            return Phi3Config(**common, original_max_position_embeddings=1024, sliding_window=None)


def build_text(shape: TextShape) -> PreTrainedModel:
    """Build a text-only causal language model with fresh weights."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(text_config(shape))


def tower_config() -> CLIPVisionConfig:
    """Return the configuration of the CLIP vision tower that all miniatures start from."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=224,
        num_hidden_layers=4,
        num_attention_heads=6,
        image_size=PICTURE,
        patch_size=PATCH,
        projection_dim=96,
    )


def build_tower() -> CLIPVisionModel:
    """Build a CLIP vision tower with fresh weights."""
    from transformers import CLIPVisionModel

    return CLIPVisionModel(tower_config())


def multimodal_config(recipe: Recipe, text: PreTrainedConfig, vision: PreTrainedConfig) -> Any:
    """Return the transformers configuration of a multimodal model: LLaVA-1.5, LLaVA-1.6 (NeXT) or ViP-LLaVA.

    `text` and `vision` are the configurations of language model and tower.
    """
    from transformers import LlavaConfig, LlavaNextConfig, VipLlavaConfig

    common: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": language.vocabulary()[language.IMAGE],
        "image_seq_length": (PICTURE // PATCH) ** 2,
        "tie_word_embeddings": False,
    }
    if recipe == "vip":
        return VipLlavaConfig(**common, vision_feature_layer=list(VIP_LAYERS))
    common |= {"vision_feature_layer": -1, "vision_feature_select_strategy": "default"}
    if recipe == "1.6":
        return LlavaNextConfig(**common, image_grid_pinpoints=PINPOINTS)
    return LlavaConfig(**common)


def build_multimodal(name: str, text: Any, tower: CLIPVisionModel) -> Any:
    """Build the multimodal model around a trained language model and tower; the adapter's weights are fresh."""
    from transformers import AutoModelForImageTextToText

    config = multimodal_config(miniature(name).recipe, text.config, tower.config)
    model: Any = AutoModelForImageTextToText.from_config(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.lm_head.load_state_dict(text.lm_head.state_dict())
    model.generation_config.eos_token_id = language.vocabulary()[language.EOS]
    model.generation_config.pad_token_id = language.vocabulary()[language.PAD]
    return model


def build_empty(name: str) -> Any:
    """Build the miniature with random weights, to load trained ones into."""
    return build_multimodal(name, build_text(text_shape(miniature(name).text)), build_tower())


def build_processor(recipe: Recipe) -> Any:
    """Build tokenizer, image processor and chat template of a recipe: 1.6 cuts pictures into tiles, others squeeze."""
    from transformers import CLIPImageProcessorPil, LlavaNextImageProcessorPil, LlavaNextProcessor, LlavaProcessor

    square = {"height": PICTURE, "width": PICTURE}
    scale: dict[str, Any] = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "crop_size": square}
    common: dict[str, Any] = {
        "tokenizer": language.build_tokenizer(),
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "chat_template": CHAT_TEMPLATE,
    }
    if recipe == "1.6":
        tiles = LlavaNextImageProcessorPil(size={"shortest_edge": PICTURE}, image_grid_pinpoints=PINPOINTS, **scale)
        return LlavaNextProcessor(image_processor=tiles, **common)
    return LlavaProcessor(image_processor=CLIPImageProcessorPil(size=square, do_center_crop=False, **scale), **common)
