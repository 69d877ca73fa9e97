"""Small random models in the original LLaVA layout: folders as the original code writes them, and its forward pass.

The forward pass is written out here in plain PyTorch, apart from the library: tower states → projector → spliced into
the text's embeddings → language model. Language model and tower are transformers' own modules.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from helpers.networks import WORDS

HIDDEN, TOWER_HIDDEN, PATCH, GRID = 32, 8, 4, 4
SIDE = PATCH * GRID
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [3 * SIDE, SIDE], [SIDE, 3 * SIDE]]
VIP_LAYERS = (-2, -5, -8, -11, 6)
MARKS = {
    "llama": [],
    "mistral": ["[INST]", "[/INST]"],
    "phi3": ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"],
}
ARCHITECTURES = {"llama": "LlavaLlamaForCausalLM", "mistral": "LlavaMistralForCausalLM", "phi3": "LlavaPhi3ForCausalLM"}


@dataclass
class Built:
    """A model in memory: its parts, and the settings its folder gets."""

    text: Any
    tower: Any
    projector: nn.Module
    newline: Tensor | None
    words: Any
    config: dict[str, Any]
    vip: bool
    tuned_tower: bool
    extra: dict[str, Tensor] = field(default_factory=dict)

    def state(self) -> dict[str, Tensor]:
        """The weights under the original names, with the buffers that old checkpoints carry."""
        found = dict(self.text.state_dict())
        place = "final_linear." if self.vip else ""
        for name, weight in self.projector.state_dict().items():
            part = "clip_layernorm." if name.startswith("0.") and self.vip else None
            if self.vip and part is None:
                name = f"{int(name[0]) - 1}{name[1:]}"
            found[f"model.mm_projector.{part + name[2:] if part else place + name}"] = weight
        if self.newline is not None:
            found["model.image_newline"] = self.newline
        if self.tuned_tower:
            for name, weight in tower_state(self.tower).items():
                found[f"model.vision_tower.vision_tower.{name}"] = weight
        found["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        return {**found, **self.extra}


def tower_state(tower: Any) -> dict[str, Tensor]:
    """The tower's weights under the names of CLIP's own checkpoints."""
    bare = {name.removeprefix("vision_model."): weight for name, weight in tower.state_dict().items()}
    return {f"vision_model.{name}": weight for name, weight in bare.items()} | {
        "vision_model.embeddings.position_ids": torch.arange(GRID**2 + 1)[None]
    }


def words_of(text: str, more: int = 0) -> Any:
    """A word-level tokenizer without an image token; `more` reserved tokens at its end."""
    names = ["<unk>", "<s>", "</s>", *WORDS, *MARKS[text], *(f"<reserved {index}>" for index in range(more))]
    core = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=MARKS[text],
    )  # fmt: skip


def build(text: str = "llama", recipe: str = "1.5", padded: int = 0, seed: int = 0, tuned_tower: bool = False) -> Built:
    """A random model of a recipe: "1.5", "1.6" or "vip"; `padded` rows of its embedding have no token."""
    words = words_of(text)
    rows = len(words) + padded
    settings: dict[str, Any] = {
        "hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4 if text == "phi3" else 2, "vocab_size": rows, "max_position_embeddings": 512,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2, "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5,
    }  # fmt: skip
    if text != "llama":
        settings["sliding_window"] = None if text == "mistral" else 500
    kind = {"llama": transformers.LlamaConfig, "mistral": transformers.MistralConfig, "phi3": transformers.Phi3Config}
    vision = transformers.CLIPVisionConfig(
        hidden_size=TOWER_HIDDEN, intermediate_size=16, num_hidden_layers=12 if recipe == "vip" else 3,
        num_attention_heads=2, image_size=SIDE, patch_size=PATCH, projection_dim=8, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        language = transformers.AutoModelForCausalLM.from_config(kind[text](**settings, rope_theta=5000.0)).eval()
        tower = transformers.CLIPVisionModel(vision).eval()
        width = TOWER_HIDDEN * (len(VIP_LAYERS) if recipe == "vip" else 1)
        parts: list[nn.Module] = [nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN)]
        if recipe == "vip":
            norm = nn.LayerNorm(width)
            nn.init.normal_(norm.weight)
            parts.insert(0, norm)
        projector = nn.Sequential(*parts).eval()
        newline = torch.randn(HIDDEN) if recipe == "1.6" else None
    config = settings | {
        "architectures": [ARCHITECTURES[text]], "model_type": f"llava_{text}", "rope_theta": 5000.0,
        "hidden_act": "silu", "torch_dtype": "float32", "transformers_version": "4.37.2", "use_cache": True,
        "mm_vision_tower": "clip_4layers_336" if recipe == "vip" else "openai/clip-vit-large-patch14-336",
        "mm_hidden_size": width, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch", "mm_use_im_start_end": False, "mm_use_im_patch_token": False,
        "image_aspect_ratio": "anyres" if recipe == "1.6" else "pad", "tune_mm_mlp_adapter": False,
        "mm_patch_merge_type": "spatial_unpad" if recipe == "1.6" else "flat", "use_mm_proj": True,
    }  # fmt: skip
    if recipe == "1.6":
        config["image_grid_pinpoints"] = PINPOINTS
    return Built(language, tower, projector, newline, words, config, recipe == "vip", tuned_tower)


def write(built: Built, folder: Path, shards: int = 2, form: str = "bin", tokenizer: bool = True) -> Path:
    """The original folder: config, tokenizer, sharded .bin files or safetensors with their index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(built.config))
    if tokenizer:
        built.words.save_pretrained(folder)
    state = list(built.state().items())
    stem, ending = ("pytorch_model", "bin") if form == "bin" else ("model", "safetensors")
    placed: dict[str, str] = {}
    for index in range(shards):
        part = dict(state[index::shards])
        name = f"{stem}.{ending}" if shards == 1 else f"{stem}-{index + 1:05}-of-{shards:05}.{ending}"
        save(part, folder / name)
        placed |= dict.fromkeys(part, name)
    if shards > 1:
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder


def save(part: dict[str, Tensor], path: Path) -> None:
    """A file of weights, in the format of its name."""
    if path.suffix == ".bin":
        torch.save(part, path)
    else:
        save_file({name: weight.contiguous() for name, weight in part.items()}, path)


def write_tower(built: Built, folder: Path) -> Path:
    """A folder as CLIP's own: both halves of the model, pickled, and how pictures are prepared."""
    folder.mkdir(parents=True)
    vision = {name: value for name, value in built.tower.config.to_dict().items() if name != "model_type"}
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": vision, "text_config": {}}))
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.25], "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    other = {
        "logit_scale": torch.ones(()), "text_projection.weight": torch.ones(2, 2),
        "visual_projection.weight": torch.ones(2, 2), "text_model.embeddings.position_ids": torch.arange(3),
        "text_model.encoder.layers.0.mlp.fc1.weight": torch.ones(2, 2),
    }  # fmt: skip
    torch.save({**tower_state(built.tower), **other}, folder / "pytorch_model.bin")
    return folder


@torch.no_grad()
def logits(built: Built, ids: Tensor, image_id: int, pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(token, vocabulary) logits of the original forward pass.

    ids         (token,) prompt in which the picture is a run of `image_id`
    pixels      (tile, 3, height, width)
    size        (width, height) of the original picture
    """
    states = built.tower(pixels, output_hidden_states=True).hidden_states
    chosen = [states[layer][:, 1:] for layer in (VIP_LAYERS if built.vip else (-2,))]
    features = built.projector(torch.cat(chosen, dim=-1))
    pictures = packed(features, built, size) if built.newline is not None else features[0]
    places = (ids == image_id).nonzero().flatten()
    first, last = int(places[0]), int(places[-1])
    assert last - first + 1 == len(places) == len(pictures)
    embed = built.text.get_input_embeddings()
    embeddings = torch.cat([embed(ids[:first]), pictures, embed(ids[last + 1 :])])
    return built.text(inputs_embeds=embeddings[None]).logits[0]


def packed(features: Tensor, built: Built, size: tuple[int, int]) -> Tensor:
    """AnyRes: the whole picture, then the joined tiles without their padding, a newline after each row."""
    width, height = size

    def fit(shape: list[int]) -> tuple[float, float]:
        scale = min(shape[0] / width, shape[1] / height)
        used = min(int(width * scale) * int(height * scale), width * height)
        return used, -(shape[0] * shape[1] - used)

    columns, rows = (edge // SIDE for edge in max(built.config["image_grid_pinpoints"], key=fit))
    assert len(features) == 1 + rows * columns
    tiles = features[1:].reshape(rows, columns, GRID, GRID, HIDDEN)
    joined = tiles.permute(0, 2, 1, 3, 4).reshape(rows * GRID, columns * GRID, HIDDEN)
    if width / height > columns / rows:
        cut = (rows * GRID - int(round(height * columns * GRID / width, 7))) // 2
        joined = joined[cut : rows * GRID - cut]
    else:
        cut = (columns * GRID - int(round(width * rows * GRID / height, 7))) // 2
        joined = joined[:, cut : columns * GRID - cut]
    assert built.newline is not None
    lines = [torch.cat([line, built.newline[None]]) for line in joined]
    return torch.cat([features[0], *lines])
