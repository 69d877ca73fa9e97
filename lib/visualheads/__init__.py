"""Which attention heads look at the picture: trace, rank and explore visual attention heads of vision-language models.

    import visualheads as vh

    model = vh.load("mini-1.5-7B")
    samples = vh.task("looktwice").samples(condition="visual-object", n=64)
    ds = vh.trace(model, samples, keep=("mean_map",))
    vh.rank(ds, by="detection", interval=True)

Names are imported when they are first used, so `import visualheads` is quick and loads neither torch nor nnsight.
Where a module has the name of its function (catalog, agreement), the attribute is the function: import from the module
by `from visualheads.catalog import cards`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visualheads.agreement import agreement
    from visualheads.bootstrap import split_halves
    from visualheads.catalog import catalog
    from visualheads.conversion import Conversion, convert
    from visualheads.errors import (
        BoxError,
        CheckpointError,
        DeviceMemoryError,
        DiskFullError,
        HeadError,
        IdentityMismatch,
        ImageError,
        KernelError,
        MissingDependencyError,
        ModeError,
        ParameterError,
        RecordError,
        SampleError,
        SchemaError,
        StoreError,
        UnknownModelError,
        UnknownTaskError,
        UnsupportedModelError,
        VisualHeadsError,
    )
    from visualheads.geometry import TokenMap
    from visualheads.head_lists import export_scores, read_scores
    from visualheads.heads import depth_stage, rank, select
    from visualheads.interventions import Intervention, ablate, mean_reference, steer
    from visualheads.models import VisionLanguageModel, load, wrap
    from visualheads.nulls import above_null
    from visualheads.reading import open_store
    from visualheads.results import open_results
    from visualheads.schema import assert_valid
    from visualheads.sweeps import open_sweeps, sweep, sweep_to_store
    from visualheads.tasks import LazyImage, MissingDataError, Sample, task, task_names
    from visualheads.tracing import trace, trace_to_store

_MODULE_OF = {
    "BoxError": "errors",
    "CheckpointError": "errors",
    "Conversion": "conversion",
    "DeviceMemoryError": "errors",
    "DiskFullError": "errors",
    "HeadError": "errors",
    "IdentityMismatch": "errors",
    "ImageError": "errors",
    "Intervention": "interventions",
    "KernelError": "errors",
    "LazyImage": "tasks",
    "MissingDataError": "tasks",
    "MissingDependencyError": "errors",
    "ModeError": "errors",
    "ParameterError": "errors",
    "RecordError": "errors",
    "Sample": "tasks",
    "SampleError": "errors",
    "SchemaError": "errors",
    "StoreError": "errors",
    "TokenMap": "geometry",
    "UnknownModelError": "errors",
    "UnknownTaskError": "errors",
    "UnsupportedModelError": "errors",
    "VisionLanguageModel": "models",
    "VisualHeadsError": "errors",
    "ablate": "interventions",
    "above_null": "nulls",
    "agreement": "agreement",
    "assert_valid": "schema",
    "catalog": "catalog",
    "convert": "conversion",
    "depth_stage": "heads",
    "export_scores": "head_lists",
    "load": "models",
    "mean_reference": "interventions",
    "open_results": "results",
    "open_store": "reading",
    "open_sweeps": "sweeps",
    "rank": "heads",
    "read_scores": "head_lists",
    "select": "heads",
    "split_halves": "bootstrap",
    "steer": "interventions",
    "sweep": "sweeps",
    "sweep_to_store": "sweeps",
    "task": "tasks",
    "task_names": "tasks",
    "trace": "tracing",
    "trace_to_store": "tracing",
    "wrap": "models",
}

__version__ = "0.1.0"

__all__ = [
    "BoxError",
    "CheckpointError",
    "Conversion",
    "DeviceMemoryError",
    "DiskFullError",
    "HeadError",
    "IdentityMismatch",
    "ImageError",
    "Intervention",
    "KernelError",
    "LazyImage",
    "MissingDataError",
    "MissingDependencyError",
    "ModeError",
    "ParameterError",
    "RecordError",
    "Sample",
    "SampleError",
    "SchemaError",
    "StoreError",
    "TokenMap",
    "UnknownModelError",
    "UnknownTaskError",
    "UnsupportedModelError",
    "VisionLanguageModel",
    "VisualHeadsError",
    "__version__",
    "ablate",
    "above_null",
    "agreement",
    "assert_valid",
    "catalog",
    "convert",
    "depth_stage",
    "export_scores",
    "load",
    "mean_reference",
    "open_results",
    "open_store",
    "open_sweeps",
    "rank",
    "read_scores",
    "select",
    "split_halves",
    "steer",
    "sweep",
    "sweep_to_store",
    "task",
    "task_names",
    "trace",
    "trace_to_store",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'visualheads' has no attribute {name!r}")
    value = getattr(import_module(f"visualheads.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Importing a submodule sets it as an attribute of its package; a public function of that name must stay."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _MODULE_OF):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
