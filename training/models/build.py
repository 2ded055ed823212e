"""From configuration to network."""

from functools import partial

import torch

from training.config import EnsembleConfig, NetworkConfig, ResNet50Config, TextEncoderConfig, WideResNetConfig
from training.models.multihead import MultiHeadNetwork, Parts
from training.models.resnet import resnet50_parts
from training.models.text_encoder import text_encoder_parts
from training.models.wide_resnet import wide_resnet_parts


def build_network(
    network: NetworkConfig, ensemble: EnsembleConfig, *, classes: int, channels: int = 3, seed: int
) -> MultiHeadNetwork:
    """Build a multi-head network with fresh weights drawn from `seed`; `channels` are those of input images."""
    match network:
        case WideResNetConfig():
            build = partial(wide_resnet_parts, network.depth, network.width, classes=classes, channels=channels)
        case ResNet50Config():
            build = partial[Parts](resnet50_parts, classes=classes, channels=channels)
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MultiHeadNetwork(build, heads=ensemble.heads, blocks_in_head=ensemble.blocks_in_head)
