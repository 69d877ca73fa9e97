"""A small learner in memory: random language model and tower, the shipped sprites, nothing from packages."""

from __future__ import annotations

import random
import re
from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import EfficientNetConfig, EfficientNetModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from helpers.project import ROOT
from visualheads.miniatures.smol.packing import Learner
from visualheads.miniatures.smol.scenes import use_sheet
from visualheads.miniatures.smol.sprites import CLASSES, COLOURS, PLURAL, WORLD, SpriteSheet, read_sheet
from visualheads.miniatures.smol.training import Mix, training_rows
from visualheads.models.smol.architecture import IMAGE_TOKEN, IMAGE_TOKENS, SIDE, Projector, build_processor

DATA = ROOT / "data" / "smol"
FEATURES = 64
SPECIAL = ("<|im_start|>", "<|im_end|>", IMAGE_TOKEN)
WORDS = """How many are there Is a an in the image Answer question using single word or phrase with option s letter from
given choices directly system user assistant You helpful AI named SmolLM trained by Hugging Face List objects left to
right their numbers What is object within rectangle The exemplary of these A B C D Yes No Which following can be seen
colour Where when above below Image 0 1 2 3 4 5 6 7 8 9""".split()  # noqa: SIM905  (a list of so many words is not easier to read)


@cache
def sheet() -> SpriteSheet:
    """The shipped sprites, with which scenes can be drawn from then on."""
    found = read_sheet(DATA)
    use_sheet(found)
    return found


@cache
def word_tokenizer() -> PreTrainedTokenizerFast:
    """Words, digits and punctuation of the emoji world; line breaks are tokens."""
    words = dict.fromkeys(["<unk>", *SPECIAL, "\n", *".,?'", *WORDS, *CLASSES, *PLURAL.values(), *WORLD, *COLOURS])
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(re_pattern(r"\w+|\n|[^\w\s]"), "removed", invert=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    fast.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    return fast


def re_pattern(text: str):
    from tokenizers import Regex

    re.compile(text)
    return Regex(text)


def llama_config(vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, vocab_size=vocabulary, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip


def tower_config() -> EfficientNetConfig:
    config = EfficientNetConfig(
        image_size=SIDE, width_coefficient=0.05, depth_coefficient=0.3, hidden_dim=FEATURES, hidden_act="relu6"
    )
    config.hidden_size = FEATURES
    return config


def lively(tower):
    """The tower with normalisations that do not hush it: drawn as transformers draws them, it tells nothing."""
    for part in tower.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(part.weight)
        elif isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
    return tower


def learner(seed: int = 0) -> Learner:
    """A fresh learner; the same for the same seed."""
    words, sprites = word_tokenizer(), sheet()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        language = LlamaForCausalLM(llama_config(len(words))).eval().requires_grad_(False)
        tower = lively(EfficientNetModel(tower_config())).eval().requires_grad_(False)
        made = Learner(words, language, tower, Projector(FEATURES, 32), sprites)
    _, pictures = training_rows(made, random.Random(0), Mix(2))
    made.adapter.standardise(made.features(pictures), 0.02)
    return made


@cache
def fast_vlm():
    """A random FastVLM of the same shape as the learner's parts, and its processor."""
    from transformers import FastVlmConfig, FastVlmForConditionalGeneration

    words = word_tokenizer()
    config = FastVlmConfig(
        vision_config=tower_config(), text_config=llama_config(len(words)),
        image_token_index=words.convert_tokens_to_ids(IMAGE_TOKEN), image_seq_length=IMAGE_TOKENS,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = FastVlmForConditionalGeneration(config).eval().requires_grad_(False)
        lively(module.model.vision_tower)
    return module, build_processor(words)
