"""Wrong arguments of the whole public interface: one VisualHeadsError each, which is short, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import visualheads as vh
from helpers.datasets import traced_dataset
from helpers.families import save
from helpers.networks import llava, picture, wrapped
from helpers.networks import samples as some_samples
from visualheads.errors import shown

NAN, INF, HUGE = float("nan"), float("inf"), 10**400
LONGEST = 1500
"""Characters of the longest message."""


class Odd:
    """Nothing that anything takes."""

    def __repr__(self) -> str:
        return "Odd()"


COUNT = ("5", 2.5, NAN, -1, 0, [], Odd(), HUGE, True, {})
SEED = ("5", 2.5, NAN, -1, [], Odd(), HUGE, {})
SHARE = ("0.5", NAN, -0.1, 1.5, INF, [], Odd(), 0, 1)
FLAG = ("yes", 3, [], Odd(), NAN)
NAME = ("nope", "", 5, NAN, [], Odd(), ["nope"], b"x", {})
DATA = (None, 5, "x", [], {}, Odd(), np.zeros(3), xr.Dataset(), xr.DataArray([1.0]))
K = ("3", -1, 0, NAN, INF, [], Odd(), HUGE, 1.5)
BOX = ((1, 2, 3), "abcd", 5, NAN, (5, 5, 5, 9), (0, 0, NAN, 4), Odd(), {}, (HUGE, 0, 1, 1))
PATH = (5, NAN, [], {}, Odd(), "", "\0", b"x")
PAIRS = ((INF, 1), (NAN, 0), (0,), (0, 1, 2), ("a", "b"), (-1, 0), (99, 0), (0.5, 1))
HEADS = ("L5H1", 5, NAN, [], {}, *([pair] for pair in PAIRS))
SETS = (None, 5, "x", [], {}, Odd(), {"a": 5}, [5], NAN, {"a": [(99, 0)]})
WORD = (5, None, NAN, [], b"x", Odd())
NUMBER = ("4", [], NAN, INF, Odd(), {}, HUGE, 1j)
PROGRESS = ("yes", 5, [], Odd(), NAN)
TEXT = (5, None, NAN, [], b"x", "\0", "\ud800")


@dataclass(frozen=True)
class Door:
    """A public function, arguments that it takes, and wrong values for each of its parameters."""

    call: Callable[..., Any]
    valid: Mapping[str, Any]
    wrong: Mapping[str, Sequence[Any]]


def doors(folder: Path) -> dict[str, Door]:
    """All doors by name; `folder` is empty but for a list of scores."""
    model, ds = wrapped("llava"), traced_dataset()
    some = some_samples(2)
    scores = vh.rank(ds.isel(model=[0]))
    vh.export_scores(scores, folder / "scores.json")
    store = folder / "results" / "tiny" / "looktwice.zarr"
    vh.trace_to_store(model, some, store, progress=False)
    mapped = vh.trace(model, some, keep="maps", progress=False)
    checkpoint = save(*llava(), folder / "checkpoint")
    models = ("name", None, 5, Odd(), [])
    forms = {
        "prompt": (5, "", "x", [], Odd(), "<image>", "{question}"),
        "system": (5, "", [], Odd()),
        "chat_template": (5, [], Odd(), "no-such-template", folder, "{% for", "{{ 1 }}", ""),
    }
    changes = {
        "mode": NAME,
        "positions": NAME[:1] + NAME[2:],
        "bias": (5.0, "x", [], Odd()),
        "box": ((0, 0, 5, 5), 5, "x", Odd()),
        "tokens": ({}, 5, "x", Odd()),
        "reference": (5, "x", [], Odd(), some),
        "batch_tokens": COUNT,
        "max_new_tokens": COUNT,
        "progress": PROGRESS,
    }
    lists = (None, 5, "x", [], {}, Odd(), some[0], [5], [None], [some[0], some[0]], ["x"], (), np.zeros(2), iter(some))
    token_map = model.token_map((40, 30))
    return {
        "trace": Door(
            vh.trace,
            {"model": model, "samples": some, "progress": False},
            {
                "model": models,
                "samples": lists,
                "query": (*NAME, ["last_prompt"] * 2),
                "keep": ("nope", 5, ["nope"], [5], NAN, Odd(), [["mean_map"]], ["mean_map"] * 2),
                "batch_tokens": COUNT,
                "max_new_tokens": COUNT,
                "seed": SEED,
                "task_files": WORD,
                "progress": PROGRESS,
                "heads": (5, "x", [(0, 0)], Odd()),
            },
        ),
        "trace_to_store": Door(
            vh.trace_to_store,
            {"model": model, "samples": some, "path": folder / "x" / "a.zarr", "progress": False},
            {
                "model": models,
                "samples": lists,
                "path": PATH,
                "keep": ("nope", 5, ["attention"], Odd()),
                "shard": COUNT,
                "fresh": FLAG,
                "batch_tokens": COUNT,
                "max_new_tokens": COUNT,
                "progress": PROGRESS,
                "seed": SEED,
                "task_files": WORD,
                "kind": (*WORD, ""),
            },
        ),
        "sweep_to_store": Door(
            vh.sweep_to_store,
            {
                "model": model,
                "samples": some,
                "sets": {"a": [(0, 0)]},
                "path": folder / "x" / "b.zarr",
                "progress": False,
            },
            {"sets": SETS, "path": PATH, "shard": COUNT, "fresh": FLAG, "seed": SEED, "task_files": WORD, **changes},
        ),
        "open_store": Door(
            vh.open_store, {"path": store}, {"path": (*PATH, folder, folder / "none.zarr"), "all_samples": FLAG}
        ),
        "open_results": Door(
            vh.open_results,
            {"folder": store.parent.parent},
            {
                "folder": (*PATH, store, folder / "none"),
                "kind": WORD,
                "models": (5, "x", [5], Odd(), NAN),
                "variables": (5, "x", [5], Odd(), NAN),
                "lazy": FLAG,
            },
        ),
        "open_sweeps": Door(
            vh.open_sweeps,
            {"folder": store.parent.parent, "mode": "zero"},
            {"folder": PATH, "mode": NAME, "positions": NAME},
        ),
        "assert_valid": Door(vh.assert_valid, {"ds": ds}, {"ds": DATA}),
        "top": Door(
            vh.top,
            {"ds": ds},
            {"ds": DATA, "by": NAME, "n": (*COUNT[:-1], {}), "query": ("nope", 5, NAN, [], Odd()), "model": NAME},
        ),
        "load": Door(
            vh.load,
            {"name": checkpoint},
            {
                "name": (5, None, NAN, [], {}, Odd(), "", "\0", b"x", "no-such", folder, "a/b/c/d"),
                "device": ("gpu", 5, NAN, [], Odd(), "cuda:99", ""),
                "dtype": ("float8", 5, NAN, [], Odd(), int, ""),
                "revision": ("main", 5, [], Odd()),
                "validate": FLAG,
                "adapter": (5, [], Odd(), "", folder, folder / "none", NAN, "\0"),
                "quantization_config": ("x", 5, [], Odd(), {"load_in_4bit": "x"}, {"bits": 4}),
                "device_map": (5, "nowhere", [], Odd(), {"": "nowhere"}, {5: 5}),
                **forms,
            },
        ),
        "wrap": Door(
            vh.wrap,
            {"module": model.module, "processor": model.processor},
            {
                "module": models,
                "processor": (None, 5, "x", Odd(), model.tokenizer),
                "name": (5, [], "", Odd(), "\0"),
                "card": ("1.5-7B", 5, [], Odd()),
                "validate": FLAG,
                **forms,
            },
        ),
        "convert": Door(
            vh.convert,
            {"source": checkpoint, "target": folder / "x" / "converted"},
            {
                "source": (*PATH, folder, folder / "none"),
                "target": (*PATH, folder),
                "tower": (*PATH, folder / "none"),
                "card": NAME,
                "prompt": NAME,
                "dtype": ("float8", 5, NAN, [], Odd()),
                "overwrite": FLAG,
            },
        ),
        "look": Door(
            vh.look,
            {"model": model, "image": picture(0), "question": "What?", "progress": False},
            {
                "model": (None, 5, Odd(), [], "no-such"),
                "image": (None, 5, "", [], {}, Odd(), folder, folder / "none.png", [5], b""),
                "question": (None, 5, "", " ", [], Odd(), "<image>"),
                "rows": (0, -1, "x", 2.5, [], [-1], [10**6], [True], Odd(), NAN),
                "effects": NAME,
                "max_new_tokens": COUNT,
                "progress": PROGRESS,
            },
        ),
        "explore": Door(
            vh.explore,
            {"ds": mapped},
            {"ds": DATA, "samples": (5, "x", [5], Odd()), "model": ("x", 5, Odd()), "most": COUNT},
        ),
        "Explorer": Door(vh.explore(mapped).save, {"path": folder / "look.html"}, {"path": (*PATH, folder)}),
        "Intervention": Door(
            vh.Intervention,
            {"mode": "steer"},
            {
                "mode": NAME,
                "positions": NAME[:1] + NAME[2:],
                "bias": NUMBER,
                "reference": (5, "x", Odd(), []),
                "boxes": (5, "x", [1], {"a": 5}, Odd()),
                "tokens": (5, "x", {"a": [0]}, Odd()),
            },
        ),
        "token_map": Door(
            model.token_map,
            {"image_size": (40, 30)},
            {"image_size": (5, None, "ab", (1,), (0, 5), (-1, 5), (NAN, 1), (1, 2, 3), Odd())},
        ),
        "to_map": Door(
            token_map.to_map,
            {"values": np.zeros(len(token_map))},
            {"values": (5, "x", np.zeros(3), None, Odd(), ["a"] * len(token_map)), "grid": NAME},
        ),
        "rank": Door(
            vh.rank,
            {"ds": ds},
            {
                "ds": DATA,
                "by": NAME,
                "interval": FLAG,
                "query": ("nope", 5, NAN, [], Odd()),
                "k": K,
                "n_boot": COUNT,
                "level": SHARE,
                "seed": SEED,
            },
        ),
        "select": Door(
            vh.select,
            {"ds": ds},
            {
                "ds": DATA,
                "by": NAME,
                "k": K,
                "largest": FLAG,
                "stage": NAME,
                "above_null": (5, "x", [], Odd(), np.zeros(3)),
                "query": ("nope", 5, NAN, [], Odd()),
            },
        ),
        "agreement": Door(
            vh.agreement,
            {"ds": ds, "n_boot": 5, "n_splits": 2},
            {
                "ds": DATA,
                "by": (*NAME, [5], [["a"]]),
                "k": K,
                "extra": (5, "x", [1], {"a": 5}, Odd()),
                "n_boot": COUNT,
                "n_splits": COUNT,
                "level": SHARE,
                "seed": SEED,
            },
        ),
        "above_null": Door(
            vh.above_null,
            {"ds": ds, "white": ds},
            {"ds": DATA, "white": DATA[1:], "untrained": DATA[1:], "fdr": SHARE},
        ),
        "split_halves": Door(vh.split_halves, {"ds": ds}, {"ds": (*DATA[:7], DATA[8]), "seed": SEED}),
        "depth_stage": Door(vh.depth_stage, {"n_layers": 4}, {"n_layers": COUNT}),
        "in_box": Door(token_map.in_box, {"box": (0, 0, 5, 5)}, {"rule": NAME}),
        "task": Door(
            vh.task,
            {"name": "looktwice"},
            {"name": NAME, "data": (5, NAN, [], Odd(), folder / "none"), "highest": COUNT, "nope": (1,)},
        ),
        "samples": Door(
            vh.task("looktwice").samples,
            {"n": 2},
            {
                "condition": NAME,
                "format": NAME,
                "control": NAME,
                "split": NAME,
                "n": COUNT,
                "seed": SEED,
                "skip_bad": FLAG,
            },
        ),
        "Sample": Door(
            vh.Sample,
            {"id": "1", "image": picture(0), "question": "What?"},
            {
                "id": (*TEXT, "", " "),
                "image": (None, 5, "", [], {}, Odd(), "http://a/b.png", np.zeros(3), np.full((4, 4), 5.0), b""),
                "question": (*TEXT, "", " "),
                "answer": TEXT,
                "box": BOX,
                "boxes": (5, "x", [], {"a": 5}, {5: []}, {"a": [5]}, {"a": "x"}),
                "choices": (5, "x", (1, 2), ("a",), (), ("a", " "), ["a"] * 30),
                "answers": (5, "x", (1,), ("a",), ("",)),
                "answer_prefix": TEXT,
                "condition": TEXT,
                "question_id": TEXT,
                "image_id": TEXT,
                "task": TEXT,
                "control": TEXT,
            },
        ),
        "LazyImage": Door(
            vh.LazyImage, {"path": "a.png"}, {"path": ("", 5, None, [], b"x", Odd()), "base64": ("AAAA", 5, None, b"x")}
        ),
        "read_scores": Door(
            vh.read_scores,
            {"path": folder / "scores.json"},
            {
                "path": (*PATH, folder, folder / "none.json"),
                "shape": ((0, 0), (1, 1), "x", 5, (1,), Odd(), NAN),
                "model": (5, [], NAN, Odd()),
            },
        ),
        "export_scores": Door(
            vh.export_scores,
            {"ranking": scores, "path": folder / "other.json"},
            {"ranking": (*DATA[:7], DATA[8]), "path": (*PATH, folder / "a.txt", folder)},
        ),
        "ablate": Door(
            vh.ablate,
            {"model": model, "samples": some, "heads": [(0, 0)], "progress": False},
            {"model": models, "samples": lists, "heads": HEADS, **changes},
        ),
        "steer": Door(
            vh.steer,
            {"model": model, "samples": some, "heads": [(0, 0)], "progress": False},
            {
                "heads": HEADS[:3],
                "box": (*BOX, [(0, 0, 1, 1)], [5, 5], [(900, 900, 990, 990), None]),
                "bias": NUMBER,
                "positions": NAME[:1] + NAME[2:],
            },
        ),
        "mean_reference": Door(
            vh.mean_reference,
            {"model": model, "samples": some},
            {"model": models, "samples": lists, "max_new_tokens": COUNT},
        ),
        "sweep": Door(
            vh.sweep,
            {"model": model, "samples": some, "sets": {"a": [(0, 0)]}, "progress": False},
            {
                "model": models,
                "samples": lists,
                "sets": SETS,
                **changes,
            },
        ),
    }


def cases(every: Mapping[str, Door]) -> Iterator[tuple[str, str, Any]]:
    for name, door in every.items():
        for parameter, values in door.wrong.items():
            for value in values:
                yield name, parameter, value


@pytest.mark.filterwarnings("ignore")
def test_wrong_arguments_are_one_error_each(tmp_path: Path) -> None:
    every = doors(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    count, wrong = 0, []
    for name, parameter, value in cases(every):
        told = f"{name}({parameter}={shown(value, 40)})"
        count += 1
        try:
            every[name].call(**{**every[name].valid, parameter: value})
        except vh.VisualHeadsError as error:
            if len(str(error)) > LONGEST:
                wrong.append(f"{told}: a message of {len(str(error))} characters")
        except Exception as error:  # what must not come out is what is looked for
            wrong.append(f"{told}: {type(error).__name__}: {error}"[:200])
        else:
            wrong.append(f"{told} was taken")
    assert not wrong, "\n".join(wrong)
    assert sorted(tmp_path.rglob("*")) == before
    assert count >= 450
