"""Benchmarks: official file formats in, samples out."""

from __future__ import annotations

from visualheads.tasks.benchmark import Benchmark
from visualheads.tasks.records import MissingDataError
from visualheads.tasks.registry import task, task_names
from visualheads.tasks.sample import Box, LazyImage, Sample, picture_hash
from visualheads.tasks.sampling import Samples

__all__ = [
    "Benchmark",
    "Box",
    "LazyImage",
    "MissingDataError",
    "Sample",
    "Samples",
    "picture_hash",
    "task",
    "task_names",
]
