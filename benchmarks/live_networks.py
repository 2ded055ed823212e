"""Architectures of genuine size with live random weights, as artifacts: speed can be measured without training them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from export.artifact import ArtifactDescription, write_artifact
from live_weights import live_network, random_images, random_tokens
from runtime.manifest import (
    Calibration,
    EarlyExit,
    ExitPoint,
    ImagePreprocessing,
    Manifest,
    Provenance,
    TextPreprocessing,
)
from training.config import EnsembleConfig, NetworkConfig, ResNetConfig, TextEncoderConfig, WideResNetConfig

SEED = 0
SETTLE_ROWS = 8
"""Rows that settle the norms of live random weights."""

Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class LiveRecipe:
    """An architecture to measure with live random weights: for square RGB images, or for texts of one length."""

    network: NetworkConfig
    ensemble: EnsembleConfig
    density: float
    classes: int
    side: int | None = None
    """Height and width of images; None for text."""

    @property
    def tokens(self) -> int | None:
        """Length of the texts that it is given; None for images."""
        return self.network.lengths[-1] if isinstance(self.network, TextEncoderConfig) else None

    @property
    def preprocessing(self) -> ImagePreprocessing | TextPreprocessing:
        """What its artifact says of its inputs."""
        if isinstance(self.network, TextEncoderConfig):
            return TextPreprocessing(pad_id=0, lengths=self.network.lengths)
        assert self.side is not None
        return ImagePreprocessing(
            mode="RGB", height=self.side, width=self.side, resize_shorter=self.side, mean=(0.5,) * 3, std=(0.25,) * 3
        )

    @property
    def tokenizer(self) -> str | None:
        """Tokenizer with as many invented words as the vocabulary holds; None for images."""
        if not isinstance(self.network, TextEncoderConfig):
            return None
        words = {f"w{index}": index for index in range(self.network.vocabulary)}
        tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
        tokenizer.pre_tokenizer = WhitespaceSplit()
        return str(tokenizer.to_str())

    def inputs(self, rows: int, *, seed: int) -> Inputs:
        """Draw model inputs that differ from row to row."""
        return model_inputs(self.network, self.preprocessing, rows, tokens=self.tokens, seed=seed)

    def write(self, folder: Path) -> Manifest:
        """Write the artifact `folder`, which must not exist."""
        return write_live(
            folder, self.network, self.ensemble, density=self.density, inputs=self.inputs(SETTLE_ROWS, seed=SEED + 1),
            labels=tuple(str(index) for index in range(self.classes)), preprocessing=self.preprocessing,
            tokenizer=self.tokenizer,
        )  # fmt: skip


LIVE = {
    "resnet50": LiveRecipe(
        ResNetConfig(kind="resnet"), EnsembleConfig(heads=3, blocks_in_head=10), density=0.1, classes=1000, side=224
    ),
    "wrn-28-10": LiveRecipe(
        WideResNetConfig(kind="wide_resnet"), EnsembleConfig(heads=3, blocks_in_head=8), density=0.1, classes=100,
        side=32,
    ),
    "encoder-12x768": LiveRecipe(
        TextEncoderConfig(kind="text_encoder", width=768, blocks=12, attention_heads=12, lengths=(128,)),
        EnsembleConfig(heads=3, blocks_in_head=8), density=0.2, classes=20,
    ),
    "tiny": LiveRecipe(
        WideResNetConfig(kind="wide_resnet", depth=10, width=1), EnsembleConfig(heads=3, blocks_in_head=2),
        density=0.3, classes=10, side=8,
    ),
    "tiny-encoder": LiveRecipe(
        TextEncoderConfig(kind="text_encoder", vocabulary=64, width=32, blocks=2, attention_heads=2, lengths=(16,)),
        EnsembleConfig(heads=3, blocks_in_head=1), density=0.3, classes=10,
    ),
}  # fmt: skip
"""Name -> architecture. The tiny ones only show that a benchmark works."""


def model_inputs(
    network: NetworkConfig,
    preprocessing: ImagePreprocessing | TextPreprocessing,
    rows: int,
    *,
    tokens: int | None,
    seed: int,
) -> Inputs:
    """Draw model inputs that differ from row to row: images, or texts of exactly `tokens` tokens."""
    if isinstance(preprocessing, TextPreprocessing):
        assert isinstance(network, TextEncoderConfig)
        return random_tokens(rows, tokens or preprocessing.lengths[-1], network.vocabulary, seed=seed)
    shape = (len(preprocessing.mean), preprocessing.height, preprocessing.width)
    return random_images(rows, shape, seed=seed)


def write_live(
    folder: Path,
    network: NetworkConfig,
    ensemble: EnsembleConfig,
    *,
    density: float,
    inputs: Inputs,
    labels: tuple[str, ...],
    preprocessing: ImagePreprocessing | TextPreprocessing,
    tokenizer: str | None,
) -> Manifest:
    """Write a network with live random weights, settled on `inputs`, as the artifact `folder`. Raises DeadNetwork."""
    built, masks = live_network(network, ensemble, density=density, classes=len(labels), inputs=inputs, seed=SEED)
    end = ExitPoint(min_confidence=1.0, accuracy=0.0, mean_heads=ensemble.heads)
    description = ArtifactDescription(
        name=folder.name,
        description="Live random weights: measures speed, predicts nothing.",
        labels=labels,
        preprocessing=preprocessing,
        tokenizer=tokenizer,
        calibration=Calibration(temperatures=(1.0,) * ensemble.heads, split="none", rows=0),
        early_exit=EarlyExit(split="none", rows=0, points=(end,)),
        provenance=Provenance(
            config_sha256="", code_version="", command="none: benchmarks/live_networks.py", seed=SEED,
            data_source="none: live random weights", steps=0, packages={},
        ),
    )  # fmt: skip
    return write_artifact(folder, built, masks, description)
