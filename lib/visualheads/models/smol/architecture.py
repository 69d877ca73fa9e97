"""SmolLM2 and EfficientNet-Lite2 as one FastVLM: configuration, processor, and the two put together."""

from __future__ import annotations

from typing import Any

from PIL import Image

from visualheads.models.smol.tower import STRIDE, lite2_config

SIDE = 384
"""Every picture is resized to a square of this many pixels."""
GRID = SIDE // STRIDE
IMAGE_TOKENS = GRID * GRID
MEAN, DEVIATION = 0.498, 0.502
"""Normalisation of the tower's pictures, all channels."""
RESAMPLE = Image.Resampling.BICUBIC
IMAGE_TOKEN = "<file_sep>"
"""A special token of SmolLM2 that its texts do not use; stands for one image token."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '" + IMAGE_TOKEN + "\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's own template, with pictures: each stands on a line of its own."""


def build_config(text: Any, image_token_id: int, side: int = SIDE) -> Any:
    """Return the configuration of a FastVLM with EfficientNet-Lite2 before the given text model.

    Parameters
    ----------
    text : PreTrainedConfig
        Configuration of the language model.
    image_token_id : int
        Id that stands for one image token in a prompt.
    side : int
        Pictures are squares of so many pixels.

    Returns
    -------
    FastVlmConfig
    """
    from transformers import FastVlmConfig

    return FastVlmConfig(
        vision_config=lite2_config(side),
        text_config=text,
        image_token_index=image_token_id,
        image_seq_length=(side // STRIDE) ** 2,
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )


def build_processor(tokenizer: Any, side: int = SIDE, image_token: str = IMAGE_TOKEN) -> Any:
    """Return tokenizer, image processor and chat template together; pictures are squeezed into a square."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    square = {"height": side, "width": side}
    pictures = CLIPImageProcessorPil(
        size=square,
        crop_size=square,
        do_center_crop=False,
        resample=RESAMPLE,
        image_mean=[MEAN] * 3,
        image_std=[DEVIATION] * 3,
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=STRIDE,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token=image_token,
        chat_template=CHAT_TEMPLATE.replace(IMAGE_TOKEN, image_token),
    )
