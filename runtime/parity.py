"""When two engines agree: the one rule that export, verify and tests share, and the walk that applies it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from runtime.artifact import Artifact
from runtime.engines.base import Engine, Tensors
from runtime.errors import EngineError, NeurotrailsError

LOGITS = "logits.{}"
"""What reference.safetensors calls a head's logits from PyTorch."""
QUANTIZED_LOGITS = "quantized.{}"
"""What that of an int8 artifact calls the logits of a head's own graph."""

RELATIVE_TOLERANCE = 1e-4

INT8_TOLERANCE = 0.1
"""For a single logit of an int8 graph. Largest difference seen between engines on trained networks: 0.012."""
INT8_RMS_TOLERANCE = 0.02
"""For all logits of an int8 graph together, root mean square."""
INT8_MOVED = 0.04
"""Where quantization itself moved the logits by more than this, root mean square, the network amplifies every
rounding, and both tolerances grow in proportion, to twice theirs at most. ResNet-50 with random weights: quantization
0.11, engines 0.011 to 0.033 and up to 0.143 for a single logit.
"""

BF16_TOLERANCE = 0.2
"""For execution in bf16, whose numbers have 8 bits: to round passes, to compute another head does not.

Largest difference to fp32 seen, relative to the largest logit: trained networks 0.007, WRN-28-10 with random weights
0.01, ResNet-50 with random weights, which amplifies every rounding through 50 layers, 0.13.
"""


@dataclass(frozen=True)
class Parity:
    """Comparison of float logits [rows, classes] with a reference."""

    worst: float
    """Largest absolute difference."""
    allowed: float
    """Tolerance (1e-4 in fp32) * max(1, largest absolute reference logit)."""
    flips: int
    """Rows whose top-1 differs although the reference's margin exceeds twice what is allowed."""

    @property
    def holds(self) -> bool:
        """Whether the logits agree."""
        return bool(np.isfinite(self.worst)) and self.worst <= self.allowed and not self.flips


def compare(
    reference: NDArray[np.float32], logits: NDArray[np.float32], tolerance: float = RELATIVE_TOLERANCE
) -> Parity:
    """Compare logits [rows, classes] with those of the reference; NaN and infinity never agree."""
    if reference.shape != logits.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {logits.shape}")
    with np.errstate(invalid="ignore"):
        return _compare(reference, logits, tolerance)


def compare_int8(reference: NDArray[np.float32], logits: NDArray[np.float32], slack: float = 1.0) -> Parity:
    """Compare logits of an int8 graph with what its operators give when each is computed as it stands.

    Sums of int8 products are exact, but engines scale and round them in different orders: now and then a value falls on
    the other side of a step, and such steps spread. So a single logit may be off by more than in fp32; all together may
    not (more than INT8_RMS_TOLERANCE counts as infinitely far off), and top-1 must agree where the margin is clear. A
    wrong scale, zero point or bias moves every logit, and fails. `slack` multiplies both tolerances; see INT8_MOVED.
    """
    parity = compare(reference, logits, slack * INT8_TOLERANCE)
    with np.errstate(invalid="ignore"):
        rms = _rms(reference, logits)
    close = rms <= INT8_RMS_TOLERANCE / INT8_TOLERANCE * parity.allowed
    return parity if close else replace(parity, worst=float("inf"))


Rule = Callable[[NDArray[np.float32], NDArray[np.float32]], Parity]

RULES: dict[str, Rule] = {
    "fp32": compare,
    "bf16": partial(compare, tolerance=BF16_TOLERANCE),
    "int8": compare_int8,
}
"""How logits are compared with those of the original network, by the precision that the engine computes in."""


def heads_parity(
    engine: Engine, inputs: Tensors, references: Sequence[NDArray[np.float32]]
) -> Iterator[tuple[int, Parity]]:
    """Run an engine over model inputs and yield, head by head, its index and how it agrees with its reference.

    `references` are the logits [rows, classes] of the first heads, in voting order. An engine with one program for
    trunk and heads is compared both ways: stage by stage, and as one. Raises EngineError when logits have another
    shape, or when no rule says how far logits of the engine's precision may be off.
    """
    if engine.precision not in RULES:
        raise EngineError(f"There is no parity rule for {engine.precision}; there is one for {', '.join(RULES)}.")
    rule = RULES[engine.precision]
    if engine.precision == "int8":
        rule = partial(compare_int8, slack=int8_slack(engine.artifact))
    heads = len(references)
    try:
        features = engine.trunk(inputs)
        ways = [[engine.head(index, features) for index in range(heads)]]
        ways += [engine.logits(inputs, heads)] if engine.one_program else []
    except NeurotrailsError:
        raise
    except Exception as error:  # of what the engine wraps
        raise EngineError(f"{engine.name} {engine.version} fails on the reference: {error!r}.") from error
    for found in ways:
        yield from _judge(engine, rule, references, found)


def int8_slack(artifact: Artifact) -> float:
    """Factor of the int8 tolerances, 1 to 2, by how far quantization moved the logits of the reference."""
    reference = artifact.reference()
    moved = 0.0
    for head in range(len(artifact.manifest.heads)):
        original, quantized = reference[LOGITS.format(head)], reference[QUANTIZED_LOGITS.format(head)]
        moved = max(moved, _rms(original, quantized) / max(1.0, float(np.abs(quantized).max())))
    return min(2.0, max(1.0, moved / INT8_MOVED))


def _rms(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    return float(np.sqrt(np.square(one.astype(np.float64) - other.astype(np.float64)).mean()))


def _judge(
    engine: Engine,
    rule: Rule,
    references: Sequence[NDArray[np.float32]],
    found: Sequence[NDArray[np.float32]],
) -> Iterator[tuple[int, Parity]]:
    for index, logits in enumerate(found):
        if logits.shape != references[index].shape:
            raise EngineError(
                f"{engine.name} {engine.version} gives logits of shape {logits.shape} for head {index} instead of "
                f"{references[index].shape}."
            )
        yield index, rule(references[index], logits)


def _compare(reference: NDArray[np.float32], logits: NDArray[np.float32], tolerance: float) -> Parity:
    allowed = tolerance * max(1.0, float(np.abs(reference).max()))
    worst = float(np.abs(reference - logits).max())
    best_two = np.sort(reference, axis=-1)[:, -2:]
    clear = best_two[:, 1] - best_two[:, 0] > 2 * allowed
    flips = int(((reference.argmax(axis=-1) != logits.argmax(axis=-1)) & clear).sum())
    return Parity(worst if np.isfinite(worst) else float("inf"), allowed, flips)
