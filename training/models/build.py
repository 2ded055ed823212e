"""From configuration to network."""

from functools import partial

import torch

from training.config import (
    CustomConfig,
    EnsembleConfig,
    NetworkConfig,
    ResNetConfig,
    TextEncoderConfig,
    WideResNetConfig,
)
from training.models.multihead import MultiHeadNetwork, Parts
from training.models.registry import Modality, custom_parts
from training.models.resnet import resnet_parts
from training.models.text_encoder import text_encoder_parts
from training.models.wide_resnet import wide_resnet_parts


def build_network(
    network: NetworkConfig, ensemble: EnsembleConfig, *, classes: int, channels: int = 3, seed: int
) -> MultiHeadNetwork:
    """Build a multi-head network with fresh weights drawn from `seed`; `channels` are those of input images.

    The same seed gives the same bytes, and PyTorch's global generator is left as it was. Raises ConfigError for a
    custom network that is not registered or does not fit the recipe, and for a split that the network does not have.
    """
    match network:
        case WideResNetConfig():
            build = partial(wide_resnet_parts, network.depth, network.width, classes=classes, channels=channels)
        case ResNetConfig():
            build = partial[Parts](
                resnet_parts,
                network.depth,
                stem=network.stem,
                classes=classes,
                channels=channels,
                zero_init_residual=network.zero_init_residual,
            )
        case TextEncoderConfig():
            build = partial[Parts](
                text_encoder_parts,
                vocabulary=network.vocabulary,
                width=network.width,
                blocks=network.blocks,
                attention_heads=network.attention_heads,
                max_tokens=network.lengths[-1],
                classes=classes,
                dropout=network.dropout,
            )
        case CustomConfig():
            modality: Modality
            if network.text is None:
                modality, given = "image", {"classes": classes, "channels": channels}
            else:
                modality, given = "text", {"classes": classes, "vocabulary": network.text.vocabulary}
                given["max_tokens"] = network.text.lengths[-1]
            build = partial(custom_parts, network.name, modality, given, network.arguments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MultiHeadNetwork(build, heads=ensemble.heads, blocks_in_head=ensemble.blocks_in_head)
