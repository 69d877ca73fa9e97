"""What the heads of a text-only language model do on lists in words, before any picture was seen.

A list of objects stands among filler words, then one class is counted ("How many cars are there?"). The row of the
last prompt token, which produces the answer, is read through the same capture as for pictures: how much of it goes to
the asked words is what `region_weight` is for a picture.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from visualheads.errors import ParameterError, got
from visualheads.miniatures import dialogues, language, listings
from visualheads.miniatures.world import PLURAL
from visualheads.models import attention_call
from visualheads.models.processors import readable
from visualheads.models.progress import quiet
from visualheads.models.provenance import hash_weights
from visualheads.store.upkeep import kept

KIND = "text-lists"
STORE = "text-lists.zarr"
LISTS, FILLERS = 200, 55
"""Lists asked by default, and fillers of the longest: with its objects it has about as many places as a picture."""
BATCH = 50
VERSION = 3
UNTRAINED = "-untrained"
LONG_NAMES = {
    "asked_weight": "attention on the asked words",
    "unasked_weight": "attention on words of other objects",
    "previous_weight": "attention on the token before the last",
}


@dataclass(frozen=True)
class ListQuestion:
    """One prompt: its ids, the places of the asked words and of other objects' words in it, the class asked about, the
    answer."""

    ids: tuple[int, ...]
    asked: tuple[int, ...]
    others: tuple[int, ...]
    name: str
    answer: str


def list_questions(
    n: int = LISTS, fillers: int = FILLERS, seed: int = 0, vocabulary: Mapping[str, int] | None = None
) -> list[ListQuestion]:
    """Draw lists of objects without a mark, each asked for the number of one class that is in it.

    Parameters
    ----------
    n : int
        How many.
    fillers : int
        The most filler words of a list.
    seed : int
    vocabulary : mapping of str to int, optional
        The checkpoint's own ids of words; by default those of newly trained miniatures.

    Raises
    ------
    ParameterError
        For no list.
    """
    if n < 1:
        raise ParameterError(got("n", n, "1 or more lists"))
    rng = random.Random(f"{seed}/text-heads")
    ids = language.vocabulary()
    own = ids if vocabulary is None else vocabulary
    translated = {index: own[word] for word, index in ids.items() if word in own}
    made = []
    for _ in range(n):
        listed, listing = listings.text_list(rng, fillers, plain=True, marked=0.0)
        name = rng.choice(listing.present)
        head = dialogues.opening()
        question = language.encode(f"How many {PLURAL[name]} are there? {language.FREE_HINT} {language.ASSISTANT}")
        asked = tuple(place for place, token in enumerate(listed, len(head)) if token == ids[name])
        objects = {ids[other] for other in listing.present if other != name}
        others = tuple(place for place, token in enumerate(listed, len(head)) if token in objects)
        prompt = tuple(translated[index] for index in (*head, *listed, *question))
        made.append(ListQuestion(prompt, asked, others, name, str(listing.count(name))))
    return made


def trace_lists(
    module: Any, questions: list[ListQuestion], name: str, vocabulary: Mapping[str, int] | None = None
) -> xr.Dataset:
    """Measure every head's last-prompt row on the questions (the measures are ours).

    Parameters
    ----------
    module
        A transformers causal language model, such as a miniature's text-only checkpoint.
    questions : list of ListQuestion
    name : str
        The model's, in the dataset.
    vocabulary : mapping of str to int, optional
        As in `list_questions`.

    Returns
    -------
    xarray.Dataset
        asked_weight, unasked_weight : likewise, attention on the asked words, and on those of other objects, [0, 1].
        previous_weight : likewise, attention on the token before the last, [0, 1].
        correct : (model, sample), whether the likeliest next word is the right number.
    """
    import nnsight

    module.eval()
    wrapped = nnsight.NNsight(module)
    layers = tuple(wrapped.model.layers[index] for index in range(len(wrapped.model.layers._module)))
    operations = tuple(attention_call.attention_operation(layer.self_attn) for layer in layers)
    table = language.vocabulary() if vocabulary is None else vocabulary
    pad = table[language.PAD]
    found: dict[str, list[np.ndarray]] = {key: [] for key in LONG_NAMES}
    correct: list[bool] = []
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        longest = max(len(question.ids) for question in batch)
        ids = torch.full((len(batch), longest), pad, dtype=torch.long)
        marks = {key: torch.zeros(ids.shape) for key in LONG_NAMES}
        marks["previous_weight"][:, -2] = 1.0
        for row, question in enumerate(batch):
            left = longest - len(question.ids)
            ids[row, left:] = torch.tensor(question.ids)
            marks["asked_weight"][row, [left + place for place in question.asked]] = 1.0
            marks["unasked_weight"][row, [left + place for place in question.others]] = 1.0
        with torch.no_grad(), wrapped.trace(input_ids=ids, attention_mask=(ids != pad).long()):
            rows = nnsight.save([])
            for operation in operations:
                rows.append(attention_call.read(operation).rows()[:, :, 0])
            logits = wrapped.output.logits[:, -1].save()
        attention = torch.stack(list(rows))
        for key, one in marks.items():
            found[key].append(torch.einsum("lbhk,bk->lhb", attention, one).numpy())
        best = logits.argmax(-1).tolist()
        correct += [index == table[q.answer] for index, q in zip(best, batch, strict=True)]
    data: dict[str, Any] = {
        key: (("model", "layer", "head", "sample"), np.concatenate(values, axis=2)[None].astype(np.float32))
        for key, values in found.items()
    }
    data["correct"] = (("model", "sample"), np.array([correct], dtype=np.float32))
    ds = xr.Dataset(
        data,
        {
            "model": np.array([name], dtype=object),
            "sample": np.array([f"list-{index}" for index in range(len(questions))], dtype=object),
            "asked": ("sample", np.array([question.name for question in questions], dtype=object)),
            "answer": ("sample", np.array([question.answer for question in questions], dtype=object)),
        },
    )
    for key, long_name in LONG_NAMES.items():
        ds[key].attrs["long_name"] = long_name
    return ds


def text_heads(
    folder: str | Path, results: str | Path = "data/results", n: int = LISTS, seed: int = 0, untrained: bool = False
) -> xr.Dataset:
    """Trace lists with a text-only checkpoint (`trace_lists`), or read what was traced before.

    The store `<results>/<name>/text-lists.zarr` appears whole, and is made anew where weights, lists or definitions
    differ.

    Parameters
    ----------
    folder : path
        The checkpoint.
    results : path
        Folder of results.
    n, seed : int
        As in `list_questions`.
    untrained : bool
        Take the same network with fresh random weights, as a control; kept beside it, "-untrained" after its name.

    Raises
    ------
    CheckpointError
        For a folder that holds no causal language model.
    StoreError
        For a damaged store, or where none can be written.
    """
    folder = Path(folder)
    name = folder.name + (UNTRAINED if untrained else "")
    made_from = {
        "weights": hash_weights(folder),
        "lists": n,
        "seed": seed,
        "version": VERSION,
        "untrained": int(untrained),
    }

    def made() -> xr.Dataset:
        module, table = _module(folder, seed if untrained else None), _vocabulary(folder)
        return trace_lists(module, list_questions(n, seed=seed, vocabulary=table), name, table)

    return kept(Path(results) / name / STORE, KIND, made_from, made)


def _vocabulary(folder: Path) -> dict[str, int]:
    """The checkpoint's own ids of words: a miniature may have been trained with an earlier vocabulary."""
    from transformers import AutoTokenizer

    with readable("tokenizer", str(folder)):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True).get_vocab()


def _module(folder: Path, fresh_seed: int | None) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    # a bar on a page's stderr would fail the strict build
    with readable("text-only language model", str(folder)), quiet():
        if fresh_seed is None:
            return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fresh_seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
