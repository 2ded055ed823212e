"""Where a run computes: device, precision and processes, by Lightning Fabric.

torchrun --nproc-per-node 2 -m -- neurotrails train recipes/fashion-mnist.yaml --run runs/two
"""

import os
import warnings
from typing import Literal

import torch
from lightning_fabric import Fabric

from training.config import TrainConfig
from training.errors import ConfigError, TrainingError

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "64-true"]] = {
    "fp32": "32-true",
    "bf16-mixed": "bf16-mixed",
    "fp64": "64-true",
}


def launch(config: TrainConfig) -> Fabric:
    """Set up device, precision and process group; under torchrun each process becomes one rank.

    Raises ConfigError when the accelerator is not there, or a batch is too small to be divided.
    """
    if config.accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError("accelerator is cuda, but PyTorch finds no GPU here; set accelerator=cpu.")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if config.batch_size < world * config.accumulate:
        raise ConfigError(
            f"batch_size {config.batch_size} cannot be divided among {world} processes with accumulate "
            f"{config.accumulate}; it must be at least {world * config.accumulate}."
        )
    if config.deterministic and config.accelerator == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses to be deterministic
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(config.deterministic)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fabric advises on precision and on the number of workers
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=local,
            num_nodes=world // local,
            strategy="ddp" if world > 1 else "auto",
            precision=PRECISIONS[config.precision],
        )
        fabric.launch()
    # Ranks drop out different units; everything else is drawn from generators that all ranks share.
    torch.manual_seed(config.seed + fabric.global_rank)
    return fabric


def explain(error: BaseException, step: int, config: TrainConfig) -> TrainingError | None:
    """Say what a failure of a step means for the user; None when nothing better can be said than the error itself."""
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
    if not out_of_memory:
        return None
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return TrainingError(
        f"Out of memory at step {step}: {first}. Raise accumulate ({config.accumulate}) or lower batch_size "
        f"({config.batch_size}); the last checkpoint is intact."
    )
