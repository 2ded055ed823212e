"""Live random weights: networks that compute like trained ones, for measuring speed where no training was run.

    network, masks = live_network(
        ResNetConfig(kind="resnet"), EnsembleConfig(heads=3, blocks_in_head=10),
        density=0.1, classes=1000, inputs=random_images(16, (3, 224, 224), seed=1), seed=0,
    )

A freshly masked network is dead: its activations vanish or are all the same, and runtimes then take other, faster
paths (denormals, all-zero tiles). So weights are drawn for the fan-in that the masks leave, batch norms get the
statistics of a forward pass, and a network whose logits hardly depend on its input is refused.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.errors import NeurotrailsError
from training.config import EnsembleConfig, NetworkConfig
from training.models.build import build_network
from training.models.multihead import MultiHeadNetwork
from training.sparsity.masks import Masks

LEAST_SPREAD = 0.1
"""Least standard deviation of the logits across inputs, mean over classes, of each head."""
NORM_BATCH = 8
"""Rows of one forward pass that settles the norms."""


class DeadNetwork(NeurotrailsError):  # noqa: N818 - reads as a statement
    """The logits of a network hardly depend on its input, so its speed says nothing."""


def live_network(
    network: NetworkConfig,
    ensemble: EnsembleConfig,
    *,
    density: float,
    classes: int,
    inputs: tuple[Tensor, ...],
    seed: int,
    embeddings: bool = False,
) -> tuple[MultiHeadNetwork, dict[str, Tensor]]:
    """Build a live network in evaluation mode, and its ERK masks by weight name (none at density 1).

    `inputs` are model inputs (at least 2 rows each; at least 16 advised) that settle the norms and show that the
    network is alive; images decide the number of input channels. The same seed gives the same weights. Raises
    DeadNetwork.
    """
    built = build_network(network, ensemble, classes=classes, channels=inputs[0].shape[1], seed=seed)
    generator = torch.Generator().manual_seed(seed)
    masks = Masks.erk(built, density, embeddings=embeddings, generator=generator)
    draw_weights(built, masks.masks, generator)
    settle_norms(built, inputs)
    require_alive(built, inputs)
    return built, masks.masks


@torch.no_grad()
def draw_weights(network: nn.Module, masks: Mapping[str, Tensor], generator: torch.Generator) -> None:
    """Draw the weights of convolutions and linear layers from N(0, 2 / non-zero fan-in); masked ones stay zero.

    The fan-in is the layer's mean over its outputs (He et al., arXiv 1502.01852, with kept weights only).
    """
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        mask = masks.get(f"{name}.weight")
        kept = layer.weight.numel() if mask is None else int(mask.sum())
        layer.weight.normal_(0, math.sqrt(2 * len(layer.weight) / max(1, kept)), generator=generator)
        if mask is not None:
            layer.weight.mul_(mask)


@torch.no_grad()
def settle_norms(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Give batch norms the mean statistics of a forward pass over `inputs`; leaves evaluation mode behind."""
    network.eval()
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # a cumulative mean
    for batch in _batches(inputs):
        network(*batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def require_alive(network: MultiHeadNetwork, inputs: tuple[Tensor, ...]) -> None:
    """Raise DeadNetwork unless the logits of every head vary across `inputs` by at least LEAST_SPREAD."""
    with torch.inference_mode():
        logits = torch.cat([network(*batch) for batch in _batches(inputs)], dim=1)  # [H, B, K]
    spread = logits.std(dim=1).mean(dim=1)  # [H]
    for head, value in enumerate(spread.tolist()):
        if not value >= LEAST_SPREAD:  # NaN is dead, too
            raise DeadNetwork(
                f"The logits of head {head} vary by {value:.2g} across inputs; a live network needs {LEAST_SPREAD}. "
                "Choose a higher density or another seed."
            )


def _batches(inputs: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    for start in range(0, len(inputs[0]), NORM_BATCH):
        yield tuple(tensor[start : start + NORM_BATCH] for tensor in inputs)


def random_images(rows: int, shape: tuple[int, int, int], *, seed: int) -> tuple[Tensor]:
    """Images that differ from each other as photographs do, float32 [rows, channels, height, width], as model inputs.

    Noise at every scale from the whole image down to the pixel, mixed differently in each image, with a contrast and a
    brightness of its own. Independent pixels alone would not do: their averages over an image are always the same, so
    the logits of a deep network would be, too.
    """
    channels, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(rows, *shape)
    for halvings in range(min(height, width).bit_length()):
        coarse = torch.randn(rows, channels, height >> halvings, width >> halvings, generator=generator)
        strength = torch.rand(rows, 1, 1, 1, generator=generator)
        images += strength**2 * functional.interpolate(coarse, size=(height, width), mode="bilinear")
    images /= images.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    contrast = 0.25 + 1.5 * torch.rand(rows, 1, 1, 1, generator=generator)
    brightness = torch.randn(rows, channels, 1, 1, generator=generator)
    return (contrast * images + brightness,)


def random_tokens(rows: int, tokens: int, vocabulary: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Uniform token ids without padding and their mask, int64 [rows, tokens] each, as a tuple of model inputs."""
    ids = torch.randint(vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    return ids, torch.ones_like(ids)
