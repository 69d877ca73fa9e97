"""Text about what tracing costs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from visualheads.charts.cost import NAMES, SWEEPS
from visualheads.prose.words import listed, table


def cost(measured: Sequence[pd.DataFrame]) -> str:
    """Table and sentences from tables of `visualheads.cost.measure_cost`."""
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
    return f"{table(header, lines)}\n\n{' '.join(sentences)}"


def sweep_cost(measured: pd.DataFrame) -> str:
    """Table and sentences from `visualheads.cost_sweeps.measure_sweeps`."""
    lines = [
        (SWEEPS.get(str(case), str(case)), int(row["tokens"]), int(row["sets"]), f"{row['sweep_seconds']:.3f}",
         f"{row['naive_seconds']:.3f}", f"{row['ratio']:.1f}")
        for case, row in measured.iterrows()
    ]  # fmt: skip
    header = ("changed", "tokens", "sets", "seconds per set, sweep", "naive loop", "times faster")
    told = listed([f"{row['ratio']:.1f} times faster ({SWEEPS.get(str(n), n)})" for n, row in measured.iterrows()])
    return (
        f"{table(header, lines)}\n\nThe sweep is {told} than a loop that asks the whole model anew for every set, with "
        f"as many sets in its batches as serve it best ({listed([str(int(b)) for b in measured['batch']])}); "
        f"{_of_runs(measured.iloc[0])}. The numbers of both are the same."
    )


def _of_runs(row: pd.Series) -> str:
    runs = int(row["runs"])
    return "one run" if runs == 1 else f"median of {runs} alternating runs"


def _number(value: float, digits: int) -> str:
    return f"{value:z.{digits}f}" if pd.notna(value) else "–"
