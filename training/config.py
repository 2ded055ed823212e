"""The configuration of a run: small typed objects, checked on construction, read from a YAML recipe.

config = load_config("recipes/fashion-mnist.yaml", ["epochs=3", "sparsity.density=0.1"])
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from runtime.manifest import Identifier
from training.data.config import DataConfig
from training.errors import ConfigError

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of all configuration objects: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WideResNetConfig(Section):
    """WRN-`depth`-`width` for images."""

    kind: Literal["wide_resnet"]
    depth: Positive = 28
    width: Positive = 10


class ResNetConfig(Section):
    """ResNet-18, -34 or -50 for images."""

    kind: Literal["resnet"]
    depth: Literal[18, 34, 50] = 50
    stem: Literal["cifar", "imagenet"] = "imagenet"
    """`cifar`: 3x3 at full resolution; `imagenet`: 7x7 of stride 2 and max pooling, a quarter of the resolution."""
    zero_init_residual: bool = False
    """Start every block as the identity: the scale of its last norm is 0."""


class TokenConfig(Section):
    """How texts become tokens."""

    vocabulary: Positive = 8192
    """Entries of the tokenizer, which is trained on the texts that the network is fitted on."""
    lengths: tuple[Positive, ...] = (64, 256)
    """Texts are padded to the nearest of these lengths in tokens and cut at the last."""


class TextEncoderConfig(TokenConfig):
    """A transformer text encoder."""

    kind: Literal["text_encoder"]
    width: Positive = 128
    blocks: Positive = 4
    attention_heads: Positive = 4
    dropout: Rate = 0.1


class CustomConfig(Section):
    """A network of the user's own, registered under `name` by a file that `--networks` names (docs/training.md)."""

    kind: Literal["custom"]
    name: Identifier
    text: TokenConfig | None = None
    """For a network that reads texts; none for one that reads images."""
    arguments: dict[str, JsonValue] = {}
    """Passed to its builder by name."""


NetworkConfig = Annotated[
    WideResNetConfig | ResNetConfig | TextEncoderConfig | CustomConfig, Field(discriminator="kind")
]


def tokens_of(network: NetworkConfig) -> TokenConfig | None:
    """How the texts that a network reads become tokens; None for a network that reads images."""
    if isinstance(network, CustomConfig):
        return network.text
    return network if isinstance(network, TextEncoderConfig) else None


class EnsembleConfig(Section):
    """How the network is split, or how many members an ensemble of separate networks has."""

    heads: Positive = 3
    """Heads of one network; members of full_ensemble, dst_ensemble and edst_ensemble. Not used by `dense`."""
    blocks_in_head: Annotated[int, Field(ge=0)] | Literal["all"]
    """Private blocks of each head; the other blocks and the stem are shared. `all`: nothing is shared."""


class SparsityConfig(Section):
    """Dynamic sparse training; density 1 trains a dense network."""

    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Fraction of all covered weights that is kept, over trunk and heads together."""
    initial_density: Annotated[float, Field(gt=0, le=1)] | None = None
    """Density at the start, if it is to fall to `density` while training (dense-to-sparse)."""
    decay_until: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Fraction of training over which `initial_density` falls to `density`."""
    distribution: Literal["erk", "uniform"] = "erk"
    """How layers share the density: by Erdos-Renyi-Kernel, or alike."""
    scope: Literal["network", "stage"] = "network"
    """Whether trunk and heads share one budget, or the trunk and each head have the same density."""
    layers: dict[str, Annotated[float, Field(gt=0, le=1)]] = {}
    """Densities of single layers by glob pattern of weight name, first match; 1 keeps a layer dense."""
    granularity: Literal["weight", "1x4"] = "weight"
    """What is kept or dropped as one: a weight, or a block of four neighbouring input channels."""
    embeddings: bool = False
    """Whether the sparsity budget covers token embeddings."""
    prune: Literal["magnitude", "soft_magnitude"] = "magnitude"
    """`soft_magnitude` keeps a sample of the active weights with p proportional to |w|^temperature."""
    temperature: Annotated[float, Field(gt=0)] = 3.0
    """Of soft_magnitude."""
    regrow: Literal["gradient", "random", "momentum"] = "gradient"
    gradient_average: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the past in the running average of the dense gradient (momentum regrowth)."""
    prune_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the prune rate goes from `prune_rate` to `prune_rate_end`."""
    prune_rate: Rate = 0.5
    prune_rate_end: Rate = 0.005
    update_every: Positive = 100
    """Steps between two mask updates."""
    stop_at: Rate = 1.0
    """Fraction of training after which masks stay fixed."""

    @model_validator(mode="after")
    def _density_settles(self) -> Self:
        if self.initial_density is not None:
            if self.initial_density < self.density:
                raise ValueError(f"initial_density {self.initial_density} is below density {self.density}")
            if self.decay_until > self.stop_at:
                raise ValueError(
                    f"decay_until {self.decay_until} lies behind stop_at {self.stop_at}: the density would not be "
                    "reached"
                )
        return self


class OptimizerConfig(Section):
    """Optimizer and learning rate; the rate warms up linearly, then falls by a cosine or in steps."""

    kind: Literal["sgd", "adamw"]
    lr: Annotated[float, Field(gt=0)]
    momentum: Rate = 0.9
    """Nesterov momentum of SGD."""
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    """Of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Applied to weights, not to norms and biases."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """`cosine` to `final_lr` x lr, or `steps`: a tenth at 25, 50 and 75 % of training."""
    final_lr: Rate = 0.0
    warmup: Rate = 0.05
    """Fraction of training."""


class ResizedCropConfig(Section):
    """Crops of random area and shape, resampled to the network's input (Szegedy et al., arXiv 1409.4842, section 6)."""

    scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.08, 1.0)
    """Least and largest area, as a fraction of the image."""
    ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3 / 4, 4 / 3)
    """Least and largest width / height."""

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name, (least, largest) in (("scale", self.scale), ("ratio", self.ratio)):
            if least > largest:
                raise ValueError(f"{name} goes from {least} down to {largest}; put the smaller number first")
        return self


class AugmentConfig(Section):
    """Random changes to training images."""

    crop_padding: Annotated[int, Field(ge=0)] = 0
    """Zero pixels added on each side before a random crop back to size."""
    resized_crop: ResizedCropConfig | None = None
    """Random resized crops, in place of crops with padding."""
    flip: bool = False
    """Mirror half of the images."""
    cutout: Annotated[int, Field(ge=0)] = 0
    """Side in pixels of one square in each image that is replaced by the mean (DeVries, Taylor: arXiv 1708.04552)."""

    @model_validator(mode="after")
    def _one_kind_of_crop(self) -> Self:
        if self.crop_padding and self.resized_crop is not None:
            raise ValueError(f"resized_crop crops already; remove crop_padding {self.crop_padding}")
        return self


Method = Literal[
    "neurotrails",
    "dense",
    "full_ensemble",
    "treenet",
    "static_sparse",
    "dst_ensemble",
    "edst_ensemble",
    "gradual_pruning",
]


class TrainConfig(Section):
    """One run."""

    name: Identifier
    method: Method = "neurotrails"
    """What is trained; see training/methods.py."""
    seed: int = 0
    split_seed: int | None = None
    """Of the division of the data into parts; `seed` if not given. The members of an ensemble share one."""
    cycles: Positive = 1
    """The learning rate and the prune rate start again this often; a snapshot is kept at the end of each cycle."""
    pruning_recipe: Path | None = None
    """gradual_pruning: the SparseML recipe."""
    data: DataConfig
    network: NetworkConfig
    ensemble: EnsembleConfig
    sparsity: SparsityConfig = SparsityConfig()
    optimizer: OptimizerConfig
    augment: AugmentConfig = AugmentConfig()
    epochs: Positive
    batch_size: Positive = 128
    """Examples of one optimizer step, over all processes."""
    accumulate: Positive = 1
    """Pieces into which each process divides its share of a batch, so that it needs less memory."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the whole gradient."""
    accelerator: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16-mixed", "fp64"] = "fp32"
    """Of the arithmetic; weights are float32, and float64 for fp64."""
    compile: bool = False
    """Compile the network with torch.compile: faster steps after a slow start."""
    deterministic: bool = True
    """Refuse operations whose result depends on timing."""
    threads: Positive = 2
    """CPU threads. Results are reproducible, byte for byte, for one number of threads."""
    checkpoint_every: Positive = 500
    """Steps between two checkpoints; the end of each epoch makes one too."""

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        text_network = tokens_of(self.network) is not None
        text_data = self.data.source in ("newsgroups", "text-table")
        if text_network != text_data:
            raise ValueError(f"network.kind={self.network.kind} does not go with data.source={self.data.source}")
        if (self.method == "gradual_pruning") != (self.pruning_recipe is not None):
            raise ValueError(f"method gradual_pruning needs pruning_recipe, others have none; method is {self.method}")
        if self.cycles > self.epochs:
            raise ValueError(f"{self.cycles} cycles need as many epochs, not {self.epochs}")
        if self.method == "edst_ensemble" and self.ensemble.heads > self.epochs:
            raise ValueError(f"{self.ensemble.heads} snapshots need as many epochs, not {self.epochs}")
        return self

    @property
    def sha256(self) -> str:
        """Hash of the whole configuration."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def load_config(recipe: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML recipe and apply overrides such as `optimizer.lr=0.05`. Raises ConfigError."""
    try:
        document = yaml.safe_load(Path(recipe).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"The recipe {recipe} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"The recipe {recipe} must be a YAML mapping.")
    for override in overrides:
        _apply(document, override)
    try:
        return TrainConfig.model_validate(document)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']} (got {e['input']!r})" for e in error.errors()
        ]
        raise ConfigError("\n".join([f"The configuration from {recipe} is invalid:", *lines])) from error


def _apply(document: dict[str, Any], override: str) -> None:
    path, separator, value = override.partition("=")
    if not separator:
        raise ConfigError(f"An override looks like optimizer.lr=0.05; got {override!r}.")
    *parents, last = path.split(".")
    for key in parents:
        inner = document.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{override!r}: {key} is not a section of the recipe.")
        document = inner
    try:
        document[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not YAML: {error}") from error
