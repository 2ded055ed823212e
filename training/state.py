"""What a run needs beside the weights to go on exactly where it stopped, as arrays for state.safetensors."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from training.checkpoint import Arrays
from training.errors import CheckpointError
from training.models.multihead import MultiHeadNetwork
from training.sparsity.masks import Masks


def capture(network: MultiHeadNetwork, optimizer: torch.optim.Optimizer, masks: Masks) -> Arrays:
    """Optimizer moments by weight name, the state of every random generator, and the ever-active masks."""
    arrays: Arrays = {
        "generator.torch": torch.get_rng_state().numpy(),
        "generator.masks": masks.generator.get_state().numpy(),
    }
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state[parameter].items():
            arrays[f"optimizer.{key}.{name}"] = value.detach().contiguous().numpy().copy()
    for name, ever in masks.ever_active.items():
        arrays[f"ever_active.{name}"] = np.packbits(ever.numpy())
    return arrays


def restore(arrays: Arrays, network: MultiHeadNetwork, optimizer: torch.optim.Optimizer, masks: Masks) -> None:
    """Put captured state back. Raises CheckpointError when it does not fit the network."""
    try:
        torch.set_rng_state(torch.from_numpy(arrays["generator.torch"]))
        masks.generator.set_state(torch.from_numpy(arrays["generator.masks"]))
        for name, ever in masks.ever_active.items():
            bits = np.unpackbits(arrays[f"ever_active.{name}"].view(np.uint8), count=ever.numel())
            masks.ever_active[name] = torch.from_numpy(bits.astype(bool)).view_as(ever)
    except KeyError as error:
        raise CheckpointError(f"the saved state lacks {error}; it is not of this configuration") from error
    parameters = dict(network.named_parameters())
    for name, array in arrays.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            key, _, parameter = rest.partition(".")
            optimizer.state[parameters[parameter]][key] = _in_layout_of(parameters[parameter], array)


def _in_layout_of(parameter: torch.Tensor, array: NDArray[np.generic]) -> torch.Tensor:
    """Array to tensor, in the memory layout of the parameter: another layout may round differently."""
    tensor = torch.from_numpy(np.array(array))
    return torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor


def adopt_masks(masks: Masks, saved: Mapping[str, torch.Tensor]) -> None:
    """Replace the fresh masks by saved ones. Raises CheckpointError unless they cover the same layers."""
    if set(saved) != set(masks.masks):
        raise CheckpointError(f"the saved masks cover other layers: {sorted(set(saved) ^ set(masks.masks))[:5]}")
    masks.masks = dict(saved)
