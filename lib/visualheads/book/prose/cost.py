"""Text about what tracing costs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from visualheads.book.prose.words import counted, listed, percent, table
from visualheads.charts.cost import NAMES, SWEEPS

TOLERANCE = 1e-4
"""How far a sweep's numbers may lie from those of one ablation at a time, in the tests (tests/test_sweeps.py)."""


def network(shape: tuple[int, int, int]) -> str:
    """What was measured: `cost.Shape` in words."""
    layers, heads, hidden = shape
    return (
        f"a network of LLaVA's classes with random weights, {layers} layers × {heads} heads and a hidden size of "
        f"{hidden}"
    )


def cost(measured: Sequence[pd.DataFrame], shape: tuple[int, int, int]) -> str:
    """Table and sentences from tables of `visualheads.book.cost.measure_cost`, all of networks of this shape."""
    lines, sentences = [], []
    for one in measured:
        for method, row in one.iterrows():
            cells = (_number(row["cpu_seconds"], 2), _number(row["cpu_ratio"], 2), _number(row["memory_above_mb"], 0))
            lines.append((int(row["tokens"]), NAMES.get(str(method), str(method)), *cells, int(row["runs"])))
        trace, tokens = one.loc["trace"], int(one["tokens"].iloc[0])
        text = (
            f"At {tokens} tokens ({_of_runs(trace)}), tracing takes {trace['cpu_ratio']:.2f} times the processor time "
            f"of plain generation and {_number(trace['memory_above_mb'], 0)} MB more memory"
        )
        if "eager" in one.index and pd.notna(one.loc["eager", "cpu_ratio"]):
            eager = one.loc["eager"]
            more = _number(eager["memory_above_mb"], 0)
            text += f"; eager matrices take {eager['cpu_ratio']:.2f} times and {more} MB more ({_of_runs(eager)})"
        else:
            text += "; eager matrices would not have fitted into this machine's memory"
        sentences.append(f"{text}.")
    header = ("tokens", "method", "processor seconds", "times plain", "MB above plain", "runs")
    return (
        f"{table(header, lines)}\n\nMeasured: {network(shape)}; larger ones were not. *Times plain* is the median of "
        "the ratios of runs side by side, so it need not be the ratio of the medians before it. "
        f"{' '.join(sentences)}{_matrices(measured)}"
    )


def _matrices(measured: Sequence[pd.DataFrame]) -> str:
    """Which share of the memory of eager attention plain generation does without, where it was measured."""
    told = []
    for one in measured:
        if (
            "eager" not in one.index
            or pd.isna(one.loc["eager", "memory_above_mb"])
            or one.loc["eager", "memory_mb"] <= 0
        ):
            continue
        eager = one.loc["eager"]
        share = eager["memory_above_mb"] / eager["memory_mb"]
        told.append(f"{percent(share)} at {int(eager['tokens'])} tokens")
    if not told:
        return ""
    return (
        f" Of the memory that eager attention takes above the loaded network, plain generation spares {listed(told)}."
    )


def sweep_cost(measured: pd.DataFrame) -> str:
    """Table and sentences from `visualheads.book.cost.measure_sweeps`."""
    lines = [
        (SWEEPS.get(str(case), str(case)), int(row["tokens"]), int(row["sets"]), f"{row['sweep_seconds']:.3f}",
         int(row["naive_sets"]), f"{row['naive_seconds']:.3f}", f"{row['ratio']:.1f}", int(row["runs"]))
        for case, row in measured.iterrows()
    ]  # fmt: skip
    header = (
        "changed", "tokens", "sets, sweep", "seconds per set", "sets, naive loop", "seconds per set", "times faster",
        "runs",
    )  # fmt: skip
    first = measured.iloc[0]
    tried = listed([str(int(batch)) for batch in first["tried"]])
    told = listed([f"{row['ratio']:.1f} times faster ({SWEEPS.get(str(n), n)})" for n, row in measured.iterrows()])
    return (
        f"{table(header, lines)}\n\nThe sweep is {told} than a loop that asks the whole model anew for every set. "
        f"The sweep is given {counted(int(first['sets']), 'set')} at once; the loop shares nothing between sets, so "
        f"that its time per set is taken from {int(first['naive_sets'])} of them. It was tried with batches of "
        f"{tried} sets, and the fastest counts ({listed([str(int(b)) for b in measured['batch']])}); larger ones were "
        f"not tried. {_each_of(int(first['runs']))} The numbers of a sweep are those of one ablation at a time to "
        f"within {TOLERANCE:g} (logits and nats; tested on small networks of this class)."
    )


def _each_of(runs: int) -> str:
    """Of how many runs the numbers of a sweep's table are medians."""
    if runs == 1:
        return "Each number is from one run."
    return (
        f"Each number is the median of {runs} alternating runs, *times faster* that of the ratios of runs side by side."
    )


def _of_runs(row: pd.Series) -> str:
    runs = int(row["runs"])
    return "one run" if runs == 1 else f"median of {runs} alternating runs"


def _number(value: float, digits: int) -> str:
    return f"{value:z.{digits}f}" if pd.notna(value) else "–"
