"""One sample's maps of chosen heads, ready for `overlays`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from visualheads.charts import tables
from visualheads.charts.overlays import overlays

if TYPE_CHECKING:
    from visualheads.models import VisionLanguageModel
    from visualheads.tasks.sample import Sample


def strongest_heads(
    ds: xr.Dataset, by: str = "region_weight", n: int = 5, query: str | None = None
) -> list[tuple[int, int]]:
    """(layer, head) of the n best heads by a ranking; by image weight where the ranking has no values (no boxes)."""
    table = tables.ranking_table(ds, by, n, query)
    if table.empty:
        table = tables.ranking_table(ds, "image_weight", n, query)
    return [(int(layer), int(head)) for layer, head in zip(table["layer"], table["head"], strict=True)]


def sample_overlays(model: VisionLanguageModel, sample: Sample, traced: xr.Dataset) -> Any:
    """The sample's picture, and over it the map of every head whose maps `traced` kept (keep="maps")."""
    picture = sample.open()
    maps = traced["maps"].isel(model=0, sample=0)
    if "query" in maps.dims:
        maps = maps.isel(query=0)
    layers, heads = traced["selected_layer"].values, traced["selected_index"].values
    titled = {}
    for index, (layer, head) in enumerate(zip(layers.tolist(), heads.tolist(), strict=True)):
        values = maps.isel(selected_head=index).transpose("grid_row", "grid_column").values
        weight = traced["image_weight"].isel(model=0, sample=0).sel(layer=layer, head=head)
        titled[f"{tables.head_name(layer, head)}: {float(weight.squeeze()):.0%} on the picture"] = values
    return overlays(picture, titled, model.token_map(picture.size), sample.box)
