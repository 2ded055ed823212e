"""The part of a training configuration that says which data to use."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from runtime.manifest import ImagePreprocessing


class ImageConfig(BaseModel):
    """The pixels a network sees: every image file is brought to this mode and size, in training as in serving."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["L", "RGB"]
    """L: one grey channel. RGB: three colour channels."""
    height: Annotated[int, Field(ge=1, le=4096)]
    """Pixels."""
    width: Annotated[int, Field(ge=1, le=4096)]
    """Pixels."""
    resize_shorter: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Pixels of the shorter side before the centre is cropped; the larger of height and width if not given."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How pixels are resampled (always antialiased)."""

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.resize_shorter is not None and self.resize_shorter < max(self.height, self.width):
            raise ValueError(
                f"resize_shorter is {self.resize_shorter}; it must be at least {max(self.height, self.width)}, "
                "the larger of height and width"
            )
        return self

    def preprocessing(self, mean: tuple[float, ...], std: tuple[float, ...]) -> ImagePreprocessing:
        """The serving side's preprocessing that yields these pixels, normalized with `mean` and `std` per channel."""
        return ImagePreprocessing(
            mode=self.mode,
            height=self.height,
            width=self.width,
            resize_shorter=self.resize_shorter or max(self.height, self.width),
            interpolation=self.interpolation,
            mean=mean,
            std=std,
        )


class DataConfig(BaseModel):
    """Which data to train on, and how much of it to hold out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal[
        "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet", "imagenet", "newsgroups", "image-folder", "text-table"
    ]
    """A known data set, or the kind of the user's own data."""
    path: Path | None = None
    """image-folder: a folder with one subfolder per class, or with `train/` and `test/` that hold these.
    text-table: a .csv or .jsonl file of text and label. Known data sets: a folder that holds their files (optional)."""
    test_path: Path | None = None
    """image-folder and text-table: the test data, if it is kept apart."""
    held_out: Annotated[float, Field(gt=0, lt=1 / 3)] = 0.05
    """Fraction of the training data in each of the three held-out parts: select, calibrate, report."""
    image: ImageConfig | None = None
    """image-folder and imagenet: the mode and size that all images are brought to. ImageNet's is 224 x 224 of 256."""

    @model_validator(mode="after")
    def _fields_fit_the_source(self) -> Self:
        own = self.source in ("image-folder", "text-table")
        if own and self.path is None:
            raise ValueError(f"source {self.source} needs `path`")
        if not own and self.test_path is not None:
            raise ValueError(f"source {self.source} brings its own test data; remove test_path {self.test_path}")
        if self.source == "image-folder" and self.image is None:
            raise ValueError("source image-folder needs `image` with mode, height and width")
        if self.source not in ("image-folder", "imagenet") and self.image is not None:
            raise ValueError(f"`image` goes with sources image-folder and imagenet only, not {self.source}")
        return self
