"""Small random models and processors of the LLaVA classes, built in memory: no files, no network, no torchvision.

The other families are in `families.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = [
    "how",
    "many",
    "what",
    "where",
    "is",
    "are",
    "the",
    "of",
    "these",
    "there",
    "in",
    "picture",
    "cars",
    "people",
    "beings",
    "animals",
    "a",
    "b",
    "c",
    "d",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "zero",
    "yes",
    "no",
    "red",
    "box",
    "question",
    "answer",
    "using",
    "single",
    "word",
    "or",
    "phrase",
    "with",
    "option",
    "letter",
    "?",
    ".",
    ",",
    ":",
    "!",
    "USER",
    "ASSISTANT",
    "exemplary",
    "object",
    "within",
    "rectangle",
]
IMAGE_TOKEN = "<image>"
CHAT_TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}USER : <image> "
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT :"
)


@dataclass(frozen=True)
class Tiny:
    """Sizes of a small random model; the defaults are grouped-query attention on 16 (4 × 4) image tokens."""

    text: str = "llama"
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 8
    window: int | None = None
    patch: int = 6
    grid: int = 4
    spare: int = 0
    """Pixels of the picture's side beyond the last patch, which no patch sees."""
    spread: float = 0.15
    """Standard deviation of the weights: large enough for attention to differ visibly from uniform."""

    @property
    def hidden(self) -> int:
        return self.heads * self.head_dim

    @property
    def pixels(self) -> int:
        return self.patch * self.grid + self.spare


def tokenizer(special: dict[str, str] | None = None, template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over WORDS: `<pad> <s> </s> <unk>` and the image token first (ids 0 to 4), then `special`.

    `special` maps attribute names to tokens; `image_token` among them replaces `<image>`.
    """
    named = {"image_token": IMAGE_TOKEN, **(special or {})}
    fixed = list(dict.fromkeys(["<pad>", "<s>", "</s>", "<unk>", *named.values()]))
    vocabulary = {word: index for index, word in enumerate([*fixed, *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=named,
    )  # fmt: skip
    fast.padding_side = "left"
    fast.chat_template = template
    return fast


def text_config(tiny: Tiny, vocabulary: int, **more: object) -> transformers.PreTrainedConfig:
    """The text model's configuration: llama, mistral, phi3, qwen2, gemma2 …"""
    kinds = {
        "llama": transformers.LlamaConfig,
        "mistral": transformers.MistralConfig,
        "phi3": transformers.Phi3Config,
        "qwen2": transformers.Qwen2Config,
    }
    settings: dict[str, object] = {
        "hidden_size": tiny.hidden, "intermediate_size": 2 * tiny.hidden, "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads, "num_key_value_heads": tiny.kv_heads, "vocab_size": vocabulary,
        "max_position_embeddings": 4096, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "initializer_range": tiny.spread,
    }  # fmt: skip
    if tiny.text in ("mistral", "phi3"):
        settings["sliding_window"] = tiny.window
    if tiny.text in ("llama", "mistral"):
        settings["head_dim"] = tiny.head_dim
    return kinds[tiny.text](**{**settings, **more})


def clip_config(tiny: Tiny) -> transformers.CLIPVisionConfig:
    """A two-layer CLIP tower whose picture is `grid` × `grid` patches."""
    return transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=tiny.pixels,
        patch_size=tiny.patch, projection_dim=16, initializer_range=tiny.spread,
    )  # fmt: skip


def seeded(
    build: type, config: object, seed: int = 0, implementation: str | dict[str, str] = "sdpa"
) -> torch.nn.Module:
    """The class built with random weights, the same for the same seed, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build._from_config(config, attn_implementation=implementation)
    return module.eval()


def llava(tiny: Tiny = Tiny(), seed: int = 0, implementation: str = "sdpa", template: str | None = CHAT_TEMPLATE,
          crop: bool = True) -> tuple[torch.nn.Module, object]:  # fmt: skip
    """A LlavaForConditionalGeneration and its processor."""
    words = tokenizer(template=template)
    config = transformers.LlavaConfig(
        vision_config=clip_config(tiny), text_config=text_config(tiny, len(words)), image_token_index=4,
        image_seq_length=tiny.grid**2,
    )  # fmt: skip
    module = seeded(transformers.LlavaForConditionalGeneration, config, seed, implementation)
    return module, transformers.LlavaProcessor(
        clip_processor(tiny, crop), words, patch_size=tiny.patch, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template,
    )  # fmt: skip


def vip_llava(tiny: Tiny = Tiny(), seed: int = 0, implementation: str = "sdpa", template: str | None = CHAT_TEMPLATE,
              crop: bool = True) -> tuple[torch.nn.Module, object]:  # fmt: skip
    """A VipLlavaForConditionalGeneration (tower layers concatenated) and its processor."""
    words = tokenizer(template=template)
    config = transformers.VipLlavaConfig(
        vision_config=clip_config(tiny), text_config=text_config(tiny, len(words)), image_token_index=4,
        image_seq_length=tiny.grid**2, vision_feature_layer=[-2, 2],
    )  # fmt: skip
    module = seeded(transformers.VipLlavaForConditionalGeneration, config, seed, implementation)
    return module, transformers.LlavaProcessor(
        clip_processor(tiny, crop), words, patch_size=tiny.patch, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template,
    )  # fmt: skip


def llava_next(tiny: Tiny = Tiny(), seed: int = 0, implementation: str = "sdpa",
               template: str | None = CHAT_TEMPLATE) -> tuple[torch.nn.Module, object]:  # fmt: skip
    """A LlavaNextForConditionalGeneration (AnyRes tiles, five pinpoints) and its processor."""
    words = tokenizer(template=template)
    side = tiny.pixels
    pinpoints = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side], [3 * side, side], [side, 3 * side]]
    config = transformers.LlavaNextConfig(
        vision_config=clip_config(tiny), text_config=text_config(tiny, len(words)), image_token_index=4,
        image_seq_length=tiny.grid**2, image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    pictures = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_grid_pinpoints=pinpoints
    )
    module = seeded(transformers.LlavaNextForConditionalGeneration, config, seed, implementation)
    return module, transformers.LlavaNextProcessor(
        pictures, words, patch_size=tiny.patch, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template,
    )  # fmt: skip


def clip_processor(tiny: Tiny, crop: bool = True) -> transformers.CLIPImageProcessorPil:
    """CLIP's picture preparation: shortest edge and centre crop, or plain resizing to the square."""
    side = tiny.pixels
    return transformers.CLIPImageProcessorPil(
        size={"shortest_edge": side} if crop else {"height": side, "width": side}, do_center_crop=crop,
        crop_size={"height": side, "width": side},
    )  # fmt: skip


def picture(seed: int = 0, width: int = 48, height: int = 36) -> Image.Image:
    """A random picture, the same for the same seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def gradient(width: int, height: int) -> Image.Image:
    """A picture that tells where each pixel came from: red grows with x, green with y, blue is 128."""
    red = np.broadcast_to(np.linspace(0, 255, width)[None], (height, width))
    green = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 128)], axis=-1).round().astype(np.uint8))


BUILDERS = {"llava": llava, "llava_next": llava_next, "vip_llava": vip_llava}


@cache
def wrapped(kind: str, tiny: Tiny = Tiny(), implementation: str = "sdpa", dtype: torch.dtype = torch.float32):
    """A small wrapped model, built once per test session: do not change it."""
    from visualheads.models.loading import wrap

    module, processor = BUILDERS[kind](tiny, implementation=implementation)
    return wrap(module.to(dtype), processor, validate=False)


QUESTIONS = ("how many cars ?", "how many of these people are there in the picture ?", "is the box red ?")


def samples(count: int = 6, **fields: object) -> list:
    """Samples with pictures of different sizes, questions of different lengths, boxes, two conditions."""
    from visualheads.tasks.sample import Sample

    made = []
    for index in range(count):
        settings: dict[str, object] = {
            "id": f"s{index}",
            "image": picture(index, 30 + 9 * index, 70 - 7 * index),
            "answer": ("two", "three")[index % 2],
            "question": QUESTIONS[index % 3],
            "box": (8.0, 8.0, 22.0, 20.0),
            "condition": ("plain", "visual")[index % 2],
            "image_id": f"p{index}",
            "question_id": f"q{index}",
            "task": "toy",
        }
        made.append(Sample(**{**settings, **fields}))
    return made
