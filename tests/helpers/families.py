"""Small random models and processors of the families beyond LLaVA 1.5, 1.6 and ViP, built in memory."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers as hf

from helpers.networks import CHAT_TEMPLATE, Tiny, llava, seeded, text_config, tokenizer
from visualheads.models.adapters import adapter_of
from visualheads.models.processors import image_only

LORA_TARGETS = r".*language_model.*\.(q_proj|v_proj)"
TINY = Tiny(text="qwen2", layers=2)
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}


def siglip(image: int, patch: int) -> hf.SiglipVisionConfig:
    return hf.SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=image,
        patch_size=patch, vision_use_head=False,
    )  # fmt: skip


def onevision(implementation: str, most: int = 4):
    words = tokenizer({"video_token": "<video>"})
    side = 60  # 4 patches of 13 and 8 pixels more, as 384 is 27 patches of 14 and 6 more
    pinpoints = [[side * rows, side * columns] for rows in range(1, 5) for columns in range(1, 5)]
    config = hf.LlavaOnevisionConfig(
        vision_config=siglip(side, 13), text_config=text_config(TINY, len(words)), image_token_index=4,
        video_token_index=5, image_grid_pinpoints=pinpoints, vision_aspect_ratio=f"anyres_max_{most}",
    )  # fmt: skip
    pictures = hf.LlavaOnevisionImageProcessorPil(size={"height": side, "width": side}, image_grid_pinpoints=pinpoints)
    processor = image_only(hf.LlavaOnevisionProcessor)(
        pictures, words, None, num_image_tokens=16, vision_feature_select_strategy="full", image_token="<image>",
        video_token="<video>", vision_aspect_ratio=f"anyres_max_{most}",
    )  # fmt: skip
    return seeded(hf.LlavaOnevisionForConditionalGeneration, config, 0, implementation), processor


def qwen(version: str, implementation: str):
    words = tokenizer(
        {
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "start": "<|vision_start|>",
            "end": "<|vision_end|>",
        },
        CHAT_TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": len(words), "rope_parameters": ROPE, "initializer_range": 0.15,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    marks = {"image_token_id": 4, "video_token_id": 5, "vision_start_token_id": 6, "vision_end_token_id": 7}
    vision: dict[str, object] = {"depth": 2, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2}
    if version == "2":
        vision |= {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
        config, made = (
            hf.Qwen2VLConfig(text_config=text, vision_config=vision, **marks),
            hf.Qwen2VLForConditionalGeneration,
        )
    elif version == "2.5":
        vision |= {
            "hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "window_size": 32,
            "fullatt_block_indexes": [1],
        }  # fmt: skip
        config = hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **marks)
        made = hf.Qwen2_5_VLForConditionalGeneration
    else:
        vision |= {
            "hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        }  # fmt: skip
        config = hf.Qwen3VLConfig(text_config={**text, "head_dim": 8}, vision_config=vision, **marks)
        made = hf.Qwen3VLForConditionalGeneration
    kind = {"2": hf.Qwen2VLProcessor, "2.5": hf.Qwen2_5_VLProcessor, "3": hf.Qwen3VLProcessor}[version]
    pictures = hf.Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, size={"shortest_edge": 16 * 256, "longest_edge": 64 * 256}
    )
    return seeded(made, config, 0, implementation), image_only(kind)(pictures, words, None)


def internvl(implementation: str):
    words = tokenizer(
        {"image_token": "<IMG_CONTEXT>", "start_image_token": "<img>", "end_image_token": "</img>",
         "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"},
        CHAT_TEMPLATE.replace("<image>", "<IMG_CONTEXT>"),
    )  # fmt: skip
    side = 72
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=[side, side],
            patch_size=[12, 12],
        ),
        text_config=text_config(TINY, len(words)), image_token_id=words.context_image_token_id, image_seq_length=9,
    )  # fmt: skip
    pictures = hf.GotOcr2ImageProcessorPil(
        size={"height": side, "width": side}, crop_to_patches=True, min_patches=1, max_patches=6
    )
    processor = image_only(hf.InternVLProcessor)(pictures, words, None, image_seq_length=9)
    return seeded(hf.InternVLForConditionalGeneration, config, 0, implementation), processor


def idefics(kind: str, implementation: str):
    side = 72 if kind == "idefics3" else 80  # SmolVLM2's 384 is no multiple of its patch, 14
    marks = {f"mark{r}{c}": f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)}
    words = tokenizer(
        {**marks, "fake": "<fake_token_around_image>", "whole": "<global-img>", "end": "<end_of_utterance>"}
    )
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": side, "patch_size": 12,
    }  # fmt: skip
    text = text_config(Tiny(layers=2), len(words))
    if kind == "idefics3":
        config, made = (
            hf.Idefics3Config(vision_config=vision, text_config=text, image_token_id=4, scale_factor=2),
            hf.Idefics3ForConditionalGeneration,
        )
        pictures = hf.Idefics3ImageProcessorPil(size={"longest_edge": 3 * side}, max_image_size={"longest_edge": side})
        processor = hf.Idefics3Processor(pictures, words, image_seq_len=9)
    else:
        config, made = (
            hf.SmolVLMConfig(vision_config=vision, text_config=text, image_token_id=4, scale_factor=2),
            hf.SmolVLMForConditionalGeneration,
        )
        pictures = hf.SmolVLMImageProcessorPil(size={"longest_edge": 3 * side}, max_image_size={"longest_edge": side})
        processor = image_only(hf.SmolVLMProcessor)(pictures, words, None, image_seq_len=9)
    return seeded(made, config, 0, implementation), processor


def gemma3(implementation: str):
    words = tokenizer(
        {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        CHAT_TEMPLATE.replace("<image>", "<start_of_image>"),
    )
    config = hf.Gemma3Config(
        vision_config=siglip(80, 12),
        text_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8, "vocab_size": len(words), "sliding_window": 10,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "query_pre_attn_scalar": 8,
            "initializer_range": 0.15, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        },
        mm_tokens_per_image=9, boi_token_index=5, eoi_token_index=6, image_token_index=4, initializer_range=0.15,
    )  # fmt: skip
    pictures = hf.Gemma3ImageProcessorPil(size={"height": 80, "width": 80})
    processor = hf.Gemma3Processor(pictures, words, image_seq_length=9)
    return seeded(hf.Gemma3ForConditionalGeneration, config, 0, implementation), processor


def paligemma(version: int, implementation: str):
    words = tokenizer()
    text: dict[str, object] = {
        "model_type": "gemma" if version == 1 else "gemma2", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1 if version == 1 else 2,
        "head_dim": 8,
        "vocab_size": 1200, "initializer_range": 0.15, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    if version == 2:
        text |= {"sliding_window": 64, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0}
    config = hf.PaliGemmaConfig(
        vision_config=siglip(56, 14).to_dict() | {"projection_dim": 32}, text_config=text, image_token_index=4,
        projection_dim=32, hidden_size=32,
    )  # fmt: skip
    pictures = hf.SiglipImageProcessorPil(size={"height": 56, "width": 56})
    pictures.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(pictures, words)
    chosen = "eager" if version == 2 else implementation
    return seeded(hf.PaliGemmaForConditionalGeneration, config, 0, chosen), processor


def fast_vlm(implementation: str):
    words = tokenizer({})
    side = 96
    vision = hf.EfficientNetConfig(
        image_size=side, width_coefficient=0.05, depth_coefficient=0.3, hidden_dim=64, hidden_act="relu6"
    )
    vision.hidden_size = 64
    config = hf.FastVlmConfig(
        vision_config=vision, text_config=text_config(TINY, len(words)), image_token_index=4, image_seq_length=9
    )
    square = {"height": side, "width": side}
    pictures = hf.CLIPImageProcessorPil(size=square, crop_size=square, do_center_crop=False)
    processor = hf.LlavaProcessor(pictures, words, patch_size=32, vision_feature_select_strategy="full")
    chosen = adapter_of("FastVlmForConditionalGeneration").attention_setting(implementation)
    return seeded(hf.FastVlmForConditionalGeneration, config, 0, chosen), processor


NEEDS_NUM2WORDS = pytest.mark.skipif(
    find_spec("num2words") is None, reason="SmolVLM's processor needs the package num2words"
)
FAMILIES = {
    "fast_vlm": fast_vlm,
    "onevision": onevision,
    "qwen2-vl": lambda implementation: qwen("2", implementation),
    "qwen2.5-vl": lambda implementation: qwen("2.5", implementation),
    "qwen3-vl": lambda implementation: qwen("3", implementation),
    "internvl": internvl,
    "idefics3": lambda implementation: idefics("idefics3", implementation),
    "smolvlm": lambda implementation: idefics("smolvlm", implementation),
    "gemma3": gemma3,
    "paligemma": lambda implementation: paligemma(1, implementation),
    "paligemma2": lambda implementation: paligemma(2, implementation),
}


def save(module: torch.nn.Module, processor: object, folder: Path) -> Path:
    """A folder as save_pretrained of model and processor writes it, where torchvision is installed too."""
    module.save_pretrained(folder)
    processor.save_pretrained(folder)
    if hasattr(processor, "video_processor"):
        file = folder / "processor_config.json"
        settings = json.loads(file.read_text())
        kind = type(processor).__name__.replace("Processor", "VideoProcessor").replace("2_5_VL", "2VL")
        settings["video_processor"] = {"video_processor_type": kind, "do_resize": True, "size": {"longest_edge": 64}}
        file.write_text(json.dumps(settings))
    return folder


@cache
def family(name: str, implementation: str = "sdpa"):
    """A small model, validated, built once per test session: do not change it.

    From a saved folder, as users have it; with eager attention, which only tests ask for, from memory.
    """
    from visualheads.models.loading import load, wrap

    with torch.random.fork_rng(devices=[]):
        module, processor = FAMILIES[name](implementation)
    if implementation != "sdpa":
        return wrap(module, processor, name=name)
    with tempfile.TemporaryDirectory() as place:
        return load(save(module, processor, Path(place) / name))


def tuned(module: torch.nn.Module, seed: int = 1):
    """The module with a LoRA whose matrices are all drawn at random, as after training."""
    import peft

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = peft.get_peft_model(module, peft.LoraConfig(r=2, target_modules=LORA_TARGETS, init_lora_weights=False))
        for name, weight in made.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.3)
    return made


def save_tuned(base: Path, folder: Path) -> Path:
    """A folder of LoRA files that names the small LLaVA in `base`."""
    tuned(llava()[0]).save_pretrained(folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(base)}))
    return folder
