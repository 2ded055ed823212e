"""torch.compile: faster steps, the same run but for rounding. It needs a C++ compiler and about a minute."""

from pathlib import Path

import pytest
import torch

from tests.conftest import train_in_a_process
from training.checkpoint import Checkpoint


@pytest.mark.large
def test_a_compiled_network_trains_alike_and_resumes(image_recipe: Path, tmp_path: Path) -> None:
    quick = image_recipe.read_text().replace("epochs: 3", "epochs: 1").replace("lr: 0.05", "lr: 0.01")
    for name, line in (("eager", ""), ("compiled", "compile: true\n")):
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(quick + line)
        train_in_a_process(recipe, tmp_path / name)
    train_in_a_process(tmp_path / "compiled.yaml", tmp_path / "compiled", "--resume")
    (eager, masks), (compiled, compiled_masks) = (
        Checkpoint.open(tmp_path / name).network() for name in ("eager", "compiled")
    )
    assert eager.state_dict().keys() == compiled.state_dict().keys()
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        name: int(mask.sum()) for name, mask in compiled_masks.items()
    }
    image = torch.randn(4, 3, 12, 12)
    torch.testing.assert_close(compiled(image), eager(image), rtol=1e-2, atol=1e-3)
