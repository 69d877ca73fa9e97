"""The explorer as a widget: the same component, with a kernel that answers what the data do not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from visualheads.errors import HeadError, MissingDependencyError, VisualHeadsError, got
from visualheads.explorer import assets
from visualheads.explorer.page import index_of

if TYPE_CHECKING:
    from visualheads.explorer.shown import Explorer

MODES = ("mean", "image_knockout", "steer")


def widget(explorer: Explorer) -> Any:
    """Return an anywidget widget of the explorer.

    With the model in memory it changes any heads on request, steering included, and gives the rows of any token.
    Raises MissingDependencyError where `anywidget` is not installed.
    """
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise MissingDependencyError(
            "anywidget is not installed, live explorers need it; install visualheads[lab], or use .save('look.html')."
        ) from error
    from visualheads.explorer.effects import LABELS, STEERED

    class LookWidget(anywidget.AnyWidget):
        _esm = assets.widget_script()
        _css = assets.style()
        index = traitlets.Dict().tag(sync=True)
        looks = traitlets.Dict().tag(sync=True)
        modes = traitlets.List().tag(sync=True)
        steerable = traitlets.List().tag(sync=True)
        first = traitlets.Dict().tag(sync=True)
        choice = traitlets.Dict().tag(sync=True)

    live = explorer.model is not None
    made = LookWidget(
        index=index_of(explorer.looks),
        looks={look.key: look.to_json() for look in explorer.looks},
        modes=[[mode, LABELS[mode]] for mode in MODES] if live else [],
        steerable=[STEERED] if live else [],
    )
    if live:
        made.on_msg(lambda _widget, content, _buffers: made.send(reply(explorer, content)))
    return made


def reply(explorer: Explorer, content: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to what the page asks; errors are told to the reader of the page."""
    try:
        return {"number": content["number"], "result": _result(explorer, content)}
    except VisualHeadsError as error:
        return {"number": content["number"], "error": str(error)}


def _result(explorer: Explorer, content: dict[str, Any]) -> dict[str, Any]:
    from visualheads.explorer.effects import HeadChanger
    from visualheads.explorer.looking import added_row

    model = explorer.model
    assert model is not None
    sample = next(one for one in explorer.samples if one.id == content["sample"])
    if content["kind"] == "row":
        return added_row(model, sample, int(content["position"]), explorer.max_new_tokens)
    heads = [(int(layer), int(head)) for layer, head in content["heads"]]
    layers, each, _ = model.shape
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < each):
            raise HeadError(got("head", (layer, head), f"layers 0 to {layers - 1}, heads 0 to {each - 1}"))
    changer = HeadChanger(model, sample, explorer.max_new_tokens, explorer.references)
    box = content.get("box")
    return changer.answer(content["mode"], heads, float(content["bias"]), None if box is None else tuple(box))
