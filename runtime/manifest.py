"""The manifest of an artifact, schema version 1: everything a reader must know, as frozen typed objects.

An artifact is a folder: `manifest.json`, the ONNX graphs it names, `reference.safetensors` and, for text,
`tokenizer.json`. The manifest carries the sha256 of every other file, so trusting it means trusting the artifact.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

SCHEMA_VERSION: Literal[1] = 1

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A name that is safe as a single path component."""

FileName = Identifier
Fraction = Annotated[float, Field(ge=0, le=1)]
LARGEST = 2**63 - 1
Count = Annotated[int, Field(ge=0, le=LARGEST)]
RangeMethod = Literal["mse", "minmax"]
"""How the range of an activation is chosen: least squared error of quantizing it, or all values that were seen."""
TensorName = Annotated[str, Field(min_length=1, max_length=200)]

MANIFEST = "manifest.json"
REFERENCE = "reference.safetensors"
MAX_ROW_ELEMENTS = 2**28
"""Largest number of values in one row of a tensor: one GiB of float32."""


class Record(BaseModel):
    """Base of all manifest objects: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class TensorSpec(Record):
    """One named tensor. `shape` holds sizes, or the symbols `batch` and `tokens` where the size varies."""

    name: TensorName
    dtype: Literal["float32", "int64", "uint8"]
    shape: Annotated[tuple[Annotated[int, Field(ge=1)] | Literal["batch", "tokens"], ...], Field(max_length=8)]

    @model_validator(mode="after")
    def _axes_are_in_order(self) -> Self:
        if self.shape[:1] != ("batch",) or self.shape.count("batch") > 1 or self.shape.count("tokens") > 1:
            raise ValueError(f"tensor {self.name} needs batch as its first axis only, and tokens at most once")
        if self.row_elements(1) > MAX_ROW_ELEMENTS:
            raise ValueError(f"a row of tensor {self.name} has more than {MAX_ROW_ELEMENTS} values")
        return self

    def row_elements(self, tokens: int) -> int:
        """Values in one row, where texts have `tokens` tokens."""
        return math.prod(tokens if size == "tokens" else size for size in self.shape if size != "batch")


class ImagePreprocessing(Record):
    """Image file -> float32 [channels, height, width].

    The shorter side is resized to `resize_shorter` pixels (antialiased), the centre height x width is cropped, and each
    channel becomes (value / 255 - mean) / std. Transparent pixels are laid over black.
    """

    kind: Literal["image"] = "image"
    mode: Literal["L", "RGB"]
    height: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=4096)]
    resize_shorter: Annotated[int, Field(ge=1, le=4096)]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)], ...]
    std: tuple[Annotated[FiniteFloat, Field(ge=1e-6, le=1e6)], ...]

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        channels = 1 if self.mode == "L" else 3
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(f"mean and std need {channels} value(s) each for mode {self.mode}")
        if self.resize_shorter < max(self.height, self.width):
            raise ValueError("resize_shorter must be at least height and width, or the crop would leave the image")
        return self

    def input_specs(self) -> tuple[TensorSpec, ...]:
        """One tensor, `image`."""
        return (TensorSpec(name="image", dtype="float32", shape=("batch", len(self.mean), self.height, self.width)),)


class TextPreprocessing(Record):
    """Text -> int64 `input_ids` and `attention_mask`, both [tokens].

    The tokenizer normalizes and splits; texts longer than `lengths[-1]` tokens are cut there, shorter ones are padded
    with `pad_id` to the nearest of `lengths`. Padding never changes the logits.
    """

    kind: Literal["text"] = "text"
    tokenizer: FileName = "tokenizer.json"
    pad_id: Count
    lengths: Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _lengths_ascend(self) -> Self:
        if list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError("lengths must be in strictly ascending order")
        return self

    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Two tensors, `input_ids` and `attention_mask`."""
        return (
            TensorSpec(name="input_ids", dtype="int64", shape=("batch", "tokens")),
            TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "tokens")),
        )


class TensorPreprocessing(Record):
    """None: the client sends the input tensors themselves."""

    kind: Literal["tensor"] = "tensor"


Preprocessing = Annotated[ImagePreprocessing | TextPreprocessing | TensorPreprocessing, Field(discriminator="kind")]


class Stage(Record):
    """One ONNX graph: the named tensors it reads (model inputs or trunk outputs) and writes, and its MACs per row.

    MACs count the multiply-adds of convolutions and linear layers (`dense_macs`), those with a kept weight
    (`effective_macs`), and, in `activation_macs`, products of two activations, as in attention, and layers of other
    kinds, which no sparsity budget covers. For texts of `lengths[-1]` tokens.
    """

    file: FileName
    inputs: Annotated[tuple[TensorName, ...], Field(min_length=1)]
    outputs: Annotated[tuple[TensorName, ...], Field(min_length=1)]
    dense_macs: Count
    effective_macs: Count
    activation_macs: Count = 0

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        _require_unique("tensor", (*self.inputs, *self.outputs))
        if self.effective_macs > self.dense_macs:
            raise ValueError(f"effective_macs {self.effective_macs} exceed dense_macs {self.dense_macs}")
        return self


class Calibration(Record):
    """`temperatures[k-1]` is the temperature of the vote of the first k heads: p is proportional to pooled^(1/T_k)."""

    temperatures: tuple[Annotated[FiniteFloat, Field(ge=0.001, le=1000)], ...]
    split: str
    rows: Count
    order: tuple[Count, ...] = ()
    """The checkpoint's index of each head, in voting order, which was chosen on this split; empty: as trained."""

    @property
    def voting_order(self) -> tuple[int, ...]:
        """The checkpoint's index of each head, in voting order."""
        return self.order or tuple(range(len(self.temperatures)))

    @model_validator(mode="after")
    def _order_is_complete(self) -> Self:
        if sorted(self.voting_order) != list(range(len(self.temperatures))):
            raise ValueError(f"order {self.order} does not name each of {len(self.temperatures)} heads once")
        return self


class ExitPoint(Record):
    """What stopping at `min_confidence` gives on the report split: accuracy of the vote and mean heads used."""

    min_confidence: Fraction
    accuracy: Fraction
    mean_heads: float


class EarlyExit(Record):
    """The early-exit curve of this artifact, with the split it was measured on."""

    split: str
    rows: Count
    points: Annotated[tuple[ExitPoint, ...], Field(max_length=1000)]

    @model_validator(mode="after")
    def _confidences_ascend(self) -> Self:
        confidences = [point.min_confidence for point in self.points]
        if confidences != sorted(set(confidences)):
            raise ValueError("the points must be in strictly ascending order of min_confidence")
        return self

    def point_for(self, accuracy: float) -> ExitPoint | None:
        """The point that asks the fewest heads on average of those at least this accurate; None if there is none.

        Among equals the one with the greatest `min_confidence`, which is the most careful.
        """
        enough = [point for point in self.points if point.accuracy >= accuracy]
        return min(enough, key=lambda point: (point.mean_heads, -point.min_confidence), default=None)


class LayerSparsity(Record):
    """One weight tensor: its entries, those kept by its mask, and those that are not zero in the file."""

    name: Annotated[str, Field(min_length=1)]
    stage: FileName
    shape: Annotated[tuple[Annotated[int, Field(ge=1, le=LARGEST)], ...], Field(max_length=8)]
    weights: Count
    kept: Count
    nonzero: Count
    masked: bool
    """False: the layer carries no mask and every weight is kept."""

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.weights != math.prod(self.shape):
            raise ValueError(f"{self.stage}: {self.name} of shape {self.shape} has {self.weights} weights")
        if not self.nonzero <= self.kept <= self.weights:
            raise ValueError(f"{self.stage}: {self.name} needs nonzero <= kept <= weights")
        if not self.masked and self.kept != self.weights:
            raise ValueError(f"{self.stage}: {self.name} has no mask, so it keeps all of its weights")
        return self


class Sparsity(Record):
    """All weights that the sparsity budget covers; norms, biases and embeddings outside the budget are not in it."""

    layers: Annotated[tuple[LayerSparsity, ...], Field(max_length=100_000)]
    weights: Count
    kept: Count
    nonzero: Count

    @property
    def density(self) -> float:
        """Fraction of weights kept by the masks."""
        return self.kept / self.weights if self.weights else 1.0

    @model_validator(mode="after")
    def _totals_agree(self) -> Self:
        for total in ("weights", "kept", "nonzero"):
            if getattr(self, total) != sum(getattr(layer, total) for layer in self.layers):
                raise ValueError(f"sparsity.{total} is not the sum over its layers")
        _require_unique("layer", (f"{layer.stage}: {layer.name}" for layer in self.layers))
        return self


class Metrics(Record):
    """Quality of the calibrated vote on one split: NLL in nats, Brier summed over classes, ECE with 15 bins."""

    split: str
    rows: Count
    accuracy: Fraction
    nll: float
    brier: float
    ece: float
    uncalibrated_nll: float
    uncalibrated_ece: float
    head_accuracy: tuple[Fraction, ...]
    disagreement: Fraction | None


class KeptLayer(Record):
    """A layer that an int8 artifact computes in fp32, and why."""

    stage: FileName
    name: Annotated[str, Field(min_length=1)]
    """Its weight."""
    reason: str


class Flips(Record):
    """Rows whose top-1 is another than in fp32, and the Wilson score interval of their share at 95 %."""

    flips: Count
    share: Fraction
    low: Fraction
    high: Fraction


Change = Annotated[float, Field(ge=-1, le=1)]
"""A difference of two fractions."""


class Quantization(Record):
    """How an int8 artifact was made from fp32, and what that changed, measured on a split that had no part in it."""

    method: RangeMethod
    """How the ranges of activations were chosen."""
    split: str
    rows: Count
    """Rows of `split` that the ranges were taken from."""
    layers: Count
    """Layers that compute in int8."""
    kept: Annotated[tuple[KeptLayer, ...], Field(max_length=100_000)]
    """Layers that compute in fp32."""
    measured_split: str
    measured_rows: Count
    head_flips: Annotated[tuple[Flips, ...], Field(max_length=1000)]
    """Of each head, in voting order."""
    vote_flips: Flips
    """Of the vote of all heads."""
    accuracy_change: Change
    """Accuracy of the vote of all heads less that of fp32; negative: int8 loses."""
    accuracy_change_low: Change
    accuracy_change_high: Change
    """Interval of the change at 95 %, paired by row."""
    loss_accepted: bool
    """The change is one that export refuses unless it is told to accept it."""


class Provenance(Record):
    """Where the artifact comes from. Times are left out on purpose: the same run gives the same bytes."""

    config_sha256: str
    code_version: str
    command: str
    seed: int
    data_source: str
    steps: Count
    packages: dict[str, str]


class FileEntry(Record):
    """Size and hash of one file."""

    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(Record):
    """The whole manifest. `heads` is in voting order: asking for k heads runs the first k."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Identifier
    version: Identifier
    modality: Literal["image", "text", "tensor"]
    description: str = ""
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=16)]
    preprocessing: Preprocessing
    features: Annotated[tuple[TensorSpec, ...], Field(max_length=16)]
    """The tensors that pass from trunk to heads; empty when there is no trunk."""
    labels: Annotated[tuple[str, ...], Field(min_length=2, max_length=100_000)]
    trunk: Stage | None
    heads: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=1000)]
    precision: Literal["fp32", "int8", "bf16"]
    vote: Literal["probabilities", "logits"]
    calibration: Calibration
    early_exit: EarlyExit
    sparsity: Sparsity
    evaluation: Annotated[tuple[Metrics, ...], Field(max_length=1000)]
    quantization: Quantization | None = None
    """Of an int8 artifact, and of no other."""
    provenance: Provenance
    files: dict[FileName, FileEntry]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Trunk (if any) and heads, in order of execution."""
        return (*([self.trunk] if self.trunk else []), *self.heads)

    @property
    def longest(self) -> int:
        """Most tokens of a text; 1 unless the artifact reads texts."""
        return self.preprocessing.lengths[-1] if isinstance(self.preprocessing, TextPreprocessing) else 1

    def to_json(self) -> str:
        """Text of manifest.json. An fp32 artifact's leaves `quantization` out, so that readers without int8 read it."""
        return self.model_dump_json(indent=1, exclude=None if self.quantization else {"quantization"}) + "\n"

    @model_validator(mode="after")
    def _quantization_agrees(self) -> Self:
        if (self.precision == "int8") != (self.quantization is not None):
            raise ValueError("an int8 artifact must have quantization, and no other may")
        if self.quantization and len(self.quantization.head_flips) != len(self.heads):
            raise ValueError(f"quantization.head_flips needs one entry for each of {len(self.heads)} heads")
        return self

    @model_validator(mode="after")
    def _preprocessing_agrees(self) -> Self:
        if self.modality != self.preprocessing.kind:
            raise ValueError(f"modality {self.modality} does not go with preprocessing kind {self.preprocessing.kind}")
        if not isinstance(self.preprocessing, TensorPreprocessing):
            made = self.preprocessing.input_specs()
            if len(self.inputs) != len(made) or any(spec not in made for spec in self.inputs):
                raise ValueError(f"the preprocessing makes other inputs: {[spec.model_dump() for spec in made]}")
        for spec in (*self.inputs, *self.features):
            if "tokens" in spec.shape and self.modality != "text":
                raise ValueError(f"tensor {spec.name} has an axis of tokens, but the artifact reads no texts")
            if spec.row_elements(self.longest) > MAX_ROW_ELEMENTS:
                raise ValueError(f"a row of tensor {spec.name} has more than {MAX_ROW_ELEMENTS} values")
        return self

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        if bool(self.features) != bool(self.trunk):
            raise ValueError("features and trunk go together")
        _require_unique("tensor", (spec.name for spec in (*self.inputs, *self.features)))
        inputs = {tensor.name for tensor in self.inputs}
        features = {tensor.name for tensor in self.features}
        if self.trunk and not (set(self.trunk.inputs) <= inputs and set(self.trunk.outputs) == features):
            raise ValueError("the trunk must read model inputs and write exactly the features")
        for head in self.heads:
            if not set(head.inputs) <= inputs | features:
                raise ValueError(f"{head.file} reads tensors that are neither model inputs nor features")
            if len(head.outputs) != 1:
                raise ValueError(f"{head.file} must have exactly one output, its logits")
        return self

    @model_validator(mode="after")
    def _measurements_agree(self) -> Self:
        heads = len(self.heads)
        if len(self.calibration.temperatures) != heads:
            raise ValueError(f"{heads} heads need as many temperatures, not {len(self.calibration.temperatures)}")
        for point in self.early_exit.points:
            if not (math.isnan(point.mean_heads) or 1 <= point.mean_heads <= heads):
                raise ValueError(f"mean_heads must be from 1 to {heads}, not {point.mean_heads}")
        _require_unique("split", (metrics.split for metrics in self.evaluation))
        for metrics in self.evaluation:
            if len(metrics.head_accuracy) != heads:
                raise ValueError(f"{heads} heads need as many in head_accuracy, not {len(metrics.head_accuracy)}")
            if (metrics.disagreement is None) != (heads == 1):
                raise ValueError("disagreement must be null for one head, and a number for more")
        return self

    @model_validator(mode="after")
    def _files_are_those_in_use(self) -> Self:
        used = [MANIFEST, REFERENCE, *(stage.file for stage in self.stages)]
        if isinstance(self.preprocessing, TextPreprocessing):
            used.append(self.preprocessing.tokenizer)
        _require_unique("file", used)
        needed = set(used) - {MANIFEST}
        if needed != set(self.files):
            raise ValueError(f"files must list exactly {sorted(needed)}, not {sorted(self.files)}")
        if {layer.stage for layer in self.sparsity.layers} - {stage.file for stage in self.stages}:
            raise ValueError("sparsity names a stage that does not exist")
        return self


def _require_unique(what: str, names: Iterable[str]) -> None:
    """Raise ValueError for a name that is there twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"the {what} {name!r} is there twice")
        seen.add(name)
