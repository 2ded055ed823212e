"""Plans every operator but convolutions: passes over whole tensors, pooling, attention, embedding."""

import numpy as np

from runtime.engines.native.convolutions import cut_tiles
from runtime.engines.native.emitter import LANES, LINE
from runtime.engines.native.kernels.attention import MOST_VECTORS
from runtime.engines.native.kernels.functions import ACTIVATIONS
from runtime.engines.native.layout import planes, vectors_of
from runtime.engines.native.operators import Attend, Average, Embed, Floats, LayerNorm, MaxPool, Scale, Source
from runtime.engines.native.plan import SCRATCH, Buffer
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
        weights, image_bytes = np.zeros(vectors_of(space) * LANES, np.float32), 0
        weights[: space.lanes] = 1
    else:
        weights, mask_layout = planner.mask(average.weights.name, space)
        image_bytes = mask_layout.image_bytes
    fields = {
        **planner.located("x", average.x), "y": target, "y_channel": layout.channel_bytes,
        "weights": weights, "weights_image": image_bytes,
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
    planner.define(attend.output)
    (query, layout), (key, _), (value, _) = (planner.tensors[t] for t in (attend.query, attend.key, attend.value))
    most = min(MOST_VECTORS, planner.machine.max_vectors)
    tiles = cut_tiles(layout.vectors, layout.vectors, most)
    scratch_bytes = space.lanes * most * LINE
    planner.plan.scratch_bytes = max(planner.plan.scratch_bytes, scratch_bytes)
    mask, mask_image, factor, term = None, 0, 1.0, 0.0
    if attend.mask is not None:
        mask, mask_layout = planner.mask(attend.mask.name, space)
        mask_image, factor, term = mask_layout.image_bytes, attend.mask.factor, attend.mask.term
    fields = {
        "q": query, "k": key, "v": value, "image": layout.image_bytes, "channel": layout.channel_bytes,
        **planner.located("y", attend.output), "mask": mask or 0, "mask_image": mask_image,
        "constants": np.array([attend.scale, factor, term], np.float32), "heads": attend.heads,
        "width": layout.channels // attend.heads, "tokens": space.lanes, "tiles": tiles, "tile_count": len(tiles),
        "scratch": SCRATCH, "scratch_thread": scratch_bytes,
    }  # fmt: skip
    label = f"{attend.output.name}: {attend.heads} heads, {space.lanes} tokens"
    macs = 2 * space.images * space.lanes**2 * layout.channels
    planner.step("attention", label, space.images * attend.heads * len(tiles), fields, macs)
