"""Fits the constants of the cost model to measured layers, by least squares of relative errors.

Estimates are linear in the constants of the sparse kernel once `far_bytes` is fixed, and in those of the dense kernel
once the time of a load is known; so `far_bytes` is scanned, and the rest is solved for. Columns of the equations are
estimates by the cost model itself, with one constant 1 and the others 0: there is no second copy of its formulas.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from runtime.engines.native.convolutions import Sizes, estimate
from runtime.engines.native.costs import Costs

Floats = NDArray[np.float64]
ZERO = Costs(**dict.fromkeys(asdict(Costs()), 0.0))
SPARSE = ("near", "far", "weight", "sparse_sum")
"""Constants of the sparse kernel, but for `far_bytes`."""
DENSE = ("multiply", "step", "lanes", "dense_sum")
FAR_BYTES = tuple(1024.0 * size for size in range(32, 513, 10))
"""Values of `far_bytes` that are tried."""


@dataclass(frozen=True)
class Observation:
    """One way of computing one layer, measured."""

    sizes: Sizes
    chunks: float
    """Chunks of lanes of the layer."""
    kernel: str
    tile: int
    blocks: int
    gather: str | None
    """Kernel that gathers its pixels, if any."""
    gathered: int
    """Vectors that it gathers."""
    seconds: float
    """Measured, gathering included."""

    def estimate(self, costs: Costs) -> float:
        """Seconds by the cost model, which knows nothing of gathering."""
        return self.chunks * estimate(self.sizes, self.kernel, self.tile, self.blocks, costs)


@dataclass(frozen=True)
class Fit:
    """Constants, and what gathering a vector costs beside them."""

    costs: Costs
    gather_seconds: dict[str, float]
    """By kernel."""

    def estimate(self, seen: Observation) -> float:
        """Seconds of a layer, gathering included."""
        return seen.estimate(self.costs) + self.gathering(seen)

    def gathering(self, seen: Observation) -> float:
        """Seconds of gathering the pixels of a layer."""
        return self.gather_seconds[seen.gather] * seen.gathered if seen.gather is not None else 0.0

    def rms_error(self, observations: Sequence[Observation]) -> float:
        """Root mean square of the relative errors of the estimates."""
        errors = [self.estimate(seen) / seen.seconds - 1 for seen in observations]
        return float(np.sqrt(np.mean(np.square(errors))))


def fit_costs(observations: Sequence[Observation]) -> Fit:
    """Fit all constants. Raises ValueError where one of the two kernels was not measured."""
    sparse = [seen for seen in observations if seen.kernel == "stream"]
    dense = [seen for seen in observations if seen.kernel == "dense"]
    if not sparse or not dense:
        raise ValueError(f"{len(sparse)} sparse and {len(dense)} dense layers were measured: both kernels are needed")
    best = min((_fit_sparse(sparse, size) for size in FAR_BYTES), key=lambda fit: fit.rms_error(sparse))
    missing = {seen.gather for seen in dense} - {None} - set(best.gather_seconds)
    if missing:
        raise ValueError(f"no sparse layer gathers by {missing}, so that gathering cannot be told from dense layers")
    return _fit_dense(dense, best)


def fit_gather(observations: Sequence[Observation], costs: Costs) -> Fit:
    """Fit what gathering costs beside constants that are known already."""
    kernels = _gather_kernels(observations)
    gathering = [seen for seen in observations if seen.gather is not None]
    known = np.array([seen.estimate(costs) for seen in gathering])
    found = _solve([_gathered(gathering, kernel) for kernel in kernels], gathering, known)
    return Fit(costs, dict(zip(kernels, found, strict=True)))


def _fit_sparse(observations: Sequence[Observation], far_bytes: float) -> Fit:
    empty = replace(ZERO, far_bytes=far_bytes)
    kernels = _gather_kernels(observations)
    columns = [_estimates(observations, replace(empty, **{name: 1.0})) for name in SPARSE]
    columns += [_gathered(observations, kernel) for kernel in kernels]
    found = _solve(columns, observations, np.zeros(len(observations)))
    constants = dict(zip(SPARSE, found, strict=False))
    return Fit(replace(empty, **constants), dict(zip(kernels, found[len(SPARSE) :], strict=True)))


def _fit_dense(observations: Sequence[Observation], sparse: Fit) -> Fit:
    columns = [_estimates(observations, replace(sparse.costs, **{name: 1.0})) for name in DENSE]
    known = np.array([sparse.gathering(seen) for seen in observations])
    found = _solve(columns, observations, known)
    return replace(sparse, costs=replace(sparse.costs, **dict(zip(DENSE, found, strict=True))))


def _estimates(observations: Sequence[Observation], costs: Costs) -> Floats:
    return np.array([seen.estimate(costs) for seen in observations])


def _gather_kernels(observations: Sequence[Observation]) -> list[str]:
    return sorted({seen.gather for seen in observations if seen.gather is not None})


def _gathered(observations: Sequence[Observation], kernel: str) -> Floats:
    return np.array([float(seen.gathered * (seen.gather == kernel)) for seen in observations])


def _solve(columns: Sequence[Floats], observations: Sequence[Observation], known: Floats) -> list[float]:
    """Factors of the columns such that, with `known` seconds added, relative errors are least."""
    if not columns:
        return []
    seconds = np.array([seen.seconds for seen in observations])
    rows = np.stack(columns, axis=1) / seconds[:, None]
    scale = np.linalg.norm(rows, axis=0)
    scale[scale == 0] = 1.0
    found = np.linalg.lstsq(rows / scale, (seconds - known) / seconds, rcond=None)[0] / scale
    return [float(value) for value in found]
