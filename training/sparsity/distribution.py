"""How many weights each layer keeps. Counts are exact: they add up to round(density * weights)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

Shape = tuple[int, ...]
Counts = dict[str, int]


@dataclass(frozen=True)
class Distribution:
    """How a density is shared among layers, over the whole network or within each stage (the trunk, each head).

    `layers` fixes the densities of single layers by glob patterns of weight names, the first match counts: they come
    out of the budget first, and 1 keeps a layer dense.
    """

    kind: Literal["erk", "uniform"] = "erk"
    scope: Literal["network", "stage"] = "network"
    layers: Mapping[str, float] = field(default_factory=dict)

    def counts(self, shapes: Mapping[str, Shape], density: float, units: Mapping[str, int] | None = None) -> Counts:
        """Kept weights by layer, each a multiple of the layer's unit; 1 where `units` does not say otherwise.

        `shapes` covers the whole network. The total is exactly round(density * weights) when a layer of unit 1 has
        room, and less than one unit below it otherwise. Raises ValueError when the fixed layers leave too little or
        too much for the others, or a pattern names no layer.
        """
        if not 0 < density <= 1:
            raise ValueError(f"density must be above 0 and at most 1, not {density}")
        units = units or {}
        fixed = {
            name: _whole(wanted * math.prod(shape), units.get(name, 1))
            for name, shape in shapes.items()
            if (wanted := self._fixed_density(name)) is not None
        }
        for pattern in self.layers:
            if not any(fnmatchcase(name, pattern) for name in shapes):
                raise ValueError(f"no layer is called {pattern!r}; there are {', '.join(list(shapes)[:8])}, ...")
        counts: Counts = {}
        for stage, total in self._budgets(shapes, density).items():
            own = {name: shape for name, shape in shapes.items() if self._stage(name) == stage}
            free = {name: shape for name, shape in own.items() if name not in fixed}
            budget = total - sum(fixed[name] for name in own if name in fixed)
            room = sum(math.prod(shape) for shape in free.values())
            if not 0 <= budget <= room:
                raise ValueError(
                    f"sparsity.layers leaves {budget:,} of {total:,} kept weights to {len(free)} other layers of "
                    f"{room:,} weights; change sparsity.density ({density}) or the densities of the layers"
                )
            ideal = IDEALS[self.kind](free, budget)
            limits = {name: math.prod(shape) for name, shape in free.items()}
            counts |= round_to_total(ideal, budget, limits, units)
        return {name: fixed.get(name, counts.get(name, 0)) for name in shapes}

    def _fixed_density(self, name: str) -> float | None:
        return next((density for pattern, density in self.layers.items() if fnmatchcase(name, pattern)), None)

    def _stage(self, name: str) -> str:
        """The trunk, or the head, that a weight belongs to."""
        if self.scope == "network":
            return ""
        first, second, *_ = name.split(".")
        return f"{first}.{second}" if first == "heads" else first

    def _budgets(self, shapes: Mapping[str, Shape], density: float) -> Counts:
        sizes: Counts = {}
        for name, shape in shapes.items():
            sizes[self._stage(name)] = sizes.get(self._stage(name), 0) + math.prod(shape)
        total = round(density * sum(sizes.values()))
        return round_to_total({stage: density * size for stage, size in sizes.items()}, total, sizes)


def erk_counts(shapes: Mapping[str, Shape], density: float) -> Counts:
    """Kept weights by layer when trunk and heads share one budget by ERK."""
    return Distribution("erk").counts(shapes, density)


def erk_ideal(shapes: Mapping[str, Shape], budget: int) -> dict[str, float]:
    """Erdos-Renyi-Kernel shares (RigL, arXiv 1911.11134, section 3), before rounding.

    The density of a layer is proportional to sum(shape) / prod(shape); a layer that would exceed 1 is kept whole and
    the others share the rest.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    whole: set[str] = set()
    scale = 0.0
    while True:
        rest = {name: sum(shape) for name, shape in shapes.items() if name not in whole}
        if not rest:
            break
        scale = (budget - sum(sizes[name] for name in whole)) / sum(rest.values())
        full = {name for name, score in rest.items() if scale * score >= sizes[name]}
        if not full:
            break
        # Only the fullest layers at once: keeping them whole lowers the share of all others.
        fullest = max(scale * rest[name] / sizes[name] for name in full)
        whole |= {name for name in full if scale * rest[name] / sizes[name] == fullest}
    return {name: float(sizes[name]) if name in whole else scale * sum(shapes[name]) for name in shapes}


def uniform_ideal(shapes: Mapping[str, Shape], budget: int) -> dict[str, float]:
    """The same density for every layer, before rounding."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    total = sum(sizes.values())
    return {name: size * budget / total for name, size in sizes.items()}


IDEALS: dict[str, Callable[[Mapping[str, Shape], int], dict[str, float]]] = {
    "erk": erk_ideal,
    "uniform": uniform_ideal,
}


def round_to_total(
    ideal: Mapping[str, float], total: int, limits: Mapping[str, int], units: Mapping[str, int] | None = None
) -> Counts:
    """Round every value down to its unit, then give the missing weights to the largest remainders, ties to the earlier.

    No value exceeds its limit. What is less than a unit and fits into no layer of a smaller one stays missing.
    """
    unit = {name: (units or {}).get(name, 1) for name in ideal}
    counts = {name: min(math.floor(value / unit[name]) * unit[name], limits[name]) for name, value in ideal.items()}
    missing = total - sum(counts.values())
    by_remainder = sorted(ideal, key=lambda name: (counts[name] - ideal[name]) / unit[name])
    while True:
        before = missing
        for name in by_remainder:
            if unit[name] <= missing and counts[name] + unit[name] <= limits[name]:
                counts[name] += unit[name]
                missing -= unit[name]
        if missing == before:
            break
    if not 0 <= missing < max(unit.values(), default=1):
        raise ValueError(f"{total} weights cannot be distributed over {len(counts)} layers of {sum(limits.values())}")
    return counts


def _whole(value: float, unit: int) -> int:
    return round(value / unit) * unit
