"""Splitting a batch into the sizes that an engine has compiled, at the lowest cost."""

from collections.abc import Mapping


def split(rows: int, costs: Mapping[int, float]) -> list[int]:
    """Sizes that together hold `rows` at the lowest total cost, the largest first; the last one may be padded.

    `costs` holds the cost of each size. Without rows there are no sizes.
    """
    best: list[tuple[float, int]] = [(0.0, 0)]
    for count in range(1, rows + 1):
        best.append(min((best[max(0, count - size)][0] + cost, size) for size, cost in costs.items()))
    sizes = []
    while rows > 0:
        sizes.append(best[rows][1])
        rows -= sizes[-1]
    return sorted(sizes, reverse=True)
