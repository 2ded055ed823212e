"""What a run needs beside the weights to go on exactly where it stopped, as arrays for state.safetensors."""

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from training.checkpoint import Arrays
from training.errors import CheckpointError
from training.models.multihead import MultiHeadNetwork
from training.sparsity.sparsifier import Sparsifier

OPTIMIZER, SPARSITY = "optimizer.", "sparsity."


def capture(
    network: MultiHeadNetwork, optimizer: torch.optim.Optimizer, sparsity: Sparsifier, fabric: Fabric
) -> Arrays:
    """Optimizer moments by weight name, the state of every random generator of every rank, and the masks' history.

    All ranks must call it together.
    """
    arrays: Arrays = {}
    for kind, state in _generators(fabric).items():
        states = fabric.all_gather(state)
        assert isinstance(states, Tensor)
        arrays[f"generator.{kind}"] = states.reshape(fabric.world_size, -1).cpu().numpy()
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state[parameter].items():
            arrays[f"{OPTIMIZER}{key}.{name}"] = value.detach().cpu().contiguous().numpy().copy()
    return arrays | {SPARSITY + name: array for name, array in sparsity.capture().items()}


def restore(
    arrays: Arrays,
    network: MultiHeadNetwork,
    optimizer: torch.optim.Optimizer,
    sparsity: Sparsifier,
    masks: dict[str, Tensor],
    step: int,
    fabric: Fabric,
) -> None:
    """Put captured state back. Raises CheckpointError when it does not fit the network."""
    parameters = dict(network.named_parameters())
    try:
        history = {name.removeprefix(SPARSITY): array for name, array in arrays.items() if name.startswith(SPARSITY)}
        sparsity.restore(step, masks, history)
        for name, array in arrays.items():
            if name.startswith(OPTIMIZER):
                key, _, parameter = name.removeprefix(OPTIMIZER).partition(".")
                optimizer.state[parameters[parameter]][key] = _in_layout_of(parameters[parameter], array)
        # With another number of ranks there is no state of their own to go on with: the first one's must do.
        states = arrays["generator.torch"]
        torch.set_rng_state(torch.from_numpy(np.array(states[fabric.global_rank % len(states)])))
        if "generator.cuda" in arrays and fabric.device.type == "cuda":
            states = arrays["generator.cuda"]
            torch.cuda.set_rng_state(
                torch.from_numpy(np.array(states[fabric.global_rank % len(states)])), fabric.device
            )
    except KeyError as error:
        raise CheckpointError(f"the saved state lacks {error}; it is not of this configuration") from error


def _generators(fabric: Fabric) -> dict[str, Tensor]:
    states = {"torch": torch.get_rng_state().to(fabric.device)}
    if fabric.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(fabric.device).to(fabric.device)
    return states


def _in_layout_of(parameter: Tensor, array: NDArray[np.generic]) -> Tensor:
    """Array to tensor, in the memory layout of the parameter: another layout may round differently."""
    tensor = torch.from_numpy(np.array(array))
    return torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
