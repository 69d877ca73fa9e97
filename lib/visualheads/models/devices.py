"""Where a model's weights go and in which precision, 4 and 8 bits included: the rules of `load`; and making room.

What fits into a device's memory: caches of keys and values are bounded, and what is too much is cut in halves.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from visualheads.errors import (
    DeviceMemoryError,
    MissingDependencyError,
    ParameterError,
    UnsupportedModelError,
    checked_name,
    got,
)

if TYPE_CHECKING:
    from visualheads.models.wrapper import VisionLanguageModel
    from visualheads.tasks.sample import Sample

AUTO = "auto"
"""As a device: the layers spread over all devices. As a precision: the checkpoint's own."""
DTYPES = ("float32", "bfloat16", "float16")
CPU = torch.device("cpu")
NO_MEMORY = "DefaultCPUAllocator"
"""In the message of the RuntimeError that torch raises where main memory does not suffice."""


Item = TypeVar("Item")
Done = TypeVar("Done")
CACHE_BYTES = {"cpu": 3 * 2**29, "cuda": 2**34}
"""Most memory for the keys and values that are held at a time: 17 rows of 640 tokens in each of a 7B's three caches."""
PACKAGE = "bitsandbytes"


def chosen_device(device: str | torch.device | None, miniature: bool = False) -> str | torch.device:
    """The device that is meant, or AUTO where there is more than a CPU to spread layers over.

    By default a GPU if there is one. Shipped miniatures stay on the CPU: what they are compared with was made there.
    Raises ParameterError for a device that torch does not find.
    """
    if device is None:
        return torch.device("cuda") if torch.cuda.is_available() and not miniature else CPU
    if device == AUTO:
        return CPU if torch.accelerator.current_accelerator(check_available=True) is None else AUTO
    return checked_device(device, also=(AUTO,))


def chosen_dtype(
    dtype: str | torch.dtype | None, device: str | torch.device, miniature: bool = False
) -> str | torch.dtype:
    """The precision that is meant, or AUTO. Raises ParameterError for any but those of DTYPES.

    By default float32 on a CPU, where half precision is slow and partly missing, and for shipped miniatures, whose
    half precision only makes them small; else the checkpoint's own.
    """
    if dtype is None:
        return torch.float32 if miniature or device == CPU else AUTO
    name = checked_name("dtype", str(dtype).removeprefix("torch."), [*DTYPES, AUTO])
    return AUTO if name == AUTO else getattr(torch, name)


def checked_device(device: str | torch.device, also: Sequence[str] = ()) -> torch.device:
    """The device of this name. Raises ParameterError where torch does not find it, naming those it finds and `also`."""
    there = ["cpu"]
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is not None:
        there += [found.type, *(f"{found.type}:{index}" for index in range(torch.accelerator.device_count()))]
    try:
        asked = torch.device(device)
    except (RuntimeError, TypeError):
        asked = None
    if asked is None or str(asked) not in there:
        raise ParameterError(got("device", str(device), [*there, *also], "give one that torch finds on this machine"))
    return asked


def main_memory() -> int:
    """Memory of this machine in bytes; 0 where the system does not tell."""
    names = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    if not all(name in getattr(os, "sysconf_names", {}) for name in names):
        return 0
    return os.sysconf(names[0]) * os.sysconf(names[1])


def lacks_memory(error: Exception) -> bool:
    """Whether this is how Python or torch tell that memory does not suffice: torch mostly by RuntimeErrors."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or NO_MEMORY in str(error)


@contextmanager
def room_for(what: str, device: str | torch.device) -> Iterator[None]:
    """Around work that fills memory: raises DeviceMemoryError where it does not suffice for `what`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        where = "all devices together" if device == AUTO else str(device)
        more = "" if device == AUTO else ", or device='auto' to spread the layers"
        raise DeviceMemoryError(
            f"{what} does not fit into the memory of {where}; use a smaller model, dtype='bfloat16'{more}."
        ) from None


def in_places(module: Any) -> dict[str, Any]:
    """Where accelerate put the parts of a module that lie in several places; empty for a module in one place."""
    places = dict(getattr(module, "hf_device_map", None) or {})
    return places if len(set(places.values())) > 1 or "disk" in places.values() else {}


def put_aside(module: Any) -> torch.device:
    """Move a module to the CPU, so that another has its device, which is returned.

    A module that lies in several places cannot be moved, and stays.
    """
    device = module.device
    if device.type not in ("cpu", "meta") and not in_places(module):
        module.to(CPU)
        free()
    return device


@contextmanager
def aside(module: Any) -> Iterator[torch.device]:
    """Within: the module is put aside; given is its device, to which it returns."""
    device = module.device
    try:
        yield put_aside(module)
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # what failed would hold on to the memory that is needed again
        raise
    finally:
        free()
        if module.device != device:
            module.to(device)


def free() -> None:
    """Give back memory that nothing needs any more, traced models' cycles among it."""
    gc.collect()
    torch.cuda.empty_cache()


def rows_of_cache(model: VisionLanguageModel, length: int, caches: int = 1) -> int:
    """Rows of `length` tokens, at least one, that `caches` held at the same time may each have within CACHE_BYTES."""
    text = model.config.get_text_config()
    layers, heads, groups = model.shape
    feature = getattr(text, "head_dim", None) or text.hidden_size // heads
    row = 2 * layers * groups * feature * length * model.dtype.itemsize
    return max(1, CACHE_BYTES.get(model.device.type, CACHE_BYTES["cpu"]) // (row * caches))


def in_halves(items: Sequence[Item], run: Callable[[Sequence[Item]], Done]) -> Iterator[tuple[Sequence[Item], Done]]:
    """`run(items)` in one piece; where memory does not suffice, in halves: each piece with what it gave.

    Raises torch.OutOfMemoryError where one item alone is too much; `fitting` tells which.
    """
    try:
        done = run(items)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise
    else:
        yield items, done
        return
    # outside of the handler, whose traceback holds on to what the failed run had made
    torch.cuda.empty_cache()
    for half in (items[: len(items) // 2], items[len(items) // 2 :]):
        yield from in_halves(half, run)


@contextmanager
def fitting(model: VisionLanguageModel, samples: Sequence[Sample]) -> Iterator[None]:
    """Around work on these samples: raises DeviceMemoryError where memory does not suffice and there is only one."""
    try:
        yield
    except torch.OutOfMemoryError:
        if len(samples) > 1:
            raise
        raise DeviceMemoryError(
            f"sample {samples[0].id!r} alone does not fit into the memory of {model.device}; use a smaller model, "
            "dtype='bfloat16', or device='auto' to spread the layers."
        ) from None


def quantization_of(config: Any, asked: Any) -> dict[str, Any]:
    """The settings of the quantisation that is asked for, or that the checkpoint was saved in; empty for none.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        Of the model; a quantised checkpoint has `quantization_config` in it.
    asked : transformers.BitsAndBytesConfig or dict, optional
        As given to `load`.

    Raises
    ------
    UnsupportedModelError
        For another method than bitsandbytes.
    MissingDependencyError
        Without bitsandbytes.
    """
    from transformers.utils.quantization_config import QuantizationConfigMixin

    found = asked if asked is not None else getattr(config, "quantization_config", None)
    if found is None:
        return {}
    settings = found.to_dict() if isinstance(found, QuantizationConfigMixin) else found
    settings = dict(settings) if isinstance(settings, dict) else {}
    bits = settings.get("load_in_4bit") or settings.get("load_in_8bit")
    method = settings.get("quant_method", PACKAGE if bits else None)
    method = str(getattr(method, "value", method))
    if method != PACKAGE or not bits:
        raise UnsupportedModelError(
            got("quantization_config", method if method not in (PACKAGE, "None") else found,
                "bitsandbytes with load_in_4bit or load_in_8bit", "load the model's unquantised checkpoint")
        )  # fmt: skip
    if find_spec(PACKAGE) is None:
        raise MissingDependencyError(f"weights in 4 or 8 bits need {PACKAGE}; run `pip install {PACKAGE}`.")
    return settings


def bits_of(settings: dict[str, Any]) -> str:
    """The settings as a part of the weights' identity, such as `4bit-0a1b2c3d`; "" for none."""
    if not settings:
        return ""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"{'4bit' if settings.get('load_in_4bit') else '8bit'}-{digest}"
