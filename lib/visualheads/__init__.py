"""Which attention heads look at the picture: trace, rank and explore visual attention heads of vision-language models.

    import visualheads as vh

    model = vh.load("mini-1.5-7B")
    samples = vh.task("looktwice").samples(condition="visual-object", n=64)
    ds = vh.trace(model, samples, keep=("mean_map",))
    vh.rank(ds, by="detection", interval=True)

Names are imported when they are first used, so `import visualheads` is quick and loads neither torch nor nnsight.
Where a module has the name of its function (catalog, agreement), the attribute is the function: import from the module
by `from visualheads.cards import cards`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from visualheads import errors

if TYPE_CHECKING:
    from visualheads.cards import catalog
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
    from visualheads.explorer import Explorer, explore, look
    from visualheads.heads.agreement import agreement
    from visualheads.heads.bootstrap import split_halves
    from visualheads.heads.lists import export_scores, read_scores
    from visualheads.heads.nulls import above_null
    from visualheads.heads.ranking import rank
    from visualheads.heads.selection import depth_stage, select, top
    from visualheads.interventions import Intervention, ablate, mean_reference, steer
    from visualheads.interventions.sweeps import open_sweeps, sweep, sweep_to_store
    from visualheads.models.conversion import Conversion, convert
    from visualheads.models.loading import VisionLanguageModel, load, wrap
    from visualheads.models.token_map import TokenMap
    from visualheads.store.combine import open_results
    from visualheads.store.read import open_store
    from visualheads.store.schema import assert_valid
    from visualheads.tasks import LazyImage, MissingDataError, Sample, task, task_names
    from visualheads.tracing.trace import trace, trace_to_store

_ROOMS = {
    "cards": ("catalog",),
    "errors": tuple(
        name
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, errors.VisualHeadsError)
    ),
    "explorer": ("Explorer", "explore", "look"),
    "heads.agreement": ("agreement",),
    "heads.bootstrap": ("split_halves",),
    "heads.lists": ("export_scores", "read_scores"),
    "heads.nulls": ("above_null",),
    "heads.ranking": ("rank",),
    "heads.selection": ("depth_stage", "select", "top"),
    "interventions": ("Intervention", "ablate", "mean_reference", "steer"),
    "interventions.sweeps": ("open_sweeps", "sweep", "sweep_to_store"),
    "models.conversion": ("Conversion", "convert"),
    "models.loading": ("VisionLanguageModel", "load", "wrap"),
    "models.token_map": ("TokenMap",),
    "store.combine": ("open_results",),
    "store.read": ("open_store",),
    "store.schema": ("assert_valid",),
    "tasks": ("LazyImage", "MissingDataError", "Sample", "task", "task_names"),
    "tracing.trace": ("trace", "trace_to_store"),
}
"""Public names, by the module that defines them; the imports above tell type checkers the same."""
_MODULE_OF = {name: module for module, names in _ROOMS.items() for name in names}

__version__ = "0.2.0"
__all__ = sorted([*_MODULE_OF, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'visualheads' has no attribute {name!r}")
    value = getattr(import_module(f"visualheads.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
