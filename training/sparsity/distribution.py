"""How many weights each layer keeps. Counts are exact: they add up to round(density * weights)."""

import math
from collections.abc import Mapping

Shape = tuple[int, ...]


def erk_counts(shapes: Mapping[str, Shape], density: float) -> dict[str, int]:
    """Kept weights by layer under the Erdos-Renyi-Kernel distribution (RigL, arXiv 1911.11134, section 3).

    The density of a layer is proportional to sum(shape) / prod(shape); a layer that would exceed 1 is kept whole and
    the others share the rest. `shapes` covers the whole network: trunk and heads have one budget. Largest-remainder
    rounding, ties to the earlier layer, makes the total exactly round(density * weights).
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be above 0 and at most 1, not {density}")
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    budget = round(density * sum(sizes.values()))
    whole: set[str] = set()
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
    ideal = {name: float(sizes[name]) if name in whole else scale * sum(shapes[name]) for name in shapes}
    return round_to_total(ideal, budget, sizes)


def round_to_total(ideal: Mapping[str, float], total: int, limits: Mapping[str, int]) -> dict[str, int]:
    """Round every value down, then give the missing units to the largest remainders (never beyond `limits`)."""
    counts = {name: min(math.floor(value), limits[name]) for name, value in ideal.items()}
    missing = total - sum(counts.values())
    by_remainder = sorted(ideal, key=lambda name: counts[name] - ideal[name])
    for name in [name for name in by_remainder if counts[name] < limits[name]][:missing]:
        counts[name] += 1
    if sum(counts.values()) != total:
        raise ValueError(f"{total} weights cannot be distributed over {len(counts)} layers of {sum(limits.values())}")
    return counts
