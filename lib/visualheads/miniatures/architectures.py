"""Shapes and lineage of the miniatures: text-only language models and the multimodal ones grown from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from visualheads.errors import UnknownModelError
from visualheads.miniatures import words

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedModel, ProcessorMixin

INITIAL_SPREAD = 0.08  # about 1/√hidden; with transformers' 0.02 a network this narrow learns far more slowly
PICTURE, PATCH = 96, 12  # pixels: 8 × 8 = 64 image tokens
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'USER: ' }}{% else %}"
    "{{ 'ASSISTANT: ' }}{% endif %}{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ item['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% if message['role'] != 'user' %}{{ '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@dataclass(frozen=True)
class TextShape:
    """A text-only language model: the transformers architecture and its size."""

    name: str
    architecture: Literal["llama", "mistral", "phi3"]
    layers: int = 8
    heads: int = 8
    key_value_heads: int = 8
    hidden: int = 96
    intermediate: int = 288
    head_dim: int = 16
    rope_theta: float = 10_000.0
    seed: int = 0


@dataclass(frozen=True)
class Miniature:
    """A multimodal miniature: which language model it grows from, and by which recipe."""

    name: str
    text: str
    recipe: Literal["1.5", "1.6", "vip"]
    stands_for: str
    seed: int = 0


TEXT_SHAPES = {
    shape.name: shape
    for shape in (
        TextShape("mini-vicuna-7B-text", "llama"),
        TextShape(
            "mini-vicuna-13B-text", "llama", layers=10, heads=10, key_value_heads=10, hidden=120, intermediate=360
        ),
        TextShape("mini-mistral-7B-text", "mistral", key_value_heads=2),
        TextShape("mini-llama-3-8B-text", "llama", key_value_heads=2, rope_theta=500_000.0),
        TextShape("mini-phi-3-3.8B-text", "phi3", hidden=80, intermediate=240, head_dim=10),
    )
}
MINIATURES = {
    miniature.name: miniature
    for miniature in (Miniature("mini-1.5-7B", "mini-vicuna-7B-text", "1.5", "llava-hf/llava-1.5-7b-hf"),)
}


def text_shape(name: str) -> TextShape:
    """The text-only model's shape, by name."""
    if name not in TEXT_SHAPES:
        raise UnknownModelError(f"no text-only miniature is called {name!r}; there are: {', '.join(TEXT_SHAPES)}")
    return TEXT_SHAPES[name]


def miniature(name: str) -> Miniature:
    """The multimodal miniature's description, by name."""
    if name not in MINIATURES:
        raise UnknownModelError(f"no miniature is called {name!r}; there are: {', '.join(MINIATURES)}")
    return MINIATURES[name]


def text_config(shape: TextShape):
    """The transformers configuration of a text-only model."""
    from transformers import LlamaConfig, MistralConfig, Phi3Config

    ids = words.vocabulary()
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
        "pad_token_id": ids[words.PAD],
        "bos_token_id": ids[words.BOS],
        "eos_token_id": ids[words.EOS],
    }
    match shape.architecture:
        case "llama":
            return LlamaConfig(**common, head_dim=shape.head_dim)
        case "mistral":
            return MistralConfig(**common, head_dim=shape.head_dim, sliding_window=None)
        case "phi3":
            return Phi3Config(**common, original_max_position_embeddings=1024, sliding_window=None)


def build_text(shape: TextShape) -> PreTrainedModel:
    """A text-only causal language model with fresh weights."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(text_config(shape))


def tower_config() -> CLIPVisionConfig:
    """The CLIP vision tower that all miniatures start from."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=6,
        image_size=PICTURE,
        patch_size=PATCH,
        projection_dim=96,
    )


def build_tower() -> CLIPVisionModel:
    """A CLIP vision tower with fresh weights."""
    from transformers import CLIPVisionModel

    return CLIPVisionModel(tower_config())


def build_multimodal(name: str, text: PreTrainedModel, tower: CLIPVisionModel) -> PreTrainedModel:
    """The multimodal model around a trained language model and tower; the adapter's weights are fresh."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    recipe = miniature(name)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text.config,
        image_token_index=words.vocabulary()[words.IMAGE],
        image_seq_length=(PICTURE // PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    assert recipe.recipe == "1.5"
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.lm_head.load_state_dict(text.lm_head.state_dict())
    model.generation_config.eos_token_id = words.vocabulary()[words.EOS]
    model.generation_config.pad_token_id = words.vocabulary()[words.PAD]
    return model


def build_processor(name: str) -> ProcessorMixin:
    """Tokenizer, image processor and chat template of a miniature."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    miniature(name)
    images = CLIPImageProcessorPil(
        size={"shortest_edge": PICTURE},
        crop_size={"height": PICTURE, "width": PICTURE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=words.build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
