"""Original-format checkpoints: the converted folder computes what the original did, for every recipe."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors import safe_open
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import visualheads as vh
from helpers import original_layout as layout
from helpers.networks import picture
from visualheads.cards import DATA_VARIABLE, cards
from visualheads.models.conversion import configs, sources, write
from visualheads.models.conversion import weights as plan
from visualheads.models.conversion import weights as planning
from visualheads.models.conversion.configs import PROMPTS, prompt_name
from visualheads.models.conversion.sources import read_pieces, words_of

QUESTION = "how many cars ?"
SIZE = (40, 25)


def reloaded(folder):
    """(model, processor) as anybody would load them."""
    module = transformers.AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
    return module.eval(), transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)


def encoded(processor, size=SIZE, question=QUESTION):
    content = [{"type": "image"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=prompt, images=picture(1, *size), return_tensors="pt")


CASES = {
    "llava-llama": ({"text": "llama"}, {"shards": 2}),
    "llava-phi3-padded": ({"text": "phi3", "padded": 5}, {"shards": 1}),
    "llava-phi3-full": ({"text": "phi3"}, {"shards": 3, "form": "safetensors"}),
    "vip-llama": ({"recipe": "vip", "padded": 1}, {"shards": 2}),
    "vip-phi3": ({"text": "phi3", "recipe": "vip"}, {"shards": 2, "form": "safetensors"}),
    "next-mistral": ({"text": "mistral", "recipe": "1.6", "tuned_tower": True}, {"shards": 2}),
    "next-llama": ({"text": "llama", "recipe": "1.6"}, {"shards": 1, "form": "safetensors"}),
}
CLASSES = {"llava": "Llava", "vip": "VipLlava", "next": "LlavaNext"}


@pytest.mark.parametrize("case", CASES)
def test_the_converted_folder_gives_the_originals_logits(case, tmp_path):
    model, files = CASES[case]
    built = layout.build(**model)
    source = layout.write(built, tmp_path / "original", **files)
    tower = layout.write_tower(built, tmp_path / "tower")
    made = vh.convert(source, tmp_path / "new", tower=tower, progress=False, shard_bytes=20_000)
    assert made.class_name == f"{CLASSES[case.split('-')[0]]}ForConditionalGeneration"
    assert made.files > 1
    module, processor = reloaded(made.target)
    assert type(module).__name__ == made.class_name
    for size in (SIZE, (20, 50)):
        inputs = encoded(processor, size)
        pixels = inputs["pixel_values"].flatten(0, -4)
        with torch.no_grad():
            new = module(**inputs).logits[0]
        old = layout.logits(built, inputs["input_ids"][0], made.image_token_id, pixels, size)
        rows = old.shape[-1]
        torch.testing.assert_close(new[:, :rows], old, atol=1e-5, rtol=1e-5)
        assert torch.equal(new.argmax(dim=-1), old.argmax(dim=-1)), "an added token is never the answer"
        mean = old.mean(dim=-1, keepdim=True).expand(-1, made.rows_added)
        torch.testing.assert_close(new[:, rows:], mean, atol=1e-4, rtol=0)


def test_the_picture_is_padded_as_the_original_pads_it(tmp_path):
    built = layout.build()
    tower = layout.write_tower(built, tmp_path / "tower")
    made = vh.convert(layout.write(built, tmp_path / "old"), tmp_path / "new", tower=tower, progress=False)
    assert made.preparation == "pad"
    config = json.loads((made.target / "config.json").read_text())
    assert config["image_aspect_ratio"] == "pad"
    model = vh.load(made.target)
    photo, (mean, std) = picture(3, 50, 20), ([0.5, 0.4, 0.3], [0.2, 0.3, 0.25])
    square = Image.new("RGB", (50, 50), tuple(int(value * 255) for value in mean))
    square.paste(photo, (0, 15))
    small = np.asarray(square.resize((layout.SIDE, layout.SIDE), Image.Resampling.BICUBIC), dtype=float)
    expected = (small / 255 - mean) / std
    prepared = model.processor.image_processor(photo, return_tensors="pt")["pixel_values"][0].permute(1, 2, 0)
    np.testing.assert_allclose(prepared.numpy(), expected, atol=0.03)
    assert model.token_map((50, 20)).in_box((0, 0, 50, 20)).sum() == 2 * layout.GRID, "half of the rows are padding"


def test_without_padding_the_picture_is_cropped(tmp_path):
    built = layout.build()
    built.config["image_aspect_ratio"] = None
    tower = layout.write_tower(built, tmp_path / "tower")
    made = vh.convert(layout.write(built, tmp_path / "old"), tmp_path / "new", tower=tower, progress=False)
    _, processor = reloaded(made.target)
    assert made.preparation == "crop"
    assert type(processor.image_processor).__name__.startswith("CLIPImageProcessor")


def test_image_gets_a_free_id_and_the_vocabulary_grows_only_when_it_must(tmp_path):
    built = layout.build("phi3", padded=4)
    tower = layout.write_tower(built, tmp_path / "tower")
    made = vh.convert(layout.write(built, tmp_path / "a"), tmp_path / "b", tower=tower, progress=False)
    words = len(built.words)
    assert (made.image_token_id, made.rows_added, made.vocabulary) == (words, 0, words + 4)
    with safe_open(made.target / "model.safetensors", "pt") as weights:
        assert torch.equal(weights.get_tensor(plan.OUTPUT), built.text.lm_head.weight)
        assert torch.equal(weights.get_tensor(plan.EMBEDDING), built.text.model.embed_tokens.weight)
    built = layout.build("phi3")
    made = vh.convert(layout.write(built, tmp_path / "c"), tmp_path / "d", tower=tower, progress=False)
    assert made.image_token_id == words
    assert made.vocabulary == 64 * (words // 64 + 1) == words + made.rows_added
    with safe_open(made.target / "model.safetensors", "pt") as weights:
        for name, old in ((plan.OUTPUT, built.text.lm_head), (plan.EMBEDDING, built.text.model.embed_tokens)):
            new = weights.get_tensor(name)
            assert torch.equal(new[:words], old.weight)
            torch.testing.assert_close(new[words:], old.weight.mean(0).expand(made.rows_added, -1))
    processor = transformers.AutoProcessor.from_pretrained(made.target)
    assert processor.tokenizer.convert_ids_to_tokens(made.image_token_id) == "<image>"
    assert processor.tokenizer("how many ?")["input_ids"] == built.words("how many ?")["input_ids"]


def test_a_token_that_is_there_already_is_kept(tmp_path):
    built = layout.build(padded=3)
    built.words.add_tokens(["<image>"], special_tokens=True)
    tower = layout.write_tower(built, tmp_path / "tower")
    made = vh.convert(layout.write(built, tmp_path / "old"), tmp_path / "new", tower=tower, progress=False)
    assert (made.image_token_id, made.rows_added) == (len(built.words) - 1, 0)


def test_the_converted_model_is_traced_and_knows_its_end(tmp_path):
    built = layout.build("phi3", padded=2)
    tower = layout.write_tower(built, tmp_path / "tower")
    made = vh.convert(layout.write(built, tmp_path / "old"), tmp_path / "new", tower=tower, progress=False)
    model = vh.load(made.target)
    assert model.shape == (2, 4, 4)
    vocabulary = model.tokenizer.get_vocab()
    assert model.end_tokens == {vocabulary["</s>"], vocabulary["<|end|>"]}
    samples = [vh.Sample("a", picture(1), QUESTION, "three")]
    ds = vh.trace(model, samples)
    assert ds["image_weight"].shape == (1, 2, 4, 1)
    assert int(ds["n_image_tokens"].item()) == layout.GRID**2


@pytest.mark.parametrize("place", ["absolute", "beside"])
def test_the_tower_is_found_through_the_config(place, tmp_path):
    built = layout.build()
    tower = layout.write_tower(built, tmp_path / "old" / "clip" if place == "beside" else tmp_path / "clip")
    built.config["mm_vision_tower"] = "clip" if place == "beside" else str(tower)
    (tmp_path / "old").rename(tmp_path / "kept") if place == "beside" else None
    source = layout.write(built, tmp_path / "old")
    if place == "beside":
        (tmp_path / "kept" / "clip").rename(source / "clip")
    made = vh.convert(source, tmp_path / "new", progress=False)
    assert made.tower == "clip"


def test_a_tuned_tower_is_taken_from_the_checkpoint(tmp_path):
    built = layout.build(recipe="1.6", tuned_tower=True)
    tower = layout.write_tower(layout.build(recipe="1.6", seed=9), tmp_path / "tower")
    made = vh.convert(layout.write(built, tmp_path / "old"), tmp_path / "new", tower=tower, progress=False)
    assert made.tower == "checkpoint"
    with safe_open(made.target / "model.safetensors", "pt") as weights:
        name = "embeddings.class_embedding"
        assert torch.equal(weights.get_tensor(f"{plan.TOWER}{name}"), built.tower.state_dict()[name])
        assert torch.equal(weights.get_tensor("image_newline"), built.newline)


def test_pinpoints_are_turned_to_height_and_width(tmp_path):
    built = layout.build(recipe="1.6", tuned_tower=True)
    built.config["image_grid_pinpoints"] = str([[16, 32], [48, 16]])
    tower = layout.write_tower(built, tmp_path / "tower")
    made = vh.convert(layout.write(built, tmp_path / "old"), tmp_path / "new", tower=tower, progress=False)
    config = transformers.AutoConfig.from_pretrained(made.target)
    assert config.image_grid_pinpoints == [[32, 16], [16, 48]]


def test_memory_holds_one_source_file_and_one_target_file(tmp_path, monkeypatch):
    built = layout.build()
    tower = layout.write_tower(built, tmp_path / "tower")
    source = layout.write(built, tmp_path / "old", shards=4)
    live: set[str] = set()
    most: list[int] = []
    written: list[int] = []
    opened, save = sources.opened, write.save_file

    def watched(file):
        live.add(file.name)
        most.append(len(live))
        yield from opened(file)
        live.discard(file.name)

    def measured(shard, path, **settings):
        written.append(sum(weight.numel() * weight.element_size() for weight in shard.values()))
        save(shard, path, **settings)

    monkeypatch.setattr(write, "opened", watched)
    monkeypatch.setattr(write, "save_file", measured)
    made = vh.convert(source, tmp_path / "new", tower=tower, progress=False, shard_bytes=16_000)
    assert max(most) == 1
    assert len(written) == made.files > 3
    assert max(written) <= 16_000
    assert sum(written) == made.size


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_is_kept_and_the_tower_follows(kind, tmp_path):
    built = layout.build()
    tower = layout.write_tower(built, tmp_path / "tower")
    built.text.to(getattr(torch, kind))
    made = vh.convert(layout.write(built, tmp_path / "old"), tmp_path / "new", tower=tower, progress=False)
    assert made.dtype == kind
    with safe_open(made.target / "model.safetensors", "pt") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    assert kinds == {{"float16": "F16", "bfloat16": "BF16"}[kind]}
    made = vh.convert(tmp_path / "old", tmp_path / "other", tower=tower, dtype="float32", progress=False)
    assert json.loads((made.target / "config.json").read_text())["dtype"] == "float32"


def test_a_card_goes_with_the_folder_and_a_name_loads_it(tmp_path, monkeypatch):
    name = "vip-phi-3-3.8B"
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(
        vh.CheckpointError, match=r"convert SOURCE .*checkpoints/vip-phi-3-3\.8B --card vip-phi-3-3\.8B"
    ):
        vh.load(name)
    built = layout.build("phi3", "vip")
    tower = layout.write_tower(built, tmp_path / "tower")
    source = layout.write(built, tmp_path / "old")
    with pytest.raises(vh.ParameterError, match=r"\(32, 32, 32\).*\(2, 4, 4\)"):
        vh.convert(source, tmp_path / "new", tower=tower, card=name, progress=False)
    with pytest.raises(vh.UnknownModelError, match="did you mean"):
        vh.convert(source, tmp_path / "new", tower=tower, card="vip-phi3-3.8B", progress=False)
    assert not (tmp_path / "new").exists()
    small = cards()[name].model_copy(update={"layers": 2, "heads": 4, "kv_heads": 4})
    monkeypatch.setitem(cards(), name, small)
    vh.convert(source, tmp_path / "checkpoints" / name, tower=tower, card=name, progress=False)
    assert vh.load(name, validate=False).card is small
    elsewhere = vh.convert(source, tmp_path / "elsewhere", tower=tower, card=name, progress=False).target
    assert vh.load(elsewhere, validate=False).card is small
    assert vh.catalog().loc[name, "available"]


VICUNA = (
    "A chat between a curious {0} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {0}'s questions. "
)
HELPFUL = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vicuna_v1", f"{VICUNA.format('user')}USER: <image>\nHow many? ASSISTANT:"),
        ("llava_v1", f"{VICUNA.format('human')}USER: <image>\nHow many? ASSISTANT:"),
        ("plain", "USER: <image>\nHow many? ASSISTANT:"),
        ("mistral_instruct", "[INST] <image>\nHow many? [/INST]"),
        ("llava_phi_3", f"<|system|>\n{HELPFUL}<|end|>\n<|user|>\n<image>\nHow many?<|end|>\n<|assistant|>\n"),
        (
            "llava_llama_3",
            f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{HELPFUL}<|eot_id|><|start_header_id|>user"
            "<|end_header_id|>\n\n<image>\nHow many?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
    ],
)
def test_prompts_are_those_of_the_recipes(name, expected):
    words = layout.words_of("llama")
    content = [{"type": "text", "text": "How many?"}, {"type": "image"}]
    template = PROMPTS[name].template()
    shown = words.apply_chat_template(
        [{"role": "user", "content": content}], chat_template=template, add_generation_prompt=True, tokenize=False
    )
    assert shown == expected
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    told = words.apply_chat_template(turns, chat_template=template, tokenize=False)
    assert told.endswith(PROMPTS[name].assistant[0] + "A" + PROMPTS[name].assistant[1])


def test_which_prompt_a_recipe_has():
    assert prompt_name(None, "llama", False, set()) == "vicuna_v1"
    assert prompt_name(None, "llama", True, set()) == "llava_v1"
    assert prompt_name(None, "llama", True, {"<|start_header_id|>"}) == "llava_llama_3"
    assert prompt_name(None, "mistral", False, set()) == "mistral_instruct"
    assert prompt_name(None, "phi3", True, set()) == "llava_phi_3"
    assert prompt_name("plain", "phi3", True, set()) == "plain"
    with pytest.raises(vh.ParameterError, match="vicuna_v1"):
        prompt_name("vicuna", "llama", False, set())


def field(number: int, value: bytes | int | float) -> bytes:
    """One field of a protocol buffer message; lengths below 128."""
    if isinstance(value, bytes):
        return bytes([number << 3 | 2, len(value)]) + value
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    return bytes([number << 3, value])


def pieces(model_type: int = 2) -> bytes:
    """A SentencePiece BPE model: control tokens, one byte, letters, and joins "ca", "car", "▁car" by falling score."""
    kinds = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("<0x0A>", 6), *((letter, 1) for letter in "▁acrs")]
    joined = [("ca", -1.0), ("car", -2.0), ("▁car", -3.0), ("ar", -4.0)]
    content = b"".join(field(1, field(1, text.encode()) + field(2, 0.0) + field(3, kind)) for text, kind in kinds)
    content += b"".join(field(1, field(1, text.encode()) + field(2, score)) for text, score in joined)
    return content + field(2, field(3, model_type)) + field(3, field(1, b"identity"))


def test_sentencepiece_models_are_read(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(pieces())
    vocabulary, merges = read_pieces(path)
    assert list(vocabulary)[:5] == ["<unk>", "<s>", "</s>", "<0x0A>", "▁"]
    assert vocabulary["▁car"] == 11
    assert merges == [("c", "a"), ("c", "ar"), ("ca", "r"), ("▁", "car"), ("a", "r")]
    for content, told in ((pieces(1), "no SentencePiece BPE"), (pieces()[:25], "damaged"), (b"\xff" * 9, "damaged")):
        path.write_bytes(content)
        with pytest.raises(vh.CheckpointError, match=told):
            read_pieces(path)


def test_a_checkpoint_with_a_sentencepiece_model_only_is_converted(tmp_path):
    built = layout.build()
    tower = layout.write_tower(built, tmp_path / "tower")
    source = layout.write(built, tmp_path / "old", tokenizer=False)
    (source / "tokenizer.model").write_bytes(pieces())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False, **special}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    made = vh.convert(source, tmp_path / "new", tower=tower, progress=False)
    words = transformers.AutoProcessor.from_pretrained(made.target).tokenizer
    assert made.image_token_id == 13
    assert words("cars\ncar")["input_ids"] == [1, 11, 8, 3, 10]
    assert words.decode([11, 8, 3, 10]) == "cars\ncar"
    assert words("car<image>car")["input_ids"][2] == 13


REAL = {
    "1.5-7B": ("llama", (4096, 11008, 32, 32, 32), 32000, 32000, 7.06),
    "1.6-mistral-7B": ("mistral", (4096, 14336, 32, 32, 8), 32000, 32000, 7.57),
    "vip-phi-3-3.8B": ("phi3", (3072, 8192, 32, 32, 32), 32064, 32011, 4.15),
    "vip-llama-3-8B": ("llama", (4096, 14336, 32, 32, 8), 128256, 128256, 8.37),
}
"""Language model, its shape (hidden, intermediate, layers, heads, kv heads), rows, tokens, billions of parameters."""


@pytest.mark.parametrize("name", REAL)
def test_real_shapes_are_planned_without_weights(name, tmp_path):
    text, (hidden, intermediate, layers, heads, kv_heads), rows, tokens, billions = REAL[name]
    vip, tiles = name.startswith("vip"), name.startswith("1.6")
    kind = {"llama": transformers.LlamaConfig, "mistral": transformers.MistralConfig, "phi3": transformers.Phi3Config}
    settings = {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": rows, "pad_token_id": 0,
        "mm_vision_tower": "clip_4layers_336" if vip else "openai/clip-vit-large-patch14-336",
        "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "mm_patch_merge_type": "flat",
        "image_aspect_ratio": "anyres" if tiles else "pad",
    }  # fmt: skip
    if tiles:
        settings |= {"mm_patch_merge_type": "spatial_unpad", "image_grid_pinpoints": [[336, 672], [672, 336]]}
    with torch.device("meta"):
        language = transformers.AutoModelForCausalLM.from_config(
            kind[text](**{key: value for key, value in settings.items() if not key.startswith(("mm_", "image_"))})
        )
        tower = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**configs.CLIP_L))
    width = 1024 * (5 if vip else 1)
    shapes = {key: tuple(weight.shape) for key, weight in language.state_dict().items()}
    shapes |= {
        f"model.vision_tower.vision_tower.vision_model.{key.removeprefix('vision_model.')}": tuple(weight.shape)
        for key, weight in tower.state_dict().items()
    }
    place = "model.mm_projector.final_linear." if vip else "model.mm_projector."
    for index, inputs in ((0, width), (2, hidden)):
        shapes |= {f"{place}{index}.weight": (hidden, inputs), f"{place}{index}.bias": (hidden,)}
    if vip:
        shapes |= {f"model.mm_projector.clip_layernorm.{key}": (width,) for key in ("weight", "bias")}
    if tiles:
        shapes["model.image_newline"] = (hidden,)
    headers = {key: sources.Header(tmp_path / "a.bin", shape, torch.float16) for key, shape in shapes.items()}
    original = sources.Original(tmp_path, settings, text, headers)
    recipe = configs.recipe_of(original)
    assert recipe.class_name == cards()[name].class_name
    core = Tokenizer(models.WordLevel({f"w{index}": index for index in range(tokens)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="w0").save_pretrained(tmp_path)
    words = words_of(tmp_path, planning.embedding_of(original).shape[0])
    assert words.image_id == tokens
    assert words.rows == (rows if tokens < rows else rows + 64)
    config = configs.model_config(
        original, recipe, configs.tower_config(settings["mm_vision_tower"], None), words, "float16"
    )
    planned = planning.plan(original, None, recipe.class_name, config, torch.float16, 2 * 10**9)
    assert planned.size / 2e9 == pytest.approx(billions, abs=0.01)
    assert config.image_seq_length == 576
    assert cards()[name].shape == (layers, heads, kv_heads)
