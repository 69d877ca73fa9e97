"""Bad input, interruptions and leftovers: a conversion is whole or leaves nothing, and says what is wrong."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch

import visualheads as vh
from helpers import original_layout as layout
from helpers.command import run
from visualheads.models import conversion as converting
from visualheads.models.conversion import convert, write

CONVERT = partial(convert, progress=False)
FIRST = "pytorch_model-00001-of-00002.bin"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """An original folder and its tower's."""
    place = tmp_path_factory.mktemp("original")
    built = layout.build()
    return layout.write(built, place / "old"), layout.write_tower(built, place / "tower")


@pytest.fixture
def old(kept, tmp_path):
    """A copy of the original folder, to be broken."""
    return shutil.copytree(kept[0], tmp_path / "old")


@pytest.fixture
def tower(kept, tmp_path):
    return shutil.copytree(kept[1], tmp_path / "tower")


def change(folder, **settings):
    """Change settings of a config.json; None takes one away."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def weights(path, edit):
    """Change a file of weights."""
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class Danger:
    """Would run code if it were unpickled."""

    def __reduce__(self):
        return print, ("unpickled",)


SOURCES = {
    "no folder": (lambda old: shutil.rmtree(old), "got .*allowed: a local folder.*fetch"),
    "no config": (lambda old: (old / "config.json").unlink(), r"has no config\.json"),
    "broken config": (lambda old: truncate(old / "config.json"), r"config\.json cannot be read"),
    "another model": (partial(change, mm_vision_tower=None), "no LLaVA checkpoint.*mm_vision_tower"),
    "converted already": (partial(change, vision_config={}), "transformers' format already"),
    "no weights": (lambda old: [path.unlink() for path in old.glob("*.bin*")], "neither model.safetensors nor"),
    "missing shard": (lambda old: (old / FIRST).unlink(), f"lacks {FIRST}.*fetch"),
    "broken index": (lambda old: truncate(old / "pytorch_model.bin.index.json"), "index.json cannot be read"),
    "truncated": (lambda old: truncate(old / FIRST), f"{FIRST} is truncated or damaged"),
    "empty file": (lambda old: (old / FIRST).write_bytes(b""), f"{FIRST} is truncated or damaged"),
    "code": (lambda old: (old / FIRST).write_bytes(pickle.dumps(Danger(), protocol=2)), "would run code"),
    "code inside": (
        lambda old: torch.save({"a": Danger()}, old / FIRST),
        "would run code.*weights_only=False",
    ),
    "no tensors": (lambda old: torch.save({"epoch": 3}, old / FIRST), "holds a int at 'epoch'"),
    "a list": (lambda old: torch.save([torch.ones(1)], old / FIRST), "holds a list"),
    "left over": (
        lambda old: weights(old / FIRST, lambda state: state.update({"model.layers.7.mlp.up.weight": torch.ones(1)})),
        r"1 weights left over \(model\.layers\.7",
    ),
    "unknown use": (
        lambda old: weights(old / FIRST, lambda state: state.update({"model.resampler.0": torch.ones(1)})),
        r"unknown use \(model\.resampler\.0\)",
    ),
    "missing key": (
        lambda old: weights(old / FIRST, lambda state: [state.pop(name) for name in list(state) if "mlp" in name]),
        r"lacks \d+ weights \(.*mlp",
    ),
    "no embedding": (
        lambda old: [
            weights(path, lambda state: state.pop("model.embed_tokens.weight", None)) for path in old.glob("*.bin")
        ],
        r"no model\.embed_tokens\.weight",
    ),
    "not finite": (
        lambda old: [
            weights(path, lambda state: [w.view(-1)[0].fill_(float("nan")) for n, w in state.items() if "norm" in n])
            for path in old.glob("*.bin")
        ],
        "no finite numbers",
    ),
    "twice": (lambda old: shutil.copyfile(old / FIRST, old / FIRST.replace("00001", "00002")), "twice, in"),
    "other shape": (partial(change, intermediate_size=64), r"has shape \(48, 32\), but \(64, 32\)"),
    "refused settings": (partial(change, hidden_size="many"), "LlamaConfig refuses settings.*hidden_size"),
    "heads do not divide": (partial(change, num_attention_heads=5), "LlamaConfig refuses settings"),
    "no tokenizer": (lambda old: (old / "tokenizer.json").unlink(), "neither tokenizer.json nor tokenizer.model"),
    "broken tokenizer": (lambda old: truncate(old / "tokenizer.json"), "tokenizer of .* cannot be read"),
}
UNSUPPORTED = {
    "text": (
        {"architectures": ["LlavaMptForCausalLM"], "model_type": "llava_mpt"},
        "got 'LlavaMptForCausalLM, llava_mpt'",
    ),
    "projector": ({"mm_projector_type": "linear"}, "got 'linear'"),
    "marks": ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
    "scales": ({"s2": True}, "s2: got True"),
    "class token only": ({"mm_vision_select_feature": "cls"}, "patch, cls_patch"),
    "tiles without newline": ({"image_aspect_ratio": "anyres"}, "got 'anyres, flat'"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_a_bad_source_is_told_and_leaves_nothing(case, old, tower, tmp_path):
    spoil, told = SOURCES[case]
    spoil(old)
    before = set(tmp_path.iterdir())
    with pytest.raises(vh.CheckpointError, match=told):
        CONVERT(old, tmp_path / "new", tower=tower)
    assert set(tmp_path.iterdir()) == before, "neither the target nor a hidden folder"


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_recipes_without_a_class_are_refused(case, old, tower, tmp_path):
    settings, told = UNSUPPORTED[case]
    change(old, **settings)
    with pytest.raises(vh.UnsupportedModelError, match=told):
        CONVERT(old, tmp_path / "new", tower=tower)


@pytest.mark.parametrize(
    ("name", "told"), [("adapter_config.json", "LoRA adapter; merge"), ("mm_projector.bin", "projector without")]
)
def test_parts_of_a_checkpoint_are_refused(name, told, old, tower, tmp_path):
    for path in old.glob("*.bin*"):
        path.unlink()
    (old / name).write_text("{}")
    with pytest.raises(vh.CheckpointError, match=told):
        CONVERT(old, tmp_path / "new", tower=tower)


def test_a_missing_tower_is_told(old, tmp_path):
    with pytest.raises(vh.CheckpointError, match=r"fetch openai/clip-vit-large-patch14-336 .*--tower"):
        CONVERT(old, tmp_path / "new")
    with pytest.raises(vh.CheckpointError, match="local folder of a CLIP model"):
        CONVERT(old, tmp_path / "new", tower=tmp_path / "nowhere")
    change(old, mm_vision_tower="clip_4layers_336")
    with pytest.raises(vh.CheckpointError, match=r"fetch openai/clip-vit-large-patch14-336 .*--tower"):
        CONVERT(old, tmp_path / "new")


def test_a_tower_that_is_not_this_one_is_told(old, tower, tmp_path):
    weights(tower / "pytorch_model.bin", lambda state: state.pop("vision_model.pre_layrnorm.weight"))
    with pytest.raises(vh.CheckpointError, match=r"lacks 1 weights \(vision_tower\.vision_model\.pre_layrnorm"):
        CONVERT(old, tmp_path / "new", tower=tower)
    weights(tower / "pytorch_model.bin", lambda state: state.update({"head.weight": torch.ones(1)}))
    with pytest.raises(vh.CheckpointError, match="unknown use"):
        CONVERT(old, tmp_path / "new", tower=tower)
    (tower / "pytorch_model.bin").unlink()
    with pytest.raises(vh.CheckpointError, match="neither"):
        CONVERT(old, tmp_path / "new", tower=tower)
    change(tower, model_type="siglip")
    with pytest.raises(vh.UnsupportedModelError, match="got 'siglip'"):
        CONVERT(old, tmp_path / "new", tower=tower)


def test_a_tuned_tower_needs_a_known_shape(tmp_path):
    built = layout.build(tuned_tower=True)
    built.config["mm_vision_tower"] = "somebody/clip"
    source = layout.write(built, tmp_path / "old")
    with pytest.raises(vh.CheckpointError, match=r"'somebody/clip'.*shape is not known.*--tower"):
        CONVERT(source, tmp_path / "new")
    change(source, mm_vision_tower="openai/clip-vit-large-patch14-336")
    with pytest.raises(vh.CheckpointError, match=r"lacks .* weights \(vision_tower"):
        CONVERT(source, tmp_path / "new")


def test_bad_arguments_are_told(old, tower, tmp_path):
    with pytest.raises(vh.ParameterError, match="overlap"):
        CONVERT(old, old / "new", tower=tower)
    with pytest.raises(vh.ParameterError, match="allowed: float32, bfloat16, float16"):
        CONVERT(old, tmp_path / "new", tower=tower, dtype="int8")
    with pytest.raises(vh.ParameterError, match="shard_bytes"):
        CONVERT(old, tmp_path / "new", tower=tower, shard_bytes=0)
    with pytest.raises(vh.ParameterError, match="prompt: got 'vicuna'"):
        CONVERT(old, tmp_path / "new", tower=tower, prompt="vicuna")


def test_a_target_is_replaced_only_when_asked_and_only_a_checkpoint(old, tower, tmp_path):
    target = tmp_path / "new"
    first = CONVERT(old, target, tower=tower)
    (target / "mark").touch()
    with pytest.raises(vh.ParameterError, match=r"exists.*--overwrite"):
        CONVERT(old, target, tower=tower)
    assert (target / "mark").is_file()
    (old / FIRST).rename(tmp_path / FIRST)
    with pytest.raises(vh.CheckpointError, match="lacks"):
        CONVERT(old, target, tower=tower, overwrite=True)
    assert (target / "mark").is_file(), "a failed conversion does not touch what is there"
    (tmp_path / FIRST).rename(old / FIRST)
    assert CONVERT(old, target, tower=tower, overwrite=True) == first
    assert not (target / "mark").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"new", "old", "tower"}
    (tmp_path / "photos").mkdir()
    with pytest.raises(vh.ParameterError, match="no checkpoint folder"):
        CONVERT(old, tmp_path / "photos", tower=tower, overwrite=True)


@pytest.mark.parametrize("moment", ["write_weights", "check_written"])
def test_an_interrupted_conversion_leaves_nothing(moment, old, tower, tmp_path, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(converting, moment, interrupted)
    with pytest.raises(KeyboardInterrupt):
        CONVERT(old, tmp_path / "new", tower=tower)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "tower"}


KILLED = """
import sys, time
from pathlib import Path
from visualheads.models.conversion.write import hidden_folder
with hidden_folder(Path(sys.argv[1]), overwrite=False) as place:
    (place / "model.safetensors").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_conversion_left_is_removed_and_told(old, tower, tmp_path):
    target, hidden = tmp_path / "new", tmp_path / ".new.converting"
    command = [sys.executable, "-c", KILLED, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "writing"
        with pytest.raises(vh.ParameterError, match="another conversion is writing"):
            CONVERT(old, target, tower=tower)
        assert (hidden / "model.safetensors").read_bytes() == b"half", "the running one is left alone"
        process.kill()
    assert hidden.is_dir() and not target.exists()
    with pytest.warns(UserWarning, match=r"removed .*\.new\.converting: 1 files that an interrupted conversion left"):
        CONVERT(old, target, tower=tower)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "old", "tower"}
    assert not (target / write.LOCK).exists()


def test_a_full_disk_is_told(old, tower, tmp_path, monkeypatch):
    monkeypatch.setattr(write.shutil, "disk_usage", lambda _place: shutil._ntuple_diskusage(9, 9, 9))
    with pytest.raises(vh.DiskFullError, match=r"0\.0 GB free"):
        CONVERT(old, tmp_path / "new", tower=tower)
    monkeypatch.undo()

    def full(*_arguments, **_settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write, "save_file", full)
    with pytest.raises(vh.DiskFullError, match="no space left"):
        CONVERT(old, tmp_path / "new", tower=tower)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "tower"}


def test_a_faulty_write_is_found(old, tower, tmp_path, monkeypatch):
    save = write.save_file

    def faulty(shard, path, **settings):
        name = next(name for name in shard if "norm" in name)
        save({**shard, name: shard[name] + 1}, path, **settings)

    monkeypatch.setattr(write, "save_file", faulty)
    with pytest.raises(vh.CheckpointError, match=r"norm.* was not written as it was converted"):
        CONVERT(old, tmp_path / "new", tower=tower)
    monkeypatch.setattr(write, "save_file", save)
    monkeypatch.setattr(write, "PICTURE", (30, 20))
    monkeypatch.setattr(write, "probed", lambda _tokenizer: ())
    with pytest.raises(vh.CheckpointError, match="cuts text otherwise"):
        CONVERT(old, tmp_path / "new", tower=tower)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "tower"}


def test_files_of_old_pytorch_versions_are_read(old, tower, tmp_path):
    for path in old.glob("*.bin"):
        torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    assert CONVERT(old, tmp_path / "new", tower=tower).vocabulary > 0


def test_the_command_line(capsys, old, tower, tmp_path, monkeypatch):
    code, out, err = run(capsys, "convert", old, tmp_path / "new", "--tower", tower)
    assert (code, err) == (0, "")
    assert "LlavaForConditionalGeneration (llama)" in out
    assert "<image> is token" in out
    assert "pictures: pad; prompt: vicuna_v1; vision tower from: tower" in out
    record = json.loads((tmp_path / "new" / "conversion.json").read_text())
    assert record["preparation"] == "pad"
    assert str(tmp_path) not in json.dumps(record)
    code, out, err = run(capsys, "convert", old, tmp_path / "new", "--tower", tower)
    assert code == 2
    assert "--overwrite" in err
    assert "Traceback" not in out + err

    def interrupted(*_arguments):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(converting, "write_weights", interrupted)
    code, out, err = run(capsys, "convert", old, tmp_path / "new", "--tower", tower, "--overwrite")
    assert code == 130
    assert "nothing was written" in err
    assert (tmp_path / "new" / "conversion.json").is_file()
