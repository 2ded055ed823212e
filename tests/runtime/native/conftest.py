"""Tiny networks of every architecture that this project trains, alive and exported, for the native engine."""

from functools import partial
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn

from export.artifact import ArtifactDescription, write_artifact
from live_weights import draw_weights, random_images, random_tokens, require_alive, settle_norms
from runtime.artifact import Artifact
from runtime.manifest import (
    Calibration,
    EarlyExit,
    ExitPoint,
    ImagePreprocessing,
    Provenance,
    TextPreprocessing,
)
from training.models.multihead import MultiHeadNetwork, Parts
from training.models.resnet import AveragedClassifier, Bottleneck
from training.models.text_encoder import text_encoder_parts
from training.models.wide_resnet import convolution, wide_resnet_parts
from training.sparsity.masks import Masks

CLASSES, SIDE, VOCABULARY, LENGTHS = 5, 18, 60, (8, 24)
NETWORKS = ("wide_resnet", "no_trunk", "bottleneck", "text")


def _bottleneck_parts() -> Parts:
    stem = nn.Sequential(convolution(3, 8, 7, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
    blocks: list[nn.Module] = [Bottleneck(8, 8, stride=1), Bottleneck(32, 16, stride=2), Bottleneck(64, 16, stride=1)]
    return Parts(stem=stem, blocks=blocks, classifier=AveragedClassifier(64, CLASSES))


def _network(name: str) -> tuple[MultiHeadNetwork, tuple[Tensor, ...]]:
    images: tuple[torch.Tensor, ...] = random_images(
        16, (3, 2 * SIDE, 2 * SIDE) if name == "bottleneck" else (3, SIDE, SIDE), seed=1
    )
    match name:
        case "wide_resnet":
            build, heads, private, inputs = partial(wide_resnet_parts, 10, 1, classes=CLASSES), 2, 2, images
        case "no_trunk":
            build, heads, private, inputs = partial(wide_resnet_parts, 10, 1, classes=CLASSES), 2, 3, images
        case "bottleneck":
            build, heads, private, inputs = partial(_bottleneck_parts), 2, 2, images
        case _:
            build = partial(
                text_encoder_parts, vocabulary=VOCABULARY, width=32, blocks=2, attention_heads=2,
                max_tokens=LENGTHS[-1], classes=CLASSES, dropout=0.0,
            )  # fmt: skip
            heads, private, inputs = 2, 1, random_tokens(16, LENGTHS[-1], VOCABULARY, seed=1)
    torch.manual_seed(0)
    return MultiHeadNetwork(build, heads=heads, blocks_in_head=private), inputs


def write_live(name: str, folder: Path) -> Artifact:
    """Write one of NETWORKS with live random weights of density 0.3."""
    network, inputs = _network(name)
    generator = torch.Generator().manual_seed(0)
    masks = Masks.erk(network, 0.3, embeddings=False, generator=generator).masks
    draw_weights(network, masks, generator)
    settle_norms(network, inputs)
    require_alive(network, inputs)
    side = inputs[0].shape[-1]
    text = name == "text"
    preprocessing: ImagePreprocessing | TextPreprocessing = ImagePreprocessing(
        mode="RGB", height=side, width=side, resize_shorter=side, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    if text:
        preprocessing = TextPreprocessing(pad_id=0, lengths=LENGTHS)
    heads = len(network.heads)
    description = ArtifactDescription(
        name=name.replace("_", "-"),
        labels=tuple("abcde"),
        preprocessing=preprocessing,
        tokenizer=Tokenizer(
            WordLevel({f"w{index}": index for index in range(VOCABULARY)}, unk_token="w0")
        ).to_str() if text else None,
        calibration=Calibration(temperatures=(1.0,) * heads, split="none", rows=0),
        early_exit=EarlyExit(split="none", rows=0, points=(ExitPoint(min_confidence=1, accuracy=0, mean_heads=heads),)),
        provenance=Provenance(
            config_sha256="", code_version="", command="none", seed=0, data_source="none", steps=0, packages={}
        ),
    )  # fmt: skip
    write_artifact(folder, network, masks, description)
    return Artifact.open(folder)


@pytest.fixture(scope="session")
def live_artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Every network of NETWORKS as an artifact."""
    folder = tmp_path_factory.mktemp("live")
    return {name: write_live(name, folder / name) for name in NETWORKS}
