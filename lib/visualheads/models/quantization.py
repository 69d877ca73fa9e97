"""Weights in 4 or 8 bits by bitsandbytes: what is accepted, and what it makes of a model's identity."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from typing import Any

from visualheads.errors import MissingDependencyError, UnsupportedModelError, got

PACKAGE = "bitsandbytes"


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
