"""What tests of training share. One thread: the networks are tiny, and other threads would only wait for each other."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def case() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Overconfident logits of three heads [3, 400, 5] for targets they are often right about."""
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 5, 400)
    logits = generator.normal(size=(3, 400, 5)) + 1.2 * np.eye(5)[targets]
    return (4 * logits).astype(np.float32), targets
