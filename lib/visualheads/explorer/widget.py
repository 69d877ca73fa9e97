"""The explorer as a widget: the same component, with a kernel that answers what the data do not hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from visualheads.errors import MissingDependencyError
from visualheads.explorer import assets
from visualheads.explorer.page import index_of

if TYPE_CHECKING:
    from visualheads.explorer.kernel import Kernel
    from visualheads.explorer.look_data import Look


def widget(looks: Sequence[Look], kernel: Kernel | None = None) -> Any:
    """Return an anywidget widget of looks.

    With a kernel it changes any heads on request, steering included, and gives the rows of any token.
    Raises MissingDependencyError where `anywidget` is not installed.
    """
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise MissingDependencyError(
            "anywidget is not installed, live explorers need it; install visualheads[lab], or use .save('look.html')."
        ) from error
    from visualheads.explorer.answers import LABELS, STEERED

    class LookWidget(anywidget.AnyWidget):
        _esm = assets.widget_script()
        _css = assets.style()
        index = traitlets.Dict().tag(sync=True)
        looks = traitlets.Dict().tag(sync=True)
        modes = traitlets.List().tag(sync=True)
        steerable = traitlets.List().tag(sync=True)
        first = traitlets.Dict().tag(sync=True)
        choice = traitlets.Dict().tag(sync=True)

    made = LookWidget(
        index=index_of(looks),
        looks={look.key: look.to_json() for look in looks},
        modes=[list(labelled) for labelled in LABELS.items()] if kernel is not None else [],
        steerable=[STEERED] if kernel is not None else [],
    )
    if kernel is not None:
        made.on_msg(lambda _widget, content, _buffers: made.send(kernel.reply(content)))
    return made
