"""What lies in an original checkpoint's folder: its settings, and its files of weights, opened one at a time."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from visualheads.errors import CheckpointError, UnsupportedModelError, got
from visualheads.models.checkpoints import read_json

TEXT_MODELS = {
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaPhi3ForCausalLM": "phi3",
    "llava": "llama",
    "llava_llama": "llama",
    "llava_mistral": "mistral",
    "llava_phi3": "phi3",
}
"""Original class or model type → transformers' type of the language model (the released code of LLaVA, ViP-LLaVA)."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
RUNS_CODE = ("Unsupported global", "Unsupported class", "Unsupported operand")


@dataclass(frozen=True)
class Header:
    """Shape and dtype of one stored weight, and the file it lies in."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Original:
    """An original checkpoint's folder: its config, the type of its language model, its weights' headers by name."""

    folder: Path
    config: dict[str, Any]
    text_type: str
    headers: dict[str, Header]


def read_original(folder: Path) -> Original:
    """Read an original folder's config and the headers of its weights; no weight is kept in memory.

    Raises CheckpointError (not such a folder, LoRA or projector only, files missing or damaged) or
    UnsupportedModelError (another language model).
    """
    if not folder.is_dir():
        raise CheckpointError(
            got("source", str(folder), "a local folder in LLaVA's original format", "fetch the checkpoint first")
        )
    config = read_json(folder / "config.json")
    if "vision_config" in config:
        raise CheckpointError(
            f"{folder} is in transformers' format already (its config has a vision_config); load it as it is."
        )
    if "mm_vision_tower" not in config:
        raise CheckpointError(
            f"{folder} is no LLaVA checkpoint: its config.json has no mm_vision_tower; name a folder of LLaVA or "
            "ViP-LLaVA in the original format."
        )
    names = [*(config.get("architectures") or []), config.get("model_type")]
    found = [TEXT_MODELS[name] for name in names if name in TEXT_MODELS]
    if not found:
        raise UnsupportedModelError(
            got("language model", ", ".join(str(name) for name in names), "llama, mistral, phi3 (LlavaLlama…, …)")
        )
    return Original(folder, config, found[0], headers(folder))


def headers(folder: Path) -> dict[str, Header]:
    """Name → header of every weight of a folder, in the order of its files. Raises CheckpointError."""
    found: dict[str, Header] = {}
    for file in weight_files(folder):
        for name, weight in opened(file):
            if name in found:
                raise CheckpointError(f"{folder} has {name} twice, in {found[name].file.name} and {file.name}.")
            found[name] = Header(file, weight.shape, weight.dtype)
    return found


def weight_files(folder: Path) -> list[Path]:
    """The files of weights: those of the index, else the single file; safetensors before pickled ones."""
    for stem, ending in (("model", "safetensors"), ("pytorch_model", "bin")):
        index, single = folder / f"{stem}.{ending}.index.json", folder / f"{stem}.{ending}"
        if index.is_file():
            shards = sorted(set(read_json(index).get("weight_map", {}).values()))
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing or not shards:
                raise CheckpointError(
                    f"{folder} lacks {', '.join(missing) or 'every shard'} of its index {index.name}; fetch them again."
                )
            return [folder / shard for shard in shards]
        if single.is_file():
            return [single]
    if (folder / "adapter_config.json").is_file() or (folder / "adapter_model.bin").is_file():
        raise CheckpointError(f"{folder} holds a LoRA adapter; merge it with its language model first, then convert.")
    if (folder / "mm_projector.bin").is_file():
        raise CheckpointError(f"{folder} holds a projector without a language model; convert a fully tuned checkpoint.")
    raise CheckpointError(f"{folder} has neither model.safetensors nor pytorch_model.bin, nor an index of shards.")


@dataclass(frozen=True)
class Stored:
    """One weight of an open file: its shape and dtype at once, its values by `read`."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    _file: Any
    _name: str

    def read(self) -> Tensor:
        """The values; of pickled files mapped from the disk where their layout allows."""
        if isinstance(self._file, Tensor):
            return self._file
        try:
            return self._file.get_tensor(self._name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self._name} cannot be read ({error}); fetch its file again.") from error


def opened(file: Path) -> Iterator[tuple[str, Stored]]:
    """Name and weight of everything in a file, which is closed at the end.

    Pickled files are read with weights_only=True: nothing in them is run. Raises CheckpointError.
    """
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 (no mapping)
                    part = weights.get_slice(name)
                    kind = DTYPES.get(part.get_dtype(), torch.int64)
                    yield name, Stored(tuple(part.get_shape()), kind, weights, name)
        except (SafetensorError, OSError) as error:
            raise _damaged(file, error) from error
        return
    for name, weight in _unpickled(file).items():
        if not isinstance(weight, Tensor):
            raise CheckpointError(f"{file} holds a {type(weight).__name__} at {name!r}; weights only are converted.")
        yield str(name), Stored(tuple(weight.shape), weight.dtype, weight, str(name))


def _unpickled(file: Path) -> dict[str, Any]:
    try:
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            # files of before torch 1.6 cannot be mapped: one of them is held in memory at a time
            weights = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if any(sign in str(error) for sign in RUNS_CODE):
            raise CheckpointError(
                f"{file} would run code when opened: it holds more than weights, and weights_only=False is never used; "
                "save its state_dict anew, tensors only, or take another copy."
            ) from error
        raise _damaged(file, error) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise _damaged(file, error) from error
    if not isinstance(weights, dict):
        raise CheckpointError(f"{file} holds a {type(weights).__name__}; a dictionary of names and tensors is needed.")
    return weights


def _damaged(file: Path, error: Exception) -> CheckpointError:
    told = str(error).strip().splitlines() or [type(error).__name__]
    return CheckpointError(f"{file} is truncated or damaged ({told[0][:200]}); fetch or copy it again.")
