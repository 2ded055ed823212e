"""What the training loop asks of a method that makes weights sparse."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Sparsifier(Protocol):
    """Makes weights sparse while they are trained. `step` counts optimizer steps from 0."""

    @property
    def masks(self) -> dict[str, Tensor]:
        """Masks by weight name, layers that keep all of their weights left out."""

    @property
    def density(self) -> float:
        """Fraction of all covered weights that is active."""

    @property
    def explored(self) -> float:
        """Fraction of all covered weights that were ever active (ITOP, arXiv 2102.02887)."""

    @property
    def settled(self) -> bool:
        """Whether the density is the final one, so that a checkpoint can be compared with later ones."""

    def kept(self) -> dict[str, int]:
        """Active weights by layer, for all covered layers."""

    def ever_kept(self) -> dict[str, int]:
        """Weights that were ever active by layer, for all covered layers."""

    def sizes(self) -> dict[str, int]:
        """Weights by layer, for all covered layers."""

    def rates(self, step: int) -> dict[str, float]:
        """What changes with the step, for the log: by name."""

    def after_backward(self, step: int) -> None:
        """Between the backward pass of a step and its optimizer step."""

    def after_step(self, step: int) -> dict[str, float] | None:
        """After the optimizer step; what a mask update did, for the log, or None when there was none."""

    def needs_dense_gradients(self, step: int) -> bool:
        """Whether `after_backward` of a step reads the gradients of inactive weights."""

    def capture(self) -> dict[str, NDArray[np.generic]]:
        """What exact resume needs beside weights, optimizer and masks."""

    def restore(self, step: int, masks: dict[str, Tensor], arrays: dict[str, NDArray[np.generic]]) -> None:
        """Go on as after `step` steps. Raises KeyError when something is missing."""
