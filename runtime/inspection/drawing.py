"""The drawing of a network: trunk, branches, heads and vote, with the density of each layer as shading."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from runtime.inspection.contents import Inspection, StoredLayer, StoredStage
from runtime.pages.svg import drawing, rectangle, shortened, text

WIDTH = 900
INPUT, TRUNK, HEAD, VOTE = (0, 96), (150, 400), (480, 730), (790, 900)
"""From where to where the columns go, in pixels; without a trunk its column is empty."""
BOX, GAP = 62, 12
CELLS = 12
"""Height of the row of layers at the bottom of a box."""


@dataclass(frozen=True)
class Box:
    """Where something is drawn."""

    left: float
    right: float
    top: float
    bottom: float

    @property
    def middle(self) -> float:
        """Height of the middle."""
        return (self.top + self.bottom) / 2


def draw(inspection: Inspection) -> Markup:
    """Draw the network of an artifact; the drawing grows with the number of heads."""
    manifest = inspection.manifest
    heads = inspection.stages[-len(manifest.heads) :]
    height = len(heads) * (BOX + GAP) - GAP + 2
    middle = height / 2
    layers: dict[str, list[StoredLayer]] = {stage.file: [] for stage in inspection.stages}
    for layer in inspection.layers:
        layers[layer.stage].append(layer)
    source = Box(*INPUT, middle - 22, middle + 22)
    vote = Box(*VOTE, middle - 22, middle + 22)
    boxes = [Box(*HEAD, 1 + index * (BOX + GAP), 1 + index * (BOX + GAP) + BOX) for index in range(len(heads))]
    parts = [_label(source, "input", manifest.modality)]
    if manifest.trunk is None:
        parts += [_branch(source, box) for box in boxes]
    else:
        trunk = Box(*TRUNK, middle - BOX / 2, middle + BOX / 2)
        parts += [_branch(source, trunk), *(_branch(trunk, box) for box in boxes)]
        parts.append(_stage(trunk, "trunk", inspection.stages[0], layers[manifest.trunk.file]))
    for index, (box, head) in enumerate(zip(boxes, heads, strict=True)):
        parts.append(_branch(box, vote))
        parts.append(_stage(box, f"head {index}", head, layers[head.file]))
    parts.append(_label(vote, "vote", f"{len(manifest.labels):,} classes"))
    what = "a trunk feeds" if manifest.trunk else "the input goes to"
    count = "1 head" if len(heads) == 1 else f"{len(heads)} heads"
    return drawing(f"Drawing of the network: {what} {count}, which vote", WIDTH, height, parts)


def size_of(nbytes: int) -> str:
    """A number of bytes, in three digits."""
    number, _, prefix = _short(nbytes).partition(" ")
    return f"{number} {prefix}B"


def _short(count: int) -> str:
    for prefix, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{_three_digits(count / size)} {prefix}"
    return f"{count}"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _stage(box: Box, name: str, stage: StoredStage, layers: Sequence[StoredLayer]) -> Markup:
    kept, weights = sum(layer.kept for layer in layers), sum(layer.weights for layer in layers)
    density = f"density {kept / weights:.3g}" if weights else "no weights"
    work = f"{_short(stage.effective_macs)} of {_short(stage.dense_macs)} MACs"
    parts = [
        _box("box", box),
        text("name", box.left + 10, box.top + 14, name),
        text("tick", box.right - 10, box.top + 14, f"{size_of(stage.bytes)}, {density}", "end"),
        text("tick", box.left + 10, box.top + 32, work),
    ]
    width = (box.right - box.left - 20) / max(len(layers), 1)
    for index, layer in enumerate(layers):
        left = box.left + 10 + index * width
        hint = f"{layer.name}, {'x'.join(map(str, layer.shape))}: density {layer.density:.4f}"
        top, bottom = box.bottom - 6 - CELLS, box.bottom - 6
        parts.append(rectangle("heat cell", left, top, left + width, bottom, hint, opacity=math.sqrt(layer.density)))
    return Markup("").join(parts)


def _label(box: Box, title: str, details: str) -> Markup:
    middle = (box.left + box.right) / 2
    return Markup("").join(
        [
            _box("box", box),
            text("name", middle, box.middle - 8, title, "middle"),
            text("tick", middle, box.middle + 9, shortened(details, 14), "middle", hint=details),
        ]
    )


def _box(kind: str, box: Box) -> Markup:
    return Markup('<rect class="{}" x="{:g}" y="{:g}" width="{:g}" height="{:g}" rx="6"/>').format(
        kind, box.left, box.top, box.right - box.left, box.bottom - box.top
    )


def _branch(start: Box, end: Box) -> Markup:
    bend = (start.right + end.left) / 2
    return Markup('<path class="branch" d="M{:g} {:g}C{:g} {:g} {:g} {:g} {:g} {:g}"/>').format(
        start.right, start.middle, bend, start.middle, bend, end.middle, end.left, end.middle
    )
