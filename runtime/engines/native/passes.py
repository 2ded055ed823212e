"""Plans every operator but convolutions: passes over whole tensors, pooling, attention, embedding."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines.native.convolutions import cut_tiles
from runtime.engines.native.emitter import LANES, LINE
from runtime.engines.native.kernels.attention import MOST_VECTORS
from runtime.engines.native.kernels.elementwise import KINDS
from runtime.engines.native.kernels.functions import ACTIVATIONS
from runtime.engines.native.layout import planes, vectors_of
from runtime.engines.native.operators import (
    Attend,
    Average,
    AveragePool,
    Choose,
    Combine,
    Embed,
    Floats,
    Join,
    LayerNorm,
    MaxPool,
    PaddingMask,
    Scale,
    Select,
    Source,
    Space,
    Tensor,
)
from runtime.engines.native.plan import Buffer, Scratch
from runtime.engines.native.planner import Planner
from runtime.engines.native.taps import pool_table


def plan_source(planner: Planner, source: Source) -> None:
    """A model input, or features: written before the program runs."""
    planner.plan.sources[source.name] = planner.define(source.output, pinned=True)


def plan_max_pool(planner: Planner, pool: MaxPool) -> None:
    """Plan max pooling."""
    source, source_layout = planner.tensors[pool.x]
    _, layout = planner.define(pool.output)
    space = pool.output.space
    table = pool_table(pool.window, pool.x.space, space, source_layout)
    groups = planner.groups(pool.x.channels, space.images)
    fields = {
        "x": source, "x_image": source_layout.image_bytes, "x_channel": source_layout.channel_bytes,
        **planner.located("y", pool.output), "table": table, "taps": int(np.prod(pool.window.kernel)),
        "vectors": layout.vectors, **groups,
    }  # fmt: skip
    planner.step("max_pool", pool.output.name, space.images * groups["groups"], fields)


def plan_average_pool(planner: Planner, pool: AveragePool) -> None:
    """Plan average pooling."""
    source, source_layout = planner.tensors[pool.x]
    _, layout = planner.define(pool.output)
    space, taps = pool.output.space, int(np.prod(pool.window.kernel))
    table = pool_table(pool.window, pool.x.space, space, source_layout)
    counts = np.full(layout.vectors * LANES, taps) if pool.pads_count else (table >= 0).sum(1).reshape(-1)
    groups = planner.groups(pool.x.channels, space.images)
    fields = {
        "x": source, "x_image": source_layout.image_bytes, "x_channel": source_layout.channel_bytes,
        **planner.located("y", pool.output), "table": table, "taps": taps,
        "shares": (1 / np.maximum(counts, 1)).astype(np.float32), "vectors": layout.vectors, **groups,
    }  # fmt: skip
    planner.step("average_pool", pool.output.name, space.images * groups["groups"], fields)


def plan_combine(planner: Planner, combine: Combine) -> None:
    """Plan a product, quotient or sum of two tensors, or of a tensor and a constant."""
    _, layout = planner.define(combine.output)
    groups = planner.groups(layout.channels, layout.images)
    space, y = combine.x.space, combine.y
    if isinstance(y, Tensor):
        other, gates = planner.located("r", y), y.space != space
    else:
        flat = planes(space, layout.channels)
        lines = np.zeros((layout.channels, flat.channel_bytes // 4), np.float32)
        lines[:, : space.lanes] = y
        other, gates = {**flat.fields("r", lines), "r_image": 0}, False
    fields = {
        **planner.located("x", combine.x), **planner.located("y", combine.output), **other,
        "kind": KINDS.index(combine.kind), "gates": int(gates), "vectors": layout.vectors, **groups,
    }  # fmt: skip
    planner.step("combine", f"{combine.output.name}, {combine.kind}", layout.images * groups["groups"], fields)


def plan_select(planner: Planner, select: Select) -> None:
    """Plan a copy of some channels."""
    planner.define(select.output)
    _plan_copy(planner, select.x, select.output, select.channels, 0)


def plan_join(planner: Planner, join: Join) -> None:
    """Plan copies of tensors to channels one after the other."""
    planner.define(join.output)
    first = 0
    for x in join.xs:
        _plan_copy(planner, x, join.output, np.arange(x.channels), first)
        first += x.channels


def _plan_copy(planner: Planner, x: Tensor, y: Tensor, channels: NDArray[np.int64], first: int) -> None:
    groups = planner.groups(len(channels), x.space.images)
    fields = {
        **planner.located("x", x), **planner.located("y", y), "table": channels.astype(np.int32), "first": first,
        "vectors": vectors_of(x.space), **groups,
    }  # fmt: skip
    planner.step("copy", f"{x.name} to {y.name}", x.space.images * groups["groups"], fields)


def plan_choose(planner: Planner, choose: Choose) -> None:
    """Plan a mask that chooses between two numbers."""
    space = choose.output.space
    source, source_layout = planner.mask(choose.mask, space)
    target, layout = planner.define(choose.output, pinned=True)  # pinned are planes, which its readers expect
    fields = {
        "x": source, "x_image": source_layout.image_bytes, "y": target, "y_image": layout.image_bytes,
        "inside": _ones(space), "constants": np.array([choose.equals, choose.yes, choose.no], np.float32),
        "vectors": layout.vectors,
    }  # fmt: skip
    planner.step("choose", choose.output.name, space.images, fields)


def _ones(space: Space) -> Floats:
    """1 for each lane of an image, 0 behind the last."""
    return (np.arange(vectors_of(space) * LANES) < space.lanes).astype(np.float32)


def _mask(planner: Planner, mask: PaddingMask | Tensor | None, space: Space) -> tuple[Any, int]:
    """Where a mask lies, and the bytes of one image; zeros for none."""
    if mask is None:
        return 0, 0
    buffer, layout = planner.mask(mask.name, space) if isinstance(mask, PaddingMask) else planner.tensors[mask]
    return buffer, layout.image_bytes


def plan_scale(planner: Planner, scale: Scale) -> None:
    """Plan a pass over a whole tensor: scale, shift, sum, activation."""
    _, layout = planner.define(scale.output)
    groups = planner.groups(layout.channels, layout.images)
    fields = {
        **planner.located("x", scale.x), **planner.located("y", scale.output), **planner.located("r", scale.residual),
        "scale": scale.scale, "shift": scale.shift, "activation": ACTIVATIONS.index(scale.activation),
        "vectors": layout.vectors, **groups,
    }  # fmt: skip
    planner.step("map", f"{scale.output.name}, {scale.activation}", layout.images * groups["groups"], fields)


def plan_layer_norm(planner: Planner, norm: LayerNorm) -> None:
    """Plan a norm over the channels of each lane."""
    _, layout = planner.define(norm.output)
    fields = {
        **planner.located("x", norm.x), **planner.located("y", norm.output), "gamma": norm.gamma, "beta": norm.beta,
        "constants": np.array([1 / layout.channels, norm.epsilon], np.float32),
        "channels": layout.channels, "vectors": layout.vectors,
    }  # fmt: skip
    planner.step("layer_norm", norm.output.name, layout.images * layout.vectors, fields)


def plan_average(planner: Planner, average: Average) -> None:
    """Plan a mean over the lanes of each image."""
    space, norm = average.x.space, average.norm
    channels = average.x.channels
    target, layout = planner.define(average.output)
    groups = planner.groups(channels, space.images)
    weights: Buffer | Floats
    if average.weights is None:
        weights, image_bytes = _ones(space), 0
        if average.lane is not None:
            weights[np.arange(len(weights)) != average.lane] = 0
    else:
        weights, image_bytes = _mask(planner, average.weights, space)
    fields = {
        **planner.located("x", average.x), "y": target, "y_channel": layout.channel_bytes,
        "weights": weights, "weights_image": image_bytes,
        "least": np.array([average.least], np.float32),
        "scale": norm.scale if norm else np.ones(channels, np.float32),
        "shift": norm.shift if norm else np.zeros(channels, np.float32),
        "relu": int(norm is not None and norm.activation == "relu"), "vectors": vectors_of(space), **groups,
    }  # fmt: skip
    planner.step("average", average.output.name, space.images * groups["groups"], fields)


def plan_embed(planner: Planner, embed: Embed) -> None:
    """Plan a look-up of token embeddings."""
    space = embed.output.space
    vocabulary, width = embed.table.shape
    ids, ids_layout = planner.integers(embed.ids, space, vocabulary)
    _, layout = planner.define(embed.output)
    positions: Floats | int = 0
    if embed.positions is not None:
        positions = np.zeros((width, layout.vectors * LANES), np.float32)
        positions[:, : space.lanes] = embed.positions.T
    fields = {
        "ids": ids, "ids_image": ids_layout.image_bytes, "table": embed.table, "width": width,
        **planner.located("y", embed.output), "positions": positions, "positions_channel": layout.vectors * LINE,
        "vectors": layout.vectors,
    }  # fmt: skip
    planner.step("embed", embed.output.name, layout.images * layout.vectors, fields)


def plan_attend(planner: Planner, attend: Attend) -> None:
    """Plan attention."""
    space = attend.output.space
    _, output = planner.define(attend.output)
    (query, layout), (key, _), (value, _) = (planner.tensors[t] for t in (attend.query, attend.key, attend.value))
    most = min(MOST_VECTORS, planner.machine.max_vectors)
    tiles = cut_tiles(layout.vectors, output.chunk_vectors, most)
    scratch_bytes = planner.scratch(space.lanes * most * LINE)
    mask, mask_image = _mask(planner, attend.mask, space)
    linear = attend.mask if isinstance(attend.mask, PaddingMask) else PaddingMask("")
    fields = {
        "q": query, "k": key, "v": value, "image": layout.image_bytes, "channel": layout.channel_bytes,
        **planner.located("y", attend.output), "mask": mask, "mask_image": mask_image,
        "constants": np.array([attend.scale, linear.factor, linear.term], np.float32), "heads": attend.heads,
        "width": layout.channels // attend.heads, "tokens": space.lanes, "tiles": tiles, "tile_count": len(tiles),
        "scratch": Scratch(), "scratch_thread": scratch_bytes, "clear": int(attend.clear),
    }  # fmt: skip
    label = f"{attend.output.name}: {attend.heads} heads, {space.lanes} tokens"
    macs = 2 * space.images * space.lanes**2 * layout.channels
    planner.step("attention", label, space.images * attend.heads * len(tiles), fields, macs)
