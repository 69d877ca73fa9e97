"""Adapters: where the layers of a family's models live, and how their image tokens lie."""

from __future__ import annotations

from visualheads import plugins
from visualheads.models.adapters import families
from visualheads.models.adapters.registry import Adapter, adapter_of, register, supported

__all__ = ["Adapter", "adapter_of", "families", "register", "supported"]

plugins.load(plugins.ADAPTERS)
