"""Several processes train one network: all end with the same bytes, and with what one process computes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

SCRIPT = Path(__file__).with_name("rank.py")
ROOT = Path(__file__).parents[2]


def train(recipe: Path, folder: Path, *overrides: str, processes: int = 1) -> list[dict[str, Tensor]]:
    """Train in one process or under torchrun; what each process ended with."""
    out = folder / f"out-{processes}-{len(overrides)}"
    out.mkdir(parents=True)
    arguments = [str(SCRIPT), str(recipe), str(out / "run"), str(out), *overrides]
    launcher: list[str] = []
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [load_file(path) for path in sorted(out.glob("rank-*.safetensors"))]


@pytest.mark.parametrize("regrow", ["gradient", "random"])
def test_two_processes_end_with_the_same_bytes(regrow: str, image_recipe: Path, tmp_path: Path) -> None:
    """Batch norms, momentum, crops and flips, batches that do not divide evenly; masks move."""
    changes = [f"sparsity.regrow={regrow}", "batch_size=15", "accumulate=2", "clip_norm=1.0"]
    first, second = train(image_recipe, tmp_path, *changes, processes=2)
    assert first.keys() == second.keys()
    assert any(name.startswith("mask.") for name in first)
    assert any(name.startswith("momentum_buffer.") for name in first)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_two_processes_compute_what_one_computes(text_recipe: Path, tmp_path: Path) -> None:
    """A network with layer norms in float64: only the order of sums differs, and no mask with it."""
    changes = ["precision=fp64", "network.dropout=0", "sparsity.regrow=gradient", "batch_size=15", "clip_norm=0.5"]
    [one] = train(text_recipe, tmp_path, *changes)
    first, second = train(text_recipe, tmp_path, *changes, processes=2)
    [pieces] = train(text_recipe, tmp_path, *changes, "accumulate=3")
    assert one.keys() == first.keys()
    for name, tensor in one.items():
        for other in (first, second, pieces):
            if tensor.dtype == torch.bool:
                assert torch.equal(tensor, other[name]), name
            else:
                torch.testing.assert_close(tensor, other[name], rtol=1e-9, atol=1e-12, msg=name)
