"""Reading a written folder back: bytes, names, shapes, and one prompt through its processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from visualheads.errors import CheckpointError
from visualheads.models.adapters import adapter_of
from visualheads.models.checkpoints import check_folder
from visualheads.models.conversion.plan import Plan
from visualheads.models.conversion.sources import opened
from visualheads.models.conversion.tokens import Words, probed
from visualheads.models.conversion.write import checksum
from visualheads.models.progress import quiet

PICTURE = (300, 200)
"""Width and height of the picture that the reloaded processor prepares: not square, so that tiles and padding count."""


def check_written(
    place: Path, plan: Plan, sums: dict[str, int], words: Words, class_name: str, advance: Callable[[int], None]
) -> None:
    """Reload everything from the disk, one weight at a time. Raises CheckpointError where it is not what was meant."""
    check_folder(place)
    read: set[str] = set()
    for shard in range(plan.shards):
        for name, stored in opened(place / plan.shard_name(shard)):
            if checksum(stored.read()) != sums.get(name):
                raise _wrong(place, f"{name} was not written as it was converted: the disk or memory is faulty")
            read.add(name)
            advance(1)
    if read != set(sums):
        raise _wrong(place, f"{len(set(sums) ^ read)} weights are missing or too many")
    _check_class(place, class_name)
    _check_processor(place, words, class_name)


def _check_class(place: Path, class_name: str) -> None:
    """The class finds all of its weights, in their shapes; nothing is loaded into memory."""
    import transformers

    with quiet():
        loaded: Any = transformers.AutoModelForImageTextToText.from_pretrained(
            place, device_map="meta", output_loading_info=True, local_files_only=True, use_safetensors=True
        )
    module, told = loaded
    wrong = [*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"]]
    if wrong or type(module).__name__ != class_name:
        raise _wrong(place, f"{type(module).__name__} does not find {wrong[:3]}")


def _check_processor(place: Path, words: Words, class_name: str) -> None:
    """Text is cut as before, and a picture becomes as many image tokens as the adapter says."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(place, local_files_only=True)
    processor: Any = transformers.AutoProcessor.from_pretrained(place, local_files_only=True)
    if probed(processor.tokenizer) != words.probes:
        raise _wrong(place, "its tokenizer cuts text otherwise than the original's")
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    encoding = processor(text=prompt, images=Image.new("RGB", PICTURE), return_tensors="pt")
    count = int((encoding["input_ids"] == config.image_token_id).sum())
    expected = len(adapter_of(class_name).token_map(config, processor, PICTURE).kind)
    if config.image_token_id != words.image_id or count != expected:
        raise _wrong(place, f"a picture becomes {count} image tokens, {expected} are expected")


def _wrong(place: Path, what: str) -> CheckpointError:
    return CheckpointError(f"the converted folder does not pass its check ({what}); {place.name} is removed again.")
