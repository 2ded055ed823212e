"""The cost of dynamic sparsity: pairs of steps on the same batches, and what follows from them."""

from pathlib import Path

import numpy as np
import pytest

from training.config import load_config
from training_overhead import measure, overhead_of


def test_both_trainers_take_the_same_steps(image_recipe: Path, tmp_path: Path) -> None:
    config = load_config(image_recipe, ["epochs=100", "sparsity.update_every=3", "sparsity.stop_at=1"])
    found = measure("stripes", config, 3, tmp_path)
    assert (found.work, found.update_every, found.rounds) == ("stripes", 3, 3)
    assert found.dense_seconds > 0
    updates = [line for line in (tmp_path / "sparse" / "metrics.jsonl").read_text().splitlines() if '"update"' in line]
    assert len(updates) == 3
    assert not (tmp_path / "dense" / "metrics.jsonl").exists()


def test_an_update_counts_with_its_share_of_the_steps() -> None:
    plain, update = np.array([[1.0, 1.02], [2.0, 2.04]]), np.array([[1.0, 1.5], [2.0, 3.0]])
    found = overhead_of("two", plain, update, update_every=10)
    assert [found.plain, found.update] == pytest.approx([0.02, 0.5])
    assert found.overhead == pytest.approx((9 * 0.02 + 0.5) / 10)
    assert found.interval == pytest.approx((found.overhead, found.overhead))
    assert found.dense_seconds == 1.5
